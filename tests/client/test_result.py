"""AsyncResult: every way of waiting, cancelling, looking and iterating, on a client made of a few lines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import multiprocessing.pool
import pickle
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from directview import errors
from directview._metadata import msg_id, parse_msg_id
from directview.errors import ClientClosed, CompositeError, RemoteError, TaskAborted, WouldBlockLoop
from directview.result import AsyncMapResult, AsyncResult, CallMetadata, CallOwner
from directview.wire.exceptions import capture, rebuild

UUID = "c0ffee"


class Owner:
    """A client bound to the loop and thread on which it is made, or to none."""

    def __init__(self, bound: bool = False) -> None:
        self.thread = threading.get_ident() if bound else None
        self.loop = asyncio.get_running_loop() if bound else None
        self.cancelled: list[tuple[int, int]] = []

    @property
    def client_uuid(self) -> str:
        return UUID

    def check_may_block(self, what: str, instead: str) -> None:
        if threading.get_ident() == self.thread:
            raise WouldBlockLoop(f"{what} would block: {instead}")
        self.check_running()

    def check_running(self) -> None:
        if self.loop is not None and not self.loop.is_running():
            raise RuntimeError("the client's loop is not running")

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        self.cancelled.extend(calls)


def fits(owner: Owner) -> CallOwner:
    """Type checkers hold the test's owner to the protocol."""
    return owner


def meta(engine: int = 0, status: str = "ok") -> CallMetadata:
    return CallMetadata(engine, f"uuid{engine}", 100.0, 102.5, 2e9, status)


def one(owner: Owner | None = None) -> AsyncResult[Any]:
    return AsyncResult(owner or Owner(), ((7, 0),), single=True, name="f")


def many(n: int = 3, owner: Owner | None = None, **options: Any) -> AsyncResult[Any]:
    return AsyncResult(owner or Owner(), tuple((7, engine) for engine in range(n)), name="f", **options)


def remote(error: Exception, engine: int = 0) -> RemoteError:
    summary, rich = capture(error, engine_id=engine, engine_uuid="u", method="f", dumps=pickle.dumps)
    return rebuild(summary, rich)


def soon(act: Callable[[], object]) -> None:
    """Do it from another thread, as the loop thread of a plain client does."""
    threading.Thread(target=act).start()


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


# --- the result -------------------------------------------------------------------------------------


def test_single_result_is_the_value() -> None:
    ar = one()
    ar._deliver(0, meta(), 42)
    assert (ar.get(), ar.r, ar.result(), ar.exception()) == (42, 42, 42, None)
    assert ar.ready()
    assert ar.done()
    assert ar.successful()
    assert not ar.cancelled()


def test_results_of_many_are_in_target_order_whatever_the_order_of_arrival() -> None:
    ar = many(3)
    for engine in (2, 0, 1):
        assert not ar.ready()
        ar._deliver(engine, meta(engine), engine * 10)
    assert ar.get() == [0, 10, 20]
    assert ar.get_dict() == ar.result_dict == {0: 0, 1: 10, 2: 20}


def test_join_makes_the_result_of_the_values() -> None:
    ar = many(2, join=sum)
    ar._deliver(0, meta(0), 1)
    ar._deliver(1, meta(1), 2)
    assert ar.get() == 3


def test_an_error_in_join_is_the_result() -> None:
    ar = many(2, join=sum)
    ar._deliver(0, meta(0), "a")
    ar._deliver(1, meta(1), 2)
    with pytest.raises(TypeError):
        ar.get()


def test_a_stop_iteration_in_join_cannot_hang_anyone() -> None:
    ar = many(1, join=lambda values: next(iter(())))
    ar._deliver(0, meta(0), "a")
    with pytest.raises(RuntimeError, match="StopIteration"):
        ar.get()


async def test_a_remote_stop_iteration_ends_an_await() -> None:
    ar = one()
    asyncio.get_running_loop().call_soon(ar._deliver_error, 0, meta(), remote(StopIteration(3)))
    with pytest.raises(RemoteError, match="StopIteration: 3"):
        await asyncio.wait_for(asyncio.wrap_future(ar), 5)
    with pytest.raises(RemoteError):
        await ar


def test_an_answer_that_comes_twice_counts_once() -> None:
    ar = many(2)
    ar._deliver(0, meta(0), "first")
    ar._deliver(0, meta(0), "again")
    ar._deliver_error(0, meta(0), ValueError())
    assert not ar.ready()
    assert ar.progress == 1
    ar._deliver(1, meta(1), "other")
    assert ar.get() == ["first", "other"]


def test_single_failure_raises_the_error_itself() -> None:
    ar = one()
    error: Exception = remote(ZeroDivisionError("x"))
    ar._deliver_error(0, meta(status="error"), error)
    with pytest.raises(ZeroDivisionError) as caught:
        ar.get()
    assert caught.value is error
    assert ar.exception() is error
    assert not ar.successful()


