"""ipyparallel: the direct view from which this project's interface comes."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from benchmarks.peer import Array, AwaitCall, Peer, Target

__all__ = ["IPyParallelPeer"]


class IPyParallelPeer(Peer):
    """A cluster of its own, and its direct view."""

    distributions = ("ipyparallel", "ipykernel", "pyzmq", "tornado", "numpy")
    cannot: ClassVar[Mapping[str, str]] = {"share": "its engines share no memory"}

    def __init__(self) -> None:
        self._ipp = importlib.import_module("ipyparallel")
        self._cluster: Any = None
        self._client: Any = None

    def start(self, n: int) -> None:
        self._cluster = self._ipp.Cluster(n=n)
        self._client = self._cluster.start_and_connect_sync(activate=False)
        self._all = self._client[:]
        self._all.block = True
        self._one = self._client[0]

    def stop(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            self._client.close()
            cluster.stop_cluster_sync()

    def controllers(self) -> Sequence[int]:
        return [self._cluster.controller.pid]

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
        views: dict[Target, Any] = {id: self._client[id] for id in self._client.ids}
        views[None] = self._all

        def call(f: Callable[[], Any], target: Target) -> Awaitable[Any]:
            return asyncio.wrap_future(views[target].apply_async(f))

        yield call

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._all.map_sync(f, items))

    def balanced(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return list(self._client.load_balanced_view().map_sync(f, items, chunksize=1))

    def scatter(self, name: str, array: Array) -> None:
        self._all.scatter(name, array, block=True)

    def gather(self, name: str) -> Array:
        return self._all.gather(name, block=True)

    def push(self, name: str, array: Array, target: Target) -> None:
        self._view(target).push({name: array}, block=True)

    def pull(self, name: str) -> Sequence[Array]:
        pulled: Sequence[Array] = self._all.pull(name, block=True)
        return pulled

    def stored(self, name: str) -> Sequence[int]:
        # In two steps: what is pulled there is a name, never an expression.
        self._all.execute(f"_size = globals()[{name!r}].nbytes if {name!r} in globals() else 0", block=True)
        sizes: Sequence[int] = self._all.pull("_size", block=True)
        return sizes
