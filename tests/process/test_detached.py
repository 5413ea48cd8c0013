"""Detached calls go on when their client is gone, and another client fetches their results by msg_id."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import directview.cluster
from directview import Client, Cluster, EngineError, ResultUnavailable, TaskAborted
from directview.controller.options import ControllerOptions
from directview.supervisor.control import SupervisorFile, request

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 20.0

PROGRAM = """\
import os, signal, sys, time
import numpy as np
from directview import Client

where, end = sys.argv[1:3]
rc = Client(where)

def slowly(value):
    import time
    time.sleep(0.5)
    return value

def fail():
    raise ValueError("as it should")

one = rc[0].options(detached=True)
both = rc[:].options(detached=True)
balanced = rc.load_balanced_view(detached=True)
results = {
    "slow": one.apply_async(slowly, 1),
    "queued": one.apply_async(abs, -2),
    "both": both.apply_async(slowly, "x"),
    "large": one.apply_async(lambda: np.arange(3_000_000)),
    "failed": one.apply_async(fail),
    "balanced": balanced.map_async(abs, [-1, -2, -3]),
    "ours": rc[1].apply_async(slowly, 3),
}
with one.temp_flags(detached=False):
    results["plain"] = one.apply_async(abs, -4)
for name, result in results.items():
    print(name, *result.msg_ids, flush=True)
for result in results.values():
    result.wait_for_send(20)
print("sent", flush=True)
if end == "close":
    rc.close()
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def crowd(own_folders: Path) -> Iterator[Cluster]:
    """Two engines."""
    with Cluster(n=2) as rc:
        assert rc.cluster is not None
        yield rc.cluster


def run(where: str, end: str, program: str = PROGRAM, *more: str) -> dict[str, list[str]]:
    """A client that makes calls and ends; their msg_ids."""
    said = subprocess.run(
        [sys.executable, "-c", program, where, end, *more], stdout=subprocess.PIPE, text=True, check=False
    )
    lines = said.stdout.splitlines()
    assert lines[-1] == "sent"
    return {name: ids for name, *ids in map(str.split, lines[:-1])}


@pytest.mark.parametrize("end", ["close", "kill"])
def test_what_is_detached_goes_on_and_is_fetched_by_another_client(crowd: Cluster, end: str) -> None:
    """However its client has ended: queued and running calls, small results and large ones, and errors."""
    calls = run(crowd.connection_file, end)
    with Client(crowd.connection_file) as rc:
        assert rc.get_result(calls["slow"][0]).get(DEADLINE) == 1
        assert rc.get_result(calls["queued"][0]).get(DEADLINE) == 2
        assert rc.get_result(calls["both"]).get(DEADLINE) == ["x", "x"]
        np.testing.assert_array_equal(rc.get_result(calls["large"][0]).get(DEADLINE), np.arange(3_000_000))
        with pytest.raises(ValueError, match="as it should"):
            rc.get_result(calls["failed"][0]).get(DEADLINE)
        assert rc.get_result(calls["balanced"]).get(DEADLINE) == [[1], [2], [3]]  # chunks of a map
        result = rc.get_result(calls["slow"][0])
        assert result.get(DEADLINE) == 1  # It can be fetched again.
        assert (result.msg_ids[0], result.engine_id, result.status) == (calls["slow"][0], 0, "ok")
        for name in ("ours", "plain"):
            with pytest.raises(ResultUnavailable, match="no detached call"):
                rc.get_result(calls[name][0]).get(DEADLINE)


def test_the_result_is_kept_though_its_own_client_has_taken_it(crowd: Cluster) -> None:
    """And a client that lives fetches its own as ever."""
    with Client(crowd.connection_file) as rc, Client(crowd.connection_file) as other:
        result = rc[0].options(detached=True).apply_async(lambda: np.ones(500_000))
        assert result.get(DEADLINE).sum() == 500_000
        assert other.get_result(result.msg_ids[0]).get(DEADLINE).sum() == 500_000
        rc.purge_results(result)
        with pytest.raises(ResultUnavailable, match="knows nothing of"):
            other.get_result(result.msg_ids[0]).get(DEADLINE)


def test_an_engine_that_dies_is_the_answer(crowd: Cluster) -> None:
    with Client(crowd.connection_file) as rc:
        crowd.start_engines_sync(1)
        rc.wait_for_engines(3, DEADLINE)
        id = rc.ids[-1]
        pid = rc[id].apply_sync(os.getpid)
        with Client(crowd.connection_file) as other:
            name = other[id].options(detached=True).apply_async(time.sleep, 60).msg_ids[0]
            other[id].options(detached=True).apply_async(abs, -1)
        end = time.monotonic() + DEADLINE
        while not rc.db_query({"msg_id": name}):  # What the other has sent may still be on its way.
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match=f"engine {id} was killed by SIGKILL") as caught:
            rc.get_result(name).get(DEADLINE)
        assert caught.value.started


def test_anybody_may_end_one(crowd: Cluster) -> None:
    """Not to wait for it any longer does not end it; to abort it does."""
    with Client(crowd.connection_file) as rc:
        with Client(crowd.connection_file) as other:
            running = other[0].options(detached=True).apply_async(time.sleep, 60).msg_ids[0]
            queued = other[0].options(detached=True).apply_async(abs, -1).msg_ids[0]
        end = time.monotonic() + DEADLINE
        while not rc.db_query({"msg_id": queued}):  # What the other has sent may still be on its way.
            assert time.monotonic() < end
            time.sleep(0.005)
        rc.get_result(running).cancel()
        rc.abort([queued, running])
        for name in (queued, running):
            with pytest.raises(TaskAborted):
                rc.get_result(name).get(DEADLINE)


