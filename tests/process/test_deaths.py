"""Real processes that die in every way: each call ends in one clear error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from directview import AsyncResult, Client, Cluster, ControllerLost, EngineError, RemoteError
from directview.controller.options import ControllerOptions
from directview.supervisor.control import SupervisorFile, request
from directview.testing.polling import gone, until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 40.0
HEARTBEAT_TIMEOUT = ControllerOptions(folder="", cluster_id="").heartbeat_timeout


def running(result: AsyncResult[Any]) -> AsyncResult[Any]:
    """Wait until the call has begun, which it says by printing."""
    until(lambda: all(["\n" in said for said in _each(result.stdout)]), f"the first word of {result!r}")
    return result


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def nap(seconds: float) -> None:
    """What a call may be doing when its engine dies."""
    print("asleep")
    time.sleep(seconds)


def status(cluster: Cluster) -> dict[str, Any]:
    """What the supervisor knows: all the pids."""
    file = SupervisorFile.read(Path(cluster.connection_file).parent)
    assert file is not None
    found: dict[str, Any] = asyncio.run(request(file.control, "status"))
    return found


def everybody(cluster: Cluster) -> list[int]:
    """The pids of all processes of a cluster."""
    found = status(cluster)
    own = [found["pid"], found["controller"], found["fork_server"]]
    return own + [engine["pid"] for engine in found["engines"]]


@pytest.fixture(scope="module")
def crowd(own_folders: Path) -> Iterator[Client]:
    """A cluster whose engines may be killed: each test starts its victim, and the first two stay."""
    with Cluster(n=2) as client:
        yield client


@pytest.fixture
def victim(crowd: Client) -> Iterator[int]:
    """The id of an engine of the test's own."""
    before = set(crowd.ids)
    assert crowd.cluster is not None
    crowd.cluster.start_engines_sync(1)
    crowd.wait_for_engines(len(before) + 1, DEADLINE)
    (id,) = set(crowd.ids) - before
    yield id
    if id in crowd.ids:
        crowd.cluster.stop_engine_sync(id)
    until(lambda: id not in crowd.ids, "the victim's end")


# --- engines ------------------------------------------------------------------------------------------


def test_a_killed_engine_ends_its_calls_at_once(crowd: Client, victim: int) -> None:
    """Naming the signal and what ran; the other engines go on and know nothing of it."""
    pid = crowd[victim].apply_sync(os.getpid)
    elsewhere = crowd[:2].apply_async(nap, 0.5)
    slept = running(crowd[victim].apply_async(nap, 60))
    waiting = crowd[victim].apply_async(os.getpid)
    both = crowd[[0, victim]].apply_async(os.getpid)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError) as caught:
        slept.get(DEADLINE)
    error = caught.value
    assert (error.engine_id, error.exit_code, error.signal_name, error.running) == (
        victim,
        -9,
        "SIGKILL",
        "nap",
    )
    assert str(error) == f"engine {victim} was killed by SIGKILL while running nap"
    with pytest.raises(EngineError, match=f"engine {victim} was killed by SIGKILL while running nap; getpid"):
        waiting.get(DEADLINE)
    with pytest.raises(ExceptionGroup) as group:
        both.get(DEADLINE)
    assert group.group_contains(EngineError)
    assert isinstance(both.get(return_exceptions=True)[0], int)
    assert victim not in crowd.ids
    with pytest.raises(IndexError, match=f"{victim}"):
        crowd[victim]
    assert elsewhere.get(DEADLINE) == [None, None]
    assert slept.stdout == "asleep\n"
    assert crowd[:].apply_sync(nap, 0) == [None] * len(crowd)


def test_an_engine_that_exits_by_itself(crowd: Client, victim: int) -> None:
    """The exit code is told, and what ran."""
    with pytest.raises(EngineError, match=f"engine {victim} ended with exit code 3 while running _exit"):
        crowd[victim].apply_async(os._exit, 3).get(DEADLINE)
    assert victim not in crowd.ids  # Known by whoever knows of the call's end.


def test_a_segmentation_fault(crowd: Client, victim: int) -> None:
    """Is a death by SIGSEGV."""
    with pytest.raises(EngineError, match="killed by SIGSEGV while running string_at") as caught:
        crowd[victim].apply_async(ctypes.string_at, 0).get(DEADLINE)
    assert caught.value.signal_name == "SIGSEGV"


