"""Streams: generators that run on the engine while a client takes their items, a batch at a time.

A stream is one long call of `directview._stream_calls.serve`, which holds the generator, and for each batch
a call of `take`, which waits until there is one. So prints, interrupts, cancelling and time limits reach the
generator as they reach any call, and nothing about delivery has to be invented.

The generator is advanced only while a `take` waits: that is all the back-pressure there is. A batch ends when
the next item would take long:

- A plain generator is stepped for a millisecond, or up to a bound of items or bytes. A step that takes long
  blocks the engine's loop, so a thread (the outbox's) hands out what was ready before it.
- An async generator is stepped for as long as it does not wait. When it does, the loop gets to the hand-out
  that the first item has put in the loop's queue.

An item is pickled when it is yielded, with a copy of its large buffers: a generator may fill the same array
again for the next one.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np

from directview._stream_calls import PackedItem
from directview.engine._interrupt import CallCancelled
from directview.engine._namespace import Namespace
from directview.engine._outbox import Outbox
from directview.engine._overlay import Overlay
from directview.engine._runner import Parked, Runner
from directview.engine._state import Call
from directview.engine._steps import Steps
from directview.wire.objects import OUT_OF_BAND_BYTES

__all__ = ["Streams"]

_SLICE: Final = 0.001
"""Seconds for which items are collected into one batch."""
_MOST_ITEMS: Final = 256
_MOST_BYTES: Final = 1 << 20
_SEND_PATIENCE: Final = 0.5
"""Seconds for which the next step waits while large items are being taken by their client."""
_SEND_CHECK: Final = 0.002

_NO_MORE: Final[tuple[list[PackedItem], bool]] = ([], False)

Key = tuple[bytes, int]


class Streams:
    """The open streams of one engine.

    Args:
        steps: runs each step of a generator as one of its call.
        namespace: pickles the items.
        outbox: its lock is that of all hand-outs, and its thread does them while the loop is blocked.
        shield: keeps interrupts out for the time of a ``with`` block.
        runner: ends calls of `take`.
        sending: whether large results are on their way out, for which the loop is needed.
    """

    def __init__(
        self,
        steps: Steps,
        namespace: Namespace,
        outbox: Outbox,
        shield: Callable[[], AbstractContextManager[None]],
        runner: Runner,
        sending: Callable[[], bool],
    ) -> None:
        self.steps = steps
        self.namespace = namespace
        self.outbox = outbox
        self.shield = shield
        self.runner = runner
        self.sending = sending
        self._open: dict[Key, _Stream] = {}
        outbox.overdue = self._hand_out

    # --- the calls of a stream, in their own steps ------------------------------------------------------

    def serve(
        self, f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, None]:
        """Call `f`; what is returned hands out the items, as the rest of the call."""
        key, overlay = self.steps.here()
        return self._serve(key, overlay, f(*args, **kwargs), getattr(f, "__name__", type(f).__name__))

    async def _serve(self, key: Key, overlay: Overlay, made: Any, name: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(self, key, overlay, name, task)
        # In the loop, where no interrupt comes: whatever happens here, whoever takes is told of the end.
        task.add_done_callback(lambda _: self._ended(stream))
        self._open[key] = stream
        await stream.run(await made if inspect.isawaitable(made) else made)

    def take(self, seq: int) -> _Take | tuple[list[PackedItem], bool]:
        """The next items of the caller's stream `seq`, when there are some."""
        client, _ = self.steps.here()[0]
        stream = self._open.get((client, seq))
        return _NO_MORE if stream is None else _Take(stream)

    # --- the loop's side --------------------------------------------------------------------------------

    def close_client(self, uuid: bytes) -> None:
        """The client is gone: nobody will take the items of its streams."""
        for key, stream in list(self._open.items()):
            if key[0] == uuid:
                stream.task.cancel("the client is gone")

    def _ended(self, stream: _Stream) -> None:
        self._open.pop(stream.key, None)
        with self.outbox.lock:
            while stream.waiting:
                self.runner.finish(stream.waiting.popleft(), _NO_MORE)
        self.outbox.flush()

    def _hand_out(self) -> None:
        """Called on the outbox's thread, under its lock, when the loop is perhaps blocked."""
        for stream in list(self._open.values()):
            stream.hand_out()


