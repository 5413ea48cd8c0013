"""Two copies in shared memory: what scatter and gather can be on one host, if nothing is done but copying.

The parent copies an array's parts, piece by piece, into an arena that it shares with four children; each
child copies its pieces out into memory of its own. The arena is made once and used again and again, and so
is the memory at the end of the way: neither pays for pages that are touched for the first time. Copying in
and copying out overlap: each child's part of the arena is a ring of pieces, counted by two semaphores.
"""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Semaphore
from typing import Any, ClassVar

import numpy as np

from benchmarks.limits.processes import Processes
from benchmarks.peer import Array, Peer

__all__ = ["TwoCopies"]

_PIECE = 1 << 20
_PIECES = 4
"""In each child's ring. Small enough to stay in a processor's cache between the two copies; of pieces of
256 KiB, 1 MiB and 4 MiB, these were the fastest on a busy machine: 6 GB/s, where others did 2.5 to 5."""


class _Ring:
    """One child's part of the arena, for one writer and one reader at a time."""

    def __init__(self) -> None:
        self._memory = np.frombuffer(mmap.mmap(-1, _PIECE * _PIECES), np.uint8).reshape(_PIECES, _PIECE)
        self._memory[:] = 0
        context = multiprocessing.get_context("fork")
        self._free: Semaphore = context.Semaphore(_PIECES)
        self._full: Semaphore = context.Semaphore(0)
        self._next = 0

    def write(self, piece: Any) -> None:
        """Copy a piece in, once there is room."""
        self._free.acquire()
        np.copyto(self._memory[self._next][: len(piece)], piece)
        self._full.release()
        self._next = (self._next + 1) % _PIECES

    def read(self, piece: Any) -> None:
        """Copy the next piece out, once it is there."""
        self._full.acquire()
        np.copyto(piece, self._memory[self._next][: len(piece)])
        self._free.release()
        self._next = (self._next + 1) % _PIECES


def _child(ring: _Ring, orders: Connection) -> None:
    memory: Any = np.zeros(0, np.uint8)
    while True:
        what, size = orders.recv()
        if what == "take":
            if len(memory) != size:
                memory = np.zeros(size, np.uint8)
            for first in range(0, size, _PIECE):
                ring.read(memory[first : first + _PIECE])
            orders.send(size)
        else:
            for first in range(0, size, _PIECE):
                ring.write(memory[first : first + _PIECE])


class TwoCopies(Peer):
    """The floor under scatter and gather on one host."""

    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "nothing stands between the processes",
        **dict.fromkeys(
            ("caller", "burst", "awaiting", "map", "push", "pull"), "it scatters and gathers only"
        ),
    }
    distributions = ("numpy",)

    def __init__(self) -> None:
        self._processes: Processes | None = None
        self._rings: list[_Ring] = []
        self._orders: list[Connection] = []
        self._sizes: list[int] = []
        self._whole: Any = np.zeros(0, np.uint8)

    def start(self, n: int) -> None:
        self._processes = Processes()
        for _ in range(n):
            ring = _Ring()
            ours, theirs = multiprocessing.Pipe()
            self._processes.fork(_child, ring, theirs)
            theirs.close()
            self._rings.append(ring)
            self._orders.append(ours)

    def stop(self) -> None:
        processes, self._processes = self._processes, None
        if processes is not None:
            processes.end()
        for orders in self._orders:
            orders.close()
        self._rings.clear()
        self._orders.clear()

    def scatter(self, name: str, array: Array) -> None:
        parts = np.array_split(array.view(np.uint8).reshape(-1, 8), len(self._rings))
        flat = [part.reshape(-1) for part in parts]
        for orders, part in zip(self._orders, flat, strict=True):
            orders.send(("take", len(part)))
        for first in range(0, max(map(len, flat)), _PIECE):
            for ring, part in zip(self._rings, flat, strict=True):
                if first < len(part):
                    ring.write(part[first : first + _PIECE])
        self._sizes = [orders.recv() for orders in self._orders]

    def gather(self, name: str) -> Array:
        if len(self._whole) != sum(self._sizes):
            self._whole = np.zeros(sum(self._sizes), np.uint8)
        parts = np.split(self._whole, np.cumsum(self._sizes)[:-1])
        for orders, part in zip(self._orders, parts, strict=True):
            orders.send(("give", len(part)))
        for first in range(0, max(map(len, parts)), _PIECE):
            for ring, part in zip(self._rings, parts, strict=True):
                if first < len(part):
                    ring.read(part[first : first + _PIECE])
        return self._whole.view(np.float64)

    def stored(self, name: str) -> Sequence[int]:
        return self._sizes