def test_sys_exit_is_only_an_error(crowd: Client, victim: int) -> None:
    """User code can't end the engine that way by accident."""
    with pytest.raises(RemoteError) as caught:
        crowd[victim].apply_async(sys.exit, 3).get(DEADLINE)
    assert (caught.value.ename, caught.value.evalue) == ("SystemExit", "3")
    assert not isinstance(caught.value, EngineError)
    assert crowd[victim].apply_async(abs, -1).get(DEADLINE) == 1


def test_an_engine_ends_in_order_by_sigterm(crowd: Client, victim: int) -> None:
    """What is outstanding on it is told why."""

    async def forever() -> None:
        print("begun")
        await asyncio.sleep(1000)

    view = crowd[victim]
    pid = view.apply_sync(os.getpid)
    result = running(view.apply_async(forever))
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(EngineError, match=f"engine {victim}.*SIGTERM"):
        result.get(DEADLINE)
    until(lambda: gone(pid), "its end")


def test_a_stopped_engine_is_given_up_and_killed(crowd: Client, victim: int) -> None:
    """SIGSTOP: its heart beats no longer, and it must not wake up and go on."""
    pid = crowd[victim].apply_sync(os.getpid)
    result = running(crowd[victim].apply_async(nap, 60))
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match=f"engine {victim}.*while running nap"):
        result.get(DEADLINE)
    until(lambda: gone(pid), "its end")
    assert crowd[:2].apply_sync(abs, -1) == [1, 1]


@pytest.mark.parametrize(
    "seconds",
    [1.5 * HEARTBEAT_TIMEOUT + 1, pytest.param(60, marks=pytest.mark.slow)],
)
def test_an_engine_deep_in_c_code_lives(crowd: Client, victim: int, seconds: float) -> None:
    """A C function that never gives up the GIL is no death, whatever the heartbeat; others go on."""

    def hold(microseconds: int) -> str:
        print("holding")
        ctypes.PyDLL(None).usleep(microseconds)
        return "held"

    result = running(crowd[victim].apply_async(hold, int(seconds * 1e6)))
    while not result.wait(0.5):
        assert crowd[:2].apply_async(abs, -1).get(DEADLINE) == [1, 1]
    assert result.get(0) == "held"
    assert crowd[victim].apply_async(abs, -1).get(DEADLINE) == 1


@pytest.mark.parametrize("how", ["subprocess", "fork", "shell"])
def test_what_an_engine_has_started_dies_with_it(crowd: Client, victim: int, how: str) -> None:
    """Its subprocesses, forks of itself that hold its connection, and the jobs of its shells."""

    def start(how: str) -> list[int]:
        if how == "subprocess":
            return [subprocess.Popen(["sleep", "1000"]).pid]
        if how == "shell":
            shell = subprocess.Popen(
                ["bash", "-c", "set -m; sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True
            )
            assert shell.stdout is not None
            return [shell.pid, int(shell.stdout.readline())]
        pid = os.fork()
        if pid == 0:
            time.sleep(1000)
            os._exit(0)
        return [pid]

    pid = crowd[victim].apply_sync(os.getpid)
    started = crowd[victim].apply_async(start, how).get(DEADLINE)
    result = running(crowd[victim].apply_async(nap, 60))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="SIGKILL"):
        result.get(DEADLINE)
    until(lambda: all([gone(child) for child in started]), f"the end of {started}")


# --- pauses -------------------------------------------------------------------------------------------


def pause(pid: int, seconds: float) -> None:
    """Stop a process for a while: a machine that was put to sleep, a debugger, a host that swaps."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def test_a_paused_controller_loses_nobody(crowd: Client, victim: int) -> None:
    """Longer than its own heartbeat's timeout; calls that end meanwhile are answered after it."""
    assert crowd.cluster is not None
    pids = crowd[:].apply_sync(os.getpid)
    result = running(crowd[victim].apply_async(nap, 0.5))
    pause(status(crowd.cluster)["controller"], 1.5 * HEARTBEAT_TIMEOUT)
    assert result.get(DEADLINE) is None
    assert crowd[:].apply_async(os.getpid).get(DEADLINE) == pids


