"""Ray: actors, which keep names, and its object store in shared memory."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from benchmarks.peer import Array, AwaitCall, Peer, Target

__all__ = ["RayPeer"]

_STORE_BYTES = 3_000_000_000


class _Engine:
    """What an actor is: a place for names, where functions are called."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}

    def call(self, f: Callable[..., Any], *args: Any) -> Any:
        return f(*args)

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [f(item) for item in items]

    def set(self, name: str, value: Any) -> None:
        self._names[name] = value

    def get(self, name: str) -> Any:
        return self._names[name]

    def size(self, name: str) -> int:
        return int(self._names[name].nbytes) if name in self._names else 0


class RayPeer(Peer):
    """A local Ray and one actor for each engine. Arrays go through its store, put once and read by all."""

    distributions = ("ray", "numpy")
    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "calls go from process to process; its store is shared by all",
    }

    def __init__(self) -> None:
        self._ray = importlib.import_module("ray")
        self._numpy = importlib.import_module("numpy")
        self._actors: list[Any] = []

    def start(self, n: int) -> None:
        self._ray.init(
            num_cpus=n,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=_STORE_BYTES,
        )
        actor = self._ray.remote(_Engine)
        self._actors = [actor.options(num_cpus=1).remote() for _ in range(n)]

    def stop(self) -> None:
        if self._ray.is_initialized():
            self._actors.clear()
            self._ray.shutdown()

    def _on(self, target: Target) -> list[Any]:
        return self._actors if target is None else [self._actors[target]]

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        get, actors = self._ray.get, self._on(target)
        known = self._ray.put(f)
        return lambda: get([actor.call.remote(known) for actor in actors])

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        return self._ray.get(self._actors[0].call.remote(f, argument))

    def burst(self, f: Callable[[], Any], count: int, engines: int) -> None:
        known = self._ray.put(f)
        calls = [actor.call for actor in self._actors[:engines]]
        self._ray.get([calls[number % engines].remote(known) for number in range(count)])

    @asynccontextmanager
    async def awaiting(self) -> AsyncIterator[AwaitCall]:
        known: dict[Any, Any] = {}

        def call(f: Callable[[], Any], target: Target) -> Awaitable[Any]:
            if f not in known:
                known[f] = self._ray.put(f)
            return _all([actor.call.remote(known[f]) for actor in self._on(target)])

        yield call

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        # As with a direct view: one chunk for each engine. A task for each item is what it advises against.
        n = len(self._actors)
        size = -(-len(items) // n)
        chunks = [items[first : first + size] for first in range(0, len(items), size)]
        parts = self._ray.get([a.map.remote(f, c) for a, c in zip(self._actors, chunks, strict=False)])
        return [item for part in parts for item in part]

    def balanced(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        # What Ray has for actors. (Its tasks need processes beside them.)
        pool = importlib.import_module("ray.util").ActorPool(self._actors)
        known = self._ray.put(f)
        return list(pool.map(lambda actor, item: actor.call.remote(known, item), items))

    # --- arrays ---------------------------------------------------------------------------------------

    def _set(self, name: str, references: Sequence[Any], actors: Sequence[Any]) -> None:
        self._ray.get([a.set.remote(name, ref) for a, ref in zip(actors, references, strict=True)])

    def scatter(self, name: str, array: Array) -> None:
        parts = self._numpy.array_split(array, len(self._actors))
        self._set(name, [self._ray.put(part) for part in parts], self._actors)

    def gather(self, name: str) -> Array:
        return self._numpy.concatenate(self._ray.get([a.get.remote(name) for a in self._actors]))

    def push(self, name: str, array: Array, target: Target) -> None:
        actors = self._on(target)
        self._set(name, [self._ray.put(array)] * len(actors), actors)

    def share(self, name: str, array: Array) -> None:
        self.push(name, array, None)  # which it always does by sharing

    def shared_caller(self, f: Callable[[Any], Any], array: Array) -> Callable[[], Sequence[Any]]:
        get, known, shared = self._ray.get, self._ray.put(f), self._ray.put(array)
        return lambda: get([actor.call.remote(known, shared) for actor in self._actors])

    def pull(self, name: str) -> Sequence[Array]:
        pulled: Sequence[Array] = self._ray.get([a.get.remote(name) for a in self._actors])
        return pulled

    def stored(self, name: str) -> Sequence[int]:
        sizes: Sequence[int] = self._ray.get([a.size.remote(name) for a in self._actors])
        return sizes


async def _all(references: Sequence[Any]) -> list[Any]:
    return [await reference for reference in references]
