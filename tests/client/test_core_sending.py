"""When a client's calls leave it: its core with a link that only takes notes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from directview._balancing_tasks import Kind, Task
from directview._core import Core
from directview._dispatching import ANYWHERE, Wishes
from directview.connection import ConnectionInfo
from directview.errors import EngineError
from directview.result import AsyncResult
from directview.wire.messages import EngineInfo, Message, Submit, Welcome, decode
from directview.wire.parcels import Packed, pack

PARCEL = pack((Packed(b"function", ()), Packed(b"arguments", ())))


class NotingLink:
    """In place of a `Link`."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, header: bytes, frames: Sequence[Any] = ()) -> None:
        self.sent.append(decode(header))

    def close(self, linger: float = 0.0) -> None:
        pass

    @property
    def submits(self) -> list[list[int]]:
        """The seqs of the calls of each message with calls."""
        return [[call.seq for call in sent.calls] for sent in self.sent if isinstance(sent, Submit)]


class Caller:
    """Makes calls as a client does: numbered and submitted under the lock."""

    def __init__(self, core: Core, link: NotingLink) -> None:
        self.core = core
        self.link = link
        self._binding = self

    def call(self, engine: int = 0, time_limit: float | None = None) -> AsyncResult[Any]:
        with self.core.lock:
            requests = [((engine,), PARCEL)]
            slots = self.core.number(requests)
            result: AsyncResult[Any] = AsyncResult(self, slots, single=True)  # type: ignore[arg-type]
            self.core.submit(requests, slots, "f", result, time_limit)
        return result

    def check_running(self) -> None:
        pass


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    info = ConnectionInfo(
        cluster_id="c", role="client", pid=1, hostname="h", created=0.0, profile="", ipc="ipc:///x", tcp=None
    )
    core = Core(info, 1.0)
    link = NotingLink()
    core._session._link = link  # type: ignore[assignment]
    core._session._welcomed = None
    engine = EngineInfo(0, os.urandom(16), 1, "h", "3.11", b"")
    core._welcomed(Welcome(1, 1, -1, "stop", 2.0, 1024, 4 << 20, (engine,)))
    yield Caller(core, link)
    core._session._link = None
    await core.close()


async def test_the_only_call_is_sent_at_once(caller: Caller) -> None:
    caller.call()
    assert caller.link.submits == [[1]]


async def test_further_calls_of_a_turn_travel_together(caller: Caller) -> None:
    for _ in range(5):
        caller.call()
    assert caller.link.submits == [[1]]
    await asyncio.sleep(0)
    assert caller.link.submits == [[1], [2, 3, 4, 5]]


async def test_of_many_the_first_are_sent_while_others_are_made(caller: Caller) -> None:
    for _ in range(100):
        caller.call()
    assert caller.link.submits == [[1], list(range(2, 66))]
    await asyncio.sleep(0)
    assert caller.link.submits[2:] == [list(range(66, 101))]


async def test_nothing_is_sent_out_of_the_middle_of_a_callback(caller: Caller) -> None:
    """There, the state machine may be at work: a finalizer may run anywhere."""
    asyncio.get_running_loop().call_soon(caller.call)
    seen: list[list[list[int]]] = []
    asyncio.get_running_loop().call_soon(lambda: seen.append(caller.link.submits))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == [[]]
    assert caller.link.submits == [[1]]


async def test_calls_from_another_thread_wait_for_the_loop(caller: Caller) -> None:
    await asyncio.to_thread(caller.call)
    await asyncio.sleep(0)
    assert caller.link.submits == [[1]]


async def test_balanced_tasks_that_come_first_are_sent(caller: Caller) -> None:
    core = caller.core
    with core.lock:
        slots = core.number([((ANYWHERE,), PARCEL)])
        result: AsyncResult[Any] = AsyncResult(caller, slots, single=True)  # type: ignore[arg-type]
        wishes = Wishes(Kind(), None, None, None, 0, None)
        core.submit_tasks([PARCEL], slots, "f", result, wishes)
    await asyncio.sleep(0)
    assert caller.link.submits == [[2]]


@pytest.mark.parametrize("most", [1, 3])
async def test_tasks_that_are_cancelled_while_an_engine_is_given_them_are_not_sent(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Another thread may cancel between the choice of an engine and the call to it."""
    core = caller.core
    balancer = core.balanced._balancer
    choose = balancer.give
    cancelled: list[int] = []

    def give_and_be_cancelled(now: float) -> list[tuple[Task, int]]:
        chosen = choose(now)
        now_too = [task.number for task, _ in chosen][: most - len(cancelled)]
        core.cancel([(number, ANYWHERE) for number in now_too])
        cancelled.extend(now_too)
        return chosen

    monkeypatch.setattr(balancer, "give", give_and_be_cancelled)
    with core.lock:
        slots = core.number([((ANYWHERE,), PARCEL)] * 3)
        result: AsyncResult[Any] = AsyncResult(caller, slots)  # type: ignore[arg-type]
        wishes = Wishes(Kind(), None, None, None, 0, None)
        core.submit_tasks([PARCEL] * 3, slots, "f", result, wishes)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(cancelled) == most
    sent = [seq for seqs in caller.link.submits for seq in seqs]
    assert sent == list(core._state.calls)
    assert result._missing == len(balancer.tasks) == 3 - most
    assert bool(sent) == (most < 3)


async def test_a_call_to_an_engine_that_is_not_there_ends(caller: Caller) -> None:
    result = caller.call(engine=7)
    with pytest.raises(EngineError, match="no such engine"):
        await asyncio.wait_for(result, 30)
    assert caller.link.submits == []


async def test_a_time_limit_counts_for_the_only_call_too(caller: Caller) -> None:
    result = caller.call(time_limit=30.0)
    await asyncio.sleep(0)
    assert caller.link.submits == [[1]]
    assert result._timer is not None
    result._timer.cancel()
