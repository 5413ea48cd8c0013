"""A peer's one connection to the controller: messages out, messages in, and the news of its loss.

An engine, a client and a supervisor each hold one `Link`. It never reconnects by itself: a lost
connection is an event, and whoever holds the link decides what to do (connect a new one and resume).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

import zmq
import zmq.asyncio
from typing_extensions import Buffer

from directview.errors import ControllerUnreachable
from directview.wire.curve import CurveKeys
from directview.wire.monitor import Monitor
from directview.wire.pump import MAX_PARTS, Pump, sendable
from directview.wire.sockets import (
    CLIENT,
    LAX,
    NEVER_RECONNECT_MS,
    TIGHT,
    Frame,
    Heartbeat,
    open_socket,
    shared_context,
)

__all__ = ["CLIENT", "LAX", "TIGHT", "Frame", "Heartbeat", "Link"]

_EVENTS: Final = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

_FAILURES: Final = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): (
        "the connection ended during its handshake: the controller has another key or security mechanism, "
        "or it is no directview controller; use the connection file that this controller wrote"
    ),
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): (
        "the other side uses another security mechanism, or is no directview controller; use the "
        "connection file that this controller wrote"
    ),
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): (
        "the controller refuses this key; use the connection file that this controller wrote"
    ),
}


class Link:
    """One DEALER connection to the controller.

    Args:
        on_message: called with header and frames of each message, in order. Frames of 8 KiB and more
            are views of libzmq's memory, which they keep alive; smaller ones and the header are bytes.
        on_lost: called once with the reason when the connection is gone or its handshake failed, after
            everything that arrived before was delivered. Not called after `close`.
        on_turn: called once at the end of each turn in which messages were delivered.

    All three are called on the thread of the loop that `connect` ran on.
    """

    def __init__(
        self,
        *,
        on_message: Callable[[bytes, list[Frame]], None],
        on_lost: Callable[[str], None],
        on_turn: Callable[[], None] | None = None,
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_turn = on_turn
        self._pump: Pump | None = None
        self._monitor: Monitor | None = None
        self._connected: asyncio.Future[bool] | None = None
        self._reason = ""
        self._shaken = False
        self._lost = False

    async def connect(
        self, address: str, *, keys: CurveKeys | None = None, heartbeat: Heartbeat = LAX, timeout: float
    ) -> None:
        """Connect; returns once the transport is there, while the handshake still runs (sends queue).

        Args:
            address: ``ipc:///path`` or ``tcp://host:port``.
            keys: for TCP with CURVE.
            heartbeat: how this side tries the connection.
            timeout: seconds until giving up.

        Raises:
            ControllerUnreachable: nobody listens at `address`, it is not an address, or there is no
                connection within `timeout` seconds.

        Cancelling is safe and closes the link.
        """
        if self._pump is not None:
            raise RuntimeError("a Link connects once; make a new one for a new connection")
        context = shared_context()
        socket = open_socket(context, zmq.DEALER, heartbeat)
        try:
            socket.set(zmq.RECONNECT_IVL, NEVER_RECONNECT_MS)
            if keys is not None:
                socket.set(zmq.CURVE_SERVERKEY, keys.server_public.encode("ascii"))
                socket.set(zmq.CURVE_PUBLICKEY, keys.public.encode("ascii"))
                socket.set(zmq.CURVE_SECRETKEY, keys.secret.encode("ascii"))
            self._connected = asyncio.get_running_loop().create_future()
            self._monitor = Monitor(context, socket, _EVENTS, self._on_event)
            self._pump = Pump(socket, self._deliver, self._on_turn)
            _connect_socket(socket, address)
            async with asyncio.timeout(timeout):
                reached = await self._connected
        except TimeoutError:
            self.close()
            raise ControllerUnreachable(f"no connection to {address} within {timeout:g} s") from None
        except BaseException:
            self.close()
            socket.close(0)
            raise
        if not reached:
            self.close()
            raise ControllerUnreachable(_why_not(address))

    def send(self, header: bytes, frames: Sequence[Buffer] = ()) -> None:
        """Send one message at once. Any thread; never blocks or awaits.

        On a lost or closed link it does nothing but count: `on_lost` has said, or will say, so.

        Raises:
            TypeError, ValueError: a frame that is no contiguous buffer, or too large; nothing was sent.
            RuntimeError: the link was never connected.
        """
        if self._pump is None:
            raise RuntimeError("connect the link before sending")
        self._pump.send([header, *[sendable(frame) for frame in frames]] if frames else (header,))

    def poll(self) -> None:
        """Deliver what has already arrived. The loop's thread only; about 1.5 µs if nothing has."""
        if self._pump is not None:
            self._pump.poll()

    @property
    def rejected(self) -> bool:
        """Whether the connection ended in its handshake: another key, or another protocol."""
        return self._reason in _FAILURES.values()

    @property
    def refused(self) -> bool:
        """Whether the controller said so. Without a word, a cut line ends a handshake as a wrong key does."""
        return self.rejected and self._reason != _FAILURES[int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)]

    def close(self, linger: float = 0.0) -> None:
        """Close; what was sent gets `linger` more seconds to leave (without waiting here). Idempotent."""
        self._lost = True
        if self._monitor is not None:
            self._monitor.close()
        if self._pump is not None:
            self._pump.close(linger)

    def statistics(self) -> dict[str, int]:
        """Messages sent, received and unsent (given to a lost link), and wake-ups by the watchdog."""
        pump = self._pump
        if pump is None:
            return {"sent": 0, "received": 0, "unsent": 0, "watchdog_rescues": 0}
        return {
            "sent": pump.sent,
            "received": pump.received,
            "unsent": pump.unsent,
            "watchdog_rescues": pump.rescues,
        }

    # --- from the pump and the monitor --------------------------------------------------------------

    def _deliver(self, first: zmq.Frame, rest: list[Frame]) -> None:
        header = first.bytes
        if not header:
            return  # the controller's probe: it only wants to know that we can be reached
        if len(rest) > MAX_PARTS - 1:
            self._lose(f"the controller sent a message of more than {MAX_PARTS - 1} frames")
            return
        self._on_message(header, rest)

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._settle(True)
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self._settle(False)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._shaken = True
        elif event == zmq.EVENT_DISCONNECTED:
            self._settle(True)
            if not self._reason:
                self._reason = (
                    "the controller closed the connection, or can't be reached any more"
                    if self._shaken
                    else _FAILURES[int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)]
                )
            if self._pump is not None and not self._lost:
                self._pump.when_empty(lambda: self._lose(self._reason))
        elif event in _FAILURES:
            self._reason = _FAILURES[event]

    def _settle(self, reached: bool) -> None:
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(reached)

    def _lose(self, reason: str) -> None:
        if self._lost:
            return
        self.close()
        self._on_lost(reason)


def _connect_socket(socket: zmq.asyncio.Socket, address: str) -> None:
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise ControllerUnreachable(f"can't connect to {address}: {error.strerror}") from None


def _why_not(address: str) -> str:
    path = address.removeprefix("ipc://")
    if path != address and not os.path.exists(path):
        return f"there is no socket at {path}: the controller isn't running (any more)"
    return f"nobody listens at {address}: the controller isn't running (any more), or can't be reached"
