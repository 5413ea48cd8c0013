"""Between the balancer, which decides where a client's tasks go, and the client's core, which makes calls.

A balanced task is given to an engine as an ordinary call to that engine, whose context is the task: so all
that holds for calls (exactly once, resuming, credit, aborts) holds for tasks. A task has a number of its own,
from the same numbers as calls; its name stays what it is when it is tried again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from directview._balancing import Balancer
from directview._balancing_tasks import KILLS, Kind, Task, Verdict
from directview._client_calls import Call, Ended, Gone
from directview._metadata import CallMetadata
from directview._task_dependencies import Depended, gate, outcome_of
from directview.errors import ImpossibleDependency, NoEnginesRegistered, TaskAborted, TaskTimeout
from directview.result import AsyncResult
from directview.wire.messages import ABORTED, OK, EngineInfo
from directview.wire.parcels import Parcel

if TYPE_CHECKING:
    from directview._core import Core

__all__ = ["ANYWHERE", "Dispatching", "Wishes", "Work"]

ANYWHERE: Final = -1
"""In place of an engine's id in the name of a balanced call."""
_KINDS: Final = 1000
"""Functions whose durations are remembered."""


class Wishes(NamedTuple):
    """What the submitter of tasks wants of them."""

    kind: Kind
    """What they call."""
    targets: frozenset[int] | None
    after: Depended | None
    follow: Depended | None
    retries: int
    timeout: float | None


class Work:
    """What a task consists of: the context of a `Task`."""

    __slots__ = ("error", "index", "name", "parcel", "result", "said")

    def __init__(self, result: AsyncResult[Any], index: int, name: str, parcel: Parcel) -> None:
        self.result = result
        self.index = index
        """Its slot in the result."""
        self.name = name
        self.parcel = parcel
        self.error: Exception | None = None
        """Of the engine that died last while it had the task."""
        self.said = ""
        """Why an engine has refused it."""


