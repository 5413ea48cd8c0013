"""Moving messages through one zmq socket: the hot path under `Link` and `RouterLink`.

A zmq socket tells an event loop only that *something* happened, by a file descriptor that any operation
on the socket, a send too, may quiet again. Three rules follow, and this module is the only place that
has to know them: read what is there without awaiting, in bounded turns; after everything that may have
quieted the descriptor, look at EVENTS once more; and a watchdog looks every second and counts what the
rules missed, which is nothing (tests hold it to 0). Nothing is ever awaited: awaited sends and receives
took 1.4 to 2 times the round trip, and lose wake-ups when mixed with non-blocking ones.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq
import zmq.asyncio
import zmq.backend
from typing_extensions import Buffer

from directview.wire import idle
from directview.wire.messages import MAX_FRAME_BYTES, MAX_FRAMES
from directview.wire.sockets import SMALL_FRAME, Frame

__all__ = ["MAX_PARTS", "TURN", "Part", "Pump", "sendable"]

Part = Buffer | zmq.Frame

TURN: Final = 64
"""Messages read in one turn of the loop before other callbacks get theirs."""
WATCHDOG_SECONDS: Final = 1.0
MAX_PARTS: Final = MAX_FRAMES + 1
"""Frames after the first that a message may have; what comes after is thrown away."""

_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS: Final = zmq.EVENTS
_POLLIN: Final = int(zmq.POLLIN)


def sendable(frame: Buffer) -> Part:
    """`frame` in the form in which it is sent: a view of a whole received frame as that frame.

    Raises:
        TypeError: not a buffer, or one that is not contiguous.
        ValueError: larger than a frame may be.
    """
    if type(frame) is bytes:
        size = len(frame)
        part: Part = frame
    else:
        view = frame if type(frame) is memoryview else memoryview(frame)
        size = view.nbytes
        owner: Any = view.obj
        if type(owner) is zmq.Frame and size == len(owner):
            part = owner
        elif view.contiguous:
            part = view
        else:
            raise TypeError("a frame must be contiguous memory; copy this buffer first")
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"frame of {size} bytes; at most {MAX_FRAME_BYTES}: send it in chunks")
    return part


class Pump:
    """Sends and receives on one socket without ever blocking or awaiting.

    Args:
        socket: an opened socket; the pump owns it from now on.
        deliver: called with the first frame of a message and the others, on the loop's thread.
        on_turn: called once at the end of each turn in which something was delivered.

    `send` may be called from any thread, everything else from the loop's thread. A turn delivers at most
    `TURN` messages. An exception that `deliver` or `on_turn` raises goes to the loop's exception handler.
    """

    def __init__(
        self,
        socket: zmq.asyncio.Socket,
        deliver: Callable[[zmq.Frame, list[Frame]], None],
        on_turn: Callable[[], None] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._socket = socket
        # The same socket without pyzmq's Python layer, which costs 0.5 µs for each part sent. Without
        # types: pyzmq's know no union of buffer and frame, nor that EVENTS is an int.
        raw: Any = zmq.backend.Socket(shadow=socket.underlying)
        self._raw = raw
        self._recv = raw.recv
        self._send = raw.send
        self._get = raw.get
        self._deliver = deliver
        self._on_turn = on_turn
        # Reentrant: a finalizer that prints may run in the middle of a send, on the same thread.
        self._lock = threading.RLock()
        self._sending = False
        self._deferred: deque[Sequence[Part]] = deque()
        self._turns_open = 0
        self._scheduled = False
        self._emptied: list[Callable[[], None]] = []
        self._closed = False
        self.sent = 0
        self.unsent = 0
        self.received = 0
        self.rescues = 0
        self._fd = int(raw.get(zmq.FD))
        self._poller = select.poll()
        self._poller.register(self._fd, select.POLLIN)
        self._seen_by_watchdog = 0
        self._loop.add_reader(self._fd, self._turn)
        self._watchdog_timer = self._loop.call_later(WATCHDOG_SECONDS, self._watch)
        idle.started(self)
        self._schedule()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # --- sending ------------------------------------------------------------------------------------

    def send(self, parts: Sequence[Part]) -> None:
        """Hand one message to libzmq at once. Any thread; never blocks. `parts` come from `sendable`.

        Raises:
            zmq.ZMQError: the socket refuses: EHOSTUNREACH from a ROUTER whose peer is gone.
        """
        with self._lock:
            if self._closed:
                self.unsent += 1
                return
            if self._sending:
                # Between two parts of another message of this very thread: that one goes out first.
                self._deferred.append(parts)
                return
            self._sending = True
            try:
                self._send_parts(parts)
                while self._deferred:
                    self._send_parts(self._deferred.popleft())
            except zmq.Again:
                # With a mark of 0 there is always room; this says that there is no connection.
                self.unsent += 1
            finally:
                self._sending = False
                # A send, a failed one too, may have quieted the descriptor. Within a turn nothing has to
                # be done: the turn's own last look at EVENTS comes after this.
                in_turn = self._turns_open and threading.get_ident() == self._thread
                if not in_turn and not self._scheduled and self._get(_EVENTS) & _POLLIN:
                    self._schedule()

    def _send_parts(self, parts: Sequence[Part]) -> None:
        send = self._send
        last = len(parts) - 1
        for i in range(last):
            send(parts[i], _MORE)
        send(parts[last], _NOBLOCK)
        self.sent += 1

    # --- receiving ----------------------------------------------------------------------------------

    def poll(self) -> None:
        """Deliver what has already arrived, at most `TURN` messages. Costs about 1.5 µs when nothing has."""
        if self._has_input():
            self._turn()

    def _has_input(self) -> bool:
        """Whether a message waits. If not, the descriptor will tell when the next one arrives."""
        with self._lock:
            return not self._closed and bool(self._get(_EVENTS) & _POLLIN)

    def _turn(self) -> None:
        """Deliver up to `TURN` messages; come back by `call_soon` if there are more."""
        if self._closed:
            return
        self._scheduled = False
        self._turns_open += 1
        more = True
        try:
            # The first message is answered before we look for a second: when there is only one, as in
            # a round trip, looking costs more (3 µs for a refused receive) than the message itself.
            left, batch = TURN, 1
            while True:
                read = self._read(batch)
                if read and self._on_turn is not None and self._turns_open == 1:
                    self._guarded(self._on_turn)
                more = self._has_input()
                left -= read
                if not more or left <= 0:
                    break
                batch = left
        finally:
            # Also when an exception that is not ours to handle (an interrupt) leaves through here.
            self._turns_open -= 1
            if more and not self._closed:
                self._schedule()
        if not more and self._emptied:
            self._call_emptied()

    def _read(self, limit: int) -> int:
        recv, lock = self._recv, self._lock
        read = 0
        while read < limit and not self._closed:
            with lock:
                try:
                    first = recv(_NOBLOCK, False)
                except zmq.Again:
                    break
                rest: list[Frame] = []
                more = first.more
                while more:
                    frame = recv(_NOBLOCK, False)
                    more = frame.more
                    if len(rest) <= MAX_PARTS:
                        rest.append(frame.bytes if len(frame) < SMALL_FRAME else memoryview(frame))
            read += 1
            self.received += 1
            try:
                self._deliver(first, rest)
            except Exception as error:  # noqa: BLE001 -- reported; the messages behind it must still come
                self._report(error)
        return read

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, as soon as everything that has arrived by then is delivered."""
        self._emptied.append(callback)
        self._schedule()

    def _call_emptied(self) -> None:
        callbacks, self._emptied = self._emptied, []
        for callback in callbacks:
            self._guarded(callback)

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 -- reported; the loop's reader must survive it
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": f"handling a message raised {type(error).__name__}", "exception": error}
        )

    # --- waking up ----------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._scheduled or self._closed:
            return
        self._scheduled = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._turn)
        else:
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:
                self._scheduled = False  # the loop is closed: nobody is left to read

    def _watch(self) -> None:
        """Look for a message that nobody will come for: silence, a quiet descriptor, and yet POLLIN."""
        if self._closed:
            return
        self._watchdog_timer = self._loop.call_later(WATCHDOG_SECONDS, self._watch)
        idle.trim()
        silent = self.received == self._seen_by_watchdog
        self._seen_by_watchdog = self.received
        if not silent or self._scheduled or self._turns_open or self._poller.poll(0):
            return
        if self._has_input():
            self.rescues += 1
            self._schedule()

    def close(self, linger: float) -> None:
        """Close the socket; what was sent may take `linger` seconds to leave. Nothing is delivered after."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._watchdog_timer.cancel()
            idle.stopped(self)
            self._emptied.clear()
            self._deferred.clear()
            self._socket.close(round(linger * 1000))
