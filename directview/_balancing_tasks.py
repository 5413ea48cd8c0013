"""Pure: balanced tasks, what is known of the functions that they call, and what an engine has of them.

How many tasks an engine is given ahead depends on how long they take. One that takes longer than `SHORT`
must not wait behind another while some engine is idle: there is one at a time. Of short ones an engine has
as many as it works off in `LATENCY`, the time in which a result gets here and another task there, and one
more. What a function takes is what its calls took: a long one counts at once, short ones little by little.
"""

from __future__ import annotations

import enum
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from directview._balancing_gates import Gate

__all__ = [
    "AT_ONCE", "KILLS", "LATENCY", "MOST_AHEAD", "SHORT", "Kind", "State", "Task", "TaskEngine", "Verdict",
    "Where", "Why",
]  # fmt: skip

LATENCY: Final = 0.005
"""Seconds of work that hide the way of a result to the client and of another task to the engine."""
SHORT: Final = 0.02
"""Seconds; a task that takes longer has its engine to itself."""
MOST_AHEAD: Final = 256
"""Tasks that an engine has at a time, at most."""
AT_ONCE: Final = 32
"""Coroutines that an engine has at a time: they run beside one another."""
KILLS: Final = 3
"""Engines that have died while they ran a task before it is believed that it is what kills them."""

_LEAST: Final = LATENCY / (MOST_AHEAD - 1)
"""What the shortest task weighs."""
_LONG: Final = 1.0
"""What a task weighs that has its engine to itself. Nothing is put beside it."""
_FADING: Final = 0.05
"""How much a duration counts that is shorter than those before."""
_SLOW: Final = 0.25
"""Seconds that a task may wait on its engine before that is held to be busy with other things."""

Where: TypeAlias = tuple[frozenset[int] | None, frozenset[str] | None, frozenset[str]]
"""ids of engines (None: all); uuids of engines (None: all); and uuids of engines to be left out."""
Why: TypeAlias = Literal["impossible", "timeout", "no engines", "cancelled"]


class Kind:
    """Tasks that call the same function.

    What they took is forgotten when none is left: with other arguments the next ones may take much longer,
    and it takes but one result to know again.

    Args:
        together: they run beside one another on an engine: coroutines.
    """

    __slots__ = ("_mean", "_tasks", "together")

    def __init__(self, together: bool = False) -> None:
        self._mean: float | None = None
        self._tasks = 0
        self.together = together

    def begin(self) -> None:
        """There is one more of them."""
        self._tasks += 1

    def end(self) -> None:
        """There is one less of them."""
        self._tasks -= 1
        if not self._tasks:
            self._mean = None

    def took(self, duration: float) -> None:
        """One of them has ended; `duration` in seconds."""
        mean = self._mean
        if mean is None or duration > mean:
            self._mean = duration
        else:
            self._mean = mean + _FADING * (duration - mean)

    @property
    def weight(self) -> float:
        """Seconds for which one of them occupies its engine, as far as that is known."""
        if self.together:
            return LATENCY / AT_ONCE
        mean = self._mean
        return _LONG if mean is None or mean > SHORT else max(mean, _LEAST)

    @property
    def ahead(self) -> int:
        """How many of them an engine has at a time that does nothing else."""
        if self.together:
            return AT_ONCE
        weight = self.weight
        return 1 if weight >= _LONG else min(1 - int(-LATENCY // weight), MOST_AHEAD)


class State(enum.Enum):
    """Where a task is; the table is in `directview._balancing`."""

    GATED = enum.auto()
    READY = enum.auto()
    GIVEN = enum.auto()
    ENDED = enum.auto()


class Task:
    """One task, until it has ended.

    Args:
        number: its own; the lower ones are older.
        kind: what it calls.
        context: whatever the submitter wants to find again.
        targets: ids of the engines where it may run; None: all.
        retries: how often it may be begun again after it has failed.
        timeout: seconds that it may wait to be given to an engine; None: for ever.
    """

    __slots__ = (
        "avoided", "call", "cancelled", "context", "deadline", "engine", "gate", "given_at", "kills", "kind",
        "lane", "number", "refused", "retries", "state", "targets", "timeout", "uuid", "weight",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        kind: Kind,
        context: Any,
        *,
        targets: frozenset[int] | None = None,
        retries: int = 0,
        timeout: float | None = None,
    ) -> None:
        self.number = number
        self.kind = kind
        self.context = context
        self.targets = targets
        self.retries = retries
        self.timeout = timeout
        self.state = State.GATED
        self.gate: Gate | None = None
        self.engine = -1
        """The id of the engine that has it, or had it last; -1: none."""
        self.uuid = ""
        """That engine's."""
        self.call = 0
        """The number of the call by which that engine has it; the submitter's own."""
        self.cancelled = False
        self.avoided: frozenset[str] = frozenset()
        """uuids of engines where it has failed: others are tried first."""
        self.refused: frozenset[str] = frozenset()
        """uuids of engines that can't meet its conditions."""
        self.kills: frozenset[str] = frozenset()
        """uuids of engines that died while they ran it."""
        self.deadline: float | None = None
        self.given_at = 0.0
        self.weight = 0.0
        self.lane: Where = (None, None, frozenset())

    @property
    def where(self) -> Where:
        """Where it may run next."""
        places = self.gate.places if self.gate is not None else None
        return self.targets, places, self.avoided | self.refused


class Verdict(NamedTuple):
    """A task ends, and not by the word of an engine that has it."""

    task: Task
    why: Why
    text: str


class TaskEngine:
    """An engine, and what it has of our tasks."""

    __slots__ = ("given", "id", "limit", "turn", "uuid", "work")

    def __init__(self, id: int, uuid: str) -> None:
        self.id = id
        self.uuid = uuid
        self.given = 0
        """Tasks that it has."""
        self.work = 0.0
        """What they weigh together."""
        self.limit = 1
        """Tasks that it may have: more with every result that comes soon, fewer when it lets us wait."""
        self.turn = 0
        """When it was last given one."""

    @property
    def may_have_room(self) -> bool:
        """Whether there are tasks for which it has room."""
        return not self.given or self.work < LATENCY + SHORT

    def has_room(self, kind: Kind) -> bool:
        """Whether it has room for a task of this kind."""
        if not self.given:
            return True
        if kind.together:
            return self.work < LATENCY
        return self.given < self.limit and self.work < LATENCY + min(kind.weight, SHORT)

    def take(self, task: Task, now: float) -> None:
        """It is given a task."""
        task.engine, task.uuid = self.id, self.uuid
        task.given_at = now
        task.weight = task.kind.weight
        self.given += 1
        self.work += task.weight

    def give_back(self, task: Task, waited: float) -> None:
        """It has a task no longer, which had to wait there for so many seconds before it began."""
        self.given -= 1
        self.work = self.work - task.weight if self.given else 0.0
        self.limit = min(self.limit + 1, MOST_AHEAD) if waited < _SLOW else max(self.limit // 2, 1)
