"""The supervisor's hands on its engines: through the fork server, or on the one process that it adopted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from directview.engine._interrupt import INTERRUPT_SIGNAL, pack_call_id
from directview.engine.options import EngineOptions
from directview.supervisor._pipe import Pipe, PipeClosed
from directview.supervisor._processes import kill_session, pidfd_open
from directview.supervisor._state import (
    Ended,
    Event,
    ForkServerEnded,
    NotStarted,
    Started,
    StartEngines,
    StopAll,
)
from directview.supervisor.options import SupervisorOptions

__all__ = ["AdoptedHost", "EngineHost", "ForkServerHost"]

_log = logging.getLogger(__name__)

OnEvent = Callable[[Event], None]


class EngineHost(Protocol):
    """What the shell does to engines. What becomes of it comes back as events."""

    def open(self, on_event: OnEvent) -> None:
        """Start to listen, on the running loop."""

    def spawn(self, uuid: bytes, wanted_id: int) -> None:
        """Start an engine: `Started` or `NotStarted` follows, and at its end `Ended`."""

    def signal(self, uuid: bytes, signum: int) -> None:
        """Signal the engine's own process; nothing happens if it has ended."""

    def kill(self, uuid: bytes, pid: int) -> None:
        """Kill it, with all that it started where that is known."""

    def interrupt(self, uuid: bytes, client: bytes, seq: int) -> None:
        """Have the engine interrupt this call, if it is running it."""

    def peak_of(self, uuid: bytes) -> int:
        """The most bytes of memory that an engine had, asked once, when it has ended; 0 if nobody knows."""
        ...

    def log_of(self, uuid: bytes) -> Path | None:
        """Where an engine's descriptors 1 and 2 go; None if that is not known."""

    async def close(self) -> None:
        """Let go. Engines that are left are killed."""


def write_interrupt(pipe: int, client: bytes, seq: int) -> None:
    """Write a call's id for the engine's signal handler."""
    try:
        os.write(pipe, pack_call_id(client, seq))
    except BlockingIOError:
        _log.warning("an engine doesn't read its interrupts")
    except OSError:
        pass  # It has ended.


