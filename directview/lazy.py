"""Maps that go no further than somebody wants: what `imap` returns."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NoReturn, SupportsIndex, TypeAlias, TypeVar

from directview import _checking, operations
from directview._view_targets import name_of
from directview._waiting import _wake
from directview.result import AsyncResult
from directview.sharing import hold_function

if TYPE_CHECKING:
    from directview.client import Client
    from directview.view import DirectView

__all__ = ["LazyMap", "MaxOutstanding", "Rows", "Tell", "checked_outstanding"]

T = TypeVar("T")

MaxOutstanding: TypeAlias = int | Literal["auto"]
Rows: TypeAlias = list[tuple[Any, ...]]
"""Items: one of each iterable."""
Tell: TypeAlias = Callable[[AsyncResult[Any]], object]
"""Called when a result has ended."""

NO_LIMIT: Final = 1 << 62
_EACH: Final = 4
"""Chunks that an engine of a direct view is dealt ahead."""
_RECHECK: Final = 1.0
"""Seconds between two looks, while blocking, whether the client's loop still runs."""


def checked_outstanding(given: object) -> int | None:
    """What a user gives as `max_outstanding`; None for ``'auto'``.

    Raises:
        TypeError: it is no int.
        ValueError: it is negative.
    """
    if given == "auto":
        return None
    if isinstance(given, bool) or not isinstance(given, SupportsIndex):
        raise TypeError(f"max_outstanding: expected an int, or 'auto', got {given!r:.60}")
    number = given.__index__()
    if number < 0:
        raise ValueError(f"max_outstanding: expected 0 (no limit) or more, got {number}")
    return number


def check_chunksize(given: object) -> None:
    """Raise what is wrong with a chunksize."""
    if isinstance(given, bool) or not isinstance(given, SupportsIndex):
        raise TypeError(f"chunksize: expected an int, got {given!r:.60}")
    if given.__index__() < 1:
        raise ValueError(f"chunksize: expected 1 or more, got {given!r:.60}")


class _Arrivals:
    """Results in the order in which they end."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._ended: deque[AsyncResult[Any]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, result: AsyncResult[Any]) -> None:
        """A result has ended. On any thread."""
        with self._condition:
            self._ended.append(result)
            waiter, self._waiter = self._waiter, None
            self._condition.notify()
        if waiter is not None:
            _wake([waiter])

    def _has_any(self) -> bool:
        return bool(self._ended)

    def get(self, check: Callable[[], None]) -> AsyncResult[Any]:
        """Block for the next one; `check` raises when it can't come."""
        with self._condition:
            while not self._condition.wait_for(self._has_any, _RECHECK):
                check()
            return self._ended.popleft()

    async def next(self) -> AsyncResult[Any]:
        """Await the next one. May be cancelled."""
        while True:
            with self._condition:
                if self._ended:
                    return self._ended.popleft()
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiter = waiter
            await waiter


