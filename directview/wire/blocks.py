"""Memory for large buffers that arrive: ordinary writable memory, taken again when its last user lets go.

The first touch of a fresh page costs more than writing it: the kernel clears it, and a virtual machine may
have to ask its host for it. Measured: fresh memory is filled at 0.36 to 8.8 GB/s, reused memory at 8.4 to
12 GB/s; gathering 100 MB went from 0.2 to 1.0 GB/s, very unsteadily, to 1.1. So a block whose array is gone
is kept for the next one of about its size: a bounded number of bytes, for seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from directview.wire.idle import IDLE_SECONDS, register

__all__ = ["IDLE_BYTES", "SMALLEST", "BlockPool", "copied", "joined", "take"]

IDLE_BYTES: Final = 256 << 20
"""Most bytes that are kept for later."""
SMALLEST: Final = 1 << 20
"""Smaller ones are malloc's business, which reuses what it has."""
_WASTE: Final = 1.25
"""A block may be this much larger than what is asked for."""
_GRAIN: Final = 2 << 20
"""Blocks are multiples of it: of a huge page."""


class _Lease:
    """Holds a block for as long as any array or view refers to it."""

    __slots__ = ("__array_interface__", "_block", "_pool")

    def __init__(self, pool: BlockPool, block: np.ndarray[Any, Any], size: int) -> None:
        self._pool = pool
        self._block = block
        self.__array_interface__ = {**block.__array_interface__, "shape": (size,)}

    def __del__(self) -> None:
        self._pool._give_back(self._block)


class BlockPool:
    """Blocks that are in use by nobody, and the way to get one.

    Args:
        idle_bytes: most bytes that it keeps.
    """

    def __init__(self, idle_bytes: int = IDLE_BYTES) -> None:
        self._most = idle_bytes
        self._idle: list[tuple[float, np.ndarray[Any, Any]]] = []
        self._lock = threading.Lock()
        self.idle_bytes = 0
        """What it keeps now."""

    def take(self, size: int) -> np.ndarray[Any, Any]:
        """`size` bytes of uninitialised, writable memory, as an array of uint8.

        Raises:
            MemoryError: there is none.
        """
        if size < SMALLEST:
            return np.empty(size, np.uint8)
        block = self._find(size)
        if block is None:
            block = np.empty(-(-size // _GRAIN) * _GRAIN, np.uint8)
        return np.asarray(_Lease(self, block, size))

    def _find(self, size: int) -> np.ndarray[Any, Any] | None:
        with self._lock:
            fitting = [
                i for i, (_, block) in enumerate(self._idle) if size <= len(block) <= size * _WASTE + _GRAIN
            ]
            if not fitting:
                return None
            best = min(fitting, key=lambda i: len(self._idle[i][1]))
            block = self._idle.pop(best)[1]
            self.idle_bytes -= len(block)
            return block

    def _give_back(self, block: np.ndarray[Any, Any]) -> None:
        """Keep it, if there is room. Never waits: garbage is collected anywhere, also inside of `_find`."""
        if len(block) <= self._most and self._lock.acquire(blocking=False):
            try:
                self._idle.append((time.monotonic(), block))
                self.idle_bytes += len(block)
                while self.idle_bytes > self._most:
                    self.idle_bytes -= len(self._idle.pop(0)[1])
            finally:
                self._lock.release()

    def trim(self, seconds: float = IDLE_SECONDS) -> None:
        """Let go of what nobody has wanted for that long."""
        if not self._idle:
            return
        since = time.monotonic() - seconds
        with self._lock:
            while self._idle and self._idle[0][0] <= since:
                self.idle_bytes -= len(self._idle.pop(0)[1])


def copied(buffer: memoryview) -> memoryview:
    """The same bytes in memory of their own.

    Raises:
        MemoryError: there is none.
    """
    block = take(len(buffer))
    block[:] = np.frombuffer(buffer, np.uint8)
    return block.data


def joined(parts: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any] | None:
    """The bytes of contiguous arrays that lie one after the other in one block; None if they don't."""
    lease = _lease_of(parts[0])
    if lease is None:
        return None
    begin = end = parts[0].__array_interface__["data"][0]
    for part in parts:
        if part.__array_interface__["data"][0] != end or _lease_of(part) is not lease:
            return None
        end += part.nbytes
    whole = np.asarray(lease)
    start = begin - whole.__array_interface__["data"][0]
    return whole[start : start + end - begin]


def _lease_of(owner: Any) -> _Lease | None:
    """The block that an array is a part of."""
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, _Lease) else None


_pool = BlockPool()
take = _pool.take
register(_pool.trim)