def test_failures_of_many_raise_one_composite_error() -> None:
    ar = many(3)
    ar._deliver_error(2, meta(2), remote(ZeroDivisionError("z"), 2))
    ar._deliver(1, meta(1), "fine")
    ar._deliver_error(0, meta(0), remote(KeyError("k"), 0))
    with pytest.raises(CompositeError) as caught:
        ar.get()
    assert str(caught.value).splitlines() == [
        "one or more exceptions from call to method: f",
        "[0:f]: KeyError: 'k'",
        "[2:f]: ZeroDivisionError: z",
    ]
    found = ar.get(return_exceptions=True)
    assert [type(found[0]).__name__, found[1], type(found[2]).__name__] == [
        "KeyError", "fine", "ZeroDivisionError",
    ]  # fmt: skip


def test_a_list_of_one_raises_a_composite_error_too() -> None:
    ar = many(1)
    ar._deliver_error(0, meta(), remote(KeyError("k")))
    with pytest.raises(CompositeError):
        ar.get()


def test_raising_an_error_again_does_not_collect_frames() -> None:
    ar = one()
    ar._deliver_error(0, meta(), remote(KeyError("k")))
    depths = []
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            ar.get()
        depths.append(len(caught.traceback))
    assert depths[0] == depths[1] == depths[2]


def test_no_engines_is_a_finished_result() -> None:
    assert many(0).get() == []


# --- blocking ---------------------------------------------------------------------------------------


def test_get_in_time_and_out_of_time() -> None:
    ar = one()
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError, match=r"^Result not ready\.$") as caught:
            ar.get(timeout)
        assert isinstance(caught.value, errors.TimeoutError)
    soon(lambda: ar._deliver(0, meta(), 1))
    assert ar.get(60) == 1


@pytest.mark.parametrize("timeout", [None, -1, float("inf"), 1e12])
def test_get_without_a_timeout_waits_for_the_answer(timeout: float | None) -> None:
    ar = one()
    soon(lambda: ar._deliver(0, meta(), 1))
    assert ar.get(timeout) == 1


def test_a_wait_that_times_out_cancels_nothing() -> None:
    owner = Owner()
    ar = one(owner)
    with pytest.raises(TimeoutError):
        ar.get(0.01)
    assert ar.wait(0.01) is False
    assert owner.cancelled == []
    assert not ar.done()


def test_a_remote_timeout_error_is_no_timeout_of_a_finite_wait() -> None:
    ar = one()
    ar._deliver_error(0, meta(), remote(TimeoutError("theirs")))
    with pytest.raises(RemoteError, match="theirs") as caught:
        ar.get(1)
    assert not isinstance(caught.value, TimeoutError)
    with pytest.raises(TimeoutError, match="theirs"):
        ar.get()


def test_wait_for_the_first_of_many() -> None:
    """As `concurrent.futures.wait` does, it gives the parts that are done and those that are not."""
    ar = many(3)
    assert ar.wait(0, "FIRST_COMPLETED") == (set(), set(ar.split()))
    soon(lambda: ar._deliver(1, meta(1), 1))
    done, pending = ar.wait(60, "FIRST_COMPLETED")
    assert done == {ar.split()[1]}
    assert pending == {ar.split()[0], ar.split()[2]}
    assert ar.progress == 1
    soon(lambda: ar._deliver_error(0, meta(0), remote(ValueError())))
    done, pending = ar.wait(60, return_when="FIRST_EXCEPTION")
    assert done == set(ar.split()[:2])
    soon(lambda: ar._deliver(2, meta(2), 2))
    assert ar.wait(60, "ALL_COMPLETED") == (set(ar.split()), set())
    assert ar.wait() is True
    assert ar.successful() is False
    single = one()
    assert single.wait(0, "FIRST_COMPLETED") == (set(), {single})
    single._deliver(0, meta(), 1)
    assert single.wait(0, "FIRST_EXCEPTION") == ({single}, set())


def test_get_raises_at_the_first_exception_when_asked_to() -> None:
    ar = many(3)
    soon(lambda: ar._deliver_error(1, meta(1), remote(ValueError("v"), 1)))
    with pytest.raises(CompositeError) as caught:
        ar.get(60, return_when="FIRST_EXCEPTION")
    assert "[1:f]: ValueError: v" in str(caught.value)
    assert not ar.done()
    with pytest.raises(ValueError, match="return_when"):
        ar.wait(0, "SOMETIME")


def test_successful_before_the_end_is_a_value_error_as_in_multiprocessing() -> None:
    ar = one()
    with pytest.raises(ValueError, match="not ready"):
        ar.successful()


@pytest.mark.parametrize("other", [multiprocessing.pool.AsyncResult, concurrent.futures.Future])
def test_has_the_interface_of_the_standard_librarys_results(other: type) -> None:
    public = {name for name in dir(other) if not name.startswith("_")}
    assert public <= set(dir(AsyncResult))


def test_truth_and_length() -> None:
    assert many(0)
    assert len(many(0)) == 0
    assert one()
    assert len(one()) == 1
    assert len(many(3)) == 3


