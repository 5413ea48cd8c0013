"""Pure: who is connected: engines with stable ids, clients, supervisors.

A peer is named by its uuid; a *route* is one connection of it. Losing the route is not losing the peer:
an engine or client that was cut off has its `lease` to come back under the same uuid.

Ids are handed out from 0 in the order in which engines register and are never given to another engine,
except that an engine which is restarted on purpose takes its predecessor's place.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from directview.controller._queues import EngineQueue
from directview.wire.messages import EngineInfo, Hello, ResumeItem

__all__ = ["Client", "Engine", "Registry", "Supervisor"]


@dataclass(eq=False, slots=True)
class Engine:
    """One engine process, from its first hello to its end."""

    id: int
    uuid: bytes
    info: EngineInfo | None
    """None for an engine that is known from before the controller's restart and has not come back."""
    supervisor: bytes = b""
    route: bytes | None = None
    queue: EngineQueue = field(default_factory=EngineQueue)
    lost_reason: str = ""
    deadline: float | None = None
    """When it is given up, while it has no route or its process has ended."""
    ended: bool = False
    exit_code: int | None = None
    exit_reason: str = ""
    parked: list[tuple[bytes, ResumeItem]] = field(default_factory=list)
    """Calls that resumed clients wait for, to be asked about when the engine has resumed."""

    @property
    def ready(self) -> bool:
        """Calls may be given to it."""
        return self.route is not None and not self.ended


@dataclass(eq=False, slots=True)
class Client:
    """One client, from its first hello until its lease has run out or it says goodbye."""

    uuid: bytes
    route: bytes | None
    pid: int = 0
    hostname: str = ""
    watermark: int = 0
    deadline: float | None = None
    resuming: bool = False
    refused: set[tuple[int, int]] = field(default_factory=set)
    """(seq, engine id) whose engine is another one by now: answered as lost, not to be run again."""


@dataclass(eq=False, slots=True)
class Supervisor:
    """The supervisor of one host."""

    uuid: bytes
    route: bytes
    pid: int
    hostname: str


Peer = Engine | Client | Supervisor


class Registry:
    """All peers, by uuid, by id and by route."""

    def __init__(self, known: dict[bytes, int] | None = None) -> None:
        """`known`: engines that an earlier incarnation of this controller knew, uuid → id."""
        self.engines: dict[int, Engine] = {}
        self.clients: dict[bytes, Client] = {}
        self.supervisors: dict[bytes, Supervisor] = {}
        self.routes: dict[bytes, Peer] = {}
        self._ids: dict[bytes, int] = {}
        for uuid, id in (known or {}).items():
            self.engines[id] = Engine(id, uuid, None)
            self._ids[uuid] = id
        self._next_id = max(self.engines, default=-1) + 1

    def engine_of(self, uuid: bytes) -> Engine | None:
        """The living engine with this uuid."""
        id = self._ids.get(uuid)
        return None if id is None else self.engines.get(id)

    def join_engine(self, hello: Hello, route: bytes) -> Engine:
        """Register an engine, or put one that comes back on its new route."""
        engine = self.engine_of(hello.uuid)
        if engine is None:
            id = hello.wanted_id
            if id < 0 or id in self.engines:
                id = self._next_id
            self._next_id = max(self._next_id, id + 1)
            engine = self.engines[id] = Engine(id, hello.uuid, None)
            self._ids[hello.uuid] = id
        if engine.route is not None:
            self.routes.pop(engine.route, None)
        engine.info = EngineInfo(
            engine.id, hello.uuid, hello.pid, hello.hostname, hello.python, hello.host
        )
        engine.supervisor = hello.supervisor
        engine.route = route
        engine.deadline = None
        engine.lost_reason = ""
        self.routes[route] = engine
        return engine

    def join_client(self, hello: Hello, route: bytes) -> Client:
        """Register a client, or put one that comes back on its new route."""
        client = self.clients.get(hello.uuid)
        if client is None:
            client = self.clients[hello.uuid] = Client(hello.uuid, route)
        elif client.route is not None:
            self.routes.pop(client.route, None)
        client.route = route
        client.deadline = None
        client.pid, client.hostname = hello.pid, hello.hostname
        client.resuming = hello.resuming
        self.routes[route] = client
        return client

    def join_supervisor(self, hello: Hello, route: bytes) -> Supervisor:
        """Register a supervisor."""
        supervisor = Supervisor(hello.uuid, route, hello.pid, hello.hostname)
        self.supervisors[hello.uuid] = supervisor
        self.routes[route] = supervisor
        return supervisor

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

    def ids(self) -> dict[bytes, int]:
        """uuid → id of the living engines: what a restarted controller has to know."""
        return dict(self._ids)
