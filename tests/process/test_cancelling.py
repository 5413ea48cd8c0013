"""Cancelling, from an await in the program to the function on the engine; and what calls print meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from directview import AsyncResult, Client, Cluster, TaskAborted
from tests.process.held import hold

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 40.0
LONG = 60.0
"""Seconds that a call would take if nobody cancelled it."""


@pytest.fixture
async def rc(cluster: Cluster) -> AsyncIterator[Client]:
    """A client on the test's loop. After the test, the engines are the same ones and as they were."""
    async with Client(cluster.connection_file) as client:
        pids = await client[:].apply_async(os.getpid)
        await client[:].execute("kept = 'kept'")
        yield client
        assert await client[:].pull_async("kept") == ["kept", "kept"]
        assert await client[:].apply_async(os.getpid) == pids
        assert (await client.queue_status_async(0)).items() >= {"queue": 0, "tasks": 0}.items()
        await client[:].clear()


async def until(condition: Callable[[], Any]) -> Any:
    """Poll until `condition` gives something true, which is returned."""
    async with asyncio.timeout(DEADLINE):
        while not (found := condition()):  # noqa: ASYNC110 - nothing here could set an event
            await asyncio.sleep(0.005)
    return found


async def running(result: AsyncResult[Any]) -> AsyncResult[Any]:
    """Wait until the call has said that it runs."""
    await until(lambda: "runs" in str(result.stdout))
    return result


async def cancelled_await(result: AsyncResult[Any]) -> None:
    """Wait for it in a task, which is cancelled; its own error is asyncio's."""
    task = asyncio.ensure_future(awaited(result))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def awaited(result: AsyncResult[Any]) -> Any:
    return await result


def sleeps() -> None:
    print("runs")
    time.sleep(LONG)


def spins() -> None:
    print("runs")
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pass


def swallows() -> str:
    """Takes the interrupt for an error of its own, twice."""
    print("runs")
    caught = 0
    while caught < 2:
        try:
            time.sleep(LONG)
        except BaseException:  # noqa: BLE001 - as careless code does
            caught += 1
    time.sleep(LONG)
    return "to the end"


async def coroutine() -> None:
    print("runs")
    try:
        await asyncio.sleep(LONG)
    finally:
        print("cleaned up")


async def coroutine_that_blocks() -> None:
    print("runs")
    await asyncio.sleep(0)
    time.sleep(LONG)  # noqa: ASYNC251 - as careless code does


async def coroutine_with_tasks() -> None:
    print("runs")
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asyncio.sleep(LONG))


def joins_a_thread() -> None:
    print("runs")
    thread = threading.Thread(target=time.sleep, args=(1,), daemon=True)
    thread.start()
    threading.Event().wait(LONG)


# --- cancelling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [sleeps, spins, swallows, coroutine, coroutine_that_blocks, coroutine_with_tasks, joins_a_thread],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("how", ["await", "cancel"])
async def test_a_running_call_is_ended(rc: Client, function: Any, how: str) -> None:
    """Whatever it is doing; waiters get TaskAborted; the engine goes on with the next."""
    result = await running(rc[0].apply_async(function))
    following = rc[0].apply_async(abs, -1)
    if how == "await":
        await cancelled_await(result)
    else:
        assert result.cancel()
        assert not result.cancel()
    assert result.done()
    assert result.cancelled()
    with pytest.raises(TaskAborted):
        await result
    async with asyncio.timeout(DEADLINE):
        assert await following == 1
        await result.abort_async()  # The engine's word.
    assert result["status"] == "aborted"
    assert result["started"] <= result["completed"]
    if function is coroutine:
        assert result.stdout == "runs\ncleaned up\n"


def refuses(until: Path) -> str:
    """Swallows whatever comes, until there is such a file."""
    print("runs")
    end = time.monotonic() + LONG
    while time.monotonic() < end and not os.path.exists(until):
        try:
            time.sleep(0.01)
        except BaseException:  # noqa: BLE001 - as careless code does
            continue
    return "to the end"


