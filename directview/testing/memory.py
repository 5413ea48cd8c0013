"""Links without a network: `MemoryLink` and `MemoryRouter` do in memory what `Link` and `RouterLink` do.

They pass the same conformance tests as the real ones, take a `Network` as one more argument, and run on
any loop, best on one in virtual time. The docstrings of `Link` and `RouterLink` hold for them too.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from typing_extensions import Buffer

from directview.errors import ControllerUnreachable
from directview.testing.network import CLOSED, Connection, Endpoint, Message, Network
from directview.wire.curve import CurveKeys, ServerCurve
from directview.wire.liveness import EXPEL_DELAY
from directview.wire.pump import sendable
from directview.wire.sockets import LAX, SMALL_FRAME, TIGHT, Frame, Heartbeat

__all__ = ["MemoryLink", "MemoryRouter"]

_NO_COUNTS: Final = {"sent": 0, "received": 0, "unsent": 0, "watchdog_rescues": 0}


class MemoryLink:
    """A `directview.wire.link.Link` on a `Network`."""

    def __init__(
        self,
        *,
        network: Network,
        on_message: Callable[[bytes, list[Frame]], None],
        on_lost: Callable[[str], None],
        on_turn: Callable[[], None] | None = None,
    ) -> None:
        self._network = network
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_turn = on_turn
        self._endpoint: Endpoint | None = None
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection; `Network`'s faults work on it."""
        if self._connection is None:
            raise RuntimeError("this link was never connected")
        return self._connection

    async def connect(
        self, address: str, *, keys: CurveKeys | None = None, heartbeat: Heartbeat = LAX, timeout: float
    ) -> None:
        """As `Link.connect`."""
        if self._endpoint is not None:
            raise RuntimeError("a Link connects once; make a new one for a new connection")
        self._endpoint = Endpoint(self._deliver, self._ended, self._on_turn)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(self._network.latency())
            self._connection = self._network.connect(self._endpoint, address, keys, heartbeat)
        except TimeoutError:
            self.close()
            raise ControllerUnreachable(f"no connection to {address} within {timeout:g} s") from None
        except BaseException:
            self.close()
            raise

    def send(self, header: bytes, frames: Sequence[Buffer] = ()) -> None:
        """As `Link.send`."""
        endpoint = self._endpoint
        if endpoint is None:
            raise RuntimeError("connect the link before sending")
        message = _snapshot(header, frames)
        if threading.get_ident() == endpoint.thread:
            self._send(endpoint, message)
        else:
            endpoint.loop.call_soon_threadsafe(self._send, endpoint, message)

    def _send(self, endpoint: Endpoint, message: Message) -> None:
        if endpoint.closed or self._connection is None:
            endpoint.unsent += 1
            return
        endpoint.sent += 1
        self._connection.send(endpoint, message)

    def poll(self) -> None:
        """As `Link.poll`."""
        if self._endpoint is not None:
            self._endpoint.turn()

    def close(self, linger: float = 0.0) -> None:
        """As `Link.close`; what was sent arrives, whatever `linger` is."""
        if self._endpoint is None or self._endpoint.closed:
            return
        self._endpoint.closed = True
        if self._connection is not None:
            self._connection.end(self._endpoint, "its connection is gone")

    def statistics(self) -> dict[str, int]:
        """As `Link.statistics`."""
        return dict(_NO_COUNTS) if self._endpoint is None else self._endpoint.statistics()

    def _deliver(self, connection: Connection, message: Message) -> None:
        self._on_message(*message)

    def _ended(self, connection: Connection, reason: str) -> None:
        self.close()
        self._on_lost(reason)


