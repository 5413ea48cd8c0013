"""Memory that a burst has left behind goes back to the system once it is over.

What passes through is allocated by libzmq's thread and freed by ours, and glibc keeps it for the next burst:
a controller of 27 MB had 85-93 after arrays of 100 MB had gone to four engines and back. One that is idle has
no use for that, and may be idle for days. Settings of glibc's alone can't replace this: with every chunk in a
mapping of its own, the controller took twice the processor time; and in a heap for each thread, its default,
nearly all of it stays whatever one says.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final

__all__ = ["Trimming", "one_heap"]

_EVERY: Final = 1.0
"""Seconds between two looks."""
_MUCH: Final = 32 << 20
"""Bytes since the last time that are worth it,"""
_QUIET: Final = 1 << 20
"""and those between two looks that don't count."""
_ARENA_MAX: Final = -8
"""`mallopt`: how many heaps, from malloc.h."""


class Trimming:
    """Looks at what passes, and trims the heap when nothing does.

    Args:
        loop: of the controller.
        passed: bytes that have come in since the start.
        trim: gives back what is free.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        passed: Callable[[], int],
        trim: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._passed = passed
        self._trim = trim or _malloc_trim
        self._trimmed = self._seen = 0
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Trim if a burst is over, and look again in a second."""
        passed = self._passed()
        if passed - self._trimmed > _MUCH and passed - self._seen < _QUIET:
            self._trim()
            self._trimmed = passed
        self._seen = passed
        self._timer = self._loop.call_later(_EVERY, self.look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()


def one_heap() -> None:
    """All threads of this process allocate from one heap. To be called before there are any.

    Of the heaps for each thread `_malloc_trim` would give back little.
    """
    _call("mallopt", _ARENA_MAX, 1)


def _malloc_trim() -> None:
    """Milliseconds for tens of megabytes."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """What glibc has, and other C libraries don't."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
