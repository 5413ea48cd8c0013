"""Wall clocks that are stepped under running processes: by libfaketime, where it is installed.

The machine's own clock stays as it is. libfaketime (a Debian package of that name) gets between a process and
its C library, and tells it a time of day that is off by what a file says at that moment. The monotonic clock
is left alone, as it is by whoever sets a real clock. So a process sees what it sees when somebody corrects
its host's clock: seconds since the epoch leap, in either direction, and nothing that was waited for may
depend on it.

It is kept to a small /dev/shm of our own (see `enter`), where it puts what its processes share: those that
are killed leave that behind.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["AWAY", "HERE", "STEPS", "Clocks", "library"]

HERE: Final = "here"
"""The host of the cluster,"""
AWAY: Final = "away"
"""and all others, which have one clock."""

STEPS: Final = (-3600, 3600, -86_400, 30 * 86_400, -5, 5, 0)
"""Seconds by which a clock may be off after a step."""

_PLACES: Final = (
    "/usr/lib/*/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
)
_NAME: Final = "libfaketimeMT.so.1"
_SLEEP: Final = """\
import select, time

def sleep(seconds):
    select.select((), (), (), seconds)

time.sleep = sleep
"""
"""Python's own `time.sleep` waits until a monotonic time, which this library takes for one of its own."""


def library() -> str | None:
    """Where libfaketime is; None: it isn't installed."""
    for place in _PLACES:
        for path in sorted(Path("/").glob(f"{place[1:]}/{_NAME}")):
            return str(path)
    return None


class Clocks:
    """The wall clocks of an episode.

    Args:
        folder: a new one, for their files.
        library: as of the function of that name.
    """

    def __init__(self, folder: Path, library: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._library = library
        (folder / "sitecustomize.py").write_text(_SLEEP)
        for host in (HERE, AWAY):
            self.step(host, 0)

    def step(self, host: str, seconds: int) -> None:
        """From now on, the clock of `host` is off by so many seconds. Processes see it within a second."""
        written = self._folder / "new"
        written.write_text(f"{seconds:+d}\n")
        written.rename(self._folder / host)

    def environment(self, host: str, base: Mapping[str, str]) -> dict[str, str]:
        """`base`, for programs that go by the clock of `host`."""
        path = [str(self._folder), base["PYTHONPATH"]] if base.get("PYTHONPATH") else [str(self._folder)]
        return {
            **base,
            "PYTHONPATH": os.pathsep.join(path),
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / host),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            "NO_FAKE_STAT": "1",
        }
