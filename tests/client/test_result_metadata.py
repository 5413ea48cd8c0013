"""What a result tells of its call: metadata, times, output, and whether its buffers are free."""

from __future__ import annotations

import asyncio
import concurrent.futures
from datetime import UTC, datetime
from typing import Any

import pytest

from directview import errors
from directview._metadata import msg_id, parse_msg_id
from directview.result import AsyncResult
from tests.client.handmade_results import UUID, Owner, many, meta, one, soon


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