async def test_blocking_on_the_bound_loop_raises_at_once_and_names_the_await() -> None:
    ar = many(2, Owner(bound=True))
    blockers: list[Callable[[], object]] = [
        ar.get, ar.result, ar.exception, ar.wait, ar.abort, ar.wait_for_send, lambda: list(ar),
        lambda: concurrent.futures.wait([ar]), lambda: list(concurrent.futures.as_completed([ar])),
    ]  # fmt: skip
    for block in blockers:
        if block == ar.abort:
            continue
        with pytest.raises(WouldBlockLoop, match=r"await|async for"):
            block()
    with pytest.raises(errors.TimeoutError):
        ar.get(0)  # looking does not block
    with pytest.raises(WouldBlockLoop, match="abort_async"):
        ar.abort()


async def test_nothing_that_is_there_already_would_block() -> None:
    ar = many(2, Owner(bound=True))
    ar._deliver(0, meta(0), 1)
    ar._deliver(1, meta(1), 2)
    assert ar.get() == list(ar) == [1, 2]
    assert ar.wait() is True


async def test_a_bound_result_can_be_blocked_for_in_another_thread() -> None:
    ar = one(Owner(bound=True))
    getting = asyncio.create_task(asyncio.to_thread(ar.get))
    await asyncio.sleep(0)
    ar._deliver(0, meta(), 5)
    assert await getting == 5


async def test_awaiting_while_the_bound_loop_does_not_run_raises_at_once() -> None:
    owner = Owner(bound=True)
    ar = one(owner)
    owner.loop = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="not running"):
        await ar
    owner.loop.close()


def test_a_blocking_wait_notices_that_the_loop_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("directview._waiting._RECHECK", 0.01)
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    owner = Owner()
    owner.loop = loop
    looked = threading.Event()
    checked = owner.check_may_block

    def check(what: str, instead: str) -> None:
        checked(what, instead)
        looked.set()

    owner.check_may_block = check  # type: ignore[method-assign]

    def stop() -> None:
        looked.wait()
        loop.call_soon_threadsafe(loop.stop)
        running.join()

    while not loop.is_running():
        pass
    soon(stop)
    with pytest.raises(RuntimeError, match="not running"):
        one(owner).get()
    running.join()
    loop.close()


# --- awaiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True], ids=["same thread", "other thread"])
async def test_await_gets_the_result(threaded: bool) -> None:
    ar = one()

    def deliver() -> None:
        ar._deliver(0, meta(), 8)

    if threaded:
        soon(deliver)
    else:
        asyncio.get_running_loop().call_soon(deliver)
    assert await ar == 8
    assert await ar == 8


async def test_await_raises_the_error() -> None:
    ar = one()
    asyncio.get_running_loop().call_soon(ar._deliver_error, 0, meta(), remote(KeyError("k")))
    with pytest.raises(KeyError):
        await ar


def test_can_be_awaited_in_the_loop_of_another_thread() -> None:
    ar = one()

    async def main() -> Any:
        return await ar

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(asyncio.run, main()) for _ in range(2)]
        soon(lambda: ar._deliver(0, meta(), 1))
        assert [wait.result(60) for wait in waits] == [1, 1]


async def _wait_for(ar: AsyncResult[Any]) -> Any:
    return await asyncio.wait_for(ar, 60)


async def _timeout(ar: AsyncResult[Any]) -> Any:
    async with asyncio.timeout(60):
        return await ar


async def _shield(ar: AsyncResult[Any]) -> Any:
    return await asyncio.shield(ar)


async def _gather(ar: AsyncResult[Any]) -> Any:
    return (await asyncio.gather(ar, ar))[0]


async def _wait(ar: AsyncResult[Any]) -> Any:
    waiter: Any = ar  # typeshed allows tasks and futures of asyncio only
    done, pending = await asyncio.wait([waiter], timeout=60)
    assert done == {ar}
    assert not pending
    return ar.get(0)


async def _as_completed(ar: AsyncResult[Any]) -> Any:
    return await next(iter(asyncio.as_completed([ar], timeout=60)))


async def _task_group(ar: AsyncResult[Any]) -> Any:
    async def inner() -> Any:
        return await ar

    async with asyncio.TaskGroup() as group:
        task = group.create_task(inner())
    return task.result()


async def _wrap_future(ar: AsyncResult[Any]) -> Any:
    return await asyncio.wrap_future(ar)


async def _cf_wait(ar: AsyncResult[Any]) -> Any:
    done, _ = await asyncio.to_thread(concurrent.futures.wait, [ar], 60)
    assert done == {ar}
    return ar.get(0)


async def _cf_as_completed(ar: AsyncResult[Any]) -> Any:
    def first() -> Any:
        return next(concurrent.futures.as_completed([ar], 60)).result()

    return await asyncio.to_thread(first)


WAYS = [_wait_for, _timeout, _shield, _gather, _wait, _as_completed, _task_group, _wrap_future, _cf_wait,
        _cf_as_completed]  # fmt: skip
Way = Callable[[AsyncResult[Any]], Awaitable[Any]]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("when", ["before", "same thread", "other thread"])
async def test_works_with(way: Way, when: str) -> None:
    ar = one()
    if when == "before":
        ar._deliver(0, meta(), "value")
    elif when == "same thread":
        asyncio.get_running_loop().call_later(0.001, ar._deliver, 0, meta(), "value")
    else:
        soon(lambda: ar._deliver(0, meta(), "value"))
    assert await way(ar) == "value"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("when", ["before", "same thread", "other thread"])
