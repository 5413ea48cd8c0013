"""A network in memory: who listens where, how long messages take, and what goes wrong.

Connections keep the order of messages whatever their delays, deliver what was sent before an orderly end,
and break in the ways that real ones do. `directview.testing.memory` has the links that use them.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from directview.errors import ControllerUnreachable
from directview.wire.curve import CurveKeys, ServerCurve
from directview.wire.pump import TURN
from directview.wire.sockets import Frame, Heartbeat

__all__ = ["Connection", "Endpoint", "Network"]

Message = tuple[bytes, list[Frame]]

CLOSED = "the controller closed the connection, or can't be reached any more"
GONE = "its connection is gone"
REFUSED = "the controller refuses this key; use the connection file that this controller wrote"
MISMATCH = (
    "the other side uses another security mechanism; use the connection file that this controller wrote"
)


class Endpoint:
    """One side's inbox, read in bounded turns as the real links read their sockets.

    Args:
        deliver: called for each message that arrived.
        end: called with the reason when a connection ended, after all messages that came before.
        on_turn: called at the end of each turn in which something was delivered.
    """

    def __init__(
        self,
        deliver: Callable[[Connection, Message], None],
        end: Callable[[Connection, str], None],
        on_turn: Callable[[], None] | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.closed = False
        self.frozen = False
        self.sent = 0
        self.received = 0
        self.unsent = 0
        self._deliver = deliver
        self._end = end
        self._on_turn = on_turn
        self._inbox: deque[tuple[Connection, Message | str]] = deque()
        self._scheduled = False
        self._depth = 0

    def arrive(self, connection: Connection, what: Message | str) -> None:
        """A message, or the reason why the connection ended."""
        self._inbox.append((connection, what))
        self.schedule()

    def schedule(self) -> None:
        """Read the inbox in the loop's next turn."""
        if self._inbox and not (self._scheduled or self.closed or self.frozen):
            self._scheduled = True
            self.loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._scheduled = False
        self.turn()

    def turn(self) -> None:
        """Deliver what is in the inbox, at most `TURN` messages; the rest in the next turn."""
        delivered = 0
        self._depth += 1
        try:
            while self._inbox and delivered < TURN and not self.closed and not self.frozen:
                connection, what = self._inbox.popleft()
                if isinstance(what, str):
                    self._guarded(self._end, connection, what)
                else:
                    delivered += 1
                    self.received += 1
                    self._guarded(self._deliver, connection, what)
        finally:
            self._depth -= 1
            self.schedule()
        if delivered and self._on_turn is not None and not self._depth and not self.closed:
            self._guarded(self._on_turn)

    def _guarded(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception as error:  # noqa: BLE001 -- reported, as the real links do
            self.loop.call_exception_handler(
                {"message": f"handling a message raised {type(error).__name__}", "exception": error}
            )

    def statistics(self) -> dict[str, int]:
        """Counts under the names that the real links use."""
        return {
            "sent": self.sent,
            "received": self.received,
            "unsent": self.unsent,
            "watchdog_rescues": 0,
        }


class _Lane:
    """One direction of a connection: messages on their way, in order."""

    def __init__(self, connection: Connection, receiver: Endpoint) -> None:
        self._connection = connection
        self._receiver = receiver
        self._under_way: deque[tuple[float, Message | str]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.held = 0

    def push(self, what: Message | str, latency: float) -> None:
        now = self._receiver.loop.time()
        # None overtakes another, however short its own delay.
        due = max(now + latency, self._under_way[-1][0] if self._under_way else now)
        self._under_way.append((due, what))
        self.advance()

    def advance(self) -> None:
        """Let everything arrive that is due, and set the timer for what comes next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = self._receiver.loop
        while self._under_way and not self.held:
            due, what = self._under_way[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self.advance)
                return
            self._under_way.popleft()
            self._receiver.arrive(self._connection, what)

    def clear(self) -> None:
        self._under_way.clear()
        self.advance()


class Connection:
    """One link's connection to a router, and what the router knows of it."""

    def __init__(
        self,
        network: Network,
        route: bytes,
        link: Endpoint,
        router: Endpoint,
        heartbeats: dict[Endpoint, Heartbeat],
        user: str | None,
    ) -> None:
        self.route = route
        self.link = link
        self.router = router
        self.heartbeats = heartbeats
        self.user = user
        self.open = True
        self.dropped = False
        self.known = False
        """A message from it was delivered."""
        self.admitted = False
        self.muted = ""
        """Why it is being expelled."""
        self._network = network
        self._lanes = {link: _Lane(self, link), router: _Lane(self, router)}

    def send(self, sender: Endpoint, message: Message) -> None:
        """Send to the other side; lost if the connection is."""
        if self.open and not self.dropped:
            self._to_other(sender, message)

    def _to_other(self, sender: Endpoint, what: Message | str) -> None:
        receiver = self.router if sender is self.link else self.link
        self._lanes[receiver].push(what, self._network.latency())

    def end(self, side: Endpoint, reason: str) -> None:
        """`side` closes in order: what it sent still arrives, and then the other side's notice."""
        if self.open:
            self.open = False
            if not self.dropped:
                self._to_other(side, reason)

    def cut(self, router_reason: str = GONE) -> None:
        """Both sides notice now; what was on its way is lost."""
        if not self.open:
            return
        self.open = False
        for lane in self._lanes.values():
            lane.clear()
        self.link.arrive(self, CLOSED)
        self.router.arrive(self, router_reason)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While it lasts, nothing passes either way."""
        for lane in self._lanes.values():
            lane.held += 1
        try:
            yield
        finally:
            for lane in self._lanes.values():
                lane.held -= 1
                lane.advance()


class _Listener(Protocol):
    endpoint: Endpoint
    heartbeat: Heartbeat

    def accept(self, connection: Connection) -> None: ...
    def refuse(self) -> None: ...


class _Connected(Protocol):
    @property
    def connection(self) -> Connection: ...


class Network:
    """What links and routers share, and the faults.

    Args:
        seed: of the delays.
        delay: least and most seconds that a message takes; may be changed at any time.

    Make it on the loop that its links run on.
    """

    def __init__(self, *, seed: int = 0, delay: tuple[float, float] = (0.0, 0.0)) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(seed)
        self.delay = delay
        self._listeners: dict[str, tuple[_Listener, ServerCurve | None]] = {}
        self._numbers = itertools.count(1)
        self._ports = itertools.count(20_000)

    def latency(self) -> float:
        """How long the next message takes, in seconds."""
        low, high = self.delay
        return low if low == high else self.random.uniform(low, high)

    # --- faults -------------------------------------------------------------------------------------

    @contextmanager
    def hold(self, link: _Connected) -> Iterator[None]:
        """While it lasts, nothing passes either way; afterwards it all arrives, in order."""
        with link.connection.hold():
            yield

    @contextmanager
    def freeze(self, link: _Connected) -> Iterator[None]:
        """While it lasts, the peer is stopped: nothing reaches it, and its messages don't leave.

        If it outlasts the router's heartbeat, the router takes the peer for dead; the peer learns of that
        when it wakes.
        """
        connection = link.connection
        patience = connection.heartbeats[connection.router]
        connection.link.frozen = True
        timer = self.loop.call_later(patience.interval + patience.timeout, connection.cut)
        if not patience.interval:
            timer.cancel()
        try:
            with connection.hold():
                yield
        finally:
            timer.cancel()
            connection.link.frozen = False
            connection.link.schedule()

    def drop(self, link: _Connected) -> None:
        """Pull the cable: what is sent from now on is lost; each side notices by its own heartbeat."""
        connection = link.connection
        connection.dropped = True
        for side, reason in ((connection.link, CLOSED), (connection.router, GONE)):
            patience = connection.heartbeats[side]
            if patience.interval:
                self.loop.call_later(patience.interval + patience.timeout, side.arrive, connection, reason)

    def cut(self, link: _Connected) -> None:
        """Break the connection: what is on its way is lost, and both sides notice at once."""
        link.connection.cut()

    # --- for links and routers ----------------------------------------------------------------------

    def listen(self, address: str, listener: _Listener, curve: ServerCurve | None) -> None:
        """Connections to `address` go to `listener`; an earlier one at an ``ipc://`` address is replaced."""
        if address in self._listeners and not address.startswith("ipc://"):
            raise OSError(98, f"can't listen at {address}: Address already in use")
        self._listeners[address] = (listener, curve)

    def stop_listening(self, listener: _Listener) -> None:
        """Connections to `listener`'s addresses are refused from now on."""
        self._listeners = {
            address: entry for address, entry in self._listeners.items() if entry[0] is not listener
        }

    def free_port(self) -> int:
        """A port at which nobody listens."""
        return next(self._ports)

    def connect(
        self, link: Endpoint, address: str, keys: CurveKeys | None, heartbeat: Heartbeat
    ) -> Connection:
        """A new connection; if its handshake fails, the link is told why as of any other end.

        Raises:
            ControllerUnreachable: nobody listens at `address`.
        """
        if address not in self._listeners:
            raise ControllerUnreachable(
                f"nobody listens at {address}: the controller isn't running (any more), or can't be reached"
            )
        listener, curve = self._listeners[address]
        user, refusal = _handshake(keys, curve)
        connection = Connection(
            self,
            b"\x00" + next(self._numbers).to_bytes(4, "big"),
            link,
            listener.endpoint,
            {link: heartbeat, listener.endpoint: listener.heartbeat},
            user,
        )
        if refusal:
            connection.open = False
            listener.refuse()
            link.arrive(connection, refusal)
        else:
            listener.accept(connection)
        return connection


def _handshake(keys: CurveKeys | None, curve: ServerCurve | None) -> tuple[str | None, str]:
    """The role that `keys` give, and why they are refused, or nothing."""
    if curve is None:
        return None, "" if keys is None else MISMATCH
    if keys is None:
        return None, MISMATCH
    role = curve.role_of(keys.public) if keys.server_public == curve.server.public else None
    return role, "" if role is not None else REFUSED
