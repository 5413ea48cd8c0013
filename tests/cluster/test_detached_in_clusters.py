"""Results of detached calls are kept whoever crashes, where the controller has a store: in virtual time."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest

from directview.testing.invariants import leftovers
from directview.testing.simulation import Outcome, SimulatedCluster, Work

TIMES = 100 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1
WORKS = [Work(), Work(0.005, result_bytes=5000), Work(0.005, coroutine=True), Work(fails=True)]


def check_fetched(cluster: SimulatedCluster) -> int:
    """What engines that live have run, and what clients have seen, can be fetched; how many that is."""
    found = 0
    engines = {engine.id: engine for engine in cluster.engines if engine.alive}
    for client in cluster.clients:
        for seq in client.detached:
            for id, engine in engines.items():
                ran = (client.uuid, seq) in engine.starts
                outcome = cluster.fetched(client, seq, id)
                assert outcome is None or outcome.right
                seen = client.outcomes.get((seq, id), [None])[0]
                if ran:
                    found += 1
                    assert outcome is not None, f"{seq} ran on {id} and its result is lost"
                    assert outcome.how != "gone", f"{seq} ran on {id}, and it is said that it can't be known"
                if seen is not None and seen.how == "result":
                    assert outcome == seen
    living = [engine.state for engine in engines.values()]
    assert leftovers(cluster.controller, living, [c.state for c in cluster.clients if c.alive]) == []
    return found


def crashes_after(steps: int, work: Work, seed: int) -> Outcome | None:
    """A detached call's client and controller are killed at once, so many steps after it was made."""
    cluster = SimulatedCluster(seed, engines=1, clients=1, store=0.1, lease=0.5)
    cluster.run(0.2)
    client = cluster.clients[0]
    seq = client.submit([0], work, detached=True)
    for _ in range(steps):
        cluster.clock.step()
        if (seq, 0) in client.outcomes and len(client.works) == 1:
            client.submit([0])  # With it goes the word that the result has been taken.
    cluster.crash_client(client)
    with cluster.controller_down():
        cluster.run(0.05)
    cluster.run(2.0)
    check_fetched(cluster)
    return cluster.fetched(client, seq, 0)


@pytest.mark.parametrize("work", WORKS, ids=["small", "chunks", "coroutine", "error"])
@pytest.mark.parametrize("seed", range(2 * TIMES))
def test_a_result_is_kept_whenever_client_and_controller_are_killed(work: Work, seed: int) -> None:
    """At any step between the call's making and the store's having written its result, and later."""
    ends = [crashes_after(steps, work, seed) for steps in range(0, 100, 1 if TIMES > 1 else 4)]
    assert ends[0] is None, "it had not been sent"
    assert all(end is not None and end.right for end in ends[-5:])


@pytest.mark.parametrize("seed", range(12 * TIMES))
def test_what_has_run_is_kept_whatever_fails(seed: int) -> None:
    """Clients and the controller crash, connections break, engines are away; only no engine is killed."""
    random = Random(seed)
    cluster = SimulatedCluster(
        seed, engines=2, clients=3, store=random.choice([0.001, 0.01, 0.1]), lease=4.0, engine_grace=60.0,
        most_untaken=random.choice([1, 6000, 256 << 20]), credit_calls=random.choice([2, 1024]),
    )  # fmt: skip
    cluster.run(0.3)

    def cut() -> None:
        clients = [client for client in cluster.clients if client.alive]
        cluster.cut(random.choice([*clients, *cluster.engines]), random.choice([0.001, 0.05, 0.5]))

    def crash() -> None:
        with cluster.controller_down():
            cluster.run(random.choice([0.0, 0.01, 0.3]))

    def kill() -> None:
        cluster.crash_client(random.choice(cluster.clients))
        cluster.add_client()

    def both() -> None:
        cluster.crash_client(random.choice(cluster.clients))
        crash()
        cluster.add_client()

    def away() -> None:
        with cluster.unreachable(random.choice(cluster.clients)):
            cluster.run(random.choice([0.1, 1.5, 4.5]))

    def engine_away() -> None:
        with cluster.unreachable(random.choice(cluster.engines)):
            cluster.run(random.choice([0.1, 1.0]))

    def leave() -> None:
        random.choice(cluster.clients).close()
        cluster.add_client()

    def abort() -> None:
        client = random.choice(cluster.clients)
        client.abort([(seq, id) for seq, call in client.state.calls.items() for id in call.targets])

    faults: list[Callable[[], None]] = [cut, cut, crash, kill, both, away, engine_away, leave, abort]
    for _ in range(40):
        clients = [client for client in cluster.clients if client.alive and client.engine_ids]
        if random.random() < 0.6 and clients:
            client = random.choice(clients)
            for _ in range(random.choice([1, 3])):
                client.submit(client.engine_ids, random.choice(WORKS), detached=random.random() < 0.8)
        else:
            random.choice(faults)()
        cluster.run(random.choice([0.0, 0.0005, 0.002, 0.01, 0.1]))
        cluster.check()
    cluster.settle(120.0)
    check_fetched(cluster)
