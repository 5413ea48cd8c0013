"""Exceptions travel from an engine to the client: what arrives is RemoteError and the original type."""

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import copyreg
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import cloudpickle
import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from directview.errors import CompositeError, EngineError, RemoteError, as_plain
from directview.wire import exceptions
from directview.wire.exceptions import capture, rebuild

Make = Callable[[], object]


def travel(
    error: BaseException,
    dumps: Callable[[object], bytes] = cloudpickle.dumps,
    loads: Callable[[bytes], object] = pickle.loads,
) -> RemoteError:
    """From engine 3 to the client."""
    summary, rich = capture(error, engine_id=3, engine_uuid="ab", method="f", dumps=dumps)
    summary, rich = msgpack.unpackb(msgpack.packb((summary, rich)))
    return rebuild(summary, rich, loads)


def caught(make: Make) -> BaseException:
    """What `make` raises, or returns, with a traceback."""
    try:
        made = make()
        if isinstance(made, BaseException):
            raise made
    except BaseException as error:  # noqa: BLE001 - SystemExit is among them
        return error
    raise AssertionError("nothing was raised")


# --- types that are hard to carry -------------------------------------------------------------------

CALLED: list[str] = []


class TwoArg(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}-{b}")
        self.a = a
        self.b = b


class KwOnly(ValueError):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Slotted(Exception):
    __slots__ = ("__hidden", "x")

    def __init__(self, x: int) -> None:
        super().__init__(x)
        self.x = x
        self.__hidden = -x

    def hidden(self) -> int:
        return self.__hidden


class NewArgs(Exception):
    b: int

    def __new__(cls, a: int, b: int) -> NewArgs:
        made = super().__new__(cls, a)
        made.b = b
        return made

    def __init__(self, a: int, b: int) -> None: ...


class StrOverride(Exception):
    def __str__(self) -> str:
        return f"custom:{self.args!r}"


class Meta(type):
    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Meta:
        CALLED.append(name)
        return super().__new__(cls, name, bases, body)


class MetaExc(Exception, metaclass=Meta): ...


class AbstractExc(Exception, metaclass=abc.ABCMeta): ...


class Registered(Exception):
    registry: list[type] = []

    def __init_subclass__(cls) -> None:
        cls.registry.append(cls)


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("may not be subclassed")


class NeedsKeyword(Exception):
    def __init_subclass__(cls, *, tag: str) -> None: ...


class ArgsProperty(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("p",)


class OwnNames(Exception):
    def __init__(self) -> None:
        super().__init__("t")
        self.traceback = "user"
        self.ename = 5


class Group(ExceptionGroup[Exception]): ...


class MyOSError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)


class Frozen(Exception):
    def __init__(self, x: int) -> None:
        super().__init__(x)
        self.__dict__["x"] = x

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")


class Spy(Exception):
    def __init__(self, text: str) -> None:
        CALLED.append("__init__")
        super().__init__(text)

    def __new__(cls, *args: object) -> Spy:
        CALLED.append("__new__")
        return super().__new__(cls, *args)

    def __reduce__(self) -> Any:
        CALLED.append("__reduce__")
        return super().__reduce__()

    def __setstate__(self, state: Any) -> None:
        CALLED.append("__setstate__")

    def __init_subclass__(cls) -> None:
        CALLED.append("__init_subclass__")

    def __str__(self) -> str:
        CALLED.append("__str__")
        return "spy"


def context_socket() -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        publisher.recv()


def undefined_name() -> None:
    exec("undefined_name_")


CARRIED: dict[str, Make] = {
    "ZeroDivisionError": lambda: 1 / 0,
    "KeyError": lambda: dict[str, int]()["k"],
    "OSError": lambda: os.listdir("/nonexistent"),
    "rename": lambda: os.rename("/nonexistent", "/other"),
    "UnicodeDecodeError": lambda: b"\xff".decode(),
    "UnicodeEncodeError": lambda: "\u1234".encode("ascii"),
    "UnicodeTranslateError": lambda: UnicodeTranslateError("abc", 0, 1, "why"),
    "ValueError": lambda: int("x"),
    "SyntaxError": lambda: compile("a b", "f", "exec"),
    "IndentationError": lambda: compile(" a", "f", "exec"),
    "ImportError": lambda: __import__("nomod"),
    "NameError": undefined_name,
    "AttributeError": lambda: getattr(None, "foo"),  # noqa: B009
    "gaierror": lambda: socket.gaierror(-2, "Name or service not known"),
    "JSONDecodeError": lambda: json.loads("{"),
    "ProcessLookupError": lambda: ProcessLookupError(3, "No such process"),
    "CalledProcessError": lambda: subprocess.CalledProcessError(1, ["false"], output=b"out"),
    "IncompleteReadError": lambda: asyncio.IncompleteReadError(b"x", 3),
    "TimeoutError": lambda: concurrent.futures.TimeoutError("t"),
    "cf.CancelledError": lambda: concurrent.futures.CancelledError("c"),
    "MemoryError": MemoryError,
    "RecursionError": lambda: RecursionError("r"),
    "numpy shapes": lambda: np.zeros(3) + np.zeros(4),
    "LinAlgError": lambda: np.linalg.inv(np.zeros((2, 2))),
    "AxisError": lambda: np.zeros(3).sum(axis=4),
    "ZMQError": context_socket,
    "msgpack": lambda: msgpack.unpackb(b""),
    "two arguments": lambda: TwoArg(1, 2),
    "keyword only": lambda: KwOnly(code=4),
    "slots": lambda: Slotted(3),
    "__new__ with arguments": lambda: NewArgs(1, 2),
    "__str__": lambda: StrOverride(1),
    "metaclass": lambda: MetaExc("m"),
    "ABCMeta": lambda: AbstractExc("a"),
    "registered subclasses": lambda: Registered("r"),
    "refuses subclasses": lambda: Final("f"),
    "subclasses need a keyword": lambda: NeedsKeyword("n"),
    "args is a property": ArgsProperty,
    "names of ours": OwnNames,
    "ExceptionGroup": lambda: ExceptionGroup("g", [ValueError(1), KeyError("k")]),
    "own group": lambda: Group("g", [ValueError(1)]),
    "own OSError": lambda: MyOSError("/p"),
    "frozen": lambda: Frozen(3),
    "RemoteError": lambda: RemoteError("E", "v", "tb", {"engine_id": 9}),
    "EngineError": lambda: EngineError(9, exit_code=-9),
    "CompositeError": lambda: CompositeError.from_call("g", [ValueError(1)]),
}

PLAIN: dict[str, Make] = {
    "StopIteration": lambda: next(iter(())),
    "StopAsyncIteration": lambda: StopAsyncIteration(1),
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": lambda: asyncio.CancelledError("c"),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("b", [KeyboardInterrupt()]),
}

FIELDS = ("errno", "strerror", "filename", "filename2", "start", "end", "object", "reason", "name",
          "returncode", "cmd", "output", "code", "a", "b", "x", "doc", "pos", "value", "lineno", "offset",
          "text", "msg",
          "traceback", "ename", "message", "axis", "partial", "engine_id", "exit_code")  # fmt: skip
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
    assert "test_exceptions.py" in made.traceback
    text = "".join(traceback.format_exception(made))
    assert text.index("[3:f]:") < text.index("test_exceptions.py") < text.index("direct cause")


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
    assert "test_exceptions.py" in made.traceback


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


# --- what cannot travel -----------------------------------------------------------------------------


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
