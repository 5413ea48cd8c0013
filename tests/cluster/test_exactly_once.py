"""Every call ends exactly once, whatever fails: whole clusters in virtual time.

DIRECTVIEW_HYPOTHESIS=long looks a hundred times as long.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from directview.testing.invariants import check_client, check_controller, check_engine, leftovers
from directview.testing.simulated_peers import Peer
from directview.testing.simulation import SimulatedClient, SimulatedCluster, SimulatedEngine, Work
from directview.testing.strategies import any_message
from directview.wire.messages import (
    ARGUMENT,
    PROTOCOL_VERSION,
    Chunk,
    Engines,
    Goodbye,
    Hello,
    Message,
    ProtocolError,
    Query,
    Resume,
    Submit,
    Welcome,
    decode,
    encode,
    frames_of,
)
from directview.wire.transfers import STANDARD

TIMES = 100 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

SECONDS = [0.0, 0.0005, 0.002, 0.01, 0.1]
WORKS = st.builds(
    Work,
    seconds=st.sampled_from([0.0, 0.0, 0.01, 0.3]),
    coroutine=st.booleans(),
    fails=st.sampled_from([False, False, False, True]),
    argument_bytes=st.sampled_from([0, 0, 250, 2000, 9000]),
    result_bytes=st.sampled_from([0, 0, 300, 5000]),
    printed=st.sampled_from([0, 0, 0, 100, 3_000_000]),
)


def check_calls(cluster: SimulatedCluster) -> Counter[str]:
    """What must be true of every cluster that has come to rest; how often calls ended how."""
    ends: Counter[str] = Counter()
    for client in cluster.clients:
        for (seq, id), outcomes in client.outcomes.items():
            assert len(outcomes) == 1, f"call {seq} on {id} ended more than once: {outcomes}"
            outcome = outcomes[0]
            assert outcome.right, f"call {seq} on {id}: {outcome}"
            assert outcome.how in {"result", "error", "aborted", "gone"}
            if outcome.how in {"result", "error"}:
                assert (outcome.how == "error") == client.works[seq].fails
            ends[outcome.how] += 1
        if client.alive:
            assert {seq for seq, _ in client.outcomes} == set(client.works)
            assert client.sent == set(client.works), "payloads that were never given back"
    for engine in cluster.engines:
        twice = [key for key, times in Counter(engine.starts).items() if times > 1]
        assert not twice, f"run twice on {engine.id}: {twice}"
        for client in cluster.clients:
            seqs = [seq for uuid, seq in engine.starts if uuid == client.uuid]
            assert seqs == sorted(seqs), f"out of order on {engine.id}"
    living = [engine.state for engine in cluster.engines if engine.alive]
    assert leftovers(cluster.controller, living, [c.state for c in cluster.clients if c.alive]) == []
    harmless = {"the same peer has a newer connection", "its process has ended"}
    assert {reason for _, reason in cluster.expelled} <= harmless
    return ends


class Faults(RuleBasedStateMachine):
    """Calls and faults in any order; after every step the invariants, and at the end every call's end."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = SimulatedCluster()

    @initialize(
        seed=st.integers(0, 2**32),
        engines=st.integers(1, 3),
        clients=st.integers(1, 2),
        supervised=st.booleans(),
        credit=st.sampled_from([(1, 300), (8, 400), (1024, 4 << 20)]),
        window=st.sampled_from([(1, 300), (4, 500), (256, 16 << 20)]),
        untaken=st.sampled_from([1, 5000, 20_000, 256 << 20]),
    )
    def start(
        self,
        seed: int,
        engines: int,
        clients: int,
        supervised: bool,
        credit: tuple[int, int],
        window: tuple[int, int],
        untaken: int,
    ) -> None:
        self.cluster = SimulatedCluster(
            seed, engines=engines, clients=clients, supervised=supervised,
            credit_calls=credit[0], credit_bytes=credit[1], window_calls=window[0], window_bytes=window[1],
            most_untaken=untaken,
        )  # fmt: skip
        self.cluster.run(0.3)

    def a_client(self, number: int) -> SimulatedClient:
        living = [client for client in self.cluster.clients if client.alive]
        return living[number % len(living)]

    def an_engine(self, number: int) -> SimulatedEngine:
        living = [engine for engine in self.cluster.engines if engine.alive] or [self.cluster.add_engine()]
        return living[number % len(living)]

    def a_peer(self, number: int) -> SimulatedClient | SimulatedEngine:
        return self.a_client(number // 2) if number % 2 else self.an_engine(number // 2)

    @rule(who=st.integers(0, 7), which=st.integers(1, 7), work=WORKS, times=st.sampled_from([1, 1, 4]))
    def submit(self, who: int, which: int, work: Work, times: int) -> None:
        client = self.a_client(who)
        ids = client.engine_ids
        targets = [id for number, id in enumerate(ids) if which >> number % 3 & 1] or ids[:1]
        if targets:
            for _ in range(times):
                client.submit(targets, work)

    @rule(who=st.integers(0, 7), which=st.integers(0, 50))
    def abort(self, who: int, which: int) -> None:
        client = self.a_client(who)
        calls = list(client.state.calls.values())
        if calls:
            call = calls[which % len(calls)]
            client.abort([(call.seq, id) for id in call.targets])

    @rule(seconds=st.sampled_from(SECONDS))
    def time_passes(self, seconds: float) -> None:
        self.cluster.run(seconds)

    @rule(who=st.integers(0, 7), notice=st.sampled_from([0.001, 0.05, 0.5]))
    def cut(self, who: int, notice: float) -> None:
        self.cluster.cut(self.a_peer(who), notice)

    @rule(seconds=st.sampled_from(SECONDS))
    def crash_controller(self, seconds: float) -> None:
        with self.cluster.controller_down():
            self.cluster.run(seconds)

    @rule(who=st.integers(0, 7), seconds=st.sampled_from([0.01, 0.1, 1.0, 2.5]))
    def freeze(self, who: int, seconds: float) -> None:
        with self.cluster.frozen(self.a_peer(who)):
            self.cluster.run(seconds)

    @rule(who=st.integers(0, 7), seconds=st.sampled_from([0.1, 1.0, 2.5]))
    def keep_away(self, who: int, seconds: float) -> None:
        with self.cluster.unreachable(self.a_peer(who)):
            self.cluster.run(seconds)

    @rule(who=st.integers(0, 7), reported=st.booleans(), replaced=st.booleans())
    def kill_engine(self, who: int, reported: bool, replaced: bool) -> None:
        living = [engine for engine in self.cluster.engines if engine.alive]
        if replaced or len(living) > 1:
            self.cluster.kill_engine(self.an_engine(who), reported=reported)
        if replaced:
            self.cluster.add_engine(supervised=reported)

    @precondition(lambda self: sum([client.alive for client in self.cluster.clients]) > 1)
    @rule(who=st.integers(0, 7), in_order=st.booleans())
    def client_leaves(self, who: int, in_order: bool) -> None:
        client = self.a_client(who)
        if in_order:
            client.close()
        else:
            self.cluster.crash_client(client)

    @invariant()
    def machines_are_sound(self) -> None:
        self.cluster.check()

    def teardown(self) -> None:
        if not any(engine.alive for engine in self.cluster.engines):
            self.cluster.add_engine()
        self.cluster.settle()
        self.cluster.check()
        check_calls(self.cluster)


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=150 * TIMES, stateful_step_count=40, deadline=None, suppress_health_check=SLOW
)


