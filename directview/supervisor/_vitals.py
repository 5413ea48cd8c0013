"""How much memory engines have, and what killed them: looked at while they live, told when they have ended.

A process that has ended has no memory to look at any more, so the last look, a second ago at most, has to do;
the kernel's own figure for the most that it ever had comes with its exit. That the kernel killed it for lack
of memory looks like anybody's SIGKILL. But the kernel counts such kills, and one just before the death of a
process that nobody of us has killed is that process, as nearly as can be known.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from directview.wire.postmortem import MAX_SAID

__all__ = ["LOOK_EVERY", "OUT_OF_MEMORY", "Vitals", "last_words"]

LOOK_EVERY: Final = 1.0
"""Seconds. A look at one engine takes 10 µs."""
OUT_OF_MEMORY: Final = "out of memory, killed by the kernel"

_RECENT: Final = 2.0
"""Seconds for which a kill by the kernel explains a death."""
_PROC: Final = os.path.exists("/proc/self/statm")
_PAGE: Final = resource.getpagesize()
_READ: Final = 32_768
_LINES: Final = 20
_FATAL: Final = "Fatal Python error"


def oom_kills() -> int:
    """How often this machine's kernel has killed a process for lack of memory; -1 if it doesn't say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return -1


def memory_of(pid: int) -> int:
    """Bytes that the process has in memory; 0 if it has ended."""
    try:
        if _PROC:
            with open(f"/proc/{pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE
        return int(psutil.Process(pid).memory_info().rss)
    except (OSError, ValueError, IndexError, psutil.Error):
        return 0


class Vitals:
    """The memory of this host's engines, by uuid."""

    def __init__(self) -> None:
        self._memory: dict[bytes, int] = {}
        self._kills = oom_kills()
        self._killed_at = float("-inf")

    def look(self, pids: Mapping[bytes, int], now: float) -> None:
        """Look at those that live, given by uuid; what was seen of the others stays until `forget`."""
        for uuid, pid in pids.items():
            # A dead one that nobody has reaped yet has none: what it had before is of interest.
            self._memory[uuid] = memory_of(pid) or self._memory.get(uuid, 0)
        self._count(now)

    def _count(self, now: float) -> None:
        kills = oom_kills()
        if kills > self._kills:
            self._killed_at = now
        self._kills = kills

    def memory(self, uuid: bytes) -> int:
        """Bytes at the last look."""
        return self._memory.get(uuid, 0)

    def forget(self, uuid: bytes) -> int:
        """It has ended: bytes at the last look."""
        return self._memory.pop(uuid, 0)

    def out_of_memory(self, now: float) -> bool:
        """Whether the kernel has just killed some process for lack of memory."""
        self._count(now)
        return now - self._killed_at <= _RECENT


def last_words(log: Path) -> str:
    """What is at the end of an engine's log: the interpreter's report of a fatal error, or the last lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _READ))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    fatal = text.rfind(_FATAL)
    if fatal >= 0:
        return text[fatal : fatal + MAX_SAID].rstrip()
    return "\n".join(text.splitlines()[-_LINES:])[-MAX_SAID:].strip()
