"""The supervisor at work: feeds the machine, performs its effects, keeps one timer.

It hears the engine host (starts and ends), the controller (requests), the launcher's lifeline, the control
socket, and the kernel (its children, signals). Whatever it is, it becomes an event for `Machine`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, assert_never

from directview._trace_writing import TRACE_FOLDER
from directview.folders import (
    TAKEOVER_FILES,
    private_sockets,
    remove_private,
    socket_path,
    stop_reason_file,
)
from directview.supervisor._control import ControlServer
from directview.supervisor._controller import ControllerProcess
from directview.supervisor._hosts import EngineHost, ForkServerHost
from directview.supervisor._log_files import TIDY_SECONDS, tidy
from directview.supervisor._processes import is_stopped, pidfd_open
from directview.supervisor._restarts import Outlook
from directview.supervisor._state import (
    ControllerEnded,
    ControllerReady,
    DeliverInterrupt,
    Effect,
    EndController,
    EndEngine,
    EngineRegistered,
    Event,
    Finish,
    GiveUpEngine,
    InterruptCall,
    KillSession,
    Machine,
    Replace,
    ReplaceEngine,
    Reply,
    ReportExit,
    RestartEngines,
    SendSignal,
    SignalEngine,
    Spawn,
    StartController,
    StartEngines,
    StopAll,
    describe_exit,
)
from directview.supervisor._vitals import LOOK_EVERY, OUT_OF_MEMORY, Vitals, last_words
from directview.supervisor._vouching import Vouching
from directview.supervisor.control import SupervisorFile
from directview.supervisor.options import SupervisorOptions
from directview.wire.messages import (
    Alive,
    Answer,
    Engines,
    Exited,
    Goodbye,
    Interrupt,
    Launch,
    Message,
    Signal,
    Stop,
    Welcome,
)
from directview.wire.postmortem import Postmortem

__all__ = ["Supervisor", "Uplink", "clean_folder", "tail"]

_log = logging.getLogger(__name__)

_TAIL_LINES = 12
_POLL_PARENT = 1.0
_POLL_FOLDER = 2.0
_RECONNECT = 0.5
"""Seconds until another attempt at a controller that lives but didn't answer."""


class Uplink(Protocol):
    """The connection to the controller, as the shell needs it. It reconnects by itself."""

    def start(
        self, connection: str, on_message: Callable[[Message], None], on_lost: Callable[[str], None]
    ) -> None:
        """Connect, and go on connecting; `on_lost` says that it gave up, and why."""

    def send(self, message: Message) -> None:
        """Send it, now or when there is a connection again."""

    async def close(self) -> None:
        """Send what can still be sent, and close."""


