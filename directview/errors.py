"""Every error that directview raises, by the caller's situation. Pure: imports nothing of the package.

One tree, so that a program can catch as widely or as narrowly as it likes::

    DirectViewError                             also named IPythonError, KernelError
    ├── RemoteError                             a call failed; and, where it can be, of the original type too
    │   ├── CompositeError  (+ ExceptionGroup)  a call on several engines failed somewhere
    │   └── EngineError                         the engine is gone: which, how, what it was running
    ├── TaskAborted   (+ concurrent.futures.CancelledError)  the call was cancelled
    ├── TaskTimeout                             the call's own time was up (not a TimeoutError)
    ├── TimeoutError  (+ TimeoutError)          a wait was up; the call goes on
    ├── UnmetDependency                         = UnmetDependencyError: what `require` asked is not there
    ├── ImpossibleDependency                    no engine can ever meet it
    │   ├── InvalidDependency
    │   └── DependencyTimeout
    ├── SerializationError  (+ TypeError)       an argument or result cannot travel
    ├── WouldBlockLoop  (+ RuntimeError)        a blocking call on the event loop's own thread
    ├── ClientClosed                            use after close
    ├── NoEnginesRegistered                     there is nobody to run it
    ├── LaunchError                             a controller, supervisor or engine did not start
    ├── ConnectionRejected                      the controller refused: version, key, cluster
    ├── ControllerUnreachable (+ ConnectionError)  nobody answers at the address of the connection file
    ├── ResultUnavailable (LookupError)         a detached call's result isn't kept, or not any more
    └── ControllerLost                          the controller went away while calls were outstanding

    RemoteTraceback                             not raised: the ``__cause__`` that shows an engine's traceback

All of them can be pickled. What failed on an engine keeps the engine's traceback as text; the objects of
that traceback stay where they are.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar, overload

__all__ = [
    "ClientClosed",
    "CompositeError",
    "ConnectionRejected",
    "ControllerLost",
    "ControllerUnreachable",
    "DependencyTimeout",
    "DirectViewError",
    "EngineError",
    "IPythonError",
    "ImpossibleDependency",
    "InvalidDependency",
    "KernelError",
    "LaunchError",
    "NoEnginesRegistered",
    "RemoteDetails",
    "RemoteError",
    "RemoteTraceback",
    "SerializationError",
    "TaskAborted",
    "TaskTimeout",
    "TimeoutError",
    "UnmetDependency",
    "UnmetDependencyError",
    "WouldBlockLoop",
    "ResultUnavailable",
]

_T = TypeVar("_T")


class DirectViewError(Exception):
    """Root of everything that directview raises itself."""


IPythonError = DirectViewError
KernelError = DirectViewError


# --- the caller's own side ---------------------------------------------------------------------


class SerializationError(DirectViewError, TypeError):
    """An argument, function or result cannot travel. The text names the part and what to do instead."""


class WouldBlockLoop(DirectViewError, RuntimeError):
    """A blocking call on the thread of the event loop that the client is bound to.

    Waiting there would wait for ever, so it raises at once. The text names what to await instead.
    """


class ClientClosed(DirectViewError):
    """The client was closed; its calls have ended and new ones need a new client."""


class NoEnginesRegistered(DirectViewError):
    """A call for all engines while there are none. The text says how to start some."""


class LaunchError(DirectViewError):
    """A controller, supervisor or engine did not start. The text quotes its last words."""


class ConnectionRejected(DirectViewError):
    """The controller is there and refused: another version, key or cluster. The text gives the remedy."""


class ControllerUnreachable(DirectViewError, ConnectionError):
    """Nobody answers at the address in the connection file. The text names the file and the address."""


class ResultUnavailable(DirectViewError, LookupError):
    """The controller does not have the result of this detached call: the text says why."""


class ControllerLost(DirectViewError):
    """The controller ended while the call was outstanding; whether the call ran is not known."""


class TimeoutError(DirectViewError, builtins.TimeoutError):
    """A wait took longer than its timeout. Only the wait ended: the call goes on.

    A builtin TimeoutError, so that ``except TimeoutError`` catches it with or without an import.
    """

    def __init__(self, message: str = "Result not ready.") -> None:
        super().__init__(message)


class TaskAborted(DirectViewError, concurrent.futures.CancelledError):
    """The call was cancelled.

    Every waiter of it gets this, never asyncio's CancelledError, which would cancel the waiter's own task.
    """

    def __init__(self, message: str = "the call was cancelled") -> None:
        super().__init__(message)


class TaskTimeout(DirectViewError):
    """The call's own time limit was up and it was ended.

    Not a TimeoutError: a loop that polls with ``get(timeout)`` must not take it for "not ready yet".
    """


class UnmetDependency(DirectViewError):
    """What `require` or `depend` asked for is not there on the engine; the function did not run."""


UnmetDependencyError = UnmetDependency


class ImpossibleDependency(DirectViewError):
    """No engine can ever meet the call's dependencies; it did not run."""


