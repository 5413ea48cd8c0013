"""Streams: what generators on engines yield, as they yield it; and what ends them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import (
    Client,
    Cluster,
    CompositeError,
    EngineError,
    RemoteError,
    SerializationError,
    TaskAborted,
    TaskTimeout,
    WouldBlockLoop,
)
from tests.process.streaming import (
    DEADLINE,
    LONG,
    collect,
    endless,
    endless_async,
    note,
    noted,
    settled,
    then_blocks,
    then_sleeps,
    then_spins,
    then_waits,
    tidy_client,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
async def rc(cluster: Cluster) -> AsyncIterator[Client]:
    async with tidy_client(cluster) as client:
        yield client


def count(n: int) -> Iterator[int]:
    yield from range(n)


async def count_async(n: int) -> AsyncIterator[int]:
    for i in range(n):
        if i % 7 == 0:
            await asyncio.sleep(0)
        yield i


# --- items --------------------------------------------------------------------------------------------


async def awaited_range(n: int) -> range:
    await asyncio.sleep(0)
    return range(n)


@pytest.mark.parametrize("n", [0, 1, 5, 3000])
@pytest.mark.parametrize(
    "f",
    [count, count_async, range, awaited_range, lambda n: list(range(n)), lambda n: (i for i in range(n))],
    ids=["generator", "async", "range", "awaited", "list", "expression"],
)
async def test_items_come_in_order(rc: Client, f: Any, n: int) -> None:
    """Of generator functions, async ones, and whatever else returns something to iterate over."""
    assert [item async for item in rc[0].stream(f, n)] == list(range(n))


async def test_on_several_engines_items_come_with_their_engine(rc: Client) -> None:
    got: dict[int, list[int]] = {0: [], 1: []}
    async for engine, item in rc[:].stream(count, 1000):
        got[engine].append(item)
    assert got == {0: list(range(1000)), 1: list(range(1000))}
    assert [pair async for pair in rc[[1]].stream(count, 2)] == [(1, 0), (1, 1)]


async def test_no_engine_waits_for_another(rc: Client) -> None:
    """What one yields is here while the other has not yielded anything."""
    await rc[:].scatter("which", range(2), flatten=True)

    def uneven() -> Iterator[int]:
        if which:  # type: ignore[name-defined]
            time.sleep(LONG)
        yield from range(500)

    async with rc[:].stream(uneven) as stream:
        assert [await anext(stream) for _ in range(500)] == [(0, i) for i in range(500)]


async def test_arguments_are_the_functions_own(rc: Client) -> None:
    """Also keywords that a flag could be called."""

    def shows(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield args
        yield kwargs

    stream = rc[0].stream(shows, 1, f=2, time_limit=3, targets=4, seq=5)
    assert [item async for item in stream] == [(1,), {"f": 2, "time_limit": 3, "targets": 4, "seq": 5}]


async def test_generators_see_the_engines_names(rc: Client) -> None:
    await rc[:].push({"a": 10})
    beside = 1

    def sums(n: int) -> Iterator[int]:
        yield from (a + i + beside for i in range(n))  # type: ignore[name-defined]

    async def sums_async(n: int) -> AsyncIterator[int]:
        for value in [a + i + beside for i in range(n)]:  # type: ignore[name-defined]
            await asyncio.sleep(0)
            yield value

    for f in (sums, sums_async):
        assert [item async for item in rc[0].stream(f, 3)] == [11, 12, 13]


async def test_an_item_is_what_it_was_when_it_was_yielded(rc: Client) -> None:
    """A generator may change the object that it has yielded, small or large; the items can be changed too."""

    def refills(n: int) -> Iterator[Any]:
        array = np.zeros(n)
        for i in range(4):
            array[:] = i
            yield array

    for n in (1, 100_000, 500_000):
        items = [item async for item in rc[0].stream(refills, n)]
        assert [float(item.sum()) for item in items] == [0.0, n, 2 * n, 3 * n]
        items[1][:] = 7.0
        assert (float(items[1][-1]), float(items[2][-1])) == (7.0, 2.0)


async def test_large_items_of_any_kind_arrive(rc: Client) -> None:
    def large() -> Iterator[Any]:
        yield b"x" * 3_000_000
        yield "small"
        yield {"a": np.arange(400_000), "b": [np.ones(3), "y" * 100_000]}
        yield np.arange(10)[::2]

    items = [item async for item in rc[0].stream(large)]
    assert items[0] == b"x" * 3_000_000
    assert items[1] == "small"
    assert items[2]["a"].tolist() == list(range(400_000))
    assert items[2]["b"][1] == "y" * 100_000
    assert items[3].tolist() == [0, 2, 4, 6, 8]


# --- as they are yielded, and no more than asked for --------------------------------------------------


@pytest.mark.parametrize("f", [then_sleeps, then_spins, then_waits, then_blocks])
async def test_items_are_here_before_the_next_one_is_yielded(rc: Client, f: Any) -> None:
    """Also while the generator blocks the engine's loop; and leaving ends it there."""
    async with asyncio.timeout(DEADLINE):
        async for item in rc[0].stream(f, note):
            if item == 4:
                break
        ended = await noted(rc, "ended")
    assert ended in ("CallCancelled", "CancelledError", "anyhow")


