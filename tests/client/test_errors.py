"""The tree of errors: what catches what, what the texts say, and that all of it can be pickled."""

from __future__ import annotations

import builtins
import concurrent.futures
import copy
import pickle
import traceback
from collections.abc import Callable

import pytest

from directview import error as old_module
from directview import errors
from directview.errors import CompositeError, EngineError, RemoteDetails, RemoteError


def failure(
    engine: int = 0, ename: str = "ZeroDivisionError", evalue: str = "division by zero"
) -> RemoteError:
    text = f'Traceback (most recent call last):\n  File "x.py", line 1\n{ename}: {evalue}'
    return RemoteError(ename, evalue, text, {"engine_id": engine, "engine_uuid": "u", "method": "apply"})


def composite(n: int = 2) -> CompositeError:
    return CompositeError.from_call("_execute", [failure(engine) for engine in range(n)])


INSTANCES: list[Exception] = [
    failure(),
    composite(),
    EngineError(3, engine_uuid="ab", exit_code=-9, reason="r", running="f", method="g", started=False),
    errors.TaskAborted(),
    errors.TaskTimeout("5 s"),
    errors.TimeoutError(),
    errors.UnmetDependency("re"),
    errors.ImpossibleDependency("x"),
    errors.InvalidDependency("x"),
    errors.DependencyTimeout("x"),
    errors.SerializationError("x"),
    errors.WouldBlockLoop("x"),
    errors.ClientClosed("x"),
    errors.NoEnginesRegistered("x"),
    errors.LaunchError("x"),
    errors.ConnectionRejected("x"),
    errors.ControllerUnreachable("x"),
    errors.ControllerLost("x"),
    errors.ResultUnavailable("x"),
]


def test_the_instances_above_are_the_whole_tree() -> None:
    public = {getattr(errors, name) for name in errors.__all__}
    tree = {one for one in public if isinstance(one, type) and issubclass(one, errors.DirectViewError)}
    assert {type(one) for one in INSTANCES} == tree - {errors.DirectViewError}


@pytest.mark.parametrize("error", INSTANCES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_every_error_survives_pickling_and_copying(
    error: Exception, again: Callable[[Exception], Exception]
) -> None:
    error.add_note("a note")
    made = again(error)
    assert type(made) is type(error)
    assert str(made) == str(error)
    assert made.args == error.args or isinstance(error, CompositeError)
    assert made.__notes__ == error.__notes__
    plain = (str, int, bool, type(None))
    for name, value in vars(error).items():
        if isinstance(value, plain):
            assert getattr(made, name) == value
    assert str(made.__cause__) == str(error.__cause__)


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (errors.SerializationError, TypeError),
        (errors.WouldBlockLoop, RuntimeError),
        (errors.TaskAborted, concurrent.futures.CancelledError),
        (errors.TimeoutError, builtins.TimeoutError),
        (errors.ControllerUnreachable, ConnectionError),
        (CompositeError, ExceptionGroup),
        (CompositeError, RemoteError),
        (EngineError, RemoteError),
    ],
)
def test_is_caught_as(ours: type[Exception], other: type[Exception]) -> None:
    assert issubclass(ours, other)
    assert issubclass(ours, errors.DirectViewError)


def test_a_task_timeout_is_not_taken_for_a_wait_that_was_too_short() -> None:
    assert not issubclass(errors.TaskTimeout, builtins.TimeoutError)


def test_names_that_programs_know() -> None:
    assert errors.IPythonError is errors.KernelError is errors.DirectViewError
    assert errors.UnmetDependencyError is errors.UnmetDependency
    for name in errors.__all__:
        assert getattr(old_module, name) is getattr(errors, name)
    assert str(errors.TimeoutError()) == "Result not ready."


def test_the_docstring_draws_every_class() -> None:
    assert errors.__doc__ is not None
    for error in INSTANCES:
        assert type(error).__name__ in errors.__doc__


# --- RemoteError ------------------------------------------------------------------------------------


def test_remote_error_tells_what_where_and_shows_the_engines_traceback() -> None:
    error = failure(2)
    assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
    assert error.engine_info == {"engine_id": 2, "engine_uuid": "u", "method": "apply"}
    assert str(error) == "[2:apply]: ZeroDivisionError: division by zero"
    assert error.render_traceback()[:2] == ["[2:apply]:", "Traceback (most recent call last):"]
    text = "".join(traceback.format_exception(error))
    assert 'File "x.py", line 1' in text
    assert "direct cause" in text


def test_remote_error_without_details_still_reads_well() -> None:
    error = RemoteError("Oops")
    assert str(error) == "Oops"
    assert error.__cause__ is None
    assert error.render_traceback() == ["", "Oops"]


def test_print_traceback_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    failure().print_traceback()
    assert capsys.readouterr().out.startswith("[0:apply]:\nTraceback (most recent")


def test_attributes_give_way_to_an_instances_own() -> None:
    error = failure()
    error.__dict__["traceback"] = "mine"
    assert error.traceback == "mine"
    assert error.render_traceback()[1].startswith("Traceback")


def test_as_plain_is_the_same_failure_of_no_other_type() -> None:
    class Both(RemoteError, KeyError):
        pass

    error = Both("KeyError", "k", "the traceback", {"engine_id": 1, "method": "f"})
    error.add_note("n")
    plain = errors.as_plain(error)
    assert type(plain) is RemoteError
    assert str(plain) == "[1:f]: KeyError: k"
    assert plain.__notes__ == ["n"]
    assert plain.__cause__ is error.__cause__


# --- CompositeError ---------------------------------------------------------------------------------


