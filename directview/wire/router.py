"""The controller's one socket, which all peers talk to, at two addresses: a unix socket and a TCP port.

It knows its peers as routes and nothing of what they say. It notices which of them is gone (see
`directview.wire.liveness`), cuts off the one that misbehaves without harming another, and keeps those
that connect and never speak few and short-lived.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket as sockets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import zmq
import zmq.asyncio
from typing_extensions import Buffer

from directview.wire.curve import ServerCurve
from directview.wire.doorway import Doorway, Failure
from directview.wire.liveness import Liveness
from directview.wire.monitor import Monitor
from directview.wire.pump import MAX_PARTS, Part, Pump, sendable
from directview.wire.sockets import TIGHT, Frame, Heartbeat, new_context, open_socket
from directview.wire.zap import DOMAIN, Gatekeeper

__all__ = ["RouterLink"]

_EVENTS: Final = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

_MISMATCHES: Final = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): Failure.NO_KEYS,
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): Failure.OTHER_KEYS,
}

_BACKLOG: Final = 1024
_OPEN_FILES: Final = 65_536
_DRAIN_SECONDS: Final = 0.1
"""Time for a saturated socket to reach its end before a death is announced all the same."""
_REMEMBERED: Final = 1024
_SHARE_BYTES: Final = 2048
"""From this size, a frame that goes to many is one zmq frame that all share: below it, copying costs less."""

_PROBE: Final = b""


class RouterLink:
    """The controller's end of every connection.

    Args:
        on_message: called with route, header and frames of each message. Frames of 8 KiB and more are
            views of libzmq's memory; sent on, they travel by reference.
        on_lost: called once with route and reason for each route of which `on_message` told, when it is
            gone, after everything that arrived from it before was delivered.
        on_turn: called once at the end of each turn in which messages were delivered.
        on_refused: called for a connection that was not let in, with its address (None if it was gone before
            that could be asked) and the reason, which reads as a sentence after it.
        heartbeat: how this side tries the connections.
        hello_timeout: seconds for a new connection until `admit`; then it is cut off.
        half_open_limit: connections that may be waiting for `admit`; beyond it the oldest are cut off.

    All callbacks run on the loop's thread; all methods belong there too.
    """

    def __init__(
        self,
        *,
        on_message: Callable[[bytes, bytes, list[Frame]], None],
        on_lost: Callable[[bytes, str], None],
        on_turn: Callable[[], None] | None = None,
        on_refused: Callable[[str | None, str], None] = lambda address, reason: None,
        heartbeat: Heartbeat = TIGHT,
        hello_timeout: float = 5.0,
        half_open_limit: int = 1024,
    ) -> None:
        _raise_open_files()
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._context = new_context()
        self._socket = open_socket(self._context, zmq.ROUTER, heartbeat)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.BACKLOG, _BACKLOG)
        self._live = Liveness(heartbeat.interval or 1.0, hello_timeout, half_open_limit)
        self._hello_timeout = hello_timeout
        self._overdue = (
            f"did not say who it is: there are {hello_timeout:g} s for that, and at most {half_open_limit} "
            "connections may wait so"
        )
        self._doorway = Doorway()
        self._telling: asyncio.Handle | None = None
        self._addresses: dict[bytes, str] = {}
        """Of routes that came by TCP."""
        self._users: dict[bytes, str | None] = {}
        """Routes that are delivered from, and the role their key belongs to."""
        self._muted: dict[bytes, str] = {}
        """Routes that are expelled but not yet gone, and why."""
        self._dying: dict[bytes, str] = {}
        """Routes that are gone but not yet announced, and why."""
        self._dead: deque[bytes] = deque(maxlen=_REMEMBERED)
        """Routes announced as gone, of which nothing more may be delivered."""
        self._counts = {"ignored": 0, "expelled": 0, "overdue": 0, "deaths": 0}
        self._gatekeeper: Gatekeeper | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._announcement: asyncio.TimerHandle | None = None
        self._monitor = Monitor(self._context, self._socket, _EVENTS, self._on_event)
        self._pump = Pump(self._socket, self._deliver, on_turn)

    # --- addresses ----------------------------------------------------------------------------------

    def bind_ipc(self, path: str | os.PathLike[str]) -> None:
        """Listen at a unix socket, readable by this user only. No keys: the folder's mode guards it.

        libzmq takes over a path at which another controller listens, without an error: hold a lock.

        Raises:
            OSError: the path is too long (107 bytes), or can't be made.
        """
        if self._gatekeeper is not None:
            # CURVE options hold for every later bind, and a ZAP domain can't be taken back.
            raise RuntimeError("bind the unix socket before the TCP port with keys")
        self._bind(f"ipc://{os.fspath(path)}")
        os.chmod(path, 0o600)

    def bind_tcp(self, host: str, port: int, curve: ServerCurve | None) -> int:
        """Listen at a TCP port; with `curve`, only to those who have one of its keys.

        Args:
            host: an address of this machine, or ``0.0.0.0`` for all.
            port: 0 for any that is free.
            curve: the keys; None leaves the port open to everybody who reaches it.

        Returns:
            The port.

        Raises:
            OSError: the port is taken, or `host` is not of this machine.
        """
        if curve is not None:
            self._socket.set(zmq.CURVE_SERVER, 1)
            self._socket.set(zmq.CURVE_PUBLICKEY, curve.server.public.encode("ascii"))
            self._socket.set(zmq.CURVE_SECRETKEY, curve.server.secret.encode("ascii"))
            self._socket.set(zmq.ZAP_DOMAIN, DOMAIN)
            self._gatekeeper = Gatekeeper(self._context, curve, self._on_refused)
        if ":" in host:
            self._socket.set(zmq.IPV6, 1)
            host = f"[{host}]"
        self._bind(f"tcp://{host}:{port or '*'}")
        endpoint = self._socket.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return int(endpoint.decode("ascii").rpartition(":")[2])

    def _bind(self, address: str) -> None:
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"can't listen at {address}: {error.strerror}") from None

    # --- sending ------------------------------------------------------------------------------------

    def send(self, route: bytes, header: bytes, frames: Sequence[Buffer] = ()) -> bool:
        """Send one message at once; never blocks.

        Returns:
            False if the peer is gone; `on_lost` will say so, unless it has.

        Raises:
            TypeError, ValueError: a frame that is no contiguous buffer, or too large; nothing was sent.
        """
        return self._hand_over(route, [route, header, *[sendable(frame) for frame in frames]])

    def send_many(self, routes: Iterable[bytes], header: bytes, frames: Sequence[Buffer] = ()) -> list[bytes]:
        """Send the same message to many peers; large frames are shared, not copied.

        Returns:
            The routes of those that are gone.

        Raises:
            As `send`.
        """
        parts: list[Part] = [b"", header, *[_shared(sendable(frame)) for frame in frames]]
        gone = []
        for route in routes:
            parts[0] = route
            if not self._hand_over(route, list(parts)):
                gone.append(route)
        return gone

    def _hand_over(self, route: bytes, parts: Sequence[Part]) -> bool:
        try:
            self._pump.send(parts)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._found(route)
            return False
        return True

    # --- peers --------------------------------------------------------------------------------------

    def user_of(self, route: bytes) -> str | None:
        """The role whose key the peer has (one of `curve.ROLES`); None if it came without keys."""
        return self._users.get(route)

    def address_of(self, route: bytes) -> str:
        """Where the peer is; empty if it came to the unix socket."""
        return self._addresses.get(route, "")

    def admit(self, route: bytes) -> None:
        """The peer said a good hello: it may stay."""
        self._live.admitted(route, self._loop.time())
        self._arm()

    def expel(self, route: bytes, reason: str) -> None:
        """Cut off one peer. Nothing more is delivered from it; what was sent to it has 0.1 s to leave.

        `on_lost` follows, with `reason`, as for any other loss.
        """
        if route not in self._users or route in self._muted:
            return
        self._muted[route] = reason
        self._counts["expelled"] += 1
        self._live.expelled(route, self._loop.time())
        self._arm()

    def replace_keys(self, curve: ServerCurve) -> None:
        """Let in the holders of these keys from now on, and of no others. The server's pair stays.

        Raises:
            RuntimeError: it doesn't listen with keys.
        """
        if self._gatekeeper is None:
            raise RuntimeError("there is no TCP port with keys")
        self._gatekeeper.replace(curve)

    def expel_keyed(self, reason: str) -> None:
        """Cut off all who have come with a key."""
        for route in [route for route, user in self._users.items() if user is not None]:
            self.expel(route, reason)

    def statistics(self) -> dict[str, int]:
        """Counts of messages, of peers by fate, and of wake-ups by the watchdog."""
        return {
            "sent": self._pump.sent,
            "received": self._pump.received,
            "unsent": self._pump.unsent,
            "watchdog_rescues": self._pump.rescues,
            "peers": len(self._users),
            "half_open": self._live.half_open,
            **self._counts,
            "refused": self._doorway.refused + (self._gatekeeper.refused if self._gatekeeper else 0),
        }

    def close(self, linger: float = 0.0) -> None:
        """Close all connections. No callback comes after it. Idempotent.

        Args:
            linger: seconds for what was sent to leave; this waits for it.
        """
        if self._pump.closed:
            return
        for timer in (self._timer, self._announcement, self._telling):
            if timer is not None:
                timer.cancel()
        self._monitor.close()
        self._pump.close(linger)
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._context.term()

    # --- from the pump and the monitor --------------------------------------------------------------

    def _deliver(self, first: zmq.Frame, rest: list[Frame]) -> None:
        route = first.bytes
        if route not in self._users and not self._welcome(route, first):
            return
        if self._muted and route in self._muted:
            return
        if not 1 <= len(rest) < MAX_PARTS + 1:
            self.expel(route, f"a message of {len(rest)} frames or more; at most {MAX_PARTS}")
            return
        header = rest.pop(0)
        self._on_message(route, header if type(header) is bytes else bytes(header), rest)

    def _welcome(self, route: bytes, first: zmq.Frame) -> bool:
        """The first message of a route; False if it is to be ignored."""
        if route in self._dead:
            return False
        try:
            fd = int(first.get(zmq.SRCFD))
        except zmq.ZMQError:
            # A peer of ZMTP 1, which "GET / HTTP/1.1" happens to look like. What it is won't be known; its
            # connection is never admitted, and goes when its time is over.
            self._counts["ignored"] += 1
            return False
        try:
            user: str | None = str(first.get("User-Id")) or None
        except zmq.ZMQError:
            user = None
        # Events first, so that the connection which the descriptor stands for is the latest one.
        self._monitor.drain()
        self._users[route] = user
        try:
            self._addresses[route] = str(first.get("Peer-Address"))
        except zmq.ZMQError:
            pass
        self._live.appeared(route, fd, self._loop.time())
        self._arm()
        if len(route) != 5 or route[0] != 0:
            # A peer that names itself could take the name of one that was, and routes must be unique.
            self.expel(route, "the peer chose its own routing id")
        return True

    def _on_event(self, event: int, fd: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            local = self._monitor.endpoint.startswith(b"ipc")
            self._doorway.accepted(fd, None if local else _address_of(fd), local=local)
            self._live.accepted(fd, self._loop.time())
        elif event == zmq.EVENT_DISCONNECTED:
            self._doorway.ended(fd, known=not self._live.unknown_on(fd))
            self._live.disconnected(fd, self._loop.time())
            self._tell_refusals()
        else:
            self._doorway.failed(_failure(event, fd))
            return
        self._arm()

    def _tell_refusals(self) -> None:
        """Once all events that have happened by now are read: they may correct an address."""
        if self._telling is None and self._doorway.refusing:
            self._telling = self._loop.call_soon(self._tell_now)

    def _tell_now(self) -> None:
        self._telling = None
        for refusal in self._doorway.take():
            self._on_refused(refusal.address, refusal.reason)

    # --- death --------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the one timer to the machine's next deadline."""
        deadline = self._live.next_deadline()
        if self._timer is not None:
            if deadline is not None and self._timer_at <= deadline:
                return  # it fires early at worst, and is set anew then
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._monitor.drain()
        due = self._live.tick(self._loop.time())
        for route in due.probe:
            self._hand_over(route, (route, _PROBE))
        for route in due.late:
            self._muted.setdefault(route, f"no hello within {self._hello_timeout:g} s")
        self._counts["overdue"] += len(due.overdue)
        for fd, _ in due.overdue:
            self._doorway.cut(fd, self._overdue)
        self._tell_refusals()
        for fd, number in (*due.expelled, *due.overdue):
            self._cut(fd, number)
        self._arm()

    def _cut(self, fd: int, number: int) -> None:
        """Shut down connection `number` on `fd`, unless the descriptor is already another's.

        libzmq says that a connection ended before it closes the descriptor. So if no such event has come
        by the time we hold a duplicate, the duplicate is of that very connection.
        """
        try:
            duplicate = sockets.socket(fileno=os.dup(fd))
        except OSError:
            return  # closed already
        with duplicate:
            self._monitor.drain()
            if self._live.connection_on(fd) == number:
                try:
                    duplicate.shutdown(sockets.SHUT_RDWR)
                except OSError:
                    pass  # the other side was faster

    def _found(self, route: bytes) -> None:
        """A send to `route` failed. Announce it once all that it sent before is delivered."""
        self._live.gone(route)
        if route not in self._users or route in self._dying:
            return
        self._dying[route] = self._muted.get(route, "its connection is gone")
        if self._announcement is None:
            self._announcement = self._loop.call_later(_DRAIN_SECONDS, self._announce)
            self._pump.when_empty(self._announce)

    def _announce(self) -> None:
        if self._announcement is None:
            return
        self._announcement.cancel()
        self._announcement = None
        dying, self._dying = self._dying, {}
        for route in dying:
            del self._users[route]
            self._addresses.pop(route, None)
            self._dead.append(route)
            self._muted.pop(route, None)
            self._counts["deaths"] += 1
        # After all of them are forgotten: whoever hears of one death may send to the next one that died.
        for route, reason in dying.items():
            self._on_lost(route, reason)


def _address_of(fd: int) -> str | None:
    """Of whoever is connected at a descriptor of libzmq's, with the port; None if it is closed."""
    try:
        with sockets.socket(fileno=os.dup(fd)) as duplicate:
            host, port = duplicate.getpeername()[:2]
            return f"{host}:{port}"
    except (OSError, ValueError):
        return None


def _failure(event: int, value: int) -> Failure:
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return Failure.AUTHENTICATION
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return _MISMATCHES.get(value, Failure.PROTOCOL)
    return Failure.TIMEOUT if value == errno.EAGAIN else Failure.BROKEN


def _shared(part: Part) -> Part:
    if isinstance(part, zmq.Frame):
        return part
    size = part.nbytes if isinstance(part, memoryview) else len(memoryview(part))
    return zmq.Frame(part, copy=True) if size >= _SHARE_BYTES else part


def _raise_open_files() -> None:
    """One connection is one open file, and libzmq spins when it can't accept: allow as many as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