async def test_a_cancelled_call_never_cancels_a_waiter(way: Way, when: str) -> None:
    ar = one()
    if when == "before":
        ar.cancel()
    elif when == "same thread":
        asyncio.get_running_loop().call_later(0.001, ar.cancel)
    else:
        soon(ar.cancel)
    with pytest.raises(Exception) as caught:
        await asyncio.wait_for(way(ar), 30)
    error: Any = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, TaskAborted)
    assert ar.cancelled()
    assert ar.done()


# --- cancelling -------------------------------------------------------------------------------------


async def waiting(ar: AsyncResult[Any]) -> Any:
    return await ar


async def test_cancelling_the_only_await_cancels_the_call() -> None:
    owner = Owner()
    ar = many(2, owner)
    task = asyncio.create_task(waiting(ar))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert owner.cancelled == [(7, 0), (7, 1)]
    with pytest.raises(TaskAborted):
        ar.get()


async def test_a_timeout_around_the_only_await_cancels_the_call() -> None:
    owner = Owner()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await one(owner)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one(owner), 0.001)
    assert owner.cancelled == [(7, 0), (7, 0)]


async def test_cancelling_one_of_two_awaits_leaves_the_call_to_the_other() -> None:
    owner = Owner()
    ar = one(owner)
    first, second = asyncio.create_task(waiting(ar)), asyncio.create_task(waiting(ar))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert owner.cancelled == []
    ar._deliver(0, meta(), "value")
    assert await second == "value"


async def test_cancelling_all_awaits_together_cancels_the_call_once() -> None:
    owner = Owner()
    ar = one(owner)
    tasks = [asyncio.create_task(waiting(ar)) for _ in range(3)]
    await settle()
    for task in tasks:
        task.cancel()
    await settle()
    assert [task.cancelled() for task in tasks] == [True, True, True]
    assert owner.cancelled == [(7, 0)]


async def test_a_callback_is_a_waiter() -> None:
    owner = Owner()
    ar = one(owner)
    ar.add_done_callback(print)
    task = asyncio.create_task(waiting(ar))
    await settle()
    task.cancel()
    await settle()
    assert owner.cancelled == []
    assert ar.remove_done_callback(print) == 1
    task = asyncio.create_task(waiting(ar))
    await settle()
    task.cancel()
    await settle()
    assert owner.cancelled == [(7, 0)]


async def test_a_blocking_get_is_a_waiter() -> None:
    blocked = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Telling(Owner):
        def check_may_block(self, what: str, instead: str) -> None:
            loop.call_soon_threadsafe(blocked.set)

    owner = Telling()
    ar = one(owner)
    getting = asyncio.create_task(asyncio.to_thread(ar.get, 60))
    await blocked.wait()
    task = asyncio.create_task(waiting(ar))
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    assert owner.cancelled == []
    ar._deliver(0, meta(), 1)
    assert await getting == 1


async def test_an_iteration_is_a_waiter_also_between_items() -> None:
    owner = Owner()
    ar = many(2, owner)
    ar._deliver(0, meta(0), "a")
    items = aiter(ar)
    assert await anext(items) == "a"
    task = asyncio.create_task(waiting(ar))
    await settle()
    task.cancel()
    await settle()
    assert owner.cancelled == []
    ar._deliver(1, meta(1), "b")
    assert await anext(items) == "b"


async def test_cancelling_the_only_iteration_cancels_what_is_outstanding() -> None:
    owner = Owner()
    ar = many(2, owner)
    ar._deliver(0, meta(0), "a")

    async def iterate() -> list[Any]:
        return [item async for item in ar]

    task = asyncio.create_task(iterate())
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    assert owner.cancelled == [(7, 1)]


async def test_leaving_an_iteration_cancels_nothing() -> None:
    owner = Owner()
    ar = many(2, owner)
    ar._deliver(0, meta(0), "a")
    async for _ in ar:
        break
    for _ in ar:
        break
    await settle()
    assert owner.cancelled == []


async def test_shield_keeps_the_call() -> None:
    owner = Owner()
    ar = one(owner)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.shield(ar)
    assert owner.cancelled == []
    assert not ar.done()
    ar._deliver(0, meta(), 1)
    assert await ar == 1


async def test_the_innocent_waiter_of_a_task_group_learns_of_the_cancellation() -> None:
    ar = one()

    async def group_of_one() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waiting(ar))
            await settle()
            ar.cancel()

    with pytest.raises(ExceptionGroup) as caught:
        await group_of_one()
    assert caught.group_contains(TaskAborted)


async def test_asyncio_wait_that_is_cancelled_leaves_no_callback() -> None:
    owner = Owner()
    ar = one(owner)
    task = asyncio.create_task(asyncio.wait([ar]))  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    await settle()
    task.cancel()
    await settle()
    assert owner.cancelled == []
    assert ar.remove_done_callback(print) == 0
    assert not ar._is_waited_for()


async def test_a_task_that_is_thrown_away_cancels_nothing() -> None:
    owner = Owner()
    ar = one(owner)
    coroutine = waiting(ar)
    coroutine.send(None)
    coroutine.close()
    assert owner.cancelled == []
    assert not ar._is_waited_for()


