"""What the kernel does for us: children that die with their parent, sessions that end as a whole."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys

import psutil

__all__ = [
    "exit_code_of",
    "is_stopped",
    "kill_at_last",
    "kill_session",
    "peak_memory",
    "pidfd_open",
    "prepare_die_with_parent",
]

_PR_SET_PDEATHSIG = 1
# Loaded here, before any fork: a child should do as little as possible between its fork and the call.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def prepare_die_with_parent(parent: int, signum: int = signal.SIGKILL) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    Args:
        parent: pid of the parent as it was at the fork; if it is gone by now, this process exits at once.
        signum: the signal; another than SIGKILL for one that has something to say before it ends.

    Elsewhere than on Linux there is no such service: there, the ends of pipes have to do.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def kill_session(leader: int) -> None:
    """SIGKILL to every process of the session (and group) that `leader` leads or led.

    Safe while the leader is alive or not yet reaped, and right after: a number is not given out again while
    a session or group still goes by it.
    """
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    # A shell with job control puts its jobs into groups of their own, in the same session. Twice at most
    # without new finds: what forks while we look is found the next time round.
    seen: set[int] = set()
    while True:
        found = {pid for pid in psutil.pids() if pid not in seen and _session_of(pid) == leader}
        if not found:
            return
        seen |= found
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def kill_at_last(pidfd: int, seconds: float) -> None:
    """Wait until a process has ended, blocking, and kill it if it hasn't by then.

    Args:
        pidfd: its descriptor, as of `pidfd_open`.
        seconds: that it has.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(seconds * 1000):
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def exit_code_of(status: int) -> int:
    """A wait status as `subprocess` gives it: negative for a signal."""
    return os.waitstatus_to_exitcode(status)


def is_stopped(pid: int) -> bool:
    """Whether the process is frozen (SIGSTOP, a debugger), or not there at all."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return True


def peak_memory(used: resource.struct_rusage) -> int:
    """The most bytes that a process had in memory, of what `os.wait4` tells of it."""
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pidfd_open(pid: int) -> int:
    """A descriptor that stands for the process and becomes readable at its end; -1 where there is none."""
    if sys.platform != "linux":
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