def test_the_text_is_the_seeds() -> None:
    error = composite(4)
    assert str(error).splitlines() == [
        "one or more exceptions from call to method: _execute",
        *(f"[{engine}:apply]: ZeroDivisionError: division by zero" for engine in range(4)),
    ]
    assert error.msg == error.message == "one or more exceptions from call to method: _execute"


def test_the_text_is_cut_after_a_few() -> None:
    lines = str(composite(7)).splitlines()
    assert len(lines) == 6
    assert lines[-1] == ".... 3 more exceptions ..."


def test_elist_has_the_parts_of_each_failure() -> None:
    error = CompositeError.from_call("f", [failure(1), ValueError("local")])
    assert error.elist == [
        ("ZeroDivisionError", "division by zero", failure(1).traceback, dict(failure(1).engine_info)),
        ("ValueError", "local", "", {}),
    ]


def test_raise_exception_raises_the_one_that_was_asked_for() -> None:
    error = composite(3)
    for index in range(3):
        with pytest.raises(RemoteError) as caught:
            error.raise_exception(index)
        assert caught.value is error.exceptions[index] is error[index]
        assert caught.value.__cause__ is not None
    with pytest.raises(RemoteError):
        error.raise_exception()
    with pytest.raises(IndexError, match="an exception with index 3 does not exist"):
        error.raise_exception(3)


def test_print_tracebacks_prints_all_or_one(capsys: pytest.CaptureFixture[str]) -> None:
    error = composite(2)
    error.print_tracebacks()
    out = capsys.readouterr().out
    assert out.count("Traceback (most recent call last)") == 2
    assert "[0:apply]:\nTraceback" in out
    assert "[1:apply]:\nTraceback" in out
    error.print_traceback(1)
    out = capsys.readouterr().out
    assert "[0:apply]" not in out
    assert "[1:apply]:\n" in out


def test_except_star_picks_by_type_and_the_rest_stays_composite() -> None:
    class Zero(RemoteError, ZeroDivisionError):
        pass

    zero = Zero("ZeroDivisionError", "z", "", {"engine_id": 1, "method": "f"})
    error = CompositeError.from_call("f", [zero, failure(2, "KeyError", "k")])
    seen: list[BaseException] = []

    def pick() -> None:
        try:
            raise error
        except* ZeroDivisionError as group:
            seen.extend(group.exceptions)

    with pytest.raises(CompositeError) as caught:
        pick()
    assert seen == [zero]
    assert str(caught.value).splitlines()[1:] == ["[2:apply]: KeyError: k"]
    matching, rest = error.split(ZeroDivisionError)
    assert isinstance(matching, CompositeError)
    assert isinstance(rest, CompositeError)
    assert error.subgroup(MemoryError) is None


def test_is_true_has_a_length_and_a_short_repr() -> None:
    error = composite(2)
    assert error
    assert len(error) == 2
    assert repr(error) == "CompositeError(2)"


def test_has_the_attributes_of_a_remote_error() -> None:
    error = composite(2)
    assert error.ename == "CompositeError"
    assert error.evalue == str(error)
    assert "Traceback (most recent call last)" in error.traceback
    assert error.engine_info == {}


def test_an_empty_composite_error_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        CompositeError.from_call("f", [])


def test_a_traceback_of_a_composite_error_shows_every_engines_own() -> None:
    text = "".join(traceback.format_exception(composite(2)))
    assert text.count('File "x.py", line 1') == 2


# --- EngineError ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            EngineError(2, exit_code=-9, running="crunch", method="crunch"),
            "engine 2 was killed by SIGKILL while running crunch",
        ),
        (
            EngineError(2, exit_code=-9, running="crunch", method="next", started=False),
            "engine 2 was killed by SIGKILL while running crunch; next had not started",
        ),
        (EngineError(0, exit_code=3), "engine 0 ended with exit code 3; this call may have run"),
        (
            EngineError(0, engine_uuid="ab", reason="connection lost", method="f"),
            "engine 0 was lost (connection lost); f may have run",
        ),
        (
            EngineError(0, reason="this client had lost its connection", method="f"),
            "the answer of engine 0 was lost (this client had lost its connection); f may have run",
        ),
        (
            EngineError(7, reason="there is no such engine", method="f", started=False),
            "a call for engine 7 was lost (there is no such engine); f had not started",
        ),
        (EngineError(0, exit_code=-250), "engine 0 was killed by signal 250; this call may have run"),
    ],
)
def test_engine_error_says_who_how_and_what_was_running(error: EngineError, text: str) -> None:
    assert str(error) == error.evalue == text
    assert error.ename == "EngineError"


def test_engine_error_has_it_all_as_attributes() -> None:
    error = EngineError(2, engine_uuid="ab", exit_code=-15, reason="r", running="g", method="f")
    assert (error.engine_id, error.engine_uuid, error.exit_code, error.signal_name) == (
        2,
        "ab",
        -15,
        "SIGTERM",
    )
    assert (error.reason, error.running, error.started) == ("r", "g", True)
    assert error.engine_info == {"engine_id": 2, "engine_uuid": "ab", "method": "f"}
    assert EngineError(2, exit_code=1).signal_name == EngineError(2).signal_name == ""
    assert str(CompositeError.from_call("f", [error])).splitlines()[1] == f"[2:f]: EngineError: {error}"


def test_details_are_readable_on_their_own() -> None:
    known = RemoteDetails("E", "v", "", {"engine_id": 4})
    assert known.place == "[4:apply]: "
    assert known.headline == "[4:apply]: E: v"