def play(
    cluster: SimulatedCluster,
    random: Random,
    faults: Sequence[Callable[[], None]],
    *,
    steps: int,
    works: Sequence[Work],
) -> None:
    """Submit calls at random, with a fault now and then."""
    cluster.run(0.3)
    for _ in range(steps):
        living = [client for client in cluster.clients if client.alive and client.engine_ids]
        if random.random() < 0.6 and living:
            client = random.choice(living)
            ids = client.engine_ids
            targets = random.sample(ids, random.randint(1, len(ids)))
            for _ in range(random.choice([1, 1, 3, 8])):
                client.submit(targets, random.choice(works))
        elif faults:
            random.choice(faults)()
        cluster.run(random.choice(SECONDS))


PLAIN = [Work(), Work(seconds=0.01), Work(result_bytes=3000), Work(argument_bytes=9000), Work(fails=True)]
MIXED = [*PLAIN, Work(coroutine=True), Work(0.3, True, result_bytes=300), Work(0.02, argument_bytes=250)]


@pytest.mark.parametrize("seed", range(8 * TIMES))
def test_no_call_is_lost_to_cuts_crashes_and_pauses_that_are_not_too_long(seed: int) -> None:
    """What everybody comes back from in time costs nothing: all calls end in results, and nothing else."""
    random = Random(seed)
    cluster = SimulatedCluster(
        seed, engines=3, lease=60.0, engine_grace=60.0, credit_calls=random.choice([1, 4, 1024])
    )

    everybody: list[SimulatedClient | SimulatedEngine] = [*cluster.clients, *cluster.engines]

    def anybody() -> SimulatedClient | SimulatedEngine:
        return random.choice(everybody)

    def crash() -> None:
        with cluster.controller_down():
            cluster.run(random.choice(SECONDS))

    def pause() -> None:
        with cluster.frozen(anybody()):
            cluster.run(random.choice([0.1, 1.0]))

    def cut() -> None:
        cluster.cut(anybody(), random.choice([0.001, 0.05, 0.5]))

    play(cluster, random, [cut, cut, crash, pause], steps=40, works=MIXED)
    cluster.settle(200.0)
    assert set(check_calls(cluster)) <= {"result", "error"}


