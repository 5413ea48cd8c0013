"""A whole cluster in one process and in virtual time: every part of it, and everything that can fail.

The state machines are the real ones; their shells are small ones in virtual time; connections delay and lose
what a real network may. Nothing else is random: the same seed gives the same run, so a failure that was
seen once can be looked at as often as it takes.

    >>> from directview.testing.simulation import SimulatedCluster, Work
    >>> cluster = SimulatedCluster(seed=1, engines=2, clients=1)
    >>> cluster.run(1.0)
    >>> client = cluster.clients[0]
    >>> seq = client.submit(client.engine_ids, Work(seconds=0.5))
    >>> with cluster.controller_down():
    ...     cluster.run(0.2)
    >>> cluster.settle()
    >>> [outcome.how for outcome in client.outcomes[seq, 0]]
    ['result']
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Final

from directview._detached_calls import parcel_of
from directview.controller._detached import LOST, STANDARD, Box, Kept, Key
from directview.controller._effects import Admit, Expel, Finish, Keep, Note, Persist, Record, Send
from directview.controller._queues import WINDOW_BYTES, WINDOW_CALLS
from directview.controller._state import Controller, Settings
from directview.engine._untaken import MOST_UNTAKEN
from directview.testing.invariants import check_client, check_controller, check_engine
from directview.testing.simulated_memory import SimulatedMemory
from directview.testing.simulated_peers import (
    Outcome,
    Peer,
    SimulatedClient,
    SimulatedEngine,
    SimulatedSupervisor,
    Work,
    pattern,
)
from directview.testing.simulated_wire import Clock, Connection, LimitExceeded
from directview.wire.messages import Hello, ProtocolError, decode, frames_of
from directview.wire.transfers import Pace

__all__ = [
    "LimitExceeded",
    "Outcome",
    "SimulatedClient",
    "SimulatedCluster",
    "SimulatedEngine",
    "SimulatedSupervisor",
    "SMALL_STEPS",
    "Work",
    "pattern",
]

SMALL_STEPS: Final = Pace(chunk=256, ahead=1024)
_SLOTS: Final = 4
"""Transfers in small steps: a few kilobytes go through all that takes megabytes otherwise."""
_TURN: Final = 0.001

Arrived = tuple[bytes, tuple[bytes, Sequence[bytes]] | None]
"""Over which route; header and frames, or None for its end."""


class SimulatedCluster:
    """One controller, and any number of engines, clients and supervisors.

    Args:
        seed: of all chance.
        engines: how many there are from the start.
        clients: likewise.
        supervised: every other engine has a supervisor, which reports its end; else none has.
        pace: in which steps large payloads travel.
        credit_calls: calls that a client may send to one engine ahead of its accepting them.
        credit_bytes: likewise bytes.
        window_calls: calls that an engine may have and not have started.
        window_bytes: likewise bytes.
        most_untaken: bytes of results that a client may leave with an engine.
        lease: seconds for which a lost peer is waited for.
        engine_grace: seconds for which a lost engine is waited for.
        shared_memory: peers live on one of two hosts, or where none is shared; else there is none at all.
        store: most seconds that the controller's store takes to write results of detached calls; 0: it has
            none.
        checked: check the invariants of all machines after everything that happens. Slow, and thorough.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        engines: int = 3,
        clients: int = 2,
        supervised: bool = False,
        pace: Pace = SMALL_STEPS,
        credit_calls: int = 1024,
        credit_bytes: int = 4 << 20,
        window_calls: int = WINDOW_CALLS,
        window_bytes: int = WINDOW_BYTES,
        most_untaken: int = MOST_UNTAKEN,
        lease: float = 2.0,
        engine_grace: float = 1.0,
        shared_memory: bool = True,
        store: float = 0.0,
        checked: bool = False,
    ) -> None:
        self.clock = Clock(Random(seed))
        self.pace = pace
        self.most_untaken = most_untaken
        self.checked = checked
        self._hosts: list[dict[bytes, SimulatedMemory]] = [{}, {}] if shared_memory else []
        self.controller: Controller | None = None
        self.incarnation = 0
        self.expelled: list[tuple[bytes, str]] = []
        """Connections that the controller closed, and why."""
        self.finished = ""
        """Why the controller has ended, if it has."""
        self._settings = Settings(
            "simulated", policy="wait", engine_grace=engine_grace, lease=lease, credit_calls=credit_calls,
            credit_bytes=credit_bytes, window_calls=window_calls, window_bytes=window_bytes,
            store=store > 0.0,
        )  # fmt: skip
        self.stored: dict[Key, Kept] = {}
        """What outlives a controller of the results of detached calls."""
        self._writing = store
        self._written_at = 0.0
        self._ids: dict[bytes, int] = {}
        self._connections: dict[bytes, Connection] = {}
        self._inbox: list[Arrived] = []
        self._turning = False
        self._tick_at: float | None = None
        self._named = self._routes = 0
        self.start_controller()
        self.supervisor = SimulatedSupervisor(self, self._new_uuid()) if supervised else None
        self.engines: list[SimulatedEngine] = []
        self.clients: list[SimulatedClient] = []
        for number in range(engines):
            self.add_engine(supervised=number % 2 == 0)
        for _ in range(clients):
            self.add_client()

    def _new_uuid(self) -> bytes:
        self._named += 1
        return self._named.to_bytes(16, "big")

    # --- time ---------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.clock.now

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        until = self.clock.now + seconds
        while self.clock.step(until):
            if self.checked:
                self.check()
        self.clock.now = until

    def settle(self, seconds: float = 60.0) -> None:
        """Let time pass until all calls of all living clients have ended, and a little longer.

        Raises:
            AssertionError: some have not after `seconds`.
        """
        deadline = self.clock.now + seconds
        while any(client.alive and client.state.calls for client in self.clients):
            if self.clock.now > deadline:
                waiting = {client.uuid[-1]: client.state.calls for client in self.clients if client.alive}
                raise AssertionError(f"not ended after {seconds} s: {waiting}")
            self.run(0.25)
        self.run(3 * self._settings.lease + 1.0)
        for peer in [*self.engines, *self.clients]:
            assert not (peer.alive and peer.memory and (peer.memory.lent or peer.memory.sheets)), (
                f"{peer.uuid[-1]} still lends memory"
            )

    # --- who is there ---------------------------------------------------------------------------------

    def add_engine(self, *, supervised: bool = False) -> SimulatedEngine:
        """Start another engine; `supervised`: by the cluster's supervisor, if it has one."""
        engine = SimulatedEngine(self, self._new_uuid(), self.supervisor if supervised else None)
        self.engines.append(engine)
        return engine

    def add_client(self) -> SimulatedClient:
        """Connect another client."""
        client = SimulatedClient(self, self._new_uuid())
        self.clients.append(client)
        return client

    def start_controller(self) -> None:
        """Start a controller, which takes over from the one before."""
        assert self.controller is None
        self.incarnation += 1
        settings = replace(self._settings, incarnation=self.incarnation)
        box = Box(STANDARD, sorted(self.stored.items(), key=lambda row: row[1].at))
        self.controller = Controller(settings, self.clock.now, self._ids, box)
        self._arm()

    def share_memory(self) -> SimulatedMemory | None:
        """What a new peer can share with others; None if it lives alone."""
        if not self._hosts or self.clock.random.random() < 0.2:
            return None
        host = self._hosts[self.clock.random.random() < 0.3]
        return SimulatedMemory(host, 2 * self.pace.chunk, _SLOTS, self.clock.random)

    def fetched(self, client: SimulatedClient, seq: int, id: int) -> Outcome | None:
        """How a detached call of this client ended, for who asks now; None if the controller can't tell."""
        assert self.controller is not None
        key = (client.uuid, seq, id)
        kept = self.controller.heirs.box.get(key, self.now)
        if kept is None or kept.dropped:
            return None
        if kept.status == LOST:
            return Outcome("gone", bool(kept.told["started"]), True)
        return client.read(seq, id, kept.status, parcel_of(kept.sizes, memoryview(kept.data)))

    # --- what fails -----------------------------------------------------------------------------------

    def cut(self, peer: Peer, notice: float = 0.05) -> None:
        """Cut a peer's connection. What was under way is lost from some point on; it connects again."""
        if peer.connection is not None:
            peer.connection.cut(notice)

    def crash_controller(self) -> None:
        """The controller is gone, with all that it knew except its engines' ids."""
        self.controller = None
        self._inbox.clear()
        self._tick_at = None
        for connection in self._connections.values():
            connection.cut()
        self._connections.clear()

    def kill_engine(
        self, engine: SimulatedEngine, *, exit_code: int | None = -9, reported: bool = True
    ) -> None:
        """End an engine's process; its supervisor, if any, reports that, unless it isn't to."""
        engine.end()
        if reported and engine.supervisor is not None:
            engine.supervisor.report(engine, exit_code)

    def crash_client(self, client: SimulatedClient) -> None:
        """End a client's process."""
        client.end()

    @contextmanager
    def controller_down(self) -> Iterator[None]:
        """The controller crashes; another one takes over at the end of the block."""
        self.crash_controller()
        yield
        self.start_controller()

    @contextmanager
    def frozen(self, peer: Peer) -> Iterator[None]:
        """The peer does nothing; its connection stands."""
        self.freeze(peer)
        yield
        self.thaw(peer)

    def freeze(self, peer: Peer) -> None:
        """Have a peer do nothing until `thaw`."""
        peer.frozen = True

    def thaw(self, peer: Peer) -> None:
        """Have a frozen peer go on."""
        peer.frozen = False
        peer.turn_soon()

    @contextmanager
    def unreachable(self, peer: Peer) -> Iterator[None]:
        """The peer's connection is cut, and it gets no other one within the block."""
        peer.unreachable = True
        self.cut(peer)
        yield
        peer.unreachable = False

    # --- the controller's shell -----------------------------------------------------------------------

    def accept(self, peer: Peer) -> Connection | None:
        """A connection for `peer`, if there is a controller."""
        if self.controller is None or self.finished:
            return None
        self._routes += 1
        route = b"route %d" % self._routes
        incarnation = self.incarnation
        self._connections[route] = connection = Connection(
            self.clock,
            route,
            peer=peer.deliver,
            controller=lambda header, frames: self._arrived(incarnation, (route, (header, frames))),
            peer_ended=peer.ended,
            controller_ended=lambda: self._arrived(incarnation, (route, None)),
        )
        return connection

    def _arrived(self, incarnation: int, arrived: Arrived) -> None:
        if self.controller is not None and incarnation == self.incarnation:
            self._inbox.append(arrived)
            self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            self.clock.soon(_TURN, self._turn)

    def _turn(self) -> None:
        self._turning = False
        machine = self.controller
        if machine is None:
            return
        inbox, self._inbox = self._inbox, []
        for route, content in inbox:
            if content is None:
                machine.lost(route, "its connection was cut", self.clock.now)
            else:
                self._feed(machine, route, *content)
        self._perform(machine)
        self._arm()

    def _feed(self, machine: Controller, route: bytes, header: bytes, frames: Sequence[bytes]) -> None:
        try:
            message = decode(header)
            if frames_of(message) != len(frames):
                raise ProtocolError(f"{type(message).__name__} with {len(frames)} frames")
        except ProtocolError as error:
            self._expel(route, str(error))
            return
        if isinstance(message, Hello):
            machine.greet(route, message, None, self.clock.now)
        else:
            machine.receive(route, message, header, frames, self.clock.now)

    def _perform(self, machine: Controller) -> None:
        for effect in machine.flush():
            match effect:
                case Send(routes, header, frames):
                    for route in routes:
                        if route in self._connections:
                            self._connections[route].send_down(header, frames)
                case Expel(route, reason):
                    self._expel(route, reason)
                case Persist(ids):
                    self._ids = ids
                case Finish(reason):
                    self.finished = reason
                case Keep():
                    self._keep(machine, effect)
                case Admit() | Note() | Record():
                    pass

    def _keep(self, machine: Controller, keep: Keep) -> None:
        """One after the other, each some time later; a crash loses what is not written."""

        def write() -> None:
            if self.controller is machine:
                for key, kept in keep.changes:
                    if kept is None:
                        self.stored.pop(key, None)
                    else:
                        self.stored[key] = kept
                machine.kept(keep)
                self._perform(machine)
                self._arm()

        self._written_at = max(self._written_at, self.clock.now) + self.clock.random.uniform(
            0.0, self._writing
        )
        self.clock.after(self._written_at - self.clock.now, write)

    def _expel(self, route: bytes, reason: str) -> None:
        self.expelled.append((route, reason))
        connection = self._connections.pop(route, None)
        if connection is not None:
            connection.cut()

    def _arm(self) -> None:
        machine = self.controller
        deadline = machine.next_deadline() if machine is not None else None
        if deadline is None or (self._tick_at is not None and self._tick_at <= deadline):
            return
        self._tick_at = deadline

        def tick() -> None:
            if self.controller is machine and machine is not None:
                self._tick_at = None
                machine.tick(self.clock.now)
                self._perform(machine)
                self._arm()

        self.clock.after(max(0.0, deadline - self.clock.now), tick)

    # --- what must hold ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the invariants of all machines. Raises AssertionError."""
        if self.controller is not None:
            check_controller(self.controller)
        for engine in self.engines:
            if engine.alive:
                check_engine(engine.state)
        for client in self.clients:
            if client.alive:
                check_client(client.state)
