"""An engine that is told to end does so in order, also while a call blocks its loop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from directview import AsyncResult, Client, Cluster, EngineError
from directview.operations import namespace

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 20.0
LONG = 60.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """A cluster whose engine 0 is restarted again and again."""
    with Cluster(n=1) as rc:
        yield rc


def running(result: AsyncResult[Any]) -> AsyncResult[Any]:
    """Wait until the call has said that it runs."""
    deadline = time.monotonic() + DEADLINE
    while "runs" not in str(result.stdout):
        assert time.monotonic() < deadline, "the call does not begin"
        time.sleep(0.005)
    return result


def restart(rc: Client) -> None:
    """End engine 0, whatever it does, and have another in its place."""
    assert rc.cluster is not None
    rc.cluster.restart_engine_sync(0)
    rc.wait_for_engines(1, timeout=DEADLINE)  # that this client has heard of it too


def sleeps(end: Path) -> None:
    try:
        print("runs")
        time.sleep(LONG)
    finally:
        print("cleans up")
        end.write_text("in order")


def spins(end: Path) -> None:
    until = time.monotonic() + LONG
    try:
        print("runs")
        while time.monotonic() < until:
            sum(range(50))  # On 3.13.0 nothing is caught that a signal raises at the end of a bare `pass`.
    finally:
        print("cleans up")
        end.write_text("in order")


def prints(end: Path) -> None:
    until = time.monotonic() + LONG
    try:
        while time.monotonic() < until:
            print("runs")
    finally:
        print("cleans up")
        end.write_text("in order")


async def blocks(end: Path) -> None:
    try:
        print("runs")
        time.sleep(LONG)  # noqa: ASYNC251 - as careless code does
    finally:
        print("cleans up")
        end.write_text("in order")  # noqa: ASYNC240


async def waits(end: Path) -> None:
    import asyncio

    try:
        print("runs")
        await asyncio.sleep(LONG)
    finally:
        print("cleans up")
        end.write_text("in order")  # noqa: ASYNC240


def yields(end: Path) -> Iterator[int]:
    try:
        print("runs")
        yield 1
        time.sleep(LONG)
    finally:
        end.write_text("in order")


def swallows() -> None:
    print("runs")
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        try:
            time.sleep(LONG)
        except BaseException:  # noqa: BLE001 - as careless code does
            continue


@pytest.mark.parametrize("function", [sleeps, spins, prints, blocks, waits], ids=lambda f: f.__name__)
def test_a_busy_engine_is_stopped_in_order(rc: Client, tmp_path: Path, function: Callable[..., Any]) -> None:
    """The call's `finally` blocks run, and it ends as what it is: a call whose engine has ended."""
    end = tmp_path / "end"
    codes: list[int | None] = []
    stop_listening = rc.on_engine_left(lambda event: codes.append(event.exit_code))
    result = running(rc[0].apply_async(function, end))
    waiting = rc[0].execute("waiting = 'it began'") if function is not waits else result
    restart(rc)
    for each in (result, waiting):
        with pytest.raises(EngineError) as caught:
            each.get(DEADLINE)
        assert caught.value.exit_code in (0, None)
    assert end.read_text() == "in order"
    assert rc[0].apply_async(lambda: "waiting" in namespace()).get(DEADLINE) is False
    deadline = time.monotonic() + DEADLINE
    while not codes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert codes[0] in (0, None), "it had to be killed"
    stop_listening()


def test_a_stream_that_blocks_is_stopped_in_order(rc: Client, tmp_path: Path) -> None:
    stream = rc[0].stream(yields, tmp_path / "end")
    assert next(stream) == 1
    restart(rc)
    with pytest.raises(EngineError):
        next(stream)
    assert (tmp_path / "end").read_text() == "in order"


def test_an_engine_that_does_not_give_in_is_killed(rc: Client) -> None:
    result = running(rc[0].apply_async(swallows))
    restart(rc)
    with pytest.raises(EngineError) as caught:
        result.get(DEADLINE)
    assert caught.value.exit_code == -signal.SIGKILL


def test_a_signal_that_comes_between_calls_ends_it_as_well(rc: Client) -> None:
    """At any moment of a burst of small calls; what had ended has its result, the others are told."""
    for round in range(5):
        results = [rc[0].apply_async(abs, -i) for i in range(3000)]
        results[100 * round].get(DEADLINE)
        restart(rc)
        for i, result in enumerate(results):
            assert isinstance(result.exception(DEADLINE), EngineError) or result.get(DEADLINE) == i


def test_a_cluster_with_busy_engines_stops_in_order(own_folders: Path, tmp_path: Path) -> None:
    with Cluster(n=2) as rc:
        ends = [tmp_path / "0", tmp_path / "1"]
        results = [running(rc[i].apply_async(spins, ends[i])) for i in (0, 1)]
    assert [end.read_text() for end in ends] == ["in order", "in order"]
    assert all(result.exception(DEADLINE) is not None for result in results)
