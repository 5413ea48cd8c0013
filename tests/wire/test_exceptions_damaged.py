"""What cannot travel with an exception, and what somebody else made of it: one clear error all the same."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from directview.errors import RemoteError
from directview.wire import exceptions
from directview.wire.exceptions import capture, rebuild
from tests.wire.hard_exceptions import FIELDS, Group, Slotted, TwoArg, caught, travel


class Carrier(Exception):
    lock: object
    fine: int


def test_a_part_that_cannot_be_pickled_is_left_out_and_named() -> None:
    error = Carrier("text")
    error.lock = threading.Lock()
    error.fine = 1
    made = travel(error)
    assert isinstance(made, Carrier)
    assert made.fine == 1
    assert not hasattr(made, "lock")
    assert made.__notes__ == ["could not travel: lock"]


def test_an_argument_that_cannot_be_pickled_is_there_as_its_repr() -> None:
    lock = threading.Lock()
    made = travel(Carrier("text", lock))
    assert isinstance(made, Carrier)
    assert made.args == ("text", repr(lock))
    assert made.__notes__ == ["could not travel: args[1] (its repr is there instead)"]


def test_text_that_needs_a_missing_part_is_the_engines() -> None:
    class NeedsLock(Exception):
        lock: Any

        def __str__(self) -> str:
            return f"locked: {self.lock.locked()}"

        def __repr__(self) -> str:
            return str(self.lock.locked())

    error = NeedsLock()
    error.lock = threading.Lock()
    made = travel(error)
    assert isinstance(made, NeedsLock)
    assert str(made) == "locked: False"
    assert repr(made) == "NeedsLock('locked: False')"


def refuse(thing: object) -> bytes:
    raise RuntimeError("no pickling today")


def test_a_class_that_cannot_be_pickled_arrives_as_plain_remote_error_with_a_note() -> None:
    made = travel(TwoArg(1, 2), dumps=refuse)
    assert type(made) is RemoteError
    assert str(made) == "[3:f]: TwoArg: 1-2"
    assert made.__notes__ == ["TwoArg itself could not travel: RuntimeError: no pickling today"]


def test_a_class_that_is_not_here_arrives_as_plain_remote_error_with_a_note() -> None:
    def missing(data: bytes) -> object:
        raise ModuleNotFoundError("No module named 'theirs'")

    made = travel(TwoArg(1, 2), loads=missing)
    assert type(made) is RemoteError
    assert made.__notes__ == [
        "TwoArg could not be rebuilt here: ModuleNotFoundError: No module named 'theirs'"
    ]


def test_a_part_whose_class_is_not_here_is_left_out_and_the_rest_is_right() -> None:
    def picky(data: bytes) -> object:
        if b"Slotted" in data and b"Carrier" not in data:
            raise ModuleNotFoundError("No module named 'theirs'")
        return pickle.loads(data)

    error = Carrier("text")
    error.lock = Slotted(3)
    error.fine = 1
    made = travel(error, loads=picky)
    assert isinstance(made, RemoteError)
    if isinstance(made, Carrier):
        assert made.fine == 1
        assert made.__notes__ == ["could not travel: lock"]
    else:
        pytest.fail("fell back to plain")


@pytest.mark.parametrize(
    "rich", [b"", b"garbage", pickle.dumps(1), pickle.dumps({"kind": pickle.dumps(int)})]
)
def test_garbage_makes_a_plain_remote_error(rich: bytes) -> None:
    made = rebuild({"ename": "E", "evalue": "v", "traceback": "t"}, rich)
    assert type(made) is RemoteError
    assert str(made) == "E: v"


def test_a_rich_part_that_claims_a_forbidden_type_makes_a_plain_remote_error() -> None:
    summary, rich = capture(KeyError("k"), engine_id=0, engine_uuid="", method="f", dumps=pickle.dumps)
    assert rich is not None
    parts: dict[str, Any] = pickle.loads(rich)
    for kind in (KeyboardInterrupt, StopIteration, int):
        made = rebuild(summary, pickle.dumps(parts | {"kind": pickle.dumps(kind)}))
        assert type(made) is RemoteError


def test_sizes_are_bounded() -> None:
    error = Carrier("x" * 10_000_000, b"y" * 10_000_000)
    error.lock = np.zeros(1_000_000)
    error.fine = 1
    summary, rich = capture(error, engine_id=0, engine_uuid="", method="f", dumps=cloudpickle.dumps)
    assert rich is not None
    assert len(rich) < exceptions.RICH_LIMIT + 100_000
    assert len(str(summary)) < 1 << 20
    made = rebuild(summary, rich)
    assert isinstance(made, Carrier)
    assert made.fine == 1
    assert "lock" in made.__notes__[0]
    assert "characters left out" in made.evalue


def test_deep_recursion_arrives_with_a_short_traceback() -> None:
    def recurse() -> None:
        recurse()

    made = travel(caught(recurse))
    assert isinstance(made, RecursionError)
    assert len(made.traceback) < 5_000


class BadText(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


def test_an_error_whose_text_cannot_be_made_arrives() -> None:
    made = travel(caught(lambda: BadText(1)))
    assert isinstance(made, BadText)
    assert "SystemExit" in made.evalue


def test_text_that_is_not_unicode_arrives() -> None:
    made = travel(ValueError("a\ud800b"))
    assert isinstance(made, ValueError)
    assert made.evalue == "a\\ud800b"
    assert made.args == ("a\ud800b",)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)

types = st.sampled_from(
    [
        ValueError,
        KeyError,
        OSError,
        ImportError,
        SyntaxError,
        UnicodeDecodeError,
        Carrier,
        Slotted,
        StopIteration,
    ]
)

# Names of ours are ours; and by a dunder in the instance no exception can be pickled, here or anywhere.
names = st.text().filter(lambda name: not name.startswith(("_directview", "__")))


@given(kind=types, args=st.lists(values, max_size=4), attributes=st.dictionaries(names, values, max_size=3))
def test_whatever_is_inside_there_is_one_remote_error_with_the_right_text(
    kind: type[Exception], args: list[Any], attributes: dict[str, Any]
) -> None:
    try:
        error = kind(*args)
    except Exception:  # noqa: BLE001 - not every type takes every argument
        error = Carrier(*args)
    error.__dict__.update(attributes)
    made = travel(error)
    assert isinstance(made, RemoteError)
    if isinstance(made, type(error)):
        assert made.args == error.args
        assert str(made) == str(error)
        assert {name: made.__dict__[name] for name in attributes} == attributes
    else:
        assert made.ename == type(error).__name__
    assert str(pickle.loads(pickle.dumps(made))) == str(made)


sections = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([b"ValueError", b"OSError", b"UnicodeDecodeError", b"Group", b""]) | values,
        "args": st.lists(st.tuples(st.booleans(), values)) | values,
        "dict": st.dictionaries(st.text(), st.tuples(st.booleans(), values)) | values,
        "slots": st.dictionaries(st.text(), st.tuples(st.booleans(), values)) | values,
        "fields": st.dictionaries(st.sampled_from(FIELDS), st.tuples(st.booleans(), values)) | values,
        "members": st.none() | st.lists(st.tuples(st.dictionaries(st.text(), values), st.none())) | values,
        "missing": st.lists(st.text()) | values,
    }
)


@given(parts=sections | values, summary=st.dictionaries(st.sampled_from(["ename", "evalue", "note"]), values))
def test_nothing_that_arrives_makes_rebuild_fail(parts: Any, summary: dict[str, Any]) -> None:
    kinds = {b"ValueError": ValueError, b"OSError": OSError, b"UnicodeDecodeError": UnicodeDecodeError,
             b"Group": Group}  # fmt: skip
    made = rebuild(summary, b"the parts", lambda data: parts if data == b"the parts" else kinds[data])
    assert isinstance(made, RemoteError)
    assert isinstance(str(made), str)
    assert isinstance(repr(made), str)
