"""Clusters as programs use them: started, used, changed, ended in every way, with nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import directview.client
import directview.cluster
from directview.client import Client
from directview.cluster import Cluster
from directview.errors import ControllerLost, DirectViewError, EngineError, LaunchError
from directview.folders import ProfileInUse
from directview.supervisor.control import SupervisorFile
from directview.testing.polling import gone, until

pytestmark = pytest.mark.process

DEADLINE = 40.0


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    return [pid, *[child.pid for child in psutil.Process(pid).children(recursive=True)]]


def supervisor_of(cluster: Cluster) -> int:
    assert cluster._supervisor is not None
    return cluster._supervisor.pid


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's own XDG runtime folder, with a path short enough for sockets; a state folder beside it."""
    with tempfile.TemporaryDirectory(prefix="dv", dir="/tmp", ignore_cleanup_errors=True) as found:
        folder = Path(found) / "run"
        folder.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_STATE_HOME", str(Path(found) / "state"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def everything_gone(runtime: Path) -> Iterator[None]:
    """After each test: no process of ours, no socket, no folder of a private cluster."""
    yield
    gc.collect()
    left = psutil.Process().children(recursive=True)
    for child in left:
        child.kill()
    assert not left
    assert [path for path in runtime.rglob("*") if not path.is_dir()] == []


class Script:
    """A program of its own that uses clusters."""

    def __init__(self, folder: Path, text: str) -> None:
        path = folder / "program.py"
        path.write_text(textwrap.dedent(text))
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def line(self) -> str:
        """Its next line of output."""
        assert self.process.stdout is not None
        found = self.process.stdout.readline().strip()
        assert found, self.process.communicate()[1]
        return found

    def end(self) -> tuple[int, str]:
        """Its exit code and what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, errors


# --- use ---------------------------------------------------------------------------------------


def test_with_starts_waits_connects_and_leaves_nothing() -> None:
    """The engines are there when the block begins; every process is gone when it has ended."""
    with Cluster(n=2) as rc:
        assert rc.ids == [0, 1]
        assert rc.cluster is not None
        pids = rc[:].apply_sync(os.getpid)
        everybody = family(supervisor_of(rc.cluster))
        assert set(pids) < set(everybody)
        assert len(everybody) == 5
    assert all(gone(pid) for pid in everybody)


async def test_async_with_needs_no_thread() -> None:
    """Neither to start and connect, nor to call, nor to end."""
    before = threading.active_count()
    async with Cluster(n=2) as rc:
        assert threading.active_count() == before
        pids = await rc[:].apply_async(os.getpid)
        assert len(set(pids)) == 2
    assert threading.active_count() == before
    assert all(gone(pid) for pid in pids)


def test_private_clusters_live_side_by_side() -> None:
    """And their engines have nothing to do with each other."""
    with Cluster(n=1) as first, Cluster(n=1) as second:
        assert first.ids == second.ids == [0]
        assert first[0].apply_sync(os.getpid) != second[0].apply_sync(os.getpid)


def test_a_live_profile_is_refused_and_a_dead_one_is_not() -> None:
    """The refusal names the process and the remedy, and harms nobody."""
    with Cluster(n=1, profile="a b") as rc:
        with pytest.raises(ProfileInUse, match=r"process \d+.*--profile 'a b'"):
            Cluster(n=1, profile="a b").start_cluster_sync()
        with Client(profile="a b") as other:
            assert other.ids == rc.ids
    with Cluster(n=1, profile="a b"):
        pass


def test_engines_import_what_the_program_can(tmp_path: Path) -> None:
    """A module beside the script, one called engine too; the folder it is started in doesn't matter."""
    (tmp_path / "engine.py").write_text("def answer():\n    return 42\n")
    program = Script(
        tmp_path,
        """
        import os
        os.chdir("/")
        import engine
        from directview import Cluster
        with Cluster(n=1) as rc:
            print(rc[0].apply_sync(engine.answer), rc[0].apply_sync(os.getcwd), flush=True)
            with Cluster(n=1, env={"LIKES": "fish"}) as fresh:
                print(fresh[0].apply_sync(engine.answer), fresh[0].apply_sync(os.getenv, "LIKES"), flush=True)
                assert fresh[0].apply_sync(os.getenv, "PYTHONPATH") == os.getenv("PYTHONPATH")
        """,
    )
    assert program.line() == "42 /"
    assert program.line() == "42 fish"
    assert program.end() == (0, "")


