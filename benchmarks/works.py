"""Pure: the work. What is measured, how much of it at which depth, and what its figures are.

A work names an operation of `benchmarks.measuring`, which runs in the peer's own process and answers with
seconds. What is made of them depends on the work's kind:

========== ========================================== ===============================================
kind       a repetition is                            figures
========== ========================================== ===============================================
LATENCY    one call                                   p50, p99 (s)
RATE       `amount` calls or items                    rate (1/s); p99 (s) if single calls were timed
THROUGHPUT `amount` bytes delivered                   throughput (bytes/s); below 1 MB seconds (s)
START      a whole start, until all engines answer    seconds, and import before it (s)
MEMORY     (measured from outside)                    processes, total, client (bytes)
========== ========================================== ===============================================

`watch_controller` adds one more: how far the controller's memory was, at its peak, above what it was when
the engines had just started. (Not above what it was just before: memory that earlier work left behind
would hide what this work takes.)
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["WORKS", "Depth", "Kind", "Work", "choose"]

KB, MB, GB = 1_000, 1_000_000, 1_000_000_000
ENGINES = 4


class Depth(enum.IntEnum):
    """How much is measured."""

    QUICK = 0
    NORMAL = 1
    FULL = 2


class Kind(enum.Enum):
    """What is made of the measured seconds; the table is in the module's docstring."""

    LATENCY = "latency"
    RATE = "rate"
    THROUGHPUT = "throughput"
    START = "start"
    MEMORY = "memory"


@dataclass(frozen=True)
class Work:
    """One thing that is measured, the same for all."""

    name: str
    title: str
    kind: Kind
    operation: str
    """Name of a function in `benchmarks.measuring`; empty where nothing is run."""
    repetitions: Mapping[Depth, int]
    """Within one round, by depth; 0 leaves the work out."""
    params: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    amount: float = 1.0
    """Calls, items or bytes in one repetition."""
    engines: int = ENGINES
    limits: tuple[str, ...] = ()
    """Limit programs that do the same with nothing around it."""
    watch_controller: bool = False


def _reps(quick: int, normal: int, full: int) -> Mapping[Depth, int]:
    return MappingProxyType({Depth.QUICK: quick, Depth.NORMAL: normal, Depth.FULL: full})


def size_name(nbytes: int) -> str:
    """1 kB, 1 MB, 100 MB, 1 GB."""
    for unit, name in ((GB, "GB"), (MB, "MB"), (KB, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:g} {name}"
    return f"{nbytes} B"


def _starts() -> Iterable[Work]:
    for engines, reps in ((4, _reps(1, 1, 1)), (16, _reps(0, 0, 1)), (64, _reps(0, 0, 1))):
        yield Work(f"start-{engines}", f"start of {engines}", Kind.START, "", reps, engines=engines)
    yield Work("memory-4", "memory of 4", Kind.MEMORY, "", _reps(1, 1, 1))


_TARGETS = ((1, "1 engine"), (ENGINES, "4 engines"))
_WAYS = (("sync", "blocking"), ("await", "awaited"))
_RELAY = ("bare-relay",)


def _calls() -> Iterable[Work]:
    for n, where in _TARGETS:
        for way, said in _WAYS:
            yield Work(
                f"noop-{n}-{way}",
                f"no-op on {where}, {said}",
                Kind.LATENCY,
                f"latency_{way}",
                _reps(100, 500, 1500),
                {"engines": n},
                limits=_RELAY,
            )


def _many_calls() -> Iterable[Work]:
    """The number of calls is in the name: a rate belongs to it, and rates of different ones don't compare."""
    for n, where in _TARGETS:
        for way, said in _WAYS:
            for count, reps in ((500, _reps(2, 0, 0)), (5_000, _reps(0, 2, 3))):
                yield Work(
                    f"burst-{n}-{way}-{count}",
                    f"burst of {_grouped(count)} on {where}, {said}",
                    Kind.RATE,
                    f"burst_{way}",
                    reps,
                    {"engines": n, "count": count},
                    amount=count,
                    limits=_RELAY,
                )
    for count, reps in ((1_000, _reps(1, 0, 0)), (10_000, _reps(0, 1, 2))):
        yield Work(
            f"awaits-{count}",
            f"{_grouped(count)} concurrent awaits",
            Kind.RATE,
            "concurrent_awaits",
            reps,
            {"engines": ENGINES, "count": count},
            amount=count,
            limits=_RELAY,
        )
    for count, reps in ((100_000, _reps(2, 0, 0)), (1_000_000, _reps(0, 2, 3))):
        yield Work(
            f"map-{count}",
            f"map_sync of {_grouped(count)} cheap items",
            Kind.RATE,
            "map_cheap",
            reps,
            {"count": count},
            amount=count,
        )


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _copies(nbytes: int) -> tuple[str, ...]:
    """Limits of a transfer. A copy of 1 kB is none; of 1 GB, it measures how memory is first touched."""
    return ("chunked-relay", "memcpy") if MB <= nbytes < GB else ("chunked-relay",)


def _transfers() -> Iterable[Work]:
    for operation, ways in (("scatter", 1), ("gather", 1), ("push", ENGINES), ("pull", ENGINES)):
        for nbytes in (KB, MB, 100 * MB):
            # A hundred megabytes to each engine takes some peers seconds: not in the quick form.
            reps = _reps(5, 20, 50) if nbytes < 100 * MB else _reps(2 if ways == 1 else 0, 3, 5)
            to_each = "" if ways == 1 else (" to each of 4" if operation == "push" else " from each of 4")
            yield Work(
                f"{operation}-{size_name(nbytes).replace(' ', '')}",
                f"{operation} {size_name(nbytes)}{to_each}",
                Kind.THROUGHPUT,
                operation,
                reps,
                {"bytes": nbytes},
                amount=nbytes * ways,
                limits=_copies(nbytes),
            )
    yield Work(
        "apply-100MB",
        "call with a 100 MB argument",
        Kind.THROUGHPUT,
        "apply_argument",
        _reps(2, 3, 5),
        {"bytes": 100 * MB},
        amount=100 * MB,
        limits=_copies(100 * MB),
    )
    yield Work(
        "push-1GB-to-1",
        "push 1 GB to one engine",
        Kind.THROUGHPUT,
        "push_to_one",
        _reps(1, 1, 2),
        {"bytes": GB},
        amount=GB,
        limits=_copies(GB),
        watch_controller=True,
    )


WORKS: tuple[Work, ...] = (*_starts(), *_calls(), *_many_calls(), *_transfers())
"""All work, in the order in which it is done and shown."""


def choose(works: Sequence[Work], depth: Depth, only: Sequence[str] = ()) -> list[Work]:
    """The work of this depth whose names match.

    Args:
        works: to choose from.
        depth: how much.
        only: names, beginnings of names or patterns (``noop*``); none: all. What is named in full is done
            whatever the depth.

    Raises:
        ValueError: a name that matches nothing; the text lists what there is.
    """
    for pattern in only:
        if not any([_matches(work.name, pattern) for work in works]):
            names = ", ".join([work.name for work in works])
            raise ValueError(f"there is no work {pattern!r}; there is {names}")
    chosen = []
    for work in works:
        if only and not any([_matches(work.name, pattern) for pattern in only]):
            continue
        if work.repetitions[depth] or work.name in only:
            chosen.append(work)
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern)
