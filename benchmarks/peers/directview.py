"""directview itself, as a script and as an async program would use it."""

from __future__ import annotations

import importlib
import operator
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.peer import Array, AwaitCall, Growth, Peer, Simulated, Target
from benchmarks.peers.swarm import Swarm

__all__ = ["DirectviewPeer"]

_START_SECONDS = 60.0
_BURST = 5_000


class DirectviewPeer(Peer):
    """A private cluster; a second client, bound to the loop, for what is awaited."""

    distributions = ("directview", "pyzmq", "msgpack", "cloudpickle", "numpy")
    cannot: ClassVar[Mapping[str, str]] = {"share": "missing: this version's Client has no share()"}

    def __init__(self) -> None:
        # At run time, although it is at hand: what importing costs is part of what is measured.
        self._directview = importlib.import_module("directview")
        for name in ("Cluster", "Client"):  # each is imported when it is first named
            getattr(self._directview, name)
        self._connection = importlib.import_module("directview.connection")
        self._cluster: Any = None
        self._client: Any = None
        self._file = ""

    def start(self, n: int) -> None:
        if not n:
            return  # what comes then starts its own
        self._cluster = self._directview.Cluster(n=n)
        self._client = self._cluster.__enter__()
        self._file = self._cluster.connection_file
        self._all = self._client[:]
        self._one = self._client[0]

    def stop(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.__exit__(None, None, None)

    def _connect(self, n: int) -> None:
        """Be a client of what `_file` names, once it has `n` engines."""
        self._client = self._directview.Client(self._file)
        self._client.wait_for_engines(n, timeout=_START_SECONDS)
        self._all = self._client[:]
        self._one = self._client[0]

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
        async with self._directview.Client(self._file) as client:
            views: dict[Target, Any] = {id: client[id] for id in client.ids}
            views[None] = client[:]

            def call(f: Callable[[], Any], target: Target) -> Awaitable[Any]:
                result: Awaitable[Any] = views[target].apply_async(f)
                return result

            yield call

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        mapped: list[Any] = self._all.map_sync(f, items)
        return mapped

    def balanced(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        mapped: list[Any] = self._client.load_balanced_view().map_sync(f, items, chunksize=1)
        return mapped

    def scatter(self, name: str, array: Array) -> None:
        self._all.scatter_sync(name, array)

    def gather(self, name: str) -> Array:
        return self._all.gather_sync(name)

    def push(self, name: str, array: Array, target: Target) -> None:
        self._view(target).push_sync({name: array})

    def share(self, name: str, array: Array) -> None:
        self._all.push_sync({name: self._shared(array)})

    def shared_caller(self, f: Callable[[Any], Any], array: Array) -> Callable[[], Sequence[Any]]:
        shared, call = self._shared(array), self._all.apply_sync
        return lambda: call(f, shared)

    def _shared(self, array: Array) -> Any:
        # Older versions are measured too, to be compared with.
        share = getattr(self._client, "share", None)
        if share is None:
            self._refuse("share")
        return share(array)

    def pull(self, name: str) -> Sequence[Array]:
        pulled: Sequence[Array] = self._all.pull_sync(name)
        return pulled

    def stored(self, name: str) -> Sequence[int]:
        sizes: Sequence[int] = self._all.pull_sync(
            f"globals()[{name!r}].nbytes if {name!r} in globals() else 0"
        )
        return sizes

    # --- what only directview is asked ------------------------------------------------------------------

    def growth(self, f: Callable[[], Any], count: int, beginning: int) -> Growth:
        psutil = importlib.import_module("psutil")
        processes = {"client": [os.getpid()], "controller": [*self.controllers()]}
        processes["engine"] = [info.pid for info in self._client.engine_infos.values()]

        def resident() -> Mapping[str, list[int]]:
            return {
                what: [psutil.Process(pid).memory_info().rss for pid in pids]
                for what, pids in processes.items()
            }

        self._calls(f, beginning)
        before = resident()
        self._calls(f, count - beginning)
        after = resident()
        return Growth(
            **{what: max(map(operator.sub, after[what], before[what]), default=0) for what in processes}
        )

    def _calls(self, f: Callable[[], Any], count: int) -> None:
        engines = len(self._client.ids)
        for done in range(0, count, _BURST):
            self.burst(f, min(_BURST, count - done), engines)

    def simulated(self, f: Callable[[], Any], n: int, calls: int) -> Simulated:
        cluster = self._directview.Cluster(n=0)
        cluster.start_cluster_sync()
        client = swarm = None
        try:
            client = self._directview.Client(cluster.connection_file)
            client.ids  # noqa: B018 - connects
            begun = time.perf_counter()
            swarm = Swarm(Path(cluster.connection_file).with_name("engine.json"), n)
            client.wait_for_engines(n, timeout=_START_SECONDS)
            register = time.perf_counter() - begun
            call = client[:].apply_sync
            if call(f) != [None] * n:
                raise RuntimeError(f"not all of {n} simulated engines answered rightly")
            seconds = []
            for _ in range(calls):
                begun = time.perf_counter()
                call(f)
                seconds.append(time.perf_counter() - begun)
            return Simulated(register, seconds)
        finally:
            if client is not None:
                client.close()
            if swarm is not None:
                swarm.end()
            cluster.stop_cluster_sync()
