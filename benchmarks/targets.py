"""Pure: what directview promises, judged from the figures of one run.

A promise beside a peer is a ratio within the run, never a figure from another day or machine. A target
whose figures are missing is "not measured", which is neither reached nor missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from benchmarks.figures import Figure, FigureName
from benchmarks.works import MB

__all__ = ["TARGETS", "AtMost", "Target", "TimesBetter", "Verdict", "judge"]


class Find(Protocol):
    """Looks a figure up."""

    def __call__(self, work: str, what: str, peer: str = ..., /) -> Figure | None: ...


@dataclass(frozen=True)
class TimesBetter:
    """At least so many times better than a peer, in the same run."""

    title: str
    works: Sequence[str]
    """Beginnings of the names: the first one that was measured counts."""
    what: str
    peer: str
    bound: float


@dataclass(frozen=True)
class AtMost:
    """A figure of our own that must not be larger."""

    title: str
    works: Sequence[str]
    what: str
    bound: float


Target = TimesBetter | AtMost


@dataclass(frozen=True)
class Verdict:
    """Whether a target was reached."""

    title: str
    state: Literal["reached", "missed", "not measured"]
    value: float | None
    bound: float
    unit: str
    """Of value and bound: ``×`` for a ratio."""
    work: str
    """The work that was judged; empty if none was measured."""


TARGETS: Sequence[Target] = (
    TimesBetter("no-op on one engine: ≤ 1/3 of ipyparallel's time", ["noop-1-sync"], "p50", "ipyparallel", 3),
    TimesBetter(
        "burst of no-ops: ≥ 10 × ipyparallel's rate",
        ["burst-1-sync-5000", "burst-1-sync-500"],
        "rate",
        "ipyparallel",
        10,
    ),
    TimesBetter("scatter 100 MB: ≥ 4 × ipyparallel", ["scatter-100MB"], "throughput", "ipyparallel", 4),
    TimesBetter("gather 100 MB: ≥ 4 × ipyparallel", ["gather-100MB"], "throughput", "ipyparallel", 4),
    AtMost("four engines ready: < 1 s", ["start-4"], "seconds", 1.0),
    AtMost("four engines, all processes: ≤ 150 MB (PSS)", ["memory-4"], "total", 150 * MB),
    AtMost("1 GB pushed: controller grows by < 100 MB", ["push-1GB-to-1"], "controller", 100 * MB),
)
"""What is to be reached now, line by line."""


def judge(target: Target, find: Find, times_better: Callable[[FigureName, str], float | None]) -> Verdict:
    """Judge one target.

    Args:
        target: what was promised.
        find: looks a figure of ours up.
        times_better: how many times better we are than a peer, at a figure.
    """
    unit = "×"
    for work in target.works:
        figure = find(work, target.what)
        if figure is None:
            continue
        if isinstance(target, AtMost):
            value: float | None = figure.value
            unit = figure.unit
        else:
            value = times_better(figure.name, target.peer)
        if value is not None:
            reached = value <= target.bound if isinstance(target, AtMost) else value >= target.bound
            return Verdict(target.title, "reached" if reached else "missed", value, target.bound, unit, work)
    return Verdict(target.title, "not measured", None, target.bound, unit, "")