class InvalidDependency(ImpossibleDependency):
    """A dependency names calls that do not exist."""


class DependencyTimeout(ImpossibleDependency):
    """The dependencies were not met in the time given for it."""


# --- failures on engines ------------------------------------------------------------------------


class RemoteDetails(NamedTuple):
    """What is known, as plain text, about a failure on an engine."""

    ename: str
    evalue: str
    traceback: str
    engine_info: Mapping[str, Any]
    """engine_id, engine_uuid, method; as far as they are known."""

    @property
    def place(self) -> str:
        """``[0:apply]: ``, or nothing when the engine is not known."""
        engine = self.engine_info.get("engine_id")
        if engine is None:
            return ""
        return f"[{engine}:{self.engine_info.get('method') or 'apply'}]: "

    @property
    def headline(self) -> str:
        """``[0:apply]: ZeroDivisionError: division by zero``."""
        return f"{self.place}{self.ename}: {self.evalue}" if self.evalue else f"{self.place}{self.ename}"

    def lines(self) -> list[str]:
        """The place, then the engine's traceback line by line."""
        return [self.place.rstrip(), *(self.traceback.rstrip("\n").splitlines() or [self.headline])]


DETAILS = "_directview_details"
"""Where an instance keeps its `RemoteDetails`: in its ``__dict__``, so that slots of the original
type's and its ``__setattr__`` don't matter."""


class _Detail(Generic[_T]):
    """One field of the details, as an attribute that gives way to an attribute of the instance's own.

    An exception type of the user's may have its own ``traceback`` or ``ename``: `except` clauses written
    for that type expect theirs, so ours is not a data descriptor.
    """

    def __init__(self, read: Callable[[RemoteDetails], _T], doc: str) -> None:
        self._read = read
        self.__doc__ = doc

    @overload
    def __get__(self, instance: None, owner: type) -> _Detail[_T]: ...
    @overload
    def __get__(self, instance: BaseException, owner: type) -> _T: ...
    def __get__(self, instance: BaseException | None, owner: type) -> _Detail[_T] | _T:
        return self if instance is None else self._read(details(instance))


class RemoteTraceback(Exception):
    """Shows an engine's traceback as the cause of a `RemoteError`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}\n"""'


