"""Clients that take nothing for a while: what is kept and under way is bounded, and then all of it comes."""

from __future__ import annotations

import pytest

from directview.testing.invariants import leftovers
from directview.testing.simulation import SimulatedClient, SimulatedCluster, Work

MOST = 20_000


def cluster(seed: int, *, most: int = MOST, credit: int = 1024, lease: float = 60.0) -> SimulatedCluster:
    made = SimulatedCluster(
        seed, engines=2, clients=2, lease=lease, engine_grace=60.0, shared_memory=False,
        credit_calls=credit, most_untaken=most,
    )  # fmt: skip
    made.run(0.3)
    return made


def begin(cluster: SimulatedCluster, work: Work, n: int) -> list[int]:
    """The first client makes so many calls on both engines; some of them have ended. Their seqs."""
    client = cluster.clients[0]
    seqs = [client.submit([0, 1], work) for _ in range(n)]
    while not client.outcomes:
        cluster.run(0.0005)
    return seqs


def all_right(cluster: SimulatedCluster, client: SimulatedClient, n: int) -> None:
    """Every call has ended once, in its result, and nothing is left anywhere."""
    assert len(client.outcomes) == 2 * n
    assert all([outcome.how for outcome in outcomes] == ["result"] for outcomes in client.outcomes.values())
    assert all(outcome.right for (outcome,) in client.outcomes.values())
    for engine in cluster.engines:
        assert len(set(engine.starts)) == len(engine.starts)
    engines, clients = [e.state for e in cluster.engines], [c.state for c in cluster.clients]
    assert leftovers(cluster.controller, engines, clients) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("nbytes", "n"), [(300, 400), (5000, 60), (50_000, 8)])
def test_a_client_that_is_frozen_gets_all_when_it_goes_on(nbytes: int, n: int, seed: int) -> None:
    """Meanwhile another's calls go on; a controller that takes over changes nothing about either."""
    here = cluster(seed)
    first, second = here.clients
    begin(here, Work(result_bytes=nbytes), n)
    with here.frozen(first):
        here.run(1.0)
        if seed:
            with here.controller_down():
                here.run(0.1)
            here.run(3.0)
        ran = len(here.engines[0].starts)
        for engine in here.engines:
            client = engine.state._clients[first.uuid]
            assert client.untaken.paused
            assert client.untaken.kept <= MOST + nbytes + 2048
        for _ in range(50):
            second.submit([0, 1], Work(result_bytes=100))
        here.run(1.0)
        assert len(second.outcomes) == 100
        assert len(here.engines[0].starts) == ran + 50
    here.settle(300.0)
    all_right(here, first, n)


@pytest.mark.parametrize("crash", [False, True])
def test_calls_that_wait_for_their_client_can_be_cancelled(crash: bool) -> None:
    here = cluster(1, credit=64)
    first = here.clients[0]
    seqs = begin(here, Work(result_bytes=5000), 200)
    with here.frozen(first):
        here.run(1.0)
        if crash:
            with here.controller_down():
                here.run(0.1)
    first.abort([(seq, id) for seq in seqs[10:] for id in (0, 1)])
    here.settle()
    assert {outcome.how for seq in seqs[:10] for id in (0, 1) for outcome in first.outcomes[seq, id]} == {
        "result"
    }
    assert {outcome.how for (outcome,) in first.outcomes.values()} == {"result", "aborted"}
    engines, clients = [e.state for e in here.engines], [c.state for c in here.clients]
    assert leftovers(here.controller, engines, clients) == []


def test_a_client_that_does_not_come_back_leaves_nothing() -> None:
    here = cluster(2, lease=1.0)
    first, second = here.clients
    begin(here, Work(result_bytes=5000), 200)
    with here.frozen(first):
        here.run(0.5)
        assert all(engine.state._clients[first.uuid].parked for engine in here.engines)
    here.crash_client(first)
    here.settle()
    second.submit([0, 1], Work())
    here.settle()
    assert len(second.outcomes) == 2
    assert leftovers(here.controller, [e.state for e in here.engines], [second.state]) == []


@pytest.mark.parametrize("coroutine", [False, True])
def test_output_that_is_not_taken_stops_further_calls(coroutine: bool) -> None:
    """Those go on when it is, and nothing of what they print is missing."""
    here = cluster(3, most=1 << 28)
    first, second = here.clients
    begin(here, Work(0.001, coroutine, printed=5_000_000), 30)
    with here.frozen(first):
        here.run(1.0)
        for engine in here.engines:
            untaken = engine.state._clients[first.uuid].untaken
            assert untaken.paused
            assert 8 << 20 < untaken.output < 22 << 20
        second.submit([0, 1], Work())
        here.run(0.5)
        assert len(second.outcomes) == 2
    here.settle()
    all_right(here, first, 30)
    assert [engine.dropped for engine in here.engines] == [0, 0]
    assert set(first.printed.values()) == {5_000_000}
