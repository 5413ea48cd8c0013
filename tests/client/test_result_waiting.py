"""Waiting for results: blocking and awaiting, on any loop and thread, with the standard library's tools."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing.pool
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from directview import errors
from directview.errors import CompositeError, RemoteError, TaskAborted, WouldBlockLoop
from directview.result import AsyncResult
from tests.client.handmade_results import Owner, many, meta, one, remote, soon, waiting

# --- blocking -----------------------------------------------------------------------------------------


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


# --- awaiting -----------------------------------------------------------------------------------------


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


# --- races --------------------------------------------------------------------------------------------


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
