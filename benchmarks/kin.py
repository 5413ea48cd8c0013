"""Linux: who dies with whom, and whose orphans are whose. Elsewhere these do nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["adopt_orphans", "die_with_parent"]

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


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