def test_cancel_says_whether_there_was_something_to_cancel() -> None:
    owner = Owner()
    ar = many(3, owner)
    ar._deliver(1, meta(1), "early")
    assert ar.cancel() is True
    assert owner.cancelled == [(7, 0), (7, 2)]
    assert ar.cancel() is False
    with pytest.raises(TaskAborted):
        ar.get()
    with pytest.raises(concurrent.futures.CancelledError):
        ar.exception()
    found = ar.get(return_exceptions=True)
    assert found[1] == "early"
    assert isinstance(found[0], TaskAborted)
    assert isinstance(found[2], TaskAborted)
    done = one(owner)
    done._deliver(0, meta(), 1)
    assert done.cancel() is False
    assert done.get() == 1


def test_an_answer_that_comes_after_the_cancellation_changes_nothing() -> None:
    ar = one()
    ar.cancel()
    ar._deliver(0, meta(), "late")
    with pytest.raises(TaskAborted):
        ar.get()
    assert ar.status == "ok"
    assert ar.cancelled()


def test_a_call_that_the_engine_reports_as_cancelled_is_cancelled() -> None:
    ar = one()
    ar._deliver_error(0, meta(status="aborted"), TaskAborted())
    assert ar.cancelled()
    assert ar.status == "aborted"


def test_an_await_of_a_nested_call_that_was_cancelled_is_a_remote_failure() -> None:
    ar = one()
    ar._deliver_error(0, meta(), remote(TaskAborted("there")))
    assert not ar.cancelled()
    with pytest.raises(TaskAborted):
        ar.get()


def test_abort_waits_for_the_engines_word() -> None:
    owner = Owner()
    ar = many(2, owner)
    with pytest.raises(errors.TimeoutError, match="f was cancelled, and is still running on engine 0, 1"):
        ar.abort(0.01)
    assert ar.cancelled()
    assert owner.cancelled == [(7, 0), (7, 1)]
    ar._deliver_error(0, meta(0), TaskAborted())
    soon(lambda: ar._deliver_error(1, meta(1), TaskAborted()))
    ar.abort(60)
    assert ar.progress == 2


async def test_abort_can_be_awaited() -> None:
    ar = one(Owner(bound=True))
    asyncio.get_running_loop().call_soon(ar._deliver_error, 0, meta(), TaskAborted())
    await ar.abort_async()
    assert ar.cancelled()
    assert ar.progress == 1


# --- callbacks --------------------------------------------------------------------------------------


async def test_a_callback_runs_on_the_loop_under_which_it_was_added() -> None:
    ar = one()
    seen: asyncio.Future[tuple[Any, int]] = asyncio.get_running_loop().create_future()
    ar.add_done_callback(lambda it: seen.set_result((it, threading.get_ident())))
    soon(lambda: ar._deliver(0, meta(), 1))
    assert await seen == (ar, threading.get_ident())


async def test_a_callback_of_a_finished_result_comes_soon_but_not_at_once() -> None:
    ar = one()
    ar._deliver(0, meta(), 1)
    seen: list[Any] = []
    ar.add_done_callback(seen.append)
    assert seen == []
    await settle()
    assert seen == [ar]


def test_a_callback_without_a_loop_is_called_where_the_answer_arrives() -> None:
    ar = one()
    seen: list[Any] = []
    ar.add_done_callback(seen.append)
    ar._deliver(0, meta(), 1)
    assert seen == [ar]
    ar.add_done_callback(seen.append)
    assert seen == [ar, ar]


def test_a_callback_that_fails_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    ar = one()
    seen: list[Any] = []
    ar.add_done_callback(lambda it: 1 / 0)
    ar.add_done_callback(seen.append)
    ar._deliver(0, meta(), 1)
    assert seen == [ar]
    assert ar.get() == 1
    assert "ZeroDivisionError" in caplog.text


def test_waiters_on_a_loop_that_was_closed_harm_nobody() -> None:
    ar = one()

    async def add() -> asyncio.Task[Any]:
        ar.add_done_callback(print)
        task = asyncio.create_task(waiting(ar))
        await asyncio.sleep(0)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(add())
    loop.close()
    ar._deliver(0, meta(), 1)
    assert ar.get() == 1
    # The task can't be ended any more: nothing runs its loop.
    setattr(task, "_log_destroy_pending", False)  # noqa: B010 - asyncio's own, and not in its types
    coroutine: Any = task.get_coro()
    coroutine.close()


# --- indexing and iterating -------------------------------------------------------------------------


def test_iterating_gives_values_in_order_as_they_arrive() -> None:
    ar = many(3)
    ar._deliver(2, meta(2), "c")
    ar._deliver(0, meta(0), "a")
    items = iter(ar)
    assert next(items) == "a"
    soon(lambda: ar._deliver(1, meta(1), "b"))
    assert list(items) == ["b", "c"]


