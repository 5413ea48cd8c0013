"""What happens to a cluster's engines, as a client hears of it: they join, they leave, or fail to join."""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal

__all__ = ["EngineEvent", "EngineEvents"]

_MOST_WAITING: Final = 10_000
"""Events that are kept for a reader that does not read; then the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """An engine joined or left; or it failed: it ended before it had joined, at its `on_start`, say."""

    kind: Literal["joined", "left", "failed"]
    id: int
    uuid: str
    """In hex. An engine that was restarted has another one, under the same id."""
    pid: int
    hostname: str
    restarted: bool = False
    """It joined under an id that another engine had before: its namespace is new."""
    exit_code: int | None = None
    """Of one that left, where it was seen: negative for a signal, as of `subprocess`."""
    reason: str = ""
    """Why it left; empty if it ended in order."""
    running: str = ""
    """Names of the calls that it was running then, or might have been."""
    memory: int = 0
    """Bytes that it had in memory when that was last looked at; 0 if nobody did."""
    peak_memory: int = 0
    """The most that it ever had; 0 if that is not known."""
    last_words: str = ""
    """The end of its log: what the interpreter or C code wrote to stderr last."""
    returns: bool = False
    """Another engine is started in its place."""
    outlook: str = ""
    """That in words, or why none is started any more; empty where nobody asked for it."""


class EngineEvents(AsyncIterator[EngineEvent]):
    """What `Client.events` returns: ``async for event in rc.events():``, on any event loop.

    Events count from the moment that it is made. It ends when the client is closed, or by `aclose`.
    """

    def __init__(self, end: Callable[[EngineEvents], None]) -> None:
        self._waiting: deque[EngineEvent] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._reader: tuple[AbstractEventLoop, asyncio.Future[None]] | None = None
        self._ended = False
        self._end = end

    async def __anext__(self) -> EngineEvent:
        while True:
            with self._lock:
                if self._waiting:
                    return self._waiting.popleft()
                if self._ended:
                    raise StopAsyncIteration
                if self._reader is not None and not self._reader[1].done():
                    raise RuntimeError("events are read by another task already: call rc.events() for each")
                loop = asyncio.get_running_loop()
                woken = loop.create_future()
                self._reader = (loop, woken)
            await woken

    async def aclose(self) -> None:
        """Hear of nothing any more. May be repeated."""
        self._end(self)

    async def __aenter__(self) -> EngineEvents:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _put(self, event: EngineEvent | None) -> None:
        """Tell the reader; None: that was all. From any thread."""
        with self._lock:
            if event is None:
                self._ended = True
            else:
                self._waiting.append(event)
            reader, self._reader = self._reader, None
        if reader is not None:
            loop, woken = reader
            try:
                loop.call_soon_threadsafe(lambda: None if woken.done() else woken.set_result(None))
            except RuntimeError:
                return  # that loop was closed, and with it the reader
