"""Every cell of the tables in docs/explanation/failures.md is produced by real processes; none can drift."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from directview import (
    AsyncResult,
    Client,
    ClientClosed,
    Cluster,
    ControllerLost,
    EngineError,
    NoEnginesRegistered,
)
from directview.supervisor.control import SupervisorFile, request
from directview.testing.polling import until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "failures.md"
DEADLINE = 40.0
LONG = 6.0
"""Seconds that the running call takes: longer than the lease of a lost client."""
WINDOW = 256
"""Calls that an engine is given ahead of what it runs; what is beyond is queued."""
CREDIT = 1024
"""Calls that a client may have on their way to one engine; what is beyond is held."""


def tables() -> list[dict[str, dict[str, str]]]:
    """The page's tables: row → column → cell."""
    found: list[dict[str, dict[str, str]]] = []
    columns: list[str] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells[1:]
            found.append({})
        elif not set(cells[0]) <= {"-"}:
            found[-1][cells[0]] = dict(zip(columns, cells[1:], strict=True))
    return found


DIRECT, ORPHANED, BALANCED = tables()


# --- what runs ----------------------------------------------------------------------------------------


def work(folder: str, name: str, seconds: float = 0.0) -> str:
    """Says that it begins and that it ends, in files."""
    with open(f"{folder}/{name}.began", "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    with open(f"{folder}/{name}.ended", "a") as file:
        file.write(f"{os.getpid()}\n")
    return name


def gone(rc: Client, pid: int) -> bool:
    """Whether no engine is known that is this process."""
    return pid not in [info.pid for info in rc.engine_infos.values()]


def began(folder: Path, name: str) -> list[int]:
    """The processes in which it began."""
    path = folder / f"{name}.began"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@dataclass
class World:
    """A cluster of two engines, and one client's calls in every state on the first of them."""

    cluster: Cluster
    rc: Client
    folder: Path
    results: dict[str, AsyncResult[Any]]

    def supervisor(self) -> dict[str, Any]:
        """What the supervisor knows."""
        file = SupervisorFile.read(Path(self.cluster.connection_file).parent)
        assert file is not None
        found: dict[str, Any] = asyncio.run(request(file.control, "status"))
        return found

    def engine_pid(self, id: int = 0) -> int:
        return self.rc.engine_infos[id].pid


def calls_in_every_state(rc: Client, folder: Path) -> dict[str, AsyncResult[Any]]:
    """One call of each: it has ended, it runs, it was handed over, it is queued, it is held."""
    view = rc[0]
    results = {"ended": view.apply_async(work, str(folder), "ended")}
    results["ended"].wait(DEADLINE)
    results["running"] = view.apply_async(work, str(folder), "running", LONG)
    until(lambda: began(folder, "running"), "the call that runs")
    results["handed over"] = view.apply_async(work, str(folder), "handed over")
    for _ in range(WINDOW):
        view.apply_async(abs, -1)._look()
    results["queued"] = view.apply_async(work, str(folder), "queued")
    for _ in range(CREDIT):
        view.apply_async(abs, -1)._look()
    results["held"] = view.apply_async(work, str(folder), "held")
    rc.queue_status(0)  # What is answered after all that has left before it.
    return results


@pytest.fixture
def world(own_folders: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with Cluster(n=2, resilient="resilient" in request.param) as rc:
        assert rc.cluster is not None
        yield World(rc.cluster, rc, tmp_path, calls_in_every_state(rc, tmp_path))


# --- who dies -----------------------------------------------------------------------------------------


def kill_controller(world: World) -> None:
    os.kill(world.supervisor()["controller"], signal.SIGKILL)


ANOTHER = """\
import sys, time
from directview import Client
with Client(sys.argv[1]) as rc:
    rc[:].apply_async(abs, -1)
    print("there", flush=True)
    time.sleep(100)
"""


def kill_another_client(world: World) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", ANOTHER, world.cluster.connection_file], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    with other.stdout:
        assert other.stdout.readline() == b"there\n"
        other.kill()
        other.wait()


DEATHS: dict[str, Callable[[World], object]] = {
    "the engine was killed": lambda world: os.kill(world.engine_pid(), signal.SIGKILL),
    "the engine froze for longer than a heartbeat": lambda world: os.kill(world.engine_pid(), signal.SIGSTOP),
    "the engine was restarted": lambda world: world.cluster.restart_engine_sync(0),
    "the controller was killed": kill_controller,
    "the controller was killed, and is resilient": kill_controller,
    "the supervisor was killed": lambda world: os.kill(world.supervisor()["pid"], signal.SIGKILL),
    "the cluster was stopped": lambda world: world.cluster.stop_cluster_sync(),
    "the client was closed": lambda world: world.rc.close(),
    "another client was killed": kill_another_client,
}


def end_of(result: AsyncResult[Any], name: str, folder: Path) -> str:
    """What became of a call, in the words of the table."""
    error = result.exception(DEADLINE)
    if error is None:
        assert result.get() == name
        assert len(began(folder, name)) == 1 or name.startswith("retried")
        return "the result"
    if isinstance(error, EngineError):
        if not error.started:
            assert not began(folder, name)
        return f"EngineError, {'may have run' if error.started else 'has not run'}"
    assert type(error) in (ControllerLost, ClientClosed, NoEnginesRegistered), repr(error)
    return type(error).__name__


def test_the_page_has_a_row_for_every_death() -> None:
    assert set(DIRECT) == set(DEATHS)
    assert set(BALANCED) == {"the engine was killed", "all engines were killed"}


@pytest.mark.parametrize("world", DIRECT, indirect=True)
def test_a_row_of_the_table(world: World, request: pytest.FixtureRequest) -> None:
    row = request.node.callspec.params["world"]
    DEATHS[row](world)
    found = {state: end_of(result, state, world.folder) for state, result in world.results.items()}
    assert found == DIRECT[row]


ORPHANING = """\
import sys, time
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from directview import Client
from test_failure_table import calls_in_every_state
import cloudpickle, test_failure_table
cloudpickle.register_pickle_by_value(test_failure_table)
with Client(sys.argv[1]) as rc:
    results = calls_in_every_state(rc, Path(sys.argv[2]))
    print("made", flush=True)
    time.sleep(100)
"""


def test_what_a_killed_client_leaves(own_folders: Path, tmp_path: Path) -> None:
    """What has begun goes on to its end, and nothing else begins."""
    waiting = ("held", "queued", "handed over")
    states = {**dict.fromkeys(waiting, "never runs"), "running": "runs to its end"}
    assert {"the client was killed": states} == ORPHANED
    with Cluster(n=1) as rc:
        assert rc.cluster is not None
        arguments = [rc.cluster.connection_file, str(tmp_path), str(Path(__file__).parent)]
        client = subprocess.Popen([sys.executable, "-c", ORPHANING, *arguments], stdout=subprocess.PIPE)
        assert client.stdout is not None
        with client.stdout:
            assert client.stdout.readline() == b"made\n"
            client.kill()
            client.wait()
        until(lambda: (tmp_path / "running.ended").exists(), "the end of what ran")
        # An engine runs calls in order: whatever of the dead client's were still there would have run before.
        assert rc[0].apply_async(abs, -1).get(DEADLINE) == 1
        assert not any([began(tmp_path, name) for name in waiting])


# --- load-balanced calls ------------------------------------------------------------------------------


def balanced_calls(rc: Client, folder: Path) -> dict[str, AsyncResult[Any]]:
    """One call that runs on each engine, the second with retries, and one that waits for any of them."""
    view, stubborn = rc.load_balanced_view(), rc.load_balanced_view(retries=2)
    results = {"running": view.apply_async(work, str(folder), "running", LONG)}
    until(lambda: began(folder, "running"), "the first call")
    results["running, with retries"] = stubborn.apply_async(work, str(folder), "retried", LONG)
    until(lambda: began(folder, "retried"), "the second call")
    results["waiting"] = view.apply_async(work, str(folder), "waiting")
    return results


@pytest.mark.parametrize("row", BALANCED)
def test_a_row_of_the_table_of_balanced_calls(own_folders: Path, tmp_path: Path, row: str) -> None:
    with Cluster(n=2) as rc:
        results = balanced_calls(rc, tmp_path)
        pids = [began(tmp_path, name)[0] for name in ("running", "retried")]
        assert len(set(pids)) == 2
        if row == "the engine was killed":
            # One after the other, and another one in its place: there is always somebody to go to.
            assert rc.cluster is not None
            for pid in pids:
                rc.cluster.start_engines_sync(1)
                rc.wait_for_engines(3, DEADLINE)
                os.kill(pid, signal.SIGKILL)
                until(functools.partial(gone, rc, pid), "its end")
        else:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        names = {"running": "running", "running, with retries": "retried", "waiting": "waiting"}
        for state, cell in BALANCED[row].items():
            end = end_of(results[state], names[state], tmp_path)
            assert re.fullmatch(f"{cell}(, .*)?", end), (state, end)
