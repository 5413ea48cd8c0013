"""Pure: two runs of this harness, before and after a change. Names what got worse beyond noise.

A slower machine is no regression. Where a limit program did the same work in both runs, a figure counts as
worse only if it is also worse measured by that program in its own run; if not, it is reported as drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.figures import Figure, FigureName
from benchmarks.noise import MIN_ROUNDS, worse_by
from benchmarks.report import SUBJECT, Report

__all__ = ["Change", "Comparison", "compare"]

Finding = Literal["regression", "improvement", "drift", "same", "unclear"]
"""``unclear``: too few rounds on a side to tell change from noise."""


@dataclass(frozen=True)
class Change:
    """One figure of ours in both runs."""

    name: FigureName
    before: float
    after: float
    unit: str
    finding: Finding
    part: float
    """By what part it is worse (or better); 0 where nothing is said."""


@dataclass(frozen=True)
class Comparison:
    """What two runs say about a change."""

    changes: Sequence[Change]
    warnings: Sequence[str]
    """Why the two runs may not be comparable."""
    only_before: Sequence[FigureName]
    """Figures that the second run lacks."""

    @property
    def regressions(self) -> list[Change]:
        """What got worse."""
        return [change for change in self.changes if change.finding == "regression"]


def compare(before: Report, after: Report, limits: Mapping[str, Sequence[str]]) -> Comparison:
    """Compare two runs.

    Args:
        before: the run before the change.
        after: the run after it.
        limits: work → the limit programs that bound it.
    """
    changes = []
    missing = []
    for name in before.names():
        old, new = before.figures.get((name, SUBJECT)), after.figures.get((name, SUBJECT))
        if old is None:
            continue
        if new is None:
            missing.append(name)
        else:
            finding, part = _judge(old, new, _by_limit(before, after, name, limits.get(name.work, ())))
            changes.append(Change(name, old.value, new.value, old.unit, finding, part))
    return Comparison(changes, _warnings(before, after), missing)


_Rounds = tuple[Sequence[float], Sequence[float]]


def _judge(old: Figure, new: Figure, by_limit: _Rounds | None) -> tuple[Finding, float]:
    before, after = list(old.rounds.values()), list(new.rounds.values())
    if min(len(before), len(after)) < MIN_ROUNDS:
        return "unclear", 0.0
    lower = old.lower_is_better
    worse = worse_by(before, after, lower_is_better=lower)
    better = worse_by(after, before, lower_is_better=lower)
    part = worse or better or 0.0
    if not part:
        return "same", 0.0
    if by_limit is not None:
        first, second = by_limit if worse else by_limit[::-1]
        if worse_by(first, second, lower_is_better=True) is None:
            return "drift", part
    return ("regression" if worse else "improvement"), part


def _by_limit(before: Report, after: Report, name: FigureName, limits: Sequence[str]) -> _Rounds | None:
    """The figure, round by round, as a multiple of a limit's (larger is worse), in both runs."""
    for limit in limits:
        both = _multiples(before, name, limit), _multiples(after, name, limit)
        if all(both):
            return both
    return None


def _multiples(report: Report, name: FigureName, limit: str) -> list[float]:
    ours, bound = report.figures[name, SUBJECT], report.figures.get((name, limit))
    if bound is None:
        return []
    pairs = [(value, bound.rounds.get(number)) for number, value in ours.rounds.items()]
    if ours.lower_is_better:
        return [value / other for value, other in pairs if other]
    return [other / value for value, other in pairs if other and value]


def _warnings(before: Report, after: Report) -> list[str]:
    warnings = []
    for key in sorted({*before.machine, *after.machine} - {"load"}):
        old, new = before.machine.get(key), after.machine.get(key)
        if old != new:
            warnings.append(f"machine: {key} was {old}, is {new}")
    if before.depth != after.depth:
        warnings.append(
            f"depth was {before.depth}, is {after.depth}: works of the same name differ in length"
        )
    if min(before.rounds, after.rounds) < MIN_ROUNDS:
        warnings.append(f"fewer than {MIN_ROUNDS} rounds: change can't be told from noise")
    return warnings
