"""``python -m directview.supervisor``: one process that becomes three, and the engines from one of them.

It imports what controller and engines need while it has a single thread, no event loop and no zmq context,
freezes it (so that the garbage collector doesn't write into shared pages), forks the controller, forks the
fork server, and goes on as the supervisor. So four engines cost one start of Python, not six.

The controller is forked before numpy is imported, which it doesn't need: it binds its sockets meanwhile.

No one of these outlives the others. Engines ask the kernel to be killed with their parent, the controller to
be told of its parent's end, after which it tells its clients and ends. The fork server sees the end of its
pipe, kills the engines' sessions, and at last the controller, should it still be there. The supervisor sees
its children end.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from directview._log_writing import ProcessLog, text_handler
from directview.folders import SUPERVISOR_LOCK, ProfileLock
from directview.supervisor._child import become, fork
from directview.supervisor._controller import ControllerProcess, run_fresh_controller
from directview.supervisor._forkserver import ForkServer, RunEngine
from directview.supervisor._hosts import ForkServerHost
from directview.supervisor._pipe import Pipe
from directview.supervisor._processes import pidfd_open
from directview.supervisor._shell import Supervisor, Uplink, clean_folder
from directview.supervisor.options import SupervisorOptions
from directview.supervisor.paths import adopt_path

__all__ = ["main", "supervise"]

RunController = Callable[[dict[str, Any]], int]
"""Runs a controller with these options (`ControllerOptions.to_dict`) to its end; returns its exit code."""

_BLAS_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ENGINE_IMPORTS: Final = ("cloudpickle", "numpy", "directview.engine.__main__")


def _run_controller(options: dict[str, Any]) -> int:
    from directview.controller.__main__ import run
    from directview.controller.options import ControllerOptions

    return run(ControllerOptions.from_dict(options)) or 0


def _run_engine(options: dict[str, Any]) -> int:
    from directview.engine.__main__ import run
    from directview.engine.options import EngineOptions

    return run(EngineOptions.from_dict(options)) or 0


def _make_uplink(options: SupervisorOptions, uuid: bytes) -> Uplink:
    from directview.supervisor._uplink import LinkUplink

    return LinkUplink(uuid)


def supervise(
    options: SupervisorOptions,
    *,
    run_controller: RunController = _run_controller,
    run_engine: RunEngine = _run_engine,
    make_uplink: Callable[[SupervisorOptions, bytes], Uplink] = _make_uplink,
    imports: tuple[tuple[str, ...], tuple[str, ...]] = (("directview.controller.__main__",), _ENGINE_IMPORTS),
) -> int:
    """Fork what is to be forked and run one's own part; returns, in each process, that one's exit code.

    Args:
        options: the supervisor's.
        run_controller: the controller's part; like the next two, another than the real one in tests.
        run_engine: an engine's part.
        make_uplink: makes the connection to the controller.
        imports: modules to have before the controller's fork, and those to have before the fork server's.
    """
    parent = os.getpid()
    uuid = secrets.token_bytes(16)
    controller_pid, controller_fd, ready = 0, -1, -1
    if options.controller is not None:
        _preload(imports[0])
        ready, said = os.pipe()
        controller_pid = fork()
        if controller_pid == 0:
            log = options.controller.get("log", "")
            become("directview-controller", parent=parent, orphaned=signal.SIGTERM, log=log, keep=(said,))
            return run_controller({**options.controller, "ready_fd": said})
        os.close(said)
        # Not reaped before this process gets to it: the descriptor is that very child's.
        controller_fd = pidfd_open(controller_pid)
    _share_cores(options.n)
    _preload(imports[1])
    ours, theirs = socket.socketpair()
    fork_server_pid = fork()
    if fork_server_pid == 0:
        ours.close()
        # Not killed with its parent: it still has to kill what the engines have started.
        become("directview-forkserver", parent=None, keep=(theirs.fileno(), controller_fd))
        ours_to_clean = options.controller is not None or options.private
        at_end = (lambda: clean_folder(options, parent)) if ours_to_clean else None
        server = ForkServer(theirs, run_engine, options.sys_path, at_end, controller_fd, options.grace)
        engine = server.serve()
        if engine is None:
            os._exit(0)  # Nothing of its own to take down, and the supervisor waits for its end.
        return engine()
    theirs.close()
    if controller_fd >= 0:
        os.close(controller_fd)
    # Not before the forks: engines would have our handlers, and a user's `basicConfig` no effect.
    logging.basicConfig(level=logging.INFO, handlers=[text_handler("%(message)s")])
    log = ProcessLog("supervisor", Path(options.folder) / "supervisor.jsonl", options.log_level, "")
    _allow_many_files()
    host = ForkServerHost(Pipe(ours), options, uuid.hex())
    uplink = make_uplink(options, uuid)
    controller = None
    if options.controller is not None:
        controller = ControllerProcess(options.controller, options.sys_path, controller_pid, ready)
    supervisor = Supervisor(options, uuid, host, uplink, controller, fork_server_pid)
    lock = ProfileLock(Path(options.folder), options.cluster_id, SUPERVISOR_LOCK)
    if options.private:  # After the forks: a lock is as long held as any copy of its descriptor is open.
        lock.acquire()
    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return runner.run(supervisor.run())
    finally:
        lock.release()
        log.close()


def _allow_many_files() -> None:
    """Each engine costs a pipe and a descriptor. For this process alone: users' programs may use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        logging.getLogger(__name__).warning("can't have more than %d open files", soft)


def _share_cores(n: int) -> None:
    """Give the BLAS of each of `n` engines its share of the cores, where the user hasn't chosen a number.

    It reads its number of threads when numpy is loaded. With a thread per core in each, processes get in
    each other's way: four forked workers on two cores took 51 s for what one took 3.8 s for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in _BLAS_THREADS:
        os.environ.setdefault(variable, str(max(1, cores // max(n, 1))))


def _preload(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _run_fresh_engine(text: str) -> int:
    """An engine as a process of its own; the fork server has set up all but its imports."""
    told = json.loads(text)
    adopt_path(told["sys_path"], told["pythonpath"])
    os.set_inheritable(told["options"]["interrupt_fd"], False)
    return _run_engine(told["options"])


def main(argv: list[str] | None = None) -> int:
    """Run with ``--spec-fd N`` (a descriptor that gives `SupervisorOptions` as JSON) or ``--engine JSON``."""
    match sys.argv[1:] if argv is None else argv:
        case ["--engine", text]:
            return _run_fresh_engine(text)
        case ["--controller", spec, ready] if spec.isdecimal() and ready.isdecimal():
            return run_fresh_controller(int(spec), int(ready), _run_controller)
        case ["--spec-fd", number] if number.isdecimal():
            with open(int(number), encoding="utf-8") as file:
                options = SupervisorOptions.from_json(file.read())
        case _:
            sys.stderr.write("started by `directview start` and Cluster(), not by hand\n")
            return 2
    adopt_path(options.sys_path, options.pythonpath)
    return supervise(options)


if __name__ == "__main__":
    sys.exit(main())
