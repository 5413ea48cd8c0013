"""The controller's history of calls, calls made again, and the end of engines: with real engines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import (
    AsyncHubResult,
    AsyncMapResult,
    AsyncResult,
    Client,
    Cluster,
    EngineError,
    LaunchError,
    TaskAborted,
    WouldBlockLoop,
)
from directview.testing.polling import until
from tests.process.held import hold

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 30.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Three engines for the module."""
    with Cluster(n=3) as client:
        yield client


# --- the history ----------------------------------------------------------------------------------------


def test_records_of_calls(rc: Client) -> None:
    """Of every client; by what they were, when, and how they ended."""
    before = datetime.now(UTC)
    with Client(rc.cluster.connection_file) as other:  # type: ignore[union-attr]
        theirs = other[1].apply_async(abs, -1)
        theirs.get(DEADLINE)
        ours = rc[:].apply_async(time.sleep, 0.05)
        ours.get(DEADLINE)
        failed = rc[2].execute("1/0")
        failed.wait(DEADLINE)
        names = [*theirs.msg_ids, *ours.msg_ids, *failed.msg_ids]
        assert rc.hub_history()[-5:] == other.hub_history()[-5:] == names
        (record,) = rc.db_query({"msg_id": ours.msg_ids[1]})
        assert (record["engine_id"], record["name"], record["status"]) == (1, "sleep", "ok")
        assert record["client_uuid"] == rc.client_uuid
        assert before < record["submitted"] <= record["started"] < record["completed"] <= record["received"]
        assert record["completed"] - record["started"] >= timedelta(seconds=0.05)
        assert ours.metadata[1]["engine_uuid"] == record["engine_uuid"]
        assert record["nbytes"] > 0
        since: dict[str, Any] = {"submitted": {"$gte": before}}
        assert [r["msg_id"] for r in rc.db_query({**since, "status": "error"})] == failed.msg_ids
        assert rc.db_query({**since, "engine_id": {"$in": [1]}, "name": {"$ne": "sleep"}}, "name") == [
            {"msg_id": theirs.msg_ids[0], "name": "abs"}
        ]
        wanted = {"$or": [{"client_uuid": other.client_uuid}, {"name": "sleep", "engine_id": {"$lt": 1}}]}
        assert [r["msg_id"] for r in rc.db_query({**since, **wanted}, keys=["status"])] == [
            names[0],
            names[1],
        ]
    until(lambda: len(rc.db_query({"msg_id": theirs.msg_ids[0]})) == 1)


def test_records_of_what_goes_on_and_of_what_was_aborted(rc: Client) -> None:
    running = rc[0].apply_async(time.sleep, 60)
    waiting = rc[0].apply_async(abs, -1)
    mine = {"msg_id": {"$in": [*running.msg_ids, *waiting.msg_ids]}}
    assert [r["status"] for r in rc.db_query(mine, "status")] == [None, None]
    listed = rc.queue_status(0, verbose=True)
    assert listed["queue"] + listed["tasks"] == running.msg_ids + waiting.msg_ids
    rc.abort(block=True)
    assert [r["status"] for r in rc.db_query(mine, "status")] == ["aborted", "aborted"]
    assert set(rc.queue_status(0, verbose=True)["completed"]) >= {*running.msg_ids, *waiting.msg_ids}
    with pytest.raises(TaskAborted):
        running.get()


def test_wrong_queries(rc: Client) -> None:
    for query, keys, error in (
        ({"colour": 1}, None, "no field 'colour'; there is msg_id"),
        ({}, ["colour"], "no field 'colour'; there is msg_id"),
        ({"name": {"$regex": "f"}}, None, r"no operator '\$regex'; there is \$lt"),
        ({"name": 5}, None, "name is text: it can't be compared with 5"),
        ({"name": object()}, None, "compares with text, numbers, datetimes and None"),
        ("name", None, "a query is a dict of fields"),
    ):
        with pytest.raises(ValueError, match=error):
            rc.db_query(query, keys)  # type: ignore[arg-type]


