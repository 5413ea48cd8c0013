"""Limits of a map: what pickling alone allows, and one process that does all the items itself."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.peer import Peer, Target

__all__ = ["Pickling", "Serial", "bound"]


def bound(client: float, engines: float, cores: int) -> float:
    """Seconds that a map takes at least.

    Args:
        client: seconds of work that only the client can do, on one core.
        engines: seconds of work that engines share.
        cores: how many work at a time.
    """
    return max(client, (client + engines) / cores)


class _OneProcess(Peer):
    cannot: ClassVar[Mapping[str, str]] = {"controllers": "it is one process"}

    def start(self, n: int) -> None:
        self._n = n

    def stop(self) -> None:
        """Nothing is there to end."""

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        return f


class Serial(_OneProcess):
    """One process, one item after the other: what a map on engines is compared with to find its speed-up."""

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [f(item) for item in items]


class Pickling(_OneProcess):
    """What must be pickled and unpickled for a map, and the function itself, and no more: a bound.

    The client pickles a chunk for each engine and unpickles each one's results; the engines do the reverse,
    and call the function. All of it is timed here, one after the other. The bound is what that takes if the
    client never waits and no core ever rests, so nothing that sends pickles can be faster.
    """

    def __init__(self) -> None:
        self._bound = 0.0

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        clock = time.perf_counter
        client = engines = 0.0
        size = -(-len(items) // self._n)
        results = []
        for first in range(0, len(items), size):
            begun = clock()
            sent = pickle.dumps(items[first : first + size], pickle.HIGHEST_PROTOCOL)
            client += (taken := clock()) - begun
            returned = pickle.dumps([f(item) for item in pickle.loads(sent)], pickle.HIGHEST_PROTOCOL)
            engines += (answered := clock()) - taken
            results.extend(pickle.loads(returned))
            client += clock() - answered
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._bound = bound(client, engines, min(cores, self._n + 1))
        return results

    def counted(self, seconds: float) -> float:
        return self._bound
