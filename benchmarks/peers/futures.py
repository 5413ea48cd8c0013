"""concurrent.futures: the pool of processes that comes with Python. Its workers keep no names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from benchmarks.peer import AwaitCall, Peer, Target

__all__ = ["FuturesPeer"]

_NO_NAMES = "its workers keep nothing between calls"


class FuturesPeer(Peer):
    """One pool. A call "on one engine" is one on whichever worker takes it."""

    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "nothing stands between client and workers",
        "address": "its workers can't be addressed",
        **dict.fromkeys(("scatter", "gather", "push", "pull", "share", "stored"), _NO_NAMES),
    }
    distributions = ("numpy",)

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._n = 0

    def start(self, n: int) -> None:
        self._n = n
        self._pool = ProcessPoolExecutor(n)
        # Workers start when there is work for them: so many at once that each gets some.
        for future in [self._pool.submit(_pause) for _ in range(n)]:
            future.result()

    def stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _running(self) -> ProcessPoolExecutor:
        assert self._pool is not None
        return self._pool

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        if target is None:
            self._refuse("address")
        submit = self._running().submit
        return lambda: submit(f).result()

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        return self._running().submit(f, argument).result()

    def burst(self, f: Callable[[], Any], count: int, engines: int) -> None:
        submit = self._running().submit
        for future in [submit(f) for _ in range(count)]:
            future.result()

    @asynccontextmanager
    async def awaiting(self) -> AsyncIterator[AwaitCall]:
        submit = self._running().submit

        def call(f: Callable[[], Any], target: Target) -> Awaitable[Any]:
            if target is None:
                self._refuse("address")
            future: Future[Any] = submit(f)
            return asyncio.wrap_future(future)

        yield call

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        chunk = -(-len(items) // self._n)
        return list(self._running().map(f, items, chunksize=chunk))

    def balanced(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._running().map(f, items, chunksize=1))


def _pause() -> None:
    time.sleep(0.02)
