"""What the controller remembers of calls, and what may be asked of it, in memory and in SQLite alike."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from directview.controller._effects import Lookup, Record
from directview.controller._history import WRITING, History, Row, pages
from directview.controller._query import FIELDS, QueryError, chosen, parse
from directview.controller._store import Store
from directview.wire.messages import ABORTED, FAILED, OK, UNKNOWN, CallItem, ResultItem

EPOCH = 1_700_000_000.0
A, B = b"a" * 16, b"b" * 16
ENGINE = b"e" * 16


def item(seq: int, *targets: int, name: str = "f") -> CallItem:
    return CallItem(seq, targets or (0,), name, 0, 100, 0, b"x" * 100)


def result(seq: int, status: int = OK, at: float = 1.0) -> ResultItem:
    return ResultItem(seq, status, EPOCH + at, EPOCH + at + 1, 50, 0, b"")


def records(history: History) -> list[dict[str, Any]]:
    return [dict(zip(FIELDS, row[1:], strict=True)) for row in history.rows()]


def statuses(history: History) -> list[str | None]:
    return [record["status"] for record in records(history)]


# --- remembering ----------------------------------------------------------------------------------------


def test_a_call_has_a_record_for_each_engine() -> None:
    history = History(EPOCH)
    history.submitted(A, [item(1, 0, 2), item(2, 1, name="g")], 10.0)
    history.ended(A, 2, ENGINE, [result(1)], 12.0)
    first, second, third = records(history)
    assert first == {
        "msg_id": f"{A.hex()}_1_0", "client_uuid": A.hex(), "engine_id": 0, "engine_uuid": None, "name": "f",
        "submitted": EPOCH + 10, "started": None, "completed": None, "received": None, "status": None,
        "nbytes": 100, "result_nbytes": None,
    }  # fmt: skip
    assert second == {
        **first, "msg_id": f"{A.hex()}_1_2", "engine_id": 2, "engine_uuid": ENGINE.hex(),
        "started": EPOCH + 1, "completed": EPOCH + 2, "received": EPOCH + 12, "status": "ok",
        "result_nbytes": 50,
    }  # fmt: skip
    assert (third["name"], third["engine_id"], third["status"]) == ("g", 1, None)


def test_how_calls_end() -> None:
    """The first word counts; answers to questions are no end."""
    history = History(EPOCH)
    history.submitted(A, [item(seq) for seq in range(1, 7)], 0.0)
    history.submitted(B, [item(1)], 0.0)
    history.ended(A, 0, ENGINE, [result(1), result(2, FAILED), result(3, ABORTED), result(4, UNKNOWN)], 1.0)
    history.lost(A, 0, ENGINE, [1, 5], 2.0)
    history.ended(B, 0, ENGINE, [result(1)], 2.0)
    history.client_gone(A, 3.0)
    assert statuses(history) == ["ok", "error", "aborted", "dropped", "lost", "dropped", "ok"]


def test_a_call_that_is_sent_again_is_the_same_call() -> None:
    history = History(EPOCH)
    history.submitted(A, [item(1)], 0.0)
    assert statuses(history) == [None]
    history.submitted(A, [item(1), item(2)], 5.0)
    assert [record["submitted"] for record in records(history)] == [EPOCH, EPOCH + 5]


def test_a_call_that_reaches_its_engines_one_after_the_other_has_a_record_for_each() -> None:
    """As when one of them has just joined, or its credit is used up."""
    history = History(EPOCH, stored=True)
    history.submitted(A, [item(1, 0, 2)], 10.0)
    history.submitted(A, [item(1, 3), item(2, 0)], 11.0)
    history.submitted(A, [item(1, 2, 3)], 12.0)
    history.ended(A, 3, ENGINE, [result(1)], 13.0)
    found = {record["msg_id"]: record["status"] for record in records(history)}
    assert found == {
        f"{A.hex()}_1_0": None,
        f"{A.hex()}_1_2": None,
        f"{A.hex()}_1_3": "ok",
        f"{A.hex()}_2_0": None,
    }
    assert [row[0] for row in history.rows()] == [1, 2, 3, 4]
    record = history.unwritten()
    assert record is not None
    assert [row[1] for row in record.made] == list(found)
    history.purge(lambda row: True)
    assert len(records(history)) == 3


def test_a_balanced_call_has_the_engine_that_ended_it() -> None:
    history = History(EPOCH)
    history.submitted(A, [item(1, -1)], 0.0)
    (record,) = records(history)
    assert (record["msg_id"], record["engine_id"]) == (f"{A.hex()}_1_-1", None)
    history.ended(A, 3, ENGINE, [result(1)], 1.0)
    (record,) = records(history)
    assert (record["msg_id"], record["engine_id"], record["status"]) == (f"{A.hex()}_1_-1", 3, "ok")


@given(
    st.lists(
        st.tuples(st.sampled_from("sssrrrlqg"), st.integers(1, 12), st.sets(st.integers(0, 3), min_size=1)),
        max_size=200,
    ),
    st.integers(4, 20),
)
def test_the_last_calls_are_remembered_and_no_more(steps: list[tuple[str, int, set[int]]], most: int) -> None:
    """However calls, results and questions alternate: what is remembered is what has become of them."""
    history = History(EPOCH, most)
    made: list[tuple[int, int]] = []
    ended: dict[tuple[int, int], str] = {}
    open_since: dict[tuple[int, int], int] = {}
    seq = 0
    for step, (kind, number, engines) in enumerate(steps):
        now = float(step)
        if kind == "s":
            calls = []
            for _ in range(number):
                seq += 1
                calls.append(item(seq, *sorted(engines)))
                for engine in sorted(engines):
                    made.append((seq, engine))
                    open_since[seq, engine] = step
            history.submitted(A, calls, now)
        elif kind in "rl":
            for engine in engines:
                some = [key for key in list(open_since)[: 3 * number : 2] if key[1] == engine]
                for key in some:
                    del open_since[key]
                    ended[key] = "ok" if kind == "r" else "lost"
                if kind == "r":
                    history.ended(A, engine, ENGINE, [result(key[0]) for key in some], now)
                else:
                    history.lost(A, engine, ENGINE, [key[0] for key in some], now)
        elif kind == "q":
            assert len(list(history.rows())) <= max(most, 4)
        else:
            history.client_gone(B, now)
    found = [(int(r["msg_id"].split("_")[1]), r["engine_id"], r["status"]) for r in records(history)]
    known = [(seq, engine, ended.get((seq, engine))) for seq, engine in made]
    assert found == known[len(known) - len(found) :]
    assert min(len(known), most) - 3 <= len(found) <= most  # a call is forgotten on all its engines at once
    assert history._noted <= 4 * most + 12 * 4
    numbers = [row[0] for row in history.rows()]
    assert numbers == sorted(set(numbers))


def test_records_can_be_forgotten() -> None:
    history = History(EPOCH)
    history.submitted(A, [item(1, 0, 1), item(2, 1)], 0.0)
    history.ended(A, 1, ENGINE, [result(1), result(2)], 1.0)
    assert history.pending_among([f"{A.hex()}_1_0"]) == f"{A.hex()}_1_0"
    assert history.pending_among([f"{A.hex()}_1_1"]) is None
    history.purge(lambda row: True)
    assert [record["msg_id"] for record in records(history)] == [f"{A.hex()}_1_0"]
    history.ended(A, 0, ENGINE, [result(1)], 2.0)
    history.purge(lambda row: True)
    assert records(history) == []


def test_an_answer_holds_as_many_records_as_fit_into_a_header() -> None:
    history = History(EPOCH)
    history.submitted(A, [item(seq, name="n" * 1000) for seq in range(1, 3001)], 0.0)
    found: list[str] = []
    after: int | None = 0
    asked = 0
    while after is not None:
        page = pages(history.rows(after), ("msg_id", "name"))
        found += [row[0] for row in page["rows"]]
        after, asked = page["next"], asked + 1
    assert len(found) == len(set(found)) == 3000
    assert asked == 3


# --- asking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ([], "a query is a dict of fields"),
        ({"colour": 1}, "no field 'colour'; there is msg_id, client_uuid"),
        ({"name": {"$like": "f"}}, r"name: no operator '\$like'; there is \$lt"),
        ({"name": {}}, "name: no operator"),
        ({"name": 1}, "name is text: it can't be compared with 1"),
        ({"submitted": "noon"}, "submitted is a number, or a datetime"),
        ({"engine_id": True}, "engine_id is an integer"),
        ({"nbytes": {"$gt": 1 << 70}}, "nbytes is an integer"),
        ({"started": {"$gt": None}}, r"nothing is \$gt None"),
        ({"name": {"$in": "abc"}}, r"\$in and \$nin take a list"),
        ({"$or": {"name": "f"}}, r"\$or takes a list of queries"),
        ({"name": {"$mod": [2, 0]}}, r"\$mod is for engine_id"),
        ({"nbytes": {"$mod": [0, 0]}}, r"\$mod takes \[divisor, remainder\]"),
        ({"msg_id": {"$in": ["x"] * 30_001}}, "30001 values; at most 30000"),
    ],
)
def test_a_query_that_means_nothing_says_what_is_wrong(query: Any, error: str) -> None:
    with pytest.raises(QueryError, match=error):
        parse(query)


def test_keys_that_are_wanted() -> None:
    assert chosen(None) == FIELDS
    assert chosen("name") == chosen(["name"]) == ("msg_id", "name")
    with pytest.raises(QueryError, match="no field 'nme'"):
        chosen(["nme"])


_texts, _numbers = st.sampled_from(["f", "g", "ok", "error"]), st.integers(0, 5)
_times = st.sampled_from([0.5, 1.5, 2.5]) | st.integers(0, 3)


def _values(field: str) -> st.SearchStrategy[Any]:
    if field in ("engine_id", "nbytes", "result_nbytes"):
        return _numbers
    return _times if field in ("submitted", "started", "completed", "received") else _texts


def _conditions(field: str) -> st.SearchStrategy[Any]:
    value = _values(field)
    orders = st.sampled_from(["$lt", "$lte", "$gt", "$gte"])
    either = value | st.none()
    kinds = [
        either,
        st.dictionaries(orders, value, min_size=1),
        st.fixed_dictionaries({"$ne": either}),
        st.fixed_dictionaries({"$eq": either}),
        st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(either), min_size=1),
        st.fixed_dictionaries({"$exists": st.booleans()}),
    ]
    if field in ("engine_id", "nbytes"):
        kinds.append(st.fixed_dictionaries({"$mod": st.tuples(st.integers(1, 3), st.integers(0, 2))}))
    return st.one_of(kinds)


_simple = st.lists(st.sampled_from(FIELDS), max_size=2, unique=True).flatmap(
    lambda fields: st.fixed_dictionaries({field: _conditions(field) for field in fields})
)
queries = st.recursive(
    _simple,
    lambda inner: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1
    ),
    max_leaves=4,
)
_records = st.lists(
    st.tuples(
        *[_values(field) if field in ("client_uuid", "name", "submitted") else _values(field) | st.none()
          for field in FIELDS[1:]]
    ),
    max_size=8,
)  # fmt: skip


@given(_records, queries)
@example([(None,) * (len(FIELDS) - 1)], {"msg_id": {"$nin": [None]}})
def test_a_query_finds_the_same_records_in_memory_and_in_sql(
    contents: list[tuple[Any, ...]], query: dict[str, Any]
) -> None:
    condition = parse(query)
    rows = [(number, f"f{number}", *record) for number, record in enumerate(contents)]
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"CREATE TABLE calls (number INTEGER, {', '.join(FIELDS)})")
        marks = ", ".join("?" * (len(FIELDS) + 1))
        database.executemany(f"INSERT INTO calls VALUES ({marks})", rows)
        asked = f"SELECT number FROM calls WHERE {condition.sql} ORDER BY number"
        found = [number for (number,) in database.execute(asked, condition.values)]
    assert found == [row[0] for row in rows if condition.test(row[1:])]


# --- the store ------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(str(tmp_path / "calls.db"))
    yield made
    made.close()


def lookup(
    query: dict[str, Any], fields: tuple[str, ...] | None = ("name", "status"), after: int = 0
) -> Lookup:
    condition = parse(query)
    return Lookup(A, 1, condition.sql, condition.values, fields, after)


def written(history: History) -> Record:
    record = history.unwritten()
    assert record is not None
    return record


async def test_what_is_stored_is_what_is_remembered(store: Store) -> None:
    """Also of what memory has forgotten by the time that it ends."""
    history = History(EPOCH, 2, stored=True)
    history.submitted(A, [item(1, name="first"), item(2)], 0.0)
    assert history.due == WRITING
    store.write(written(history))
    assert not history.due
    history.submitted(A, [item(3), item(4, 0, 1), item(5, -1)], 1.0)
    history.submitted(B, [item(1)], 1.0)
    history.ended(A, 0, ENGINE, [result(1), result(4)], 2.0)
    history.ended(A, 1, ENGINE, [result(4, FAILED), result(5)], 2.0)
    history.client_gone(B, 3.0)
    store.write(written(history))
    assert history.unwritten() is None
    ok, page = await store.find(lookup({}))
    assert ok
    assert page["rows"] == [
        ["first", "ok"], ["f", None], ["f", None], ["f", "ok"], ["f", "error"], ["f", "ok"], ["f", "dropped"],
    ]  # fmt: skip
    assert (await store.find(lookup({"status": "ok", "name": "first"}, ("engine_id", "result_nbytes"))))[1][
        "rows"
    ] == [[0, 50]]
    assert (await store.find(lookup({}, None))) == (True, None)
    assert [row[1] for row in (await store.find(lookup({})))[1]["rows"]] == [None, None]


async def test_a_store_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Numbers grow; what had not ended is lost with its controller, unless that one comes back."""
    path = tmp_path / "calls.db"
    first = Store(str(path))
    history = History(EPOCH, stored=True, last=first.last)
    history.submitted(A, [item(1)], 0.0)
    first.write(written(history))
    first.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for resumes, status in ((True, None), (False, "lost")):
        again = Store(str(path), resumes=resumes)
        assert again.last == 1
        assert (await again.find(lookup({})))[1]["rows"] == [["f", status]]
        again.close()
    another = Store(str(path))
    history = History(EPOCH, stored=True, last=another.last)
    history.submitted(A, [item(7)], 0.0)
    another.write(written(history))
    page = (await another.find(lookup({}, ("msg_id",), after=1)))[1]
    assert page["rows"] == [[f"{A.hex()}_7_0"]]
    another.close()


def test_a_store_that_cannot_be_says_why(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be taken for one" * 10)
    for path in (tmp_path, tmp_path / "nowhere" / "calls.db", tmp_path / "text"):
        with pytest.raises(OSError, match=f"can't keep the history of calls in {path}: "):
            Store(str(path))


async def test_a_store_that_fails_is_complained_of_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """And calls go on."""
    store._database.execute("DROP TABLE calls")
    history = History(EPOCH, stored=True)
    with caplog.at_level(logging.ERROR):
        for seq in (1, 2):
            history.submitted(A, [item(seq)], 0.0)
            store.write(written(history))
        ok, why = await store.find(lookup({}))
    assert not ok
    assert "can't be read: no such table" in why
    assert len(caplog.records) == 1
    row: Row = next(history.rows())
    assert row[1] == f"{A.hex()}_1_0"
