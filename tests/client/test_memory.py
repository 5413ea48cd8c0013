"""What a client remembers, and what it forgets to stay small."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from directview._answers import AsyncHubResult
from directview._memory import Memory
from directview._metadata import CallMetadata
from directview._slots import Keepsake, Slots
from directview.errors import CompositeError, RemoteError, TaskAborted, TimeoutError
from directview.result import AsyncMapResult, AsyncResult
from directview.wire.parcels import Packed, pack


class Owner:
    """A client whose calls never end by themselves."""

    client_uuid = "c"

    def check_may_block(self, what: str, instead: str) -> None:
        pass

    def check_running(self) -> None:
        pass

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        pass


OWNER = Owner()


def meta(engine: int = 0) -> CallMetadata:
    return CallMetadata(engine, f"uuid{engine}", 100.0, 102.5, 2e9, "ok")


def make(memory: Memory, seq: int, n: int = 1, **options: Any) -> AsyncResult[Any]:
    calls = tuple([(seq, engine) for engine in range(n)])
    result: AsyncResult[Any] = AsyncResult(OWNER, calls, **options)
    memory.made(calls, result)
    return result


def end(memory: Memory, result: AsyncResult[Any], value: object = None, nbytes: int = 10) -> None:
    for index in range(len(result._calls)):
        result._size += nbytes
        result._deliver(index, meta(index), value)
    memory.ended(result)


def test_a_result_is_found_by_its_calls_while_outstanding_and_when_kept() -> None:
    memory = Memory()
    result = make(memory, 1, 2)
    assert memory.outstanding() == [result]
    assert memory.find(1) is result
    end(memory, result, "v")
    assert memory.outstanding() == []
    kept = memory.find(1)
    assert isinstance(kept, Keepsake)
    assert Slots._again(OWNER, kept).result() == ["v", "v"]
    assert memory.calls() == [((1, 0), (1, 1))]
    assert memory.last == 1
    assert memory.find(2) is None


def test_a_result_of_several_calls_is_found_by_each() -> None:
    memory = Memory()
    calls = ((4, 0), (5, 1))
    result: AsyncMapResult[Any] = AsyncMapResult(OWNER, calls, [1, 2])
    memory.made(calls, result)
    assert memory.find(5) is result
    assert memory.last == 5
    result._deliver(0, meta(), ["a"])
    result._deliver(1, meta(), ["b", "c"])
    memory.ended(result)
    again = Slots._again(OWNER, memory.find(5))  # type: ignore[arg-type]
    assert isinstance(again, AsyncMapResult)
    assert list(again) == ["a", "b", "c"]


def test_an_empty_call_leaves_nothing() -> None:
    memory = Memory()
    memory.made((), AsyncMapResult(OWNER, (), []))
    assert memory.outstanding() == []
    assert memory.calls() == []


def test_names_results_and_bytes_are_bounded() -> None:
    memory = Memory(calls=5, results=3, nbytes=100)
    for seq in range(1, 9):
        end(memory, make(memory, seq), seq)
    assert [calls[0][0] for calls in memory.calls()] == [4, 5, 6, 7, 8]
    assert [kept.calls[0][0] for kept in memory.kept()] == [6, 7, 8]
    end(memory, make(memory, 9), nbytes=85)
    assert [kept.calls[0][0] for kept in memory.kept()] == [8, 9]
    end(memory, make(memory, 10), nbytes=101)
    assert [kept.calls[0][0] for kept in memory.kept()] == [8, 9]
    assert memory.find(10) is memory.find(7) is None


def test_what_was_forgotten_is_free(caplog: pytest.LogCaptureFixture) -> None:
    class Value:
        pass

    memory = Memory(results=1)
    result = make(memory, 1)
    value = Value()
    there = weakref.ref(value)
    end(memory, result, value)
    del result, value
    assert there() is not None
    end(memory, make(memory, 2))
    gc.collect()
    assert there() is None


def test_a_kept_failure_that_nobody_looked_at_is_still_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """What is kept isn't the AsyncResult: its end is noticed. What is made of it again complains no more."""
    caplog.set_level(logging.ERROR, "directview")
    memory = Memory()
    result = make(memory, 1)
    result._deliver_error(0, meta(), RemoteError("ValueError", "v"))
    memory.ended(result)
    del result
    gc.collect()
    assert len(caplog.records) == 1
    again = Slots._again(OWNER, memory.kept()[0])
    with pytest.raises(CompositeError):
        again.result()
    del again
    gc.collect()
    assert len(caplog.records) == 1


def test_whoever_looked_at_it_again_has_looked_at_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "directview")
    memory = Memory()
    result = make(memory, 1)
    result._deliver_error(0, meta(), RemoteError("ValueError", "v"))
    memory.ended(result)
    assert isinstance(Slots._again(OWNER, memory.kept()[0])._said(0), RemoteError)
    del result
    gc.collect()
    assert caplog.records == []