async def test_a_call_that_does_not_give_in_is_told_of(rc: Client, tmp_path: Path) -> None:
    """Its waiters are free at once; the abort says that it still runs, and ends when the call does."""
    result = await running(rc[0].apply_async(refuses, tmp_path / "enough"))
    with pytest.raises(TimeoutError, match="refuses was cancelled, and is still running on engine 0"):
        await result.abort_async(0.1)
    assert result.cancelled()
    assert result["status"] == "cancelled, still running"
    with pytest.raises(TimeoutError, match="still running on engine 0"):
        await asyncio.to_thread(result.abort, 0.1)
    (tmp_path / "enough").touch()
    await result.abort_async()
    assert result["status"] in ("ok", "aborted")


@pytest.mark.parametrize("function", [sleeps, spins, coroutine], ids=lambda f: f.__name__)
async def test_a_call_that_is_cancelled_last_of_all_is_ended(
    cluster: Cluster, rc: Client, function: Any
) -> None:
    """Its client closes at once: the engine is free all the same."""
    async with Client(cluster.connection_file) as leaving:
        result = await running(leaving[0].apply_async(function))
        result.cancel()
    async with asyncio.timeout(DEADLINE):
        assert await rc[0].apply_async(abs, -2) == 2


async def test_a_queued_call_never_starts(rc: Client) -> None:
    """Whether it waits at the controller, or has been given to the busy engine."""
    first = await running(rc[0].apply_async(sleeps))
    queued = [rc[0].execute(f"ran = {i}") for i in range(400)]
    last = rc[0].pull_async("globals().get('ran')")
    for result in queued:
        await cancelled_await(result)
    first.cancel()
    assert await last is None
    for result in queued:
        async with asyncio.timeout(DEADLINE):
            await result.abort_async()
        assert (result["status"], result["started"]) == ("aborted", None)


async def test_only_the_last_waiter_cancels(rc: Client, tmp_path: Path) -> None:
    """Another await, a shield, a callback, a timeout of a blocking wait: then the call goes on."""
    go_on = [tmp_path / name for name in "abc"]
    result = await running(rc[0].apply_async(hold, go_on[0], "done"))
    other = asyncio.ensure_future(awaited(result))
    await asyncio.sleep(0)
    await cancelled_await(result)
    go_on[0].touch()
    assert await other == "done"
    shielded = await running(rc[0].apply_async(hold, go_on[1], "done"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(awaited(shielded))), 0.01)
    go_on[1].touch()
    assert await shielded == "done"
    blocked = rc[0].apply_async(hold, go_on[2], "done")
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(blocked.get, 0.01)
    go_on[2].touch()
    assert await blocked == "done"


async def test_a_timeout_of_the_program_cancels(rc: Client) -> None:
    """`asyncio.timeout`, `wait_for`, and a task group that fails beside."""
    result = await running(rc[0].apply_async(sleeps))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await result
    assert result.cancelled()
    result = await running(rc[0].apply_async(sleeps))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(result, 0.01)
    assert result.cancelled()
    results = [await running(rc[i].apply_async(coroutine)) for i in (0, 1)]

    async def fails() -> None:
        raise ZeroDivisionError

    async def program() -> None:
        async with asyncio.TaskGroup() as group:
            for each in results:
                group.create_task(awaited(each))
            await asyncio.sleep(0)
            group.create_task(fails())

    with pytest.raises(ExceptionGroup) as caught:
        await program()
    assert caught.group_contains(ZeroDivisionError)
    for each in results:
        await each.abort_async()
        assert each.stdout == "runs\ncleaned up\n"


async def test_waiters_of_a_cancelled_call_are_told(rc: Client) -> None:
    """With TaskAborted, which does not cancel their own tasks; on several engines too."""
    result = await running(rc[:].apply_async(coroutine))
    waiters = [asyncio.ensure_future(awaited(result)) for _ in range(3)]
    blocked = asyncio.ensure_future(asyncio.to_thread(result.exception))
    await asyncio.sleep(0.05)
    result.cancel()
    for outcome in await asyncio.gather(*waiters, blocked, return_exceptions=True):
        assert isinstance(outcome, TaskAborted)
    async with asyncio.timeout(DEADLINE):
        await result.abort_async()


