"""Forked processes and a socket's address, for the limit programs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.kin import die_with_parent

__all__ = ["Processes"]


class Processes:
    """A few forked processes and a folder for their sockets; both are gone after `end`.

    Fork them before the caller opens a zmq context of its own: one does not survive a fork.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("fork")
        self._folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.running: list[BaseProcess] = []

    @property
    def address(self) -> str:
        """Where the relay listens."""
        return f"ipc://{self._folder / 'relay'}"

    def fork(self, main: Callable[..., None], *args: Any) -> int:
        """Run ``main(*args)`` in a new process; its process id."""
        process = self._context.Process(target=_main, args=(os.getpid(), main, args), daemon=True)
        process.start()
        self.running.append(process)
        assert process.pid is not None
        return process.pid

    def end(self) -> None:
        """Kill and reap them all."""
        for process in self.running:
            process.kill()
            process.join()
        self.running.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _main(parent: int, main: Callable[..., None], args: tuple[Any, ...]) -> None:
    die_with_parent(parent, signal.SIGKILL)
    main(*args)
