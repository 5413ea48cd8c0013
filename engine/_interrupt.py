"""Interrupting the call that is meant, and no other.

A signal alone can't say whom it is for: between the moment when somebody decides to interrupt a call and
the moment when the handler runs, that call may have ended and another begun. (With a bare flag, 311 of 780
interrupts hit a call that nobody had cancelled.) So whoever interrupts writes the call's id into a pipe
first and signals then. The handler reads the ids that have come and raises `CallCancelled` only if one of
them is *armed*: the call whose own code is running at this moment.

- Each id that is read interrupts once. It is sent again, every 0.2 s or so, until the call has ended: an
  interrupt may be swallowed by an ``except BaseException``, a ``__del__`` or a callback in C code.
- An id that comes while its call isn't armed is remembered: a plain function that is then about to start
  does not (`Steps.run` looks here, after arming).
- User code enters our own code in a print. There a shield is held, and an interrupt that comes meanwhile is
  raised when the shield is put down: in the middle of a message it would leave that half sent.

Python runs signal handlers on the main thread, between bytecodes: on entering a function, on jumping back,
and after a call. An assignment to an attribute is none of these, which is why arming and disarming are
bare assignments, made by whoever enters user code, and never calls.
"""

from __future__ import annotations

import os
import signal
import struct
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Final, Protocol

__all__ = [
    "INTERRUPT_SIGNAL",
    "STACKS_COMPLETE",
    "STACK_SIGNAL",
    "CallCancelled",
    "Interrupts",
    "pack_call_id",
]

INTERRUPT_SIGNAL: Final[int] = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""Not SIGINT: that is Ctrl-C, and the user's."""
STACK_SIGNAL: Final[int] = signal.SIGRTMIN + 1 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR1
"""Asks an engine where its code is: see `directview.engine._stacks`. Where there are no real-time signals,
it is the one that is left to users."""
STACKS_COMPLETE: Final = "-- coroutines: "
"""With what the line starts that ends an answer to it."""

CallId = tuple[bytes, int]
"""The client's uuid and its number for the call."""

_RECORD: Final = struct.Struct(">16sQ")
_READ_BYTES: Final = 170 * _RECORD.size
"""Whole records only: what is written in one go below PIPE_BUF (4096 bytes) is never torn by a write."""
_REMEMBERED: Final = 1000


class CallCancelled(KeyboardInterrupt):
    """The call that runs has been cancelled. ``args[0]`` is its id.

    A KeyboardInterrupt, so that the user's ``except Exception`` does not swallow it.
    """


def pack_call_id(client: bytes, seq: int) -> bytes:
    """The 24 bytes to write, in one write, into an engine's interrupt pipe before it is signalled."""
    return _RECORD.pack(client, seq)


class Aim(Protocol):
    """What can be interrupted: see `directview.engine._steps.Steps`."""

    current: object | None
    """The call whose own code is running now, if an interrupt may hit it."""
    cancelled: dict[object, None]
    """Calls whose interrupt came before they were armed."""
    ending: bool
    """The engine ends: no call is to begin."""


class Interrupts(AbstractContextManager["Interrupts"]):
    """Delivers the interrupts of one engine. Everything but `shield` belongs to the main thread.

    Args:
        aim: says which call is armed; its ``cancelled`` is filled in here.
        fd: the read end of the pipe with the ids, which becomes non-blocking. -1: no interrupts come.
        number: the signal.
    """

    def __init__(self, aim: Aim, fd: int, number: int = INTERRUPT_SIGNAL) -> None:
        self._aim = aim
        self._fd = fd
        self._number = number
        self._rest = b""
        self._shields = 0
        self._pending: object | None = None
        self._shield = _Shield(self)
        self._before: object = None
        self._installed = False
        self._main = threading.main_thread().ident

    # --- life -------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Begin to listen. Only in the main thread."""
        if self._fd < 0 or self._installed:
            return
        os.set_blocking(self._fd, False)
        self._main = threading.get_ident()
        self._before = signal.signal(self._number, self._handle)
        self._installed = True

    def close(self) -> None:
        """Listen no more. The pipe stays open: it is the caller's."""
        if self._installed:
            # What was there before may have been set in C: then there is no way to put it back.
            before = self._before if callable(self._before) else signal.SIG_IGN
            signal.signal(self._number, before)
            self._installed = False

    def __enter__(self) -> Interrupts:
        self.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- use --------------------------------------------------------------------------------------------

    def shield(self) -> AbstractContextManager[None]:
        """A ``with`` block that no interrupt enters; one that came meanwhile is raised at its end.

        May be nested. On any other thread than the main one it does nothing: no interrupt comes there.
        """
        return self._shield

    def end(self) -> None:
        """The engine is to end: interrupt the call whose code is running, and let none begin.

        For a signal handler. A call that does not give in is interrupted once: who wants the engine to end
        will kill it then.

        Raises:
            CallCancelled: a call's own code is running, and out of it this has to be raised.
        """
        self._aim.ending = True
        call = self._aim.current
        if call is not None:
            if self._shields == 0:
                raise CallCancelled(call)
            self._pending = call

    def forget(self, call: object) -> None:
        """The call has ended: an interrupt for it that comes late, or came too late, is of no interest."""
        self._aim.cancelled.pop(call, None)
        if self._pending == call:
            self._pending = None

    def asked(self, call: object) -> bool:
        """Whether an interrupt for `call` came while it wasn't armed."""
        return call in self._aim.cancelled

    # --- the handler ------------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        aim = self._aim
        hit: object | None = None
        for call in self._read():
            if call == aim.current:
                hit = call
            else:
                aim.cancelled[call] = None
        while len(aim.cancelled) > _REMEMBERED:
            del aim.cancelled[next(iter(aim.cancelled))]
        if hit is None:
            return
        if self._shields:
            self._pending = hit
        else:
            raise CallCancelled(hit)

    def _read(self) -> list[CallId]:
        data = self._rest
        while True:
            try:
                piece = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                break
            except OSError:  # closed under us: nobody can ask any more
                break
            if not piece:
                break
            data += piece
        whole = len(data) - len(data) % _RECORD.size
        self._rest = data[whole:]
        return list(_RECORD.iter_unpack(data[:whole]))


class _Shield(AbstractContextManager[None]):
    """One object for all ``with`` blocks of an `Interrupts`: it is entered for every print."""

    __slots__ = ("_interrupts",)

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def __enter__(self) -> None:
        interrupts = self._interrupts
        if threading.get_ident() == interrupts._main:
            interrupts._shields += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupts = self._interrupts
        if threading.get_ident() != interrupts._main:
            return
        interrupts._shields -= 1
        pending = interrupts._pending
        if pending is not None and interrupts._shields == 0:
            interrupts._pending = None
            if pending == interrupts._aim.current:
                raise CallCancelled(pending)
