"""Pure: which engine gets which of a client's balanced tasks, when, and what becomes of those that fail.

Tasks that may start stand in a backlog, and each engine is given a few of them ahead (how many is in
`directview._balancing_tasks`). Who returns results sooner is given more, so an engine that is busy with other
clients' work gets fewer by itself. A task is in one of these states:

======== ======================================== ================================================
state    until                                    then
======== ======================================== ================================================
GATED    what it depends on has ended             READY; or ended, if it can't be met any more
READY    an engine has room for it                GIVEN
GIVEN    it returns, or was cancelled             ended
GIVEN    it raises, or its engine dies            READY while it has retries, otherwise ended
GIVEN    its engine can't meet its conditions     READY, for other engines; ended when all refuse
GIVEN    its engine dies before it has begun      READY, without using up a retry
any      `cancel`; `timeout` while not GIVEN      ended
======== ======================================== ================================================

READY tasks are in *lanes* by where they may run, each lane first come, first served. Among the lanes that an
engine may serve, the oldest task goes first. Where no engine can come, nothing waits.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping

from directview._balancing_gates import CallId, Gate, Outcome
from directview._balancing_tasks import KILLS, State, Task, TaskEngine, Verdict, Where, Why

__all__ = ["Balancer"]


class _Lane:
    """READY tasks that may run in the same places."""

    __slots__ = ("engines", "tasks", "where")

    def __init__(self, where: Where, engines: frozenset[int]) -> None:
        self.where = where
        self.engines = engines
        """ids of the engines that may serve it now."""
        self.tasks: deque[Task] = deque()
        """In order; those that have ended meanwhile are still among them."""

    def add(self, tasks: list[Task]) -> None:
        """Put tasks, in order, behind the others; those that are older than these before them."""
        if self.tasks and self.tasks[0].number > tasks[0].number:
            self.tasks.extendleft(reversed(tasks))
        else:
            self.tasks.extend(tasks)

    def head(self) -> Task | None:
        """The next one."""
        tasks = self.tasks
        while tasks:
            if tasks[0].state is State.READY and tasks[0].lane is self.where:
                return tasks[0]
            tasks.popleft()
        return None


class Balancer:
    """The balancer of one client.

    `submit`, `cancel`, `note` and `set_engines` tell it what has happened; and so do, of tasks that an engine
    has, `returned`, `raised`, `unmet` and `lost`, which say whether the task has ended by that. `give` says
    which tasks go to which engines now, `verdicts` which have ended otherwise. Feed `tick` at
    `next_deadline()`.
    """

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        """Those that have not ended, by number."""
        self._engines: dict[int, TaskEngine] = {}
        self._returning: frozenset[int] = frozenset()
        """ids of engines that have died, and in whose place others are being started."""
        self._lanes: dict[Where, _Lane] = {}
        self._ready = 0
        self._gates: dict[CallId, list[Gate]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._verdicts: list[Verdict] = []
        self._turn = 0

    # --- what the user does ---------------------------------------------------------------------------

    def submit(self, tasks: Iterable[Task], now: float, gate: Gate | None = None) -> None:
        """Put tasks up, in the order of their numbers.

        Args:
            tasks: new ones.
            now: the time.
            gate: what they wait for. Of the calls that it still waits for, `note` is to tell.
        """
        tasks = list(tasks)
        for task in tasks:
            self.tasks[task.number] = task
            task.gate = gate
            task.kind.begin()
            self._start_clock(task, now)
        if gate is None:
            self._make_ready(tasks)
            return
        gate.tasks = {task.number: task for task in tasks}
        for id in gate.ids:
            self._gates.setdefault(id, []).append(gate)
        self._try_gate(gate)

    def cancel(self, number: int) -> Task | None:
        """End a task.

        Returns:
            The task, if an engine has it: it is to be ended there, and has ended when that is said.
        """
        task = self.tasks.get(number)
        if task is None:
            return None
        task.cancelled = True
        if task.state is State.GIVEN:
            return task
        self._end(task, "cancelled", "the call was cancelled")
        return None

    def note(self, id: CallId, outcome: Outcome) -> None:
        """A call has ended on which tasks may depend."""
        for gate in self._gates.pop(id, ()):
            gate.note({id: outcome})
            self._try_gate(gate)

    @property
    def gated(self) -> bool:
        """Whether tasks may depend on any call."""
        return bool(self._gates)

    def awaits(self, id: CallId) -> bool:
        """Whether a task may depend on this call."""
        return id in self._gates

    def _try_gate(self, gate: Gate) -> None:
        if not gate.tasks:
            return
        why = gate.impossible
        if why:
            for task in list(gate.tasks.values()):
                self._end(task, "impossible", why)
        elif gate.open:
            tasks, gate.tasks = list(gate.tasks.values()), {}
            self._make_ready(tasks)

    # --- what becomes of tasks that an engine has -----------------------------------------------------

    def returned(self, task: Task, duration: float | None, now: float) -> None:
        """It has ended on its engine, with success, or because it was cancelled.

        Args:
            task: the task.
            duration: seconds that it took there; None: unknown.
            now: the time.
        """
        self._take_back(task, duration, now)
        self._forget(task)

    def raised(self, task: Task, duration: float | None, now: float) -> bool:
        """It has raised an error. Returns whether that is its end."""
        self._take_back(task, duration, now)
        return self._failed(task, now)

    def unmet(self, task: Task, now: float) -> bool:
        """Its engine can't meet its conditions, and it has not run.

        Returns:
            Whether that is its end. If not, it goes to another engine; or, where there is none, a verdict
            follows.
        """
        self._take_back(task, None, now)
        if task.cancelled:
            self._forget(task)
            return True
        task.refused |= {task.uuid}
        self._ready_again(task, now)
        return False

    def lost(self, task: Task, now: float, *, started: bool, died: bool, returns: bool = False) -> bool:
        """Its engine can't answer for it any more.

        Args:
            task: the task.
            now: the time.
            started: it may have begun there.
            died: that engine is gone.
            returns: another is being started in its place.

        Returns:
            Whether that is its end.
        """
        self._take_back(task, None, now)
        if died:
            engine = self._engines.get(task.engine)
            if engine is not None and engine.uuid == task.uuid:
                del self._engines[task.engine]
                if returns:
                    self._returning |= {task.engine}
                self._serve_anew()
            if started:
                task.kills |= {task.uuid}
        if started:
            return self._failed(task, now)
        if task.cancelled:
            self._forget(task)
            return True
        task.avoided |= {task.uuid}
        self._ready_again(task, now)
        return False

    def _take_back(self, task: Task, duration: float | None, now: float) -> None:
        if duration is not None:
            task.kind.took(duration)
        engine = self._engines.get(task.engine)
        if engine is not None and engine.uuid == task.uuid:
            engine.give_back(task, now - task.given_at - (duration or 0.0))

    def _failed(self, task: Task, now: float) -> bool:
        if task.cancelled or not task.retries or len(task.kills) >= KILLS:
            self._forget(task)
            return True
        task.retries -= 1
        task.avoided |= {task.uuid}
        self._ready_again(task, now)
        return False

    def _ready_again(self, task: Task, now: float) -> None:
        self._start_clock(task, now)
        self._make_ready([task])

    # --- the backlog ----------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[int]:
        """The numbers of the tasks that no engine has."""
        return [task.number for task in list(self.tasks.values()) if task.state is not State.GIVEN]

    def _make_ready(self, tasks: list[Task]) -> None:
        """Put tasks that may start, in order, into their lanes."""
        groups: dict[Where, list[Task]] = {}
        for task in tasks:
            task.state = State.READY
            groups.setdefault(task.where, []).append(task)
        self._ready += len(tasks)
        for where, group in groups.items():
            lane = self._lanes.get(where)
            if lane is None:
                lane = self._lanes[where] = _Lane(where, self._serving(where))
            for task in group:
                task.lane = lane.where
            lane.add(group)
            if not lane.engines and not self._awaited(where):
                self._unserved(lane)

    def _awaited(self, where: Where) -> bool:
        """Whether an engine is being started that may serve these. One that calls are to follow never is."""
        ids, uuids, _ = where
        return uuids is None and bool(self._returning if ids is None else self._returning & ids)

    def _serving(self, where: Where) -> frozenset[int]:
        """ids of the engines that there are of these."""
        ids, uuids, out = where
        found = [
            engine.id
            for engine in self._engines.values()
            if (ids is None or engine.id in ids)
            and (uuids is None or engine.uuid in uuids)
            and engine.uuid not in out
        ]
        return frozenset(found)

    def _unserved(self, lane: _Lane) -> None:
        """No engine may serve this lane: its tasks try again where they have failed, or they end."""
        self._lanes.pop(lane.where, None)
        again: list[Task] = []
        for task in lane.tasks:
            if task.state is not State.READY or task.lane is not lane.where:
                continue
            if task.avoided:
                task.avoided = frozenset()
                again.append(task)
            else:
                self._end(task, *self._nowhere(task))
        self._ready -= len(again)
        self._make_ready(again)

    def _nowhere(self, task: Task) -> tuple[Why, str]:
        """Why no engine will come for a task."""
        targets, places, refused = task.where
        if refused and self._serving((targets, places, frozenset())):
            return "impossible", "no engine meets its conditions: each that it may run on has refused it"
        if places is not None:
            return (
                "impossible",
                "the engine of the calls that it is to follow is gone, or no target",
            )
        if targets is not None and self._engines:
            named = ", ".join(map(str, sorted(targets)))
            return "no engines", f"none is left of the engines that it may run on: {named}"
        return "no engines", "there are no engines any more"

    # --- engines --------------------------------------------------------------------------------------

    def set_engines(self, engines: Mapping[int, str], returning: Iterable[int] = ()) -> None:
        """These are the engines now.

        Args:
            engines: uuid in hex by id. A new uuid is a new engine, which has none of the tasks.
            returning: ids in whose places others are being started.
        """
        self._returning = frozenset(returning)
        for id, engine in list(self._engines.items()):
            if engines.get(id) != engine.uuid:
                del self._engines[id]
        for id, uuid in engines.items():
            if id not in self._engines:
                self._engines[id] = TaskEngine(id, uuid)
        self._serve_anew()

    def _serve_anew(self) -> None:
        for lane in list(self._lanes.values()):
            lane.engines = self._serving(lane.where)
            if not lane.engines and not self._awaited(lane.where):
                self._unserved(lane)

    # --- giving ---------------------------------------------------------------------------------------

    def give(self, now: float) -> list[tuple[Task, int]]:
        """The tasks that go to engines now, with the engines' ids.

        Each goes to the engine that has least to do, and among equals to the one whose last is oldest.
        """
        if not self._ready:
            return []
        given: list[tuple[Task, int]] = []
        engines = [
            (engine.work, engine.turn, engine.id) for engine in self._engines.values() if engine.may_have_room
        ]
        heapq.heapify(engines)
        while engines and self._ready:
            engine = self._engines[engines[0][2]]
            task = self._next_for(engine)
            if task is None:
                heapq.heappop(engines)
                continue
            self._ready -= 1
            self._turn += 1
            task.state, task.deadline = State.GIVEN, None
            engine.take(task, now)
            engine.turn = self._turn
            given.append((task, engine.id))
            heapq.heapreplace(engines, (engine.work, engine.turn, engine.id))
        return given

    def _next_for(self, engine: TaskEngine) -> Task | None:
        """The oldest task that this engine may run, taken out of its lane, if there is room for it."""
        oldest: Task | None = None
        empty: list[Where] = []
        for lane in self._lanes.values():
            task = lane.head()
            if task is None:
                empty.append(lane.where)
            elif engine.id in lane.engines and (oldest is None or task.number < oldest.number):
                oldest = task
        for where in empty:
            del self._lanes[where]
        if oldest is None or not engine.has_room(oldest.kind):
            return None
        return self._lanes[oldest.lane].tasks.popleft()

    # --- ends -----------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """The tasks that have ended without the word of an engine since the last time."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def abandon(self) -> list[Task]:
        """Everything ends.

        Returns:
            The tasks that no engine has. The others have ended when that is said of each.
        """
        ended = [task for task in self.tasks.values() if task.state is not State.GIVEN]
        for task in ended:
            self._forget(task)
        for task in self.tasks.values():
            task.cancelled = True
        return ended

    def _end(self, task: Task, why: Why, text: str) -> None:
        self._verdicts.append(Verdict(task, why, text))
        self._forget(task)

    def _forget(self, task: Task) -> None:
        if task.state is State.READY:
            self._ready -= 1
        elif task.state is State.GATED and task.gate is not None:
            task.gate.tasks.pop(task.number, None)
        task.state = State.ENDED
        task.kind.end()
        del self.tasks[task.number]

    # --- time -----------------------------------------------------------------------------------------

    def _start_clock(self, task: Task, now: float) -> None:
        if task.timeout is not None:
            task.deadline = now + task.timeout
            heapq.heappush(self._deadlines, (task.deadline, task.number))

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        deadlines = self._deadlines
        while deadlines:
            at, number = deadlines[0]
            task = self.tasks.get(number)
            if task is not None and task.deadline == at:
                return at
            heapq.heappop(deadlines)
        return None

    def tick(self, now: float) -> None:
        """End what has waited for too long."""
        at = self.next_deadline()
        while at is not None and at <= now:
            task = self.tasks[heapq.heappop(self._deadlines)[1]]
            gated = task.state is State.GATED
            waited = "what it depends on had not ended" if gated else "no engine had room for it"
            self._end(task, "timeout", f"{waited} within {task.timeout:g} s")
            at = self.next_deadline()
