"""Pure: what balanced tasks wait for: other calls that must have ended, or been somewhere, first.

A `Dependency` is what a user writes. A `Gate` is what the balancer keeps of it: all tasks of one submission
stand before the same gate, so that a map of ten thousand items that is to run after another such map costs
twenty thousand steps and not a hundred million.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

__all__ = ["CallId", "Condition", "Gate", "Outcome"]

CallId: TypeAlias = tuple[int, int]
"""(seq, engine id) of a call; a balanced one has -1 in place of the engine."""


class Outcome(NamedTuple):
    """How a call has ended."""

    ok: bool
    uuid: str
    """The engine's, in hex; empty: it ended without having been on one."""


class Condition:
    """When a set of calls is good enough.

    Args:
        ids: the calls.
        all: whether each of them must be, or any one.
        success: whether calls that succeeded count.
        failure: whether calls that failed count.
        placed: only calls that have been on an engine count: what follows them must know where.
    """

    __slots__ = ("_all", "_failure", "_hits", "_misses", "_open", "_placed", "_success", "_total", "places")

    def __init__(
        self,
        ids: Iterable[CallId],
        *,
        all: bool = True,
        success: bool = True,
        failure: bool = False,
        placed: bool = False,
    ) -> None:
        self._open = set(ids)
        self._total = len(self._open)
        self._all = all
        self._success = success
        self._failure = failure
        self._placed = placed
        self._hits = 0
        self._misses = 0
        self.places: set[str] = set()
        """uuids of the engines on which calls that count have been."""

    @property
    def open(self) -> frozenset[CallId]:
        """The calls that have not ended."""
        return frozenset(self._open)

    def note(self, id: CallId, outcome: Outcome) -> None:
        """A call has ended. One that isn't meant doesn't matter."""
        if id not in self._open:
            return
        self._open.remove(id)
        counts = self._success if outcome.ok else self._failure
        if counts and (outcome.uuid or not self._placed):
            self._hits += 1
            self.places.add(outcome.uuid)
        else:
            self._misses += 1

    @property
    def met(self) -> bool:
        """It is fulfilled."""
        return self._hits == self._total if self._all else self._hits > 0

    @property
    def impossible(self) -> bool:
        """It can't be fulfilled any more."""
        if self._placed and self._all and len(self.places) > 1:
            return True
        return self._misses > 0 if self._all else self._misses == self._total


class Gate:
    """What the tasks of one submission wait for.

    Args:
        after: must be met before they start; None: nothing.
        follow: likewise, and they run only where it was; None: anywhere.
    """

    __slots__ = ("_after", "_follow", "tasks")

    def __init__(self, after: Condition | None, follow: Condition | None) -> None:
        self._after = after
        self._follow = follow
        self.tasks: dict[int, Any] = {}
        """Those that stand before it, by number."""

    @property
    def _conditions(self) -> list[Condition]:
        return [condition for condition in (self._after, self._follow) if condition is not None]

    @property
    def ids(self) -> set[CallId]:
        """The calls that it still waits for."""
        return set[CallId]().union(*[condition.open for condition in self._conditions])

    def note(self, outcomes: Mapping[CallId, Outcome]) -> None:
        """These calls have ended."""
        for condition in self._conditions:
            for id, outcome in outcomes.items():
                condition.note(id, outcome)

    @property
    def open(self) -> bool:
        """Everything is met."""
        return all([condition.met for condition in self._conditions])

    @property
    def impossible(self) -> str:
        """Why it will never open; empty: it may."""
        if self._follow is not None and self._follow.impossible:
            if len(self._follow.places) > 1:
                return "the calls that it is to follow were on different engines"
            return "a call that it is to follow did not end as it should have, or was on no engine"
        if self._after is not None and self._after.impossible:
            return "a call that it is to run after did not end as it should have"
        return ""

    @property
    def places(self) -> frozenset[str] | None:
        """uuids of the engines where the tasks may run; None: anywhere."""
        return None if self._follow is None else frozenset(self._follow.places)
