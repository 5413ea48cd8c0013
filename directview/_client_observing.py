"""What a client can find out about engines that don't answer: where their code is at this moment."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from directview._client_hub import Hub
from directview.engine._interrupt import STACK_SIGNAL, STACKS_COMPLETE
from directview.folders import cluster_folders

if TYPE_CHECKING:
    from directview.wire.messages import EngineInfo

__all__ = ["Observing"]

_PATIENCE: Final = 3.0
_POLL: Final = 0.02
_QUIET: Final = 0.15
"""Seconds without a further line after which an engine that is blocked has said all it can."""
_MOST_BYTES: Final = 1 << 20


class Observing(Hub):
    """The part of a `Client` that looks into engines."""

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