class RemoteError(DirectViewError):
    """A call failed on an engine.

    Where the original type can carry it, what is raised is an instance of RemoteError *and* of that type:
    ``except ZeroDivisionError`` and ``except RemoteError`` both catch it. To tell a remote error from a
    local one of the same type, ask ``isinstance(error, RemoteError)``.

    Args:
        ename: name of the original type.
        evalue: its text.
        traceback: the engine's formatted traceback.
        engine_info: engine_id, engine_uuid and method, as far as they are known.
    """

    def __init__(
        self,
        ename: str,
        evalue: str = "",
        traceback: str = "",
        engine_info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(ename, evalue)
        attach(self, RemoteDetails(ename, evalue, traceback, dict(engine_info or {})))

    ename = _Detail(lambda known: known.ename, "Name of the original exception's type.")
    evalue = _Detail(lambda known: known.evalue, "Text of the original exception.")
    traceback = _Detail(lambda known: known.traceback, "The engine's formatted traceback.")
    engine_info = _Detail(
        lambda known: known.engine_info, "engine_id, engine_uuid and method, as far as they are known."
    )

    def __str__(self) -> str:
        return details(self).headline

    def __reduce__(self) -> tuple[Any, ...]:
        own = {name: value for name, value in self.__dict__.items() if name != DETAILS}
        return (_restore, (type(self), self.args, details(self), own))

    def render_traceback(self) -> list[str]:
        """The engine's traceback as lines."""
        return details(self).lines()

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this, and shows it instead of the local traceback."""
        return self.render_traceback()

    def print_traceback(self, excid: int | None = None) -> None:
        """Print the engine's traceback (`excid` is there for symmetry with `CompositeError`)."""
        print("\n".join(RemoteError.render_traceback(self)))  # noqa: T201 - it is asked for


def details(error: BaseException) -> RemoteDetails:
    """What is known about `error`; made from the error itself when it did not come from an engine."""
    known = object.__getattribute__(error, "__dict__").get(DETAILS)
    if isinstance(known, RemoteDetails):
        return known
    if isinstance(error, CompositeError):
        return RemoteDetails("CompositeError", str(error), "\n".join(error.render_traceback()), {})
    return RemoteDetails(type(error).__name__, str(error), "", {})


def attach(error: BaseException, known: RemoteDetails) -> None:
    """Make `known` the details of `error`, and the engine's traceback its cause.

    Past any `__setattr__` of the error's own type: it may be a user's.
    """
    object.__getattribute__(error, "__dict__")[DETAILS] = known
    if known.traceback:
        object.__setattr__(error, "__cause__", RemoteTraceback("\n".join(known.lines())))


def as_plain(error: RemoteError) -> RemoteError:
    """The same failure as a RemoteError that is of no other type.

    A wait with a timeout raises a remote TimeoutError this way: a loop that polls until the wait stops
    timing out would otherwise never end.
    """
    plain = RemoteError(*details(error))
    plain.__cause__ = error.__cause__
    notes = object.__getattribute__(error, "__dict__").get("__notes__")
    if notes is not None:
        plain.__dict__["__notes__"] = notes
    return plain


def _restore(
    cls: type[RemoteError], args: tuple[Any, ...], known: RemoteDetails, own: dict[str, Any]
) -> RemoteError:
    """Undo `RemoteError.__reduce__`. Subclasses have signatures of their own, so none is called."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(own)
    attach(error, known)
    return error


class EngineError(RemoteError):
    """The engine that had the call is gone.

    Args:
        engine_id: which engine.
        engine_uuid: its uuid in hex; an engine that is restarted under its id has another. Empty where
            nothing is known of the engine's own end: the answer was lost on the way.
        exit_code: of its process; negative for a signal, None when nobody saw the end.
        reason: what else is known.
        running: name of the call that it was running, if any.
        method: name of the call that this error answers.
        started: whether this call was, or may have been, running. One that was not has not run.
        memory: bytes that the engine had in memory when that was last looked at; 0 if nobody did.
        peak_memory: the most that it ever had; 0 if that is not known.
        last_words: the end of its log: what the interpreter or C code wrote to stderr last.
        outlook: whether another is started in its place, where that was asked for.
    """

    def __init__(
        self,
        engine_id: int,
        *,
        engine_uuid: str = "",
        exit_code: int | None = None,
        reason: str = "",
        running: str = "",
        method: str = "",
        started: bool = True,
        memory: int = 0,
        peak_memory: int = 0,
        last_words: str = "",
        outlook: str = "",
    ) -> None:
        self.engine_id = engine_id
        self.engine_uuid = engine_uuid
        self.exit_code = exit_code
        self.reason = reason
        self.running = running
        self.started = started
        self.memory = memory
        self.peak_memory = peak_memory
        self.last_words = last_words
        self.outlook = outlook
        text = self._text(method)
        info = {"engine_id": engine_id, "engine_uuid": engine_uuid, "method": method}
        super().__init__("EngineError", text, self._report(text), info)

    @property
    def signal_name(self) -> str:
        """``SIGKILL`` and the like; empty when the engine did not die of a signal."""
        if self.exit_code is None or self.exit_code >= 0:
            return ""
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"

    def _text(self, method: str) -> str:
        if self.exit_code is None and not self.engine_uuid:
            what = "the answer of" if self.started else "a call for"
            text = f"{what} engine {self.engine_id} was lost"
        elif self.exit_code is None:
            text = f"engine {self.engine_id} was lost"
        elif self.exit_code < 0:
            text = f"engine {self.engine_id} was killed by {self.signal_name}"
        else:
            text = f"engine {self.engine_id} ended with exit code {self.exit_code}"
        if self.reason and not self.reason.endswith(
            (self.signal_name or "\0", f"with code {self.exit_code}")
        ):
            text += f" ({self.reason})"
        if self.running:
            text += f" while running {self.running}"
        if not self.started:
            text += f"; {method or 'this call'} had not started"
        elif not self.running or self.running != method:
            text += f"; {method or 'this call'} may have run"
        if self.outlook:
            text += f"; {self.outlook}"
        return text

    def _report(self, text: str) -> str:
        """What is known beside the error's own text: shown where other errors have a traceback."""
        lines = []
        if self.last_words:
            lines.append(f"The log of engine {self.engine_id} ends with:")
            lines += [f"  {line}" for line in self.last_words.splitlines()]
        if self.memory or self.peak_memory:
            seen = [
                f"{nbytes / 1e6:,.0f} MB {when}"
                for nbytes, when in ((self.memory, "when last seen"), (self.peak_memory, "at most"))
                if nbytes
            ]
            lines.append(f"It had {', '.join(seen)} in memory.")
        return "\n".join([*lines, f"EngineError: {text}"]) if lines else ""

    def __str__(self) -> str:
        return details(self).evalue


class CompositeError(RemoteError, ExceptionGroup[Exception]):
    """A call on several engines failed on at least one of them; raised for a list of one engine too.

    An ExceptionGroup of what went wrong, engine by engine: ``except* ZeroDivisionError`` picks the
    failures of that type. Results of the engines that did not fail stay on the AsyncResult
    (``get(return_exceptions=True)``).

    Args:
        message: the first line of the text.
        exceptions: one error for each engine that failed.
    """

    SHOWN = 4
    """Engines that the text names; the others are counted."""

    def __new__(cls, message: str, exceptions: Sequence[Exception]) -> CompositeError:
        return super().__new__(cls, message, exceptions)

    def __init__(self, message: str, exceptions: Sequence[Exception]) -> None:
        Exception.__init__(self, message, exceptions)

    @classmethod
    def from_call(cls, method: str, exceptions: Sequence[Exception]) -> CompositeError:
        """The error of a call named `method`."""
        return cls(f"one or more exceptions from call to method: {method}", exceptions)

    @property
    def msg(self) -> str:
        """The first line of the text."""
        return self.message

    @property
    def elist(self) -> list[tuple[str, str, str, dict[str, Any]]]:
        """(ename, evalue, traceback, engine_info) of each failure."""
        found = [details(error) for error in self.exceptions]
        return [(one.ename, one.evalue, one.traceback, dict(one.engine_info)) for one in found]

    def __str__(self) -> str:
        shown = [details(error).headline for error in self.exceptions[: self.SHOWN]]
        more = len(self.exceptions) - self.SHOWN
        if more > 0:
            shown.append(f".... {more} more exceptions ...")
        return "\n".join([self.message, *shown])

    def __repr__(self) -> str:
        return f"CompositeError({len(self.exceptions)})"

    def __len__(self) -> int:
        return len(self.exceptions)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, excid: int) -> Exception:
        return self._pick(excid)

    def derive(self, excs: Sequence[Exception]) -> CompositeError:  # type: ignore[override]
        """A group of `excs` with the same message; `split`, `subgroup` and ``except*`` call this."""
        return CompositeError(self.message, excs)

    def __reduce__(self) -> tuple[Any, ...]:
        own = {name: value for name, value in self.__dict__.items() if name != DETAILS}
        return (CompositeError, (self.message, list(self.exceptions)), own)

    def raise_exception(self, excid: int = 0) -> NoReturn:
        """Raise one of the errors.

        Args:
            excid: its index.

        Raises:
            IndexError: there is none with that index.
        """
        chosen = self._pick(excid)
        raise chosen from chosen.__cause__

    def render_tracebacks(self, excid: int | None = None) -> list[str]:
        """The engines' tracebacks as lines: all of them, or the one with index `excid`."""
        chosen = self.exceptions if excid is None else (self._pick(excid),)
        lines: list[str] = []
        for error in chosen:
            lines += [*details(error).lines(), ""]
        return lines

    def render_traceback(self) -> list[str]:
        """The first engines' tracebacks as lines, and how many more there are."""
        lines: list[str] = []
        for error in self.exceptions[: self.SHOWN]:
            lines += [*details(error).lines(), ""]
        more = len(self.exceptions) - self.SHOWN
        return [*lines, f".... {more} more exceptions ..."] if more > 0 else lines

    def print_tracebacks(self, excid: int | None = None) -> None:
        """Print the engines' tracebacks: all of them, or the one with index `excid`."""
        print("\n".join(self.render_tracebacks(excid)))  # noqa: T201 - it is asked for

    def print_traceback(self, excid: int | None = None) -> None:
        """The same as `print_tracebacks`."""
        self.print_tracebacks(excid)

    def _pick(self, excid: int) -> Exception:
        try:
            return self.exceptions[excid]
        except IndexError:
            raise IndexError(f"an exception with index {excid} does not exist") from None
