"""What a running cluster tells about itself: logs, stacks, traces, figures."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from directview import Client, Cluster
from directview._trace_reading import Step
from directview.testing.polling import until

DEADLINE = 30.0
PROFILE = "watched"

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """A named cluster of two engines that says all it can."""
    with Cluster(n=2, profile=PROFILE, log_level="debug", trace=True) as client:
        yield client


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "directview", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(*arguments: str) -> str:
    with command(*arguments) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    return out


# --- logs --------------------------------------------------------------------------------------------


def test_every_process_logs_into_the_profiles_folder(rc: Client) -> None:
    lines = said("logs", "--profile", PROFILE).splitlines()
    found = {line.split()[1] for line in lines}
    assert {"controller", "supervisor", "engine.0", "engine.1"} <= found
    one = said("logs", "--profile", PROFILE, "--process", "engine.1").splitlines()
    assert one
    assert {line.split()[1] for line in one} == {"engine.1"}
    assert said("logs", "--profile", PROFILE, "--where").strip() == str(Path(rc._info.source).parent)


def test_no_call_and_no_users_data_is_logged(rc: Client) -> None:
    def with_secrets(password: str) -> None:
        print(password)
        raise ValueError(password)

    said_before = said("logs", "--profile", PROFILE, "-n", "0", "--level", "debug").count("\n")
    for _ in range(100):
        rc[:].apply(with_secrets, "open sesame").wait(DEADLINE)
    text = said("logs", "--profile", PROFILE, "-n", "0", "--level", "debug")
    assert "sesame" not in text
    assert "with_secrets" not in text
    assert text.count("\n") < said_before + 100


def test_logs_are_followed_and_a_client_logs_on_request(rc: Client) -> None:
    with command("logs", "-f", "--profile", PROFILE, "--process", "client", "-n", "1") as process:
        try:
            assert process.stdout is not None
            # Whenever it begins to follow: clients go on to come.
            for _ in range(100):
                with Client(profile=PROFILE, log_level="info") as other:
                    assert other.ids == rc.ids
                if (process.poll() is not None) or _readable(process.stdout):
                    break
            line = process.stdout.readline()
        finally:
            process.kill()
    assert line.split()[1] == "client"
    assert "is connected to cluster" in line


def _readable(file: Any) -> bool:
    import select

    return bool(select.select([file], [], [], 0.1)[0])


def dies_of_itself(words: str) -> None:
    os.write(2, words.encode())
    os._exit(3)


def test_an_engines_end_is_told_with_its_reason(own_folders: Path) -> None:
    """Of a cluster without a name too, which is found by its id as long as it lives."""
    with Cluster(n=1) as rc:
        assert rc.cluster is not None
        rc[0].apply(dies_of_itself, "sesame").wait(DEADLINE)

        def told() -> str:
            text = said("logs", "--cluster-id", rc.cluster.cluster_id if rc.cluster else "")
            return text if "engine 0 is gone: exited with code 3" in text else ""

        assert "supervisor" in until(told, "the end")
        text = said("report", "--cluster-id", rc.cluster.cluster_id)
        (death,) = json.loads(text)["cluster"]["deaths"]
    assert death["exit_code"] == 3
    assert "dies_of_itself" not in text
    assert "sesame" not in text


# --- stacks ------------------------------------------------------------------------------------------


def busy_inside(path: str) -> None:
    import pathlib

    pathlib.Path(path).touch()
    while pathlib.Path(path).exists():
        time.sleep(0.01)


async def waits_inside(path: str) -> None:
    import asyncio
    import pathlib

    async def deeper() -> None:
        pathlib.Path(path).touch()  # noqa: ASYNC240 - on an engine
        while os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - likewise
            await asyncio.sleep(0.01)

    await deeper()


def test_the_stack_of_a_blocked_engine_shows_its_function(rc: Client, tmp_path: Path) -> None:
    mark = tmp_path / "running"
    call = rc[0].apply_async(busy_inside, str(mark))
    until(mark.exists, "the call")
    text = rc.stack(0)[0]
    told = said("stack", "0", "--profile", PROFILE)
    again = rc.stack()
    mark.unlink()
    assert call.get(DEADLINE) is None
    assert "most recent call first" in text
    assert "in busy_inside" in text
    assert "in busy_inside" in told
    assert f"it has busy_inside {call.msg_ids[0]}" in told.splitlines()[0]
    assert list(again) == [0, 1]
    assert text.count("in busy_inside") == 1  # Not what was asked before.
    assert "-- coroutines: 0" in again[1]


def test_c_code_that_holds_the_interpreters_lock_is_looked_at_and_does_not_notice(
    rc: Client, tmp_path: Path
) -> None:
    def sleeps_in_c(path: str) -> int:
        import ctypes
        import pathlib
        import select
        import struct

        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        pathlib.Path(f"{path} is open").touch()
        asked = ctypes.create_string_buffer(struct.pack("ihh", end, select.POLLIN, 0))
        found: int = ctypes.PyDLL(None).poll(asked, 1, 60_000)  # which a signal would end, with -1
        os.close(end)
        return found

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    call = rc[0].apply_async(sleeps_in_c, str(pipe))
    until((tmp_path / "pipe is open").exists, "the call")
    text = rc.stack(0)[0]
    pipe.write_text("wake up")
    assert call.get(DEADLINE) == 1
    assert "in sleeps_in_c" in text


def test_the_stack_of_a_coroutine_shows_where_it_waits(rc: Client, tmp_path: Path) -> None:
    mark = tmp_path / "running"
    call = rc[1].apply_async(waits_inside, str(mark))
    until(mark.exists, "the call")
    text = rc.stack([1])[1]
    mark.unlink()
    assert call.get(DEADLINE) is None
    assert f"Coroutine of call {call.msg_ids[0]}" in text
    inner, outer = (text.index(f"in {name}") for name in ("deeper", "waits_inside"))
    assert inner < outer
    assert text.rstrip().endswith("-- coroutines: 1")


def test_a_stopped_engine_is_said_to_be_stopped(rc: Client) -> None:
    pid = rc.engine_infos[1].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the stop")
        assert f"kill -CONT {pid}" in rc.stack(1)[1]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert rc[1].apply_async(os.getpid).get(DEADLINE) == pid


def test_a_child_that_an_engine_forks_is_not_asked_and_lives(rc: Client, tmp_path: Path) -> None:
    def with_a_pool() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.map(abs, [-1, 2])

    rc.stack(0)
    assert rc[0].apply_async(with_a_pool).get(DEADLINE) == [1, 2]


@pytest.mark.skipif(os.geteuid() != 0, reason="py-spy needs root here")
def test_py_spy_looks_from_outside(rc: Client, tmp_path: Path) -> None:
    if not (Path(sys.executable).parent / "py-spy").exists():
        pytest.skip("py-spy is not installed: the extra directview[diagnose]")
    mark = tmp_path / "running"
    call = rc[0].apply_async(busy_inside, str(mark))
    until(mark.exists, "the call")
    told = said("stack", "0", "--profile", PROFILE, "--py-spy")
    mark.unlink()
    assert call.get(DEADLINE) is None
    assert "busy_inside" in told


# --- status ------------------------------------------------------------------------------------------


def test_status_tells_of_engines_queues_memory_and_rates(rc: Client, tmp_path: Path) -> None:
    mark = tmp_path / "running"
    call = rc[0].apply_async(busy_inside, str(mark))
    until(mark.exists, "the call")
    waiting = [rc[0].apply_async(os.getpid) for _ in range(300)]
    rc[1].apply_async(os.getpid).get(DEADLINE)
    found = json.loads(said("status", "--json", "--profile", PROFILE))
    text = said("status", "--profile", PROFILE)
    mark.unlink()
    assert call.get(DEADLINE) is None
    assert [result.get(DEADLINE) for result in waiting] == [rc.engine_infos[0].pid] * 300
    first, second = found["engines"]
    assert first["tasks"] + first["queue"] == 301
    assert (second["tasks"], second["queue"]) == (0, 0)
    assert second["completed"] >= 1
    assert first["memory"] > 1e6
    assert found["controller"]["memory"] > 1e6
    assert found["meter"]["bytes_in"] > 300 * 20
    assert set(found["rates"]) >= {"calls", "results", "bytes_in", "bytes_out"}
    assert "calls/s" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("0 "))
    assert row[1] == str(rc.engine_infos[0].pid)


def test_a_coroutine_that_blocks_its_engine_is_logged_and_a_plain_function_is_not(rc: Client) -> None:
    def plain() -> None:

        time.sleep(1.6)

    async def blocks() -> None:

        time.sleep(1.6)  # noqa: ASYNC251 - that is what it is about

    both = [rc[0].apply_async(plain), rc[1].apply_async(blocks)]
    assert [call.get(DEADLINE) for call in both] == [None, None]

    def told(engine: int) -> str:
        return said(
            "logs", "--profile", PROFILE, "--process", f"engine.{engine}", "--level", "warning", "-n", "0"
        )

    text = until(lambda: told(1), "the warning")
    assert "the engine's loop has not turned" in text
    assert "in blocks" in text
    assert told(0) == ""


# --- traces ------------------------------------------------------------------------------------------


def prints_and_doubles(x: int) -> int:
    print("half done")
    return 2 * x


def test_the_story_of_a_call_has_every_hop(rc: Client) -> None:
    call = rc[0].apply_async(prints_and_doubles, 21)
    assert call.get(DEADLINE) == 42

    def whole() -> list[Step]:
        steps = call.trace()
        return steps if sum(step.what == "acknowledged" for step in steps) == 3 else []

    steps = until(whole, "the acknowledgement")
    where = {(step.place, step.what.partition(",")[0]) for step in steps}
    assert where >= {
        ("client", "sent"), ("controller", "queued"), ("controller", "dispatched"), ("engine.0", "arrived"),
        ("engine.0", "started"), ("engine.0", "printed"), ("engine.0", "completed"), ("engine.0", "answered"),
        ("controller", "result passed on"), ("client", "output received"), ("client", "received"),
    }  # fmt: skip
    names = [step.what for step in steps if step.place == "engine.0"]
    assert names.index("arrived") < names.index("started") < names.index("answered")
    text = said("trace", call.msg_ids[0], "--profile", PROFILE)
    assert text.startswith(f"call {call.msg_ids[0]}, ")
    assert "engine.0    printed" in text
    assert "prints_and_doubles" not in text


def test_the_story_of_a_load_balanced_call_names_its_engine(rc: Client) -> None:
    call = rc.load_balanced_view().apply_async(prints_and_doubles, 4)
    assert call.get(DEADLINE) == 8
    places = {step.place for step in rc.trace(call)}
    assert places & {"engine.0", "engine.1"}


def test_recent_calls_are_exported_for_a_viewer(rc: Client, tmp_path: Path) -> None:
    rc[:].map_async(prints_and_doubles, range(4)).get(DEADLINE)
    path = tmp_path / "calls.json"
    assert "calls are in" in said("trace", "--export", str(path), "--profile", PROFILE)
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


def test_a_call_that_nobody_knows_is_said_to_be_unknown(rc: Client) -> None:
    with pytest.raises(KeyError, match="nothing is known of call"):
        rc.trace(f"{'0' * 32}_1_0")
    with pytest.raises(ValueError, match="is not a msg_id"):
        rc.trace("nonsense")


def test_an_untraced_cluster_remembers_the_main_steps_and_writes_nothing(own_folders: Path) -> None:
    with Cluster(n=1) as rc:
        call = rc[0].apply_async(prints_and_doubles, 1)
        assert call.get(DEADLINE) == 2
        steps = [(step.place, step.what) for step in rc.trace(call)]
        assert not (Path(rc._info.source).parent / "trace").exists()
    assert steps == [
        ("controller", "queued"),
        ("engine.0", "started"),
        ("engine.0", "completed"),
        ("controller", "result passed on"),
    ]


# --- reports -----------------------------------------------------------------------------------------


def echoes(text: str) -> str:
    print("half done", text)
    return text


def test_a_report_has_figures_and_no_users_data(rc: Client) -> None:
    """Not the arguments, not the output, not (unless they are wanted) the names of functions."""
    rc[:].apply_async(echoes, "sesame").get(DEADLINE)
    text = said("report", "--profile", PROFILE)
    found = json.loads(text)
    assert found["versions"]["directview"]
    assert found["cluster"]["calls"] >= 1
    assert found["cluster"]["history"]["status"]["ok"] >= 2
    assert [engine["id"] for engine in found["cluster"]["engines"]] == [0, 1]
    assert found["cluster"]["supervisor"]["engines"]
    assert any("registered as engine 1" in line for line in found["logs"])
    assert any(line.endswith("controller.jsonl") for line in found["files"])
    for secret in ("sesame", "half done", "echoes", f" on {socket.gethostname()}"):
        assert secret not in text, secret
    assert "secret" not in found["cluster"]["connection"]
    assert "echoes" in said("report", "--names", "--profile", PROFILE)


def test_a_report_of_a_cluster_that_does_not_run_says_so(own_folders: Path) -> None:
    found = json.loads(said("report", "--profile", "nobodys"))
    assert "there is no cluster of profile 'nobodys'" in found["cluster"]["error"]
    assert found["machine"]["cores"]


# --- metrics -----------------------------------------------------------------------------------------


def test_prometheus_finds_a_clusters_figures_at_this_machine_only(own_folders: Path) -> None:
    pytest.importorskip(
        "prometheus_client", reason="prometheus_client is not installed: the extra directview[metrics]"
    )
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with Cluster(n=1, metrics=port) as rc:
        assert rc[0].apply_async(abs, -1).get(DEADLINE) == 1
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as answer:
            text = answer.read().decode()
        bound = {
            (connection.laddr.ip, connection.laddr.port)
            for connection in psutil.Process(rc._info.pid).net_connections("inet")
        }
    assert "directview_calls_total 1.0" in text
    assert 'directview_engine_completed_calls_total{engine="0"} 1.0' in text
    assert bound == {("127.0.0.1", port)}
