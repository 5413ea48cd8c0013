"""Pure: from what was measured to figures, and from figures of many rounds to one.

A figure is one number of one work, such as the p99 of ``noop-1-sync``. Each peer has one value per round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.noise import median, percentile
from benchmarks.works import MB, Kind, Work

__all__ = ["UNITS", "Figure", "FigureName", "Sample", "figures_of", "further_engine"]


class FigureName(NamedTuple):
    """Which number: of which work, and which of its figures."""

    work: str
    what: str

    def __str__(self) -> str:
        return f"{self.work} {self.what}"


@dataclass(frozen=True)
class Sample:
    """What one peer measured for one work in one round."""

    seconds: Sequence[float] = ()
    """One for each repetition."""
    single_calls: Sequence[float] = ()
    """Seconds of single calls within the repetitions, where they were timed too."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """Figures that were not measured by a clock, by name: bytes, or counts."""


UNITS: Mapping[str, str] = {
    "p50": "s",
    "p99": "s",
    "seconds": "s",
    "import": "s",
    "register": "s",
    "each": "s",
    "rate": "1/s",
    "throughput": "B/s",
    "processes": "",
    "total": "B",
    "client": "B",
    "controller": "B",
    "engine": "B",
    "further": "B",
}
"""By the name of the figure."""

_HIGHER_IS_BETTER = frozenset({"rate", "throughput"})


@dataclass
class Figure:
    """One number of one peer: its value in each round, by round number."""

    name: FigureName
    peer: str
    rounds: dict[int, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(list(self.rounds.values()))

    @property
    def unit(self) -> str:
        """``s``, ``1/s``, ``B/s``, ``B`` or nothing."""
        return UNITS[self.name.what]

    @property
    def lower_is_better(self) -> bool:
        """Times and sizes; not rates."""
        return lower_is_better(self.name.what)


def further_engine(
    figures: Mapping[tuple[FigureName, str], Figure], works: Sequence[Work], peer: str, number: int
) -> list[tuple[Work, float]]:
    """What each engine above the smallest number of them takes, from the memory of all processes in a round.

    Returns:
        Works of Kind.MEMORY with more engines than the smallest, and the bytes for each that they have more.
    """
    totals = []
    for work in works:
        figure = figures.get((FigureName(work.name, "total"), peer))
        if work.kind is Kind.MEMORY and figure is not None and number in figure.rounds:
            totals.append((work.engines, figure.rounds[number], work))
    totals.sort(key=lambda each: each[0])
    return [(work, (total - totals[0][1]) / (engines - totals[0][0])) for engines, total, work in totals[1:]]


def lower_is_better(what: str) -> bool:
    """Whether less of this is better: of times and sizes, not of rates."""
    return what not in _HIGHER_IS_BETTER


def figures_of(work: Work, sample: Sample) -> dict[str, float]:
    """The figures of one round, by name.

    Raises:
        ValueError: nothing was measured.
    """
    figures = dict(sample.sizes)
    match work.kind:
        case Kind.LATENCY:
            figures["p50"] = percentile(sample.seconds, 0.5)
            figures["p99"] = percentile(sample.seconds, 0.99)
        case Kind.RATE:
            figures["rate"] = work.amount / median(sample.seconds)
            if sample.single_calls:
                figures["p99"] = percentile(sample.single_calls, 0.99)
        case Kind.THROUGHPUT:
            if work.amount < MB:
                figures["seconds"] = median(sample.seconds)
            else:
                figures["throughput"] = work.amount / median(sample.seconds)
        case Kind.START | Kind.TIME:
            figures["seconds"] = median(sample.seconds)
        case Kind.FAN_OUT:
            figures["p50"] = percentile(sample.seconds, 0.5)
            figures["each"] = figures["p50"] / work.amount
        case Kind.MEMORY | Kind.GROWTH:
            pass
    if not figures:
        raise ValueError(f"{work.name}: nothing was measured")
    return figures


def times_better(ours: Figure, theirs: Figure) -> float | None:
    """How many times better `ours` is: the median over the rounds that both took part in.

    Within a round both were measured shortly after each other, so that what slows the machine down for
    minutes slows both.

    Returns:
        2.0 for half the time or twice the rate; None if no round has both, or one is zero.
    """
    ratios = []
    for number, value in ours.rounds.items():
        other = theirs.rounds.get(number)
        if other and value:
            ratios.append(other / value if ours.lower_is_better else value / other)
    return median(ratios) if ratios else None


__all__ += ["lower_is_better", "times_better"]
