"""Pure: the work. What is measured, how much of it at which depth, and what its figures are.

A work names an operation of `benchmarks.measuring`, which runs in the peer's own process and answers with
seconds. What is made of them depends on the work's kind:

========== ========================================== ===============================================
kind       a repetition is                            figures
========== ========================================== ===============================================
LATENCY    one call                                   p50, p99 (s)
RATE       `amount` calls or items                    rate (1/s); p99 (s) if single calls were timed
THROUGHPUT `amount` bytes delivered                   throughput (bytes/s); below 1 MB seconds (s)
TIME       one run                                    seconds (s)
START      a whole start, until all engines answer    seconds, and import before it (s)
FAN_OUT    one call on `amount` simulated engines     p50, each: p50 per engine; register (s)
MEMORY     (measured from outside)                    processes, total, client (bytes)
GROWTH     (measured by the peer)                     client, controller, engine (bytes)
========== ========================================== ===============================================

`watch_controller` adds one more: how far the controller's memory was, at its peak, above what it was when
the engines had just started. (Not above what it was just before: memory that earlier work left behind
would hide what this work takes.) And from two MEMORY works follows what each further engine takes.
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
    TIME = "time"
    START = "start"
    FAN_OUT = "fan-out"
    MEMORY = "memory"
    GROWTH = "growth"


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
    variants: bool = False
    """Whether directview is also measured otherwise: without shared memory, over TCP."""
    peers: bool = True
    """Whether peers are asked at all; if not, it is about directview alone."""
    quick_peers: tuple[str, ...] | None = None
    """The peers that are asked in the quick form; None: all."""


def _reps(quick: int, normal: int, full: int) -> Mapping[Depth, int]:
    return MappingProxyType({Depth.QUICK: quick, Depth.NORMAL: normal, Depth.FULL: full})


def size_name(nbytes: int) -> str:
    """1 kB, 1 MB, 100 MB, 1 GB."""
    for unit, name in ((GB, "GB"), (MB, "MB"), (KB, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:g} {name}"
    return f"{nbytes} B"


_16_PEERS = ("ipyparallel",)
"""Whose sixteen engines are started in the quick form: a minute of it, and a promise is about them."""


def _starts() -> Iterable[Work]:
    for engines, reps, peers in (
        (4, _reps(1, 1, 1), None),
        (16, _reps(1, 1, 1), _16_PEERS),
        (64, _reps(1, 1, 1), ()),
    ):
        yield Work(
            f"start-{engines}",
            f"start of {engines}",
            Kind.START,
            "",
            reps,
            engines=engines,
            quick_peers=peers,
        )
        yield Work(
            f"memory-{engines}",
            f"memory of {engines}",
            Kind.MEMORY,
            "",
            reps,
            engines=engines,
            quick_peers=peers,
        )


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
                _reps(200, 500, 1500),
                {"engines": n},
                limits=("bare-relay", "unix-socket") if (n, way) == (1, "sync") else _RELAY,
                variants=way == "sync",
            )
    for way, said in _WAYS:
        yield Work(
            f"noop-16-{way}",
            f"no-op on 16 engines, {said}",
            Kind.LATENCY,
            f"latency_{way}",
            _reps(100 if way == "sync" else 0, 300, 1000),
            {"engines": 16},
            engines=16,
            limits=_RELAY,
            quick_peers=_16_PEERS,
        )


_SLOW_TO_MANY = ("ray", "futures")
"""Peers that many calls are made with in the quick form too; the others take most of a minute."""


def _many_calls() -> Iterable[Work]:
    """The number of calls is in the name: a rate belongs to it, and rates of different ones don't compare."""
    for n, where in _TARGETS:
        for way, said in _WAYS:
            yield Work(
                f"burst-{n}-{way}-5000",
                f"burst of 5 000 on {where}, {said}",
                Kind.RATE,
                f"burst_{way}",
                _reps(2 if way == "sync" else 0, 2, 3),
                {"engines": n, "count": 5_000},
                amount=5_000,
                limits=_RELAY,
                variants=way == "sync",
                quick_peers=None if n == ENGINES else _SLOW_TO_MANY,
            )
    yield Work(
        "awaits-10000",
        "10 000 concurrent awaits",
        Kind.RATE,
        "concurrent_awaits",
        _reps(1, 1, 2),
        {"engines": ENGINES, "count": 10_000},
        amount=10_000,
        limits=_RELAY,
        quick_peers=_SLOW_TO_MANY,
    )
    yield Work(
        "balanced-10000",
        "load-balanced map of 10 000 tasks",
        Kind.RATE,
        "map_balanced",
        _reps(1, 2, 3),
        {"count": 10_000},
        amount=10_000,
        quick_peers=_SLOW_TO_MANY,
    )
    yield Work(
        "map-1000000",
        "map of 1 000 000 cheap items",
        Kind.RATE,
        "map_cheap",
        _reps(2, 2, 3),
        {"count": 1_000_000},
        amount=1_000_000,
        limits=("pickling",),
    )
    for count, reps in ((100_000, _reps(2, 0, 0)), (1_000_000, _reps(0, 1, 2))):
        yield Work(
            f"busy-{count}",
            f"map of {_grouped(count)} items of ≥ 5 µs",
            Kind.RATE,
            "map_busy",
            reps,
            {"count": count},
            amount=count,
            limits=("serial",),
        )


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


