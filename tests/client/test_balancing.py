"""The balancer: who gets what, when, what becomes of tasks that fail; rule by rule, and at random."""

from __future__ import annotations

from typing import Any

import pytest

from directview._balancing import Balancer
from directview._balancing_gates import CallId, Condition, Gate, Outcome
from directview._balancing_tasks import AT_ONCE, KILLS, LATENCY, MOST_AHEAD, SHORT, Kind, State, Task


def engines(*ids: int) -> dict[int, str]:
    return {id: f"uuid{id}" for id in ids}


class World:
    """A balancer with engines, and the time."""

    def __init__(self, n: int = 2) -> None:
        self.balancer = Balancer()
        self.balancer.set_engines(engines(*range(n)))
        self.now = 100.0
        self.numbers = 0

    def tasks(self, n: int, kind: Kind | None = None, gate: Gate | None = None, **options: Any) -> list[Task]:
        """Submit some."""
        made = []
        for _ in range(n):
            self.numbers += 1
            made.append(Task(self.numbers, kind or Kind(), None, **options))
        self.balancer.submit(made, self.now, gate)
        return made

    def task(self, **options: Any) -> Task:
        return self.tasks(1, **options)[0]

    def give(self) -> list[tuple[int, int]]:
        """(number, engine) of what is given now."""
        return [(task.number, engine) for task, engine in self.balancer.give(self.now)]

    def verdicts(self) -> list[tuple[int, str]]:
        return [(verdict.task.number, verdict.why) for verdict in self.balancer.verdicts()]

    def returned(self, *tasks: Task, took: float = 1.0) -> None:
        self.now += took
        for task in tasks:
            self.balancer.returned(task, took, self.now)


def known(took: float) -> Kind:
    """A kind of tasks that take so many seconds."""
    kind = Kind()
    kind.took(took)
    return kind


# --- who gets what --------------------------------------------------------------------------------------


def test_each_engine_gets_one_task_of_which_nothing_is_known() -> None:
    world = World(3)
    world.tasks(5)
    assert world.give() == [(1, 0), (2, 1), (3, 2)]
    assert world.give() == []


def test_whoever_returns_a_task_gets_the_next() -> None:
    world = World(2)
    tasks = world.tasks(5)
    world.give()
    world.returned(tasks[1])
    assert world.give() == [(3, 1)]
    world.returned(tasks[2])
    assert world.give() == [(4, 1)]
    world.returned(tasks[0])
    assert world.give() == [(5, 0)]


def test_ties_are_broken_in_turn() -> None:
    world = World(3)
    where = []
    for _ in range(6):
        task = world.task()
        where += [engine for _, engine in world.give()]
        world.returned(task)
    assert where == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("took", "ahead"),
    [
        (10.0, 1),
        (SHORT * 1.01, 1),
        (SHORT, 2),
        (LATENCY, 2),
        (LATENCY / 4, 5),
        (1e-5, MOST_AHEAD),
        (0.0, MOST_AHEAD),
    ],
)
def test_short_tasks_are_given_ahead_to_hide_the_way(took: float, ahead: int) -> None:
    assert known(took).ahead == ahead


def test_a_long_duration_counts_at_once_and_short_ones_little_by_little() -> None:
    kind = known(0.001)
    kind.took(1.0)
    assert kind.ahead == 1
    for _ in range(20):
        kind.took(0.001)
    assert kind.ahead == 1
    for _ in range(200):
        kind.took(0.001)
    assert kind.ahead > 3


def test_what_tasks_took_is_forgotten_when_none_is_left() -> None:
    world = World(1)
    kind = Kind()
    (task,) = world.tasks(1, kind)
    world.give()
    assert world.balancer.raised(task, 0.001, world.now)
    assert kind.ahead == 1
    first, *_ = world.tasks(3, kind)
    world.give()
    world.returned(first, took=0.001)
    assert kind.ahead > 1


def test_what_an_engine_has_ahead_grows_with_each_result_that_comes_soon() -> None:
    world = World(1)
    tasks = world.tasks(20, known(0.0001))
    assert len(world.give()) == 1
    world.returned(tasks[0], took=0.0001)
    assert len(world.give()) == 2
    world.returned(*tasks[1:3], took=0.0001)
    assert len(world.give()) == 4


def test_an_engine_that_lets_us_wait_is_given_less() -> None:
    world = World(1)
    tasks = world.tasks(100, known(0.0001))
    while len(world.give()) < 8:
        world.returned(*[task for task in tasks if task.state is State.GIVEN], took=0.0001)
    waiting = [task for task in tasks if task.state is State.GIVEN]
    world.now += 10
    world.returned(*waiting, took=0.0001)
    assert len(world.give()) == 1


def test_nothing_waits_behind_a_long_task_while_an_engine_is_idle() -> None:
    world = World(2)
    world.tasks(1, known(5.0))
    short = world.tasks(4, known(0.0001))
    assert world.give() == [(1, 0), (2, 1)]
    world.returned(short[0], took=0.0001)
    assert {engine for _, engine in world.give()} == {1}


