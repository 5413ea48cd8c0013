"""Calls by their names, results asked for again, signals, events: with real engines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import (
    AsyncHubResult,
    AsyncMapResult,
    AsyncResult,
    BroadcastView,
    Client,
    Cluster,
    CompositeError,
    DirectView,
    EngineError,
    EngineEvent,
    Many,
    TaskAborted,
)
from tests.process.held import hold

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 30.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Four engines for the module."""
    with Cluster(n=4) as client:
        yield client


@pytest.fixture
def v(rc: Client) -> DirectView[Many]:
    return rc[:]


# --- names ----------------------------------------------------------------------------------------------


def test_history_and_outstanding_name_calls(rc: Client, v: DirectView[Many], tmp_path: Path) -> None:
    before = len(rc.history)
    result = v.apply_async(hold, tmp_path / "go on")
    other = rc[0].apply_async(abs, -1)
    assert rc.history[before:] == result.msg_ids + other.msg_ids
    assert set(result.msg_ids) <= rc.outstanding
    assert v.history == result.msg_ids
    assert v.outstanding <= set(v.history)
    (tmp_path / "go on").touch()
    result.get(DEADLINE)
    other.get(DEADLINE)
    assert v.outstanding == rc.outstanding == set()


def test_wait_takes_results_names_indices_and_mixtures(rc: Client, v: DirectView[Many]) -> None:
    results = [v.apply_async(time.sleep, 0.05) for _ in range(3)]
    strange: concurrent.futures.Future[int] = concurrent.futures.Future()
    assert rc.wait(results[0].msg_ids[2], DEADLINE)
    assert v.wait((results[0], results[1].msg_ids[1], -1), DEADLINE)
    assert all(result.ready() for result in (results[0], results[2]))
    assert not rc.wait([strange, results[1]], 0.01)
    strange.set_result(1)
    assert rc.wait([strange, len(rc.history) - 1, *results[1].msg_ids], DEADLINE)
    assert v.wait(timeout=DEADLINE)
    assert rc.wait(np.int64(-1), DEADLINE)
    with pytest.raises(IndexError, match="of a history of"):
        rc.wait(10**6)
    with pytest.raises(KeyError, match="another client"):
        rc.wait("f" * 32 + "_1_0")
    with pytest.raises(KeyError, match="there was no call"):
        rc.wait(f"{rc.client_uuid}_{10**9}_0")
    with pytest.raises(KeyError, match="did not go to engine 77"):
        rc.wait(results[0].msg_ids[0][:-1] + "77")
    with pytest.raises(ValueError, match="not a msg_id"):
        rc.wait("nonsense")
    with pytest.raises(TypeError, match="expected AsyncResults, Futures, msg_ids"):
        rc.wait([1.5])


def test_a_call_is_outstanding_as_soon_as_it_is_made(rc: Client, v: DirectView[Many]) -> None:
    """Also while the client's thread has not yet seen it."""
    for _ in range(100):
        result = v.apply_async(abs, -1)
        assert rc.wait(timeout=DEADLINE)
        assert result.ready()


# --- results again --------------------------------------------------------------------------------------


def test_results_can_be_asked_for_again(rc: Client, v: DirectView[Many], tmp_path: Path) -> None:
    """Those of blocking calls and of dropped results too; whole, in part, or joined."""
    v.scatter("rank", range(4), flatten=True, block=True)
    assert v.pull("rank", block=True) == [0, 1, 2, 3]
    again = rc.get_result()
    assert again.get() == [0, 1, 2, 3]
    assert rc.get_result(-1).get() == rc.get_result(len(rc.history) - 2).get() == [0, 1, 2, 3]
    ids = again.msg_ids
    assert rc.get_result(ids[2]).get() == 2
    assert rc.get_result(ids).get() == [0, 1, 2, 3]
    assert rc.get_result([ids[3], ids[1]]).get() == [3, 1]
    assert rc.get_result(again) is again
    assert again.elapsed < DEADLINE
    mapped = v.map_async(abs, range(-5, 0))
    found = rc.get_result(mapped.msg_ids, block=True)
    assert isinstance(found, AsyncMapResult)
    assert list(found) == [5, 4, 3, 2, 1]
    joined = rc.get_result([mapped.msg_ids[0], again, -1])
    assert len(joined) == 1 + 4 + 4
    running = v.apply_async(hold, tmp_path / "go on")
    assert rc.get_result(running.msg_ids) is running
    assert rc.get_result(running.msg_ids[1]) is running.split()[1]
    assert not running.ready()
    (tmp_path / "go on").touch()
    running.get(DEADLINE)
    with pytest.raises(ValueError, match="at least one"):
        rc.get_result([])


