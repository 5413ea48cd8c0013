"""The answer of a call that has been submitted: await it, block for it, or watch it come in.

An `AsyncResult` has one *slot* for each engine that the call went to (an `AsyncMapResult`: one for each
chunk of items). How the slots become the result is in `directview._slots`, how waiting works in
`directview._waiting`, and what is known beside the value in `directview._metadata`.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import weakref
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, overload

from directview._display import Displayed
from directview._metadata import METADATA_KEYS, CallMetadata
from directview._waiting import CallOwner, Counted, logger
from directview.errors import ClientClosed, TimeoutError

if TYPE_CHECKING:
    from directview._trace_reading import Step

__all__ = ["AsyncMapResult", "AsyncResult", "CallMetadata", "CallOwner"]

T = TypeVar("T")

_ABORT_PATIENCE: Final = 12.0
"""Seconds. A controller has a cancelled call interrupted for ten."""
_RETURN_WHEN: Final = (None, "FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED")


class AsyncResult(Displayed[T], Generic[T]):
    """What `apply_async` and its kin return: a call on one or several engines, and in time its result.

    ``await ar`` in any running event loop, or block with ``ar.get()``. It is a `concurrent.futures.Future`
    and has the interface of `multiprocessing.pool.AsyncResult`; it works with asyncio's ``gather``,
    ``wait``, ``wait_for``, ``shield`` and ``as_completed`` and with `concurrent.futures.wait`.

    A cancelled await cancels the call, if nobody else waits for it; a wait that times out does not, nor
    does dropping the AsyncResult.

    Args:
        owner: the client.
        calls: the (seq, engine id) of each slot, in the order of the targets.
        join: makes the result of the list of the slots' values; by default it is that list, or, for a
            single call, the value.
        name: what errors call it.
        single: whether one engine was asked by its bare id, so that everything is a scalar.
        targets: the engine ids; by default those of `calls`.
        label: the user's name for it.
    """

    # --- the result, blocking ---

    def get(
        self,
        timeout: float | None = None,
        return_exceptions: bool = False,
        return_when: str | None = None,
    ) -> T:
        """Block until the call has ended; the result.

        Args:
            timeout: seconds; None or negative: for ever; 0: only look.
            return_exceptions: put the error of an engine that failed in the place of its value, and raise
                nothing. Values are then not joined.
            return_when: ``FIRST_EXCEPTION``: raise as soon as one engine has failed.

        Returns:
            The value for a single engine; otherwise the list of values in the order of the targets, or
            what the operation makes of it.

        Raises:
            TimeoutError: "Result not ready." The call goes on.
            RemoteError: what a single engine raised, of its original type too. A remote TimeoutError is
                a plain RemoteError here when `timeout` is finite.
            CompositeError: what several engines raised.
            TaskAborted: the call was cancelled.
            WouldBlockLoop: this is the thread of the client's own event loop: await instead.
        """
        self._check_return_when(return_when)
        if return_exceptions:
            self._await_done(timeout, "get()")
            found: T = self._with_exceptions()
            return found
        try:
            if return_when == concurrent.futures.FIRST_EXCEPTION:
                if not self._block(self._has_failed, timeout, "get()", "`await` on the result"):
                    raise TimeoutError
                if self._errors and not self.done():
                    self._look()
                    raise self._error_of(sorted(self._errors))
            return self.result(timeout)
        finally:
            del self  # the traceback of an error holds this frame: no cycle through it

    @property
    def r(self) -> T:
        """The result; blocks like `get`."""
        return self.get()

    @overload
    def wait(self, timeout: float | None = None, return_when: None = None) -> bool: ...
    @overload
    def wait(self, timeout: float | None, return_when: str) -> tuple[set[Any], set[Any]]: ...
    @overload
    def wait(
        self, timeout: float | None = None, *, return_when: str
    ) -> tuple[set[AsyncResult[Any]], set[AsyncResult[Any]]]: ...
    def wait(self, timeout: float | None = None, return_when: str | None = None) -> Any:
        """Block until the call has ended, and raise nothing of its own.

        Args:
            timeout: seconds; None or negative: for ever; 0: only look.
            return_when: ``FIRST_COMPLETED`` or ``FIRST_EXCEPTION`` (of the engines), ``ALL_COMPLETED``.

        Returns:
            Whether all is done. With `return_when`, as `concurrent.futures.wait` does, two sets: of the
            parts (see `split`) that are done, and of those that are not.
        """
        ready = self._readiness(return_when)
        self._block(ready, timeout, "wait()", "`await asyncio.wait([ar])`")
        if return_when is None:
            return self.done()
        parts = self.split()
        done = {part for part in parts if part.done()}
        return done, set(parts) - done

    def _readiness(self, return_when: str | None) -> Callable[[], bool]:
        """What to wait for."""
        self._check_return_when(return_when)
        if return_when == concurrent.futures.FIRST_COMPLETED:
            return partial(_any_done, self.split())
        if return_when == concurrent.futures.FIRST_EXCEPTION:
            return partial(_any_failed, self.split())
        return self.done

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self.done()

    def successful(self) -> bool:
        """Whether the call ended without an error.

        Raises:
            ValueError: it has not ended yet.
        """
        if not self.done():
            raise ValueError(f"{self!r} not ready")
        self._look()
        return self._exception is None

    def get_dict(self, timeout: float | None = None) -> dict[int, Any]:
        """Block like `get`; the values by engine id.

        Args:
            timeout: as for `get`.

        Raises:
            ValueError: an engine has several of them.
        """
        self.get(timeout)
        found: dict[int, Any] = {}
        for index in range(len(self._calls)):
            engine = self._of_slot(index, "engine_id")
            if engine in found:
                raise ValueError(f"engine {engine} has several results: no dict can hold them by engine")
            found[engine] = self._slot(index)
        return found

    @property
    def result_dict(self) -> dict[int, Any]:
        """The values by engine id; TimeoutError if they are not ready."""
        return self.get_dict(0)

    @staticmethod
    def _check_return_when(return_when: str | None) -> None:
        if return_when not in _RETURN_WHEN:
            raise ValueError(
                f"return_when is {return_when!r}; it can be FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED"
            )

    # --- ending it ---

    def abort(self, timeout: float | None = None) -> None:
        """Cancel the call, and block until every engine has said that it ended it.

        Args:
            timeout: seconds; None: 12, a little longer than calls are interrupted again and again; negative:
                for ever.

        Raises:
            TimeoutError: cancelled, still running: the function swallows interrupts, or is deep in code that
                is not Python's. Whoever waits for the call has been told that it is cancelled all the same.
        """
        self.cancel()
        patience = _ABORT_PATIENCE if timeout is None else timeout
        if not self._block(self._all_answered, patience, "abort()", "`await ar.abort_async()`"):
            raise TimeoutError(self._still_running())

    async def abort_async(self, timeout: float | None = None) -> None:
        """Cancel the call, and wait until every engine has said that it ended it. May be cancelled.

        Arguments and errors as for `abort`.
        """
        self.cancel()
        patience = _ABORT_PATIENCE if timeout is None else timeout
        try:
            async with asyncio.timeout(patience if patience >= 0 else None):
                await self._step(self._all_answered)
        except builtins.TimeoutError:
            raise TimeoutError(self._still_running()) from None

    def _still_running(self) -> str:
        engines = ", ".join([str(engine) for _, engine in self._outstanding() if engine >= 0])
        where = f" on engine {engines}" if engines else ""
        return f"{self._name} was cancelled, and is still running{where}: it does not give in"

    # --- its story ---

    def trace(self) -> list[Step]:
        """What has happened to the call so far, hop by hop, on all its engines. Blocks.

        As `Client.trace`.

        Raises:
            WouldBlockLoop: this is the thread of the client's own event loop: await
                ``rc.trace_async(result)`` instead.
        """
        client: Any = self._owner
        steps: list[Step] = client.trace(self.msg_ids)
        return steps

    # --- sending ---

    @property
    def sent(self) -> bool:
        """Whether the arguments' buffers are free: no resend can need them any more."""
        return self._is_sent()

    def wait_for_send(self, timeout: float | None = None) -> None:
        """Block until the arguments' buffers may be changed.

        Args:
            timeout: seconds; None or negative: for ever; 0: only look.

        Raises:
            TimeoutError: they may not yet.
        """
        if not self._block(self._is_sent, timeout, "wait_for_send()", "`await ar.wait_for_send_async()`"):
            raise TimeoutError("Still to be sent.")

    async def wait_for_send_async(self) -> None:
        """Wait until the arguments' buffers may be changed. May be cancelled; the call goes on."""
        await self._step(self._is_sent)

    # --- parts and wholes ---

    def split(self) -> tuple[AsyncResult[Any], ...]:
        """One AsyncResult for each engine (of a map: for each chunk), in the order of the targets.

        They can be given to `concurrent.futures.wait`, `asyncio.wait` and the like, to get at what is there
        already. Cancelling one cancels the call on its engine only. A single result is its only part.
        """
        if len(self._calls) == 1:
            return (self,)
        with self._changing:
            # Weak: a part holds on to the whole. The same ones are given again while somebody has them.
            kept = self._parts or [None] * len(self._calls)
            parts = [None if part is None else part() for part in kept]
        made = tuple([part or self._part(index) for index, part in enumerate(parts)])
        self._parts = [weakref.ref(part) for part in made]
        return made

    _parts: Sequence[weakref.ref[AsyncResult[Any]] | None] | None = None

    def _part(self, index: int) -> AsyncResult[Any]:
        part: AsyncResult[Any] = AsyncResult(
            self._owner, (self._calls[index],), name=self._name, single=True, label=self._label
        )
        part._follow([(self, index)])
        return part

    @classmethod
    def join(cls, *results: AsyncResult[Any]) -> AsyncResult[Any]:
        """Several AsyncResults as one, with the slots of all: the inverse of `split`.

        Args:
            results: at least one, all of the same client. Those of maps give an `AsyncMapResult`.

        Raises:
            ValueError: there are none, or they are of different clients.
            TypeError: one is no AsyncResult.
        """
        if not results:
            raise ValueError("join needs at least one AsyncResult")
        for result in results:
            if not isinstance(result, AsyncResult):
                raise TypeError(f"join takes AsyncResults, and {result!r:.60} is none")
        if len(results) == 1:
            return results[0]
        first = results[0]
        if any([result._owner is not first._owner for result in results]):
            raise ValueError("only results of the same client can be joined")
        sources = [(result, index) for result in results for index in range(len(result._calls))]
        calls = [call for result in results for call in result._calls]
        joined: AsyncResult[Any]
        if all([isinstance(result, AsyncMapResult) for result in results]):
            sizes = [size for result in results for size in result._sizes()]
            joined = AsyncMapResult(first._owner, calls, sizes, name=first._name, label=first._label)
        else:
            joined = AsyncResult(first._owner, calls, name=first._name, label=first._label)
        joined._follow(sources)
        return joined

    def _sizes(self) -> list[int]:
        """How many items each slot has."""
        return [1] * len(self._calls)

    # --- the slots: indexing and iteration ---

    def __len__(self) -> int:
        return len(self._calls)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: str | int | slice) -> Any:
        """A value by index, a list of values by slice, or metadata by name.

        Raises:
            TimeoutError: the value is not there yet. This never waits.
            KeyError: no such name.
        """
        if isinstance(key, str):
            if key not in METADATA_KEYS:
                raise KeyError(f"no metadata {key!r}; there is {', '.join(METADATA_KEYS)}")
            return self._per_slot(key)
        if self._joined_whole:
            return self._whole(0)[key]
        if isinstance(key, slice):
            return [self._item(index) for index in range(*key.indices(len(self)))]
        if not hasattr(key, "__index__"):
            raise TypeError(f"a result is indexed by an int, a slice or a name of metadata, not {key!r:.60}")
        index = key.__index__()
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a result that has {len(self)}")
        return self._item(index % len(self))

    def __iter__(self) -> Iterator[Any]:
        """The values in the order of the targets, each as soon as it is there.

        Raises:
            TypeError: a single result has no parts.
        """
        self._check_iterable()
        return self._iterate()

    def __aiter__(self) -> AsyncIterator[Any]:
        """The same for ``async for``."""
        self._check_iterable()
        return self._iterate_async()

    def _check_iterable(self) -> None:
        if self._single:
            raise TypeError("the result of a single engine can't be iterated over; get() or await it first")

    def _iterate(self) -> Iterator[Any]:
        with Counted(self):
            for ready, items in self._steps():
                self._block(ready, None, "iterating over a result", "`async for`")
                yield from items()

    async def _iterate_async(self) -> AsyncIterator[Any]:
        with Counted(self):
            for ready, items in self._steps():
                await self._step(ready)
                for item in items():
                    yield item

    # --- as an object ---

    def __repr__(self) -> str:
        if not self.done():
            state = "pending"
        elif self._exception is None:
            state = "finished"
        else:
            state = "cancelled" if self.cancelled() else "failed"
        return f"<{type(self).__name__}({self._name}): {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} can't be pickled: its answer arrives at this client. "
            "Send its value (get() or await it), or its msg_ids"
        )

    def __del__(self) -> None:
        error = self._exception
        if error is None or self._looked or self._sources is not None or self.cancelled():
            return
        if self._errors is not None and self._errors.looked:  # at another one like this
            return
        if _of_closing(error):  # Whoever closes a client knows that its calls end; there may be a million.
            return
        logger.error(
            "%s on %s failed, and nobody looked at the result", self._name, self.targets, exc_info=error
        )


