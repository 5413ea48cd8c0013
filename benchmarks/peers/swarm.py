"""Engines that are a socket and the engine's own bookkeeping, many in a process: what they cost the others.

To the controller they are engines like any: each connects, shakes hands, accepts its calls, answers and is
acknowledged. Only nothing runs: every call ends at once in None. So what is measured with a thousand of them
is controller and client, and not a thousand interpreters.

``python -m benchmarks.peers.swarm ENGINE_FILE COUNT PARENT`` runs some of them until it is ended.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.kin import die_with_parent
from directview import connection
from directview.connection import ConnectionInfo
from directview.engine._state import EngineState
from directview.wire.link import TIGHT
from directview.wire.messages import OK, PROTOCOL_VERSION, Hello, Message, Stop, Welcome
from directview.wire.objects import dumps
from directview.wire.parcels import pack
from directview.wire.session import Session

__all__ = ["Swarm"]

_PROCESSES = 4
_CONNECT_SECONDS = 60.0
_PATH = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
"""Where these processes find the benchmarks, which are not installed."""
_AT_ONCE = 32
"""Connections that one process opens at a time; a socket's backlog is not endless."""


class Swarm:
    """Simulated engines in a few processes, from now until `end`.

    Args:
        file: the controller's ``engine.json``.
        n: how many.
    """

    def __init__(self, file: Path, n: int) -> None:
        processes = min(_PROCESSES, n)
        bounds = [n * part // processes for part in range(processes + 1)]
        self._running = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(file), str(end - first), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_PATH)},
            )
            for first, end in itertools.pairwise(bounds)
        ]

    def end(self) -> None:
        """Kill and reap them all."""
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()


class _Engine:
    """One of them."""

    def __init__(self, info: ConnectionInfo) -> None:
        self._info = info
        self._state = EngineState()
        self._state.uuid = uuid.uuid4().bytes
        self._session = Session(
            addresses=info.addresses,
            where=info.where,
            keys=None,
            hello=self._hello,
            on_welcome=self._welcomed,
            on_message=self._arrived,
            on_turn=self._turn,
            on_lost=self._ended,
            on_gone=self._ended,
            heartbeat=TIGHT,
        )

    async def open(self) -> None:
        """Register."""
        await self._session.open(_CONNECT_SECONDS)

    def _hello(self, again: bool) -> Hello:
        return Hello(
            PROTOCOL_VERSION, "engine", self._state.uuid, self._info.cluster_id, 0, -1, b"", again,
            os.getpid(), socket.gethostname(), platform.python_version(), b"",
        )  # fmt: skip

    def _welcomed(self, message: Welcome) -> None:
        self._state.id = message.id

    def _arrived(self, message: Message, frames: Sequence[Any]) -> None:
        if isinstance(message, Stop):
            self._ended(message.reason)
        self._state.receive(message, frames)

    def _turn(self) -> None:
        while (call := self._state.next_call()) is not None:
            now = time.time()
            self._state.finished(call, OK, now, now, _NOTHING)
        for message, frames in self._state.flush():
            self._session.send(message, frames)

    def _ended(self, reason: str) -> None:
        raise SystemExit(reason)  # with all others in this process


_NOTHING = pack((dumps(None),))


async def _run(info: ConnectionInfo, n: int) -> None:
    engines = [_Engine(info) for _ in range(n)]
    for first in range(0, n, _AT_ONCE):
        await asyncio.gather(*[engine.open() for engine in engines[first : first + _AT_ONCE]])
    gc.freeze()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[3]), signal.SIGKILL)
    asyncio.run(_run(connection.load(sys.argv[1]), int(sys.argv[2])))
