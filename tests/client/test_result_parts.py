"""Parts of a result and results joined: each has its own outcome, and the metadata of what it is part of."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading
import weakref
from datetime import UTC, datetime
from typing import Any

import pytest

from directview._metadata import CallMetadata
from directview.errors import CompositeError, TaskAborted
from directview.result import AsyncMapResult, AsyncResult
from tests.client.handmade_results import Owner, many, remote


def meta(engine: int = 0, started: float = 100.0, completed: float = 102.5) -> CallMetadata:
    return CallMetadata(engine, f"uuid{engine}", started, completed, 2e9, "ok")


# --- split ----------------------------------------------------------------------------------------------


def test_parts_end_one_by_one_in_their_own_way() -> None:
    ar = many(3, join=sum, label="mine")
    ar._deliver(2, meta(2), "c")
    parts = ar.split()
    assert [part.done() for part in parts] == [False, False, True]
    assert parts[2].get() == "c"
    ar._deliver(0, meta(0), "a")
    ar._deliver_error(1, meta(1), remote(ValueError("b"), 1))
    assert parts[0].get() == "a"
    with pytest.raises(ValueError, match="b"):
        parts[1].get()
    assert ar.split() == parts
    assert [part.targets for part in parts] == [[0], [1], [2]]
    assert [part.msg_ids for part in parts] == [[id] for id in ar.msg_ids]
    assert [part.label for part in parts] == ["mine"] * 3


def test_a_single_result_is_its_own_part() -> None:
    ar = AsyncResult[Any](Owner(), ((7, 0),), single=True)
    assert ar.split() == (ar,)
    assert AsyncResult.join(ar) is ar


def test_a_part_tells_what_its_call_prints_when_it_prints_it() -> None:
    ar = many(2)
    ar._output(1, "stdout", "before ")
    part = ar.split()[1]
    ar._output(1, "stdout", "after")
    ar._output(0, "stdout", "other")
    assert (part.stdout, part.stderr) == ("before after", "")
    ar._deliver(1, meta(1, 5.0, 6.5), None)
    assert part.serial_time == 1.5
    assert part.engine_uuid == "uuid1"
    assert part.submitted == ar.submitted[1]


async def test_whoever_follows_a_part_is_told_of_its_progress() -> None:
    ar = many(2)
    part = ar.split()[0]
    sending = asyncio.create_task(part.wait_for_send_async())
    await asyncio.sleep(0)
    assert not part.sent
    ar._mark_sent()
    await asyncio.wait_for(sending, 30)
    assert part.sent


def test_cancelling_a_part_cancels_its_call_only() -> None:
    owner = Owner()
    ar = many(3, owner)
    parts = ar.split()
    assert parts[1].cancel()
    assert owner.cancelled == [(7, 1)]
    assert not ar.done()
    with pytest.raises(TaskAborted):
        parts[1].get()
    assert not parts[0].done()


def test_parts_of_a_cancelled_call_end_as_their_engines_say() -> None:
    """Also when the engine's word has come before the split."""
    ar = many(3)
    early = ar.split()
    ar.cancel()
    ar._deliver_error(0, meta(0), TaskAborted("f was cancelled"))
    ar._deliver(1, meta(1), "too late to be cancelled")
    assert early[0].cancelled()
    assert early[1].get() == "too late to be cancelled"
    assert not early[2].done()
    later = many(2)
    later.cancel()
    later._deliver_error(0, meta(0), TaskAborted("f was cancelled"))
    assert later.split()[0].cancelled()
    assert not later.split()[1].done()


def test_parts_work_with_concurrent_futures() -> None:
    ar = many(3)
    ar._deliver(1, meta(1), "b")
    done, pending = concurrent.futures.wait(ar.split(), 0, "FIRST_COMPLETED")
    assert [part.result() for part in done] == ["b"]
    for engine in (0, 2):
        ar._deliver(engine, meta(engine), engine)
    assert {part.result() for part in concurrent.futures.as_completed(pending)} == {0, 2}


async def test_parts_can_be_awaited() -> None:
    ar = many(2)
    waiting = asyncio.gather(*ar.split())
    await asyncio.sleep(0)
    ar._deliver(1, meta(1), "b")
    ar._deliver(0, meta(0), "a")
    assert await asyncio.wait_for(waiting, 30) == ["a", "b"]


