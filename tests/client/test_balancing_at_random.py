"""Balancing with whatever may happen, in any order: every task ends once, and none waits for nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from directview._balancing import Balancer
from directview._balancing_gates import CallId, Condition, Gate, Outcome
from directview._balancing_tasks import Kind, State, Task


class Balancing(RuleBasedStateMachine):
    """Whatever users and engines do: a task ends once, is on one engine at a time, and where it may be."""

    submitted = Bundle("submitted")

    def __init__(self) -> None:
        super().__init__()
        self.balancer = Balancer()
        self.engines: dict[int, str] = {}
        self.now = 0.0
        self.numbers = 0
        self.incarnations = 0
        self.kinds = [Kind(), Kind(), Kind(together=True)]
        self.on: dict[int, tuple[Task, int, str]] = {}
        """Tasks that engines have: the task, and id and uuid of the engine."""
        self.ended: dict[int, Outcome] = {}
        self.wanted: dict[int, tuple[Gate | None, list[CallId], list[CallId]]] = {}
        self.refused: set[tuple[int, str]] = set()
        self.cancelled: set[int] = set()

    def end(self, task: Task, ok: bool, uuid: str) -> None:
        assert task.number not in self.ended, "a task has ended twice"
        self.ended[task.number] = Outcome(ok, uuid)
        self.balancer.note((task.number, -1), self.ended[task.number])

    def settle(self) -> None:
        """What a turn does."""
        while True:
            given = self.balancer.give(self.now)
            for task, engine in given:
                self.check_given(task, engine)
            verdicts = self.balancer.verdicts()
            for verdict in verdicts:
                assert verdict.task.number not in self.on, "a task that an engine has has ended otherwise"
                self.end(verdict.task, False, "")
            if not given and not verdicts:
                return

    def check_given(self, task: Task, engine: int) -> None:
        assert task.number not in self.on, "a task is on two engines"
        assert task.number not in self.ended, "a task that has ended was given to an engine"
        assert engine in self.engines
        assert task.targets is None or engine in task.targets
        assert (task.number, self.engines[engine]) not in self.refused, "it was given to where it was refused"
        assert task.number not in self.cancelled, "a cancelled task was given to an engine"
        _, waited_for, followed = self.wanted[task.number]
        for id in waited_for:
            assert self.ended[id[0]].ok
        for id in followed:
            assert self.ended[id[0]] == Outcome(True, self.engines[engine])
        self.on[task.number] = task, engine, self.engines[engine]

    @rule(
        target=submitted,
        n=st.integers(1, 5),
        kind=st.integers(0, 2),
        where=st.none() | st.frozensets(st.integers(0, 3), min_size=1),
        retries=st.integers(0, 2),
        timeout=st.none() | st.just(1.0),
        data=st.data(),
    )
    def submit(
        self,
        n: int,
        kind: int,
        where: frozenset[int] | None,
        retries: int,
        timeout: float | None,
        data: Any,
    ) -> int:
        earlier = [(number, -1) for number in range(max(1, self.numbers - 5), self.numbers + 1)]
        some = st.lists(st.sampled_from(earlier), max_size=2, unique=True) if earlier else st.just([])
        waited_for, followed = data.draw(some), data.draw(some)
        gate = None
        if waited_for or followed:
            gate = Gate(
                Condition(waited_for) if waited_for else None,
                Condition(followed, placed=True) if followed else None,
            )
            gate.note({id: self.ended[id[0]] for id in (*waited_for, *followed) if id[0] in self.ended})
        tasks = []
        for _ in range(n):
            self.numbers += 1
            options: Any = {"targets": where, "retries": retries, "timeout": timeout}
            tasks.append(Task(self.numbers, self.kinds[kind], None, **options))
            self.wanted[self.numbers] = gate, waited_for, followed
        self.balancer.submit(tasks, self.now, gate)
        self.settle()
        return self.numbers

    @rule(seconds=st.sampled_from([0.00001, 0.001, 0.03, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.balancer.tick(self.now)
        self.settle()

    @rule(ids=st.frozensets(st.integers(0, 3)), renewed=st.booleans())
    def engines_change(self, ids: frozenset[int], renewed: bool) -> None:
        """Some join, some leave, some are restarted, and what they had is lost."""
        before, self.engines = self.engines, {}
        for id in sorted(ids):
            self.incarnations += 1
            kept = before.get(id) if not renewed else None
            self.engines[id] = kept or f"uuid{self.incarnations}"
        self.balancer.set_engines(self.engines)
        for number, (task, id, uuid) in list(self.on.items()):
            if self.engines.get(id) != uuid:
                del self.on[number]
                if self.balancer.lost(task, self.now, started=number % 2 == 0, died=True):
                    self.end(task, False, uuid)
        self.settle()

    @rule(how=st.sampled_from(["returned", "raised", "unmet", "lost"]), data=st.data())
    def engine_answers(self, how: str, data: Any) -> None:
        if not self.on:
            return
        number = data.draw(st.sampled_from(sorted(self.on)))
        task, _, uuid = self.on.pop(number)
        match how:
            case "returned":
                self.balancer.returned(task, 0.001, self.now)
                self.end(task, True, uuid)
            case "raised":
                if self.balancer.raised(task, 0.001, self.now):
                    self.end(task, False, uuid)
            case "unmet":
                self.refused.add((number, uuid))
                if self.balancer.unmet(task, self.now):
                    self.end(task, False, uuid)
            case _:
                if self.balancer.lost(task, self.now, started=False, died=False):
                    self.end(task, False, uuid)
        self.settle()

    @rule(number=consumes(submitted))
    def cancel(self, number: int) -> None:
        self.cancelled.add(number)
        task = self.balancer.cancel(number)
        assert (task is not None) is (number in self.on)
        self.settle()
        assert number in self.on or number in self.ended

    @invariant()
    def tasks_are_open_or_ended(self) -> None:
        open_ones = set(self.balancer.tasks)
        assert open_ones.isdisjoint(self.ended)
        assert len(open_ones) + len(self.ended) == self.numbers
        assert set(self.on) <= open_ones

    @invariant()
    def no_engine_is_idle_while_a_task_may_run_there(self) -> None:
        busy = {engine for _, engine, _ in self.on.values()}
        for id in set(self.engines) - busy:
            for task in self.balancer.tasks.values():
                if task.state is State.READY:
                    targets, places, out = task.where
                    uuid = self.engines[id]
                    assert not (
                        (targets is None or id in targets)
                        and (places is None or uuid in places)
                        and uuid not in out
                    ), f"engine {id} could run task {task.number}"

    @invariant()
    def nothing_waits_where_there_is_no_engine(self) -> None:
        if not self.engines:
            assert all(task.state is not State.READY for task in self.balancer.tasks.values())

    def teardown(self) -> None:
        """In the end everything ends, with engines that work."""
        self.engines = {9: "last"}
        self.balancer.set_engines(self.engines)
        for number, (task, _, uuid) in list(self.on.items()):
            del self.on[number]
            if self.balancer.lost(task, self.now, started=True, died=True):
                self.end(task, False, uuid)
        self.settle()
        while self.on:
            for number, (task, _, uuid) in list(self.on.items()):
                del self.on[number]
                self.balancer.returned(task, 0.001, self.now)
                self.end(task, True, uuid)
            self.settle()
        assert not self.balancer.tasks
        assert len(self.ended) == self.numbers


TestBalancing = Balancing.TestCase
TestBalancing.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