def test_a_view_counts_its_own_results(rc: Client, v: DirectView[Many]) -> None:
    for number in range(3):
        v.apply_async(lambda x: x, number)
        rc[0].apply_async(abs, -7)
    assert [v.get_result(index, block=True).get() for index in (0, 1, -1)] == [[0] * 4, [1] * 4, [2] * 4]
    assert v.get_result(block=True).get() == [2] * 4
    assert v.get_result(v.history[0], block=True).get() == 0
    with pytest.raises(IndexError, match="result 3 of a view that has made 3 calls"):
        v.get_result(3)


def test_errors_come_again(rc: Client) -> None:
    rc[1].execute("1/0").wait()
    with pytest.raises(ZeroDivisionError):
        rc.get_result().get()
    failed = rc[:].execute("1/0")
    failed.wait()
    with pytest.raises(CompositeError):
        rc.get_result(-1).get()
    with pytest.raises(ZeroDivisionError):
        rc.get_result(failed.msg_ids[0]).get()
    assert isinstance(rc.results[failed.msg_ids[0]], ZeroDivisionError)


def test_results_and_metadata_by_name(rc: Client, v: DirectView[Many], tmp_path: Path) -> None:
    def say() -> int:
        print("said")
        return 5

    result = v.apply_async(say)
    result.get(DEADLINE)
    name = result.msg_ids[3]
    assert rc.results[name] == v.results[name] == 5
    assert name in rc.results
    assert list(rc.results)[-4:] == result.msg_ids
    assert len(rc.results) >= 4
    assert rc.metadata[name]["engine_id"] == 3
    assert rc.metadata[name]["stdout"] == "said\n"
    running = v.apply_async(hold, tmp_path / "go on")
    assert rc.metadata[running.msg_ids[0]]["status"] is None
    assert set(running.msg_ids) <= set(rc.metadata)
    with pytest.raises(KeyError, match="has not ended"):
        rc.results[running.msg_ids[0]]
    (tmp_path / "go on").touch()
    running.get(DEADLINE)


def test_result_status_says_what_has_ended(rc: Client, v: DirectView[Many], tmp_path: Path) -> None:
    done, running = v.apply_async(abs, -1), v.apply_async(hold, tmp_path / "go on")
    done.get(DEADLINE)
    status = rc.result_status([done.msg_ids[0], running])
    assert status == {"completed": [done.msg_ids[0]], "pending": running.msg_ids}
    assert rc.result_status(done.msg_ids, status_only=False)[done.msg_ids[1]] == 1
    assert len(rc.result_status(-1)["pending"]) == 4
    (tmp_path / "go on").touch()
    running.get(DEADLINE)
    failed = v.execute("1/0")
    failed.wait()
    with pytest.raises(CompositeError):
        rc.result_status(failed.msg_ids, status_only=False)
    with pytest.raises(ZeroDivisionError):
        rc.result_status(failed.msg_ids[0], status_only=False)


def test_large_results_are_not_kept(rc: Client) -> None:
    """They are free as soon as the user lets go of them."""
    result = rc[0].apply_async(np.zeros, 10 << 20)
    assert result.get(DEADLINE).nbytes == 80 << 20
    assert rc.result_status(result.msg_ids)["completed"] == result.msg_ids
    assert rc.wait(result.msg_ids)
    with pytest.raises(KeyError, match="not kept any more, or was too large"):
        rc.get_result(result.msg_ids)


def test_results_can_be_purged(rc: Client, v: DirectView[Many], tmp_path: Path) -> None:
    first, second = v.apply_async(abs, -1), rc[2].apply_async(abs, -2)
    rc.wait([first, second])
    v.purge_results(first)
    with pytest.raises(KeyError):
        rc.results[first.msg_ids[0]]
    assert rc.results[second.msg_ids[0]] == 2
    rc.purge_local_results(targets=2)
    assert second.msg_ids[0] not in rc.results
    third = v.apply_async(hold, tmp_path / "go on")
    with pytest.raises(RuntimeError, match="has not ended"):
        rc.purge_results(third)
    rc.purge_results("all")
    assert len(rc.results) == 0
    rc.purge_everything()
    assert rc.history == third.msg_ids
    (tmp_path / "go on").touch()
    third.get(DEADLINE)
    assert len(rc.results) == 4