async def test_iterating_asynchronously_gives_values_in_order_as_they_arrive() -> None:
    ar = many(3, Owner(bound=True))
    seen: list[Any] = []

    async def iterate(items: AsyncIterator[Any]) -> None:
        async for item in items:
            seen.append(item)  # noqa: PERF401 - looked at in between

    task = asyncio.create_task(iterate(aiter(ar)))
    for engine, expected in ((0, ["a"]), (2, ["a"]), (1, ["a", "b", "c"])):
        ar._deliver(engine, meta(engine), "abc"[engine])
        await settle()
        assert seen == expected
    await task


def test_iterating_raises_where_an_engine_failed() -> None:
    ar = many(2)
    ar._deliver(0, meta(0), "a")
    ar._deliver_error(1, meta(1), remote(ValueError("v"), 1))
    items = iter(ar)
    assert next(items) == "a"
    with pytest.raises(CompositeError) as caught:
        next(items)
    assert "[1:f]: ValueError: v" in str(caught.value)


def test_iterating_over_a_cancelled_call_ends_in_its_cancellation() -> None:
    ar = many(2)
    ar._deliver(0, meta(0), "a")
    items = iter(ar)
    assert next(items) == "a"
    soon(ar.cancel)
    with pytest.raises(TaskAborted):
        next(items)


def test_iterating_over_a_joined_result_iterates_over_what_was_joined() -> None:
    ar = many(2, join=lambda parts: parts[0] + parts[1])
    ar._deliver(0, meta(0), [1, 2])
    ar._deliver(1, meta(1), [3])
    assert list(ar) == [1, 2, 3]
    assert ar[2] == 3


async def test_a_single_result_cannot_be_iterated_over() -> None:
    ar = one()
    with pytest.raises(TypeError, match="single engine"):
        iter(ar)
    with pytest.raises(TypeError, match="single engine"):
        aiter(ar)


def test_indexing_never_waits() -> None:
    ar = many(3)
    ar._deliver(1, meta(1), "b")
    assert ar[1] == ar[-2] == "b"
    with pytest.raises(errors.TimeoutError, match="Result not ready"):
        ar[0]
    ar._deliver(0, meta(0), "a")
    ar._deliver_error(2, meta(2), remote(KeyError("k"), 2))
    assert ar[:2] == ["a", "b"]
    with pytest.raises(CompositeError):
        ar[2]
    with pytest.raises(IndexError, match="index 3"):
        ar[3]


# --- metadata ---------------------------------------------------------------------------------------


def test_metadata_of_a_single_call_are_scalars() -> None:
    ar: AsyncResult[int] = AsyncResult(Owner(), ((7, 3),), single=True, label="mine")
    before = datetime.now(UTC)
    assert [ar[key] for key in ("started", "status", "engine_id", "engine_uuid")] == [None, None, 3, None]
    assert abs((before - ar.submitted).total_seconds()) < 60
    ar._deliver(0, meta(3), 1)
    assert ar.started == ar["started"] == datetime.fromtimestamp(100, UTC)
    assert ar.completed.tzinfo is UTC
    assert ar.received > ar.completed
    assert (ar.engine_id, ar.engine_uuid, ar.status, ar.label) == (3, "uuid3", "ok", "mine")
    assert ar.msg_ids == [ar["msg_id"]] == [f"{UUID}_7_3"]
    assert ar.metadata["status"] == "ok"
    assert ar.metadata["outputs"] == []


def test_metadata_of_many_are_lists() -> None:
    ar = many(2)
    ar._deliver(1, meta(1), "b")
    assert ar.engine_id == [0, 1]
    assert ar.status == [None, "ok"]
    assert ar["completed"] == [None, datetime.fromtimestamp(102.5, UTC)]
    assert [one["engine_uuid"] for one in ar.metadata] == [None, "uuid1"]
    assert ar.targets == [0, 1]


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="started"):
        one()["begun"]


def test_a_balanced_call_has_no_engine_until_it_has_one() -> None:
    ar: AsyncResult[int] = AsyncResult(Owner(), ((7, -1),), single=True)
    assert ar["engine_id"] is None
    ar._deliver(0, meta(5), 1)
    assert ar.engine_id == 5
    assert ar.get_dict() == {5: 1}


def test_a_failure_of_which_the_engine_said_nothing_has_metadata_too() -> None:
    ar = many(1)
    ar._deliver_error(0, None, errors.EngineError(0))
    assert ar.status == ["error"]
    assert ar.started == [None]
    assert ar.done()
    assert ar.exception() is not None


def test_two_values_of_one_engine_fit_no_dict() -> None:
    ar: AsyncResult[Any] = AsyncResult(Owner(), ((7, 0), (8, 0)))
    ar._deliver(0, meta(0), 1)
    ar._deliver(1, meta(0), 2)
    with pytest.raises(ValueError, match="engine 0"):
        ar.get_dict()


def test_output_is_there_while_the_call_runs() -> None:
    ar = many(2)
    ar._output(0, "stdout", "one ")
    ar._output(0, "stdout", "two")
    ar._output(1, "stderr", "oh")
    assert ar.stdout == ["one two", ""]
    assert ar.stderr == ["", "oh"]
    assert not ar.ready()


