"""An engine that somebody else starts (mpiexec, srun, a shell), with a small watcher of its own.

Interrupting a call takes a second process that signals the engine, and reporting its death one that
outlives it. So before it becomes the engine, this process forks a watcher: a supervisor that has adopted
one process, through a descriptor that is that very process's whatever happens to its number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys

from directview import connection
from directview.engine.options import EngineOptions
from directview.supervisor._child import become, fork
from directview.supervisor._hosts import AdoptedHost
from directview.supervisor._processes import pidfd_open
from directview.supervisor._shell import Supervisor
from directview.supervisor._uplink import LinkUplink
from directview.supervisor.options import SupervisorOptions

__all__ = ["run_watched_engine"]


def run_watched_engine(connection_file: str) -> int:
    """Be an engine until it ends. To be called from the main thread of a process that has no other.

    Where the connection file has keys and none for supervisors, it is an engine without a watcher.

    Args:
        connection_file: path of the ``engine.json``.

    Returns:
        The exit code.

    Raises:
        ConnectionFileError, ConnectionRejected: the file is of no use.
    """
    info = connection.load(connection_file)
    uuid, supervisor = secrets.token_bytes(16), secrets.token_bytes(16)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    engine = os.getpid()
    pidfd = pidfd_open(engine) if info.may_supervise else -1
    if pidfd >= 0:
        watcher = fork()
        if watcher == 0:
            # Twice, so that the user's code finds no child of its process that it hasn't started.
            if fork():
                os._exit(0)
            os.close(read_end)
            host = AdoptedHost(uuid, engine, pidfd, write_end)
            os._exit(_watch(info, connection_file, supervisor, host, keep=(pidfd, write_end)))
        os.waitpid(watcher, 0)
        os.close(pidfd)
    else:
        os.close(read_end)  # Nobody writes into it, and its end would mean that the watcher has died.
    os.close(write_end)
    options = EngineOptions(
        connection=connection_file,
        uuid=uuid.hex(),
        supervisor=supervisor.hex() if pidfd >= 0 else "",
        interrupt_fd=read_end if pidfd >= 0 else -1,
    )
    from directview.engine.__main__ import run

    return run(options)


def _watch(
    info: connection.ConnectionInfo, path: str, uuid: bytes, host: AdoptedHost, keep: tuple[int, ...]
) -> int:
    become("directview-watcher", parent=None, keep=keep, session=True)
    logging.basicConfig(level=logging.WARNING, format="directview watcher: %(message)s", stream=sys.stderr)
    options = SupervisorOptions(folder="", cluster_id=info.cluster_id, profile=info.profile, connection=path)
    supervisor = Supervisor(options, uuid, host, LinkUplink(uuid))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(supervisor.run())