async def test_client_abort_ends_what_is_outstanding(rc: Client) -> None:
    """All of it, or that of some engines."""
    zero, one = await running(rc[0].apply_async(sleeps)), await running(rc[1].apply_async(coroutine))
    rc.abort(targets=0)
    assert (zero.cancelled(), one.done()) == (True, False)
    rc.abort()
    assert one.cancelled()
    await zero.abort_async()
    await one.abort_async()
    assert rc.outstanding == set()


async def test_cancelling_at_every_moment_hits_only_the_cancelled(rc: Client) -> None:
    """Hundreds of calls, each second one cancelled somewhere between its start and its end."""

    def work(i: int) -> int:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        return i

    outcomes = []
    for start in range(0, 400, 20):
        results = [rc[0].apply_async(work, i) for i in range(start, start + 20)]
        for result in results[::2]:
            await asyncio.sleep(0.001)
            result.cancel()
        outcomes += await asyncio.gather(*map(awaited, results), return_exceptions=True)
    assert outcomes[1::2] == list(range(1, 400, 2))
    for i, outcome in zip(range(0, 400, 2), outcomes[::2], strict=True):
        assert outcome == i or isinstance(outcome, TaskAborted)
    assert await rc[0].apply_async(work, -1) == -1


# --- output -----------------------------------------------------------------------------------------------


async def test_output_arrives_while_a_call_runs(rc: Client, tmp_path: Path) -> None:
    """Line by line, of a plain function too; standard error apart."""

    def talks(folder: Path) -> None:
        for i in range(3):
            print("line", i)
            while not os.path.exists(f"{folder}/{i}"):
                time.sleep(0.01)
        print("oops", file=sys.stderr)
        print("no newline", end="", flush=True)
        time.sleep(LONG)

    result = rc[0].apply_async(talks, tmp_path)
    for i in range(3):
        await until(lambda: f"line {i}\n" in result.stdout)  # noqa: B023 - awaited here
        assert f"line {i + 1}\n" not in result.stdout
        (tmp_path / str(i)).touch()
    await until(lambda: result.stdout.endswith("no newline"))
    assert (result.stdout, result.stderr) == ("line 0\nline 1\nline 2\nno newline", "oops\n")
    assert not result.done()
    result.cancel()
    await result.abort_async()


async def test_output_is_whole_and_in_order(rc: Client) -> None:
    """Megabytes in small and large pieces, all there before the result."""

    def pours() -> int:
        for i in range(20_000):
            print(i)
        print("x" * 3_000_000)
        sys.stdout.write("ünïcödé\n")
        sys.stdout.buffer.write("bÿtes\n".encode())
        return 1

    result = rc[0].apply_async(pours)
    assert await result == 1
    expected = "".join([f"{i}\n" for i in range(20_000)]) + "x" * 3_000_000 + "\nünïcödé\nbÿtes\n"
    assert result.stdout == expected


async def test_output_belongs_to_the_call_that_printed(rc: Client) -> None:
    """Of coroutines that interleave, of their tasks and threads; what nobody prints goes nowhere."""

    async def talks(name: str) -> None:
        async def inner() -> None:
            print(name, "task")

        print(name, "begins")
        await asyncio.sleep(0.02)
        await asyncio.create_task(inner())
        await asyncio.to_thread(print, name, "thread")
        print(name, "ends")

    def starts_a_thread() -> None:
        thread = threading.Thread(target=print, args=("bare thread",))
        thread.start()
        thread.join()

    def fails() -> None:
        print("before")
        raise ZeroDivisionError

    results = [rc[0].apply_async(talks, f"call {i}") for i in range(20)]
    plain = rc[0].apply_async(starts_a_thread)
    await asyncio.gather(*map(awaited, results))
    for i, result in enumerate(results):
        said = [f"call {i} {what}" for what in ("begins", "task", "thread", "ends")]
        assert result.stdout.splitlines() == said
    await plain
    assert plain.stdout == "bare thread\n"
    both = rc[:].apply_async(print, "hi")
    await both
    assert both.stdout == ["hi\n", "hi\n"]
    failing = rc[1].apply_async(fails)
    with pytest.raises(ZeroDivisionError):
        await failing
    assert failing.stdout == "before\n"
