"""One outcome, any number of waiters, on any loops and threads: the base of `AsyncResult`.

`concurrent.futures.Future` alone is not enough. `asyncio.wrap_future` turns a cancelled future into a
CancelledError in every task that awaits it, also in those that nobody cancelled (a TaskGroup then drops
them in silence), and cancels the future when one of several awaiting tasks is cancelled; callbacks come on
a foreign thread; `asyncio.wait` misses `remove_done_callback`; `concurrent.futures.wait` on the loop's own
thread waits for ever. So here:

- cancelling an await cancels the call only if nobody else waits: no other await, iteration, blocking
  wait or callback;
- whoever waits for a call that somebody cancels gets `TaskAborted`;
- a callback that is added under a running loop is called by that loop;
- whatever would block the loop that the answer comes by raises instead.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextvars
import logging
import os
import threading
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures._base import FINISHED, PENDING
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias, TypeGuard, TypeVar

from directview import _checking
from directview.errors import RemoteError, TaskAborted, TimeoutError, as_plain

__all__ = ["CallOwner", "Counted", "SharedFuture", "logger"]

T = TypeVar("T")

logger = logging.getLogger("directview")

_Waiter: TypeAlias = asyncio.Future[None]
"""Of one that awaits: what wakes it, on its own loop."""

_changing: Final = threading.RLock()
"""One for all results: see `SharedFuture`. In a child that is forked, nobody holds it."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_changing._at_fork_reinit)  # type: ignore[attr-defined]

_RECHECK: Final = 1.0
"""Seconds between two looks, in a blocking wait, whether the loop that brings the answer still runs."""


class CallOwner(Protocol):
    """What an AsyncResult needs of the client that made it. All of it may be called from any thread."""

    @property
    def client_uuid(self) -> str:
        """In hex; names the client's calls together with their numbers."""
        ...

    def check_may_block(self, what: str, instead: str) -> None:
        """Return if this thread may wait for the client's loop.

        Args:
            what: the blocking call, for the error's text.
            instead: what to use instead, as code in backquotes.

        Raises:
            WouldBlockLoop: this is the thread of the loop itself.
            RuntimeError: the loop that the client is bound to is not running.
            ClientClosed: the client was closed.
        """

    def check_running(self) -> None:
        """Return if the client's loop runs, so that awaiting can end.

        Raises:
            RuntimeError: it does not run.
            ClientClosed: the client was closed.
        """

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        """Ask for the end of `calls`, (seq, engine id) each, without waiting. Each is still answered."""


class _Waiters(list[Any]):
    """Where `concurrent.futures.wait` and `as_completed` put their events, just before they block."""

    __slots__ = ("owner",)
    owner: CallOwner

    def append(self, waiter: Any) -> None:
        self.owner.check_may_block("concurrent.futures.wait", "`await asyncio.wait(...)`")
        super().append(waiter)


class Counted:
    """Counts one waiter. If it ends by being cancelled, and was the last, the call is cancelled."""

    __slots__ = ("_future",)

    def __init__(self, future: SharedFuture[Any]) -> None:
        self._future = future

    def __enter__(self) -> None:
        with _changing:
            self._future._waiting += 1

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        future = self._future
        with _changing:
            future._waiting -= 1
            last = not future._is_waited_for()
        if last and kind is not None and issubclass(kind, asyncio.CancelledError):
            future.cancel()


class _Step:
    """An awaitable that ends when `ready` says so."""

    __slots__ = ("_future", "_ready")

    def __init__(self, future: SharedFuture[Any], ready: Callable[[], bool]) -> None:
        self._future = future
        self._ready = ready

    def __await__(self) -> Generator[Any, None, None]:
        return self._future._until(self._ready)


def _running_loop() -> AbstractEventLoop | None:
    return asyncio._get_running_loop()


def _forget(waiting: list[_Waiter] | None, waiter: _Waiter) -> None:
    """Take `waiter` out; the list is None, or another, when it has been woken already."""
    if waiting is not None and waiter in waiting:
        waiting.remove(waiter)