# --- ending calls ---------------------------------------------------------------------------------------


def test_abort_by_name_by_engine_and_waiting(rc: Client, v: DirectView[Many]) -> None:
    running = v.apply_async(time.sleep, 60)
    v.abort(running.msg_ids[0], block=True)
    with pytest.raises(TaskAborted):
        rc.get_result(running.msg_ids[0]).get(0)
    rc.abort(targets=[1, 2], block=True)
    assert not running.done()
    assert [part.cancelled() for part in running.split()] == [True, True, True, False]
    rc.abort(block=True)
    assert running.done()
    assert v.apply_sync(abs, -1) == [1] * 4


# --- views and control ----------------------------------------------------------------------------------


def test_a_broadcast_view_is_a_view(rc: Client) -> None:
    view = rc.broadcast_view(is_coalescing=True, block=True)
    assert isinstance(view, BroadcastView)
    assert view.apply(abs, -1) == [1] * 4
    assert rc.broadcast_view([1, 3]).targets == [1, 3]
    view.use_dill()
    view.use_cloudpickle()
    view.use_pickle()


def test_clear_and_queue_status_for_some_engines(rc: Client, v: DirectView[Many]) -> None:
    v.push({"a": 1}, block=True)
    rc.clear([0, 1], block=True)
    assert v.pull("'a' in globals()", block=True) == [False, False, True, True]
    result = rc.clear()
    assert isinstance(result, AsyncResult)
    result.get(DEADLINE)
    assert v.pull("'a' in globals()", block=True) == [False] * 4
    status = rc.queue_status(2)
    assert rc[2].queue_status() == status
    assert (status["queue"], status["tasks"]) == (0, 0)
    assert status["completed"] > 0
    assert set(v.queue_status()) == {0, 1, 2, 3, "unassigned"}


async def test_control_can_be_awaited_on_a_bound_client(rc: Client) -> None:
    async with Client(rc.cluster.connection_file) as bound:  # type: ignore[union-attr]
        await bound[:].push_async({"a": 1})
        await bound.clear(2)
        assert await bound[:].pull_async("'a' in globals()") == [True, True, False, True]
        signalled = bound.send_signal("SIGCONT", 0)
        assert isinstance(signalled, AsyncHubResult)
        await signalled
        with pytest.raises(ValueError, match="'SIGNOTHING' is no signal"):
            bound.send_signal("SIGNOTHING")
        with pytest.raises(ValueError, match="0 is no signal"):
            bound.send_signal(0)


def test_without_dask_the_error_says_what_to_install(rc: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="pip install distributed"):
        rc.become_dask()
    with pytest.raises(ValueError, match="looked after by their supervisor"):
        rc.become_dask(nanny=True)


def test_progress_of_what_is_outstanding(rc: Client, v: DirectView[Many]) -> None:
    results = [v.apply_async(time.sleep, 0.05) for _ in range(2)]
    rc.wait_interactive(timeout=DEADLINE)
    assert all(result.ready() for result in results)
    rc.wait_interactive()
    rc.wait_interactive(results[0].msg_ids)


async def next_event(events: Any) -> EngineEvent:
    event = await asyncio.wait_for(anext(events), DEADLINE)
    assert isinstance(event, EngineEvent)
    return event


async def test_signals_and_events_of_a_cluster_of_ones_own(own_folders: Path) -> None:
    """An engine that is ended by a signal, one that joins, and the end of all."""
    async with Cluster(n=2) as own:
        left: asyncio.Queue[int] = asyncio.Queue()
        own.on_engine_left(lambda event: left.put_nowait(event.id))
        events = own.events()
        running = own[1].apply_async(time.sleep, 60)
        await own.send_signal(signal.SIGKILL, 1)
        event = await next_event(events)
        assert (event.kind, event.id, event.exit_code) == ("left", 1, -9)
        assert await asyncio.wait_for(left.get(), DEADLINE) == 1
        with pytest.raises(EngineError):
            await running
        assert own.ids == [0]
        assert own.cluster is not None
        await own.cluster.start_engines(1)
        event = await next_event(events)
        assert (event.kind, event.id) == ("joined", own.ids[-1])
        with pytest.raises(TypeError, match="a callback is a function"):
            own.on_engine_joined(7)  # type: ignore[arg-type]
        newest = own.ids[-1]
        await own.shutdown(newest)
        event = await next_event(events)
        assert (event.kind, event.id) == ("left", newest)
        assert own.ids == [0]
    assert [event.kind async for event in events] in ([], ["left"])