def test_what_a_bound_has_dropped_says_so(own_folders: Path) -> None:
    with Cluster(n=1, detached_results=2, detached_bytes=1_000_000) as rc:
        view = rc[0].options(detached=True)
        results: list[Any] = [view.apply_async(abs, -number) for number in range(3)]
        results.append(view.apply_async(lambda: bytes(2_000_000)))
        names = [result.msg_ids[0] for result in results]
        for result in results:
            result.get(DEADLINE)
        assert rc.cluster is not None
        with rc.cluster.connect_client_sync() as other:
            with pytest.raises(ResultUnavailable, match="2 other calls have ended since"):
                other.get_result(names[0]).get(DEADLINE)
            assert other.get_result(names[1]).get(DEADLINE) == 1
            with pytest.raises(ResultUnavailable, match="are more than what is kept of results"):
                other.get_result(names[3]).get(DEADLINE)


def test_with_a_store_results_outlive_the_controller(own_folders: Path) -> None:
    store = own_folders / "calls.sqlite"
    with Cluster(n=2, store=store) as rc:
        assert rc.cluster is not None
        calls = run(rc.cluster.connection_file, "close")
        assert rc.get_result(calls["large"][0]).get(DEADLINE).size == 3_000_000
        assert rc.get_result(calls["both"]).get(DEADLINE) == ["x", "x"]
    with Cluster(n=1, store=store) as rc:
        np.testing.assert_array_equal(rc.get_result(calls["large"][0]).get(DEADLINE), np.arange(3_000_000))
        assert rc.get_result(calls["both"]).get(DEADLINE) == ["x", "x"]


OVER_A_CRASH = """\
import os, signal, sys, time
import numpy as np
from directview import Client

rc = Client(sys.argv[1])

def slowly(folder, name):
    import os, time
    with open(os.path.join(folder, name), "a") as file:
        file.write("ran\\n")
    while not os.path.exists(os.path.join(folder, "go on")):
        time.sleep(0.01)
    return name

one = rc[0].options(detached=True)
ended = one.apply_async(abs, -1)
large = one.apply_async(lambda: np.arange(500_000))
ended.get(20), large.get(20)
results = {
    "ended": ended,
    "large": large,
    "running": one.apply_async(slowly, sys.argv[2], "running"),
    "waiting": one.apply_async(slowly, sys.argv[2], "waiting"),
    "both": rc[:].options(detached=True).apply_async(slowly, sys.argv[2], "both"),
    "balanced": rc.load_balanced_view(detached=True).apply_async(abs, -2),
}
for name, result in results.items():
    print(name, *result.msg_ids, flush=True)
while not os.path.exists(os.path.join(sys.argv[2], "running")):
    time.sleep(0.01)
print("sent", flush=True)
if sys.argv[3] == "close":
    rc.close()
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["close", pytest.param("kill", marks=pytest.mark.slow)])
def test_what_is_detached_outlives_client_and_controller(
    own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The client goes, then the controller is killed: another client has every result, and each ran once."""
    short = functools.partial(ControllerOptions, lease=3.0)
    monkeypatch.setattr(directview.cluster, "ControllerOptions", short)
    with Cluster(n=2, resilient=True, store=own_folders / f"{end}.sqlite") as rc:
        assert rc.cluster is not None
        calls = run(rc.cluster.connection_file, str(tmp_path), OVER_A_CRASH, end)
        file = SupervisorFile.read(Path(rc.cluster.connection_file).parent)
        assert file is not None
        pid = asyncio.run(request(file.control, "status"))["controller"]
        os.kill(pid, signal.SIGKILL)
        (tmp_path / "go on").touch()
        with Client(rc.cluster.connection_file, timeout=DEADLINE) as other:
            other.wait_for_engines(2, DEADLINE)
            assert other.get_result(calls["ended"][0]).get(DEADLINE) == 1
            np.testing.assert_array_equal(
                other.get_result(calls["large"][0]).get(DEADLINE), np.arange(500_000)
            )
            assert other.get_result(calls["running"][0]).get(DEADLINE) == "running"
            assert other.get_result(calls["waiting"][0]).get(DEADLINE) == "waiting"
            assert other.get_result(calls["both"]).get(DEADLINE) == ["both", "both"]
            assert other.get_result(calls["balanced"][0]).get(DEADLINE) == 2
        assert asyncio.run(request(file.control, "status"))["controller"] not in (0, pid)
    ran = {name: len((tmp_path / name).read_text().split()) for name in ("running", "waiting", "both")}
    assert ran == {"running": 1, "waiting": 1, "both": 2}


def test_what_makes_no_sense_is_refused(crowd: Cluster) -> None:
    with Client(crowd.connection_file) as rc:
        with pytest.raises(ValueError, match="`retries` and `timeout` are this client's"):
            rc.load_balanced_view(detached=True, retries=1).apply_async(abs, -1)
        with pytest.raises(TypeError, match="detached: expected True or False"):
            rc[0].options(detached="yes")  # type: ignore[call-overload]
