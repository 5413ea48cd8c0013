"""directview itself, as a script and as an async program would use it."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peer import Array, AwaitCall, Peer, Target

__all__ = ["DirectviewPeer"]


class DirectviewPeer(Peer):
    """A private cluster; a second client, bound to the loop, for what is awaited."""

    distributions = ("directview", "pyzmq", "msgpack", "cloudpickle", "numpy")

    def __init__(self) -> None:
        # At run time, although it is at hand: what importing costs is part of what is measured.
        self._directview = importlib.import_module("directview")
        for name in ("Cluster", "Client"):  # each is imported when it is first named
            getattr(self._directview, name)
        self._connection = importlib.import_module("directview.connection")
        self._cluster: Any = None
        self._client: Any = None

    def start(self, n: int) -> None:
        self._cluster = self._directview.Cluster(n=n)
        self._client = self._cluster.__enter__()
        self._all = self._client[:]
        self._one = self._client[0]

    def stop(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.__exit__(None, None, None)

    def controllers(self) -> Sequence[int]:
        return [self._connection.load(self._cluster.connection_file).pid]

    def _view(self, target: Target) -> Any:
        return self._all if target is None else self._client[target]

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        call = self._view(target).apply_sync
        return lambda: call(f)

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        return self._one.apply_sync(f, argument)

    def burst(self, f: Callable[[], Any], count: int, engines: int) -> None:
        calls = [self._view(id).apply_async for id in range(engines)]
        for result in [calls[number % engines](f) for number in range(count)]:
            result.get()

    @asynccontextmanager
    async def awaiting(self) -> AsyncIterator[AwaitCall]:
        async with self._directview.Client(self._cluster.connection_file) as client:
            views: dict[Target, Any] = {id: client[id] for id in client.ids}
            views[None] = client[:]

            def call(f: Callable[[], Any], target: Target) -> Awaitable[Any]:
                result: Awaitable[Any] = views[target].apply_async(f)
                return result

            yield call

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        mapped: list[Any] = self._all.map_sync(f, items)
        return mapped

    def scatter(self, name: str, array: Array) -> None:
        self._all.scatter_sync(name, array)

    def gather(self, name: str) -> Array:
        return self._all.gather_sync(name)

    def push(self, name: str, array: Array, target: Target) -> None:
        self._view(target).push_sync({name: array})

    def pull(self, name: str) -> Sequence[Array]:
        pulled: Sequence[Array] = self._all.pull_sync(name)
        return pulled

    def stored(self, name: str) -> Sequence[int]:
        sizes: Sequence[int] = self._all.pull_sync(
            f"globals()[{name!r}].nbytes if {name!r} in globals() else 0"
        )
        return sizes
