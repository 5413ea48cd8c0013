"""What a program has not cleaned up: processes, threads, open files, sockets, shared memory.

For tests of programs that use clusters: run them inside `no_leaks`, and what is left behind fails the test
by name. Processes are found although they were forked twice and lead sessions of their own, because all
processes of a cluster inherit the environment of the program that started it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from directview.wire import idle

__all__ = ["Holdings", "no_leaks"]

_PAUSE = 0.02


@dataclass(frozen=True)
class Holdings:
    """What is there at one moment."""

    processes: dict[tuple[int, float], str] = field(default_factory=dict)
    """(pid, time of its start) → its command line."""
    threads: Counter[str] = field(default_factory=Counter)
    """The names of this process's threads, those of C libraries included."""
    files: Counter[str] = field(default_factory=Counter)
    """What this process's descriptors stand for."""
    paths: frozenset[str] = frozenset()
    """Files, sockets and shared memory on disk."""

    @classmethod
    def now(cls, folder: Path, mark: tuple[str, str]) -> Holdings:
        """Take stock.

        Args:
            folder: where everything on disk is; folders in it don't count.
            mark: name and value of an environment variable; processes that have it count, this one not.
        """
        shared = [path for path in Path("/dev/shm").glob("*directview*") if path.is_file()]
        return cls(_processes(mark), _threads(), _files(), frozenset(map(str, [*_paths(folder), *shared])))

    def beyond(self, earlier: Holdings) -> list[str]:
        """What is here that wasn't there earlier, a line each."""
        return [
            *[
                f"process {key[0]}: {what}"
                for key, what in self.processes.items()
                if key not in earlier.processes
            ],
            *[f"thread: {name} (×{n})" for name, n in (self.threads - earlier.threads).items()],
            *[f"descriptor: {what} (×{n})" for what, n in (self.files - earlier.files).items()],
            *[f"file: {path}" for path in sorted(self.paths - earlier.paths)],
        ]


def _processes(mark: tuple[str, str]) -> dict[tuple[int, float], str]:
    name, value = mark
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(name) == value:
                found[process.pid, process.create_time()] = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _threads() -> Counter[str]:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return Counter([thread.name for thread in threading.enumerate()])
    names: Counter[str] = Counter()
    for task in tasks.iterdir():
        try:
            names[(task / "comm").read_text().strip()] += 1
        except OSError:
            continue  # It has just ended.
    return names


def _files() -> Counter[str]:
    found: Counter[str] = Counter()
    for fd in os.listdir("/dev/fd"):
        try:
            what = os.readlink(f"/dev/fd/{fd}")
        except OSError:
            continue  # The listing's own.
        # The kernel's number of a socket or pipe says nothing, and a pipe ends as often as another begins.
        found[what.partition(":[")[0]] += 1
    return found


def _paths(folder: Path) -> Iterator[Path]:
    # Not rglob: it fails when a folder goes while it looks.
    for base, _, names in os.walk(folder):
        for name in names:
            yield Path(base, name)


@contextmanager
def no_leaks(
    folder: Path, mark: tuple[str, str], patience: float = 10.0
) -> Iterator[Callable[[], list[str]]]:
    """Fail if the block leaves something behind.

    Args:
        folder: where what is on disk would be: XDG_RUNTIME_DIR for a cluster's files.
        mark: name and value of an environment variable that all processes of the block inherit; it must be
            set for this process.
        patience: seconds until what is to go must have gone.

    Yields:
        A function that says what there is now beyond the beginning.

    Raises:
        AssertionError: something is left; the text says what.
    """
    if os.environ.get(mark[0]) != mark[1]:
        raise ValueError(f"set {mark[0]}={mark[1]} in os.environ first, so that processes can be told by it")
    before = Holdings.now(folder, mark)
    yield lambda: Holdings.now(folder, mark).beyond(before)
    deadline = time.monotonic() + patience
    idle.trim(0.0)  # What is kept for a while to be used again is no leak.
    while left := Holdings.now(folder, mark).beyond(before):
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n  " + "\n  ".join(left))
        time.sleep(_PAUSE)