class LazyMap(Generic[T]):
    """The results of a function on the items of iterables, which are read only as far as it goes.

    ::

        for value in view.imap(f, itertools.count()):         # where blocking is possible
            ...
        async for value in view.imap(f, itertools.count()):   # on any event loop
            ...

    A bounded number of calls is under way, or here and not yet yielded; the next item is read when one has
    been yielded. Leaving the loop cancels what is under way; so do `cancel`, the end of a ``with`` block, and
    dropping it. An error of an item is raised in its place, and what comes after it can still be had by
    ``next``. An error of the iterables themselves comes after the results of all items before it.
    """

    def __init__(
        self,
        client: Client,
        rows: Iterable[tuple[Any, ...]],
        submit: Callable[[Rows, Tell | None], AsyncResult[list[T]]],
        *,
        limit: Callable[[], int],
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> None:
        self._open: dict[int, tuple[AsyncResult[list[T]], int]] = {}
        """Calls of which nothing was yielded, and how many items each has; by identity, in order."""
        self._client = client
        self._rows = iter(rows)
        self._submit = submit
        self._limit = limit
        self._chunksize = chunksize
        self._arrivals = None if ordered else _Arrivals()
        self._return_exceptions = return_exceptions
        self._items: deque[Any] = deque()
        self._over = False
        """No more is read."""
        self._trouble: Exception | None = None
        """What was raised by the iterables, or by sending an item."""
        self._top_up()
        if not self._open:
            self._raise_trouble()

    # --- sending --------------------------------------------------------------------------------------

    def _top_up(self) -> None:
        """Read and send as many items as there is room for."""
        while not self._over:
            try:
                if len(self._open) >= self._limit():
                    return
                rows = list(islice(self._rows, self._chunksize))
                if not rows:
                    self._over = True
                    return
                tell = None if self._arrivals is None else self._arrivals.put
                result = self._submit(rows, tell)
            except Exception as error:  # noqa: BLE001 - raised when its turn has come
                self._over, self._trouble = True, error
                return
            self._open[id(result)] = (result, len(rows))

    # --- yielding -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[T]:
        self._check_may_block()
        return self

    def __next__(self) -> T:
        """The next result; blocks."""
        while not self._items:
            self._top_up()
            if not self._open:
                self._end(StopIteration)
            if self._arrivals is not None:
                self._check_may_block()
                result = self._arrivals.get(self._check_may_block)
            else:
                result = next(iter(self._open.values()))[0]
                if not result.done():
                    self._check_may_block()
                    result.wait()
            self._take(result)
        return self._give()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """The next result. Cancelling it leaves the map as it is, to be continued or left."""
        while not self._items:
            self._top_up()
            if not self._open:
                self._end(StopAsyncIteration)
            if self._arrivals is not None:
                self._client.check_running()
                result = await self._arrivals.next()
            else:
                result = next(iter(self._open.values()))[0]
                await result._step(result.done)
            self._take(result)
        return self._give()

    def _check_may_block(self) -> None:
        self._client.check_may_block("iterating over an imap", "`async for`")

    def _take(self, result: AsyncResult[list[T]]) -> None:
        """Yield the items of a result that has ended."""
        _, size = self._open.pop(id(result))
        result._look()
        error = result._exception
        if error is None:
            self._items.extend(result._outcome())
        elif self._return_exceptions:
            self._items.extend([error] * size)
        else:
            self._items.append(_Raised(result))

    def _give(self) -> T:
        item: Any = self._items.popleft()
        if type(item) is _Raised:
            item.result.get()
        return item  # type: ignore[no-any-return]

    def _end(self, ending: type[Exception]) -> NoReturn:
        """Nothing is left."""
        self._raise_trouble()
        raise ending

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    # --- leaving --------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Read no more, and cancel what is under way. What has come can still be had."""
        self._over = True
        for result, _ in list(self._open.values()):
            result._look()
            result.cancel()

    def close(self) -> None:
        """Read no more, cancel what is under way, and yield nothing more. Safe to repeat."""
        self.cancel()
        self._trouble = None
        self._open.clear()
        self._items.clear()

    async def aclose(self) -> None:
        """As `close`, for programs that close async iterators."""
        self.close()

    def __enter__(self) -> LazyMap[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        left = [result for result, _ in self.__dict__.get("_open", {}).values()]
        if left:
            abandon(self._client, left)

    def __repr__(self) -> str:
        return f"<LazyMap: {len(self._open)} under way>"


def abandon(client: Client, results: Iterable[AsyncResult[Any]]) -> None:
    """Cancel what has not ended of results that nobody will look at. For finalizers too."""
    pairs: list[tuple[int, int]] = []
    for result in results:
        result._look()
        if not result.done():
            pairs.extend(result._outstanding())
    if pairs:
        try:
            client.cancel_calls_soon(pairs)
        except RuntimeError:  # the loop was closed, and with it all calls
            return


def deal(
    view: DirectView[Any],
    f: Callable[..., T],
    sequences: Sequence[Iterable[Any]],
    ordered: bool,
    max_outstanding: MaxOutstanding,
    return_exceptions: bool,
    chunksize: int,
) -> LazyMap[T]:
    """A lazy map that deals chunks to a direct view's engines in turn. Arguments as for `DirectView.imap`."""
    check_chunksize(chunksize)
    if not sequences:
        raise TypeError("imap needs at least one sequence beside the function")
    _checking.function(f, "imap")
    _checking.items(sequences, "imap")
    most = checked_outstanding(max_outstanding)
    client, name = view.client, name_of(f)
    function = hold_function(operations.chunk_mapper(f, return_exceptions))
    turns = itertools.count()

    def submit(rows: Rows, tell: Tell | None) -> AsyncResult[list[T]]:
        ids = view._ids(None)
        engine = ids[next(turns) % len(ids)]
        parcel = view._parcel(function, tuple(zip(*rows, strict=True)), {}, name)
        return client._submit_told([((engine,), parcel)], name, view.label, tell, view.time_limit)

    def limit() -> int:
        return _EACH * len(view) if most is None else most or NO_LIMIT

    return LazyMap(
        client,
        zip(*sequences, strict=False),
        submit,
        limit=limit,
        chunksize=chunksize,
        ordered=ordered,
        return_exceptions=return_exceptions,
    )


class _Raised:
    """In the place of the items of a call that failed."""

    __slots__ = ("result",)

    def __init__(self, result: AsyncResult[Any]) -> None:
        self.result = result
