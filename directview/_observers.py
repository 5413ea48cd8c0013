"""Who wants to hear of a client's engines, and what they are told."""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from directview.events import EngineEvent, EngineEvents
from directview.wire.messages import EngineInfo, Engines
from directview.wire.postmortem import NOTHING_KNOWN, Postmortem, deaths

__all__ = ["Observers"]

_Entry: TypeAlias = tuple[str, Callable[[EngineEvent], object], AbstractEventLoop | None]
"""A kind of events, whom to call, and the loop that is to do it."""

_REMEMBERED: Final = 256

logger = logging.getLogger("directview")


class Observers:
    """Who wants to hear of engines, and the engines that they have heard of. Used on the client's loop.

    Adding and removing may come from any thread.
    """

    def __init__(self) -> None:
        self._known: Mapping[int, EngineInfo] | None = None
        self._seen: set[int] = set()
        self._gone: deque[bytes] = deque(maxlen=_REMEMBERED)
        """Engines whose end was told: another controller may tell of it again."""
        self._streams: tuple[EngineEvents, ...] = ()
        self._callbacks: tuple[
            tuple[str, Callable[[EngineEvent], object], AbstractEventLoop | None], ...
        ] = ()
        self._lock = threading.Lock()
        self._closed = False

    # --- any thread -------------------------------------------------------------------------------------

    def stream(self) -> EngineEvents:
        """A new stream of events."""
        made = EngineEvents(self._end)
        with self._lock:
            if self._closed:
                made._put(None)
            else:
                self._streams = (*self._streams, made)
        return made

    def _end(self, stream: EngineEvents) -> None:
        with self._lock:
            self._streams = tuple([other for other in self._streams if other is not stream])
        stream._put(None)

    def call(self, kind: str, callback: Callable[[EngineEvent], object]) -> Callable[[], None]:
        """Have `callback` called with each event of a kind, by the loop that runs now if one does."""
        entry = (kind, callback, asyncio._get_running_loop())
        with self._lock:
            self._callbacks = (*self._callbacks, entry)

        def stop() -> None:
            with self._lock:
                self._callbacks = tuple([other for other in self._callbacks if other is not entry])

        return stop

    # --- the client's loop ------------------------------------------------------------------------------

    def changed(
        self,
        engines: Mapping[int, EngineInfo],
        message: Engines | None = None,
        *,
        reason: str = "its connection was lost",
    ) -> None:
        """Tell of what is different from last time.

        Args:
            engines: those that there are now.
            message: what the controller said of those that left.
            reason: why those left of which it said nothing.
        """
        before, self._known = self._known, engines
        if before is None:
            self._seen.update(engines)  # there from the start
            return
        left = {}
        if message is not None:
            for (_, uuid, code, why), known in deaths(message.left, message.postmortems):
                left[uuid] = (code, why, known)
                known_here = uuid in self._gone or uuid in [info.uuid for info in before.values()]
                if known.id >= 0 and not known_here:
                    self._gone.append(uuid)
                    info = EngineInfo(known.id, uuid, 0, "", "", b"")
                    self._tell(_event("failed", info, exit_code=code, reason=why, known=known))
        for id, info in before.items():
            if id not in engines or engines[id].uuid != info.uuid:
                self._gone.append(info.uuid)
                exit_code, why, known = left.get(info.uuid, (None, reason, NOTHING_KNOWN))
                self._tell(_event("left", info, exit_code=exit_code, reason=why, known=known))
        for id, info in engines.items():
            if id not in before or before[id].uuid != info.uuid:
                self._tell(_event("joined", info, restarted=id in self._seen))
                self._seen.add(id)

    def close(self) -> None:
        """The client is closed."""
        with self._lock:
            self._closed = True
            streams, self._streams = self._streams, ()
            self._callbacks = ()
        for stream in streams:
            stream._put(None)

    def _tell(self, event: EngineEvent) -> None:
        for stream in self._streams:
            stream._put(event)
        for kind, callback, loop in self._callbacks:
            if kind != event.kind:
                continue
            try:
                if loop is None:
                    callback(event)
                else:
                    loop.call_soon_threadsafe(callback, event)
            except Exception:
                logger.exception("a callback for engines that %s failed", event.kind)


def _event(
    kind: Literal["joined", "left", "failed"],
    info: EngineInfo,
    *,
    restarted: bool = False,
    exit_code: int | None = None,
    reason: str = "",
    known: Postmortem = NOTHING_KNOWN,
) -> EngineEvent:
    return EngineEvent(
        kind, info.id, info.uuid.hex(), info.pid, info.hostname, restarted, exit_code, reason,
        known.running, known.memory, known.peak, known.said, known.returns, known.outlook,
    )  # fmt: skip
