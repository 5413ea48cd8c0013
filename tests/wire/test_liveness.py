"""Which peers are probed when, and whose connection may be cut."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from directview.wire.liveness import EXPEL_DELAY, PROBE_DELAYS, Liveness

SWEEP = 1.0
HELLO = 5.0


def machine(limit: int = 100) -> Liveness:
    return Liveness(sweep_interval=SWEEP, hello_timeout=HELLO, half_open_limit=limit)


def probes_until(live: Liveness, end: float) -> list[tuple[float, bytes]]:
    """(time, route) of each probe asked for up to `end`, ticking exactly at each deadline."""
    seen = []
    while (deadline := live.next_deadline()) is not None and deadline <= end:
        seen += [(deadline, route) for route in live.tick(deadline).probe]
    return seen


def test_without_peers_and_connections_nothing_is_due() -> None:
    live = machine()
    assert live.next_deadline() is None
    assert live.tick(100.0).probe == ()


def test_a_new_peer_is_probed_at_once_and_twice_more() -> None:
    """It may have died before its first message was read, with the news of that already gone by."""
    live = machine()
    live.accepted(7, 0.0)
    live.appeared(b"a", 7, 10.0)
    assert probes_until(live, 10.5) == [(10.0 + delay, b"a") for delay in PROBE_DELAYS]


def test_the_end_of_a_connection_makes_all_peers_last_seen_on_its_descriptor_suspect() -> None:
    live = machine()
    live.accepted(7, 0.0)
    live.appeared(b"a", 7, 0.0)
    live.accepted(8, 0.0)
    live.appeared(b"b", 8, 0.0)
    probes_until(live, 0.5)
    live.disconnected(7, 0.5)
    assert {route for _, route in probes_until(live, 0.9)} == {b"a"}


def test_every_peer_is_swept_once_per_interval() -> None:
    live = machine()
    for route, fd in ((b"a", 7), (b"b", 8)):
        live.accepted(fd, 0.0)
        live.appeared(route, fd, 0.0)
        live.admitted(route, 0.0)
    probes_until(live, 0.5)
    assert probes_until(live, 3.5) == [(t, r) for t in (1.0, 2.0, 3.0) for r in (b"a", b"b")]


def test_one_that_is_gone_is_never_probed_again() -> None:
    live = machine()
    live.accepted(7, 0.0)
    live.appeared(b"a", 7, 0.0)
    live.gone(b"a")
    live.disconnected(7, 0.0)
    assert probes_until(live, 10.0) == []
    assert not live.knows(b"a")


def test_a_connection_that_never_speaks_is_cut_after_the_hello_timeout() -> None:
    live = machine()
    live.accepted(7, 1.0)
    assert live.next_deadline() == 1.0 + HELLO
    assert live.tick(5.9).overdue == ()
    assert live.tick(6.0).overdue == ((7, live.connection_on(7)),)
    assert live.tick(7.0).overdue == ()


def test_a_peer_that_speaks_but_is_not_admitted_is_cut_and_named() -> None:
    live = machine()
    live.accepted(7, 0.0)
    live.appeared(b"a", 7, 0.1)
    due = live.tick(HELLO)
    assert due.overdue == ((7, 1),)
    assert due.late == (b"a",)


def test_an_admitted_peer_has_no_deadline() -> None:
    live = machine()
    live.accepted(7, 0.0)
    live.appeared(b"a", 7, 0.1)
    live.admitted(b"a", 0.2)
    assert live.half_open == 0
    assert live.tick(1000.0).overdue == ()


def test_beyond_the_limit_the_oldest_half_open_connection_goes_at_once() -> None:
    live = machine(limit=2)
    for fd in (7, 8, 9):
        live.accepted(fd, float(fd))
    assert live.next_deadline() is not None
    assert live.tick(9.0).overdue == ((7, 1),)
    assert live.half_open == 2


def test_an_expelled_peer_is_cut_after_a_moment_for_its_last_message() -> None:
    live = machine()
    live.accepted(7, 0.0)
    live.appeared(b"a", 7, 0.0)
    live.admitted(b"a", 0.0)
    live.expelled(b"a", 0.5)
    assert live.tick(0.5 + EXPEL_DELAY / 2).expelled == ()
    assert live.tick(0.5 + EXPEL_DELAY).expelled == ((7, 1),)


def test_an_expelled_peer_that_is_gone_by_then_costs_nobody_the_descriptor() -> None:
    live = machine()
    live.accepted(7, 0.0)
    live.appeared(b"a", 7, 0.0)
    live.expelled(b"a", 0.0)
    live.disconnected(7, 0.01)
    live.accepted(7, 0.02)
    assert live.tick(1.0).expelled == ()


def test_a_peer_whose_connection_had_already_ended_is_never_cut() -> None:
    """Nothing is known of the descriptor then: it may be any file of the process."""
    live = machine()
    live.appeared(b"a", 7, 0.0)
    live.expelled(b"a", 0.0)
    assert live.tick(1.0).expelled == ()


def test_a_dead_peer_does_not_undo_the_admission_of_the_next_on_its_descriptor() -> None:
    """Its message was read late, so that both seem to have come through one connection."""
    live = machine()
    live.accepted(7, 0.0)
    live.disconnected(7, 0.0)
    live.accepted(7, 0.0)
    for route in (b"dead", b"living"):
        live.appeared(route, 7, 0.0)
        live.admitted(route, 0.0)
    live.gone(b"dead")
    assert live.half_open == 0
    assert live.tick(HELLO).overdue == ()


def test_a_dead_peer_does_not_admit_the_next_on_its_descriptor() -> None:
    live = machine()
    live.accepted(7, 0.0)
    live.disconnected(7, 0.0)
    live.accepted(7, 0.0)
    live.appeared(b"dead", 7, 0.0)
    live.admitted(b"dead", 0.0)
    live.gone(b"dead")
    assert live.half_open == 1
    assert live.tick(HELLO).overdue == ((7, 2),)


@dataclass
class Conn:
    """A connection as it really is."""

    fd: int
    route: bytes
    alive: bool = True
    died: float = 0.0
    appeared: bool = False
    seen: float = 0.0
    """When its first message was read: it may have died before."""
    admitted: bool = False
    expelled: bool = False


@dataclass
class World:
    """Sockets as the kernel and libzmq have them: two queues without a common order, reused descriptors."""

    now: float = 0.0
    conns: list[Conn] = field(default_factory=list)
    events: list[tuple[str, int]] = field(default_factory=list)
    unread: list[Conn] = field(default_factory=list)

    LAG = 0.02
    """Seconds from the end of a connection until a send to its route fails."""

    def open(self) -> None:
        used = {conn.fd for conn in self.conns if conn.alive}
        fd = next(fd for fd in range(10, 1000) if fd not in used)
        self.conns.append(Conn(fd, b"%d" % len(self.conns)))
        self.events.append(("accepted", fd))

    def end(self, conn: Conn) -> None:
        conn.alive = False
        conn.died = self.now
        self.events.append(("disconnected", conn.fd))

    def reachable(self, conn: Conn) -> bool:
        return conn.alive or self.now < conn.died + self.LAG


class Churn(RuleBasedStateMachine):
    """Connections come, speak, die and are cut in any order; the machine sees what a ROUTER shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.live = machine(limit=3)

    def by_route(self, route: bytes) -> Conn:
        return next(conn for conn in self.world.conns if conn.route == route)

    def living(self) -> list[Conn]:
        return [conn for conn in self.world.conns if conn.alive]

    @rule()
    def connect(self) -> None:
        if len(self.living()) < 8:
            self.world.open()

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        self.world.unread.append(data.draw(st.sampled_from(self.living())))

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.world.end(data.draw(st.sampled_from(self.living())))

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def make_way(self, data: st.DataObject) -> None:
        """One speaks and dies, and the next one gets its descriptor before anything is read."""
        conn = data.draw(st.sampled_from(self.living()))
        self.world.unread.append(conn)
        self.world.end(conn)
        self.world.open()

    @rule(n=st.integers(0, 3))
    def read_events(self, n: int) -> None:
        for event, fd in self.world.events[:n]:
            getattr(self.live, event)(fd, self.world.now)
        del self.world.events[:n]

    @precondition(lambda self: self.world.unread)
    @rule(verdict=st.sampled_from(["admit", "expel", "wait"]))
    def read_message(self, verdict: str) -> None:
        conn = self.world.unread.pop(0)
        now = self.world.now
        if not conn.appeared:
            self.read_events(len(self.world.events))
            conn.appeared = True
            conn.seen = now
            self.live.appeared(conn.route, conn.fd, now)
        if not self.live.knows(conn.route):
            return
        if verdict == "admit" and not conn.expelled:
            conn.admitted = True
            self.live.admitted(conn.route, now)
        elif verdict == "expel":
            conn.expelled = True
            self.live.expelled(conn.route, now)

    @rule(dt=st.sampled_from([0.001, 0.03, 0.2, 1.1, 6.0]))
    def pass_time(self, dt: float) -> None:
        end = self.world.now + dt
        while (deadline := self.live.next_deadline()) is not None and deadline <= end:
            self.world.now = max(self.world.now, deadline)
            self.tick()
        self.world.now = end

    def tick(self) -> None:
        due = self.live.tick(self.world.now)
        for route in due.probe:
            if not self.world.reachable(self.by_route(route)):
                self.live.gone(route)
        for fd, number in due.expelled:
            conn = self.connection(fd, number)
            if conn is not None:
                assert conn.expelled, "a peer was cut off in place of an expelled one"
                self.world.end(conn)
        for fd, number in due.overdue:
            conn = self.connection(fd, number)
            if conn is not None:
                assert conn.expelled or not conn.admitted, "an admitted, well-behaved peer was cut off"
                self.world.end(conn)

    def connection(self, fd: int, number: int) -> Conn | None:
        """What is really cut when the machine says so; None if it no longer stands by it."""
        self.read_events(len(self.world.events))
        if self.live.connection_on(fd) != number:
            return None
        (conn,) = [conn for conn in self.living() if conn.fd == fd]
        return conn

    @invariant()
    def no_death_is_missed(self) -> None:
        limit = self.world.now - SWEEP - World.LAG
        for conn in self.world.conns:
            if conn.appeared and not conn.alive and max(conn.died, conn.seen) < limit:
                assert not self.live.knows(conn.route), "a dead peer is still believed to live"

    @invariant()
    def no_living_peer_is_given_up(self) -> None:
        for conn in self.living():
            if conn.appeared:
                assert self.live.knows(conn.route)

    def teardown(self) -> None:
        self.read_events(len(self.world.events))
        self.pass_time(3 * HELLO)
        self.read_events(len(self.world.events))
        for conn in self.living():
            assert conn.admitted, "a half-open peer stayed"
            assert not conn.expelled, "an expelled peer stayed"


TestChurn = Churn.TestCase
TestChurn.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
