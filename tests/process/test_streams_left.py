"""Streams that are left before their end: the generator ends too, however it was left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from directview import Client, ClientClosed, Cluster, Stream
from directview.controller.options import ControllerOptions
from tests.process.held import hold
from tests.process.streaming import (
    DEADLINE,
    LONG,
    collect,
    endless,
    endless_async,
    note,
    noted,
    nothing_runs,
    tidy_client,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
async def rc(cluster: Cluster) -> AsyncIterator[Client]:
    async with tidy_client(cluster) as client:
        yield client


async def leave_by_break(stream: Stream[int]) -> None:
    async for item in stream:
        if item > 10:
            break


async def leave_by_exception(stream: Stream[int]) -> None:
    try:
        async for item in stream:
            assert 1 // (item - 10) < 2
    except ZeroDivisionError:
        return
    raise AssertionError("it has ended")


async def leave_by_cancelling(stream: Stream[int]) -> None:
    begun = asyncio.Event()

    async def reads() -> None:
        async for _ in stream:
            begun.set()

    task = asyncio.create_task(reads())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_aclose(stream: Stream[int]) -> None:
    await anext(stream)
    await stream.aclose()
    await stream.aclose()


async def leave_by_close(stream: Stream[int]) -> None:
    await anext(stream)
    stream.close()


async def leave_by_a_block(stream: Stream[int]) -> None:
    async with stream:
        await anext(stream)
    with stream:
        pass


LEAVING = [
    leave_by_break,
    leave_by_exception,
    leave_by_cancelling,
    leave_by_aclose,
    leave_by_close,
    leave_by_a_block,
]


@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("f", [endless, endless_async])
async def test_leaving_ends_the_generator(rc: Client, f: Any, leave: Any) -> None:
    """Its `finally` runs, and further iterations end at once."""
    stream = rc[0].stream(f, note)
    await leave(stream)
    await noted(rc, "ended")
    assert [item async for item in stream] == []
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await nothing_runs(rc)


async def test_dropping_it_ends_the_generator(rc: Client) -> None:
    stream = rc[:].stream(endless, note)
    await anext(stream)
    for engine in (0, 1):  # the item came from one of them; the other may not have begun
        await noted(rc, "made", engine)
    del stream
    await noted(rc, "ended", 0)
    await noted(rc, "ended", 1)


async def test_leaving_before_it_has_begun(rc: Client, tmp_path: Path) -> None:
    busy = rc[0].apply_async(hold, tmp_path / "go on")
    rc[0].stream(endless, note).close()
    await rc.query("status")  # the answer comes after the controller has passed all that on
    (tmp_path / "go on").touch()
    await busy
    await nothing_runs(rc)
    assert await rc[0].pull_async("globals().get('made')") is None


async def test_leaving_while_another_call_blocks_the_engine(rc: Client) -> None:
    """Interrupts that come in that time are for a generator that does not run: it is closed all the same."""

    def says() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            print("closed")

    stream = rc[0].stream(says)
    await anext(stream)
    busy = rc[0].apply_async(time.sleep, 0.6)
    async with asyncio.timeout(DEADLINE):
        await stream.aclose()
    assert stream.stdout == "closed\n"
    await busy


async def test_aclose_waits_for_the_cleaning_up(rc: Client) -> None:
    async def tidy() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0.3)
            note("ended", "tidy")

    stream = rc[0].stream(tidy)
    await anext(stream)
    await stream.aclose()
    assert await rc[0].pull_async("ended") == "tidy"


async def test_what_surrounds_a_yield_stays_in_one_task(rc: Client) -> None:
    """Timeouts, task groups and context variables of an async generator last over its yields."""

    async def timed() -> AsyncIterator[int]:
        async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(0.01, 5))
            yield 1
            yield await task
            yield 6

    assert [item async for item in rc[0].stream(timed)] == [1, 5, 6]


async def test_a_client_that_goes_leaves_no_generator(rc: Client, cluster: Cluster) -> None:
    """One that says goodbye, and one that is killed."""
    async with Client(cluster.connection_file) as other:
        stream = other[0].stream(endless_async, note)
        await anext(stream)
    await noted(rc, "ended")
    await rc[0].clear()
    items: list[int] = []
    with pytest.raises((ClientClosed, StopAsyncIteration)):
        await collect(stream, items)
    program = textwrap.dedent(
        f"""
        import os, signal
        from directview import Client
        from directview.operations import namespace
        def endless():
            try:
                while True:
                    yield 1
            finally:
                namespace()["ended"] = "killed"
        rc = Client({str(cluster.connection_file)!r})
        for item in rc[0].stream(endless):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], timeout=DEADLINE, check=False
    )
    assert done.returncode == -9
    assert await noted(rc, "ended") == "killed"


def test_a_client_that_is_cut_off_misses_no_item(cluster: Cluster) -> None:
    """It was paused until the controller gave its connection up, and comes back."""
    program = textwrap.dedent(
        """
        import sys, time
        from directview import Client
        def ticks():
            for i in range(3000):
                if i % 3 == 0:
                    time.sleep(0.001)
                yield i
        with Client(sys.argv[1]) as rc:
            seen = []
            for item in rc[0].stream(ticks):
                seen.append(item)
                if item == 500:
                    print("half way", flush=True)
            print(seen == list(range(3000)), flush=True)
        """
    )
    command = [sys.executable, "-c", program, str(cluster.connection_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "half way\n"
        os.kill(client.pid, signal.SIGSTOP)
        time.sleep(1.5 * ControllerOptions(folder="", cluster_id="").heartbeat_timeout)
        os.kill(client.pid, signal.SIGCONT)
        assert client.stdout.readline() == "True\n"