class Supervisor:
    """Supervises the engines of one host until it is told to stop, or nobody is left to do it for.

    Args:
        options: what was asked for.
        uuid: of this supervisor, 16 bytes.
        host: its hands on the engines.
        uplink: its connection to the controller.
        controller: the controller, if it is a child of this process.
        fork_server_pid: likewise the fork server's.
    """

    def __init__(
        self,
        options: SupervisorOptions,
        uuid: bytes,
        host: EngineHost,
        uplink: Uplink,
        controller: ControllerProcess | None = None,
        fork_server_pid: int = 0,
    ) -> None:
        self.options = options
        self.uuid = uuid
        self.machine = Machine(options.policy, controller is not None, options.grace, options.restart_engines)
        self._controller = controller
        self._fork_server_pid = fork_server_pid
        self._host = host
        self._uplink = uplink
        self._control: ControlServer | None = None
        self._launcher: socket.socket | None = None
        self._launcher_fd = -1
        self._detached = False
        self._connection = options.connection
        self._timer: asyncio.TimerHandle | None = None
        self._vouching: Vouching | None = None
        """How we vouch for engines, to a controller that waits for them."""
        self._next_word: asyncio.TimerHandle | None = None
        self._ended_waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._started = time.time()
        self._vitals = Vitals()
        self._fork_server_gone = asyncio.Event()
        if not fork_server_pid:
            self._fork_server_gone.set()

    async def run(self) -> int:
        """Serve to the end. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._finished: asyncio.Future[str] = loop.create_future()
        loop.set_exception_handler(self._on_error)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.feed, StopAll(f"the supervisor got {signum.name}"))
        if self._controller is not None or self._fork_server_pid:
            loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._host.open(self.feed)
        self._look()
        self._watch_launcher()
        if self.options.folder:
            self._tidy_logs()
        try:
            await self._serve()
        except Exception as error:
            self.tell({"event": "failed", "error": f"the supervisor failed: {error!r}"})
            raise
        finally:
            await self._close()
        return 0

    def _tidy_logs(self) -> None:
        living = {f"engine-{uuid.hex()[:12]}" for uuid in self.machine.engines}
        for folder in (Path(self.options.folder), Path(self.options.folder) / TRACE_FOLDER):
            tidy(folder, living)
        self._tidying = self._loop.call_later(TIDY_SECONDS, self._tidy_logs)

    async def _serve(self) -> None:
        if self._fork_server_pid:
            self._control = ControlServer(self, str(_control_path(self.options, self.uuid)))
            await self._control.start()
        if self._controller is not None:
            self._controller.watch(self._controller_says)
            self._reap()
        else:
            self._controller_ready({"engine": self.options.connection})
        reason = await self._finished
        _log.info("ending: %s", reason)

    async def _close(self) -> None:
        """End what is left, in an order in which each can still hear of the one before."""
        try:
            async with asyncio.timeout(self.options.grace):
                await self._uplink.close()
        except TimeoutError:
            _log.warning("the controller didn't take our goodbye in time")
        if self._control is not None:
            await self._control.close()
        try:
            async with asyncio.timeout(self.options.grace):
                await self._host.close()
                await self._fork_server_gone.wait()
        except TimeoutError:
            _log.error("the fork server doesn't end: killing it")
            if self._fork_server_pid:  # Not reaped yet, so the number is still that child's.
                os.kill(self._fork_server_pid, signal.SIGKILL)
        if self.options.controller is not None or self.options.private:
            clean_folder(self.options, os.getpid())
        self.tell({"event": "stopped", "reason": self.machine.stopping or ""})

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback failed. Whatever it should have done isn't done: end in order rather than hang."""
        loop.default_exception_handler(context)
        if not self._finished.done():
            self._finished.set_exception(context.get("exception") or RuntimeError(context["message"]))

    # --- machine -------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Give one event to the machine and do what it says."""
        self._perform(self.machine.handle(event, self._loop.time()))
        self._arm()

    def start_engines(self, n: int, ticket: object) -> None:
        """Start `n` engines; `ticket` hears of it."""
        self.feed(StartEngines(tuple([secrets.token_bytes(16) for _ in range(n)]), ticket))

    def restart_engines(self, engines: Iterable[tuple[bytes, int]], ticket: object) -> None:
        """Replace engines, given by (uuid, id to keep)."""
        replaced = [(old, secrets.token_bytes(16), wanted_id) for old, wanted_id in engines]
        self.feed(RestartEngines(tuple(replaced), ticket))

    async def wait_ended(self, uuids: Iterable[bytes]) -> None:
        """Wait until these engines have ended. Cancelling it is safe."""
        futures = []
        for uuid in uuids:
            if uuid in self.machine.engines:
                futures.append(self._loop.create_future())
                self._ended_waiters.setdefault(uuid, []).append(futures[-1])
        await asyncio.gather(*futures)

    def _tick(self) -> None:
        self._timer = None
        self._perform(self.machine.tick(self._loop.time()))
        self._arm()

    def _look(self) -> None:
        """How much memory engines have is told when one has ended."""
        pids = {engine.uuid: engine.pid for engine in self.machine.engines.values() if engine.pid}
        self._vitals.look(pids, self._loop.time())
        self._loop.call_later(LOOK_EVERY, self._look)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.machine.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Spawn(uuid, wanted_id):
                    self._host.spawn(uuid, wanted_id)
                case SendSignal(uuid, signum):
                    self._host.signal(uuid, signum)
                case KillSession(uuid, pid):
                    self._host.kill(uuid, pid)
                case DeliverInterrupt(uuid, client, seq):
                    self._host.interrupt(uuid, client, seq)
                case ReportExit(uuid, exit_code, reason, outlook):
                    self._report_exit(uuid, exit_code, reason, outlook)
                case Replace(place):
                    _log.info("another engine %d is started", place.id)
                    self.feed(ReplaceEngine(secrets.token_bytes(16), place))
                case Reply(ticket, ok, value):
                    self._reply(ticket, ok, value)
                case EndController(signum):
                    self._say_why()
                    if self._controller is not None:
                        self._controller.signal(signum)
                case StartController():
                    self._start_controller()
                case Finish(reason):
                    if not self._finished.done():
                        self._finished.set_result(reason)
                case _ as unreachable:
                    assert_never(unreachable)

    def _say_why(self) -> None:
        """The controller is told by a signal, which says nothing; clients are told what lies here."""
        try:
            stop_reason_file(self.options.folder).write_text(self.machine.stopping or "")
        except OSError:
            _log.warning("clients can't be told why the cluster ends", exc_info=True)

    def _report_exit(self, uuid: bytes, exit_code: int | None, reason: str, outlook: Outlook) -> None:
        log = self._host.log_of(uuid) if exit_code != 0 and self.machine.stopping is None else None
        if reason == describe_exit(-signal.SIGKILL) and self._vitals.out_of_memory(self._loop.time()):
            reason = OUT_OF_MEMORY
        said = last_words(log) if log is not None else ""
        memory, peak = self._vitals.forget(uuid), self._host.peak_of(uuid)
        known = Postmortem(memory, peak, said, "", *outlook)
        _log.info(
            "engine %s ended: %s%s%s; memory %d MB when last seen, %d MB at most",
            uuid.hex()[:12], reason or "in order", "; " if outlook.text else "", outlook.text,
            memory / 1e6, peak / 1e6,
        )  # fmt: skip
        self._uplink.send(Exited(uuid, exit_code, reason, known))
        event = {"event": "ended", "uuid": uuid.hex(), "code": exit_code, "reason": reason}
        if log is not None:
            event["log"] = str(log)
            event["tail"] = tail(log)
        self.tell(event)
        for future in self._ended_waiters.pop(uuid, []):
            if not future.done():
                future.set_result(None)

    def _reply(self, ticket: object, ok: bool, value: Any) -> None:
        match ticket:
            case ("launch", int(query)):
                self._uplink.send(Answer(query, ok, value))
            case "first":
                control = self._control.path if self._control is not None else ""
                self.tell({"event": "engines", "ok": ok, "value": value, "control": control})
            case asyncio.Future() if not ticket.done():
                ticket.set_result((ok, value))
            case _:
                pass  # Whoever asked has gone.

    # --- the controller ------------------------------------------------------------------------

    def _controller_says(self, said: dict[str, Any]) -> None:
        """Its one line: ready, or why not. If it ended without, its log has the reason."""
        assert self._controller is not None
        if self.machine.has_begun:
            self._successor_says(said)
        elif "engine" in said:
            self.feed(ControllerReady())
            self._controller_ready(said)
        elif "error" in said:
            self._fail_start(str(said["error"]), None)
        else:
            self._fail_start("the controller ended before it was ready", self._controller.options)

    def _successor_says(self, said: dict[str, Any]) -> None:
        """The uplink finds it by itself, at the same address; its end, if it can't start, is seen as such."""
        assert self._controller is not None
        if "engine" in said:
            _log.warning("controller %d has taken over", self._controller.pid)
            self.tell({"event": "controller-restarted", "pid": self._controller.pid})
            self.feed(ControllerReady())
        else:
            _log.error("a controller couldn't take over: %s", said.get("error", "see its log"))

    def _start_controller(self) -> None:
        assert self._controller is not None
        try:
            self._controller.start()
        except OSError as error:
            _log.error("a controller couldn't be started: %s", error)
            self._loop.call_soon(self.feed, ControllerEnded(1))
        else:
            _log.warning("started controller %d, to take over", self._controller.pid)
            if isinstance(self._host, ForkServerHost):
                self._host.note_controller(self._controller.pid)

    def _fail_start(self, error: str, options: dict[str, Any] | None) -> None:
        log = (options or {}).get("log", "")
        self.tell({"event": "failed", "error": error, "log": log, "tail": tail(Path(log)) if log else ""})
        self.feed(StopAll(error))

    def _controller_ready(self, said: dict[str, Any]) -> None:
        if self._controller is not None and self._control is not None:
            # Only now is it certain that the folder is ours and no other live controller's.
            SupervisorFile.of_this_process(self._control.path).write(Path(self.options.folder))
        self.tell({"event": "controller", **said})
        if isinstance(self._host, ForkServerHost):
            self._host.connection = said["engine"]
        self._connection = str(said["engine"])
        self._connect()
        if self.options.n:
            self.start_engines(self.options.n, "first")
        else:
            self._reply("first", True, [])

    def _on_message(self, message: Message) -> None:
        match message:
            case Interrupt(uuid, client, seq):
                self.feed(InterruptCall(uuid, client, seq))
            case Launch(n, query):
                self.start_engines(n, ("launch", query))
            case Signal(uuid, signum):
                self.feed(SignalEngine(uuid, signum))
            case Stop(uuid, reason, given_up) if uuid:
                self.feed(GiveUpEngine(uuid, reason) if given_up else EndEngine(uuid, reason))
            case Stop(_, reason):
                self.feed(StopAll(reason or "the controller said so"))
            case Engines(joined, left):
                for info in joined:
                    self.feed(EngineRegistered(info.uuid, info.id))
                if left and self._vouching is not None:
                    self._vouch(self._vouching)  # It has lost their connections and asks whether they live.
            case Goodbye(reason):
                self._on_lost(reason or "it ended in order")
            case Welcome(policy=policy, lease=lease):
                if policy == "wait":
                    self._vouching = Vouching(lease)
                    self._vouch(self._vouching)
            case _:
                _log.warning("the controller sent a %s, which is not for supervisors", type(message).__name__)

    def _on_lost(self, reason: str) -> None:
        """The uplink gave up. Our own controller's end is seen by its exit, another's only here."""
        if self.machine.stopping is not None:
            return
        if self._controller is not None or self.options.policy == "wait":
            self._loop.call_later(_RECONNECT, self._connect)
        else:
            self.tell({"event": "failed", "error": reason})
            self.feed(StopAll(f"the controller is gone: {reason}"))

    def _vouch(self, vouching: Vouching) -> None:
        """Tell a controller that waits for engines which ones live: one that is deep in a function can't."""
        if self._next_word is not None:
            self._next_word.cancel()
        stopped = {uuid for uuid, engine in self.machine.engines.items() if is_stopped(engine.pid)}
        frozen, delay = vouching.look(stopped, self._loop.time())
        self._uplink.send(Alive(tuple([uuid for uuid in self.machine.engines if uuid not in frozen])))
        self._next_word = self._loop.call_later(delay, self._vouch, vouching)

    def _connect(self) -> None:
        if self.machine.stopping is None:
            self._uplink.start(self._connection, self._on_message, self._on_lost)

    # --- children and launcher -----------------------------------------------------------------

    def _reap(self) -> None:
        if self._controller is not None:
            code = self._controller.reap()
            if code is not None:
                log = _log.info if self.machine.stopping is not None else _log.warning
                log("the controller ended: %s", describe_exit(code) or "in order")
                self.feed(ControllerEnded(code))
        if self._fork_server_pid:
            found, _ = os.waitpid(self._fork_server_pid, os.WNOHANG)
            if found:
                self._fork_server_pid = 0  # Its pipe tells the rest.
                self._fork_server_gone.set()

    def _watch_launcher(self) -> None:
        if self.options.lifeline_fd < 0:
            return
        self._launcher = socket.socket(fileno=self.options.lifeline_fd)
        self._launcher.setblocking(False)
        self._loop.add_reader(self._launcher.fileno(), self._lifeline_moved)
        # A child that the launcher forked holds a copy of the lifeline, so its own process counts as well.
        self._launcher_fd = pidfd_open(self.options.launcher_pid)
        if self._launcher_fd >= 0:
            self._loop.add_reader(self._launcher_fd, self._launcher_gone)
        if os.getppid() != self.options.launcher_pid:
            self._loop.call_soon(self._launcher_gone)
        elif self._launcher_fd < 0:
            self._loop.call_later(_POLL_PARENT, self._poll_parent)

    def _poll_parent(self) -> None:
        """Where there are no process descriptors: a child whose parent is gone gets another parent."""
        if self._launcher is not None:
            if os.getppid() != self.options.launcher_pid:
                self._launcher_gone()
            else:
                self._loop.call_later(_POLL_PARENT, self._poll_parent)

    def _lifeline_moved(self) -> None:
        assert self._launcher is not None
        try:
            if self._launcher.recv(4096):
                return  # Nothing is sent this way; it would do no harm.
        except BlockingIOError:
            return
        except OSError:
            pass
        self._launcher_gone()

    def _launcher_gone(self) -> None:
        if self._launcher is None:
            return
        self._loop.remove_reader(self._launcher.fileno())
        self._launcher.close()
        self._launcher = None
        if self._launcher_fd >= 0:
            self._loop.remove_reader(self._launcher_fd)
            os.close(self._launcher_fd)
        if not self._detached:
            self.feed(StopAll("the program that started the cluster has ended or let go of it"))

    def detach(self) -> None:
        """From now on the launcher's end is not ours. It still hears of events until then."""
        if not self._detached:
            self._detached = True
            self._watch_folder()

    def _watch_folder(self) -> None:
        """Nobody finds, or can stop, a cluster whose folder was removed: it ends rather than stay."""
        if not Path(self.options.folder).is_dir():
            self.feed(StopAll(f"its folder {self.options.folder} was removed"))
        else:
            self._loop.call_later(_POLL_FOLDER, self._watch_folder)

    def tell(self, event: dict[str, Any]) -> None:
        """Tell the launcher, if it is there and listens; it need not."""
        if self._launcher is None:
            return
        try:
            self._launcher.send(json.dumps(event).encode() + b"\n")
        except OSError:
            pass

    def status(self) -> dict[str, Any]:
        """How everything is, as plain data."""
        return {
            "pid": os.getpid(),
            "uuid": self.uuid.hex(),
            "cluster_id": self.options.cluster_id,
            "profile": self.options.profile,
            "policy": self.options.policy,
            "started": self._started,
            "stopping": self.machine.stopping,
            "controller": self._controller.pid if self._controller is not None else 0,
            "fork_server": self._fork_server_pid,
            "engines": [
                {
                    "uuid": engine.uuid.hex(),
                    "pid": engine.pid,
                    "phase": engine.phase.value,
                    "memory": self._vitals.memory(engine.uuid),
                }
                for engine in self.machine.engines.values()
            ],
        }


def tail(path: Path) -> str:
    """The last lines of a log, or nothing."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_TAIL_LINES:])


def _control_path(options: SupervisorOptions, uuid: bytes) -> Path:
    """Where it listens. A private folder has one supervisor ever: whoever removes that knows the socket."""
    if options.private:
        return private_sockets(Path(options.folder))[1]
    return socket_path(options.cluster_id, f"control-{uuid.hex()}")


def clean_folder(options: SupervisorOptions, supervisor_pid: int) -> None:
    """Remove what must not outlive the cluster: all of a private folder; of a profile's, all but its logs.

    A profile's folder of which another supervisor has taken possession is left alone.
    """
    folder = Path(options.folder)
    file = SupervisorFile.read(folder)
    ours = file is not None and file.pid == supervisor_pid
    if file is not None and ours:
        Path(file.control).unlink(missing_ok=True)
    if options.private:
        remove_private(folder)
    elif not ours:
        return
    else:
        for name in ("client.json", "engine.json", "supervisor.json", "on_start.json", *TAKEOVER_FILES):
            (folder / name).unlink(missing_ok=True)
        stop_reason_file(folder).unlink(missing_ok=True)
    if options.controller is not None:
        socket_path(options.cluster_id).unlink(missing_ok=True)
