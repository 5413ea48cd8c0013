"""The controller as a process of this supervisor: the one that was forked first, and those that take over.

The first one is forked from a process with a single thread. By the time one has to be replaced, this process
has threads (zmq's), from which no fork may come that goes on as Python: so a successor is a fresh process.
It takes 0.3 s until it listens, where the first one took none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any, Final

from directview.supervisor._child import become
from directview.supervisor._processes import exit_code_of
from directview.supervisor.paths import adopt_path, command, environment

__all__ = ["ControllerProcess", "run_fresh_controller"]

_log = logging.getLogger(__name__)

_MOST_SAID: Final = 65_536


class ControllerProcess:
    """One controller at a time.

    Args:
        options: `ControllerOptions` as plain data.
        sys_path: where it finds what it imports.
        pid: the one that was forked.
        ready_fd: where that one says that it is ready.
    """

    def __init__(
        self, options: dict[str, Any], sys_path: list[str] | None, pid: int = 0, ready_fd: int = -1
    ) -> None:
        self.options = options
        self.pid = pid
        """0 when there is none."""
        self._sys_path = sys_path
        self._ready_fd = ready_fd
        self._data = b""
        self._on_said: Callable[[dict[str, Any]], None] = lambda said: None

    def watch(self, on_said: Callable[[dict[str, Any]], None]) -> None:
        """Hear what it says, once for each process: ready, or ``{"error": ...}``; nothing if it just ends."""
        self._on_said = on_said
        asyncio.get_running_loop().add_reader(self._ready_fd, self._readable)

    def start(self) -> None:
        """Start one that takes over.

        Raises:
            OSError: it can't be started.
        """
        self._close()
        told = {
            "options": self.options,
            "sys_path": self._sys_path,
            "pythonpath": os.environ.get("PYTHONPATH"),
            "parent": os.getpid(),
        }
        ready, said = os.pipe()
        spec, spec_end = os.pipe()
        try:
            process = subprocess.Popen(
                command("--controller", str(spec), str(said)),
                pass_fds=(spec, said),
                stdin=subprocess.DEVNULL,
                env=environment(os.environ),
            )
        except BaseException:
            os.close(ready)
            os.close(spec_end)
            raise
        finally:
            os.close(said)
            os.close(spec)
        self.pid = process.pid
        process.returncode = 0  # We reap it ourselves; its destructor must not.
        try:
            with os.fdopen(spec_end, "w", encoding="utf-8") as pipe:
                json.dump(told, pipe)
        except BrokenPipeError:
            pass  # It has ended already, which is noticed as its end.
        self._ready_fd, self._data = ready, b""
        asyncio.get_running_loop().add_reader(ready, self._readable)

    def _readable(self) -> None:
        piece = os.read(self._ready_fd, _MOST_SAID)
        self._data += piece
        if piece and not self._data.endswith(b"\n"):
            return
        data = self._data
        self._close()
        try:
            said = json.loads(data)
        except ValueError:
            said = {}
        self._on_said(said)

    def _close(self) -> None:
        if self._ready_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._ready_fd)
            os.close(self._ready_fd)
            self._ready_fd = -1

    def signal(self, signum: int) -> None:
        """Signal it. As long as it is not reaped, the number is its own."""
        if self.pid:
            os.kill(self.pid, signum)

    def reap(self) -> int | None:
        """Its exit code, if it has ended."""
        if not self.pid:
            return None
        found, status = os.waitpid(self.pid, os.WNOHANG)
        if not found:
            return None
        self.pid = 0
        return exit_code_of(status)


def run_fresh_controller(spec_fd: int, ready_fd: int, run: Callable[[dict[str, Any]], int]) -> int:
    """Be such a successor, in its process; returns the exit code.

    Args:
        spec_fd: what it is told is read here.
        ready_fd: what it says is written here.
        run: runs a controller with these options to its end.
    """
    os.set_inheritable(ready_fd, False)
    with open(spec_fd, encoding="utf-8") as file:
        told = json.load(file)
    adopt_path(told["sys_path"], told["pythonpath"])
    options = {**told["options"], "ready_fd": ready_fd}
    log, parent = options.get("log", ""), told["parent"]
    become("directview-controller", parent=parent, orphaned=signal.SIGTERM, log=log, keep=(ready_fd,))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return run(options)
