"""Asking a running supervisor for something: start, stop, restart or signal engines, or tell how they are.

Each request is one connection to the supervisor's control socket (in a 0700 folder of ours), one line of
JSON there and one back. Nothing is kept open between requests, so they can be made from any event loop and
any process that finds the cluster's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from directview.errors import LaunchError

__all__ = ["MAX_LINE", "SupervisorFile", "request"]

MAX_LINE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorFile:
    """``supervisor.json`` in a cluster's folder: who supervises it, and where to ask."""

    pid: int
    started: float
    """Start of that process as psutil gives it: a number alone may be another process's by now."""
    control: str
    """Path of the control socket."""

    @classmethod
    def of_this_process(cls, control: str) -> SupervisorFile:
        """For the process that is asking."""
        return cls(pid=os.getpid(), started=psutil.Process().create_time(), control=control)

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        temporary = folder / f".supervisor-{self.pid}"
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({"pid": self.pid, "started": self.started, "control": self.control}))
        temporary.rename(folder / "supervisor.json")

    @classmethod
    def read(cls, folder: Path) -> SupervisorFile | None:
        """What is written there, or None if there is nothing (of use)."""
        try:
            contents = json.loads((folder / "supervisor.json").read_text())
            return cls(
                pid=int(contents["pid"]),
                started=float(contents["started"]),
                control=str(contents["control"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def process(self) -> psutil.Process | None:
        """The supervisor's process, if it lives."""
        try:
            process = psutil.Process(self.pid)
            # Clock adjustments move the figure a little; another process would be far off.
            if abs(process.create_time() - self.started) > 2 or process.status() == psutil.STATUS_ZOMBIE:
                return None
            return process
        except psutil.NoSuchProcess:
            return None


async def request(control: str, do: str, timeout: float = 60.0, **params: Any) -> Any:
    """Make one request and return its answer. Cancelling it leaves undone only the waiting.

    Args:
        control: path of the control socket.
        do: ``status``, ``start``, ``stop``, ``stop-engines``, ``restart-engines``, ``signal`` or ``detach``.
        timeout: seconds to wait for the answer.
        params: of the request.

    Raises:
        LaunchError: there is no supervisor there, it said no, or it didn't answer in time.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(control, limit=MAX_LINE)
            try:
                writer.write(json.dumps({"do": do, **params}).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        raise LaunchError(f"the supervisor at {control} didn't answer {do!r} in {timeout:g} s") from None
    except OSError as error:
        raise LaunchError(f"no supervisor listens at {control} ({error.strerror}): it has ended") from None
    if not line:
        raise LaunchError(f"the supervisor at {control} ended before it had answered {do!r}")
    answer = json.loads(line)
    if not answer["ok"]:
        raise LaunchError(str(answer["value"]))
    return answer["value"]
