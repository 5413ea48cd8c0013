"""Who dies with whom, how, and whose orphans are whose. Only Linux knows the first and the last."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["adopt_orphans", "die_with_parent", "end_in_order"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans(adopt: bool = True) -> None:
    """Have processes below this one whose parents end become children of this one, from now on, or no longer.

    So what a library leaves to itself is still counted as the library's, and found when it is left behind.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))


def die_with_parent(parent: int, signum: int = signal.SIGTERM) -> None:
    """Have this process get a signal when its parent ends, whatever ends it.

    Args:
        parent: the parent's process id: if it has ended by now, the signal comes at once.
        signum: which signal.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        signal.raise_signal(signum)


def end_in_order() -> None:
    """Have SIGTERM end this process as `sys.exit` does, so that what it started is ended and cleaned up."""
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
