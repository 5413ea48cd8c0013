"""Exceptions keep their types, texts and fields on their way from an engine to a client."""

from __future__ import annotations

import copyreg
import pickle
import threading
import traceback
from typing import Any

import cloudpickle
import pytest

from directview.errors import RemoteError, as_plain
from directview.wire.exceptions import capture, rebuild
from tests.wire.hard_exceptions import (
    CALLED,
    CARRIED,
    FIELDS,
    PLAIN,
    AbstractExc,
    Make,
    MetaExc,
    Registered,
    Slotted,
    Spy,
    caught,
    travel,
)

OVERWRITTEN = ("traceback", "ename", "evalue")


@pytest.mark.parametrize("make", CARRIED.values(), ids=CARRIED)
def test_arrives_as_its_own_type_with_all_that_is_in_it(make: Make) -> None:
    error = caught(make)
    made = travel(error)
    assert isinstance(made, RemoteError)
    assert isinstance(made, type(error))
    assert type(made).__qualname__ == type(error).__qualname__
    assert type(made).__module__ == type(error).__module__
    assert str(made) == str(error) or isinstance(error, RemoteError)
    if not isinstance(error, BaseExceptionGroup):
        assert made.args == error.args
    for name in FIELDS:
        if hasattr(error, name) and not (isinstance(error, RemoteError) and name in OVERWRITTEN):
            assert getattr(made, name) == getattr(error, name)
    assert not hasattr(made, "__notes__")
    again = pickle.loads(pickle.dumps(made))
    assert isinstance(again, type(error))
    assert str(again) == str(made)
    assert str(again.__cause__) == str(made.__cause__)


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_what_would_end_or_hang_the_client_arrives_as_plain_remote_error(make: Make) -> None:
    error = caught(make)
    made = travel(error)
    assert type(made) is RemoteError
    assert made.ename == type(error).__name__
    assert made.evalue == str(error)
    assert not hasattr(made, "__notes__")
    assert str(pickle.loads(pickle.dumps(made))) == str(made)


def test_slots_of_private_name_travel() -> None:
    made = travel(Slotted(3))
    assert isinstance(made, Slotted)
    assert made.hidden() == -3


def test_details_and_the_engines_traceback_are_there() -> None:
    made = travel(caught(CARRIED["ZeroDivisionError"]))
    assert (made.ename, made.evalue) == ("ZeroDivisionError", "division by zero")
    assert made.engine_info == {"engine_id": 3, "engine_uuid": "ab", "method": "f"}
    assert "hard_exceptions.py" in made.traceback
    text = "".join(traceback.format_exception(made))
    assert text.index("[3:f]:") < text.index("hard_exceptions.py") < text.index("direct cause")


def test_nothing_of_the_users_class_runs_when_it_is_rebuilt() -> None:
    summary, rich = capture(
        caught(lambda: Spy("s")), engine_id=0, engine_uuid="", method="f", dumps=cloudpickle.dumps
    )
    CALLED.clear()
    made = rebuild(summary, rich)
    assert CALLED == []
    assert isinstance(made, Spy)
    assert str(made) == "spy"
    assert str(pickle.loads(pickle.dumps(made))) == "spy"
    assert set(CALLED) == {"__str__"}
    CALLED.clear()
    travel(MetaExc("m"))
    assert CALLED == []


def test_making_the_class_registers_nothing() -> None:
    before = list(Registered.registry)
    travel(Registered("r"))
    assert Registered.registry == before


def test_the_class_is_made_once_and_goes_with_its_original() -> None:
    assert type(travel(KeyError(1))) is type(travel(KeyError(2)))
    abstract = type(travel(AbstractExc("a")))
    assert not isinstance(AbstractExc("b"), abstract)


def test_a_class_defined_in_a_function_is_the_same_class_when_it_comes_back() -> None:
    class Local(Exception): ...

    made = travel(Local("here"))
    assert isinstance(made, Local)
    assert str(made) == "here"


def test_notes_travel_and_notes_added_here_are_pickled() -> None:
    error = ValueError("v")
    error.add_note("theirs")
    made = travel(error)
    made.add_note("ours")
    assert pickle.loads(pickle.dumps(made)).__notes__ == made.__notes__ == ["theirs", "ours"]
    assert "theirs" in made.traceback


def test_tblib_may_pickle_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes pickling over from every class of exceptions that there is; importing dask is enough."""
    tblib = pytest.importorskip("tblib.pickling_support")
    monkeypatch.setattr(copyreg, "dispatch_table", copyreg.dispatch_table.copy())
    made = travel(ZeroDivisionError("v"))
    tblib.install(type(made))
    again = pickle.loads(pickle.dumps(made))
    assert isinstance(again, ZeroDivisionError)
    assert isinstance(again, RemoteError)
    assert (str(again), again.traceback) == (str(made), made.traceback)


@pytest.mark.parametrize("notes", [5, "abc", [1], None])
def test_notes_that_are_no_list_of_texts_harm_nothing(notes: object) -> None:
    error = TimeoutError("t")
    error.__dict__.update(__notes__=notes, lock=threading.Lock())
    made = travel(error)
    assert isinstance(made, TimeoutError)
    assert made.__notes__[-1] == "could not travel: lock"
    assert str(as_plain(made)) == "[3:f]: TimeoutError: t"


def test_chained_errors_are_in_the_text() -> None:
    def chained() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    made = travel(caught(chained))
    assert made.traceback.index("first") < made.traceback.index("second")
    assert "direct cause" in made.traceback


def test_frames_of_our_own_at_the_top_are_left_out() -> None:
    scope = {"__name__": "directview.engine._steps"}
    exec("def step(f):\n    return f()", scope)
    error = caught(lambda: scope["step"](CARRIED["ZeroDivisionError"]))  # type: ignore[operator]
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # type: ignore[union-attr]
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code.co_name == "step"
    made = travel(error)
    assert "step" not in made.traceback
    assert "hard_exceptions.py" in made.traceback


def test_members_of_a_group_are_remote_errors_of_their_own_types() -> None:
    members: list[Exception] = [ValueError(1), ExceptionGroup("h", [KeyError("k")])]
    made = travel(ExceptionGroup("g", members))
    assert isinstance(made, ExceptionGroup)
    matching, rest = made.split(KeyError)
    assert matching is not None
    assert rest is not None
    (inner,) = matching.exceptions
    assert isinstance(inner, ExceptionGroup)
    (found,) = inner.exceptions
    assert isinstance(found, KeyError)
    assert isinstance(found, RemoteError)
    assert found.engine_info["engine_id"] == 3


def test_a_group_nested_without_end_arrives() -> None:
    error: Any = ValueError("core")
    for _ in range(100):
        error = ExceptionGroup("g", [error])
    made = travel(error)
    assert isinstance(made, ExceptionGroup)
    assert made.message == "g"


def test_a_group_of_very_many_says_how_many_are_missing() -> None:
    made = travel(ExceptionGroup("g", [ValueError(index) for index in range(1000)]))
    assert isinstance(made, ExceptionGroup)
    assert len(made.exceptions) == 256
    assert made.__notes__ == ["could not travel: 744 more exceptions of the group"]


def test_an_error_of_a_nested_client_keeps_its_type() -> None:
    made = travel(travel(KeyError("k")))
    assert isinstance(made, KeyError)
    assert type(made).__mro__.count(RemoteError) == 1
    assert made.args == ("k",)
