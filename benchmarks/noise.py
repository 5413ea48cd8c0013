"""Pure: numbers that wobble. Medians, percentiles, and when two sets of figures really differ.

The machines that this runs on are shared: figures drift by tens of per cent within minutes. Two rules
follow. Whatever is compared is compared round by round, both sides of a ratio minutes apart at most; and a
change counts only if it exceeds what the rounds themselves differ by.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["MIN_ROUNDS", "median", "percentile", "spread", "worse_by"]

MIN_CHANGE = 0.10
"""A change below this part of the figure is never called one."""
MIN_ROUNDS = 3
"""With fewer on either side nothing can be told apart from noise."""


def median(values: Sequence[float]) -> float:
    """The middle one.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values to take the median of")
    return statistics.median(values)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` of all do not exceed (nearest rank).

    Args:
        values: any order; at least one.
        part: above 0, at most 1.

    Raises:
        ValueError: no values, or `part` out of range.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    if not 0 < part <= 1:
        raise ValueError(f"part: expected more than 0 and at most 1, got {part!r}")
    # The product may exceed a whole number by a rounding error: 0.07 * 100 is 7.000000000000001.
    return sorted(values)[math.ceil(round(part * len(values), 9)) - 1]


def spread(values: Sequence[float]) -> float:
    """How far rounds lie apart: (largest - smallest) / median; 0 for a single one."""
    middle = median(values)
    return (max(values) - min(values)) / abs(middle) if middle else 0.0


def worse_by(before: Sequence[float], after: Sequence[float], *, lower_is_better: bool) -> float | None:
    """By what part `after` is worse than `before`, if that is more than noise.

    It is if the medians differ by more than `MIN_CHANGE`, and every round after is worse than every round
    before. (With three rounds each, chance alone does that once in twenty comparisons; with five, once in
    252.)

    Args:
        before: the figure in each round of one run.
        after: in each round of the other.
        lower_is_better: for times and sizes; not for rates.

    Returns:
        0.25 if the later median is a quarter slower (or larger); for rates, if its inverse is. None if it
        is no worse, or if that may be chance: also with fewer than `MIN_ROUNDS` rounds on a side.
    """
    if min(len(before), len(after)) < MIN_ROUNDS:
        return None
    if lower_is_better:
        apart = min(after) > max(before)
        change = median(after) / median(before) - 1 if median(before) else math.inf
    else:
        apart = max(after) < min(before)
        change = median(before) / median(after) - 1 if median(after) else math.inf
    return change if apart and change > MIN_CHANGE else None
