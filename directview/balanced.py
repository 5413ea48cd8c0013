"""Views that find an engine for each call: what `Client.load_balanced_view` returns.

Each call, and each chunk of a map, is a task that runs once, on whichever engine has least to do; see
`directview._balancing` for who gets what. What a task waits for, how often it is tried again and where it may
run are flags of the view.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, cast, overload

from directview import _checking, partition
from directview._balanced_calls import BalancedCalls, chunk_function
from directview._task_dependencies import Dependency
from directview._task_results import UnorderedMapResult
from directview._view_targets import Targets, checked_limit, name_of
from directview.functions import ParallelFunction, RemoteFunction
from directview.lazy import (
    NO_LIMIT,
    LazyMap,
    MaxOutstanding,
    Rows,
    Tell,
    check_chunksize,
    checked_outstanding,
)
from directview.result import AsyncMapResult, AsyncResult
from directview.sharing import hold_function

if TYPE_CHECKING:
    from directview._function_types import Parallel, ParallelResult, Remote, RemoteResult, RemoteValue
    from directview.executor import ViewExecutor
    from directview.view import DirectView

__all__ = ["Dependency", "LoadBalancedView"]

P = ParamSpec("P")
R = TypeVar("R", bound=AsyncResult[Any])
T = TypeVar("T")

_UNCHANGED: Final[Any] = object()


class LoadBalancedView(BalancedCalls):
    """Engines of a client among which calls are balanced: each goes to one that has least to do.

    Made by `Client.load_balanced_view`. Assigning a flag changes the view for all who use it; `options` gives
    a changed copy instead, which is what concurrent tasks need.

    Args:
        client: the client whose engines they are.
        targets: ids of engines, or ``'all'`` for those that are there at any time.
        block: whether bare operations wait; None: as the client's.
        track: accepted for programs that set it.
        label: shown in results' metadata.
        after: calls (an `AsyncResult`, a msg_id, several of these, a `Dependency`) that must have ended
            before a call starts; with success, unless a Dependency says otherwise.
        follow: likewise; and the call runs on the engine where they ran.
        timeout: seconds that a call may wait for an engine, before it ends in `TaskTimeout`; 0 or None: any.
        retries: how often a call is begun again that has raised or whose engine has died, on another engine
            where there is one. Only with retries may a call run twice.
        time_limit: seconds that a call may take, from its submission to its end; None: any number.
        detached: whether calls go on when the client is gone. They are dealt out to the engines in turn then,
            and can't have `after`, `follow`, `timeout` or `retries`.
        scheme: accepted for programs that name one of ipyparallel's schemes: it is always ``leastload``.
    """

    def options(
        self,
        *,
        targets: Targets | None = _UNCHANGED,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
        after: Any = _UNCHANGED,
        follow: Any = _UNCHANGED,
        timeout: float | None = _UNCHANGED,
        retries: int | None = None,
        time_limit: float | None = _UNCHANGED,
        detached: bool | None = None,
    ) -> LoadBalancedView:
        """A copy of this view with some flags changed; the view itself stays as it is.

        Args:
            targets: other engines; None: all.
            block: whether bare operations wait.
            track: accepted for programs that set it.
            label: shown in results' metadata.
            after: calls that must have ended before; None: none.
            follow: calls that are to be followed; None: none.
            timeout: seconds that a call may wait for an engine; None: any number.
            retries: how often a call is begun again that has failed.
            time_limit: seconds that a call may take in all; None: any number.
            detached: whether calls go on when this client is gone. They are dealt out to the engines in turn.
        """
        made = LoadBalancedView(
            self.client,
            self._targets,
            block=self._block if block is None else block,
            track=self.track if track is None else track,
            label=self.label if label is None else label,
            after=self.after if after is _UNCHANGED else after,
            follow=self.follow if follow is _UNCHANGED else follow,
            timeout=self.timeout if timeout is _UNCHANGED else timeout,
            retries=self.retries if retries is None else retries,
            time_limit=self.time_limit if time_limit is _UNCHANGED else checked_limit(time_limit),
            detached=self.detached if detached is None else detached,
        )
        if targets is not _UNCHANGED:
            made.targets = targets
        return made

    # --- calling functions ----------------------------------------------------------------------------

    def apply(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` on one engine, in its namespace.

        Returns:
            The result, if `block` is set; otherwise an `AsyncResult`.

        Raises:
            SerializationError: an argument can't travel; the text says which.
            NoEnginesRegistered: there are no engines.
            InvalidDependency: `after` or `follow` names what is no call of this client.
            RemoteError: (when blocking) what `f` raised, also of its own type.
            EngineError: (when blocking) the engine died.
            TaskTimeout: (when blocking) no engine had room for it in time.
            ImpossibleDependency: (when blocking) what it depends on can't be met any more.
        """
        return self._finish(lambda: self._call(f, args, kwargs), "apply")

    @overload
    def apply_async(
        self, f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[T]: ...
    @overload
    def apply_async(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]: ...
    def apply_async(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """`apply` that returns an `AsyncResult` at once, to await or `get` later.

        Cancelling an await of it cancels the call, if nobody else waits for it. Buffers over 1 MiB among the
        arguments must not be changed before it has ended: it may have to be sent to another engine.
        """
        return self._call(f, args, kwargs)

    @overload
    def apply_sync(
        self, f: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def apply_sync(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def apply_sync(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`apply` that waits and returns the result. Raises what `apply` raises."""
        return self._wait_for(lambda: self._call(f, args, kwargs), "apply")

    # --- map ------------------------------------------------------------------------------------------

    def map(
        self,
        f: Callable[..., Any],
        /,
        *sequences: Iterable[Any],
        block: bool | None = None,
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> Any:
        """``map(f, *sequences)`` in parallel: a task for every `chunksize` items.

        Stops at the shortest sequence.

        Args:
            f: called with one item of each sequence.
            sequences: any iterables, one of them finite.
            block: wait, for this call.
            chunksize: items in a task, at most.
            ordered: False: iterating over the result yields items as they come. `get` gives them in order.
            return_exceptions: an item's error takes its place among the results.

        Returns:
            A list, or an `AsyncMapResult` that also yields items as they arrive.
        """
        return self._finish(
            lambda: self.map_async(
                f, *sequences, chunksize=chunksize, ordered=ordered, return_exceptions=return_exceptions
            ),
            "map",
            block,
        )

    @overload
    def map_async(
        self,
        f: Callable[..., Coroutine[Any, Any, T]],
        /,
        *sequences: Iterable[Any],
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncMapResult[T]: ...
    @overload
    def map_async(
        self,
        f: Callable[..., T],
        /,
        *sequences: Iterable[Any],
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncMapResult[T]: ...
    def map_async(
        self,
        f: Callable[..., Any],
        /,
        *sequences: Iterable[Any],
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncMapResult[Any]:
        """`map` that does not wait."""
        name = name_of(f)
        function, parcels, sizes = self._chunked(f, sequences, chunksize, return_exceptions)
        kind = AsyncMapResult if ordered else UnorderedMapResult

        def made(calls: Sequence[tuple[int, int]]) -> AsyncMapResult[Any]:
            return kind(self.client, calls, sizes, name=name, label=self.label)

        return self._submit_tasks(parcels, name, self._wishes(f, function), made)

    @overload
    def map_sync(
        self,
        f: Callable[..., Coroutine[Any, Any, T]],
        /,
        *sequences: Iterable[Any],
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> list[T]: ...
    @overload
    def map_sync(
        self,
        f: Callable[..., T],
        /,
        *sequences: Iterable[Any],
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> list[T]: ...
    def map_sync(
        self,
        f: Callable[..., Any],
        /,
        *sequences: Iterable[Any],
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """`map` that waits."""
        waited: list[Any] = self._wait_for(
            lambda: self.map_async(
                f, *sequences, chunksize=chunksize, ordered=ordered, return_exceptions=return_exceptions
            ),
            "map",
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

        Args:
            f: called with one item of each sequence.
            sequences: any iterables.
            ordered: False: results come as they arrive.
            max_outstanding: tasks that are under way, or here and not yet taken, at most; 0: any number.
                ``'auto'``: as many as keep the engines busy, which depends on how long the tasks take.
            return_exceptions: an item's error takes its place among the results.
            chunksize: items in a task.

        Returns:
            A `LazyMap`, for ``for`` and ``async for``. Leaving the loop cancels what is under way.
        """
        check_chunksize(chunksize)
        if not sequences:
            raise TypeError("imap needs at least one sequence beside the function")
        _checking.function(f, "imap")
        _checking.items(sequences, "imap")
        name = name_of(f)
        function = hold_function(chunk_function(f, return_exceptions))
        wishes = self._wishes(f, function)
        most = checked_outstanding(max_outstanding)

        def submit(rows: Rows, tell: Tell | None) -> AsyncResult[list[Any]]:
            parcel = self._parcel(function, tuple(zip(*rows, strict=True)), {}, name)

            def made(calls: Sequence[tuple[int, int]]) -> AsyncResult[list[Any]]:
                return self._told(tell, calls, name)

            return self._submit_tasks([parcel], name, wishes, made)

        def limit() -> int:
            return len(self) * (wishes.kind.ahead + 1) if most is None else most or NO_LIMIT

        return LazyMap(
            self.client,
            zip(*sequences, strict=False),
            submit,
            limit=limit,
            chunksize=chunksize,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )

    # --- functions that run here ----------------------------------------------------------------------

    @overload
    def remote(self, block: Literal[True], **flags: Any) -> RemoteValue: ...
    @overload
    def remote(self, block: Literal[False], **flags: Any) -> RemoteResult: ...
    @overload
    def remote(self, block: bool | None = None, **flags: Any) -> Remote: ...
    def remote(self, block: bool | None = None, **flags: Any) -> Any:
        """Decorator: a function that, when it is called, runs on one of this view's engines.

        Args:
            block: whether a call waits; None: as the view says when it is called.
            flags: other flags of the view (see `options`), for these calls.

        Returns:
            What makes a `RemoteFunction` of a function.
        """

        def decorate(f: Callable[..., Any], /) -> RemoteFunction[..., Any]:
            return RemoteFunction(self._as_view(), f, block=block, **flags)

        return decorate

    @overload
    def parallel(
        self,
        dist: partition.Dist = "b",
        *,
        block: Literal[False],
        ordered: bool = True,
        chunksize: int | None = None,
        **flags: Any,
    ) -> ParallelResult: ...
    @overload
    def parallel(
        self,
        dist: partition.Dist = "b",
        block: bool | None = None,
        ordered: bool = True,
        chunksize: int | None = None,
        **flags: Any,
    ) -> Parallel: ...
    def parallel(
        self,
        dist: partition.Dist = "b",
        block: bool | None = None,
        ordered: bool = True,
        chunksize: int | None = None,
        **flags: Any,
    ) -> Any:
        """Decorator: a function whose sequences are cut into parts, each a task, and joined again.

        Args:
            dist: how items go to parts: ``'b'`` in blocks, ``'r'`` in turn.
            block: whether a call waits; None: as the view says when it is called.
            ordered: of ``.map``: False: iterating over the result yields items as they come.
            chunksize: items in a part, at most; None: as many parts as there are engines, and ``.map`` makes
                a task of each item.
            flags: other flags of the view (see `options`), for these calls.

        Returns:
            What makes a `ParallelFunction` of a function.
        """
        if chunksize is not None:
            check_chunksize(chunksize)

        def decorate(f: Callable[..., Any], /) -> ParallelFunction[..., Any]:
            return _BalancedFunction(
                self._as_view(), f, dist=dist, block=block, ordered=ordered, chunksize=chunksize, **flags
            )

        return decorate

    def _as_view(self) -> DirectView[Any]:
        """What remote functions ask of their view, this one has too."""
        return cast("DirectView[Any]", self)

    # --- as an executor -------------------------------------------------------------------------------

    @property
    def executor(self) -> ViewExecutor:
        """A `concurrent.futures.Executor` that runs functions on this view's engines."""
        from directview.executor import ViewExecutor

        return ViewExecutor(self)

    def register_joblib_backend(self, name: str = "directview", make_default: bool = False) -> None:
        """Have joblib, and with it scikit-learn, run on this view's engines.

        ::

            view.register_joblib_backend()
            with joblib.parallel_backend("directview"):
                search.fit(X, y)

        Args:
            name: of the backend; the default is registered as ``'ipyparallel'`` too.
            make_default: use it where no backend is named.

        Raises:
            ImportError: joblib is not installed.
        """
        from directview import _joblib

        _joblib.register(name, make_default, self)

    # --- calls of this view ---------------------------------------------------------------------------

    def wait(self, jobs: Any = None, timeout: float | None = None) -> bool:
        """As `Client.wait`. None: all calls of this view."""
        return self.client.wait(self._results_outstanding() if jobs is None else jobs, timeout)

    def abort(self, jobs: Any = None, targets: Targets | None = None, block: bool | None = None) -> None:
        """As `Client.abort`. None: all calls of this view that have not ended.

        A call that no engine has yet never starts.
        """
        self.client.abort(self._results_outstanding() if jobs is None else jobs, targets, self._blocks(block))

    def _results_outstanding(self) -> list[AsyncResult[Any]]:
        made = {id(calls) for calls in self._made}
        outstanding = self.client._memory.outstanding()
        return [cast("AsyncResult[Any]", result) for result in outstanding if id(result._calls) in made]


class _BalancedFunction(ParallelFunction[P, T]):
    """A parallel function whose parts are tasks."""

    __slots__ = ("chunksize",)

    def __init__(
        self,
        view: DirectView[Any],
        func: Callable[..., Any],
        /,
        *,
        dist: partition.Dist = "b",
        block: bool | None = None,
        ordered: bool = True,
        chunksize: int | None = None,
        **flags: Any,
    ) -> None:
        super().__init__(view, func, dist=dist, block=block, ordered=ordered, **flags)
        self.chunksize = chunksize

    def __call__(self, *sequences: P.args, **whole: P.kwargs) -> T:
        view = cast(LoadBalancedView, self.view)
        done: T = view._finish(
            lambda: view._call_on_parts(self.func, sequences, whole, self.dist, self.chunksize),
            "apply",
            self.block,
        )
        return done

    def map(self, *sequences: Iterable[Any]) -> Any:
        """Call the function on each item of the sequences; the list of results, or their `AsyncMapResult`."""
        view = cast(LoadBalancedView, self.view)
        chunksize = 1 if self.chunksize is None else self.chunksize
        return view.map(self.func, *sequences, block=self.block, chunksize=chunksize, ordered=self.ordered)
