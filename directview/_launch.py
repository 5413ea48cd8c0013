"""Starting a supervisor and holding on to it: its process, its lifeline and the events that come by it.

Nothing here is bound to an event loop for longer than one await, so that a cluster may be started from one
loop and stopped from another. There are no threads: asyncio's own subprocesses would start one to wait.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from directview.errors import LaunchError
from directview.supervisor.options import SupervisorOptions
from directview.supervisor.paths import command, environment

__all__ = ["SupervisorProcess", "wait_for_process"]

_POLL: Final = 0.02


class SupervisorProcess:
    """A supervisor that this process started and that ends with it.

    Args:
        options: what it is to do; lifeline and paths are filled in here.
    """

    def __init__(self, options: SupervisorOptions) -> None:
        self.log = Path(options.folder) / "supervisor.log"
        self._data = b""
        self._pid = os.getpid()
        self.ended = False
        self.lifeline, theirs = socket.socketpair()
        self.lifeline.setblocking(False)
        try:
            told = dataclasses.replace(
                options,
                lifeline_fd=theirs.fileno(),
                launcher_pid=os.getpid(),
                pythonpath=os.environ.get("PYTHONPATH"),
            )
            self._process = self._start(told, theirs)
        except BaseException:
            self.lifeline.close()
            raise
        finally:
            theirs.close()

    def _start(self, options: SupervisorOptions, lifeline: socket.socket) -> subprocess.Popen[bytes]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
        try:
            with (
                os.fdopen(os.open(self.log, flags, 0o600), "wb") as log,
                tempfile.TemporaryFile("w+", dir=options.folder, encoding="utf-8") as spec,
            ):
                # Whole before the process is there: if we are killed then, it still knows what to clean.
                spec.write(options.to_json())
                spec.flush()
                spec.seek(0)
                return subprocess.Popen(
                    command("--spec-fd", str(spec.fileno())),
                    pass_fds=(spec.fileno(), lifeline.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment(os.environ),
                    # Away from the terminal: Ctrl-C is for the program, which ends its cluster in order.
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"can't start {sys.executable}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def _next(self) -> dict[str, Any] | None:
        """The next event, whatever it says; None when there are no more."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._data:
            try:
                piece = await loop.sock_recv(self.lifeline, 65_536)
            except ConnectionError:
                piece = b""
            if not piece:
                return None
            self._data += piece
        line, _, self._data = self._data.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    async def event(self) -> dict[str, Any]:
        """The next event. Cancelling is safe.

        Raises:
            LaunchError: it failed to start something, or ended; the text quotes the log.
        """
        event = await self._next()
        if event is None:
            raise LaunchError(_with_log("the supervisor ended", str(self.log), _tail(self.log)))
        match event["event"]:
            case "failed":
                raise LaunchError(_with_log(event["error"], event.get("log", ""), event.get("tail", "")))
            case "ended" if event.get("log"):
                what = f"an engine ended while the cluster was starting: {event['reason']}"
                raise LaunchError(_with_log(what, event["log"], event.get("tail", "")))
            case "stopped":
                raise LaunchError(f"the cluster stopped: {event['reason']}")
        return event

    async def stopped(self) -> str:
        """Wait for its end and return the reason; engines may come and go meanwhile. Cancelling is safe."""
        while True:
            event = await self._next()
            if event is None:
                return "its supervisor was killed"
            if event["event"] == "stopped":
                return str(event["reason"])

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next event of this kind; others are passed over. Cancelling is safe."""
        while True:
            event = await self.event()
            if event["event"] == kind:
                return event

    async def fail(self) -> None:
        """Return never; raise when an event tells of trouble."""
        while True:
            await self.event()

    async def wait(self, timeout: float) -> bool:
        """Wait for its end; returns whether it came. Cancelling is safe."""
        if not await wait_for_process(self.pid, timeout):
            return False
        self._reap()
        return True

    def let_go(self) -> None:
        """Close the lifeline: it ends, with all it started. Unless it was told to live on."""
        self.lifeline.close()

    def terminate(self) -> None:
        """Ask it to end by a signal, if this process started it and it lives."""
        if os.getpid() == self._pid and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it, if this process started it and it lives: the others notice, and end."""
        if os.getpid() == self._pid and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def end_now(self, timeout: float) -> None:
        """Let go and wait, blocking; kill it after `timeout` seconds. In a fork of the launcher: nothing."""
        if os.getpid() != self._pid:
            self.disown()  # It is the launcher's child.
            return
        self.let_go()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self.ended = True

    def disown(self) -> None:
        """Forget the process, which lives on: nobody here waits for it any more."""
        self.lifeline.close()
        if os.getpid() != self._pid or self._process.poll() is None:
            self._process.returncode = 0  # Left undone, its destructor would complain.
        self.ended = True

    def _reap(self) -> None:
        self._process.wait()
        self.lifeline.close()
        self.ended = True


async def wait_for_process(pid: int, timeout: float) -> bool:
    """Wait until a process has ended (a child may be left to reap); returns whether it has.

    Cancelling is safe.
    """
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(pid) if sys.platform == "linux" else -1
    except ProcessLookupError:
        return True
    except OSError:
        fd = -1
    try:
        async with asyncio.timeout(timeout):
            if fd < 0:
                while _exists(pid):  # noqa: ASYNC110 - nothing here could set an event
                    await asyncio.sleep(_POLL)
                return True
            ended = asyncio.Event()
            loop.add_reader(fd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(fd)
    except TimeoutError:
        return False
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def _exists(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _with_log(what: str, log: str, tail: str) -> str:
    if not tail:
        return what
    lines = "\n".join(f"  | {line}" for line in tail.splitlines())
    return f"{what}; {log} ends with:\n{lines}"


def _tail(path: Path) -> str:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-12:])
