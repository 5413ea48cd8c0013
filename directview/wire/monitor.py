"""The events of a zmq socket: connections that begin, fail and end, as they reach us from libzmq.

Each monitored socket gets a PAIR of its own with a unique name (pyzmq names it after a file descriptor,
and descriptors come back), a receive mark of 0 (a full monitor queue stops all traffic of the socket),
and only the events that somebody asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable
from typing import Any, Final

import zmq
import zmq.asyncio

__all__ = ["Monitor"]

_EVENT: Final = struct.Struct("=hi")
_numbers = itertools.count()


class Monitor:
    """Calls `on_event(event, value)` on the loop for each event of `socket` in `events`.

    Create it before the socket binds or connects, and close it before the socket is closed.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        socket: zmq.asyncio.Socket,
        events: int,
        on_event: Callable[[int, int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._monitored = socket
        self._on_event = on_event
        self.endpoint = b""
        """Of ours, which the event that is being delivered is about."""
        address = f"inproc://directview-monitor-{next(_numbers)}"
        socket.monitor(address, events)
        self._pair = context.socket(zmq.PAIR)
        self._pair.set(zmq.RCVHWM, 0)
        self._pair.set(zmq.LINGER, 0)
        self._pair.connect(address)
        self._raw: zmq.Socket[Any] = zmq.Socket.shadow(self._pair.underlying)
        self._fd = int(self._raw.get(zmq.FD))
        self._loop.add_reader(self._fd, self.drain)
        self._loop.call_soon(self.drain)

    def drain(self) -> None:
        """Deliver every event that has happened by now. Reads to the end, so no wake-up can be lost."""
        while not self._pair.closed:
            try:
                event, self.endpoint = self._raw.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._on_event(*_EVENT.unpack(event))

    def close(self) -> None:
        """Stop; no event is delivered after it."""
        if self._pair.closed:
            return
        self._loop.remove_reader(self._fd)
        self._monitored.disable_monitor()
        self._pair.close(0)
