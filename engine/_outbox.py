"""Everything that leaves the engine: one lock, one order.

User code enters our code in one place: a print. It may do so on the loop's thread while the loop is blocked
by that very code, or on any other thread. So every use of the state machine and of the socket happens
under one lock, and on the main thread under a shield against interrupts: an interrupt in the middle of a
multipart message would leave it half sent.

A small thread sends what would otherwise wait behind a function that does not return: output that was held
back to be sent together with more, and results of quick calls that ended just before. It sleeps unless
there is something to send.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from directview.engine._state import EngineState
from directview.wire.messages import Message, Output, output_size
from directview.wire.session import Session

__all__ = ["Outbox"]

_HOLD: Final = 0.02
"""Seconds for which output is held back to travel with what follows; the first line goes at once."""
_LARGE: Final = 64 << 10
_CAP: Final = 64 << 20
"""Characters of output of one call. An engine that is blocked in a function can't be told to slow down.
What a client does not take of several calls together has a bound, too: see `directview.engine._untaken`."""

Key = tuple[bytes, int]


class _Printed:
    """The output of one call so far."""

    __slots__ = ("held", "number", "sent_at", "size", "total", "untaken")

    def __init__(self) -> None:
        self.number = 0
        self.untaken = 0
        """Characters that were not sent, because the client took none of what was."""
        self.total = 0
        self.held: list[tuple[str, str]] = []
        self.size = 0
        self.sent_at = 0.0


class Outbox:
    """Sends results, output and everything else in order.

    Args:
        state: the engine's state machine, to be touched only under `lock`.
        shield: keeps interrupts out for the time of a ``with`` block.
    """

    def __init__(self, state: EngineState, shield: Callable[[], AbstractContextManager[None]]) -> None:
        self.lock = threading.RLock()
        self._state = state
        self._shield = shield
        self._session: Session | None = None
        self._printed: dict[Key, _Printed] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.overdue: Callable[[], None] | None = None
        """Called by the thread too, under the lock: what else waits for a loop that may be blocked."""

    def attach(self, session: Session) -> None:
        """From now on there is somebody to send to."""
        self._session = session

    def flush(self) -> None:
        """Send what the state machine has to say."""
        with self._shield(), self.lock:
            if self._session is not None and self._session.link is not None:
                for message, frames in self._state.flush():
                    self._session.send(message, frames)

    def send(self, message: Message) -> None:
        """Send one message now, after all that went before."""
        with self._shield(), self.lock:
            if self._session is not None:
                self._session.send(message)

    # --- output -------------------------------------------------------------------------------------

    def printed(self, key: Key, stream: str, text: str) -> None:
        """A call wrote `text` to its ``stdout`` or ``stderr``; from any thread."""
        with self._shield(), self.lock:
            record = self._printed.get(key)
            if record is None:
                record = self._printed[key] = _Printed()
            if record.total >= _CAP:
                return
            if not self._state.may_print(key[0]):
                record.untaken += len(text)
                return
            text = text[: _CAP - record.total]
            record.total += len(text)
            record.size += len(text)
            if record.held and record.held[-1][0] == stream and len(record.held[-1][1]) < _LARGE:
                record.held[-1] = (stream, record.held[-1][1] + text)
            else:
                record.held.append((stream, text))
            if record.total >= _CAP:
                record.held.append(("stderr", f"\n[output truncated after {_CAP} characters]\n"))
            # A line goes at once and whole: `print` writes its end by itself.
            if record.size >= _LARGE or (text.endswith("\n") and time.monotonic() - record.sent_at > _HOLD):
                self._send_output(key, record)
            else:
                self.hurry()

    def flushed(self, key: Key) -> None:
        """The call flushed its ``stdout`` or ``stderr``: what is held back goes now."""
        with self._shield(), self.lock:
            record = self._printed.get(key)
            if record is not None and record.held:
                self._send_output(key, record)

    def flush_output(self, key: Key) -> None:
        """The call ends: what it printed goes before its result."""
        if key in self._printed:
            with self._shield(), self.lock:
                record = self._printed.pop(key)
                if record.untaken:
                    notice = f"\n[{record.untaken} characters of output dropped: its client took none]\n"
                    record.held.append(("stderr", notice))
                self._send_output(key, record)

    def _send_output(self, key: Key, record: _Printed) -> None:
        client, seq = key
        for stream, text in record.held:
            for start in range(0, len(text), _LARGE):
                piece = text[start : start + _LARGE]
                if self._session is not None:
                    self._state.printed(client, output_size(piece))
                    self._session.send(Output(client, self._state.id, seq, record.number, stream, piece))
                record.number += 1
        record.held.clear()
        record.size = 0
        record.sent_at = time.monotonic()

    # --- the thread ---------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Something waits to be sent, and the loop may be blocked: have the thread look after it."""
        if self._wake.is_set() or self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_after, name="directview-outbox", daemon=True)
            self._thread.start()
        self._wake.set()

    def _look_after(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(0.0 if self._closed else _HOLD)
            self._wake.clear()
            if self._closed:  # Asked after the clearing, which may have undone the waking of `close`.
                return
            with self.lock:
                for key, record in self._printed.items():
                    if record.held:
                        self._send_output(key, record)
                if self.overdue is not None:
                    self.overdue()
                self.flush()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def forked(self) -> None:
        """In a child that user code has forked: the socket belongs to the parent, so nothing is sent."""
        self.lock = threading.RLock()
        self._session = None
        self._closed = True
