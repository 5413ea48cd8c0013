"""Who cancels a call, who learns of it, and callbacks, which wait for a result as others do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import pytest

from directview import errors
from directview.errors import TaskAborted
from tests.client.handmade_results import Owner, many, meta, one, remote, settle, soon, waiting

# --- cancelling ---------------------------------------------------------------------------------------


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


# --- callbacks ----------------------------------------------------------------------------------------


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
