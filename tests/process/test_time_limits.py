"""Time limits of views: at the limit waiters are told, the call ends on the engine, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import AsyncResult, Client, Cluster, TaskTimeout
from directview import TimeoutError as NotReady
from tests.process.held import hold

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 40.0
LONG = 60.0


@pytest.fixture
async def rc(cluster: Cluster) -> AsyncIterator[Client]:
    """A client on the test's loop. After the test the engines are the same ones, and free."""
    async with Client(cluster.connection_file) as client:
        pids = await client[:].apply_async(os.getpid)
        yield client
        async with asyncio.timeout(DEADLINE):
            assert await client[:].apply_async(os.getpid) == pids
        assert client.outstanding == set()
        await client[:].clear()


def sleeps() -> None:
    time.sleep(LONG)


def spins() -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pass


async def waits() -> None:
    await asyncio.sleep(LONG)


def doubled(items: Any) -> Any:
    return 2 * items


def naps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def naps_forever() -> Iterator[int]:
    time.sleep(LONG)
    yield 1


def swallows(until: Path) -> str:
    end = time.monotonic() + LONG
    while time.monotonic() < end and not os.path.exists(until):
        try:
            time.sleep(0.05)
        except BaseException:  # noqa: BLE001 - as careless code does
            continue
    return "to the end"


@pytest.mark.parametrize("function", [sleeps, spins, waits, swallows], ids=lambda f: f.__name__)
async def test_at_the_limit_the_call_ends(rc: Client, function: Callable[..., Any], tmp_path: Path) -> None:
    """Whether or not it obeys, its waiters are told; nobody takes that for a poll that is not ready."""
    given = [tmp_path / "enough"] if function is swallows else []
    result = rc[0].options(time_limit=0.2).apply_async(function, *given)
    with pytest.raises(TaskTimeout) as caught:
        await result
    assert str(caught.value) == f"{function.__name__} on engine 0 was ended at its time limit of 0.2 s"
    assert not isinstance(caught.value, TimeoutError)
    assert result.done()
    assert not result.cancelled()
    if function is swallows:
        assert result["status"] == "cancelled, still running"
    (tmp_path / "enough").touch()
    await result.abort_async()
    assert isinstance(result.exception(), TaskTimeout)
    assert isinstance(rc.get_result(result.msg_ids).exception(), TaskTimeout)


async def test_waiting_for_a_turn_counts(rc: Client, tmp_path: Path) -> None:
    """A call whose time is up before it starts never does."""
    first = rc[0].apply_async(hold, tmp_path / "go on")
    queued = [rc[0].options(time_limit=0.1).execute("ran = True") for _ in range(50)]
    for result in queued:
        with pytest.raises(TaskTimeout):
            await result
    assert not first.done()
    await rc.query("status")  # The answer comes after the controller has passed on that they are not to run.
    (tmp_path / "go on").touch()
    await first
    assert await rc[0].pull_async("globals().get('ran')") is None
    assert [result["started"] for result in queued] == [None] * 50


async def test_what_is_in_time_is_not_touched(rc: Client) -> None:
    """And leaves no timer behind."""
    view = rc[:].options(time_limit=DEADLINE)
    results: list[AsyncResult[Any]] = [view.apply_async(abs, -i) for i in range(200)]
    for i, result in enumerate(results):
        assert await result == [i, i]
        assert result._timer is None


async def test_every_operation_has_the_limit(rc: Client, tmp_path: Path) -> None:
    view = rc[:].options(time_limit=0.2)
    blocked = rc[:].apply_async(hold, tmp_path / "go on")
    results: list[AsyncResult[Any]] = [
        view.execute("pass"),
        view.push_async({"a": 1}),
        view.pull_async("a"),
        view.scatter_async("b", range(10)),
        view.gather_async("b"),
        view.map_async(abs, range(10)),
        view.parallel(block=False)(doubled)(np.arange(10.0)),
        view.remote(block=False)(doubled)(np.arange(3.0)),
    ]
    for result in results:
        with pytest.raises(TaskTimeout, match=r"0\.2 s"):
            await result
    assert not blocked.done()
    (tmp_path / "go on").touch()
    await blocked


async def test_the_parts_of_a_result_are_told_too(rc: Client) -> None:
    """An engine that was in time has its value; of the others each part says that the time was up."""
    await rc[:].scatter_async("seconds", [0.0, LONG], flatten=True)
    view = rc[:].options(time_limit=2.0)
    result = view.apply_async(lambda: naps(seconds))  # type: ignore[name-defined]
    zero, one = result.split()
    with pytest.raises(TaskTimeout, match="on engine 1 was ended"):
        await one
    assert await zero == 0.0
    with pytest.raises(TaskTimeout):
        await result
    late = result.split()[1]
    with pytest.raises(TaskTimeout):
        late.get(0)
    listed: list[Any] = result.get(0, return_exceptions=True)
    assert [type(value) for value in listed] == [float, TaskTimeout]
    got: list[Any] = []
    with pytest.raises(TaskTimeout):
        await collect(view.map_async(naps, [0.0, LONG]), got)
    assert got == [0.0]


async def collect(items: AsyncResult[Any], got: list[Any]) -> None:
    async for item in items:
        got.append(item)  # noqa: PERF401 - they are to be there when it raises


async def test_flags_of_views(rc: Client) -> None:
    view = rc[0]
    assert view.options().time_limit is None
    view.time_limit = float(np.float32(2))
    assert view.time_limit == 2.0
    with view.temp_flags(time_limit=0.1):
        assert view.options().time_limit == 0.1
        with pytest.raises(TaskTimeout):
            await view.apply_async(sleeps)
    assert view.time_limit == 2.0
    assert view.options(time_limit=float("inf")).time_limit is None
    view.set_flags(time_limit=None)
    assert view.options().time_limit is None
    view.set_flags(time_limit=np.float32(0.5))
    assert view.options().time_limit == 0.5
    assert rc.direct_view(0, time_limit=3).time_limit == 3.0


@pytest.mark.parametrize(
    ("limit", "error", "text"),
    [
        (0, ValueError, "above 0"),
        (-1.5, ValueError, "-1.5"),
        (float("nan"), ValueError, "nan"),
        ("5", TypeError, "'5'"),
        (True, TypeError, "True"),
        ([1], TypeError, "number of seconds"),
    ],
)
async def test_limits_that_make_no_sense_are_named(rc: Client, limit: Any, error: type, text: str) -> None:
    """And nothing is changed."""
    view = rc[0].options(time_limit=5)
    for give in (
        lambda: view.options(time_limit=limit),
        lambda: view.set_flags(time_limit=limit),
        lambda: setattr(view, "time_limit", limit),
        lambda: rc.direct_view(0, time_limit=limit),
    ):
        with pytest.raises(error, match=rf"time_limit: .*{text}"):
            give()
    assert view.time_limit == 5.0


def test_blocking_waits_end_at_the_limit(cluster: Cluster) -> None:
    """`get(timeout)` polls as ever, and the limit ends the loop around it."""
    with Client(cluster.connection_file) as rc:
        view = rc[0].options(time_limit=0.3)
        with pytest.raises(TaskTimeout):
            view.apply_sync(sleeps)
        result = view.apply_async(sleeps)
        polls = 0
        with pytest.raises(TaskTimeout):  # noqa: PT012
            while True:
                try:
                    result.get(0.05)
                except NotReady:
                    polls += 1
        assert polls > 1
        result.abort()
        with pytest.raises(TaskTimeout):
            next(view.stream(naps_forever))
        rc.wait(timeout=DEADLINE)
