"""Views: what a user works with. A `DirectView` is a client, some engines, and a few flags.

Every operation comes three times: ``op_async`` returns an `AsyncResult` at once, ``op_sync`` waits and
returns the value, and the bare ``op`` does one or the other by the view's `block`. On one engine (an int
target) results are scalars, on a list (of one, too) they are lists in the order of the targets; the types
say so: ``DirectView[One]`` and ``DirectView[Many]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, overload

from directview import operations, partition
from directview.reply import ExecuteReply
from directview.result import AsyncMapResult, AsyncResult
from directview.wire.objects import dump_arguments, dump_function
from directview.wire.parcels import Packed, Parcel, pack

if TYPE_CHECKING:
    from directview.client import Client

__all__ = ["DirectView", "EngineView", "Many", "One", "Targets"]

P = ParamSpec("P")
T = TypeVar("T")

Targets: TypeAlias = int | slice | Sequence[int] | Literal["all"]
"""One engine by id (negative: from the end), or several: a list of ids, a slice of them, or all."""


class One:
    """Type argument of a view of one engine: results are scalars."""


class Many:
    """Type argument of a view of several engines: results are lists."""


K = TypeVar("K", One, Many)


class DirectView(Generic[K]):
    """Some engines of a client, by id, to work on all of them at once.

    Made by indexing a client: ``rc[0]``, ``rc[:]``, ``rc[::2]``, ``rc[[0, 2]]``. Assigning an attribute
    changes the view for all who use it; `options` gives a changed copy instead, which is what concurrent
    tasks need.

    Args:
        client: the client whose engines they are.
        targets: their ids, or ``'all'`` for those that are there at the time of each call.
        block: whether bare operations wait; None: as the client's.
        track: whether results tell when a sent buffer may be changed (they always can; kept as a flag for
            programs that set it).
        label: shown in results' metadata.
    """

    def __init__(
        self,
        client: Client,
        targets: int | Sequence[int] | Literal["all"],
        *,
        block: bool | None = None,
        track: bool = False,
        label: str | None = None,
    ) -> None:
        self.client = client
        self._targets: int | Sequence[int] | Literal["all"] = targets
        self._block = block
        self.track = track
        self.label = label

    # --- what it is -----------------------------------------------------------------------------------

    @property
    def targets(self) -> int | list[int]:
        """The engines' ids: an int for a view of one, otherwise a list.

        Assign an id, a list of ids, a slice of the client's ids, or ``'all'``.
        """
        return self._ids(None)[0] if isinstance(self._targets, int) else list(self._ids(None))

    @targets.setter
    def targets(self, targets: Targets) -> None:
        self._targets = self._chosen(targets)

    @property
    def block(self) -> bool:
        """Whether bare operations wait for their results; the client's, unless assigned here."""
        return self.client.block if self._block is None else self._block

    @block.setter
    def block(self, block: bool | None) -> None:
        self._block = block

    def options(
        self,
        *,
        targets: Targets | None = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
    ) -> DirectView[Any]:
        """A copy of this view with some flags changed; the view itself stays as it is."""
        return DirectView(
            self.client,
            self._targets if targets is None else self._chosen(targets),
            block=self._block if block is None else block,
            track=self.track if track is None else track,
            label=self.label if label is None else label,
        )

    def set_flags(self, **flags: Any) -> None:
        """Assign several of `targets`, `block`, `track`, `label`."""
        for name in flags:
            if name not in ("targets", "block", "track", "label"):
                raise TypeError(f"a view has no flag {name!r}: targets, block, track, label")
        for name, value in flags.items():
            setattr(self, name, value)

    @contextmanager
    def temp_flags(self, **flags: Any) -> Iterator[None]:
        """`set_flags` for the time of a ``with`` block. Not for concurrent tasks: see `options`."""
        before = {"_targets": self._targets, "_block": self._block, "track": self.track, "label": self.label}
        try:
            self.set_flags(**flags)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def __len__(self) -> int:
        return len(self._ids(None))

    def __repr__(self) -> str:
        shown = "all" if self._targets == "all" else self._targets
        return f"<{type(self).__name__} {shown}>"

    # --- calling functions ----------------------------------------------------------------------------

    def apply(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` on each engine, in its own namespace.

        Names that `f` uses are looked up in the engine's namespace first, then among what came with `f`,
        then among the builtins. A coroutine function is awaited on the engine, beside others.

        Returns:
            The result or results, if `block` is set; otherwise an `AsyncResult`.

        Raises:
            SerializationError: an argument can't travel; the text says which.
            RemoteError: (when blocking, one engine) what `f` raised, also of its own type.
            CompositeError: (when blocking, several engines) what it raised on each of them.
            EngineError: an engine died.
        """
        return self._finish(lambda: self._call(f, args, kwargs), "apply")

    @overload
    def apply_async(
        self: DirectView[One], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(
        self: DirectView[Many], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[list[T]]: ...
    @overload
    def apply_async(
        self: DirectView[One], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(
        self: DirectView[Many], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[list[T]]: ...
    def apply_async(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """`apply` that returns an `AsyncResult` at once, to await or `get` later.

        Cancelling an await of it cancels the call, if nobody else waits for it.
        """
        return self._call(f, args, kwargs)

    @overload
    def apply_sync(
        self: DirectView[One], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def apply_sync(
        self: DirectView[Many], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...
    @overload
    def apply_sync(self: DirectView[One], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def apply_sync(
        self: DirectView[Many], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...
    def apply_sync(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`apply` that waits and returns the result, or the list of results. Raises what `apply` raises."""
        return self._wait_for(lambda: self._call(f, args, kwargs), "apply")

    # --- running code -----------------------------------------------------------------------------------

    def execute(
        self, code: str, silent: bool = True, *, targets: Targets | None = None, block: bool | None = None
    ) -> AsyncResult[Any]:
        """Run source code in each engine's namespace.

        Args:
            code: any Python statements; ``await`` is allowed at the top level.
            silent: accepted for programs that pass it.
            targets: other engines than the view's, for this call.
            block: wait (and raise what failed), for this call.

        Returns:
            An `AsyncResult` of `ExecuteReply`, finished if it was waited for.
        """
        return self._checked(lambda: self.execute_async(code, silent, targets=targets), block, "execute")

    def execute_async(
        self, code: str, silent: bool = True, *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`execute` that does not wait."""
        return self._call(operations.execute, (code,), {}, name="_execute", targets=targets)

    def execute_sync(
        self, code: str, silent: bool = True, *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`execute` that waits, and raises what failed; its `AsyncResult` is finished."""
        return self._checked(lambda: self.execute_async(code, silent, targets=targets), True, "execute")

    def run(
        self, filename: str | PathLike[str], *, targets: Targets | None = None, block: bool | None = None
    ) -> AsyncResult[Any]:
        """Run the contents of a file of this machine in each engine's namespace.

        Raises:
            OSError: the file can't be read here.
        """
        return self._checked(lambda: self.run_async(filename, targets=targets), block, "run")

    def run_async(
        self, filename: str | PathLike[str], *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`run` that does not wait."""
        source = Path(filename).expanduser().read_bytes()
        return self._call(operations.run_file, (source, str(filename)), {}, name="_run", targets=targets)

    def run_sync(
        self, filename: str | PathLike[str], *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`run` that waits, and raises what failed; its `AsyncResult` is finished."""
        return self._checked(lambda: self.run_async(filename, targets=targets), True, "run")

    # --- moving objects -----------------------------------------------------------------------------------

    def push(
        self,
        ns: Mapping[str, Any],
        *,
        targets: Targets | None = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Set names in each engine's namespace.

        Args:
            ns: name → object. A large array is sent once, whatever the number of engines.
            targets, block, track: for this call.

        Returns:
            ``[None, ...]``, one per engine (None for an int target), or its `AsyncResult`.
        """
        return self._finish(lambda: self.push_async(ns, targets=targets), "push", block)

    def push_async(self, ns: Mapping[str, Any], *, targets: Targets | None = None) -> AsyncResult[Any]:
        """`push` that does not wait. A buffer over 1 MiB may be changed once `wait_for_send` returns."""
        return self._call(operations.push, (dict(ns),), {}, targets=targets)

    def push_sync(self, ns: Mapping[str, Any], *, targets: Targets | None = None) -> Any:
        """`push` that waits."""
        return self._wait_for(lambda: self.push_async(ns, targets=targets), "push")

    def pull(
        self,
        names: str | Sequence[str],
        *,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Get the value of a name or expression (``'a'``, ``'a.b'``, ``'x[0]'``) from each engine.

        Args:
            names: one, or several in a tuple or list: then each engine answers with a list.
            targets, block: for this call.
        """
        return self._finish(lambda: self.pull_async(names, targets=targets), "pull", block)

    def pull_async(
        self, names: str | Sequence[str], *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`pull` that does not wait."""
        asked = names if isinstance(names, str) else tuple(names)
        return self._call(operations.pull, (asked,), {}, targets=targets)

    def pull_sync(self, names: str | Sequence[str], *, targets: Targets | None = None) -> Any:
        """`pull` that waits."""
        return self._wait_for(lambda: self.pull_async(names, targets=targets), "pull")

    def scatter(
        self,
        key: str,
        seq: Any,
        dist: partition.Dist = "b",
        flatten: bool = False,
        *,
        targets: Targets | None = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Cut a sequence into as many parts as there are engines and set `key` to one on each.

        Args:
            key: the name to set.
            seq: list, tuple, str, bytes, range, numpy array (cut along its first axis), pandas or Arrow
                object: parts are of its kind. Any other iterable gives lists.
            dist: ``'b'`` for one block per engine, ``'r'`` for items in turn.
            flatten: an engine that gets only one item gets the item, not a sequence of it.
            targets, block, track: for this call.

        Returns:
            ``[None, ...]``, one per engine, or its `AsyncResult`.
        """
        return self._finish(
            lambda: self.scatter_async(key, seq, dist, flatten, targets=targets), "scatter", block
        )

    def scatter_async(
        self,
        key: str,
        seq: Any,
        dist: partition.Dist = "b",
        flatten: bool = False,
        *,
        targets: Targets | None = None,
    ) -> AsyncResult[list[None]]:
        """`scatter` that does not wait."""
        ids = self._ids(targets)
        function = dump_function(operations.scatter_part)
        requests = [
            ((id,), self._parcel(function, (key, part, flatten), {}, "scatter"))
            for id, part in zip(ids, partition.split(seq, len(ids), dist), strict=True)
        ]
        return self.client._submit(
            requests, "scatter", self.label, single=self._is_one(targets), join=list
        )

    def scatter_sync(
        self,
        key: str,
        seq: Any,
        dist: partition.Dist = "b",
        flatten: bool = False,
        *,
        targets: Targets | None = None,
    ) -> list[None]:
        """`scatter` that waits."""
        waited: list[None] = self._wait_for(
            lambda: self.scatter_async(key, seq, dist, flatten, targets=targets), "scatter"
        )
        return waited

    def gather(
        self,
        key: str,
        dist: partition.Dist = "b",
        *,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Join what `key` is on each engine into one sequence: the inverse of `scatter`.

        Args:
            key: a name, or an expression as in `pull`.
            dist: as it was scattered.
            targets, block: for this call.

        Returns:
            Lists give a list, ranges a flat list, arrays an array of the same dtype; or its `AsyncResult`.
        """
        return self._finish(lambda: self.gather_async(key, dist, targets=targets), "gather", block)

    def gather_async(
        self, key: str, dist: partition.Dist = "b", *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`gather` that does not wait."""
        join = functools.partial(partition.join, dist=dist)
        return self._call(operations.gather_part, (key,), {}, name="gather", targets=targets, join=join)

    def gather_sync(self, key: str, dist: partition.Dist = "b", *, targets: Targets | None = None) -> Any:
        """`gather` that waits."""
        return self._wait_for(lambda: self.gather_async(key, dist, targets=targets), "gather")

    def map(
        self,
        f: Callable[..., Any],
        /,
        *sequences: Iterable[Any],
        block: bool | None = None,
        return_exceptions: bool = False,
    ) -> Any:
        """``map(f, *sequences)`` in parallel: one contiguous chunk of items for each engine.

        Stops at the shortest sequence; the order of results is that of the items. There is no load
        balancing.

        Args:
            f: called with one item of each sequence.
            sequences: any iterables, one of them finite.
            block: for this call.
            return_exceptions: an item's error takes its place among the results.

        Returns:
            A list, or an `AsyncMapResult` that also yields items as they arrive.
        """
        return self._finish(
            lambda: self.map_async(f, *sequences, return_exceptions=return_exceptions), "map", block
        )

    def map_async(
        self, f: Callable[..., T], /, *sequences: Iterable[Any], return_exceptions: bool = False
    ) -> AsyncMapResult[T]:
        """`map` that does not wait."""
        ids = self._ids(None)
        chunk = operations.map_chunk_return_exceptions if return_exceptions else operations.map_chunk
        function = dump_function(functools.partial(chunk, f))
        requests: list[tuple[tuple[int, ...], Parcel]] = []
        sizes: list[int] = []
        for id, parts in zip(ids, partition.split_aligned(sequences, len(ids)), strict=True):
            if len(parts[0]):
                requests.append(((id,), self._parcel(function, parts, {}, "map")))
                sizes.append(len(parts[0]))
        return self.client._submit_map(requests, sizes, _name(f), self.label, single=self._is_one(None))

    def map_sync(
        self, f: Callable[..., T], /, *sequences: Iterable[Any], return_exceptions: bool = False
    ) -> list[T]:
        """`map` that waits."""
        waited: list[T] = self._wait_for(
            lambda: self.map_async(f, *sequences, return_exceptions=return_exceptions), "map"
        )
        return waited

    # --- as a dictionary ------------------------------------------------------------------------------------

    def __getitem__(self, name: str | Sequence[str]) -> Any:
        """``view['a']``: `pull` that always waits."""
        return self.get(name)

    def get(self, names: str | Sequence[str]) -> Any:
        """`pull` that always waits."""
        return self._wait_for(lambda: self.pull_async(names), "pull")

    def __setitem__(self, name: str, value: Any) -> None:
        """``view['a'] = value``: `push`; waits if `block` is set."""
        self.update({name: value})

    def update(self, ns: Mapping[str, Any]) -> Any:
        """`push` of a mapping."""
        return self.push(ns)

    def clear(self, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Remove what users have put into each engine's namespace."""
        return self._finish(lambda: self._call(operations.clear, (), {}, targets=targets), "clear", block)

    # --- beside the calls -----------------------------------------------------------------------------------

    def wait(self, jobs: Any = None, timeout: float | None = None) -> bool:
        """As `Client.wait`."""
        return self.client.wait(jobs, timeout)

    def abort(self, jobs: Any = None, targets: Targets | None = None) -> None:
        """As `Client.abort`, for this view's engines."""
        self.client.abort(jobs, self._targets if targets is None and self._targets != "all" else targets)

    def queue_status(self, targets: Targets | None = None, verbose: bool = False) -> dict[Any, Any]:
        """As `Client.queue_status`, for this view's engines."""
        return self.client.queue_status(list(self._ids(targets)), verbose)

    # --- how it is done ---------------------------------------------------------------------------------------

    def _chosen(self, targets: Targets) -> int | Sequence[int] | Literal["all"]:
        return "all" if targets == "all" else self.client._choose(targets)

    def _ids(self, targets: Targets | None) -> tuple[int, ...]:
        chosen = self._targets if targets is None else self._chosen(targets)
        if chosen == "all":
            return self.client._all_ids()
        return (chosen,) if isinstance(chosen, int) else tuple(chosen)

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
        ids = self._ids(targets)
        name = _name(f) if name is None else name
        parcel = self._parcel(dump_function(f), args, kwargs, name)
        return self.client._submit(
            [(ids, parcel)], name, self.label, single=self._is_one(targets), join=join
        )

    def _is_one(self, targets: Targets | None) -> bool:
        """Whether one engine is meant by its bare id."""
        return hasattr(self._targets if targets is None else targets, "__index__")

    def _parcel(
        self, function: Packed, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Parcel:
        return pack((function, dump_arguments(args, kwargs, call=name)))

    def _blocks(self, block: bool | None) -> bool:
        return self.block if block is None else block

    def _finish(
        self, submit: Callable[[], AsyncResult[Any]], name: str, block: bool | None = None
    ) -> Any:
        return self._wait_for(submit, name) if self._blocks(block) else submit()

    def _wait_for(self, submit: Callable[[], AsyncResult[Any]], name: str) -> Any:
        """Submit and wait; where waiting is not possible, nothing is submitted."""
        self.client.check_may_block(f"{name}_sync", f"`await view.{name}_async(...)`")
        return submit().get()

    def _checked(
        self, submit: Callable[[], AsyncResult[Any]], block: bool | None, name: str
    ) -> AsyncResult[Any]:
        if not self._blocks(block):
            return submit()
        self.client.check_may_block(f"{name}_sync", f"`await view.{name}_async(...)`")
        result = submit()
        result.get()
        return result


def _name(f: Callable[..., Any]) -> str:
    """What errors and status call `f`."""
    while isinstance(f, functools.partial):
        f = f.func
    return str(getattr(f, "__name__", type(f).__name__))[:200]


EngineView: TypeAlias = DirectView[One]
"""A view of one engine."""

__all__ += ["ExecuteReply"]