@pytest.mark.parametrize("seed", range(40 * TIMES))
def test_every_call_ends_once_whatever_fails(seed: int) -> None:
    """The same as the stateful test with more calls in flight: bursts, to all engines, while all breaks."""
    random = Random(seed)
    cluster = SimulatedCluster(
        seed, engines=3, supervised=seed % 2 == 0, credit_calls=random.choice([2, 1024]),
        window_calls=random.choice([3, 256]), most_untaken=random.choice([1, 6000, 256 << 20]),
    )  # fmt: skip

    def peers() -> list[SimulatedClient | SimulatedEngine]:
        everybody: list[SimulatedClient | SimulatedEngine] = [*cluster.clients, *cluster.engines]
        return [peer for peer in everybody if peer.alive]

    def cut() -> None:
        cluster.cut(random.choice(peers()), random.choice([0.001, 0.05, 0.5]))

    def crash() -> None:
        with cluster.controller_down():
            cluster.run(random.choice([0.0, 0.01, 0.3]))

    def away() -> None:
        with cluster.unreachable(random.choice(peers())):
            cluster.run(random.choice([0.1, 1.5, 2.5]))

    def kill() -> None:
        living = [engine for engine in cluster.engines if engine.alive]
        if living:
            cluster.kill_engine(random.choice(living), reported=random.random() < 0.5)
        cluster.add_engine(supervised=random.random() < 0.5)

    play(cluster, random, [cut, cut, cut, crash, away, kill], steps=40, works=MIXED)
    cluster.settle(120.0)
    check_calls(cluster)


def test_calls_on_one_engine_start_in_the_order_in_which_they_were_made() -> None:
    cluster = SimulatedCluster(3, engines=1, clients=1, credit_calls=4)
    cluster.run(0.3)
    seqs = [cluster.clients[0].submit([0], work) for work in PLAIN * 10]
    cluster.settle()
    assert [seq for _, seq in cluster.engines[0].starts] == seqs


def test_megabytes_arrive_whole_at_the_real_chunk_size() -> None:
    """Also while connections are cut in the middle of them."""
    cluster = SimulatedCluster(4, engines=2, clients=1, pace=STANDARD, lease=60.0, engine_grace=60.0)
    cluster.run(0.3)
    client = cluster.clients[0]
    seq = client.submit([0, 1], Work(argument_bytes=20 << 20, result_bytes=3 << 20))
    for _ in range(4):
        cluster.run(0.004)
        cluster.cut(cluster.engines[0])
        cluster.run(0.3)
    cluster.settle()
    assert check_calls(cluster) == {"result": 2}
    assert set(client.outcomes) == {(seq, 0), (seq, 1)}