def test_blocking_twins_work_inside_a_running_loop() -> None:
    """As in a notebook."""

    async def main() -> int:
        cluster = Cluster(n=1)
        rc = cluster.start_and_connect_sync()
        try:
            return await rc[0].apply_async(os.getpid)
        finally:
            rc.close()
            cluster.stop_cluster_sync()

    assert asyncio.run(main()) > 0


def test_a_cluster_started_in_one_loop_is_stopped_in_another() -> None:
    """It keeps nothing on a loop."""
    cluster = Cluster(n=1)
    asyncio.run(cluster.start_cluster())
    pids = family(supervisor_of(cluster))
    asyncio.run(cluster.stop_cluster())
    asyncio.run(cluster.stop_cluster())
    assert all(gone(pid) for pid in pids)


def test_start_leaves_the_threads_own_loop_alone() -> None:
    """A program that set a current event loop finds it again."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        with Cluster(n=0):
            assert asyncio.get_event_loop() is loop
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# --- change ------------------------------------------------------------------------------------


def test_engines_come_and_go() -> None:
    """Started, stopped, signalled; unknown ones are named."""
    with Cluster(n=1) as rc:
        cluster = rc.cluster
        assert cluster is not None
        cluster.start_engines_sync(2)
        rc.wait_for_engines(3, timeout=DEADLINE)
        assert rc.ids == [0, 1, 2]
        cluster.stop_engine_sync(1)
        until(lambda: rc.ids == [0, 2], "engine 1 gone")
        cluster.signal_engine_sync(2, signal.SIGKILL)
        until(lambda: rc.ids == [0], "engine 2 gone")
        with pytest.raises(IndexError, match="no engine 7"):
            cluster.stop_engine_sync(7)


def test_a_restarted_engine_keeps_its_id_and_nothing_else() -> None:
    """Its namespace is new; the others are not touched."""
    with Cluster(n=2) as rc:
        assert rc.cluster is not None
        rc[:].push({"a": 1}, block=True)
        before = rc[:].apply_sync(os.getpid)
        rc.cluster.restart_engine_sync(0)
        until(lambda: rc.ids == [0, 1], "both engines")
        after = rc[:].apply_sync(os.getpid)
        assert after[0] != before[0]
        assert after[1] == before[1]
        assert rc[1].get("a") == 1
        with pytest.raises(NameError):
            rc[0].get("a")


# --- the end -----------------------------------------------------------------------------------


def test_a_busy_engine_does_not_hold_up_the_end() -> None:
    """Its function is killed with it after the grace."""
    with Cluster(n=1) as rc:
        running = rc[0].apply_async(time.sleep, 600)
    assert running.done()


def test_kill_of_an_engine_ends_its_call_naming_the_signal() -> None:
    """The other engine goes on."""
    with Cluster(n=2) as rc:
        pid = rc[0].apply_sync(os.getpid)
        running = rc[0].apply_async(time.sleep, 600)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL"):
            running.get(timeout=DEADLINE)
        assert rc[1].apply_sync(os.getpid) > 0


def test_kill_of_the_controller_ends_calls_and_engines() -> None:
    """In one clear error."""
    with Cluster(n=2) as rc:
        assert rc.cluster is not None
        everybody = family(supervisor_of(rc.cluster))
        running = rc[0].apply_async(time.sleep, 600)
        os.kill(rc._info.pid, signal.SIGKILL)
        with pytest.raises(ControllerLost):
            running.get(timeout=DEADLINE)
        until(lambda: all(gone(pid) for pid in everybody), "everybody gone")


@pytest.mark.parametrize("how", ["kill", "exit", "exception", "os._exit"])
def test_whatever_ends_the_program_ends_its_cluster(tmp_path: Path, how: str) -> None:
    """Also without `with`, and with a call running."""
    program = Script(
        tmp_path,
        f"""
        import os, time, psutil
        from directview import Cluster
        cluster = Cluster(n=2)
        rc = cluster.start_and_connect_sync()
        calls = rc[:].apply_async(time.sleep, 600)
        print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
        how = {how!r}
        if how == "kill":
            time.sleep(600)
        if how == "exception":
            raise SystemExit(3)
        if how == "os._exit":
            os._exit(0)
        """,
    )
    everybody = [int(pid) for pid in program.line().split()]
    assert len(everybody) == 5
    if how == "kill":
        program.process.kill()
    program.end()
    until(lambda: all(gone(pid) for pid in everybody), "everybody gone")


def test_ctrl_c_says_nothing_but_where_the_program_was(tmp_path: Path) -> None:
    """Though it closes nothing: neither the call nor the cluster that end with it are complained of."""
    program = Script(
        tmp_path,
        """
        import time
        from directview import Cluster
        rc = Cluster(n=2).start_and_connect_sync()
        print("ready", flush=True)
        rc[:].apply_sync(time.sleep, 600)
        """,
    )
    assert program.line() == "ready"
    program.process.send_signal(signal.SIGINT)
    code, said = program.end()
    assert code == -signal.SIGINT
    assert said.count("Traceback") == 1
    assert said.endswith("KeyboardInterrupt\n")


def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path) -> None:
    """KeyboardInterrupt is raised, and what had been started is gone."""
    program = Script(
        tmp_path,
        """
        import threading, time, os, signal, psutil
        from directview import Cluster

        def interrupt():
            while not psutil.Process().children():
                time.sleep(0.001)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            Cluster(n=8).start_and_connect_sync()
        except KeyboardInterrupt:
            print("interrupted", len(psutil.Process().children(recursive=True)), flush=True)
        """,
    )
    assert program.line() == "interrupted 0"
    assert program.end() == (0, "")


async def test_a_cancelled_start_leaves_nothing() -> None:
    """Whenever it is cancelled; the fixture looks for what is left."""

    async def live() -> None:
        async with Cluster(n=2):
            await asyncio.Event().wait()

    for delay in (0.0, 0.1, 0.3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(live(), delay)


def test_an_unclosed_cluster_is_ended_with_a_warning() -> None:
    """When nothing refers to it any more; a client does."""
    cluster = Cluster(n=1)
    client = cluster.start_and_connect_sync()
    pids = family(supervisor_of(cluster))
    del cluster
    gc.collect()
    assert client[0].apply_sync(os.getpid) in pids
    client.close()
    held = [client]
    del client
    with pytest.warns(ResourceWarning, match="unclosed <Cluster"):
        held.clear()
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("how", ["exit", "stop", "with"])
def test_a_fork_of_the_program_does_not_end_its_cluster(how: str) -> None:
    """Neither by its exit nor by running out of the block in which it was forked."""
    with Cluster(n=1) as rc:
        cluster = rc.cluster
        assert cluster is not None
        child = os.fork()
        if child == 0:
            try:
                if how == "exit":
                    # Ours alone: the test run's own temporary folders are cleared at exit as well.
                    directview.cluster._stop_all()
                    directview.client.close_all()
                elif how == "stop":
                    cluster.stop_cluster_sync()
                else:
                    cluster.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert rc[0].apply_sync(os.getpid) > 0
        assert Path(cluster.connection_file).exists()


def test_logging_in_an_engine_is_as_in_any_program() -> None:
    """No handlers of ours, so that the user's own set-up takes effect."""
    with Cluster(n=1) as rc:
        handlers, level = rc[0].apply_sync(_logging)
        assert handlers == 0
        assert level == "WARNING"