def test_records_are_purged_with_the_results(rc: Client, tmp_path: Path) -> None:
    first, second = rc[:].apply_async(abs, -1), rc[1].apply_async(abs, -2)
    rc.wait([first, second])
    rc.purge_hub_results(first)
    assert rc.hub_history()[-1:] == second.msg_ids
    assert not set(rc.hub_history()).intersection(first.msg_ids)
    assert rc.results[first.msg_ids[0]] == 1
    rc[1].purge_results(targets="all")
    assert second.msg_ids[0] not in rc.results
    assert rc.db_query({"engine_id": 1}) == []
    running = rc[0].apply_async(hold, tmp_path / "go on")
    with pytest.raises(ValueError, match=f"call {running.msg_ids[0]} has not ended"):
        rc.purge_hub_results(running)
    rc.purge_everything()
    assert rc.hub_history() == rc.history == running.msg_ids
    (tmp_path / "go on").touch()
    running.get(DEADLINE)


async def test_all_of_it_can_be_awaited_on_a_bound_client(rc: Client) -> None:
    async with Client(rc.cluster.connection_file) as bound:  # type: ignore[union-attr]
        result = bound[:].apply_async(abs, -1)
        assert await bound.wait_async(result, DEADLINE)
        assert (await bound.hub_history_async())[-3:] == result.msg_ids
        assert len(await bound.db_query_async({"client_uuid": bound.client_uuid})) == 3
        assert (await bound[1].queue_status_async()).keys() == {"queue", "tasks", "completed"}
        again = bound.resubmit(result)
        assert await again == [1, 1, 1]
        await bound[:].clear_async()
        running = bound[:].apply_async(time.sleep, 60)
        assert not await bound[:].wait_async(running, 0.05)
        await bound.abort_async(running, [0])
        assert [part.cancelled() for part in running.split()] == [True, False, False]
        await bound[:].abort_async()
        await bound[:].purge_results_async(result)
        await bound.purge_hub_results_async(again)
        await bound.purge_everything_async()
        assert bound.history == []
        for blocking in (
            bound.hub_history, bound.db_query, bound.queue_status, bound.purge_results, bound.abort_sync,
            bound.purge_hub_results, bound.purge_everything, bound.resubmit_sync, bound.clear_sync,
        ):  # fmt: skip
            with pytest.raises(WouldBlockLoop, match="await"):
                blocking()


# --- made again -----------------------------------------------------------------------------------------


def test_calls_are_made_again(rc: Client) -> None:
    """On the same engines, in their namespaces of today, under new names."""
    view = rc[:]
    view.push({"a": 1}, block=True)
    ask = view.apply_async(lambda x: (a, x), 5)  # type: ignore[name-defined]
    assert ask.get(DEADLINE) == [(1, 5)] * 3
    view.push({"a": 2}, block=True)
    again = rc.resubmit(ask)
    assert type(again) is AsyncResult
    assert again.get(DEADLINE) == [(2, 5)] * 3
    assert not set(again.msg_ids).intersection(ask.msg_ids)
    assert again.targets == [0, 1, 2]
    assert rc.resubmit(ask.msg_ids[2], block=True) == (2, 5)
    assert rc.resubmit_sync([ask.msg_ids[2], ask.msg_ids[0]]) == [(2, 5), (2, 5)]
    assert rc.resubmit().get(DEADLINE) == [(2, 5), (2, 5)]
    assert rc.resubmit(-1).engine_id == [2, 0]


def test_what_is_made_again_is_joined_as_before(rc: Client) -> None:
    squares = rc[:].map_async(lambda x: x**2, range(7))
    squares.get(DEADLINE)
    again = rc.resubmit(squares)
    assert isinstance(again, AsyncMapResult)
    assert list(again) == [0, 1, 4, 9, 16, 25, 36]
    rc[:].scatter("part", list(range(7)), block=True)
    gathered = rc[:].gather("part")
    assert gathered.get(DEADLINE) == list(range(7))
    assert rc.resubmit(gathered, block=True) == list(range(7))
    assert rc.resubmit(squares.split()[1]).get(DEADLINE) == squares.split()[1].get()
    failed = rc[1].execute("1/0")
    failed.wait(DEADLINE)
    with pytest.raises(ZeroDivisionError):
        rc.resubmit_sync(failed)