def test_an_engine_that_was_killed_ends_its_calls_and_nobody_elses() -> None:
    cluster = SimulatedCluster(5, engines=2, clients=1, supervised=True)
    cluster.run(0.3)
    client = cluster.clients[0]
    lost = client.submit([0], Work(seconds=5.0))
    kept = client.submit([1], Work(seconds=5.0))
    cluster.run(1.0)
    cluster.kill_engine(cluster.engines[0])
    cluster.run(0.5)
    assert [outcome.how for outcome in client.outcomes[lost, 0]] == ["gone"]
    assert client.outcomes[lost, 0][0].started
    assert client.engine_ids == [1]
    cluster.settle()
    assert client.outcomes[kept, 1][0].how == "result"


def test_an_abort_reaches_calls_wherever_they_are() -> None:
    """Held by credit, waiting in the controller, queued, running, suspended: each ends as aborted."""
    cluster = SimulatedCluster(6, engines=1, clients=2, supervised=True, credit_calls=300)
    cluster.run(0.3)
    first, second = cluster.clients
    works = [Work(30.0, True), Work(30.0), *[Work() for _ in range(400)]]
    seqs = [first.submit([0], work) for work in works]
    unharmed = second.submit([0], Work())
    cluster.run(0.5)
    first.abort([(seq, 0) for seq in seqs])
    cluster.run(2.0)
    assert {outcome.how for (outcome,) in first.outcomes.values()} == {"aborted"}
    cluster.settle()
    assert check_calls(cluster) == {"aborted": len(seqs), "result": 1}
    assert second.outcomes[unharmed, 0][0].how == "result"
    assert len(cluster.engines[0].starts) == 3


def test_an_abort_outlives_a_lost_connection() -> None:
    cluster = SimulatedCluster(7, engines=1, clients=1, lease=60.0, engine_grace=60.0)
    cluster.run(0.3)
    client = cluster.clients[0]
    seq = client.submit([0], Work(30.0, True))
    cluster.run(0.5)
    with cluster.unreachable(client):
        cluster.run(0.1)
        client.abort([(seq, 0)])
    cluster.run(2.0)
    assert [outcome.how for outcome in client.outcomes[seq, 0]] == ["aborted"]


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_client_that_was_given_up_is_told_and_nothing_runs_twice(seed: int, crash: bool) -> None:
    """Its calls ran, and it never heard of that. The next controller has never met it."""
    cluster = SimulatedCluster(seed, engines=1, clients=1, lease=1.0)
    cluster.run(0.3)
    client, engine = cluster.clients[0], cluster.engines[0]
    seqs = [client.submit([0], Work()) for _ in range(5)]
    while not engine.starts:
        cluster.run(0.001)
    with cluster.unreachable(client):
        cluster.run(3.0)
        if crash:
            with cluster.controller_down():
                cluster.run(0.1)
    cluster.settle()
    check_calls(cluster)
    assert set(client.outcomes) == {(seq, 0) for seq in seqs}
    again = client.submit([0], Work())
    cluster.settle()
    assert client.outcomes[again, 0][0].how == "result"


def test_a_client_that_vanished_leaves_nothing_behind() -> None:
    cluster = SimulatedCluster(9, engines=2, clients=2, supervised=True)
    cluster.run(0.3)
    leaving, staying = cluster.clients
    for _ in range(50):
        leaving.submit([0, 1], Work(0.1, argument_bytes=2000, result_bytes=2000))
    cluster.run(0.3)
    cluster.crash_client(leaving)
    seq = staying.submit([0, 1], Work())
    cluster.settle()
    assert len(staying.outcomes) == 2
    assert staying.outcomes[seq, 0][0].how == "result"
    check_calls(cluster)
    assert len(cluster.engines[0].starts) < 50


