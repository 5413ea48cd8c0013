"""How a load-balanced view makes tasks of calls, of chunks of a map, and of parts of sequences."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from directview import _checking, operations, partition
from directview._balanced_flags import BalancedFlags
from directview._balancing_tasks import Kind
from directview._dispatching import Wishes
from directview._task_dependencies import resolve
from directview._task_results import ToldResult
from directview._view_targets import Targets, name_of
from directview.dependencies import dependent
from directview.lazy import Tell, check_chunksize
from directview.result import AsyncResult
from directview.sharing import hold_function
from directview.wire.parcels import Packed, Parcel

__all__ = ["BalancedCalls", "chunk_function"]

R = TypeVar("R", bound=AsyncResult[Any])
T = TypeVar("T")


class BalancedCalls(BalancedFlags):
    """The part of a load-balanced view that submits. Arguments as for `LoadBalancedView`."""

    def _call(
        self,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        name: str | None = None,
        targets: Targets | None = None,
        join: Callable[[list[Any]], Any] | None = None,
    ) -> AsyncResult[Any]:
        return self._call_telling(None, f, args, kwargs, name=name, targets=targets, join=join)

    def _call_telling(
        self,
        tell: Tell | None,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        name: str | None = None,
        targets: Targets | None = None,
        join: Callable[[list[Any]], Any] | None = None,
    ) -> AsyncResult[Any]:
        _checking.function(f, "apply")
        called = name_of(f) if name is None else name
        function = hold_function(f)
        parcel = self._parcel(function, args, kwargs, called)

        def made(calls: Sequence[tuple[int, int]]) -> AsyncResult[Any]:
            return self._told(tell, calls, called, join)

        return self._submit_tasks([parcel], called, self._wishes(f, function, targets), made)

    def _told(
        self,
        tell: Tell | None,
        calls: Sequence[tuple[int, int]],
        name: str,
        join: Callable[[list[Any]], Any] | None = None,
    ) -> AsyncResult[Any]:
        """The result of one task; somebody may be told of its end."""
        kind = AsyncResult if tell is None else ToldResult
        result: AsyncResult[Any] = kind(
            self.client, calls, join=join, name=name, single=True, label=self.label
        )
        if isinstance(result, ToldResult):
            result._tell = tell
        return result

    def _chunked(
        self, f: Callable[..., Any], sequences: Sequence[Iterable[Any]], chunksize: int, exceptions: bool
    ) -> tuple[Packed, list[Parcel], list[int]]:
        """What calls `f` on chunks of the sequences; the chunks' payloads, and how many items each has."""
        check_chunksize(chunksize)
        _checking.function(f, "map")
        _checking.items(sequences, "map")
        name = name_of(f)
        function = hold_function(chunk_function(f, exceptions))
        (columns,) = partition.split_aligned(sequences, 1)
        n = -(-len(columns[0]) // chunksize)
        parts = [partition.split(column, n) for column in columns] if n else []
        chunks = list(zip(*parts, strict=True))
        parcels = [self._parcel(function, chunk, {}, name) for chunk in chunks]
        return function, parcels, [len(chunk[0]) for chunk in chunks]

    def _submit_chunks(
        self, tell: Tell, f: Callable[..., T], sequences: Sequence[Iterable[Any]], chunksize: int
    ) -> list[AsyncResult[list[T]]]:
        """A map, as a result for each chunk; somebody is told of the end of each."""
        name = name_of(f)
        function, parcels, _ = self._chunked(f, sequences, chunksize, False)
        if not parcels:
            return []
        wishes = self._wishes(f, function)

        def made(calls: Sequence[tuple[int, int]]) -> AsyncResult[list[T]]:
            return self._told(tell, calls, name)

        return [self._submit_tasks([parcel], name, wishes, made) for parcel in parcels]

    def _call_on_parts(
        self,
        f: Callable[..., Any],
        sequences: Sequence[Any],
        whole: dict[str, Any],
        dist: partition.Dist,
        chunksize: int | None = None,
    ) -> AsyncResult[Any]:
        """Call `f` on aligned parts of `sequences`, each of them a task; the joined result."""
        name = name_of(f)
        n = len(self._ids(None))
        if chunksize is not None and sequences:
            n = max(1, -(-len(sequences[0]) // chunksize))
        rows = partition.split_equal(sequences, n, dist, name)
        rows = [row for row in rows if len(row[0])] or rows[:1]
        function = hold_function(f)
        parcels = [self._parcel(function, row, whole, name) for row in rows]
        join = functools.partial(partition.join, dist=dist)

        def made(calls: Sequence[tuple[int, int]]) -> AsyncResult[Any]:
            return AsyncResult(self.client, calls, join=join, name=name, label=self.label)

        return self._submit_tasks(parcels, name, self._wishes(f, function), made)

    def _wishes(self, f: Callable[..., Any], function: Packed, targets: Targets | None = None) -> Wishes:
        """What is wanted of tasks that are submitted now."""
        everywhere = targets is None and self._targets == "all"
        # Where all engines have died and others are being started, tasks wait for those.
        ids = () if everywhere and self.client._binding.core().returning else self._ids(targets)
        return Wishes(
            self._kind(f, function),
            None if everywhere else frozenset(ids),
            resolve(self.client, "after", self._after),
            resolve(self.client, "follow", self._follow),
            self._retries,
            self._timeout,
        )

    def _kind(self, f: Callable[..., Any], function: Packed) -> Kind:
        key: Hashable = (name_of(f), hash(function.data))
        return self.client._binding.core().balanced.kind(key, together=_is_coroutine_function(f))

    def _submit_tasks(
        self,
        parcels: Sequence[Parcel],
        name: str,
        wishes: Wishes,
        made: Callable[[Sequence[tuple[int, int]]], R],
    ) -> R:
        detached: Sequence[int] = ()
        if self._detached:
            if wishes.after is not None or wishes.follow is not None or wishes.retries or wishes.timeout:
                raise ValueError(
                    "detached: `after`, `follow`, `retries` and `timeout` are this client's to see to, and "
                    "it may be gone; use a view without them for detached calls"
                )
            detached = self._ids(None) if wishes.targets is None else sorted(wishes.targets)
        result = self.client._submit_tasks(parcels, name, wishes, made, self.time_limit, detached)
        self._made.append(result._calls)
        return result


def chunk_function(f: Callable[..., Any], return_exceptions: bool) -> Callable[..., Any]:
    """What calls `f` on the items of a chunk, on an engine."""
    if isinstance(f, dependent):  # its condition decides on the whole chunk, before anything runs
        return dependent(operations.chunk_mapper(f.f, return_exceptions), f.df, *f.dargs, **f.dkwargs)
    return operations.chunk_mapper(f, return_exceptions)


def _is_coroutine_function(f: Callable[..., Any]) -> bool:
    while isinstance(f, functools.partial | dependent):
        f = f.func if isinstance(f, functools.partial) else f.f
    return inspect.iscoroutinefunction(f)
