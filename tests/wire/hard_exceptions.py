"""Exception types that are hard to carry from one process to another, and the way there."""

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import msgpack
import numpy as np
import zmq

from directview.errors import CompositeError, EngineError, RemoteError
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


# --- types that are hard to carry ---------------------------------------------------------------------

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