def _of_closing(error: BaseException) -> bool:
    """Whether a call failed because its own client was closed, and for nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all([_of_closing(part) for part in error.exceptions])
    return isinstance(error, ClientClosed)


def _any_done(parts: Sequence[AsyncResult[Any]]) -> bool:
    return any([part.done() for part in parts])


def _any_failed(parts: Sequence[AsyncResult[Any]]) -> bool:
    return all([part.done() for part in parts]) or any(
        [part.done() and part._exception is not None for part in parts]
    )


class AsyncMapResult(AsyncResult[list[T]]):
    """The result of a map: one list of items, though engines answer by chunks.

    ``len`` counts items; iterating, ``for`` or ``async for``, yields them in order as the chunks arrive,
    also where one engine was asked by its bare id. An empty map is finished from the start, and true.

    Args:
        owner: the client.
        calls: the (seq, engine id) of each chunk, in the order of the items.
        sizes: how many items each chunk has.
        join: makes the result of the list of chunks; by default one list of all items.
        name: what errors call it.
        single: whether one engine was asked by its bare id: metadata are scalars, and its error comes
            as it is.
        targets: the engine ids; by default those of `calls`.
        label: the user's name for it.
    """

    def __init__(
        self,
        owner: CallOwner,
        calls: Sequence[tuple[int, int]],
        sizes: Sequence[int],
        *,
        join: Callable[[list[Any]], list[T]] | None = None,
        name: str = "map",
        single: bool = False,
        targets: Sequence[int] | None = None,
        label: str | None = None,
    ) -> None:
        if len(sizes) != len(calls):
            raise ValueError(f"{len(sizes)} sizes for {len(calls)} chunks")
        self._ends = self._item_ends = list(accumulate(sizes))
        super().__init__(owner, calls, join=join, name=name, single=single, targets=targets, label=label)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _part(self, index: int) -> AsyncResult[Any]:
        part: AsyncMapResult[T] = AsyncMapResult(
            self._owner, (self._calls[index],), self._sizes()[index : index + 1], name=self._name,
            single=True, label=self._label,
        )  # fmt: skip
        part._follow([(self, index)])
        return part

    def _sizes(self) -> list[int]:
        return [end - start for start, end in pairwise([0, *self._ends])]

    @property
    def progress(self) -> int:
        """How many items are there."""
        known = self._metadata or [None] * len(self._calls)
        return sum([size for size, ended in zip(self._sizes(), known, strict=True) if ended is not None])

    def _joined(self, values: list[Any]) -> list[T]:
        if self._join is not None:
            return self._join(values)
        items: list[T] = []
        for value in values:
            items.extend(value)  # whole, in half the time that it takes item by item
        return items

    def _items(self, index: int) -> Sequence[T]:
        return self._slot(index)  # type: ignore[no-any-return]

    def _item(self, index: int) -> T:
        chunk = bisect_right(self._ends, index)
        return self._items(chunk)[index - (self._ends[chunk - 1] if chunk else 0)]

    def _failed(self, index: int, error: object) -> Sequence[object]:
        size = self._ends[index] - (self._ends[index - 1] if index else 0)
        return (error,) * size

    @property
    def _joined_whole(self) -> bool:
        return False

    def _scalar_or_list(self, found: list[Any]) -> Any:
        return found

    def _check_iterable(self) -> None:
        """It always is."""