def test_coroutines_run_beside_one_another() -> None:
    world = World(2)
    world.tasks(3 * AT_ONCE, Kind(together=True))
    given = world.give()
    assert len(given) == 2 * AT_ONCE
    assert len([engine for _, engine in given if engine == 0]) == AT_ONCE


def test_targets_are_kept_and_the_oldest_goes_first() -> None:
    world = World(3)
    world.tasks(2, targets=frozenset({1}))
    world.tasks(2)
    assert sorted(world.give()) == [(1, 1), (3, 0), (4, 2)]


# --- failing --------------------------------------------------------------------------------------------


def test_what_raises_is_tried_again_elsewhere_as_often_as_is_said() -> None:
    world = World(3)
    task = world.task(retries=2)
    where = []
    for last in (False, False, True):
        where += [engine for _, engine in world.give()]
        assert world.balancer.raised(task, 0.1, world.now) is last
    assert sorted(where) == [0, 1, 2]
    assert world.give() == []
    assert not world.balancer.tasks


def test_where_there_is_no_other_engine_it_is_tried_again_on_the_same() -> None:
    world = World(1)
    task = world.task(retries=1)
    assert world.give() == [(1, 0)]
    assert not world.balancer.raised(task, 0.1, world.now)
    assert world.give() == [(1, 0)]
    assert world.balancer.raised(task, 0.1, world.now)


def test_what_may_have_run_on_an_engine_that_died_is_tried_again_only_with_retries() -> None:
    world = World(2)
    once, twice = world.task(), world.task(retries=1)
    world.give()
    assert world.balancer.lost(once, world.now, started=True, died=True)
    assert not world.balancer.lost(twice, world.now, started=True, died=False)
    assert world.give() == [(2, 1)]


def test_what_had_not_begun_on_an_engine_that_died_goes_elsewhere_without_a_retry() -> None:
    world = World(2)
    task = world.task()
    world.give()
    assert not world.balancer.lost(task, world.now, started=False, died=True)
    assert world.give() == [(1, 1)]


def test_what_has_killed_three_engines_is_not_tried_again() -> None:
    world = World(10)
    task = world.task(retries=100)
    for time in range(1, KILLS + 1):
        world.give()
        assert world.balancer.lost(task, world.now, started=True, died=True) is (time == KILLS)
    assert len(task.kills) == KILLS


def test_an_engine_that_refuses_costs_no_retry_and_when_all_refuse_it_is_impossible() -> None:
    world = World(2)
    task = world.task()
    (_, first), *_ = world.give()
    assert not world.balancer.unmet(task, world.now)
    (_, second), *_ = world.give()
    assert {first, second} == {0, 1}
    assert not world.balancer.unmet(task, world.now)
    assert world.verdicts() == [(1, "impossible")]


def test_after_refusals_and_failures_only_those_that_refused_are_left_out() -> None:
    world = World(2)
    task = world.task(retries=5)
    ((_, refused),) = world.give()
    world.balancer.unmet(task, world.now)
    for _ in range(3):
        ((_, other),) = world.give()
        assert other != refused
        assert not world.balancer.raised(task, 0.1, world.now)


# --- engines that come and go ---------------------------------------------------------------------------


def test_an_engine_that_joins_gets_tasks_at_once() -> None:
    world = World(1)
    world.tasks(3)
    world.give()
    world.balancer.set_engines(engines(0, 1))
    assert world.give() == [(2, 1)]


def test_when_the_last_engine_leaves_nothing_waits() -> None:
    world = World(1)
    tasks = world.tasks(3, retries=5)
    world.give()
    assert not world.balancer.lost(tasks[0], world.now, started=True, died=True)
    assert sorted(world.verdicts()) == [(1, "no engines"), (2, "no engines"), (3, "no engines")]


def test_when_all_of_its_targets_have_left_a_task_does_not_wait() -> None:
    world = World(3)
    world.tasks(3, targets=frozenset({1}))
    world.give()
    world.balancer.set_engines(engines(0, 2))
    verdicts = world.balancer.verdicts()
    assert [verdict.task.number for verdict in verdicts] == [2, 3]
    assert "may run on: 1" in verdicts[0].text


def test_an_engine_that_was_restarted_has_none_of_the_tasks_of_its_predecessor() -> None:
    world = World(1)
    old, _ = world.tasks(2, retries=1)
    world.give()
    world.balancer.set_engines({0: "another"})
    assert world.give() == [(2, 0)]
    assert not world.balancer.lost(old, world.now, started=True, died=True)
    assert world.give() == []
    assert world.verdicts() == []


# --- cancelling and time --------------------------------------------------------------------------------


def test_a_task_that_waits_never_starts_once_it_is_cancelled() -> None:
    world = World(1)
    first, second = world.tasks(2)
    world.give()
    assert world.balancer.cancel(second.number) is None
    assert world.verdicts() == [(2, "cancelled")]
    world.returned(first)
    assert world.give() == []