def test_a_result_made_again_is_like_the_first() -> None:
    memory = Memory()
    result = make(memory, 1, 2, join=sum, name="f", label="mine")
    result._output(1, "stdout", "said")
    end(memory, result, 3)
    again: Any = Slots._again(OWNER, memory.kept()[0])
    assert again.get() == 6
    assert again.metadata == result.metadata
    assert again.stdout == ["", "said"]
    assert again.sent
    assert repr(again) == repr(result)
    cancelled = make(memory, 2)
    cancelled.cancel()
    cancelled._deliver_error(0, meta(), TaskAborted())
    memory.ended(cancelled)
    assert Slots._again(OWNER, memory.kept()[1]).cancelled()


def test_forgetting_on_request() -> None:
    memory = Memory()
    for seq in (1, 2):
        end(memory, make(memory, seq))
    still = make(memory, 3)
    memory.forget(memory.kept()[0])
    assert memory.find(1) is None
    assert len(memory.calls()) == 3
    memory.forget_all()
    assert memory.kept() == []
    assert memory.calls() == [((3, 0),)]
    end(memory, still)
    assert memory._bytes == 10


# --- the controller's answers ---------------------------------------------------------------------------


async def test_an_answer_can_be_awaited_or_blocked_for() -> None:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    answer = AsyncHubResult(OWNER, "send_signal", future)
    assert repr(answer) == "<AsyncHubResult(send_signal): pending>"
    assert not answer.ready()
    assert answer.wait(0) is False
    with pytest.raises(TimeoutError, match="Result not ready"):
        answer.get(0)
    with pytest.raises(ValueError, match="not ready"):
        answer.successful()
    future.set_result(5)
    assert await answer == answer.get() == answer.r == 5
    assert answer.successful()
    assert answer.wait() is True
    refused: concurrent.futures.Future[Any] = concurrent.futures.Future()
    answer = AsyncHubResult(OWNER, "send_signal", refused)
    refused.set_exception(ValueError("no such engine"))
    with pytest.raises(ValueError, match="no such engine"):
        await answer
    assert not answer.successful()
    assert repr(answer) == "<AsyncHubResult(send_signal): failed>"


# --- what calls were made of ----------------------------------------------------------------------------


def requests_of(count: int, nbytes: int) -> list[Any]:
    return [((place,), pack((Packed(bytes(nbytes), ()),))) for place in range(count)]


def made_of(memory: Memory, first: int, requests: list[Any]) -> None:
    calls = tuple([(first + place, place) for place in range(len(requests))])
    memory.made(calls, AsyncResult(OWNER, calls), requests)


def test_what_a_call_was_made_of_is_found_by_each_of_its_numbers() -> None:
    memory = Memory()
    first, second = requests_of(3, 10), requests_of(1, 10)
    made_of(memory, 1, first)
    made_of(memory, 4, second)
    assert [memory.request(seq) for seq in (0, 1, 3, 4, 5)] == [None, first[0], first[2], second[0], None]


def test_what_calls_were_made_of_is_bounded_by_bytes() -> None:
    """The newest is kept; what travels in pieces never is."""
    memory = Memory(request_bytes=100_000)
    for seq in range(1, 101):
        made_of(memory, seq, requests_of(1, 9_000))
    kept = [seq for seq in range(1, 101) if memory.request(seq) is not None]
    assert kept == list(range(101 - len(kept), 101))
    assert 9 <= len(kept) <= 11
    large = requests_of(1, 2 << 20)
    assert large[0][1].chunks
    made_of(memory, 101, large)
    assert memory.request(101) is None
    assert memory.request(100) is not None


def test_the_collector_does_not_go_through_what_calls_were_made_of() -> None:
    """Ten thousand of them may be kept."""
    memory = Memory()
    for seq in range(1, 101):
        made_of(memory, seq, requests_of(1, 10))
    for _ in range(5):  # tuples within tuples: it may come to the outer ones first
        gc.collect()
    assert not any([gc.is_tracked(kept) for kept in memory._requests])


async def test_a_result_has_no_dict_of_its_own_whatever_comes_to_be_set() -> None:
    """It takes memory and the collector's time; one that doesn't have it keeps its attributes inside."""
    results: list[Any] = [AsyncResult(OWNER, ((seq, 0),), single=True) for seq in range(200)]
    waiting = [asyncio.ensure_future(_wait_for(result)) for result in results]
    await asyncio.sleep(0)
    for result in results:
        result._mark_sent()
        result._size += 10
        result._deliver(0, CallMetadata(0, "", 1.0, 2.0, 3.0, "ok"), "value")
    assert await asyncio.gather(*waiting) == ["value"] * 200
    assert not [found for found in gc.get_referents(*results) if type(found) is dict]


async def _wait_for(result: AsyncResult[Any]) -> Any:
    return await result
