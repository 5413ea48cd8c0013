"""Views as executors: for whatever takes a `concurrent.futures.Executor`, and for joblib."""

from __future__ import annotations

import concurrent.futures
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from directview.balanced import LoadBalancedView
from directview.lazy import abandon, check_chunksize
from directview.result import AsyncResult

if TYPE_CHECKING:
    from directview.client import Client
    from directview.view import DirectView

__all__ = ["ViewExecutor", "register_joblib_backend"]

P = ParamSpec("P")
T = TypeVar("T")


class ViewExecutor(concurrent.futures.Executor):
    """Runs functions on engines: each once, on the engine of the view that has least to do.

    Its futures are of `AsyncResult`: they can be awaited too, raise what the function raised, of its own
    type, and cancelling one that runs ends it. Shutting an executor down waits for its calls; engines go on.

    Args:
        view: any view. With a load-balanced one its flags hold for the calls; of a direct one the engines,
            `label` and `time_limit` do.
    """

    def __init__(self, view: LoadBalancedView | DirectView[Any]) -> None:
        self.view = view
        """The view that it was made of."""
        self._balanced = view if isinstance(view, LoadBalancedView) else _balanced(view)
        self._lock = threading.Lock()
        self._open: dict[int, AsyncResult[Any]] = {}
        self._over = False

    @property
    def _max_workers(self) -> int:
        """How many calls run at a time: programs look at it where they look at a pool's."""
        return len(self._balanced)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[T]:
        """Call ``fn(*args, **kwargs)`` on an engine.

        Returns:
            The future: an `AsyncResult`.

        Raises:
            RuntimeError: the executor was shut down.
            SerializationError: an argument can't travel; the text says which.
            NoEnginesRegistered: there are no engines.
        """
        return self._keep(self._balanced._call_telling(self._tell(), fn, args, kwargs))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """``map(fn, *iterables)`` on the engines. All items are read and sent at once; see also `imap`.

        Args:
            fn: called with one item of each iterable.
            iterables: one of them finite.
            timeout: seconds from now in which the results must be there; None: any number.
            chunksize: items that go to an engine together.

        Returns:
            An iterator of the results, in order. Leaving it cancels what has not ended.

        Raises:
            RuntimeError: the executor was shut down.
            TimeoutError: (from the iterator) a result is not there in time.
        """
        check_chunksize(chunksize)
        until = None if timeout is None else time.monotonic() + timeout
        chunks = self._balanced._submit_chunks(self._tell(), fn, iterables, chunksize)
        kept = deque([self._keep(chunk) for chunk in chunks])
        results = _results(self._balanced.client, kept, until)
        next(results)
        return results

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Engines go on.

        Args:
            wait: block until the calls of this executor have ended.
            cancel_futures: cancel those that have not, also what runs.

        Raises:
            WouldBlockLoop: it would block the loop that the client is bound to: ``wait=False``, and await the
                results.
        """
        with self._lock:
            self._over = True
            calls = list(self._open.values())
        if cancel_futures:
            for call in calls:
                call.cancel()
        if wait:
            for call in calls:
                call.wait()

    # --- how it is done -------------------------------------------------------------------------------

    def _tell(self) -> Callable[[AsyncResult[Any]], None]:
        """What a call is to do at its end; an error if no calls are taken any more."""
        if self._over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        # Weak: whoever has dropped an executor needs no account of its calls.
        forget = weakref.WeakMethod(self._forget)

        def tell(ended: AsyncResult[Any]) -> None:
            bound = forget()
            if bound is not None:
                bound(ended)

        return tell

    def _forget(self, result: AsyncResult[Any]) -> None:
        with self._lock:
            self._open.pop(id(result), None)

    def _keep(self, result: AsyncResult[T]) -> AsyncResult[T]:
        """Take note of a call, unless it has ended already."""
        with self._lock:
            self._open[id(result)] = result
        if result.done():
            self._forget(result)
        return result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.view!r}>"


def register_joblib_backend(name: str = "directview", make_default: bool = False) -> None:
    """Have joblib, and with it scikit-learn, run on the engines of the default profile's cluster.

    If there is no such cluster when the backend is first used, one is started, which ends with the program.

    Args:
        name: of the backend; the default is registered as ``'ipyparallel'`` too.
        make_default: use it where no backend is named.

    Raises:
        ImportError: joblib is not installed.
    """
    from directview import _joblib

    _joblib.register(name, make_default, None)


def _balanced(view: DirectView[Any]) -> LoadBalancedView:
    return LoadBalancedView(
        view.client, view._targets, block=view._block, label=view.label, time_limit=view.time_limit
    )


def _results(
    client: Client, chunks: deque[AsyncResult[list[Any]]], until: float | None
) -> Generator[Any, None, None]:
    """The items of chunks. First `next` once: of a generator that has not begun nothing is ever run."""
    try:
        yield None
        while chunks:
            left = None if until is None else max(0.0, until - time.monotonic())
            items = chunks[0].result(left)
            chunks.popleft()
            yield from items
    finally:
        abandon(client, chunks)