def test_a_task_that_an_engine_has_ends_when_the_engine_says_so_and_is_not_tried_again() -> None:
    world = World(2)
    task = world.task(retries=5)
    world.give()
    assert world.balancer.cancel(task.number) is task
    assert world.verdicts() == []
    assert world.balancer.raised(task, 0.1, world.now)
    assert world.balancer.cancel(task.number) is None


def test_the_time_to_be_given_to_an_engine_runs_from_the_submission_and_again_from_each_failure() -> None:
    world = World(1)
    first = world.task(retries=1, timeout=2.0)
    world.give()
    world.task(timeout=1.0)
    assert world.balancer.next_deadline() == world.now + 1.0
    world.balancer.tick(world.now + 0.99)
    assert world.verdicts() == []
    world.balancer.tick(world.now + 1.0)
    assert world.verdicts() == [(2, "timeout")]
    assert world.balancer.next_deadline() is None
    world.now += 10
    world.balancer.raised(first, 0.1, world.now)
    assert world.balancer.next_deadline() == world.now + 2.0


def test_when_all_is_given_up_the_tasks_that_no_engine_has_end() -> None:
    world = World(1)
    given, waiting = world.tasks(2, retries=5)
    world.give()
    assert world.balancer.abandon() == [waiting]
    assert world.balancer.lost(given, world.now, started=True, died=False)
    assert not world.balancer.tasks


# --- dependencies ---------------------------------------------------------------------------------------

A, B = (101, -1), (102, 3)
OK0, OK1, FAILED = Outcome(True, "uuid0"), Outcome(True, "uuid1"), Outcome(False, "uuid0")


def after(*ids: CallId, **options: bool) -> Gate:
    return Gate(Condition(ids, **options), None)


def follow(*ids: CallId, **options: bool) -> Gate:
    return Gate(None, Condition(ids, placed=True, **options))


def test_a_task_starts_when_all_have_ended_that_it_is_to_run_after() -> None:
    world = World()
    world.task(gate=after(A, B))
    assert world.give() == []
    assert world.balancer.awaits(A)
    world.balancer.note(A, OK0)
    assert world.give() == []
    world.balancer.note(B, OK0)
    assert world.give() == [(1, 0)]
    assert not world.balancer.awaits(A)


def test_what_has_ended_before_counts() -> None:
    world = World()
    gate = after(A)
    gate.note({A: OK0})
    world.task(gate=gate)
    assert world.give() == [(1, 0)]


@pytest.mark.parametrize(
    ("options", "outcomes", "ends"),
    [
        ({}, (OK0, FAILED), "impossible"),
        ({"all": False}, (FAILED, OK0), "runs"),
        ({"all": False}, (FAILED, FAILED), "impossible"),
        ({"all": False}, (OK0,), "runs"),
        ({"failure": True}, (OK0, FAILED), "runs"),
        ({"success": False, "failure": True}, (FAILED, FAILED), "runs"),
        ({"success": False, "failure": True}, (OK0,), "impossible"),
        ({"failure": True}, (FAILED,), "waits"),
    ],
)
def test_what_counts_as_ended_well(options: Any, outcomes: tuple[Outcome, ...], ends: str) -> None:
    world = World()
    world.task(gate=after(A, B, **options))
    for id, outcome in zip((A, B), outcomes, strict=False):
        world.balancer.note(id, outcome)
    given, verdicts = world.give(), world.verdicts()
    assert (given != []) is (ends == "runs")
    assert (verdicts != []) is (ends == "impossible")


def test_a_task_follows_to_the_engine_where_the_other_was() -> None:
    world = World(3)
    world.tasks(3, known(0.0001), gate=follow(A))
    world.balancer.note(A, OK1)
    assert world.give() == [(1, 1)]


def test_two_calls_that_were_on_different_engines_can_not_be_followed_but_one_of_them_can() -> None:
    world = World(3)
    world.task(gate=follow(A, B))
    world.task(gate=follow(A, B, all=False))
    world.balancer.note(A, OK1)
    world.balancer.note(B, OK0)
    assert world.verdicts() == [(1, "impossible")]
    assert world.give() == [(2, 1)]


def test_a_call_that_was_on_no_engine_can_not_be_followed() -> None:
    world = World()
    world.task(gate=follow(A, failure=True))
    world.balancer.note(A, Outcome(False, ""))
    assert world.verdicts() == [(1, "impossible")]


def test_when_the_engine_to_follow_to_has_left_a_task_does_not_wait() -> None:
    world = World(2)
    world.tasks(2, gate=follow(A))
    world.balancer.note(A, OK1)
    world.balancer.set_engines({0: "uuid0", 1: "another"})
    assert world.verdicts() == [(1, "impossible"), (2, "impossible")]


def test_a_task_that_waits_for_others_can_be_cancelled_and_its_time_can_run_out() -> None:
    world = World()
    first, _ = world.tasks(2, gate=after(A), timeout=1.0)
    world.balancer.cancel(first.number)
    assert world.verdicts() == [(1, "cancelled")]
    world.balancer.tick(world.now + 1)
    assert world.verdicts() == [(2, "timeout")]
    world.balancer.note(A, OK0)
    assert world.give() == []