class _Take(Parked):
    """A call of `take` that waits for items."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def parked(self, call: Call) -> None:
        self._stream.waiting.append(call)
        self._stream.turn_soon()


class _Stream:
    """One generator, the items that are ready, and the calls that wait for items."""

    def __init__(
        self, streams: Streams, key: Key, overlay: Overlay, name: str, task: asyncio.Task[Any]
    ) -> None:
        self._streams = streams
        self.key = key
        self._overlay = overlay
        self._part = f"an item of {name}"
        self._name = name
        self.task = task
        self._loop = asyncio.get_running_loop()
        self.waiting: deque[Call] = deque()
        """Calls of `take`, in order."""
        self._ready: deque[PackedItem] = deque()
        self._waits_for: tuple[Callable[[], bool], asyncio.Future[None]] | None = None
        """What the generator waits for before it goes on, and what then wakes it."""
        self._turning = False

    # --- advancing the generator: in steps of the call, where it may be interrupted ---------------------

    async def run(self, made: Any) -> None:
        """Hand out the items of what the function returned, until they end, and close it."""
        if isinstance(made, AsyncIterable):
            awaited = aiter(made)
            try:
                await self._to_the_end(self._pull_async(awaited))
            finally:
                aclose = getattr(awaited, "aclose", None)
                if aclose is not None:
                    await aclose()
            return
        try:
            iterator = iter(made)
        except TypeError:
            raise TypeError(
                "stream takes a generator function, or a function that returns an iterator: "
                f"{self._name} returned {type(made).__name__}. For one value there is apply"
            ) from None
        try:
            await self._to_the_end(self._pull(iterator))
        finally:
            # An interrupt that came while it waited: what it was to end has ended.
            self._streams.steps.cancelled.pop(self.key, None)
            close = getattr(iterator, "close", None)
            if close is not None:
                self._streams.steps.run(self.key, self._overlay, close)

    async def _to_the_end(self, pulling: Coroutine[Any, Any, None]) -> None:
        try:
            await pulling
        except (asyncio.CancelledError, CallCancelled, GeneratorExit):
            raise
        except BaseException:
            await self._until(self._all_taken)  # The items before it go first.
            raise
        await self._until(self._all_taken)

    async def _pull(self, iterator: Iterator[Any]) -> None:
        steps, more = self._streams.steps, True
        while more:
            await self._until(self._are_wanted)
            await self._until_sent()
            more = steps.run(self.key, self._overlay, self._fill, (iterator,))

    def _fill(self, iterator: Iterator[Any]) -> bool:
        """Collect a batch from a plain generator; whether there may be more."""
        until = time.perf_counter() + _SLICE
        size = 0
        for count, item in enumerate(iterator, 1):
            size += self._put(item)
            if count >= _MOST_ITEMS or size >= _MOST_BYTES or time.perf_counter() >= until:
                return True
            if count == 1:
                self._hurry()
        return False

    async def _pull_async(self, iterator: AsyncIterator[Any]) -> None:
        while True:
            await self._until(self._are_wanted)
            until = time.perf_counter() + _SLICE
            count = size = 0
            while True:
                try:
                    item = await anext(iterator)
                except StopAsyncIteration:
                    return
                size += self._put(item)
                count += 1
                self.turn_soon()
                if count >= _MOST_ITEMS or size >= _MOST_BYTES or time.perf_counter() >= until:
                    break
                if count == 1:
                    self._hurry()

    def _put(self, item: Any) -> int:
        data, buffers = self._streams.namespace.dumps(item, part=self._part)
        size = len(data)
        packed: PackedItem = np.frombuffer(data, np.uint8) if size >= OUT_OF_BAND_BYTES else data
        if buffers:
            copies = [np.frombuffer(buffer, np.uint8).copy() for buffer in buffers]
            size += sum([copy.nbytes for copy in copies])
            packed = (packed, copies)
        self._ready.append(packed)
        return size

    def _hurry(self) -> None:
        """The next step may take long: have the items before it looked after."""
        with self._streams.shield():
            self._streams.outbox.hurry()

    async def _until_sent(self) -> None:
        """A plain step blocks the loop, and with it the chunks of items before it: let those out first."""
        if self._streams.sending():
            deadline = time.monotonic() + _SEND_PATIENCE
            while self._streams.sending() and time.monotonic() < deadline:  # noqa: ASYNC110 - rare
                await asyncio.sleep(_SEND_CHECK)

    # --- handing out --------------------------------------------------------------------------------------

    def _are_wanted(self) -> bool:
        """Somebody waits for more than is ready."""
        return bool(self.waiting) and not self._ready

    def _all_taken(self) -> bool:
        return not self._ready

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._waits_for = (condition, self._loop.create_future())
            self.turn_soon()
            await self._waits_for[1]

    def turn_soon(self) -> None:
        """Have the loop hand out what is ready, and see whether the generator is to go on."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        with self._streams.outbox.lock:
            self.hand_out()
        self._streams.outbox.flush()
        if self._waits_for is not None and self._waits_for[0]():
            waiter = self._waits_for[1]
            self._waits_for = None
            if not waiter.done():
                waiter.set_result(None)

    def hand_out(self) -> None:
        """Give what is ready to whoever waits. Under the outbox's lock: two threads do this."""
        while self._ready and self.waiting:
            call = self.waiting.popleft()
            batch = [self._ready.popleft() for _ in range(min(len(self._ready), _MOST_ITEMS))]
            if not self._streams.runner.finish(call, (batch, True)):  # It was cancelled.
                self._ready.extendleft(reversed(batch))