def _wake(waiting: list[_Waiter] | None) -> None:
    if waiting is None:
        return
    here = _running_loop()
    for waiter in waiting:
        loop = waiter.get_loop()
        if loop is here:
            _release(waiter)
            continue
        try:
            loop.call_soon_threadsafe(_release, waiter)
        except RuntimeError:
            continue  # that loop was closed, and with it all that waited there


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class SharedFuture(concurrent.futures.Future[T]):
    """A future that many may wait for, each in its own way."""

    # Tens of thousands are made in a second, and most never need any of these. So what a Future of the
    # standard library makes at once (a condition with its lock, two lists) is made when it is asked for: it
    # took a third of the time that the client spends on a call.
    _changing: ClassVar = _changing
    """Held for a moment by whoever changes what several threads look at, in any result. Whoever holds it
    takes no other lock."""
    _state: str
    _result: Any
    _exception: BaseException | None = None
    _waiting = 0
    _watched = False
    _looked: bool
    _origin: Any = None
    _awaiters: list[_Waiter] | None
    _followers: list[_Waiter] | None
    _done_callbacks: Any
    _own_condition: threading.Condition | None = None
    _own_waiters: _Waiters | None = None

    def __init__(self, owner: CallOwner) -> None:
        self._owner = owner
        # What every result comes to have. An attribute that a class's first few dozen objects didn't have
        # gives each later one a dict of its own when it is set.
        self._state = PENDING
        self._result = None
        self._looked = False
        self._awaiters = None
        self._followers = None
        self._done_callbacks = None

    if TYPE_CHECKING:
        # And `_condition`: attributes, as the protocols of `concurrent.futures` have them.
        _waiters: list[Any]
    else:

        @property
        def _condition(self) -> threading.Condition:
            """For those who block. Once it is there, the outcome is set under it."""
            if self._own_condition is None:
                with _changing:
                    if self._own_condition is None:
                        self._own_condition = threading.Condition()
            return self._own_condition

        @property
        def _waiters(self) -> _Waiters:
            """For `concurrent.futures.wait` and its like, which ask for it under the condition."""
            if self._own_waiters is None:
                waiters = _Waiters()
                waiters.owner = self._owner
                self._own_waiters = waiters
            return self._own_waiters

    # --- the outcome ---

    def _settle(self, value: T | None, error: BaseException | None) -> bool:
        """Set the outcome, unless there is one. Returns whether it was set."""
        if error is not None and not _can_be_raised(error):
            cause = error
            error = RuntimeError(f"{type(cause).__name__} can't be raised from a result: {cause}")
            error.__cause__ = cause
        with _changing:
            condition = self._own_condition
            if condition is None:  # nobody blocks
                if self._state != PENDING:
                    return False
                self._set(value, error)
        if condition is not None:
            with condition:
                with _changing:
                    if self._state != PENDING:
                        return False
                    self._set(value, error)
                for waiter in self._own_waiters or ():
                    (waiter.add_result if error is None else waiter.add_exception)(self)
                condition.notify_all()
        self._invoke_callbacks()
        return True

    def _set(self, value: T | None, error: BaseException | None) -> None:
        self._result = value
        if error is not None:
            self._exception = error
            self._origin = error.__traceback__
        self._state = FINISHED

    def _look(self) -> None:
        """Somebody has seen how it ended: a failure need not be logged."""
        self._looked = True

    def _outcome(self) -> T:
        self._look()
        error = self._exception
        if error is None:
            return self._result  # type: ignore[no-any-return]
        try:
            # As it was: raised for several waiters, it would collect the frames of all.
            raise error.with_traceback(self._origin)
        finally:
            del self, error  # the traceback holds this frame: no cycle through it

    def done(self) -> bool:
        """Whether there is an outcome: a result, an error, or a cancellation."""
        return self._state == FINISHED

    def cancelled(self) -> bool:
        """Whether the call was cancelled before it ended."""
        error = self._exception
        return isinstance(error, TaskAborted) and not isinstance(error, RemoteError)

    def cancel(self) -> bool:
        """Cancel the call; every waiter gets `TaskAborted`. Does not wait for the engine.

        Returns:
            True if the call was not done yet.
        """
        if not self._settle(None, TaskAborted()):
            return False
        self._owner.cancel_calls(self._outstanding())
        return True

    def _outstanding(self) -> Sequence[tuple[int, int]]:
        """The (seq, engine id) that are not answered yet."""
        raise NotImplementedError

    # --- waiting by blocking ---

    def _block(self, ready: Callable[[], bool], timeout: float | None, what: str, instead: str) -> bool:
        """Block until `ready`, asked again at every progress, or for `timeout` seconds.

        Args:
            ready: what to wait for.
            timeout: None, negative or infinite: for ever; 0: ask and return.
            what: the blocking call, for the error of a loop that it would block.
            instead: what to await.

        Returns:
            What `ready` said last.
        """
        _checking.seconds(timeout)
        if ready():
            return True
        if timeout == 0:
            return False
        left = timeout if _is_finite(timeout) else None
        if ready != self.done:  # of the end everybody is told anyway
            self._watched = True  # before `ready` is asked again, so that no step goes by unseen
        with Counted(self):
            while left is None or left > 0:
                self._owner.check_may_block(what, instead)
                step = _RECHECK if left is None else min(left, _RECHECK)
                with self._condition:
                    if self._condition.wait_for(ready, step):
                        return True
                if left is not None:
                    left -= step
        return ready()

    def result(self, timeout: float | None = None) -> T:
        """Block until the call ends; the same as ``get(timeout)`` of an AsyncResult.

        Args:
            timeout: seconds; None or negative: for ever; 0: do not wait.

        Raises:
            TimeoutError: not ready in time. The call goes on.
            Exception: what the call raised. A remote TimeoutError comes as plain RemoteError when
                `timeout` is finite, so that it can't be taken for the wait's own.
        """
        try:
            self._await_done(timeout, "result()")
            if _is_finite(timeout) and _is_remote_timeout(self._exception):
                self._look()
                raise as_plain(self._exception)
            return self._outcome()
        finally:
            del self  # see `_outcome`

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Block until the call ends; the error that it raised, or None.

        Args:
            timeout: as for `result`.

        Raises:
            TimeoutError: not ready in time.
            TaskAborted: the call was cancelled.
        """
        self._await_done(timeout, "exception()")
        self._look()
        if self.cancelled():
            self._outcome()
        return self._exception

    def _await_done(self, timeout: float | None, what: str) -> None:
        if not self._block(self.done, timeout, what, "`await` on the result"):
            raise TimeoutError

    # --- waiting by awaiting ---

    def __await__(self) -> Generator[Any, None, T]:
        """Wait without blocking, in any running loop. Cancelling it cancels the call if nobody else waits."""
        if self._state != FINISHED:
            self._owner.check_running()
            waiter: _Waiter = asyncio.get_running_loop().create_future()
            with _changing:
                if self._state != FINISHED:
                    if self._awaiters is None:
                        self._awaiters = []
                    self._awaiters.append(waiter)
            # Counted by being in the list; by hand, because nearly every call is awaited.
            try:
                if self._state != FINISHED:
                    yield from waiter
            except BaseException as error:
                with _changing:
                    _forget(self._awaiters, waiter)
                    last = isinstance(error, asyncio.CancelledError) and not self._is_waited_for()
                if last:
                    self.cancel()
                raise
        try:
            return self._outcome()
        finally:
            del self  # see there

    def _is_waited_for(self) -> bool:
        """Whether anybody waits: by await, iteration, blocking, or callback. Under the lock."""
        return bool(self._awaiters or self._waiting or self._done_callbacks or self._own_waiters)

    def _step(self, ready: Callable[[], bool]) -> Awaitable[None]:
        """What `_block` does, awaited."""
        return _Step(self, ready)

    def _until(self, ready: Callable[[], bool]) -> Generator[Any, None, None]:
        """Await `ready`, asked again at every progress."""
        self._owner.check_running()
        loop = asyncio.get_running_loop()
        self._watched = True  # before `ready` is asked again, so that no step goes by unseen
        while True:
            waiter: _Waiter = loop.create_future()
            with _changing:
                if ready():
                    return
                if self._followers is None:
                    self._followers = []
                self._followers.append(waiter)
            try:
                yield from waiter
            except BaseException:
                with _changing:
                    _forget(self._followers, waiter)
                raise

    def _progressed(self) -> None:
        """Tell those who wait for less than the end. Called on the client's loop, after the step."""
        if self._watched:
            condition = self._own_condition
            if condition is not None:
                with condition:
                    condition.notify_all()
            with _changing:
                followers, self._followers = self._followers, None
            _wake(followers)

    # --- callbacks ---

    def add_done_callback(
        self, fn: Callable[[Any], object], *, context: contextvars.Context | None = None
    ) -> None:
        """Call ``fn(self)`` when the call has ended; at once, or soon, if it has.

        Added under a running event loop, it is called by that loop; otherwise by the client's thread.

        Args:
            fn: an exception of its own is logged.
            context: in which the loop runs it; by default a copy of the current one.
        """
        if not callable(fn):
            raise TypeError(f"a callback is a function, not {fn!r:.60}")
        loop = _running_loop()
        if loop is not None and context is None:
            context = contextvars.copy_context()
        with _changing:
            if self._state != FINISHED:
                if self._done_callbacks is None:
                    self._done_callbacks = []
                self._done_callbacks.append((fn, loop, context))
                return
        self._call_back(fn, loop, context)

    def remove_done_callback(self, fn: Callable[[Any], object]) -> int:
        """Forget a callback.

        Args:
            fn: the one that was added.

        Returns:
            How many times it had been added.
        """
        with _changing:
            callbacks = self._done_callbacks or []
            kept = [entry for entry in callbacks if entry[0] != fn]
            removed = len(callbacks) - len(kept)
            callbacks[:] = kept
        return removed

    def _invoke_callbacks(self) -> None:
        if self._awaiters is None and self._followers is None and self._done_callbacks is None:
            return
        with _changing:
            awaiters, self._awaiters = self._awaiters, None
            followers, self._followers = self._followers, None
            callbacks, self._done_callbacks = self._done_callbacks, None
        _wake(awaiters)
        _wake(followers)
        for fn, loop, context in callbacks or ():
            self._call_back(fn, loop, context)

    def _call_back(
        self,
        fn: Callable[[Any], object],
        loop: AbstractEventLoop | None,
        context: contextvars.Context | None,
    ) -> None:
        subject: concurrent.futures.Future[T] = self
        if self.cancelled() and getattr(fn, "__module__", None) == "asyncio.futures":
            # asyncio.wrap_future asks cancelled(), and would cancel the task that awaits it.
            subject = concurrent.futures.Future()
            subject.set_exception(self._exception)
        if loop is None:
            try:
                fn(subject)
            except Exception:
                logger.exception("a callback of %r failed", self)
            return
        try:
            if loop is _running_loop():
                loop.call_soon(fn, subject, context=context)
            else:
                loop.call_soon_threadsafe(fn, subject, context=context)
        except RuntimeError:
            return  # that loop was closed, and with it all that waited there


def _is_finite(timeout: float | None) -> TypeGuard[float]:
    _checking.seconds(timeout)
    return timeout is not None and 0 <= timeout < float("inf")


def _is_remote_timeout(error: BaseException | None) -> TypeGuard[RemoteError]:
    return isinstance(error, RemoteError) and isinstance(error, builtins.TimeoutError)


def _can_be_raised(error: BaseException) -> bool:
    """Whether every kind of waiter gets out of its wait by this error.

    asyncio's futures hang on a StopIteration, and what is no Exception ends the loop that raises it.
    """
    return isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration))
