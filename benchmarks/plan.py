"""Pure: what is still begun in the time that a run has.

Two rules keep a run short. What took a participant long in an earlier round is not repeated: its figure has
one round, and its ratios are made within that one. And nothing is begun that would, by what it took before,
end after the run's time; the first round goes in an order that puts first what the most promises need. In
that round none but directview takes much more than its share of the time that is left, so that a slow peer
leaves some to others.
"""

from __future__ import annotations

import math

__all__ = ["Plan", "TIME_IS_UP"]

TIME_IS_UP = "not measured: the time of this run was up"
_LEAST = 5.0
"""Seconds that whatever is begun gets at least."""
_LEAST_SHARE = 20.0
_SHARES = 2.0
"""How many times an equal share of the time one may take: most need much less."""


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
        self._turn_end = math.inf
        self._taken: dict[tuple[str, str], float] = {}

    def begin_turn(self, now: float, to_come: int | None) -> None:
        """Somebody's turn begins.

        Args:
            now: when.
            to_come: how many have no turn yet, with this one; None: it may take any time.
        """
        self._turn_end = math.inf
        if to_come is not None:
            self._turn_end = now + max(_LEAST_SHARE, _SHARES * (self._end - now) / to_come)

    def note(self, participant: str, what: str, seconds: float) -> None:
        """So long something took; the longest counts."""
        key = participant, what
        self._taken[key] = max(seconds, self._taken.get(key, 0.0))

    def repeats(self, participant: str, what: str) -> bool:
        """Whether it is short enough to be done again, or has not been done."""
        return self._taken.get((participant, what), 0.0) <= self._long

    def fits(self, participant: str, what: str, now: float) -> bool:
        """Whether it ends in time, if it takes as long as it did."""
        return now + self._taken.get((participant, what), 0.0) < min(self._end, self._turn_end)

    def patience(self, now: float) -> float:
        """Seconds to wait for the end of something that begins now."""
        return min(self._longest, max(_LEAST, min(self._end, self._turn_end) - now))

    def left(self, now: float) -> float:
        """Seconds until the time of the run, or of this turn, is up; negative after."""
        return min(self._end, self._turn_end) - now
