"""What a result is: a value or an error, a sequence, an object that tells its state."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from directview import errors
from directview.errors import ClientClosed, CompositeError, RemoteError, TaskAborted
from tests.client.handmade_results import Owner, many, meta, one, remote, settle, soon, waiting

# --- the result ---------------------------------------------------------------------------------------


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


# --- indexing and iterating ---------------------------------------------------------------------------


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


# --- as an object -------------------------------------------------------------------------------------


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