def test_a_busy_engine_holds_up_its_own_calls_only() -> None:
    """Credit and transfers are per engine: the other engine gets its calls, large ones too."""
    cluster = SimulatedCluster(10, engines=2, clients=1, credit_calls=4, credit_bytes=3000)
    cluster.run(0.3)
    client = cluster.clients[0]
    client.submit([0], Work(seconds=20.0))
    shared = [client.submit([0, 1], Work(argument_bytes=9000)) for _ in range(10)]
    own = [client.submit([1], Work()) for _ in range(10)]
    cluster.run(5.0)
    assert all((seq, 1) in client.outcomes for seq in [*shared, *own])
    assert not any((seq, 0) in client.outcomes for seq in shared)
    cluster.settle()
    check_calls(cluster)


def test_a_stalled_clients_large_call_holds_up_nobody_else() -> None:
    """It stopped in the middle of its payload; other clients' calls to that engine go on."""
    cluster = SimulatedCluster(11, engines=1, clients=2, lease=60.0)
    cluster.run(0.3)
    stalled, other = cluster.clients
    stalled.submit([0], Work(argument_bytes=9000))
    while not any(call for c in cluster.engines[0].state._clients.values() for call in c.large):
        cluster.run(0.001)
    with cluster.frozen(stalled):
        seq = other.submit([0], Work(argument_bytes=2000))
        cluster.run(2.0)
        assert other.outcomes[seq, 0][0].how == "result"
    cluster.settle()
    check_calls(cluster)


def test_a_query_is_answered_or_its_failure_is() -> None:
    cluster = SimulatedCluster(12, engines=1, clients=1)
    cluster.run(0.3)
    client = cluster.clients[0]
    client.query(1, "status")
    cluster.run(0.1)
    assert client.answers[1].ok
    client.query(2, "status")
    cluster.cut(client, 0.0)
    cluster.run(1.0)
    assert 2 in client.answers
    client.query(3, "no such thing")
    cluster.run(0.1)
    assert not client.answers[3].ok
    assert "no such thing" in client.answers[3].value


# --- peers that misbehave -----------------------------------------------------------------------------


class Stranger(Peer):
    """Says hello in order, and then whatever it likes."""

    def __init__(self, cluster: SimulatedCluster, uuid: bytes, role: str, says: Sequence[Message]) -> None:
        self.role = role
        self.says = says
        self.expelled = False
        super().__init__(cluster, uuid)

    def _welcome(self, message: Welcome) -> None:
        for said in self.says:
            self.send(said, [b"x"] * frames_of(said))

    def _receive(self, message: Message, frames: Sequence[Any]) -> None:
        """Nothing is done about it."""

    def _lost(self) -> None:
        self.expelled = True
        self.end()


HONEST_CLIENT, HONEST_ENGINE = (3).to_bytes(16, "big"), (1).to_bytes(16, "big")
UUIDS = st.sampled_from([HONEST_CLIENT, HONEST_ENGINE, b"s" * 16, b"t" * 16])


def _is_bad_manners(message: Message) -> bool:
    """Neither what any client may do to all in order, nor pretending to be somebody: that takes its uuid."""
    if isinstance(message, Query):
        return message.what not in {"shutdown", "stop", "signal", "launch"}
    return not isinstance(message, Hello)


