"""dask.distributed: a scheduler and workers of one thread each, data held by futures."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from benchmarks.peer import Array, AwaitCall, Peer, Target

__all__ = ["DaskPeer"]


class DaskPeer(Peer):
    """A local cluster. A name is a future, or one for each worker; calls on all workers are `Client.run`."""

    distributions = ("dask", "distributed", "tornado", "msgpack", "numpy")
    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "its scheduler runs in the client's own process here",
        "share": "its workers share no memory",
    }

    def __init__(self) -> None:
        self._distributed = importlib.import_module("distributed")
        self._numpy = importlib.import_module("numpy")
        self._cluster: Any = None
        self._client: Any = None
        self._names: dict[str, Any] = {}

    def start(self, n: int) -> None:
        self._cluster = self._distributed.LocalCluster(
            n_workers=n, threads_per_worker=1, dashboard_address=None, memory_limit=0
        )
        self._client = self._distributed.Client(self._cluster)
        self._client.wait_for_workers(n)
        self._workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])

    def stop(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            self._names.clear()
            self._client.close()
            cluster.close()

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        client = self._client
        if target is None:
            return lambda: client.run(f)
        worker = [self._workers[target]]
        return lambda: client.submit(f, workers=worker, pure=False).result()

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        worker = [self._workers[0]]
        # In a list: its scatter takes a list apart.
        (sent,) = self._client.scatter([argument], workers=worker, hash=False)
        return self._client.submit(f, sent, workers=worker, pure=False).result()

    def burst(self, f: Callable[[], Any], count: int, engines: int) -> None:
        submit = self._client.submit
        workers = [[worker] for worker in self._workers[:engines]]
        self._client.gather([submit(f, workers=workers[i % engines], pure=False) for i in range(count)])

    @asynccontextmanager
    async def awaiting(self) -> AsyncIterator[AwaitCall]:
        async with self._distributed.Client(self._cluster.scheduler_address, asynchronous=True) as client:
            workers = [[worker] for worker in self._workers]

            def call(f: Callable[[], Any], target: Target) -> Awaitable[Any]:
                if target is None:
                    every: Awaitable[Any] = client.run(f)
                    return every
                return _result(client.submit(f, workers=workers[target], pure=False))

            yield call

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        # As with a direct view: one chunk for each worker. A task for each item is what it advises against.
        size = -(-len(items) // len(self._workers))
        chunks = [items[first : first + size] for first in range(0, len(items), size)]
        sent = self._client.scatter(chunks, hash=False)
        parts = self._client.gather(self._client.map(_mapped, [f] * len(sent), sent, pure=False))
        return [item for part in parts for item in part]

    def balanced(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        balanced: list[Any] = self._client.gather(self._client.map(f, items, pure=False))
        return balanced

    # --- arrays ---------------------------------------------------------------------------------------

    def scatter(self, name: str, array: Array) -> None:
        parts = self._numpy.array_split(array, len(self._workers))
        self._names[name] = [
            self._client.scatter(part, workers=[worker], hash=False)
            for part, worker in zip(parts, self._workers, strict=True)
        ]

    def gather(self, name: str) -> Array:
        return self._numpy.concatenate(self._client.gather(self._names[name]))

    def push(self, name: str, array: Array, target: Target) -> None:
        if target is None:
            self._names[name] = self._client.scatter(array, broadcast=True, hash=False)
        else:
            self._names[name] = self._client.scatter(array, workers=[self._workers[target]], hash=False)

    def pull(self, name: str) -> Sequence[Array]:
        key = self._names[name].key
        return list(self._client.run(_held, key).values())

    def stored(self, name: str) -> Sequence[int]:
        held = self._names[name]
        keys = [future.key for future in (held if isinstance(held, list) else [held])]
        sizes = [self._client.run(_size_of_held, key).values() for key in keys]
        return [max(each) for each in itertools.zip_longest(*sizes)]


def _mapped(f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [f(item) for item in items]


async def _result(future: Any) -> Any:
    return await future


def _held(key: str, dask_worker: Any) -> Any:
    return dask_worker.data[key]


def _size_of_held(key: str, dask_worker: Any) -> int:
    return int(dask_worker.data[key].nbytes) if key in dask_worker.data else 0
