"""Pure: what is still begun in the time that a run has.

Two rules keep a run short. What took a participant long in an earlier round is not repeated: its figure has
one round, and its ratios are made within that one. And nothing is begun that would, by what it took before,
end after the run's time; the first round goes in an order that puts first what the most promises need.
"""

from __future__ import annotations

import math

__all__ = ["Plan", "TIME_IS_UP"]

TIME_IS_UP = "not measured: the time of this run was up"
_LEAST = 5.0
"""Seconds that whatever is begun gets at least."""


class Plan:
    """The time of one run.

    Args:
        begun: when it began, in seconds of any clock.
        budget: how many seconds it may take; infinity: any.
        long: seconds from which on something is not repeated.
        longest: seconds after which something that doesn't end is given up.
    """

    def __init__(self, begun: float, budget: float, long: float, longest: float) -> None:
        self._end = begun + budget
        self._long = long
        self._longest = longest
        self._taken: dict[tuple[str, str], float] = {}

    def note(self, participant: str, what: str, seconds: float) -> None:
        """So long something took; the longest counts."""
        key = participant, what
        self._taken[key] = max(seconds, self._taken.get(key, 0.0))

    def repeats(self, participant: str, what: str) -> bool:
        """Whether it is short enough to be done again, or has not been done."""
        return self._taken.get((participant, what), 0.0) <= self._long

    def fits(self, participant: str, what: str, now: float) -> bool:
        """Whether it ends in time, if it takes as long as it did."""
        return now + self._taken.get((participant, what), 0.0) < self._end

    def patience(self, now: float) -> float:
        """Seconds to wait for the end of something that begins now."""
        return min(self._longest, max(_LEAST, self._end - now))

    def left(self, now: float) -> float:
        """Seconds until the run's time is up; negative after."""
        return self._end - now if math.isfinite(self._end) else math.inf
