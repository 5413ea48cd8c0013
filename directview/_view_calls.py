"""What a view runs on its engines: functions, source code, and functions mapped over items."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from directview import _checking, cells, functions, operations, partition
from directview._view_targets import K, Many, One, Targeted, Targets, name_of
from directview.lazy import LazyMap, MaxOutstanding, deal
from directview.result import AsyncMapResult, AsyncResult
from directview.sharing import hold_function
from directview.streams import Stream, serving
from directview.wire.parcels import Parcel

if TYPE_CHECKING:
    from directview._function_types import (
        Parallel,
        ParallelResult,
        Remote,
        RemoteResult,
        RemoteResults,
        RemoteValue,
        RemoteValues,
    )
    from directview.view import DirectView

__all__ = ["Calls"]

P = ParamSpec("P")
T = TypeVar("T")


class Calls(Targeted[K]):
    """The operations of a view that run the user's code."""

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
        self: Calls[One], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(
        self: Calls[Many], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[list[T]]: ...
    @overload
    def apply_async(
        self: Calls[One], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(
        self: Calls[Many], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[list[T]]: ...
    def apply_async(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """`apply` that returns an `AsyncResult` at once, to await or `get` later.

        Cancelling an await of it cancels the call, if nobody else waits for it.
        """
        return self._call(f, args, kwargs)

    @overload
    def apply_sync(
        self: Calls[One], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def apply_sync(
        self: Calls[Many], f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[T]: ...
    @overload
    def apply_sync(self: Calls[One], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def apply_sync(self: Calls[Many], f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> list[T]: ...
    def apply_sync(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`apply` that waits and returns the result, or the list of results. Raises what `apply` raises."""
        return self._wait_for(lambda: self._call(f, args, kwargs), "apply")

    @overload
    def stream(
        self: Calls[One], f: Callable[P, AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]: ...
    @overload
    def stream(
        self: Calls[Many], f: Callable[P, AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[tuple[int, T]]: ...
    @overload
    def stream(
        self: Calls[One], f: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]: ...
    @overload
    def stream(
        self: Calls[Many], f: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[tuple[int, T]]: ...
    def stream(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Run a generator on each engine, and iterate here over what it yields, as it yields it.

        ::

            async for item in rc[0].stream(numbers, 10):
                ...

        ``for`` works as well where blocking is possible. The generator goes no further than about two batches
        of items ahead of the loop; leaving the loop ends it.

        Args:
            f: a generator function, an async one, or any function that returns an iterator.
            args: its arguments.
            kwargs: its keyword arguments, whatever their names.

        Returns:
            A `Stream`: of items for one engine (an int target), of (engine_id, item) for several.

        Raises:
            SerializationError: an argument can't travel; the text says which.
        """
        name = name_of(f)
        return Stream(self.client, self._call(serving(f), args, kwargs, name=name), name)

    # --- running code -----------------------------------------------------------------------------------

    def execute(
        self, code: str, silent: bool = True, *, targets: Targets | None = None, block: bool | None = None
    ) -> AsyncResult[Any]:
        """Run source code in each engine's namespace.

        Args:
            code: any Python statements; ``await`` is allowed at the top level, and IPython's syntax where
                IPython is installed on the engines.
            silent: False: run it as a notebook runs a cell. The value of the last expression comes back in
                the reply, and what the source displays.
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
        run = operations.execute if silent else cells.run_cell
        return self._call(run, (code,), {}, name="_execute", targets=targets)

    def execute_sync(
        self, code: str, silent: bool = True, *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`execute` that waits, and raises what failed; its `AsyncResult` is finished."""
        return self._checked(lambda: self.execute_async(code, silent, targets=targets), True, "execute")

    def run(
        self, filename: str | PathLike[str], *, targets: Targets | None = None, block: bool | None = None
    ) -> AsyncResult[Any]:
        """Run the contents of a file of this machine in each engine's namespace.

        Args:
            filename: of Python source; ``~`` is your home.
            targets: other engines than the view's, for this call.
            block: wait (and raise what failed), for this call.

        Returns:
            An `AsyncResult` of `ExecuteReply`, finished if it was waited for.

        Raises:
            OSError: the file can't be read here.
        """
        return self._checked(lambda: self.run_async(filename, targets=targets), block, "run")

    def run_async(self, filename: str | PathLike[str], *, targets: Targets | None = None) -> AsyncResult[Any]:
        """`run` that does not wait."""
        source = Path(filename).expanduser().read_bytes()
        return self._call(operations.run_file, (source, str(filename)), {}, name="_run", targets=targets)

    def run_sync(self, filename: str | PathLike[str], *, targets: Targets | None = None) -> AsyncResult[Any]:
        """`run` that waits, and raises what failed; its `AsyncResult` is finished."""
        return self._checked(lambda: self.run_async(filename, targets=targets), True, "run")

    # --- map ----------------------------------------------------------------------------------------------

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
        _checking.function(f, "map")
        _checking.items(sequences, "map")
        ids = self._ids(None)
        function = hold_function(operations.chunk_mapper(f, return_exceptions))
        requests: list[tuple[tuple[int, ...], Parcel]] = []
        sizes: list[int] = []
        for id, parts in zip(ids, partition.split_aligned(sequences, len(ids)), strict=True):
            if len(parts[0]):
                requests.append(((id,), self._parcel(function, parts, {}, "map")))
                sizes.append(len(parts[0]))
        return self._submit_map(requests, sizes, name_of(f))

    def map_sync(
        self, f: Callable[..., T], /, *sequences: Iterable[Any], return_exceptions: bool = False
    ) -> list[T]:
        """`map` that waits."""
        waited: list[T] = self._wait_for(
            lambda: self.map_async(f, *sequences, return_exceptions=return_exceptions), "map"
        )
        return waited

    @overload
    def imap(
        self,
        f: Callable[..., Coroutine[Any, Any, T]],
        /,
        *sequences: Iterable[Any],
        ordered: bool = True,
        max_outstanding: MaxOutstanding = "auto",
        return_exceptions: bool = False,
        chunksize: int = 1,
    ) -> LazyMap[T]: ...
    @overload
    def imap(
        self,
        f: Callable[..., T],
        /,
        *sequences: Iterable[Any],
        ordered: bool = True,
        max_outstanding: MaxOutstanding = "auto",
        return_exceptions: bool = False,
        chunksize: int = 1,
    ) -> LazyMap[T]: ...
    def imap(
        self,
        f: Callable[..., Any],
        /,
        *sequences: Iterable[Any],
        ordered: bool = True,
        max_outstanding: MaxOutstanding = "auto",
        return_exceptions: bool = False,
        chunksize: int = 1,
    ) -> LazyMap[Any]:
        """``map(f, *sequences)`` lazily: items are read as results are taken, so they may be endless.

        Items are dealt to the engines in turn, `chunksize` at a time. (A load-balanced view gives them to
        whoever has least to do.)

        Args:
            f: called with one item of each sequence.
            sequences: any iterables.
            ordered: False: results come as they arrive.
            max_outstanding: chunks that are under way, or here and not yet taken, at most; 0: any number;
                ``'auto'``: four for each engine.
            return_exceptions: an item's error takes its place among the results.
            chunksize: items in a chunk.

        Returns:
            A `LazyMap`, for ``for`` and ``async for``. Leaving the loop cancels what is under way.
        """
        return deal(self._as_view(), f, sequences, ordered, max_outstanding, return_exceptions, chunksize)

    # --- functions that run here ----------------------------------------------------------------------------

    @overload
    def remote(self: Calls[One], block: Literal[True], **flags: Any) -> RemoteValue: ...
    @overload
    def remote(self: Calls[Many], block: Literal[True], **flags: Any) -> RemoteValues: ...
    @overload
    def remote(self: Calls[One], block: Literal[False], **flags: Any) -> RemoteResult: ...
    @overload
    def remote(self: Calls[Many], block: Literal[False], **flags: Any) -> RemoteResults: ...
    @overload
    def remote(self, block: bool | None = None, **flags: Any) -> Remote: ...
    def remote(self, block: bool | None = None, **flags: Any) -> Any:
        """Decorator: a function that, when it is called, runs on this view's engines.

        ::

            @view.remote(block=True)
            def getpid():
                import os
                return os.getpid()

            getpid()     # one process id from each engine

        Args:
            block: whether a call waits; None: as the view says when it is called.
            flags: other flags of the view (see `options`), for these calls.

        Returns:
            What makes a `RemoteFunction` of a function.
        """
        return functions.remote(self._as_view(), block, **flags)

    @overload
    def parallel(
        self, dist: partition.Dist = "b", *, block: Literal[False], ordered: bool = True, **flags: Any
    ) -> ParallelResult: ...
    @overload
    def parallel(
        self, dist: partition.Dist = "b", block: bool | None = None, ordered: bool = True, **flags: Any
    ) -> Parallel: ...
    def parallel(
        self, dist: partition.Dist = "b", block: bool | None = None, ordered: bool = True, **flags: Any
    ) -> Any:
        """Decorator: a function whose sequences are cut into parts, one for each engine, and joined again.

        ::

            @view.parallel(block=True)
            def pmul(A, B):
                return A * B

            pmul(A, A)   # the same as A * A

        Args:
            dist: how items go to engines: ``'b'`` in blocks, ``'r'`` in turn.
            block: whether a call waits; None: as the view says when it is called.
            ordered: accepted for programs that pass it: results are always in order.
            flags: other flags of the view (see `options`), for these calls.

        Returns:
            What makes a `ParallelFunction` of a function.
        """
        return functions.parallel(self._as_view(), dist, block, ordered, **flags)

    def _as_view(self) -> DirectView[Any]:
        return cast("DirectView[Any]", self)

    def _call_on_parts(
        self, f: Callable[..., Any], sequences: Sequence[Any], whole: dict[str, Any], dist: partition.Dist
    ) -> AsyncResult[Any]:
        """Call `f` on aligned parts of `sequences`, one on each engine; the joined result."""
        ids, name = self._ids(None), name_of(f)
        rows = partition.split_equal(sequences, len(ids), dist, name)
        # An engine without items is left out; but what the function makes of none at all, only it knows.
        rows = [row for row in rows if len(row[0])] or rows[:1]
        function = hold_function(f)
        requests = [
            ((id,), self._parcel(function, row, whole, name)) for id, row in zip(ids, rows, strict=False)
        ]
        join = functools.partial(partition.join, dist=dist)
        return self._submit(requests, name, None, join)
