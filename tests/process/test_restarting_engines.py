"""Engines that die are followed by others under their ids, which have done what `on_start` says."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from directview import Client, Cluster, EngineError, LaunchError
from directview.testing.polling import until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 20.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def written_in_main(source: str) -> Callable[[], Any]:
    """A function as a script or notebook has them: its global names are the engine's."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    return names["prepare"]  # type: ignore[no-any-return]


prepare = written_in_main("def prepare():\n    global weight\n    weight = 3\n    print('prepared')")


@pytest.fixture(scope="module")
def crowd(own_folders: Path) -> Iterator[Client]:
    """Two engines that are followed by others."""
    with Cluster(n=2, restart_engines=True, on_start=prepare) as client:
        yield client


def another(crowd: Client, id: int, uuid: bytes) -> bool:
    """Whether the place has been taken by another engine."""
    infos = crowd.engine_infos
    return id in infos and infos[id].uuid != uuid


def test_an_engine_that_dies_is_followed_under_its_id_and_is_prepared(crowd: Client) -> None:
    """The namespace is new, and what `on_start` puts into it is there."""
    uuid = crowd.engine_infos[1].uuid
    crowd[1].push({"mine": 1}, block=True)
    assert crowd[1].pull("weight", block=True) == 3
    with pytest.raises(EngineError, match=r"SIGKILL while running die; another is started in its place$"):
        crowd[1].apply_async(die).get(DEADLINE)
    until(lambda: another(crowd, 1, uuid), "another engine 1")
    assert crowd[1].pull(["weight", "'mine' in globals()"], block=True) == [3, False]
    assert crowd.ids == [0, 1]


def test_events_tell_of_both(crowd: Client) -> None:
    assert crowd.cluster is not None
    where = crowd.cluster.connection_file

    async def hear() -> list[Any]:
        async with Client(where) as rc, rc.events() as events:
            rc[0].apply_async(die).add_done_callback(lambda result: result.exception())
            async with asyncio.timeout(DEADLINE):
                return [await anext(events), await anext(events)]

    left, joined = asyncio.run(hear())
    assert (left.kind, left.id, left.exit_code, left.returns) == ("left", 0, -9, True)
    assert left.outlook == "another is started in its place"
    assert (joined.kind, joined.id, joined.restarted) == ("joined", 0, True)


def test_a_frozen_engine_is_followed_too(crowd: Client) -> None:
    uuid = crowd.engine_infos[0].uuid
    os.kill(crowd.engine_infos[0].pid, signal.SIGSTOP)
    until(lambda: another(crowd, 0, uuid), "another engine 0")
    assert crowd[0].apply_async(abs, -1).get(DEADLINE) == 1


def test_who_is_stopped_stays_away(own_folders: Path) -> None:
    """And who is restarted has been followed once, not twice."""
    with Cluster(n=2, restart_engines=True) as rc:
        assert rc.cluster is not None
        rc.cluster.restart_engine_sync(1)
        assert rc.ids == [0, 1]
        rc.cluster.stop_engine_sync(0)
        until(lambda: rc.ids == [1], "the end of engine 0")
        rc.cluster.start_engines_sync(1)
        rc.wait_for_engines(2, DEADLINE)
        assert rc.ids == [1, 2]


# --- calls that kill ----------------------------------------------------------------------------------------


