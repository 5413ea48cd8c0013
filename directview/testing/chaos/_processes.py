"""The programs of one episode: how they are started, stopped, frozen and killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import psutil

__all__ = [
    "MARK",
    "Program",
    "end_all",
    "everybody",
    "freeze",
    "freeze_all",
    "kill",
    "open_files",
    "ours",
]

MARK: Final = "DIRECTVIEW_CHAOS"
"""Environment variable that all processes of a run inherit."""
_POLL: Final = 0.02


class Program:
    """One program, its output in a file.

    Args:
        name: what to call it.
        arguments: of Python.
        log: where its output goes.
        environment: of its process; None: ours.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=environment,
                # Away from the terminal: Ctrl-C is for the run, which ends its programs in order.
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """As of `subprocess`; None while it runs."""
        return self._process.poll()

    def close_input(self) -> None:
        """Tell it that there is nothing more to do."""
        pipe: IO[bytes] | None = self._process.stdin
        if pipe is not None:
            pipe.close()

    def say(self, word: bytes) -> None:
        """Write to its input."""
        pipe: IO[bytes] | None = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.write(word)
                pipe.flush()

    def signal(self, signum: int) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            self._process.send_signal(signum)

    async def ended(self, timeout: float) -> bool:
        """Wait until it has ended; returns whether it has within `timeout` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self.running:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_POLL)
        self.close_input()
        return True


def ours(pid: int) -> bool:
    """Whether this is a living process of this run, and not another one that has its number by now."""
    try:
        process = psutil.Process(pid)
        living = process.status() != psutil.STATUS_ZOMBIE
        mine: bool = living and process.environ().get(MARK) == os.environ.get(MARK, "-")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return mine


def kill(pid: int, signum: int = signal.SIGKILL) -> bool:
    """Send a signal to a process of this run; returns whether it was there."""
    if not ours(pid):
        return False
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


async def freeze(pid: int, seconds: float) -> bool:
    """Stop a process of this run for a while; returns whether it was there."""
    return await freeze_all([pid], seconds)


async def freeze_all(pids: Sequence[int], seconds: float) -> bool:
    """Stop processes of this run for a while; returns whether any was there.

    Whose they are is looked up before, which takes milliseconds each: a machine that sleeps has them all stop
    and go on in the same moment.
    """
    theirs = [pid for pid in pids if ours(pid)]
    try:
        frozen = _signal_all(theirs, signal.SIGSTOP)
        await asyncio.sleep(seconds if frozen else 0.0)
    finally:
        # One that was killed meanwhile may have left its number to a stranger, whom this signal does nothing.
        _signal_all(theirs, signal.SIGCONT)
    return bool(frozen)


def _signal_all(pids: Sequence[int], signum: int) -> list[int]:
    """Send it to those of them that are still there, and return these."""
    reached = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
            reached.append(pid)
    return reached


def everybody() -> list[int]:
    """All processes of this run but this one."""
    return [pid for pid in psutil.pids() if pid != os.getpid() and ours(pid)]


def open_files(pids: Sequence[int]) -> dict[int, int]:
    """How many descriptors each of these has open."""
    found: dict[int, int] = {}
    for pid in pids:
        try:
            found[pid] = psutil.Process(pid).num_fds()
        except psutil.Error:
            continue
    return found


def end_all(processes: Iterable[tuple[int, float]]) -> None:
    """Kill what is left of a run: (pid, time of its start) each, as `Holdings` has them."""
    for pid, _ in processes:
        kill(pid)