def test_times() -> None:
    ar = many(2)
    assert ar.progress == 0
    assert ar.serial_time == 0
    assert ar.wall_time == 0
    assert 0 <= ar.elapsed < 60
    ar._deliver(0, meta(0), 1)
    ar._deliver(1, meta(1), 1)
    assert ar.progress == 2
    assert ar.serial_time == 5.0
    assert ar.elapsed == ar.wall_time == 2e9 - ar._created


def test_sent_is_true_when_the_buffers_are_free() -> None:
    ar = one()
    with pytest.raises(errors.TimeoutError):
        ar.wait_for_send(0)
    before = ar.sent
    soon(ar._mark_sent)
    ar.wait_for_send(60)
    assert (before, ar.sent) == (False, True)
    answered = one()
    answered._deliver(0, meta(), 1)
    assert answered.sent


def test_the_buffers_of_several_calls_are_free_when_the_last_is_sent() -> None:
    ar = many(2)
    ar._unsent = 2
    ar._mark_sent()
    assert not ar.sent
    ar._mark_sent()
    assert ar.sent


def test_what_only_waiting_needs_is_made_by_waiting() -> None:
    ar = one()
    ar._deliver(0, meta(), 1)
    assert ar.get() == 1
    assert ar._own_condition is None
    waited = one()
    concurrent.futures.wait([waited], timeout=0)
    assert waited._own_condition is not None


async def test_sending_can_be_awaited_and_giving_up_keeps_the_call() -> None:
    owner = Owner(bound=True)
    ar = one(owner)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ar.wait_for_send_async(), 0.001)
    assert owner.cancelled == []
    asyncio.get_running_loop().call_soon(ar._mark_sent)
    await ar.wait_for_send_async()


def test_msg_ids_can_be_read_back() -> None:
    assert parse_msg_id(msg_id("ab_cd", 5, -1)) == ("ab_cd", 5, -1)
    for text in ("", "x", "a_b_c", "a_1"):
        with pytest.raises(ValueError, match="msg_id"):
            parse_msg_id(text)


# --- races ---


async def test_no_wake_up_is_lost_between_threads() -> None:
    """Answers arrive from one thread while other threads and tasks begin to wait for them."""
    results = [many(20) for _ in range(100)]

    def deliver() -> None:
        for slot in range(20):
            for ar in results:
                ar._deliver(slot, meta(slot), slot)

    async def iterate(ar: AsyncResult[Any]) -> list[Any]:
        return [item async for item in ar]

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(deliver))
        tasks: list[asyncio.Task[list[Any]]] = []
        for ar in results:
            tasks.append(group.create_task(waiting(ar)))
            tasks.append(group.create_task(iterate(ar)))
            tasks.append(group.create_task(asyncio.to_thread(list, ar)))
            tasks.append(group.create_task(asyncio.to_thread(ar.get, 60)))
    assert all(task.result() == list(range(20)) for task in tasks)


async def test_cancellations_and_answers_that_cross_leave_everyone_with_one_outcome() -> None:
    results = [one() for _ in range(500)]

    def deliver() -> None:
        for ar in results:
            ar._deliver(0, meta(), 1)

    delivering = asyncio.create_task(asyncio.to_thread(deliver))
    tasks = [asyncio.create_task(waiting(ar)) for ar in results for _ in range(2)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await delivering
    for index, ar in enumerate(results):
        seen = {
            type(outcome)
            for outcome in outcomes[2 * index : 2 * index + 2]
            if not isinstance(outcome, asyncio.CancelledError)
        }
        assert ar.done()
        assert seen <= ({TaskAborted} if ar.cancelled() else {int})


# --- as an object -----------------------------------------------------------------------------------


def test_repr_tells_the_state() -> None:
    ar = one()
    assert repr(ar) == "<AsyncResult(f): pending>"
    ar._deliver(0, meta(), 1)
    assert repr(ar) == "<AsyncResult(f): finished>"
    failed, cancelled = one(), one()
    failed._deliver_error(0, meta(), ValueError())
    cancelled.cancel()
    assert (repr(failed), repr(cancelled)) == ("<AsyncResult(f): failed>", "<AsyncResult(f): cancelled>")
    assert failed.exception() is not None


def test_cannot_be_pickled_and_says_what_can() -> None:
    with pytest.raises(TypeError, match="msg_ids"):
        pickle.dumps(one())


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.ERROR, "directview")

    def collected() -> list[str]:
        gc.collect()
        return [record.getMessage() for record in caplog.records]

    return collected


def test_a_failure_nobody_looked_at_is_logged_once(complaints: Callable[[], list[str]]) -> None:
    ar = one()
    ar._deliver_error(0, meta(), ValueError("unseen"))
    assert complaints() == []
    del ar
    assert complaints() == ["f on [0] failed, and nobody looked at the result"]


def test_a_call_that_its_clients_closing_has_ended_is_not_logged(complaints: Callable[[], list[str]]) -> None:
    ar, both = one(), many(2)
    ar._deliver_error(0, meta(), ClientClosed("the client was closed"))
    for index in (0, 1):
        both._deliver_error(index, meta(), ClientClosed("the client was closed"))
    mixed = many(2)
    mixed._deliver_error(0, meta(), ClientClosed("the client was closed"))
    mixed._deliver_error(1, meta(), ValueError("unseen"))
    del ar, both
    assert complaints() == []
    del mixed
    assert len(complaints()) == 1


