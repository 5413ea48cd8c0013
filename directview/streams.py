"""What generators on engines yield, as they yield it: `DirectView.stream`.

A stream is pulled by ordinary calls (see `directview._stream_calls`): one that holds the generator on each
engine, and one for each batch of items, two of which are asked for ahead of whoever iterates. The engine goes
no further than what was asked for. So all that holds for calls holds for streams: they survive a lost
connection, an engine's death ends them in an error, large items travel in chunks, and what the generator
prints is there while it runs.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from directview import _stream_calls
from directview.errors import ClientClosed, TaskTimeout
from directview.result import AsyncResult
from directview.wire.objects import dump_arguments, dump_function, loads
from directview.wire.parcels import pack

if TYPE_CHECKING:
    from directview.client import Client

__all__ = ["Stream", "serving"]

T = TypeVar("T")

_AHEAD: Final = 2
"""Batches that are asked for ahead of the one that is being iterated over: while one is on its way to the
client, the engine works at the other."""

_NOT_YET: Final[Any] = object()
_END: Final[Any] = object()


def serving(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function that the long call of a stream of `f` runs."""
    return functools.partial(_stream_calls.serve, f)


class _Lane:
    """The stream's part on one engine."""

    __slots__ = ("asked", "engine", "error", "index", "over")

    def __init__(self, index: int, engine: int) -> None:
        self.index = index
        self.engine = engine
        self.asked: deque[_Batch] = deque()
        """Batches that were asked for, in order: a large one may come after the one behind it."""
        self.over = False
        """Its last item has been given out."""
        self.error: BaseException | None = None
        """Why a batch could not be had."""


class _Batch(AsyncResult[Any]):
    """The items that one call took."""

    _remembered = False
    _looked = True
    stream: weakref.ref[Stream[Any]]
    lane: _Lane

    def _settle(self, value: Any, error: BaseException | None) -> bool:
        settled = super()._settle(value, error)
        stream = self.stream()
        if stream is not None:
            stream._arrived(self.lane)
        return settled