def test_what_can_not_be_made_again(rc: Client, tmp_path: Path) -> None:
    running = rc[0].apply_async(hold, tmp_path / "go on")
    with pytest.raises(RuntimeError, match=f"call {running.msg_ids[0]} has not ended"):
        rc.resubmit(running)
    (tmp_path / "go on").touch()
    running.get(DEADLINE)
    large = rc[0].apply_async(len, np.zeros(1 << 18))
    assert large.get(DEADLINE) == 1 << 18
    with pytest.raises(KeyError, match=r"function and arguments of call .* not kept any more: .* 16 MiB"):
        rc.resubmit(large)
    with pytest.raises(KeyError, match="another client"):
        rc.resubmit("f" * 32 + "_1_0")
    rc.purge_everything()
    with pytest.raises(KeyError, match="are not kept any more"):
        rc.resubmit(running)


# --- the end of engines ---------------------------------------------------------------------------------


def restarted(rc: Client, engine: int, before: int) -> bool:
    """Whether this client has heard of another process under the engine's id."""
    info = rc.engine_infos.get(engine)
    return info is not None and info.pid != before


def test_engines_are_restarted_and_killed_by_a_client(own_folders: Path) -> None:
    with Cluster(n=2) as own:
        own[:].push({"a": 1}, block=True)
        pids = own[:].apply_sync(os.getpid)
        running = own[1].apply_async(time.sleep, 60)
        restarting = own.shutdown(1, restart=True)
        assert isinstance(restarting, AsyncHubResult)
        restarting.get(DEADLINE)
        with pytest.raises(EngineError, match="engine 1"):
            running.get(DEADLINE)
        until(lambda: restarted(own, 1, pids[1]))
        assert own[:].pull("'a' in globals()", block=True) == [True, False]
        with pytest.raises(IndexError, match="no engine 7"):
            own.shutdown([7], restart=True)
        # Another client finds the cluster by its file.
        with Client(own.cluster.connection_file) as other:  # type: ignore[union-attr]
            other.shutdown_sync([0], restart=True)
            until(lambda: restarted(other, 0, pids[0]) and restarted(own, 0, pids[0]))
        with pytest.raises(ValueError, match="restart and hub"):
            own.shutdown(restart=True, hub=True)
        own[0].apply_sync(os.getpid)  # It has told this client what it is: calls go there at once.
        running = own[0].apply_async(time.sleep, 60)
        own[0].kill(block=True)
        # The signal doesn't wait for the call to begin.
        how = r"engine 0 was killed by SIGKILL( while running sleep|; sleep had not started)"
        with pytest.raises(EngineError, match=how):
            running.get(DEADLINE)
        until(lambda: own.ids == [1])
        with pytest.raises(IndexError, match="engine 0, on which the call was made, is not there any more"):
            own.resubmit(running)
        (record,) = own.db_query({"msg_id": running.msg_ids[0]})
        assert record["status"] == "lost"
        own.shutdown_sync()
        until(lambda: own.ids == [])


def test_a_store_outlives_its_controller(own_folders: Path, tmp_path: Path) -> None:
    store = tmp_path / "calls.db"
    with Cluster(n=2, store=store) as own:
        own[:].map_sync(abs, range(10))
        failed = own[0].execute("1/0")
        failed.wait(DEADLINE)
        assert [r["status"] for r in own.db_query(keys="status")] == ["ok", "ok", "error"]
        running = own[1].apply_async(time.sleep, 60)
        assert own.db_query({"status": None}, "name") == [{"msg_id": running.msg_ids[0], "name": "sleep"}]
        own.purge_hub_results(failed)
        with pytest.raises(ValueError, match="has not ended"):
            own.purge_hub_results(running)
    with Cluster(n=1, store=store) as own:
        own[0].apply_sync(abs, -1)
        found = own.db_query(keys=["name", "status"])
        assert [record["name"] for record in found] == ["abs", "abs", "sleep", "abs"]
        assert found[2]["status"] in ("lost", "dropped")
        assert own.hub_history()[2] == running.msg_ids[0]
        own.purge_everything()
        assert own.hub_history() == []
    with pytest.raises(LaunchError, match=f"can't keep the history of calls in {tmp_path}"):
        Cluster(n=1, store=tmp_path).start_cluster_sync()