PAUSED_CLIENT = """\
import sys, time
from directview import Client, EngineError

with Client(sys.argv[1]) as rc:
    results = [rc[0].apply_async(time.sleep, 0.1), rc[1].apply_async(time.sleep, float(sys.argv[2]))]
    results += [rc[1].apply_async(abs, -1)]
    for result in results:
        result.wait_for_send(20)  # The engines have them.
    print("paused", flush=True)
    for result in results:
        error = result.exception(20)
        assert error is None or isinstance(error, EngineError), error
        print(error or "right")
    assert rc[:].apply_async(abs, -1).get(20)[:2] == [1, 1]
"""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1.5 * HEARTBEAT_TIMEOUT, ["right", "right", "right"]),
        pytest.param(10.0, ["right", "may have run", "may have run"], marks=pytest.mark.slow),
    ],
)
def test_a_paused_client_comes_back(crowd: Client, seconds: float, said: list[str]) -> None:
    """Each of its calls ends: in its result, or, when it was away for too long, in an error that says so."""
    assert crowd.cluster is not None
    program = subprocess.Popen(
        [sys.executable, "-c", PAUSED_CLIENT, crowd.cluster.connection_file, str(seconds + 0.5)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "paused\n"
    pause(program.pid, seconds)
    lines = program.communicate(timeout=DEADLINE + seconds)[0].splitlines()
    assert program.returncode == 0
    assert all([expected in line for expected, line in zip(said, lines, strict=True)]), lines


# --- the others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["controller", "supervisor", "fork_server"])
@pytest.mark.usefixtures("nothing_left")
def test_a_cluster_ends_when_one_of_its_own_processes_is_killed(own_folders: Path, whom: str) -> None:
    """Every call of every client ends in one clear error, new ones too, and nobody is left."""
    with Cluster(n=3) as rc:
        cluster = rc.cluster
        assert cluster is not None
        pids = everybody(cluster)
        found = status(cluster)
        with cluster.connect_client_sync() as other:
            results = [running(rc[:1].apply_async(nap, 60)), rc[0].apply_async(abs, -1)]
            results += [running(other[1].apply_async(nap, 60)), other[[0, 2]].apply_async(abs, -1)]
            view = rc[:]
            os.kill(found["pid" if whom == "supervisor" else whom], signal.SIGKILL)
            errors = [result.exception(DEADLINE) for result in results]
            for error in errors:
                for each in error.exceptions if isinstance(error, ExceptionGroup) else [error]:
                    assert isinstance(each, ControllerLost | EngineError), repr(each)
            until(lambda: all([gone(pid) for pid in pids]), "everybody's end")
            until(lambda: not rc.ids, "the news")
            for late in (lambda: rc[:], lambda: rc[0], lambda: view.apply_async(abs, -1), rc.queue_status):
                with pytest.raises(ControllerLost, match=r"controller at .* is gone|cluster has ended"):
                    late()


LAUNCHER = """\
import os, subprocess, sys, time
from directview import Cluster

rc = Cluster(n=3).start_and_connect_sync()
child = rc[0].apply_sync(lambda: __import__("subprocess").Popen(["sleep", "1000"]).pid)
rc[:].apply_async(time.sleep, 1000)
print(child, *rc[:].targets, flush=True)
HOW
"""


@pytest.mark.parametrize("how", ["killed", "exits", "interrupted"])
@pytest.mark.usefixtures("nothing_left")
def test_nothing_outlives_the_program_that_started_a_cluster(own_folders: Path, how: str) -> None:
    """However it ends: it need not have closed anything."""
    program = own_folders / "launcher.py"
    # Short sleeps: Python misses a signal that comes just before a sleep begins, until that ends.
    waiting = "while True: time.sleep(0.1)"
    program.write_text(LAUNCHER.replace("HOW", "" if how == "exits" else waiting))
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[0])
    if how == "killed":
        process.kill()
    elif how == "interrupted":
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=DEADLINE)
    assert b"Fatal" not in said
    assert ("KeyboardInterrupt" in said.decode()) == (how == "interrupted"), said.decode()
    until(lambda: gone(child), "the end of what an engine started")
    # The rest, `nothing_left` waits for.
