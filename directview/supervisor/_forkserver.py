"""The fork server: a small single-threaded process, parent of all engines of this host.

It has imported what engines need (and frozen it, so that the pages stay shared), and does nothing but fork
when asked, report ends, and kill. It has no event loop and no sockets but one to the supervisor: an engine
forked from it starts clean. Being the parent, it alone reaps, so a pid that it signals is never another's.

When the supervisor's end of the pipe closes, whatever the reason, it kills every engine's session, gives the
controller (which has noticed as well) a moment to tell its clients, kills it if it is still there, and ends.
When it is killed itself, the kernel kills the engines (they asked for it), and the supervisor what they
had started.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from directview.supervisor._child import become, fork
from directview.supervisor._pipe import Pipe, PipeClosed
from directview.supervisor._processes import exit_code_of, kill_at_last, kill_session, peak_memory, pidfd_open
from directview.supervisor.paths import command, environment

__all__ = ["ForkServer", "RunEngine"]

RunEngine = Callable[[dict[str, Any]], int]
"""Runs an engine with these options (`EngineOptions.to_dict`) to its end; returns its exit code."""


class ForkServer:
    """Serves one supervisor until that is gone.

    Args:
        sock: our end of the socket pair.
        run_engine: what a forked engine does.
        sys_path: what engines that run as fresh processes get for their ``sys.path``.
        at_end: called last, when the supervisor went without saying so: clears what it would have cleared.
        controller: descriptor of the controller's process; negative: there is none.
        grace: seconds that it has for its end, once the supervisor is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        run_engine: RunEngine,
        sys_path: list[str] | None = None,
        at_end: Callable[[], None] | None = None,
        controller: int = -1,
        grace: float = 3.0,
    ) -> None:
        self._pipe = Pipe(sock)
        self._selector = selectors.DefaultSelector()
        self._run_engine = run_engine
        self._sys_path = sys_path
        self._at_end = at_end
        self._controller = controller
        self._grace = grace
        self._engines: dict[int, str] = {}  # pid → uuid in hex; from the fork to the reaping
        self._pids: dict[str, int] = {}
        self._in_order = False

    def serve(self) -> Callable[[], int] | None:
        """Serve. Returns None in the server at its end, and in each forked engine what that is to run.

        An engine's code runs only after this has returned to the bottom of the stack, so that it starts
        on a short one and ends as any program does.
        """
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        # The terminal's signals and a polite kill are the supervisor's business; its end is ours.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        selector = self._selector
        selector.register(self._pipe, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        try:
            while not self._in_order:
                for key, _ in selector.select():
                    if key.fd == wake_read:
                        os.read(wake_read, 4096)
                        self._reap()
                    else:
                        for message, fds in self._pipe.receive():
                            engine = self._handle(message, fds)
                            if engine is not None:
                                return engine
        except PipeClosed:
            pass
        self._end()
        return None

    def _handle(self, message: dict[str, Any], fds: tuple[int, ...]) -> Callable[[], int] | None:
        match message.pop("do"):
            case "spawn":
                return self._spawn(fds=fds, **message)
            case "signal":
                self._signal(**message)
            case "kill":
                pid = self._pids.get(message["uuid"])
                if pid is not None:
                    kill_session(pid)
            case "controller":
                if self._controller >= 0:
                    os.close(self._controller)
                (self._controller,) = fds
            case "end":
                self._in_order = True
            case unknown:
                raise AssertionError(f"unknown request {unknown!r}")
        return None

    def _spawn(
        self, uuid: str, options: dict[str, Any], log: str, env: dict[str, str] | None, fresh: bool,
        fds: tuple[int, ...],
    ) -> Callable[[], int] | None:  # fmt: skip
        (interrupt_fd,) = fds
        parent = os.getpid()
        try:
            pid = fork()
        except OSError as error:
            os.close(interrupt_fd)
            self._send({"failed": uuid, "reason": f"can't fork: {error.strerror}"})
            return None
        if pid == 0:
            self._leave()
            options = {**options, "interrupt_fd": interrupt_fd, "log": log}
            become("directview-engine", parent=parent, log=log, keep=(interrupt_fd,), session=True)
            if fresh:
                return lambda: self._execute(options, env)
            return lambda: self._run_engine(options)
        os.close(interrupt_fd)
        self._engines[pid] = uuid
        self._pids[uuid] = pid
        # It can't have been reaped yet, so the descriptor is that very process, and stays so.
        handle = pidfd_open(pid)
        self._send({"started": uuid, "pid": pid}, (handle,) if handle >= 0 else ())
        return None

    def _leave(self) -> None:
        """What is the server's own is none of an engine's business.

        Not only the descriptors: an object that has one closes it at its end, whenever the garbage collector
        gets to that, and whatever has that number by then.
        """
        self._selector.close()
        self._pipe.close()

    def _execute(self, options: dict[str, Any], env: dict[str, str] | None) -> int:
        os.set_inheritable(options["interrupt_fd"], True)
        merged = {**os.environ, **(env or {})}
        told = {"options": options, "sys_path": self._sys_path, "pythonpath": merged.get("PYTHONPATH")}
        argv = command("--engine", json.dumps(told))
        try:
            os.execve(argv[0], argv, environment(merged))
        except OSError as error:
            sys.stderr.write(f"can't start {argv[0]}: {error.strerror}\n")
            return 127

    def _signal(self, uuid: str, signum: int) -> None:
        pid = self._pids.get(uuid)
        if pid is not None:
            os.kill(pid, signum)

    def _reap(self) -> None:
        while True:
            # WNOWAIT: until it is reaped, its number is nobody else's, and its session can be killed.
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) if self._engines else None
            if found is None:
                return
            kill_session(found.si_pid)
            _, status, used = os.wait4(found.si_pid, 0)
            uuid = self._engines.pop(found.si_pid, None)
            if uuid is not None:
                del self._pids[uuid]
                self._send({"ended": uuid, "code": exit_code_of(status), "peak": peak_memory(used)})

    def _send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        self._pipe.send(message, fds)

    def _end(self) -> None:
        for pid in self._engines:
            kill_session(pid)
        for pid in self._engines:
            os.waitpid(pid, 0)
        if self._controller >= 0 and not self._in_order:
            kill_at_last(self._controller, self._grace)
        self._pipe.close()
        if self._at_end is not None and not self._in_order:
            self._at_end()