class Stream(Generic[T]):
    """The items of a generator on an engine, or of one on each of several engines.

    ::

        async for item in rc[0].stream(numbers):        # on any event loop
            ...
        for engine_id, item in rc[:].stream(numbers):   # where blocking is possible
            ...

    On one engine (an int target) it yields items, in order; on several (engine_id, item), as they arrive.
    The generator begins at once, and is never more than about two batches ahead of whoever iterates.

    Leaving the loop ends the generator, whose ``finally`` blocks run; so do `aclose`, `close`, the end of a
    ``with`` or ``async with`` block, cancelling the task that iterates, and dropping the stream. It can be
    iterated over once.

    What the generator raises is raised by the iteration, after the items before it: as a call's error for
    one engine, as `CompositeError` for several; the generators on the other engines are ended then.
    """

    def __init__(self, client: Client, result: AsyncResult[Any], name: str) -> None:
        self._client = client
        self._result = result
        self._name = name
        self._over = False
        self._items: deque[Any] = deque()
        self._engine = -1
        """Where these items come from."""
        self._batches: deque[tuple[_Lane, _Batch]] = deque()
        """Those that are here, in the order in which they came."""
        calls = result._calls
        self._lanes = [_Lane(index, engine) for index, (_, engine) in enumerate(calls)]
        """Of the engines on which it goes on."""
        self._parcel = pack((dump_function(_stream_calls.take), dump_arguments((calls[0][0],), {})))
        for _ in range(_AHEAD):
            for lane in self._lanes:
                self._ask(lane)

    # --- asking -----------------------------------------------------------------------------------------

    def _ask(self, lane: _Lane) -> None:
        """Ask for another batch."""
        core = self._client._binding.core()
        requests = [((lane.engine,), self._parcel)]
        with core.lock:
            slots = core.number(requests)
            batch = _Batch(self._client, slots, name=self._name, single=True)
            batch.stream = weakref.ref(self)
            batch.lane = lane
            lane.asked.append(batch)
            core.submit(requests, slots, self._name, batch)

    def _arrived(self, lane: _Lane) -> None:
        """A batch has been answered. On the client's loop."""
        with self._result._condition:
            while lane.asked and lane.asked[0].done():
                self._batches.append((lane, lane.asked.popleft()))
        self._result._progressed()

    # --- taking -----------------------------------------------------------------------------------------

    def _has_something(self) -> bool:
        """Whether `_poll` gives something else than "not yet"."""
        return bool(
            self._items or self._over or self._batches or self._is_cut_short() or self._lanes_to_close()
        )

    def _is_cut_short(self) -> bool:
        """The call was cancelled here, or its time is up: the engine has not been heard."""
        return self._result.cancelled() or isinstance(self._result._exception, TaskTimeout)

    def _lanes_to_close(self) -> list[_Lane]:
        return [lane for lane in self._lanes if lane.over and self._result._has_slot(lane.index)]

    def _poll(self) -> Any:
        """The next item; `_END`; or `_NOT_YET`, if that has still to come. Raises what a generator raised."""
        while True:
            begun: _Lane | None = None
            with self._result._condition:
                if self._over:
                    return _END
                if self._items:
                    packed, engine = self._items.popleft(), self._engine
                elif self._batches and not self._is_cut_short():
                    packed, engine = None, -1
                    begun = self._begin(*self._batches.popleft())
                else:
                    packed, engine = None, -1
                    ended = self._end()
                    if ended is not None:
                        return ended
            if begun is not None:
                self._ask(begun)
            if packed is not None:
                item = loads(*packed) if isinstance(packed, tuple) else loads(packed)
                return item if self._result._single else (engine, item)

    def _begin(self, lane: _Lane, batch: _Batch) -> _Lane | None:
        """Begin with the next batch; the engine to ask for another one."""
        if batch._exception is not None:
            lane.over, lane.error = True, batch._exception
            return None
        items, more = batch._outcome()
        self._items.extend(items)
        self._engine = lane.engine
        if lane.over:
            return None
        lane.over = not more
        return lane if more else None

    def _end(self) -> Any:
        """No items are here: has it ended, or has an engine's part? None: look again."""
        result = self._result
        if self._is_cut_short():
            self._stop()
            result._outcome()
        for lane in self._lanes_to_close():
            self._lanes.remove(lane)
            failed = result._errors is not None and lane.index in result._errors
            if failed or lane.error is not None:
                self._stop()
                if failed:
                    raise result._error_of([lane.index])
                assert lane.error is not None
                raise lane.error
        if self._lanes:
            return None if self._lanes_to_close() or self._batches else _NOT_YET
        self._over = True
        result._look()
        return _END

    # --- iterating --------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[T]:
        """The items, blocking for each.

        Raises:
            WouldBlockLoop: this is the thread of the client's own event loop: ``async for``.
        """
        self._client.check_may_block("iterating over a stream", "`async for`")
        return _Iteration(self)

    def __aiter__(self) -> AsyncIterator[T]:
        """The items, awaiting each."""
        return _AsyncIteration(self)

    def __next__(self) -> T:
        """The next item, blocking. Raises what a generator raised before it."""
        self._client.check_may_block("iterating over a stream", "`async for`")
        return self._next()

    def _next(self) -> T:
        while (found := self._poll()) is _NOT_YET:
            try:
                self._result._block(self._has_something, None, "iterating over a stream", "`async for`")
            except BaseException:
                self._stop()
                raise
        if found is _END:
            raise StopIteration
        item: T = found
        return item

    async def __anext__(self) -> T:
        """The next item. Cancelling this ends the stream."""
        while (found := self._poll()) is _NOT_YET:
            try:
                await self._result._step(self._has_something)
            except BaseException:
                self._stop()
                raise
        if found is _END:
            raise StopAsyncIteration
        item: T = found
        return item

    # --- ending -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the generators, without waiting until they have ended. From any thread; may be repeated."""
        self._stop()

    async def aclose(self) -> None:
        """End the generators, and wait until their ``finally`` blocks have run. May be cancelled.

        Raises:
            TimeoutError: one is still running: see `AsyncResult.abort`.
        """
        self._stop()
        if not self._result._all_answered():
            await self._result.abort_async()

    def _stop(self) -> None:
        """Takes no lock, so that finalizers may call it, which run at any moment."""
        over, self._over = self._over, True
        self._result._looked = True
        if over:
            return
        self._batches.clear()
        calls = list(self._result._outstanding())
        calls += [call for lane in self._lanes for batch in list(lane.asked) for call in batch._calls]
        try:
            self._client.cancel_calls_soon(calls)
        except (ClientClosed, RuntimeError):
            pass  # closed, or in a forked child: whoever has the client closes its streams

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if "_parcel" in self.__dict__:  # absent when making it failed
            self._stop()

    # --- what is known about it -------------------------------------------------------------------------

    @property
    def targets(self) -> list[int]:
        """Ids of the engines that it comes from."""
        return self._result.targets

    @property
    def msg_ids(self) -> list[str]:
        """The names of its calls, one for each engine, for `Client.abort` and the like."""
        return self._result.msg_ids

    @property
    def stdout(self) -> Any:
        """What the generator has printed so far. A list for several engines."""
        return self._result.stdout

    @property
    def stderr(self) -> Any:
        """What the generator has written to stderr so far. A list for several engines."""
        return self._result.stderr

    def __repr__(self) -> str:
        return f"<Stream({self._name}) from {self.targets}: {'ended' if self._over else 'open'}>"


class _Iteration(Generic[T]):
    """One ``for`` loop over a stream: the loop alone holds on to it, so its end is noticed."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream[T]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._stream._next()

    def __del__(self) -> None:
        self._stream._stop()


class _AsyncIteration(Generic[T]):
    """The same for ``async for``."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        self._stream._stop()