class Dispatching:
    """The balanced tasks of one client. All of it happens on the client's loop.

    Args:
        core: the client's core.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._balancer = Balancer()
        self._kinds: OrderedDict[Hashable, Kind] = OrderedDict()
        self._lock = threading.Lock()
        self._engines: dict[int, EngineInfo] | None = None
        self.changed = False
        """Something has happened since the last `turn`."""
        self.gated = False
        """There may be tasks that depend on calls."""

    # --- what the user does ---------------------------------------------------------------------------

    def kind(self, key: Hashable, *, together: bool) -> Kind:
        """What is known of the tasks that call a function. On any thread.

        Args:
            key: stands for the function.
            together: it is a coroutine function.
        """
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = Kind(together)
                if len(self._kinds) > _KINDS:
                    self._kinds.popitem(last=False)
            else:
                self._kinds.move_to_end(key)
            return kind

    @property
    def waiting(self) -> list[int]:
        """The numbers of the tasks that no engine has. On any thread."""
        return self._balancer.waiting

    def submit(self, parcels: Sequence[Parcel], name: str, result: AsyncResult[Any], wishes: Wishes) -> None:
        """Put tasks up: one for each slot of `result`."""
        tasks = [
            Task(
                number,
                wishes.kind,
                Work(result, index, name, parcel),
                targets=wishes.targets,
                retries=wishes.retries,
                timeout=wishes.timeout,
            )
            for index, ((number, _), parcel) in enumerate(zip(result._calls, parcels, strict=True))
        ]
        self._take_engines()
        waits_for = gate(wishes.after, wishes.follow)
        self.gated |= waits_for is not None
        self._balancer.submit(tasks, time.monotonic(), waits_for)
        self.changed = True

    def cancel(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """End tasks.

        Returns:
            The calls by which engines have some of them, to be ended there: (seq, engine id).
        """
        self.changed = True
        tasks = [self._balancer.cancel(number) for number in numbers]
        return [(task.call, task.engine) for task in tasks if task is not None]

    def abandon(self, error: Exception) -> None:
        """Nothing goes on: what no engine has ends in `error`, the others when their calls do."""
        for task in self._balancer.abandon():
            self._fail(task, error, "error")

    # --- what becomes of calls that are tasks ---------------------------------------------------------

    def ended(self, event: Ended) -> bool:
        """A task's call has ended on its engine. Whether the task has ended by that."""
        task: Task = event.call.context
        item = event.item
        now = time.monotonic()
        duration = max(0.0, item.completed - item.started) if item.started > 0.0 else None
        self.changed = True
        if item.status == OK or item.status == ABORTED:
            self._balancer.returned(task, duration if item.status == OK else None, now)
            return True
        told = event.parcel.options if event.parcel is not None else {}
        if told.get("ename") == "UnmetDependency":
            task.context.said = str(told.get("evalue", ""))
            return self._balancer.unmet(task, now)
        return self._balancer.raised(task, duration, now)

    def gone(self, event: Gone) -> tuple[bool, str]:
        """A task's call can't be answered any more.

        Returns:
            Whether the task has ended by that; and the reason, for the error.
        """
        task: Task = event.call.context
        self.changed = True
        died = bool(event.uuid) and event.uuid.hex() == task.uuid
        returns = event.postmortem.returns
        ended = self._balancer.lost(task, time.monotonic(), started=event.started, died=died, returns=returns)
        reason = event.reason
        if len(task.kills) >= KILLS:
            reason = (
                f"{reason}; {len(task.kills)} engines have died while they had this call of "
                f"{event.call.name}, so it is probably what ends them, and it is not tried again"
            )
        return ended, reason

    def note(self, result: AsyncResult[Any], slot: int) -> None:
        """A call has ended, of whatever kind: tasks may depend on it."""
        outcome = outcome_of(result, slot)
        id = result._calls[slot]
        if outcome is not None and self._balancer.awaits(id):
            self._balancer.note(id, outcome)
            self.gated = self._balancer.gated
            self.changed = True

    # --- turns ----------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Give engines what they are to have now, and say what has ended."""
        core = self._core
        while self.changed or core.engines is not self._engines:
            self.changed = False
            self._take_engines()
            given = self._balancer.give(time.monotonic())
            for verdict in self._balancer.verdicts():
                self._say(verdict)
            if given:
                core.call_engines(given)

    def _take_engines(self) -> None:
        engines = self._core.engines
        if engines is not self._engines:
            self._engines = engines
            uuids = {id: info.uuid.hex() for id, info in engines.items()}
            self._balancer.set_engines(uuids, self._core.returning)

    def calls(self, given: Sequence[tuple[Task, int]], numbers: Iterator[int]) -> list[Call]:
        """The calls by which engines are given tasks."""
        calls: list[Call] = []
        for (task, engine), seq in zip(given, numbers, strict=False):
            work: Work = task.context
            task.call = seq
            work.result._is_at(work.index, engine)
            calls.append(Call(seq, work.name, (engine,), work.parcel, task))
        return calls

    def name_of(self, call: Call) -> int:
        """The number of the task that is given to an engine as this call."""
        work: Work = call.context.context
        return work.result._calls[work.index][0]

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._balancer.next_deadline()

    def tick(self, now: float) -> None:
        """Do what has become due."""
        self._balancer.tick(now)
        self.changed = True

    # --- ends -----------------------------------------------------------------------------------------

    def _say(self, verdict: Verdict) -> None:
        task, why, text = verdict
        work: Work = task.context
        error: Exception
        match why:
            case "cancelled":
                self._fail(task, TaskAborted(f"{work.name} was cancelled"), "aborted")
                return
            case "timeout":
                error = TaskTimeout(f"{work.name} was not started: {text}")
            case "impossible":
                said = f" ({work.said})" if work.said else ""
                error = ImpossibleDependency(f"{work.name} was not run: {text}{said}")
            case "no engines":
                error = work.error or NoEnginesRegistered(f"{work.name} was not run: {text}")
        self._fail(task, error, "error")

    def _fail(self, task: Task, error: Exception, status: str) -> None:
        work: Work = task.context
        metadata = CallMetadata(None, "", None, None, time.time(), status)
        work.result._deliver_error(work.index, metadata, error)
        self._core.delivered(work.result, work.index)
