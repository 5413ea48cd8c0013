"""The file of a store that was damaged, cut short, is another program's or a later version's."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from directview.controller._detached import LOST, Box, Kept, Limits, kept_of_row, msg_id_of, pack_known
from directview.controller._effects import Keep, Lookup, Record
from directview.controller._query import FIELDS
from directview.controller._store import Store
from directview.wire.messages import OK

CLIENT, ENGINE = b"c" * 16, b"e" * 16
KEYS = [(CLIENT, number, 0) for number in range(1, 4)]
RESULTS = [
    Kept(1.0, OK, 1.0, 2.0, ENGINE, (4, 3, 0), b"bodyone", {}),
    Kept(2.0, LOST, 0.0, 0.0, ENGINE, (), b"", {"exit_code": -9, "reason": "killed", "started": True}),
    Kept(3.0, OK, 2.0, 2.5, ENGINE, (2, 5000), b"bo" + bytes(5000), {}),
]


def filled(path: Path) -> bytes:
    """The bytes of a store's file with these results and some calls."""
    store = Store(str(path))
    store.keep(Keep(list(zip(KEYS, RESULTS, strict=True))), lambda: None)
    made = [
        (number, msg_id_of(key), CLIENT.hex(), 0, ENGINE.hex(), "f", 1.0, None, None, None, None, 4, 0)
        for number, key in enumerate(KEYS, 1)
    ]
    store.write(Record(made, [], []))
    store.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return filled(tmp_path_factory.mktemp("whole") / "calls.sqlite")


def use(path: Path) -> list[Any]:
    """Do all that a controller does with it; what was kept. OSError if it can't be used."""
    store = Store(str(path))
    try:
        kept = list(store.kept())
        Box(Limits(), kept)
        store.keep(Keep([((CLIENT, 9, 0), RESULTS[0]), (KEYS[0], None)]), lambda: None)
        store.write(Record([], [], []))
        ok, value = asyncio.run(store.find(Lookup(CLIENT, 1, "1", (), FIELDS, 0)))
        assert ok or isinstance(value, str)
    finally:
        store.close()
    return kept


def test_a_whole_file_gives_back_what_was_put_in(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_bytes(whole)
    assert use(path) == list(zip(KEYS, RESULTS, strict=True))
    assert {key for key, _ in use(path)} == {*KEYS[1:], (CLIENT, 9, 0)}


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_used_or_refused_and_nothing_else(
    tmp_path: Path, whole: bytes, data: st.DataObject
) -> None:
    """Bytes overwritten anywhere, or cut short: what is still read of it is what was put in, or left out."""
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=200))
        damaged[at : at + len(piece)] = piece
    path = tmp_path / "calls.sqlite"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        found = use(path)
    except OSError as error:
        if str(path) not in str(error):
            raise
        return
    assert all([sum(kept.sizes) == len(kept.data) for _, kept in found])


ANYTHING = st.none() | st.integers() | st.floats() | st.text(max_size=60) | st.binary(max_size=60)


@given(name=ANYTHING | st.just(msg_id_of(KEYS[0])), at=ANYTHING, known=ANYTHING, data=ANYTHING)
@settings(max_examples=200, deadline=None)
def test_no_row_does_harm(name: Any, at: Any, known: Any, data: Any) -> None:
    found = kept_of_row(name, at, known, data)
    assert found is None or sum(found[1].sizes) == len(data)


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": (4, 1 << 40)}, {"sizes": (4,)}, {"sizes": (-1, 8)}, {"sizes": ("4", 3)}, {"status": 99},
        {"status": True}, {"uuid": "text"}, {"started": "noon"}, {"completed": float("nan")},
        {"told": {"memory": [1]}}, {"told": {3: "x"}}, {"told": None}, {"data": b"shorter"[:3]},
        {"at": float("inf")},
    ],
)  # fmt: skip
def test_a_row_that_is_not_exactly_right_is_left_out(change: dict[str, Any]) -> None:
    """One that promises more bytes than it has would have whoever fetches it ask for ever."""
    good = RESULTS[0]
    assert kept_of_row(msg_id_of(KEYS[0]), good.at, pack_known(good), good.data) == (KEYS[0], good)
    bad = good._replace(**change)
    assert kept_of_row(msg_id_of(KEYS[0]), bad.at, pack_known(bad), bad.data) is None


def test_damaged_rows_are_logged_and_the_others_used(
    tmp_path: Path, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_bytes(whole)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE results SET known = x'c1' WHERE at = 1")
        database.execute("UPDATE results SET data = 'text' WHERE at = 3")
    database.close()
    with caplog.at_level(logging.ERROR, "directview"):
        assert use(path) == [(KEYS[1], RESULTS[1])]
    assert f"2 damaged results of detached calls in {path} are left out" in caplog.text


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("PRAGMA application_id = 7", "another program's database"),
        ("CREATE TABLE theirs (x); PRAGMA application_id = 0", "another program's database"),
        ("PRAGMA user_version = 99", "a later version of directview has written it"),
    ],
)
def test_another_programs_or_a_later_versions_file_is_left_alone(
    tmp_path: Path, whole: bytes, how: str, reason: str
) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_bytes(whole)
    database = sqlite3.connect(path)
    database.executescript(how)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(OSError, match=reason):
        Store(str(path))
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"these are my notes, and no database\n" * 100)
    with pytest.raises(OSError, match="file is not a database"):
        Store(str(path))
    assert path.read_bytes().startswith(b"these are my notes")