@given(
    seed=st.integers(0, 2**32),
    role=st.sampled_from(["client", "engine", "supervisor"]),
    says=st.lists(any_message(UUIDS).filter(_is_bad_manners), min_size=1, max_size=6),
)
@settings(max_examples=40 * TIMES, deadline=None, suppress_health_check=SLOW)
def test_a_peer_that_misbehaves_harms_nobody_else(seed: int, role: str, says: list[Message]) -> None:
    cluster = SimulatedCluster(seed, engines=2, clients=1)
    cluster.run(0.3)
    client = cluster.clients[0]
    assert (client.uuid, cluster.engines[0].uuid) == (HONEST_CLIENT, HONEST_ENGINE)
    for _ in range(4):
        client.submit([0, 1], Work(0.05, argument_bytes=2000, result_bytes=600))
    cluster.run(0.01)
    stranger = Stranger(cluster, b"s" * 16, role, says)
    cluster.run(1.0)
    client.submit([0, 1], Work())
    cluster.settle()
    cluster.check()
    stranger.end()
    cluster.run(5.0)
    ends = Counter(outcome.how for (outcome,) in client.outcomes.values() if outcome.right)
    assert ends == {"result": 10}
    assert all(len(set(engine.starts)) == len(engine.starts) for engine in cluster.engines)
    assert len(cluster.expelled) <= 1
    assert leftovers(None, [], [client.state]) == []


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("client", Submit(HONEST_CLIENT, 1, ())),
        ("client", Resume(HONEST_CLIENT, (), False)),
        ("client", Chunk(HONEST_CLIENT, 1, (0,), ARGUMENT, 0)),
        ("engine", Submit(b"s" * 16, 1, ())),
        ("engine", Resume(b"s" * 16, (), True)),
        ("supervisor", Engines((), ())),
        (
            "client",
            Hello(PROTOCOL_VERSION, "client", b"t" * 16, "simulated", 0, -1, b"", False, 1, "", "", b""),
        ),
    ],
)
def test_what_a_peer_may_not_say_costs_it_its_connection(role: str, message: Message) -> None:
    cluster = SimulatedCluster(13, engines=1, clients=1)
    cluster.run(0.3)
    stranger = Stranger(cluster, b"s" * 16, role, [message])
    cluster.run(1.0)
    assert stranger.expelled
    assert len(cluster.expelled) == 1


def test_garbage_costs_its_sender_the_connection() -> None:
    cluster = SimulatedCluster(14, engines=1, clients=2)
    cluster.run(0.3)
    bad, good = cluster.clients
    assert bad.connection is not None
    cluster._arrived(cluster.incarnation, (bad.connection.route, (b"garbage", [])))
    seq = good.submit([0], Work())
    cluster.run(0.1)
    assert len(cluster.expelled) == 1
    assert good.outcomes[seq, 0][0].how == "result"


# --- messages that come again, or in another order ------------------------------------------------------


class _Recorder:
    """Keeps what arrives at each peer of a cluster."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.heard: dict[bytes, list[tuple[bytes, list[bytes]]]] = {}
        for peer in (*cluster.engines, *cluster.clients):
            self._tap(peer)

    def _tap(self, peer: Peer) -> None:
        heard = self.heard.setdefault(peer.uuid, [])
        receive = peer._receive

        def tapped(message: Message, frames: Sequence[Any]) -> None:
            heard.append((encode(message), list(frames)))
            receive(message, frames)

        peer._receive = tapped  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(6 * TIMES))
def test_messages_that_come_again_or_late_break_no_machine(seed: int) -> None:
    """No transport that we use does that; no machine may fall over it all the same."""
    random = Random(seed)
    cluster = SimulatedCluster(seed, engines=2, clients=2)
    cluster.run(0.2)
    recorder = _Recorder(cluster)
    play(cluster, random, [lambda: cluster.cut(random.choice(cluster.engines))], steps=10, works=MIXED)
    cluster.settle()
    for peer in (*cluster.engines, *cluster.clients):
        heard = recorder.heard[peer.uuid]
        for header, frames in random.choices(heard, k=2 * len(heard)):
            message = decode(header)
            if isinstance(message, Goodbye):
                continue
            try:
                peer._receive(message, frames)
            except ProtocolError:
                pytest.fail(f"{message} was no surprise the first time")
            peer._work()
            if isinstance(peer, SimulatedEngine):
                check_engine(peer.state)
            elif isinstance(peer, SimulatedClient):
                check_client(peer.state)
    cluster.run(5.0)
    assert cluster.controller is not None
    check_controller(cluster.controller)
    for client in cluster.clients:
        assert all(len(outcomes) == 1 for outcomes in client.outcomes.values())
