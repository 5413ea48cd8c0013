"""A peer's process as the harness sees it: requests and answers, memory, and its end.

Memory is measured from outside. What several processes take together is their PSS (each page divided by
the number of processes that share it): adding up RSS counts shared pages once for each process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "AdapterEnded",
    "AdapterProcess",
    "PeerError",
    "PeerRefused",
    "Watched",
    "descendants",
    "end_leftovers",
]

IMPORTABLE = str(Path(__file__).resolve().parents[1])
"""PYTHONPATH of the peers' processes: the folder that holds `benchmarks`."""
_END_SECONDS = 20.0
_HURRY_SECONDS = 3.0
_LOOK_SECONDS = 0.5
_LEAST_MEMORY = 1_000_000_000
"""Bytes that must be left for everything else: some copy a large array so often that the machine is full."""
_LEAVE_SECONDS = 3.0
"""Seconds in which what a peer started must be gone after the peer has ended."""


class PeerError(Exception):
    """The peer failed at what it was asked."""


class PeerRefused(Exception):
    """The peer has no such operation; the text says why."""


class AdapterEnded(PeerError):
    """The peer's process is gone, or didn't answer in time and was killed."""


class AdapterProcess:
    """One peer's process.

    Args:
        python: its interpreter.
        peer: ``module:Class``.
        env: environment variables beside this process's.
        log: where everything that it prints goes.
        timeout: seconds for its first line.

    Raises:
        AdapterEnded: it didn't start; the text ends with what it printed last.
    """

    def __init__(
        self, python: str, peer: str, env: Mapping[str, str], log: Path, timeout: float = 60.0
    ) -> None:
        self._log = log
        self._buffer = b""
        with log.open("ab") as printed:
            # -P: this folder's parent is importable by PYTHONPATH only, in the peer's own processes too.
            # A session of its own: mpich's process manager kills its process group when a rank ends badly.
            self._process = subprocess.Popen(
                [python, "-P", "-m", "benchmarks.adapter", peer, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                cwd=log.parent,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": IMPORTABLE, "PYTHONUNBUFFERED": "1", **env},
            )
        try:
            self.hello = self._read(timeout)
        except AdapterEnded:
            self.end()
            raise

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Have it do something.

        Args:
            request: see `benchmarks.adapter`.
            timeout: seconds after which it is killed.

        Raises:
            PeerRefused: it has no such operation.
            PeerError: it failed.
            AdapterEnded: it is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AdapterEnded(f"its process ended: {self._last_words()}") from None
        answer = self._read(timeout)
        if answer["ok"]:
            return answer
        raise (PeerRefused if answer["unsupported"] else PeerError)(answer["error"])

    def _read(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                self.end(_HURRY_SECONDS)
                raise AdapterEnded(f"no answer after {timeout:.0f} s: {self._last_words()}")
            if psutil.virtual_memory().available < _LEAST_MEMORY:
                self.end(0.0)
                raise AdapterEnded("it took nearly all memory of this machine, and was ended")
            if not poll.poll(min(left, _LOOK_SECONDS) * 1000):
                continue
            read = os.read(fd, 1 << 20)
            if not read:
                raise AdapterEnded(f"its process ended: {self._last_words()}")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else "it printed nothing"

    # --- memory ---------------------------------------------------------------------------------------

    def client_memory(self) -> int:
        """RSS of the peer's own process, in bytes. Not PSS, which falls when a child shares its pages."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def cluster_memory(self) -> tuple[int, int]:
        """PSS of all that it started, in bytes, and how many processes those are.

        Raises:
            PeerRefused: this system doesn't tell.
        """
        return _pss(psutil.Process(self._process.pid).children(recursive=True))

    def end(self, patience: float = _END_SECONDS) -> None:
        """Ask it to end, and kill it and all that it started if it doesn't within `patience` seconds."""
        descendants: list[psutil.Process] = []
        try:
            descendants = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            pass
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            _kill(descendants)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Watched:
    """Processes whose memory is compared with what it is now.

    Args:
        pids: the processes; those below them are watched too.

    Raises:
        PeerRefused: this system doesn't tell.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        processes = [psutil.Process(pid) for pid in pids]
        processes += [child for process in processes for child in process.children(recursive=True)]
        try:
            self._before = {process.pid: _status(process.pid, "VmRSS") for process in processes}
        except OSError as error:
            raise PeerRefused(f"the kernel doesn't tell a process's memory: {error}") from None

    def reset_peak(self) -> None:
        """Forget the high-water marks: from now on they are what is resident.

        Raises:
            PeerRefused: this system can't.
            PeerError: one of the processes has ended.
        """
        for pid in self._before:
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except FileNotFoundError:
                raise PeerError(f"its controller's process {pid} has ended") from None
            except OSError as error:
                raise PeerRefused(f"the kernel doesn't tell a process's peak memory: {error}") from None

    def growth(self) -> int:
        """Bytes of the high-water marks above what was resident when watching began, all together.

        A process that has ended does not count.
        """
        grown = 0
        for pid, before in self._before.items():
            try:
                grown += max(0, _status(pid, "VmHWM") - before)
            except FileNotFoundError:
                continue
        return grown


def _status(pid: int, key: str) -> int:
    """Bytes, from /proc."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} for process {pid}")


def _pss(processes: Iterable[psutil.Process]) -> tuple[int, int]:
    total = count = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
            count += 1
        except AttributeError:
            raise PeerRefused(f"{sys.platform} doesn't tell how much memory is shared (PSS)") from None
        except psutil.NoSuchProcess:
            continue  # it ended while we looked
    return total, count


# --- leaving nothing behind -----------------------------------------------------------------------------


def descendants() -> set[int]:
    """Process ids of everything below this process."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def end_leftovers(others: Set[int]) -> int:
    """Kill what is left of a peer that has ended (and was adopted); how many processes that were.

    Whatever ends by itself within a few seconds is not counted.

    Args:
        others: processes below this one that are none of the peer's.
    """
    deadline = time.monotonic() + _LEAVE_SECONDS
    while left := _living_children(others):
        if time.monotonic() > deadline:
            _kill(left)
            psutil.wait_procs(left, _LEAVE_SECONDS)
            return len(left)
        time.sleep(0.05)
    return 0


def _living_children(others: Set[int]) -> list[psutil.Process]:
    living = []
    for child in psutil.Process().children(recursive=True):
        if child.pid in others:
            continue
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                # Adopted, and nobody else's to reap; the peer's own process has been waited for.
                if child.ppid() == os.getpid():
                    os.waitpid(child.pid, os.WNOHANG)
            else:
                living.append(child)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue
    return living


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
