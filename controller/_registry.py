"""Pure: who is connected: engines with stable ids, clients, supervisors.

A peer is named by its uuid; a *route* is one connection of it. Losing the route is not losing the peer:
an engine or client that was cut off has its `lease` to come back under the same uuid.

Ids are handed out from 0 in the order in which engines register and are never given to another engine,
except that an engine which is restarted on purpose takes its predecessor's place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from directview.controller._queues import WINDOW_BYTES, WINDOW_CALLS, EngineQueue
from directview.wire.messages import EngineInfo, Hello
from directview.wire.postmortem import NOTHING_KNOWN, Postmortem

__all__ = ["Client", "Engine", "Peer", "PendingAbort", "Registry", "Supervisor"]

MOST_ENGINES: Final = 1 << 20
"""Ids above it are not taken over from an engine that wants one: they must not run out."""


@dataclass(eq=False, slots=True)
class PendingAbort:
    """A call that an engine has and that is to end: to be interrupted until it does."""

    client: bytes
    seq: int
    tries: int = 0
    given_up: bool = False
    """It has been interrupted often enough: it goes on until it ends by itself."""


@dataclass(eq=False, slots=True)
class Engine:
    """One engine process, from its first hello to its end."""

    id: int
    uuid: bytes
    queue: EngineQueue
    info: EngineInfo | None = None
    """None for an engine that is known from before the controller's restart and has not come back."""
    supervisor: bytes = b""
    route: bytes | None = None
    resuming: bool = False
    """It is telling what it holds."""
    unasked: set[bytes] = field(default_factory=set)
    """Routes of clients that have been told that it is there and have not asked it about their calls yet.
    What they submitted before they knew is in that question, and is not taken from them."""
    aborts: dict[tuple[bytes, int], PendingAbort] = field(default_factory=dict)
    """Calls that are to end there, by (client, seq)."""
    lost_reason: str = ""
    deadline: float | None = None
    """When it is given up, while it has no route or its process has ended."""
    ended: bool = False
    exit_code: int | None = None
    exit_reason: str = ""
    postmortem: Postmortem = NOTHING_KNOWN
    completed: int = 0
    """Calls that it has ended."""

    @property
    def ready(self) -> bool:
        """Messages may be passed to it."""
        return self.route is not None and not self.ended and not self.resuming


@dataclass(eq=False, slots=True)
class Client:
    """One client, from its first hello until its lease has run out or it says goodbye."""

    uuid: bytes
    route: bytes | None
    pid: int = 0
    hostname: str = ""
    watermark: int = 0
    deadline: float | None = None
    """When it is given up, while it has no route."""
    engines: set[int] = field(default_factory=set)
    """Engines that have, or have had, something of it."""
    paused: set[int] = field(default_factory=set)
    """Engines that begin no calls of it, because it leaves too much there."""


@dataclass(eq=False, slots=True)
class Supervisor:
    """The supervisor of one host."""

    uuid: bytes
    route: bytes | None
    pid: int
    hostname: str


Peer = Engine | Client | Supervisor


class Registry:
    """All peers, by uuid, by id and by route."""

    def __init__(
        self,
        known: dict[bytes, int] | None = None,
        *,
        window_calls: int = WINDOW_CALLS,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """`known`: peers that an earlier incarnation of this controller knew: see the method of that name.

        The windows are those of each engine's queue.
        """
        self._window = (window_calls, window_bytes)
        self.engines: dict[int, Engine] = {}
        self.clients: dict[bytes, Client] = {}
        self.supervisors: dict[bytes, Supervisor] = {}
        self.routes: dict[bytes, Peer] = {}
        self._ids: dict[bytes, int] = {}
        for uuid, id in (known or {}).items():
            if id < 0:
                self.clients[uuid] = Client(uuid, None)
            else:
                self._add_engine(id, uuid)
        self._next_id = max(self.engines, default=-1) + 1

    def engine_of(self, uuid: bytes) -> Engine | None:
        """The living engine with this uuid."""
        id = self._ids.get(uuid)
        return None if id is None else self.engines.get(id)

    def join_engine(self, hello: Hello, route: bytes) -> tuple[Engine, bytes | None]:
        """Register an engine, or put one that comes back on its new route.

        Returns:
            The engine, and the route that it had until now.
        """
        engine = self.engine_of(hello.uuid)
        if engine is None:
            id = hello.wanted_id
            if id < 0 or id in self.engines or id >= MOST_ENGINES:
                id = self._next_id
            self._next_id = max(self._next_id, id + 1)
            engine = self._add_engine(id, hello.uuid)
        engine.info = EngineInfo(engine.id, hello.uuid, hello.pid, hello.hostname, hello.python, hello.host)
        engine.supervisor = hello.supervisor
        engine.resuming = hello.resuming
        engine.deadline = engine.exit_code = None
        engine.lost_reason = engine.exit_reason = ""
        engine.postmortem = NOTHING_KNOWN
        engine.ended = False
        return engine, self._put_on(route, engine)

    def _add_engine(self, id: int, uuid: bytes) -> Engine:
        engine = self.engines[id] = Engine(id, uuid, EngineQueue(*self._window))
        self._ids[uuid] = id
        return engine

    def join_client(self, hello: Hello, route: bytes) -> tuple[Client, bytes | None]:
        """Register a client, or put one that comes back on its new route.

        Returns:
            The client, and the route that it had until now.
        """
        client = self.clients.get(hello.uuid)
        if client is None:
            client = self.clients[hello.uuid] = Client(hello.uuid, None)
        client.deadline = None
        client.pid, client.hostname = hello.pid, hello.hostname
        return client, self._put_on(route, client)

    def join_supervisor(self, hello: Hello, route: bytes) -> tuple[Supervisor, bytes | None]:
        """Register a supervisor.

        Returns:
            The supervisor, and the route that it had until now.
        """
        known = self.supervisors.get(hello.uuid)
        supervisor = Supervisor(hello.uuid, known.route if known else None, hello.pid, hello.hostname)
        self.supervisors[hello.uuid] = supervisor
        return supervisor, self._put_on(route, supervisor)

    def _put_on(self, route: bytes, peer: Peer) -> bytes | None:
        replaced, peer.route = peer.route, route
        if replaced is not None:
            del self.routes[replaced]
        self.routes[route] = peer
        return replaced

    def remove_engine(self, engine: Engine) -> None:
        """The engine is dead."""
        if engine.route is not None:
            self.routes.pop(engine.route, None)
            engine.route = None
        self._ids.pop(engine.uuid, None)
        if self.engines.get(engine.id) is engine:
            del self.engines[engine.id]

    def remove_client(self, client: Client) -> None:
        """The client is gone for good."""
        if client.route is not None:
            self.routes.pop(client.route, None)
            client.route = None
        self.clients.pop(client.uuid, None)

    def infos(self) -> tuple[EngineInfo, ...]:
        """The engines that clients see, by id."""
        found = [engine.info for _, engine in sorted(self.engines.items()) if engine.info is not None]
        return tuple(found)

    def known(self) -> dict[bytes, int]:
        """Engines (uuid → id) and clients (uuid → -1): what a restarted controller has to know."""
        return {**self._ids, **dict.fromkeys(self.clients, -1)}