@pytest.mark.parametrize("look", ["get", "exception", "successful", "await", "cancel", "index", "nothing"])
def test_what_was_looked_at_or_did_not_fail_is_not_logged(
    look: str, complaints: Callable[[], list[str]]
) -> None:
    ar = many(1)
    if look == "cancel":
        ar.cancel()
    elif look != "nothing":
        ar._deliver_error(0, meta(), ValueError("seen"))
    match look:
        case "get" | "exception":
            try:
                getattr(ar, look)()
            except CompositeError:
                pass
        case "successful":
            assert not ar.successful()
        case "await":
            with pytest.raises(CompositeError):
                asyncio.run(waiting(ar))
        case "index":
            with pytest.raises(CompositeError):
                ar[0]
    del ar
    assert complaints() == []


def test_a_result_that_was_raised_is_freed_without_the_cycle_collector() -> None:
    freed = threading.Event()

    class Value:
        def __del__(self) -> None:
            freed.set()

    ar = many(2)
    ar._deliver(0, meta(0), Value())
    ar._deliver_error(1, meta(1), remote(KeyError("k"), 1))
    gc.disable()
    try:
        try:
            ar.get()
        except CompositeError:
            pass
        del ar
        assert freed.is_set()
    finally:
        gc.enable()


# --- maps -------------------------------------------------------------------------------------------


def chunks(*sizes: int, owner: Owner | None = None, **options: Any) -> AsyncMapResult[Any]:
    calls = tuple((7, engine) for engine in range(len(sizes)))
    return AsyncMapResult(owner or Owner(), calls, sizes, **options)


def test_a_map_is_one_list_of_items() -> None:
    ar = chunks(2, 0, 3)
    assert len(ar) == 5
    ar._deliver(2, meta(2), [2, 3, 4])
    ar._deliver(1, meta(1), [])
    ar._deliver(0, meta(0), [0, 1])
    assert ar.get() == list(ar) == [0, 1, 2, 3, 4]
    assert [ar[index] for index in range(-5, 5)] == [0, 1, 2, 3, 4] * 2
    assert ar[1:4] == [1, 2, 3]


def test_an_empty_map_is_finished_and_true() -> None:
    ar = chunks()
    assert ar
    assert ar.done()
    assert ar.successful()
    assert ar.get() == list(ar) == []
    assert len(ar) == 0
    assert ar.progress == 0
    assert ar.get(return_exceptions=True) == []


async def test_items_of_a_map_come_as_their_chunks_arrive() -> None:
    ar = chunks(2, 2, owner=Owner(bound=True))
    ar._deliver(0, meta(0), ["a", "b"])
    items = aiter(ar)
    assert [await anext(items), await anext(items)] == ["a", "b"]
    following = asyncio.ensure_future(anext(items))
    await settle()
    assert not following.done()
    with pytest.raises(errors.TimeoutError):
        ar[2]
    ar._deliver(1, meta(1), ["c", "d"])
    assert [await following, await anext(items)] == ["c", "d"]
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    assert await ar == ["a", "b", "c", "d"]


def test_items_of_a_map_come_as_their_chunks_arrive_when_blocking() -> None:
    ar = chunks(2, 2)
    ar._deliver(0, meta(0), ["a", "b"])
    items = iter(ar)
    assert next(items) == "a"
    soon(lambda: ar._deliver(1, meta(1), ["c", "d"]))
    assert list(items) == ["b", "c", "d"]


def test_a_failed_chunk_of_a_map_stands_for_each_of_its_items() -> None:
    ar = chunks(1, 2)
    ar._deliver(0, meta(0), ["a"])
    ar._deliver_error(1, meta(1), remote(KeyError("k"), 1))
    with pytest.raises(CompositeError, match="call to method: map"):
        ar.get()
    found = ar.get(return_exceptions=True)
    assert found[0] == "a"
    assert [type(item).__name__ for item in found] == ["str", "KeyError", "KeyError"]


def test_a_map_on_one_engine_iterates_and_raises_the_error_itself() -> None:
    ar = chunks(2, single=True)
    ar._deliver(0, meta(0), [1, 2])
    assert list(ar) == ar.get(return_exceptions=True) == [1, 2]
    assert ar.status == "ok"
    failed = chunks(2, single=True)
    failed._deliver_error(0, meta(0), remote(KeyError("k")))
    with pytest.raises(KeyError):
        failed.get()
    assert len(failed.get(return_exceptions=True)) == 2


def test_a_map_may_join_its_chunks_to_something_else() -> None:
    ar = chunks(1, 2, join=lambda parts: [parts[0] + parts[1]])
    ar._deliver(0, meta(0), [1])
    ar._deliver(1, meta(1), [2, 3])
    assert ar.get() == [[1, 2, 3]]
    assert list(ar) == [1, 2, 3]


def test_a_map_wants_one_size_for_each_chunk() -> None:
    with pytest.raises(ValueError, match="1 sizes for 0 chunks"):
        AsyncMapResult(Owner(), (), (1,))