class MemoryRouter:
    """A `directview.wire.router.RouterLink` on a `Network`."""

    def __init__(
        self,
        *,
        network: Network,
        on_message: Callable[[bytes, bytes, list[Frame]], None],
        on_lost: Callable[[bytes, str], None],
        on_turn: Callable[[], None] | None = None,
        heartbeat: Heartbeat = TIGHT,
        hello_timeout: float = 5.0,
        half_open_limit: int = 1024,
    ) -> None:
        self.heartbeat = heartbeat
        self.endpoint = Endpoint(self._deliver, self._ended, on_turn)
        self._network = network
        self._on_message = on_message
        self._on_lost = on_lost
        self._hello_timeout = hello_timeout
        self._half_open_limit = half_open_limit
        self._connections: dict[bytes, Connection] = {}
        self._has_keys = False
        self._counts = {"refused": 0, "ignored": 0, "expelled": 0, "overdue": 0, "deaths": 0}

    def bind_ipc(self, path: str | os.PathLike[str]) -> None:
        """As `RouterLink.bind_ipc`."""
        if self._has_keys:
            raise RuntimeError("bind the unix socket before the TCP port with keys")
        self._network.listen(f"ipc://{os.fspath(path)}", self, None)

    def bind_tcp(self, host: str, port: int, curve: ServerCurve | None) -> int:
        """As `RouterLink.bind_tcp`."""
        port = port or self._network.free_port()
        self._network.listen(f"tcp://{host}:{port}", self, curve)
        self._has_keys = self._has_keys or curve is not None
        return port

    def accept(self, connection: Connection) -> None:
        """A link connected."""
        self._connections[connection.route] = connection
        self.endpoint.loop.call_later(self._hello_timeout, self._overdue, connection)
        half_open = [other for other in self._connections.values() if other.open and not other.admitted]
        if len(half_open) > self._half_open_limit:
            self._overdue(half_open[0])

    def refuse(self) -> None:
        """A link with the wrong keys tried to connect."""
        self._counts["refused"] += 1

    def _overdue(self, connection: Connection) -> None:
        if connection.open and not connection.admitted and not self.endpoint.closed:
            self._counts["overdue"] += 1
            connection.muted = connection.muted or f"no hello within {self._hello_timeout:g} s"
            connection.cut()

    def send(self, route: bytes, header: bytes, frames: Sequence[Buffer] = ()) -> bool:
        """As `RouterLink.send`."""
        return self._send(route, _snapshot(header, frames))

    def send_many(self, routes: Iterable[bytes], header: bytes, frames: Sequence[Buffer] = ()) -> list[bytes]:
        """As `RouterLink.send_many`."""
        message = _snapshot(header, frames)
        return [route for route in routes if not self._send(route, message)]

    def _send(self, route: bytes, message: Message) -> bool:
        connection = self._connections.get(route)
        if connection is None or not connection.open or self.endpoint.closed:
            return False
        self.endpoint.sent += 1
        header, frames = message
        connection.send(self.endpoint, (header, list(frames)))
        return True

    def user_of(self, route: bytes) -> str | None:
        """As `RouterLink.user_of`."""
        connection = self._connections.get(route)
        return connection.user if connection is not None else None

    def admit(self, route: bytes) -> None:
        """As `RouterLink.admit`."""
        connection = self._connections.get(route)
        if connection is not None:
            connection.admitted = True

    def expel(self, route: bytes, reason: str) -> None:
        """As `RouterLink.expel`."""
        connection = self._connections.get(route)
        if connection is None or connection.muted:
            return
        connection.muted = reason
        self._counts["expelled"] += 1
        self.endpoint.loop.call_later(EXPEL_DELAY, connection.cut)

    def statistics(self) -> dict[str, int]:
        """As `RouterLink.statistics`."""
        connections = self._connections.values()
        return {
            **self.endpoint.statistics(),
            "peers": sum(connection.known for connection in connections),
            "half_open": sum(connection.open and not connection.admitted for connection in connections),
            **self._counts,
        }

    def close(self, linger: float = 0.0) -> None:
        """As `RouterLink.close`; what was sent arrives, whatever `linger` is."""
        if self.endpoint.closed:
            return
        self.endpoint.closed = True
        self._network.stop_listening(self)
        for connection in self._connections.values():
            connection.end(self.endpoint, CLOSED)

    def _deliver(self, connection: Connection, message: Message) -> None:
        if connection.route in self._connections:
            connection.known = True
            if not connection.muted:
                self._on_message(connection.route, *message)

    def _ended(self, connection: Connection, reason: str) -> None:
        connection.open = False
        if self._connections.pop(connection.route, None) is not None and connection.known:
            self._counts["deaths"] += 1
            self._on_lost(connection.route, connection.muted or reason)


def _snapshot(header: bytes, frames: Sequence[Buffer]) -> Message:
    """The message as its receiver gets it: copied, large frames as views, small ones as bytes."""
    copies: list[Frame] = []
    for frame in frames:
        part: Any = sendable(frame)
        contents = memoryview(part).tobytes("A")
        copies.append(contents if len(contents) < SMALL_FRAME else memoryview(bytearray(contents)))
    return header, copies