def test_parts_of_a_map_are_its_chunks() -> None:
    ar: AsyncMapResult[str] = AsyncMapResult(Owner(), ((1, 0), (2, 1)), [2, 3])
    parts = ar.split()
    assert [len(part) for part in parts] == [2, 3]
    ar._deliver(1, meta(1), ["c", "d", "e"])
    assert parts[1].get() == list(parts[1]) == ["c", "d", "e"]
    ar._deliver(0, meta(0), ["a", "b"])
    joined = AsyncResult.join(*reversed(parts))
    assert isinstance(joined, AsyncMapResult)
    assert joined.get() == ["c", "d", "e", "a", "b"]


# --- join -----------------------------------------------------------------------------------------------


def test_joined_results_are_one() -> None:
    owner = Owner()
    first, second = many(2, owner), AsyncResult[Any](owner, ((8, 5),), single=True, name="g")
    first._deliver(0, meta(0), "a")
    joined = AsyncResult.join(first, second)
    assert len(joined) == 3
    assert joined.targets == [0, 1, 5]
    assert joined.msg_ids == first.msg_ids + second.msg_ids
    assert joined.progress == 1
    second._deliver(0, meta(5), "c")
    first._deliver(1, meta(1), "b")
    assert joined.get() == ["a", "b", "c"]
    assert joined.submitted == [*first.submitted, second.submitted]
    assert joined.elapsed == pytest.approx(2e9 - first._created)


def test_join_is_the_inverse_of_split() -> None:
    ar = many(3)
    done = AsyncResult.join(*ar.split()[::2])
    ar._deliver(0, meta(0), 0)
    ar._deliver_error(2, meta(2), remote(KeyError("k"), 2))
    with pytest.raises(CompositeError) as caught:
        done.get()
    assert caught.group_contains(KeyError)
    assert done.get(return_exceptions=True)[0] == 0


def test_only_results_of_one_client_can_be_joined() -> None:
    with pytest.raises(ValueError, match="same client"):
        AsyncResult.join(many(2), many(2))
    with pytest.raises(ValueError, match="at least one"):
        AsyncResult.join()


# --- who has looked -------------------------------------------------------------------------------------


def test_a_failure_is_logged_once_if_nobody_looked_at_it_or_its_parts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "directview")

    def failed() -> AsyncResult[Any]:
        ar = many(2)
        ar.split()
        for engine in range(2):
            ar._deliver_error(engine, meta(engine), remote(ValueError()))
        return ar

    failed()
    gc.collect()
    assert len(caplog.records) == 1
    caplog.clear()
    failed().split()[1].exception()
    gc.collect()
    assert caplog.records == []


# --- races ----------------------------------------------------------------------------------------------


def test_no_answer_is_missed_or_doubled_while_splitting_on_another_thread() -> None:
    for _ in range(200):
        ar = many(20)
        start = threading.Barrier(2)

        def deliver(ar: AsyncResult[Any] = ar, start: threading.Barrier = start) -> None:
            start.wait()
            for engine in range(20):
                ar._deliver(engine, meta(engine), engine)

        thread = threading.Thread(target=deliver)
        thread.start()
        start.wait()
        parts = ar.split()
        joined = AsyncResult.join(*parts)
        thread.join()
        assert [part.get(0) for part in parts] == list(range(20)) == joined.get(0)
        assert ar._echoes is None


# --- times ----------------------------------------------------------------------------------------------


def test_timedelta_is_from_the_first_start_to_the_last_end() -> None:
    ar = many(2)
    ar._deliver(0, meta(0, 10.0, 12.0), None)
    with pytest.raises(TypeError, match="has not happened yet"):
        ar.timedelta(ar.started, ar.completed)
    ar._deliver(1, meta(1, 11.0, 15.0), None)
    assert ar.timedelta(ar.started, ar.completed) == 5.0
    assert ar.timedelta(ar.started, ar.completed, max, min) == 1.0
    assert ar.timedelta(datetime.fromtimestamp(9, UTC), ar.completed[0]) == 3.0
    with pytest.raises(TypeError, match="the end is None"):
        ar.timedelta(ar.submitted, None)  # type: ignore[arg-type]


def test_a_whole_and_its_parts_are_free_without_the_garbage_collector() -> None:
    """A part holds on to the whole, not the other way round."""
    gc.disable()
    try:
        ar = many(2)
        parts = ar.split()
        joined = AsyncResult.join(*parts)
        for engine in range(2):
            ar._deliver(engine, meta(engine), engine)
        there = weakref.ref(ar)
        assert joined.get(0) == [0, 1]
        del ar, parts, joined
        assert there() is None
    finally:
        gc.enable()