SIZES = (KB, 10 * KB, 100 * KB, MB, 10 * MB, 100 * MB, GB)
_QUICK_SIZES = (KB, MB, 100 * MB)
_TO_EACH = {"push": " to each of 4", "pull": " from each of 4"}
_TITLES = {"apply": "call with an argument of"}


def _copies(operation: str, nbytes: int) -> tuple[str, ...]:
    """Limits of a transfer. A copy of 1 kB is none; of 1 GB, it measures how memory is first touched."""
    limits = ("chunked-relay", "memcpy") if MB <= nbytes < GB else ("chunked-relay",)
    return (*limits, "two-copy") if operation in ("scatter", "gather") and MB <= nbytes < GB else limits


def _transfer_reps(ways: int, nbytes: int) -> Mapping[Depth, int]:
    if nbytes < MB:
        reps = (20, 50, 100)
    elif nbytes < 100 * MB:
        reps = (8, 15, 30)
    elif nbytes < GB:
        reps = (2, 3, 5) if ways > 1 else (3, 5, 7)
    else:
        # Four times a gigabyte, on both sides and on its way: memory for the full form.
        reps = (0, 0, 1) if ways > 1 else (0, 1, 2)
    return _reps(reps[0] if nbytes in _QUICK_SIZES else 0, *reps[1:])


def _transfers() -> Iterable[Work]:
    for operation, ways in (
        ("scatter", 1),
        ("gather", 1),
        ("push", ENGINES),
        ("pull", ENGINES),
        ("apply", 1),
    ):
        for nbytes in SIZES:
            yield Work(
                f"{operation}-{size_name(nbytes).replace(' ', '')}",
                f"{_TITLES.get(operation, operation)} {size_name(nbytes)}{_TO_EACH.get(operation, '')}",
                Kind.THROUGHPUT,
                "apply_argument" if operation == "apply" else operation,
                _transfer_reps(ways, nbytes),
                {"bytes": nbytes},
                amount=nbytes * ways,
                limits=_copies(operation, nbytes),
                variants=True,
            )
    yield Work(
        "share-100MB",
        "share 100 MB with each of 4",
        Kind.THROUGHPUT,
        "share",
        _reps(7, 15, 30),
        {"bytes": 100 * MB},
        amount=100 * MB * ENGINES,
    )
    yield Work(
        "call-shared-100MB",
        "call on each of 4 with 100 MB shared before",
        Kind.THROUGHPUT,
        "call_shared",
        _reps(5, 15, 30),
        {"bytes": 100 * MB},
        amount=100 * MB * ENGINES,
    )
    yield Work(
        "push-1GB-to-1",
        "push 1 GB to one engine",
        Kind.THROUGHPUT,
        "push_to_one",
        _reps(1, 1, 2),
        {"bytes": GB},
        amount=GB,
        limits=("chunked-relay",),
        watch_controller=True,
        variants=True,
        quick_peers=("ray",),
    )


_OBJECTS = (
    ("list", 0, "list of 1 000 000 floats"),
    ("pandas", 1, "DataFrame of 80 MB"),
    ("arrow", 2, "Arrow table of 80 MB"),
)


def _echoes() -> Iterable[Work]:
    for name, kind, title in _OBJECTS:
        yield Work(
            f"echo-{name}",
            f"{title} there and back",
            Kind.TIME,
            "echo",
            _reps(1, 3, 5),
            {"object": kind, "rows": 1_000_000},
            variants=True,
        )


def _alone() -> Iterable[Work]:
    """What is asked of directview only: whether it goes on as it began, and how far it reaches."""
    for count, reps in ((200_000, _reps(1, 0, 0)), (1_000_000, _reps(0, 1, 1))):
        yield Work(
            f"growth-{count}",
            f"{_grouped(count)} calls, after the first 50 000",
            Kind.GROWTH,
            "growth",
            reps,
            {"count": count, "beginning": 50_000},
            peers=False,
        )
    for engines, calls in ((10, 200), (100, 50), (1000, 20)):
        yield Work(
            f"simulated-{engines}",
            f"{_grouped(engines)} simulated engines",
            Kind.FAN_OUT,
            "simulated",
            _reps(calls, calls, 2 * calls),
            {"engines": engines},
            amount=engines,
            engines=0,
            peers=False,
        )


WORKS: tuple[Work, ...] = (
    *_starts(),
    *_calls(),
    *_many_calls(),
    *_transfers(),
    *_echoes(),
    *_alone(),
)
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
