"""What is to happen when, and to whom: all of it follows from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

__all__ = ["ENDINGS", "KINDS", "NEVER_TOGETHER", "RESILIENT_ONLY", "Episode", "Fault", "episodes"]

KINDS: Final[dict[str, tuple[float, tuple[float, ...]]]] = {
    "kill engine": (5, (0.0,)),
    "kill controller": (2, (0.0,)),
    "freeze engine": (3, (0.1, 0.5, 1.0, 4.0)),
    "freeze controller": (2, (0.1, 0.5, 1.5, 3.0)),
    "freeze supervisor": (1, (0.5, 3.0)),
    "freeze client": (2, (0.1, 0.5, 2.0, 6.0)),
    "kill client": (2, (0.0,)),
    "cut": (5, (0.0,)),
    "stall": (3, (0.2, 1.0, 4.0)),
    "swallow": (2, (0.5, 3.0)),
    "delay": (2, (1.0, 3.0)),
    "fill disk": (1, (0.5, 2.0)),
    "fill shared memory": (1, (0.5, 2.0)),
    "pause everything": (1, (0.5, 3.0)),
    "step clock": (3, (0.0,)),
}
"""Kind of fault → how often it comes beside the others, and for how many seconds it may last."""

RESILIENT_ONLY: Final = frozenset({"kill controller"})
"""What only a cluster that was started with ``--resilient`` survives: to others it isn't done."""

NEVER_TOGETHER: Final = ("fill shared memory", "step clock")
"""Kinds of which an episode has only one: what steps clocks needs some shared memory for each new process."""

ENDINGS: Final = {
    "stop": 4.0,
    "kill launcher": 1.0,
    "kill controller": 1.0,
    "kill supervisor": 1.0,
    "kill fork server": 1.0,
}
"""How an episode may end → how often."""

_BETWEEN: Final = 0.4
"""Mean seconds between two faults."""
_CALM: Final = 0.5
"""Seconds at the beginning without a fault."""


class Fault(NamedTuple):
    """One thing that goes wrong."""

    at: float
    """Seconds after the beginning of the episode."""
    kind: str
    pick: float
    """Whom it hits: from 0 up to 1, of those that are there."""
    seconds: float
    """How long it lasts, for one that does."""
    detail: int
    """Which signal an engine is killed with, which latency the network gets, how far a clock leaps."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One cluster's life."""

    number: int
    seconds: float
    engines: int
    """On the cluster's own host."""
    remote_engines: int
    """Behind a network that can be broken."""
    clients: int
    remote_clients: int
    resilient: bool
    """Whether it outlives its controller."""
    store: bool
    """Whether the controller writes its history to a disk that can be full."""
    clocks: bool
    """Whether the wall clocks of its hosts can be stepped."""
    faults: tuple[Fault, ...]
    ending: str


def episodes(seed: int, seconds: float) -> Iterator[Episode]:
    """The episodes of a run.

    Args:
        seed: of all chance.
        seconds: for which they last together, without the time for starting and stopping.
    """
    left, number = seconds, 0
    while left > 0:
        random = Random(f"{seed} {number}")
        length = random.uniform(6.0, 15.0)
        if left - length < 4.0:
            length = left
        yield _episode(random, number, length)
        left -= length
        number += 1


def _episode(random: Random, number: int, seconds: float) -> Episode:
    resilient = random.random() < 0.5
    spared = RESILIENT_ONLY if resilient else frozenset()
    endings = {what: weight for what, weight in ENDINGS.items() if what not in spared}
    clocks = random.random() < 0.5
    return Episode(
        number=number,
        seconds=seconds,
        engines=random.randint(1, 3),
        remote_engines=random.randint(1, 2),
        clients=random.randint(1, 2),
        remote_clients=random.randint(1, 2),
        resilient=resilient,
        store=random.random() < 0.5,
        clocks=clocks,
        faults=tuple(_faults(random, seconds, resilient, clocks)),
        ending=random.choices(list(endings), list(endings.values()))[0],
    )


def _faults(random: Random, seconds: float, resilient: bool, clocks: bool) -> Iterator[Fault]:
    left_out = {NEVER_TOGETHER[not clocks], *(() if resilient else RESILIENT_ONLY)}
    kinds = [kind for kind in KINDS if kind not in left_out]
    weights = [KINDS[kind][0] for kind in kinds]
    at = _CALM + random.expovariate(1 / _BETWEEN)
    while at < seconds:
        kind = random.choices(kinds, weights)[0]
        lasting = random.choice(KINDS[kind][1])
        yield Fault(at, kind, random.random(), lasting, random.randrange(1 << 16))
        at += random.expovariate(1 / _BETWEEN)