class ForkServerHost:
    """Engines that the fork server starts.

    Args:
        pipe: our end of the fork server's pipe.
        options: the supervisor's.
        uuid: the supervisor's, in hex.
    """

    def __init__(self, pipe: Pipe, options: SupervisorOptions, uuid: str) -> None:
        self.connection = options.connection
        """Path of the engines' connection file; set when the controller has written it."""
        self._pipe = pipe
        self._options = options
        self._uuid = uuid
        self._interrupts: dict[bytes, int] = {}
        self._pidfds: dict[bytes, int] = {}
        self._peaks: dict[bytes, int] = {}
        self._on_event: OnEvent = lambda event: None
        self._gone: asyncio.Future[None] | None = None

    def open(self, on_event: OnEvent) -> None:
        """Listen to the fork server."""
        loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._gone = loop.create_future()
        loop.add_reader(self._pipe.fileno(), self._readable)

    def note_controller(self, pid: int) -> None:
        """Tell the fork server which process is the controller now: it is not to outlive us."""
        pidfd = pidfd_open(pid)
        if pidfd >= 0:
            self._send({"do": "controller"}, (pidfd,))

    def log_of(self, uuid: bytes) -> Path:
        """Where an engine's descriptors 1 and 2 go."""
        return Path(self._options.folder) / f"engine-{uuid.hex()[:12]}.log"

    def spawn(self, uuid: bytes, wanted_id: int) -> None:
        """Ask the fork server for an engine."""
        options = EngineOptions.from_dict(
            {
                **self._options.engine,
                "connection": self.connection,
                "uuid": uuid.hex(),
                "supervisor": self._uuid,
                "wanted_id": wanted_id,
                "folder": self._options.folder,
                "log_level": self._options.log_level,
            }
        )
        try:
            read_end, write_end = os.pipe()
        except OSError as error:
            asyncio.get_running_loop().call_soon(
                self._on_event, NotStarted(uuid, f"no pipe for it: {error.strerror}")
            )
            return
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        self._interrupts[uuid] = write_end
        fresh = self._options.env is not None or self._options.start_method == "exec"
        self._send(
            {
                "do": "spawn",
                "uuid": uuid.hex(),
                "options": options.to_dict(),
                "log": str(self.log_of(uuid)),
                "env": self._options.env,
                "fresh": fresh,
            },
            (read_end,),
        )

    def signal(self, uuid: bytes, signum: int) -> None:
        """Signal it through its descriptor, or through its parent where there is none."""
        pidfd = self._pidfds.get(uuid)
        if pidfd is None:
            self._send({"do": "signal", "uuid": uuid.hex(), "signum": int(signum)})
            return
        try:
            signal.pidfd_send_signal(pidfd, signum)
        except ProcessLookupError:
            pass

    def kill(self, uuid: bytes, pid: int) -> None:
        """Kill its session: its parent does it while there is one, since it alone knows it isn't reaped."""
        if self._gone is None or self._gone.done():
            kill_session(pid)
        else:
            self._send({"do": "kill", "uuid": uuid.hex()})

    def interrupt(self, uuid: bytes, client: bytes, seq: int) -> None:
        """Write the call's id into its pipe, then signal it."""
        pipe = self._interrupts.get(uuid)
        if pipe is not None:
            write_interrupt(pipe, client, seq)
            self.signal(uuid, INTERRUPT_SIGNAL)

    def peak_of(self, uuid: bytes) -> int:
        """As the kernel told its parent."""
        return self._peaks.pop(uuid, 0)

    async def close(self) -> None:
        """Tell the fork server to end, and wait until it has."""
        if self._gone is not None and not self._gone.done():
            self._send({"do": "end"})
            await self._gone

    def _send(self, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        try:
            if not self._pipe.post(message, fds):
                asyncio.get_running_loop().add_writer(self._pipe.fileno(), self._writable)
        except PipeClosed:
            pass  # Its end is readable as well, and acted on there.

    def _writable(self) -> None:
        try:
            if not self._pipe.flush():
                return
        except PipeClosed:
            pass
        asyncio.get_running_loop().remove_writer(self._pipe.fileno())

    def _readable(self) -> None:
        try:
            messages = self._pipe.receive()
        except PipeClosed:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            asyncio.get_running_loop().remove_writer(self._pipe.fileno())
            self._pipe.close()
            assert self._gone is not None
            self._gone.set_result(None)
            self._on_event(ForkServerEnded())
            for uuid in list(self._interrupts):
                self._forget(uuid)
            return
        for message, fds in messages:
            match message:
                case {"started": uuid, "pid": pid}:
                    if fds:
                        self._pidfds[bytes.fromhex(uuid)] = fds[0]
                    _log.info("engine %s started: process %d", uuid[:12], pid)
                    self._on_event(Started(bytes.fromhex(uuid), pid))
                case {"failed": uuid, "reason": reason}:
                    self._forget(bytes.fromhex(uuid))
                    self._on_event(NotStarted(bytes.fromhex(uuid), reason))
                case {"ended": uuid, "code": code, "peak": peak}:
                    self._forget(bytes.fromhex(uuid))
                    self._peaks[bytes.fromhex(uuid)] = peak
                    self._on_event(Ended(bytes.fromhex(uuid), code))
                case _:
                    raise AssertionError(f"unknown message {message!r}")

    def _forget(self, uuid: bytes) -> None:
        for table in (self._interrupts, self._pidfds):
            fd = table.pop(uuid, None)
            if fd is not None:
                os.close(fd)


class AdoptedHost:
    """One engine that somebody else started (mpiexec, srun): it can be watched and signalled, no more.

    Args:
        uuid: the engine's.
        pid: its process.
        pidfd: a descriptor for that very process.
        interrupts: write end of its interrupt pipe.
    """

    def __init__(self, uuid: bytes, pid: int, pidfd: int, interrupts: int) -> None:
        self._uuid = uuid
        self._pid = pid
        self._pidfd = pidfd
        self._interrupts = interrupts
        self._on_event: OnEvent = lambda event: None

    def open(self, on_event: OnEvent) -> None:
        """Watch it."""
        self._on_event = on_event
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, self._ended)
        loop.call_soon(on_event, StartEngines((self._uuid,), None))

    def spawn(self, uuid: bytes, wanted_id: int) -> None:
        """The one engine is there already; others are for whoever started it."""
        if uuid == self._uuid:
            self._on_event(Started(uuid, self._pid))
        else:
            self._on_event(
                NotStarted(uuid, "this engine was started by another program, which must start more")
            )

    def signal(self, uuid: bytes, signum: int) -> None:
        """Signal it."""
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except OSError:
            pass

    def kill(self, uuid: bytes, pid: int) -> None:
        """Kill its process alone: its session belongs to whoever started it."""
        self.signal(uuid, signal.SIGKILL)

    def interrupt(self, uuid: bytes, client: bytes, seq: int) -> None:
        """Write the call's id into its pipe, then signal it."""
        write_interrupt(self._interrupts, client, seq)
        self.signal(uuid, INTERRUPT_SIGNAL)

    def peak_of(self, uuid: bytes) -> int:
        """That is for its parent to know."""
        return 0

    def log_of(self, uuid: bytes) -> Path | None:
        """That is its starter's affair."""
        return None

    async def close(self) -> None:
        """Stop watching."""
        asyncio.get_running_loop().remove_reader(self._pidfd)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._on_event(Ended(self._uuid, None))
        self._on_event(StopAll("its engine has ended"))
