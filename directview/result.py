"""The answer of a call that has been submitted: await it, block for it, or watch it come in.

An `AsyncResult` has one *slot* for each engine that the call went to (an `AsyncMapResult`: one for each
chunk of items). The client fills the slots as answers arrive; when the last is in, they are joined to the
result, or to the one error, that every waiter gets. How waiting works is in `directview._waiting`.
"""

from __future__ import annotations

import concurrent.futures
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any, Final, Generic, NoReturn, TypeVar

from directview._metadata import METADATA_KEYS, CallMetadata, Described
from directview._waiting import CallOwner, Counted, SharedFuture, logger
from directview.errors import CompositeError, TimeoutError

__all__ = ["AsyncMapResult", "AsyncResult", "CallMetadata", "CallOwner"]

T = TypeVar("T")

_MISSING: Final[Any] = object()
_RETURN_WHEN: Final = (None, "FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED")


def _unknown(engine: int, now: float) -> CallMetadata:
    """Of a call that its engine did not end."""
    return CallMetadata(engine if engine >= 0 else None, "", None, None, now, "error")


class AsyncResult(Described, SharedFuture[T], Generic[T]):
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

    _values: list[Any] | None = None
    _errors: dict[int, Exception] | None = None
    _sent = False

    def __init__(
        self,
        owner: CallOwner,
        calls: Sequence[tuple[int, int]],
        *,
        join: Callable[[list[Any]], T] | None = None,
        name: str = "apply",
        single: bool = False,
        targets: Sequence[int] | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(owner)
        self._calls = calls
        self._join = join
        self._name = name
        self._single = single
        self._targets = targets
        self._label = label
        self._created = time.time()
        self._missing = len(calls)
        if not calls:
            self._finish()

    # --- what the client tells, on its loop ---

    def _deliver(self, index: int, metadata: CallMetadata | None, value: Any) -> None:
        """Slot `index` was answered with `value`."""
        if self._fill(index, metadata):
            if not self.done():
                assert self._values is not None
                self._values[index] = value
            self._filled()

    def _deliver_error(self, index: int, metadata: CallMetadata | None, error: Exception) -> None:
        """Slot `index` ended in `error`; without metadata where the engine said nothing."""
        if self._fill(index, metadata):
            if not self.done():
                if self._errors is None:
                    self._errors = {}
                self._errors[index] = error
            self._filled()

    def _output(self, index: int, stream: str, text: str) -> None:
        """The call of slot `index` printed `text` to `stream`, ``stdout`` or ``stderr``."""
        if self._printed is None:
            self._printed = {}
        self._printed.setdefault((index, stream), []).append(text)
        self._progressed()

    def _mark_sent(self) -> None:
        """No resend can need the arguments' buffers any more."""
        self._sent = True
        self._progressed()

    def _fill(self, index: int, metadata: CallMetadata | None) -> bool:
        """Take the metadata of a slot; False if it has been answered before."""
        known = self._metadata
        if known is None:
            known = list[CallMetadata | None]([None]) * len(self._calls)
            self._metadata = known
            self._values = [_MISSING] * len(known)
        if known[index] is not None:
            return False
        known[index] = metadata or _unknown(self._calls[index][1], time.time())
        self._missing -= 1
        return True

    def _filled(self) -> None:
        if self._missing == 0 and not self.done():
            self._finish()
        self._progressed()

    def _finish(self) -> None:
        """All slots are in: settle on the result or the error."""
        if self._errors:
            self._settle(None, self._error_of(sorted(self._errors)))
            return
        try:
            value = self._joined(self._values or [])
        except BaseException as error:  # noqa: BLE001 - users' types join in
            self._settle(None, error)
        else:
            self._settle(value, None)

    def _joined(self, values: list[Any]) -> T:
        if self._join is not None:
            return self._join(values)
        return values[0] if self._single else values  # type: ignore[return-value]

    def _error_of(self, indexes: Sequence[int]) -> Exception:
        """What to raise when the slots `indexes` failed."""
        assert self._errors is not None
        if self._single:
            return self._errors[indexes[0]]
        return CompositeError.from_call(self._name, [self._errors[index] for index in indexes])

    def _outstanding(self) -> Sequence[tuple[int, int]]:
        if self._metadata is None:
            return self._calls
        return [call for call, known in zip(self._calls, self._metadata, strict=True) if known is None]

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
                if not self._block(self._has_failed, timeout, "get()", "await the AsyncResult itself"):
                    raise TimeoutError
                if self._errors and not self.done():
                    self._looked = True
                    raise self._error_of(sorted(self._errors))
            return self.result(timeout)
        finally:
            del self  # the traceback of an error holds this frame: no cycle through it

    @property
    def r(self) -> T:
        """The result; blocks like `get`."""
        return self.get()

    def wait(self, timeout: float | None = None, return_when: str | None = None) -> bool:
        """Block until the call has ended, and raise nothing of its own.

        Args:
            timeout: seconds; None or negative: for ever; 0: only look.
            return_when: ``FIRST_COMPLETED`` or ``FIRST_EXCEPTION`` (of the engines), ``ALL_COMPLETED``.

        Returns:
            Whether all is done.
        """
        self._check_return_when(return_when)
        ready = self.done
        if return_when == concurrent.futures.FIRST_COMPLETED:
            ready = self._has_begun_to_end
        elif return_when == concurrent.futures.FIRST_EXCEPTION:
            ready = self._has_failed
        self._block(ready, timeout, "wait()", "await asyncio.wait([ar])")
        return self.done()

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
        self._looked = True
        return self._exception is None

    def get_dict(self, timeout: float | None = None) -> dict[int, Any]:
        """Block like `get`; the values by engine id.

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

    def _has_begun_to_end(self) -> bool:
        return self.done() or self._missing < len(self._calls)

    def _has_failed(self) -> bool:
        return self.done() or bool(self._errors)

    def _with_exceptions(self) -> Any:
        if not self._errors and not self.cancelled():
            return self._outcome()
        self._looked = True
        errors, values = self._errors or {}, self._values or [_MISSING] * len(self._calls)
        found: list[Any] = []
        for index, value in enumerate(values):
            if value is _MISSING:
                found += self._failed(index, errors.get(index, self._exception))
            else:
                found += self._items(index)
        return self._scalar_or_list(found)

    def _scalar_or_list(self, found: list[Any]) -> Any:
        return found[0] if self._single else found

    def _failed(self, index: int, error: object) -> Sequence[object]:
        """What stands in the place of a slot's items when it failed."""
        return (error,)

    # --- ending it ---

    def abort(self, timeout: float | None = None) -> None:
        """Cancel the call, and block until every engine has said that it ended it.

        Args:
            timeout: seconds; None or negative: for ever.

        Raises:
            TimeoutError: an engine has not answered in time; the call is cancelled all the same.
        """
        self.cancel()
        if not self._block(self._all_answered, timeout, "abort()", "await ar.abort_async()"):
            raise TimeoutError("Not every engine has answered the abort.")

    async def abort_async(self) -> None:
        """Cancel the call, and wait until every engine has said that it ended it. May be cancelled."""
        self.cancel()
        await self._step(self._all_answered)

    def _all_answered(self) -> bool:
        return self._missing == 0

    # --- sending ---

    @property
    def sent(self) -> bool:
        """Whether the arguments' buffers are free: no resend can need them any more."""
        return self._sent or self._missing == 0

    def wait_for_send(self, timeout: float | None = None) -> None:
        """Block until the arguments' buffers may be changed.

        Args:
            timeout: seconds; None or negative: for ever; 0: only look.

        Raises:
            TimeoutError: they may not yet.
        """
        if not self._block(self._is_sent, timeout, "wait_for_send()", "await ar.wait_for_send_async()"):
            raise TimeoutError("Still to be sent.")

    async def wait_for_send_async(self) -> None:
        """Wait until the arguments' buffers may be changed. May be cancelled; the call goes on."""
        await self._step(self._is_sent)

    def _is_sent(self) -> bool:
        return self.sent

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
        index = key.__index__()
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a result that has {len(self)}")
        return self._item(index % len(self))

    @property
    def _joined_whole(self) -> bool:
        """Whether the slots mean something only together."""
        return self._join is not None

    def _item(self, index: int) -> Any:
        return self._slot(index)

    def _slot(self, index: int) -> Any:
        """The value of one slot, or its error raised; TimeoutError when it isn't in."""
        if self._errors and index in self._errors:
            self._looked = True
            raise self._error_of([index])
        if self._values is None or self._values[index] is _MISSING:
            if self.done():
                self._outcome()  # cancelled
            raise TimeoutError
        return self._values[index]

    def _has_slot(self, index: int) -> bool:
        return self.done() or (self._metadata is not None and self._metadata[index] is not None)

    def _steps(self) -> Iterator[tuple[Callable[[], bool], Callable[[], Sequence[Any]]]]:
        """For an iteration: what to wait for, and then how to get the next items."""
        if self._joined_whole:
            yield self.done, partial(self._whole, 0)
            return
        for index in range(len(self._calls)):
            yield partial(self._has_slot, index), partial(self._items, index)

    def _whole(self, timeout: float | None) -> Any:
        return self.get(timeout)

    def _items(self, index: int) -> Sequence[Any]:
        return (self._slot(index),)

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
                self._block(ready, None, "iterating over a result", "async for")
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
        error = self.__dict__.get("_exception")  # absent when making it failed
        if error is None or self._looked or self.cancelled():
            return
        logger.error(
            "%s on %s failed, and nobody looked at the result", self._name, self.targets, exc_info=error
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
        self._ends = list(accumulate(sizes))
        super().__init__(owner, calls, join=join, name=name, single=single, targets=targets, label=label)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _joined(self, values: list[Any]) -> list[T]:
        return self._join(values) if self._join is not None else list(chain.from_iterable(values))

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