@pytest.mark.parametrize("f", [endless, endless_async])
async def test_an_endless_generator_is_held_up(rc: Client, f: Any) -> None:
    """It goes a few batches ahead of the loop, and there it waits."""
    async with rc[0].stream(f, note) as stream:
        for taken in (1, 2, 700):
            while await anext(stream) < taken:
                pass
            assert taken <= await settled(rc) <= taken + 1500


async def test_large_items_are_held_up_sooner(rc: Client) -> None:
    def arrays() -> Iterator[Any]:
        for i in range(1000):
            note("made", i)
            yield np.full(1 << 18, i)

    async with rc[0].stream(arrays) as stream:
        assert (await anext(stream))[0] == 0
        assert await settled(rc) <= 4


async def test_other_calls_run_between_items(rc: Client) -> None:
    async with rc[0].stream(endless, note) as stream, rc[0].stream(count_async, 10**9) as other:
        for _ in range(1000):
            await anext(stream)
            await anext(other)
        assert await rc[0].apply_async(abs, -3) == 3


# --- errors -------------------------------------------------------------------------------------------


def fails_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise ZeroDivisionError("no more")


async def fails_after_async(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
    raise ZeroDivisionError("no more")


@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize("f", [fails_after, fails_after_async])
async def test_an_error_comes_after_the_items_before_it(rc: Client, f: Any, n: int) -> None:
    got: list[int] = []
    with pytest.raises(ZeroDivisionError, match="no more") as caught:
        await collect(rc[0].stream(f, n), got)
    assert got == list(range(n))
    assert isinstance(caught.value, RemoteError)


async def test_an_error_on_one_engine_ends_the_others(rc: Client, tmp_path: Path) -> None:
    await rc[:].scatter("which", range(2), flatten=True)
    begun = str(tmp_path / "begun")

    def one_fails() -> Iterator[int]:
        import os
        import time

        me: int = which  # type: ignore[name-defined]
        if me == 0:
            os.mkdir(begun)
        try:
            for i in range(100_000_000):
                if me == 1 and i == 3:
                    while not os.path.exists(begun):  # The other one has something to end.
                        time.sleep(0.005)
                    raise KeyError(me)
                yield i
        finally:
            note("ended", True)

    got: list[tuple[int, int]] = []
    with pytest.raises(CompositeError) as caught:
        await collect(rc[:].stream(one_fails), got)
    assert [item for engine, item in got if engine == 1] == [0, 1, 2]
    assert [type(error).__mro__[2] for error in caught.value.exceptions] == [KeyError]
    await noted(rc, "ended", 0)


async def test_what_can_not_travel_is_named(rc: Client) -> None:
    def yields_a_lock() -> Iterator[Any]:
        import threading

        yield 1
        yield {"lock": threading.Lock()}

    stream = rc[0].stream(yields_a_lock)
    assert await anext(stream) == 1
    with pytest.raises(SerializationError, match=r"an item of yields_a_lock.*'lock'"):
        await anext(stream)
    with pytest.raises(SerializationError, match="argument 1 of <lambda>"):
        rc[0].stream(lambda lock: [lock], (i for i in range(3)))


async def test_what_is_no_iterator_is_refused(rc: Client) -> None:
    with pytest.raises(TypeError, match=r"stream takes a generator function.*<lambda> returned int"):
        await collect(rc[0].stream(lambda: 0), [])  # type: ignore[call-overload]
    with pytest.raises(ZeroDivisionError):
        await collect(rc[0].stream(lambda: range(1 // 0)), [])


async def test_a_generator_as_a_plain_result_is_told_of_streams(rc: Client) -> None:
    for f in (count, count_async):
        with pytest.raises(SerializationError, match=r"view\.stream"):
            await rc[0].apply_async(f, 3)


async def test_aborting_it_tells_who_iterates(rc: Client) -> None:
    stream = rc[0].stream(then_waits, note)
    assert [await anext(stream) for _ in range(5)] == list(range(5))
    asyncio.get_running_loop().call_later(0.05, rc.abort, stream.msg_ids)
    with pytest.raises(TaskAborted):
        await anext(stream)
    assert await noted(rc, "ended") == "CancelledError"


@pytest.mark.parametrize("f", [then_sleeps, then_waits])
async def test_a_time_limit_counts_for_the_whole_stream(rc: Client, f: Any) -> None:
    got: list[int] = []
    with pytest.raises(TaskTimeout, match=r"then_\w+ on engine 0 .* time limit of 0.3 s"):
        await collect(rc[0].options(time_limit=0.3).stream(f, note), got)
    assert got == list(range(5))
    await noted(rc, "ended")


async def test_the_end_of_an_engine_ends_its_streams(own_folders: Path) -> None:
    def ends() -> Iterator[int]:
        yield 1
        time.sleep(0.1)
        os._exit(3)

    async with Cluster(n=1) as rc:
        stream = rc[0].stream(ends)
        with pytest.raises(EngineError, match="3"):
            await collect(stream, [])
        assert [item async for item in stream] == []


# --- what is known of it ------------------------------------------------------------------------------


async def test_output_is_there_while_it_runs(rc: Client) -> None:
    def talks() -> Iterator[int]:
        print("begins", flush=True)
        yield 1
        print("goes on", file=sys.stderr, flush=True)
        yield 2

    stream = rc[0].stream(talks)
    assert await anext(stream) == 1
    assert stream.stdout == "begins\n"
    assert [item async for item in stream] == [2]
    assert (stream.stdout, stream.stderr) == ("begins\n", "goes on\n")
    both = rc[:].stream(talks)
    assert repr(both) == "<Stream(talks) from [0, 1]: open>"
    assert len([item async for item in both]) == 4
    assert both.stdout == ["begins\n"] * 2
    assert (len(both.msg_ids), both.targets) == (2, [0, 1])
    assert repr(both) == "<Stream(talks) from [0, 1]: ended>"


async def test_a_stream_is_one_call_in_the_history(rc: Client) -> None:
    """However many batches it takes; nor do they push other results out of the client's memory."""
    view = rc[0]
    before = len(rc.history)
    stream = view.stream(count, 3000)
    assert rc.outstanding == set(stream.msg_ids)
    async for _ in stream:
        pass
    assert rc.history[before:] == stream.msg_ids
    assert view.history == stream.msg_ids
    assert list(rc.results)[-1:] == stream.msg_ids


# --- blocking -----------------------------------------------------------------------------------------


async def test_a_loop_that_is_needed_is_not_blocked(rc: Client) -> None:
    stream = rc[0].stream(count, 3)
    with pytest.raises(WouldBlockLoop, match="async for"):
        for _ in stream:
            pass
    with pytest.raises(WouldBlockLoop, match="async for"):
        next(stream)
    assert await asyncio.to_thread(list, stream) == [0, 1, 2]


def test_blocking_iteration(cluster: Cluster) -> None:
    """`for`, `list`, `zip`, on one engine and on both; leaving ends it."""
    with Client(cluster.connection_file) as rc:
        assert list(rc[0].stream(count, 1000)) == list(range(1000))
        assert sorted(rc[:].stream(count, 2)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert list(zip(range(3), rc[0].stream(endless, note), strict=False)) == [(0, 1), (1, 2), (2, 3)]
        for item in rc[0].stream(endless, note):
            if item == 1000:
                break
        assert rc[0].apply_sync(abs, -1) == 1
        with pytest.raises(ZeroDivisionError):
            list(rc[0].stream(fails_after, 3))
        deadline = time.monotonic() + DEADLINE
        while rc.queue_status(0)["tasks"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert rc.queue_status(0)["tasks"] == 0
        rc[:].clear(block=True)


def test_a_plain_clients_stream_can_be_awaited_on_any_loop(cluster: Cluster) -> None:
    with Client(cluster.connection_file) as rc:
        stream = rc[0].stream(count, 5)

        async def two() -> list[int]:
            return [await anext(stream), await anext(stream)]

        assert asyncio.run(two()) == [0, 1]
        assert asyncio.run(two()) == [2, 3]
        assert list(stream) == [4]
