"""What a client can find out about engines that don't answer: where their code is at this moment."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from directview._client_hub import Hub
from directview._client_waiting import listed
from directview._metadata import parse_msg_id
from directview._trace_reading import Step, told, traced
from directview.connection import ConnectionInfo
from directview.engine._interrupt import STACK_SIGNAL, STACKS_COMPLETE
from directview.folders import cluster_folders, folder_of_file

if TYPE_CHECKING:
    from directview.wire.messages import EngineInfo

__all__ = ["Observing"]

_PATIENCE: Final = 3.0
_POLL: Final = 0.02
_QUIET: Final = 0.15
"""Seconds without a further line after which an engine that is blocked has said all it can."""
_MOST_BYTES: Final = 1 << 20


class Observing(Hub):
    """The part of a `Client` that looks into engines, and after calls."""

    _info: ConnectionInfo

    def stack(self, targets: Any = None) -> dict[int, str]:
        """Where engines' code is at this moment, also in engines that are blocked. Blocks for a moment.

        The stacks of all threads, innermost call first, as `faulthandler` has them, and of an engine whose
        loop turns, where each of its coroutines waits. What runs there does not notice.

        Args:
            targets: engines, as for indexing; None: all.

        Returns:
            A text for each engine id. Of an engine on another machine, or one that is stopped, it says so.

        Raises:
            IndexError: there is no such engine.
            ValueError: an engine has no supervisor that could signal it.
            WouldBlockLoop: this is the thread of the client's own event loop: await `stack_async`.
        """
        return self._binding.run(
            lambda core: self.stack_async(targets), "stack()", "`await rc.stack_async(...)`"
        )

    async def stack_async(self, targets: Any = None) -> dict[int, str]:
        """`stack` for event loops. May be cancelled."""
        engines = self._binding.core().engines
        infos = {id: engines[id] for id in self._targeted(targets) or list(engines)}
        files = {id: _file_of(info) for id, info in infos.items()}
        here = {id: path for id, path in files.items() if path is not None and not _is_stopped(infos[id].pid)}
        starts = {id: _start(path) for id, path in here.items()}
        if here:
            await self.query("signal", targets=list(here), signal=int(STACK_SIGNAL))
        told = await asyncio.gather(*[_told(path, starts[id]) for id, path in here.items()])
        texts = dict(zip(here, told, strict=True))
        return {id: texts.get(id) or _why_not(info, files[id]) for id, info in infos.items()}

    def trace(self, jobs: Any = None) -> list[Step]:
        """What has happened to calls so far, across client, controller and engines. Blocks.

        Of every call the controller remembers when it was queued, started, completed and answered. In a
        cluster that was started with ``trace``, every process on this machine has written down each hop.

        Args:
            jobs: a msg_id (of any client's call), an index into `history`, an `AsyncResult`, or a list of
                these. None: the last call.

        Returns:
            A list of `Step`, in order of time: each has ``time``, ``place``, ``what`` and ``msg_id``.

        Raises:
            KeyError: nothing is known of such a call.
            ValueError: that is no msg_id.
            WouldBlockLoop: this is the thread of the client's own event loop: await `trace_async`.
        """
        return self._binding.run(
            lambda core: self.trace_async(jobs), "trace()", "`await rc.trace_async(...)`"
        )

    async def trace_async(self, jobs: Any = None) -> list[Step]:
        """`trace` for event loops. May be cancelled."""
        msg_ids = self._meant(jobs)
        folder = folder_of_file(self._info.source)
        steps: dict[Step, None] = {}
        if folder is not None:
            for msg_id in msg_ids:
                steps.update(dict.fromkeys(await asyncio.to_thread(traced, folder, msg_id)))
        asked = list(dict.fromkeys([*msg_ids, *[step.msg_id for step in steps]]))
        records = await self.db_query_async({"msg_id": {"$in": asked}})
        found = told(list(steps), records)
        if not found:
            raise KeyError(
                f"nothing is known of call {', '.join(msg_ids)}: the controller remembers the last 10,000 "
                "calls, and of load-balanced ones only those under which engines were given them, unless the "
                "cluster was started with --trace"
            )
        return found

    def _meant(self, jobs: Any) -> list[str]:
        if jobs is None:
            return self._get_result(-1).msg_ids
        found = []
        for job in listed(jobs):
            names = [job] if isinstance(job, str) else self._names_of(job)
            for name in names:
                parse_msg_id(name)
            found += names
        return found


def _file_of(info: EngineInfo) -> Path | None:
    """The file into which an engine of this machine writes."""
    name = f"engine-{info.uuid.hex()[:12]}.stack"
    return next((folder / name for _, folder in cluster_folders() if (folder / name).exists()), None)


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def _start(path: Path) -> int:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        os.truncate(path, 0)
        return 0
    return size


async def _told(path: Path, start: int) -> str:
    """What is written into the file from `start` on."""
    clock = asyncio.get_running_loop().time
    deadline, quiet_until, text = clock() + _PATIENCE, 0.0, ""
    while clock() < deadline and (not text or clock() < quiet_until):
        await asyncio.sleep(_POLL)
        with path.open("rb") as file:
            file.seek(start)
            found = file.read().decode("utf-8", "replace")
        if found != text:
            text, quiet_until = found, clock() + _QUIET
        if text.rpartition(STACKS_COMPLETE)[2].strip().isdigit():
            break
    return text


def _why_not(info: EngineInfo, path: Path | None) -> str:
    if path is None and info.hostname != socket.gethostname():
        return f"it runs on {info.hostname}: run `directview stack` there, with its client.json\n"
    try:
        status = psutil.Process(info.pid).status()
    except psutil.Error:
        return f"process {info.pid} has ended\n"
    if _is_stopped(info.pid):
        return f"process {info.pid} is stopped, by SIGSTOP or Ctrl-Z: `kill -CONT {info.pid}` lets it go on\n"
    return f"process {info.pid} ({status}) did not answer: try `directview stack --py-spy {info.id}`\n"
