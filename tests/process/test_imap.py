"""Lazy maps, on direct and load-balanced views, with real engines."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from directview import (
    Client,
    Cluster,
    DirectView,
    EngineError,
    LazyMap,
    LoadBalancedView,
    NoEnginesRegistered,
    RemoteError,
    WouldBlockLoop,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 30.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Four engines for the module."""
    with Cluster(n=4) as client:
        yield client


@pytest.fixture(params=["direct", "balanced"])
def v(request: pytest.FixtureRequest, rc: Client) -> DirectView[Any] | LoadBalancedView:
    return rc[:] if request.param == "direct" else rc.load_balanced_view()


def square(x: int) -> int:
    return x * x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class Counted:
    """Endless numbers, and how many of them were read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for x in itertools.count():
            self.read = x + 1
            yield x


def until_idle(rc: Client) -> None:
    """Wait until engines have nothing of ours."""
    deadline = time.monotonic() + DEADLINE
    while rc.outstanding:
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def until_over(rc: Client) -> None:
    """`until_idle` on an event loop."""
    async with asyncio.timeout(DEADLINE):
        while rc.outstanding:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


def test_results_come_in_order(v: LoadBalancedView) -> None:
    assert list(v.imap(square, range(100))) == [x * x for x in range(100)]
    assert list(v.imap(pow, range(5), [2, 2, 2])) == [0, 1, 4]
    assert list(v.imap(square, range(10), chunksize=3)) == [x * x for x in range(10)]
    assert list(v.imap(square, [])) == []
    assert list(v.imap(square, range(30), max_outstanding=0)) == [x * x for x in range(30)]


def test_results_come_as_they_arrive(rc: Client, v: LoadBalancedView) -> None:
    assert sorted(v.imap(square, range(100), ordered=False)) == [x * x for x in range(100)]
    times = [0.5, 0.0, 0.2]
    assert list(v.imap(nap, times, ordered=False)) == sorted(times)


def test_of_endless_items_a_few_are_read_ahead_and_leaving_the_loop_ends_it(
    rc: Client, v: LoadBalancedView
) -> None:
    items = Counted()
    most = 0
    for x, result in enumerate(v.imap(square, items, max_outstanding=7)):
        assert result == x * x
        most = max(most, len(rc.outstanding))
        assert items.read <= x + 8
        if x == 300:
            break
    assert most <= 7
    until_idle(rc)


def test_what_is_read_ahead_by_itself_is_bounded_too(rc: Client, v: LoadBalancedView) -> None:
    items = Counted()
    lazy = v.imap(square, items)
    for _ in range(3000):
        next(lazy)
    assert items.read < 3000 + 4 * 300
    lazy.close()
    assert list(lazy) == []
    until_idle(rc)


def test_leaving_cancels_what_runs(rc: Client, v: LoadBalancedView) -> None:
    lazy = v.imap(nap, itertools.chain([0.0], itertools.repeat(60.0)), ordered=False)
    assert next(lazy) == 0.0
    lazy.cancel()
    until_idle(rc)
    assert rc[:].apply_sync(square, 2) == [4] * 4
    with v.imap(nap, itertools.repeat(60.0)) as other:
        assert isinstance(other, LazyMap)
    until_idle(rc)
    v.imap(nap, itertools.repeat(60.0))  # dropped at once
    until_idle(rc)


def test_an_item_that_fails_raises_in_its_place_and_the_next_can_still_be_had(v: LoadBalancedView) -> None:
    def inverse(x: int) -> float:
        return 1 / x

    lazy = v.imap(inverse, [1, 0, 2])
    assert next(lazy) == 1
    with pytest.raises(ZeroDivisionError) as caught:
        next(lazy)
    assert isinstance(caught.value, RemoteError)
    assert list(lazy) == [0.5]
    found: list[Any] = list(v.imap(inverse, [1, 0, 2], return_exceptions=True))
    assert found[::2] == [1, 0.5]
    assert isinstance(found[1], ZeroDivisionError)


def test_an_error_of_the_items_themselves_comes_after_their_results(v: LoadBalancedView) -> None:
    def items() -> Iterator[Any]:
        yield 2
        yield 3
        raise LookupError("no more")

    lazy = v.imap(square, items())
    assert [next(lazy), next(lazy)] == [4, 9]
    with pytest.raises(LookupError, match="no more"):
        next(lazy)
    assert list(lazy) == []
    unsendable = v.imap(square, iter([1, threading.Lock()]))
    assert next(unsendable) == 1
    with pytest.raises(TypeError, match="lock"):
        next(unsendable)


@pytest.mark.parametrize("balanced", [False, True])
def test_when_all_engines_die_each_call_says_so_and_then_that_there_are_none(
    own_folders: Path, balanced: bool
) -> None:
    with Cluster(n=2) as rc:
        view: Any = rc.load_balanced_view() if balanced else rc[:]
        pids = rc[:].apply_sync(os.getpid)
        lazy = view.imap(nap, itertools.repeat(60.0), max_outstanding=2)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(EngineError, match="SIGKILL"):
                next(lazy)
        with pytest.raises(NoEnginesRegistered if balanced else (NoEnginesRegistered, EngineError)):
            next(lazy)


def test_bad_arguments(v: LoadBalancedView) -> None:
    with pytest.raises(TypeError, match="at least one sequence"):
        v.imap(square)
    with pytest.raises(TypeError, match="max_outstanding"):
        v.imap(square, [1], max_outstanding="many")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="max_outstanding"):
        v.imap(square, [1], max_outstanding=-1)
    with pytest.raises(ValueError, match="chunksize"):
        v.imap(square, [1], chunksize=0)


def test_with_a_progress_bar(
    v: LoadBalancedView, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # its thread would stay
    results = v.imap(square, range(50), ordered=False)
    assert sorted(tqdm(results, total=50)) == [x * x for x in range(50)]
    assert "50/50" in capsys.readouterr().err


def test_from_a_thread_while_an_event_loop_runs_here(rc: Client) -> None:
    """As in a notebook: a plain client blocks inside of a running loop too."""

    async def cell() -> list[int]:
        return sorted(rc.load_balanced_view().imap(square, range(20), ordered=False))

    assert asyncio.run(cell()) == [x * x for x in range(20)]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
async def test_awaited(rc: Client, balanced: bool, ordered: bool) -> None:
    async with Client(rc._info) as bound:
        view: Any = bound.load_balanced_view() if balanced else bound[:]
        found = []
        async for x in view.imap(square, itertools.count(), ordered=ordered):
            found.append(x)
            if len(found) == 200:
                break
        if ordered:
            assert found == [x * x for x in range(200)]
        assert len(set(found)) == 200
        await until_over(bound)
        lazy = view.imap(square, range(5), ordered=ordered)
        with pytest.raises(WouldBlockLoop, match="async for"):
            for _ in lazy:
                pass
        assert sorted([x async for x in lazy]) == [0, 1, 4, 9, 16]


async def test_a_task_that_is_cancelled_in_the_loop_leaves_nothing_running(rc: Client) -> None:
    async with Client(rc._info) as bound:
        begun = asyncio.Event()

        async def work() -> None:
            times = itertools.chain([0.0], itertools.repeat(60.0))
            async for _ in bound.load_balanced_view().imap(nap, times):
                begun.set()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await until_over(bound)
