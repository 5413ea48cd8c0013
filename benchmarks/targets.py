"""Pure: what directview promises, judged from the figures of one run.

A promise beside a peer or a limit program is a ratio within the run, never a figure from another day or
machine. A promise has one or more conditions, and is kept if all of them are. What was not measured is
neither reached nor missed, and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from benchmarks.figures import UNITS, Figure, FigureName
from benchmarks.works import ENGINES, MB

__all__ = [
    "TARGETS",
    "AtLeast",
    "AtMost",
    "Condition",
    "Cores",
    "Finding",
    "Ratio",
    "State",
    "Target",
    "TimesBetter",
    "Verdict",
    "judge",
]

_US = "directview"
_SOCKETS = "directview-sockets"
_FLAT = 4 * MB
"""Growth below which memory counts as flat: four bytes a call in a million calls, no more than what the
allocator itself sways by."""

State = Literal["reached", "missed", "not measured"]


class Findings(Protocol):
    """What a judge asks of a report."""

    machine: dict[str, Any]

    def figure(self, work: str, what: str, peer: str = ..., /) -> Figure | None: ...
    def times_better(self, name: FigureName, peer: str, than: str = ..., /) -> float | None: ...
    def why_not(self, work: str, peer: str, /) -> str: ...
    def asked(self, work: str, /) -> bool: ...


@dataclass(frozen=True)
class TimesBetter:
    """At least so many times better than a peer or limit program, in the same run."""

    text: str
    work: str
    what: str
    peer: str
    bound: float
    who: str = _US
    """Directview, or one of its variants."""


@dataclass(frozen=True)
class AtMost:
    """A figure of our own that must not be larger."""

    text: str
    work: str
    what: str
    bound: float
    who: str = _US
    instead: str = ""
    """The work that stands for it in the quick form."""


@dataclass(frozen=True)
class AtLeast:
    """A figure of our own that must not be smaller."""

    text: str
    work: str
    what: str
    bound: float
    who: str = _US


@dataclass(frozen=True)
class Ratio:
    """A figure of one work in parts of the same of another, which must not be larger."""

    text: str
    work: str
    other: str
    what: str
    bound: float


@dataclass(frozen=True)
class Cores:
    """A rate that must be at least a part of the cores times what one process does."""

    text: str
    work: str
    instead: str
    one: str
    """The limit program that is one process."""
    seconds: float
    """What an item must take at least, for this to be promised."""
    bound: float


Condition = TimesBetter | AtMost | AtLeast | Ratio | Cores


@dataclass(frozen=True)
class Target:
    """One line of what is promised."""

    title: str
    conditions: Sequence[Condition]


@dataclass(frozen=True)
class Finding:
    """Whether a condition holds."""

    text: str
    state: State
    value: float | None
    bound: float
    unit: str
    """Of value and bound: ``×`` for a ratio."""
    why: str = ""
    """Why it was not measured."""
    beside: tuple[float, ...] = ()
    """What belongs to it: of a ratio, our figure and the other's; of a rate, the p99 of single calls."""
    beside_unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a target was reached, condition by condition."""

    title: str
    state: State
    findings: Sequence[Finding]


def _beside_limit(operation: str) -> TimesBetter:
    return TimesBetter(
        f"{operation}: ≥ 80 % of two copies in shared memory",
        f"{operation}-100MB",
        "throughput",
        "two-copy",
        0.8,
    )


def _beside_peers(operation: str) -> list[TimesBetter]:
    return [
        TimesBetter(f"{operation}: ≥ {times} × {name}", f"{operation}-100MB", "throughput", peer, times)
        for peer, name, times in (("ipyparallel", "ipyparallel", 20), ("ray", "Ray", 5), ("mpi", "MPI", 5))
    ]


def _beside_relay(work: str, said: str) -> TimesBetter:
    return TimesBetter(
        f"{said}: ≥ 80 % of the bare chunked relay", work, "throughput", "chunked-relay", 0.8, _SOCKETS
    )


def _flat(who: str) -> AtMost:
    return AtMost(f"{who}: grows by ≤ 4 MB", "growth-1000000", who, _FLAT, instead="growth-200000")


TARGETS: Sequence[Target] = (
    Target(
        "no-op call on 1 engine, median",
        [
            TimesBetter("≤ 1/6 of ipyparallel's", "noop-1-sync", "p50", "ipyparallel", 6),
            TimesBetter("≤ 0.7 of Ray's", "noop-1-sync", "p50", "ray", 1 / 0.7),
            TimesBetter("≤ 1.3 × the bare relay's", "noop-1-sync", "p50", "bare-relay", 1 / 1.3),
        ],
    ),
    Target(
        "no-op call on 4 and on 16 engines",
        [
            TimesBetter("on 4: ≤ 1/10 of ipyparallel's", "noop-4-sync", "p50", "ipyparallel", 10),
            TimesBetter("on 16: ≤ 1/25 of ipyparallel's", "noop-16-sync", "p50", "ipyparallel", 25),
        ],
    ),
    Target(
        "burst of no-ops",
        [
            AtLeast("on 1 engine: ≥ 25 000 calls/s", "burst-1-sync-5000", "rate", 25_000),
            AtLeast("on 4 engines: ≥ 25 000 calls/s", "burst-4-sync-5000", "rate", 25_000),
            TimesBetter("≥ 50 × ipyparallel", "burst-4-sync-5000", "rate", "ipyparallel", 50),
            TimesBetter("≥ 5 × Ray", "burst-4-sync-5000", "rate", "ray", 5),
            TimesBetter("≥ 2.5 × ProcessPoolExecutor", "burst-4-sync-5000", "rate", "futures", 2.5),
        ],
    ),
    Target(
        "load-balanced map, chunksize 1",
        [AtLeast("≥ 18 000 tasks/s", "balanced-10000", "rate", 18_000)],
    ),
    Target(
        "10 000 concurrent awaits from a TaskGroup",
        [AtLeast("≥ 20 000 calls/s", "awaits-10000", "rate", 20_000)],
    ),
    Target(
        "map_sync over 1 000 000 items",
        [
            Cores("of ≥ 5 µs: ≥ 0.8 × cores", "busy-1000000", "busy-100000", "serial", 5e-6, 0.8),
            TimesBetter(
                "cheap ones: ≥ 0.7 of what pickling alone allows", "map-1000000", "rate", "pickling", 0.7
            ),
        ],
    ),
    Target(
        "scatter and gather of 100 MB",
        [
            each
            for operation in ("scatter", "gather")
            for each in (_beside_limit(operation), *_beside_peers(operation))
        ],
    ),
    Target(
        "push of 100 MB to each of 4",
        [
            AtLeast("≥ 8 GB/s delivered", "push-100MB", "throughput", 8e9),
            AtLeast("share() and push: ≥ 30 GB/s delivered", "share-100MB", "throughput", 30e9),
            TimesBetter("share() and push: more than Ray", "share-100MB", "throughput", "ray", 1),
            AtLeast("call with what was shared: ≥ 30 GB/s", "call-shared-100MB", "throughput", 30e9),
        ],
    ),
    Target(
        "call with a 100 MB argument",
        [AtLeast("≥ 4 GB/s", "apply-100MB", "throughput", 4e9)],
    ),
    Target(
        "without shared memory, one controller hop",
        [
            _beside_relay("scatter-100MB", "scatter of 100 MB"),
            _beside_relay("gather-100MB", "gather of 100 MB"),
            _beside_relay("push-1GB-to-1", "push of 1 GB to one"),
            AtMost("1 GB: controller grows by ≤ 50 MB", "push-1GB-to-1", "controller", 50 * MB, _SOCKETS),
        ],
    ),
    Target(
        "start",
        [
            AtMost("4 engines: ≤ 0.5 s", "start-4", "seconds", 0.5),
            AtMost("64 engines: ≤ 1 s", "start-64", "seconds", 1.0),
        ],
    ),
    Target(
        "memory",
        [
            AtMost("4 engines, all processes: ≤ 100 MB (PSS)", "memory-4", "total", 100 * MB),
            AtMost("each further idle engine: ≤ 7 MB (PSS)", "memory-16", "further", 7 * MB),
        ],
    ),
    Target(
        "1 000 engines (simulated peers, real sockets)",
        [
            AtMost("registered in ≤ 5 s", "simulated-1000", "register", 5.0),
            Ratio("a call per engine: ≤ 1.3 × that with 10", "simulated-1000", "simulated-10", "each", 1.3),
        ],
    ),
    Target(
        "1 000 000 calls, memory after the first 50 000",
        [_flat("client"), _flat("controller"), _flat("engine")],
    ),
)
"""What is to be reached, line by line."""


def judge(target: Target, findings: Findings) -> Verdict:
    """Judge one target.

    Args:
        target: what was promised.
        findings: what was measured.
    """
    found = [_judge(condition, findings) for condition in target.conditions]
    states = {finding.state for finding in found}
    order: tuple[State, ...] = ("missed", "not measured", "reached")
    return Verdict(target.title, next(state for state in order if state in states), found)


def _judge(condition: Condition, findings: Findings) -> Finding:
    match condition:
        case TimesBetter():
            return _judge_ratio(condition, findings)
        case AtMost() | AtLeast():
            return _judge_figure(condition, findings)
        case Ratio(text=text, bound=bound):
            ours = findings.figure(condition.work, condition.what)
            other = findings.figure(condition.other, condition.what)
            if ours is None or other is None or not other.value:
                return _unknown(condition, "×", findings, condition.work if ours is None else condition.other)
            return _found(text, ours.value / other.value, bound, "×", most=True)
        case Cores():
            return _judge_cores(condition, findings)


def _judge_ratio(condition: TimesBetter, findings: Findings) -> Finding:
    name = FigureName(condition.work, condition.what)
    value = findings.times_better(name, condition.peer, condition.who)
    if value is None:
        ours = findings.figure(condition.work, condition.what, condition.who)
        who = condition.who if ours is None else condition.peer
        return _unknown(condition, "×", findings, condition.work, who)
    both = [findings.figure(condition.work, condition.what, who) for who in (condition.who, condition.peer)]
    figures = tuple([figure.value for figure in both if figure is not None])
    return _found(
        condition.text, value, condition.bound, "×", beside=figures, beside_unit=UNITS[condition.what]
    )


def _judge_figure(condition: AtMost | AtLeast, findings: Findings) -> Finding:
    most = isinstance(condition, AtMost)
    text = condition.text
    figure = findings.figure(condition.work, condition.what, condition.who)
    if figure is None and isinstance(condition, AtMost) and condition.instead:
        figure = findings.figure(condition.instead, condition.what, condition.who)
        text = f"{text} (measured: {condition.instead})"
    if figure is None:
        instead = condition.instead if isinstance(condition, AtMost) else ""
        return _unknown(condition, "", findings, condition.work, condition.who, instead)
    tail = findings.figure(condition.work, "p99", condition.who) if figure.unit == "1/s" else None
    beside = () if tail is None else (tail.value,)
    return _found(text, figure.value, condition.bound, figure.unit, most=most, beside=beside, beside_unit="s")


def _judge_cores(condition: Cores, findings: Findings) -> Finding:
    cores = min(int(findings.machine.get("cores", 1)), ENGINES)
    for work in (condition.work, condition.instead):
        one = findings.figure(work, "rate", condition.one)
        speedup = findings.times_better(FigureName(work, "rate"), condition.one)
        if one is None or speedup is None:
            continue
        if one.value * condition.seconds > 1:
            why = f"an item took {1e6 / one.value:.1f} µs only"
            return Finding(condition.text, "not measured", None, condition.bound * cores, "×", why)
        return _found(condition.text, speedup, condition.bound * cores, "×")
    return _unknown(condition, "×", findings, condition.work, instead=condition.instead)


def _found(
    text: str,
    value: float,
    bound: float,
    unit: str,
    *,
    most: bool = False,
    beside: tuple[float, ...] = (),
    beside_unit: str = "",
) -> Finding:
    state: State = "reached" if (value <= bound if most else value >= bound) else "missed"
    return Finding(text, state, value, bound, unit, beside=beside, beside_unit=beside_unit)


def _unknown(
    condition: Condition, unit: str, findings: Findings, work: str, who: str = _US, instead: str = ""
) -> Finding:
    if instead and not findings.asked(work):
        work = instead
    why = findings.why_not(work, who) or "there is no figure"
    return Finding(condition.text, "not measured", None, condition.bound, unit, why)
