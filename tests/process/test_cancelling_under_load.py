"""Thousands of calls, cancelled at random in every way there is: engines live, nobody else is hit."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from directview import AsyncResult, Client, Cluster, TaskAborted

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 40.0
LONG = 60.0


@pytest.fixture
async def rc(cluster: Cluster) -> AsyncIterator[Client]:
    """A client on the test's loop."""
    async with Client(cluster.connection_file) as client:
        yield client


# --- what runs ------------------------------------------------------------------------------------------


def quick(i: int) -> int:
    return i


def busy(i: int) -> int:
    end = time.perf_counter() + 0.004
    while time.perf_counter() < end:
        sum(range(50))
    return i


def sleeps(i: int) -> int:
    time.sleep(0.004)
    return i


def prints(i: int) -> int:
    for n in range(40):
        print(i, n)
    return i


async def waits(i: int) -> int:
    await asyncio.sleep(0.004)
    return i


async def blocks(i: int) -> int:
    for _ in range(3):
        busy(i)
        await asyncio.sleep(0)
    return i


async def has_tasks(i: int) -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(waits(i)) for _ in range(3)]
    return tasks[0].result()


def streams(i: int) -> Iterator[int]:
    for _ in range(50):
        yield i


KINDS = (quick, busy, sleeps, prints, waits, blocks, has_tasks)


# --- how it is cancelled --------------------------------------------------------------------------------


class Failed(Exception):
    pass


async def awaited(result: AsyncResult[Any]) -> Any:
    return await result


async def by_task(result: AsyncResult[Any], seconds: float) -> Any:
    task = asyncio.ensure_future(awaited(result))
    await asyncio.sleep(seconds)
    task.cancel()
    return await task


async def by_timeout(result: AsyncResult[Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await result


async def by_wait_for(result: AsyncResult[Any], seconds: float) -> Any:
    return await asyncio.wait_for(result, seconds)


async def by_cancel(result: AsyncResult[Any], seconds: float) -> Any:
    asyncio.get_running_loop().call_later(seconds, result.cancel)
    return await result


async def by_scope(result: AsyncResult[Any], seconds: float) -> Any:
    with anyio.move_on_after(seconds):
        return await result
    raise TaskAborted


async def by_a_sibling(result: AsyncResult[Any], seconds: float) -> Any:
    async def fails() -> None:
        await asyncio.sleep(seconds)
        raise Failed

    async with asyncio.TaskGroup() as group:
        task = group.create_task(awaited(result))
        failing = group.create_task(fails())
        value = await task
        failing.cancel()
    return value


WAYS = (by_task, by_timeout, by_wait_for, by_cancel, by_scope, by_a_sibling)
ENDS = (TaskAborted, TimeoutError, asyncio.CancelledError, ExceptionGroup)


async def load(rc: Client, n: int, seed: int) -> Counter[str]:
    """`n` calls that are cancelled at some moment, among as many that are not; what became of the former.

    Every call that nobody cancelled must give its own value.
    """
    chance = random.Random(seed)
    limit = asyncio.Semaphore(16)
    outcomes: Counter[str] = Counter()
    aborting: list[AsyncResult[Any]] = []

    async def cancelled(i: int) -> None:
        async with limit:
            await asyncio.sleep(chance.random() * 0.002)
            result = rc[i % 2].apply_async(chance.choice(KINDS), i)
            aborting.append(result)
            try:
                value = await chance.choice(WAYS)(result, chance.random() ** 2 * 0.08)
            except ENDS as error:
                outcomes[type(error).__name__] += 1
                assert result.done()
            else:
                assert value == i
                outcomes["value"] += 1

    async def left_alone(i: int) -> None:
        async with limit:
            await asyncio.sleep(chance.random() * 0.002)
            assert await rc[i % 2].apply_async(chance.choice(KINDS), i) == i

    async def streamed(i: int) -> None:
        async with limit:
            if chance.random() < 0.5:
                assert [item async for item in rc[i % 2].stream(streams, i)] == [i] * 50
            else:
                async for item in rc[i % 2].stream(streams, i):
                    assert item == i
                    break

    async with asyncio.timeout(n * 0.03 + DEADLINE), asyncio.TaskGroup() as group:
        for i in range(n):
            group.create_task(cancelled(i))
            group.create_task(left_alone(i))
            if i % 20 == 0:
                group.create_task(streamed(i))
    async with asyncio.timeout(DEADLINE):
        for result in aborting:
            await result.abort_async()  # Has the engine's word about each.
    outcomes["hit"] = sum(
        [result["status"] == "aborted" and result["started"] is not None for result in aborting]
    )
    return outcomes


async def check(rc: Client, n: int, seed: int) -> None:
    pids = await rc[:].apply_async(os.getpid)
    await rc[:].push({"kept": list(range(1000))})
    outcomes = await load(rc, n, seed)
    assert sum([count for name, count in outcomes.items() if name != "hit"]) == n
    assert outcomes["value"] > 0
    assert outcomes["hit"] > 0, "all were cancelled before they ran"
    assert await rc[:].apply_async(os.getpid) == pids
    assert await rc[:].pull_async("kept") == [list(range(1000))] * 2
    async with asyncio.timeout(DEADLINE):
        while True:  # The last streams end.
            status = await rc.query("queue_status")
            if all([(status[id]["queue"], status[id]["tasks"]) == (0, 0) for id in ("0", "1")]):
                break
            await asyncio.sleep(0.01)
    assert rc.outstanding == set()


async def test_hundreds_of_cancellations(rc: Client) -> None:
    await check(rc, 300, 1)


@pytest.mark.slow
async def test_thousands_of_cancellations(rc: Client) -> None:
    await check(rc, 2000, int(os.environ.get("DIRECTVIEW_TEST_SEED", "2")))


# --- single promises ------------------------------------------------------------------------------------


async def test_a_timeout_ends_a_sleep_of_a_minute(rc: Client) -> None:
    """At its time, and the engine answers the next call soon after."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await rc[0].apply_async(time.sleep, LONG)
    ended = loop.time()
    assert ended - began >= 0.5
    async with asyncio.timeout(LONG / 2):  # far from the minute; half a second on a machine at rest
        assert await rc[0].apply_async(abs, -1) == 1


async def test_coroutines_run_side_by_side(rc: Client) -> None:
    """A hundred on one engine: at some moment all of them are under way."""

    async def meets() -> int:
        return await together.wait()  # type: ignore[name-defined,no-any-return]

    await rc[0].execute("import asyncio; together = asyncio.Barrier(100)")
    async with asyncio.timeout(DEADLINE):
        places = await asyncio.gather(*[awaited(rc[0].apply_async(meets)) for _ in range(100)])
    assert sorted(places) == list(range(100))