def _logging() -> tuple[int, str]:
    import logging

    return len(logging.root.handlers), logging.getLevelName(logging.root.level)


def test_a_cluster_may_outlive_its_program_and_be_found_again(tmp_path: Path) -> None:
    """With shutdown_atexit=False, by profile or file; stopping it there ends it."""
    program = Script(
        tmp_path,
        """
        from directview import Cluster
        cluster = Cluster(n=1, profile="daemon", shutdown_atexit=False)
        cluster.start_and_connect_sync().close()
        print(cluster.connection_file, flush=True)
        """,
    )
    path = Path(program.line())
    assert program.end()[0] == 0
    file = SupervisorFile.read(path.parent)
    assert file is not None
    everybody = family(file.pid)
    found = Cluster.from_file(profile="daemon")
    with found.connect_client_sync() as rc:
        rc.wait_for_engines(1, timeout=DEADLINE)
        assert rc[0].apply_sync(os.getpid) in everybody
    found.start_engines_sync(1)
    Cluster.from_file(path).stop_cluster_sync()
    assert all(gone(pid) for pid in everybody)
    assert not path.exists()


def test_a_detached_cluster_whose_folder_is_removed_ends(tmp_path: Path) -> None:
    """Nobody could find it any more."""
    cluster = Cluster(n=1, profile="lost", shutdown_atexit=False)
    cluster.start_cluster_sync()
    everybody = family(supervisor_of(cluster))
    Path(cluster.connection_file).parent.rename(tmp_path / "elsewhere")
    until(lambda: all(gone(pid) for pid in everybody), "everybody gone")
    cluster.stop_cluster_sync()