def test_retried_calls_wait_for_the_engine_that_is_to_come(own_folders: Path) -> None:
    """Where the only one has died, and another is started: it is not the end of the balanced calls."""
    with Cluster(n=1, restart_engines=True) as rc:
        path = own_folders / "once"

        def die_once() -> str:
            if not os.path.exists(path):
                open(path, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return "done"

        view = rc.load_balanced_view(retries=3)
        results: list[Any] = [view.apply_async(die_once), view.apply_async(abs, -1)]
        assert [result.get(DEADLINE) for result in results] == ["done", 1]


def test_a_function_that_has_killed_three_engines_is_blamed(own_folders: Path) -> None:
    """Though each had the same id; the calls behind it are done."""
    with Cluster(n=1, restart_engines=True) as rc:
        view = rc.load_balanced_view(retries=10)
        killer, other = view.apply_async(die), view.apply_async(abs, -1)
        with pytest.raises(EngineError, match="3 engines have died while they had this call of die"):
            killer.get(DEADLINE)
        assert other.get(DEADLINE) == 1


# --- on_start -----------------------------------------------------------------------------------------------


def test_code_and_files_and_coroutines_prepare_engines(own_folders: Path) -> None:
    file = own_folders / "prepare.py"
    file.write_text("from math import tau\n\ndef double(x):\n    return 2 * x\n")

    slowly = written_in_main(
        "async def prepare():\n global late\n import asyncio\n await asyncio.sleep(0.01)\n late = 5"
    )
    for on_start, expression, expected in (
        ("a = 6 * 7", "a", 42),
        (file, "double(int(tau))", 12),
        (slowly, "late", 5),
    ):
        with Cluster(n=1, on_start=on_start) as rc:
            assert rc[0].pull(expression, block=True) == expected


def test_an_on_start_that_fails_fails_the_start_and_says_how(own_folders: Path) -> None:
    with pytest.raises(LaunchError, match="on_start failed: ZeroDivisionError: division by zero"):
        Cluster(n=1, on_start="1 / 0", restart_engines=True).start_and_connect_sync()
    with pytest.raises(SyntaxError):
        Cluster(n=1, on_start="1 /").start_and_connect_sync()
    with pytest.raises(TypeError, match="on_start: expected a function"):
        Cluster(n=1, on_start=5)  # type: ignore[arg-type]


def test_an_on_start_that_fails_later_is_tried_ever_more_slowly(own_folders: Path) -> None:
    """Each time is told; nobody restarts for ever: here the third time works."""
    count = own_folders / "count"
    count.write_text("")
    code = f"""
with open({str(count)!r}, "a+") as file:
    file.write("x")
    file.seek(0)
    assert len(file.read()) not in (2, 3), "not yet"
"""

    async def die_and_hear() -> list[Any]:
        async with Cluster(n=1, restart_engines=True, on_start=code) as rc, rc.events() as events:
            rc[0].apply_async(die).add_done_callback(lambda result: result.exception())
            async with asyncio.timeout(DEADLINE):
                return [await anext(events) for _ in range(4)]

    heard = asyncio.run(die_and_hear())
    assert [(event.kind, event.id) for event in heard] == [
        ("left", 0), ("failed", 0), ("failed", 0), ("joined", 0),
    ]  # fmt: skip
    assert "on_start failed: AssertionError: not yet" in heard[1].last_words
    assert heard[1].outlook == "another is started in its place in 0.5 s"
    assert heard[3].restarted


def test_a_cluster_ends_while_an_on_start_goes_on(own_folders: Path) -> None:
    started = own_folders / "started"
    cluster = Cluster(n=1, on_start=f"import time\nopen({str(started)!r}, 'w').close()\ntime.sleep(1000)")
    cluster.start_cluster_sync()
    until(started.exists, "the beginning of on_start")
    cluster.stop_cluster_sync()


def test_the_command_line_takes_both(own_folders: Path) -> None:
    file = own_folders / "start.py"
    file.write_text("ready = True\n")
    options = ["--profile", "again", "--daemonize", "--restart-engines", "--on-start", str(file)]
    subprocess.run([sys.executable, "-m", "directview", "start", "-n", "1", *options], check=True)
    try:
        with Client(profile="again") as rc:
            uuid = rc.engine_infos[0].uuid
            with pytest.raises(EngineError):
                rc[0].apply_async(die).get(DEADLINE)
            until(lambda: another(rc, 0, uuid), "another engine 0")
            assert rc[0].pull("ready", block=True) is True
    finally:
        subprocess.run([sys.executable, "-m", "directview", "stop", "--profile", "again"], check=True)