# --- bad input ---------------------------------------------------------------------------------


def test_a_controller_that_cannot_bind_says_why() -> None:
    """And nothing is left."""
    with pytest.raises(DirectViewError, match=r"203\.0\.113\.1"):
        Cluster(n=1, ip="203.0.113.1").start_cluster_sync()


def test_an_engine_that_cannot_start_is_told_with_its_last_words() -> None:
    """Here because its environment is broken."""
    with pytest.raises(LaunchError, match=r"(?s)an engine ended while.*exited with code 1.*encodings"):
        Cluster(n=1, env={"PYTHONHOME": "/nowhere"}).start_and_connect_sync()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": -1}, "number of engines"),
        ({"n": "four"}, "number of engines"),
        ({"engines": "mpi"}, "mpiexec directview engine"),
        ({"engines": "slurm"}, "srun directview engine"),
        ({"start_method": "spawn"}, "'fork' or 'exec'"),
        ({"sshserver": "host"}, "ssh -L"),
        ({"nonsense": 1}, "no argument 'nonsense'"),
        ({"profile": ""}, "can't be the name of a profile"),
        ({"port": 70_000, "ip": "127.0.0.1"}, "port: expected a number from 0 to 65535, got 70000"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        Cluster(**arguments).start_cluster_sync()


def test_what_needs_a_running_cluster_says_so() -> None:
    cluster = Cluster(n=1)
    with pytest.raises(RuntimeError, match="start it first"):
        cluster.connect_client_sync()
    cluster.stop_cluster_sync()
    with Cluster(n=0) as rc:
        assert rc.cluster is not None
        with pytest.raises(RuntimeError, match="started already"):
            rc.cluster.start_cluster_sync()


@pytest.mark.usefixtures("nothing_left")
def test_other_clients_learn_why_a_cluster_was_stopped(own_folders: Path) -> None:
    """In the words of whoever stopped it."""
    cluster = Cluster(n=1)
    with cluster.start_and_connect_sync() as rc, Client(cluster.connection_file) as other:
        results = [client[0].apply_async(time.sleep, 60) for client in (rc, other)]
        cluster.stop_cluster_sync()
        for result in results:
            with pytest.raises(ControllerLost, match="stopped by the program that started it"):
                result.get(20)
    cluster = Cluster(n=1)
    with cluster.start_and_connect_sync() as rc:
        result = rc[0].apply_async(time.sleep, 60)
        os.kill(supervisor_of(cluster), signal.SIGTERM)
        with pytest.raises(ControllerLost, match="the supervisor got SIGTERM"):
            result.get(20)
        cluster.stop_cluster_sync()
