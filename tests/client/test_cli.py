"""The command line: what it says, and what it does to real clusters."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from directview import Client, Cluster, cli, connection, folders
from directview.connection import ConnectionInfo
from directview.controller.options import ControllerOptions
from directview.errors import LaunchError
from directview.supervisor.options import SupervisorOptions
from directview.testing.polling import until

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """State and runtime folders that belong to the test, with paths short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="dv", dir="/tmp", ignore_cleanup_errors=True) as found:
        monkeypatch.setenv("XDG_STATE_HOME", f"{found}/state")
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{found}/run")
        Path(found, "run").mkdir(mode=0o700)
        yield


def run(*arguments: str) -> Result:
    """The command in this process; a traceback is a failure whatever its exit code."""
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def command(*arguments: str) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "directview", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def completed(*arguments: str) -> tuple[int, str, str]:
    with command(*arguments) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    return process.returncode, out, err


# --- without a cluster -------------------------------------------------------------------------


def test_help_names_every_command_in_order() -> None:
    text = run("--help").output
    found = re.findall(r"^  ([a-z-]+) {2,}\S", text, re.MULTILINE)
    expected = ["start", "stop", "list", "status", "add-engines", "controller", "engine", "demo"]
    assert [name for name in found if name in expected] == expected


def test_engines_is_another_name_of_add_engines() -> None:
    assert "add-engines" not in run("engines", "--help").output.splitlines()[0]
    assert (
        run("engines", "--help").output.splitlines()[2:]
        == run("add-engines", "--help").output.splitlines()[2:]
    )


def test_help_imports_neither_numpy_nor_zmq() -> None:
    script = (
        "import sys; sys.argv = ['directview', '--help']\n"
        "from directview.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'zmq', 'msgpack', 'anyio') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["status"], 1, "there is no cluster of profile 'default'"),
        (["status", "--profile", "mpi"], 1, "`directview start -n 4 --profile mpi`"),
        (["stop"], 1, "there is no cluster of profile 'default'"),
        (["stop", "--cluster-id", "77"], 1, "there is no cluster with id '77'"),
        (["add-engines", "--file", "/nowhere/engine.json"], 1, "no connection file /nowhere/engine.json"),
        (["engine", "--timeout", "0"], 1, "there is no cluster of profile 'default'"),
        (["start", "--profile", ""], 1, "can't be the name of a profile"),
        (["start", "-n", "-1"], 2, "-1 is not in the range"),
        (["start", "-n", "many"], 2, "'many' is not a valid integer"),
        (["start", "--port", "70000"], 2, "70000 is not in the range"),
        (["dance"], 2, "No such command 'dance'"),
    ],
)
def test_a_mistake_gives_one_line_with_the_remedy(arguments: list[str], code: int, text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert text in result.output
    assert "Traceback" not in result.output
    assert sum(line.startswith("Error: ") for line in result.output.splitlines()) == 1


def test_a_dead_clusters_file_is_said_so() -> None:
    info = ConnectionInfo(
        cluster_id="0123", role="client", pid=1, hostname="h", created=0.0, ipc="ipc:///tmp/nobody.sock"
    )
    info.write(folders.profile_folder("default", create=True))
    result = run("status")
    assert result.exit_code == 1
    assert "nobody listens at ipc:///tmp/nobody.sock" in result.output


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = ConnectionInfo(
        cluster_id="0123", role="client", pid=1, hostname="h", created=0.0, ipc="ipc:///tmp/nobody.sock"
    ).write(tmp_path)
    path.chmod(0o644)
    result = run("status", "--file", str(path))
    assert result.exit_code == 1
    assert f"chmod 600 {path}" in result.output


def test_list_without_clusters_says_how_to_start_one() -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "directview start" in result.output


def test_list_shows_live_clusters_only() -> None:
    for name in ("live", "dead"):
        ConnectionInfo(
            cluster_id=name,
            role="client",
            pid=7,
            hostname="h",
            created=0.0,
            profile=name,
            ipc=f"ipc://{folders.socket_path(name)}",
        ).write(folders.profile_folder(name, create=True))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folders.socket_path("live")))
        server.listen()
        lines = run("list").output.splitlines()
    assert len(lines) == 2
    assert lines[1].split() == ["live", "live", "7", str(folders.profile_folder("live") / "client.json")]


def test_an_unexpected_kind_of_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect shows its traceback; what is the user's to mend doesn't."""

    def broken(*args: object) -> ConnectionInfo:
        raise KeyError("a defect")

    monkeypatch.setattr(connection, "find", broken)
    assert isinstance(CliRunner().invoke(cli.main, ["status"]).exception, KeyError)

    def refused(*args: object) -> ConnectionInfo:
        raise LaunchError("the reason")

    monkeypatch.setattr(connection, "find", refused)
    assert run("status").output == "Error: the reason\n"


# --- with real clusters ------------------------------------------------------------------------


@pytest.mark.process
def test_the_life_of_a_cluster_in_the_background() -> None:
    """Started, seen, refused a second time, given engines, stopped."""
    code, out, err = completed("start", "-n", "1", "--profile", "a b", "--daemonize")
    assert (code, err) == (0, "")
    path = re.search(r"connection file: (\S.*)", out)
    assert path is not None
    assert "directview.Client(profile='a b')" in out
    assert "directview stop --profile 'a b'" in out
    try:
        assert path[1] in run("list").output
        status = run("status", "--profile", "a b").output
        assert re.search(r"^0 +\d+ +3\.\d+", status, re.MULTILINE), status
        code, out, err = completed("start", "-n", "1", "--profile", "a b")
        assert code == 1
        assert "live controller already" in err
        code, out, err = completed("engines", "-n", "2", "--profile", "a b", "--daemonize")
        assert (code, err) == (0, "")
        assert "2 engines were started" in out
        until(lambda: re.search(r"^2 ", run("status", "--profile", "a b").output, re.MULTILINE), "engine 2")
    finally:
        stopped = run("stop", "--file", path[1])
    assert stopped.exit_code == 0
    assert stopped.output.startswith("stopped ")
    assert "no clusters" in run("list").output
    until(lambda: not list(folders.runtime_folder().rglob("*.sock")), "sockets gone")
    until(lambda: list(folders.runtime_folder().rglob("clusters/*")) == [], "folders gone")


@pytest.mark.process
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_cluster_in_the_foreground(signum: signal.Signals) -> None:
    """In order, with exit code 0 and nothing left."""
    with command("start", "-n", "1") as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(4)]
            assert lines[0] == "1 engines are ready.\n"
            assert lines[3] == "Ctrl-C stops it.\n"
            process.send_signal(signum)
            out, err = process.communicate(timeout=DEADLINE)
            assert (process.returncode, out, err) == (0, "stopping\n", "")
        finally:
            process.kill()
    assert "no clusters" in run("list").output
    assert list(folders.runtime_folder().rglob("*.sock")) == []


@pytest.mark.process
def test_a_foreground_cluster_that_is_stopped_from_elsewhere_says_so() -> None:
    with command("start", "-n", "1") as process:
        try:
            assert process.stdout is not None
            until(lambda: process.stdout is None or "Ctrl-C" in process.stdout.readline(), "the start")
            assert run("stop", "--all").output.startswith("stopped ")
            _, err = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0
            assert "the cluster has ended: it was asked to stop" in err
        finally:
            process.kill()


@pytest.mark.process
def test_a_controller_alone_and_an_engine_alone() -> None:
    """The engine comes with a watcher, works, and is reported when it is killed."""
    with (
        command("controller", "--profile", "bare") as controller,
        command("engine", "--profile", "bare") as engine,
    ):
        try:
            until(
                lambda: re.search(r"^0 ", run("status", "--profile", "bare").output, re.MULTILINE),
                "the engine",
            )
            engine_pid = int(
                re.findall(r"^0 +(\d+)", run("status", "--profile", "bare").output, re.MULTILINE)[0]
            )
            assert engine_pid == engine.pid

            async def call_and_kill() -> str:
                from directview.client import Client
                from directview.errors import EngineError

                async with Client(profile="bare") as rc:
                    assert await rc[0].apply_async(os.getpid) == engine.pid
                    cancelled = rc[0].apply_async(time.sleep, 600)
                    await asyncio.sleep(0)
                    cancelled.cancel()
                    # It is interrupted, through the watcher: the next call starts.
                    assert await rc[0].apply_async(os.getpid) == engine.pid
                    call = rc[0].apply_async(time.sleep, 600)
                    os.kill(engine.pid, signal.SIGKILL)
                    try:
                        await call
                    except EngineError as error:
                        return str(error)
                    raise AssertionError("the call has an answer")

            assert "engine 0" in asyncio.run(asyncio.wait_for(call_and_kill(), DEADLINE))
            controller.send_signal(signal.SIGINT)
            controller.communicate(timeout=DEADLINE)
            assert controller.returncode == 0
        finally:
            controller.kill()
            engine.kill()
    assert "no clusters" in run("list").output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (10_000, 256 << 20, 7 * 86_400.0)),
        (
            ["--detached-results", "3", "--detached-bytes", "4096", "--detached-age", "0.5"],
            (3, 4096, 0.5),
        ),
    ],
)
@pytest.mark.parametrize("name", ["start", "controller"])
def test_bounds_of_detached_results_reach_the_controller(
    name: str, arguments: list[str], expected: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either command; without them, as for a Cluster."""
    seen: list[Any] = []

    def serve(options: ControllerOptions) -> int:
        seen.append(options)
        return 0

    def prepare(cluster: Cluster, n: int) -> SupervisorOptions:
        options = options_of(cluster, n)
        seen.append(ControllerOptions.from_dict(options.controller or {}))
        raise LaunchError("seen enough")

    options_of = Cluster._options
    monkeypatch.setattr("directview.controller.__main__.run", serve)
    monkeypatch.setattr(Cluster, "_options", prepare)
    run(name, *arguments)
    (options,) = seen
    assert (options.detached_results, options.detached_bytes, options.detached_age) == expected


@pytest.mark.process
def test_a_controller_that_died_is_replaced_by_hand() -> None:
    """The same command takes over: same cluster, same engine with its namespace, and the client stays."""
    with ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = stack.enter_context(command(*arguments))
            stack.callback(process.kill)
            return process

        first = start("controller", "--profile", "hand", "--resilient", "--ip", "127.0.0.1")
        path = folders.profile_folder("hand") / "client.json"
        until(path.exists, "its file")
        before = json.loads(path.read_text())
        start("engine", "--profile", "hand")
        with Client(profile="hand", timeout=DEADLINE) as rc:
            rc.wait_for_engines(1, DEADLINE)
            rc[0].push({"kept": 7}, block=True)
            first.kill()
            first.wait(DEADLINE)
            second = start("controller", "--profile", "hand")
            assert rc[0].pull_async("kept").get(DEADLINE) == 7
            after = json.loads(path.read_text())
            assert (after["pid"], second.pid) != (before["pid"], first.pid)
            same = ("cluster_id", "ipc", "tcp", "server_public", "public", "secret", "resilient")
            assert [after[name] for name in same] == [before[name] for name in same]
            assert rc.ids == [0]
        assert run("stop", "--profile", "hand").exit_code == 0
        out, _ = second.communicate(timeout=DEADLINE)
        assert f"taking over cluster {before['cluster_id']} from a controller that has died" in out
        assert second.returncode == 0
        assert not [name for name in folders.TAKEOVER_FILES if (path.parent / name).exists()]


@pytest.mark.process
def test_a_resilient_cluster_looks_after_its_controller_itself() -> None:
    """Another one, started by hand, would get in its way."""
    with command("start", "-n", "0", "--profile", "watched", "--resilient") as process:
        try:
            assert process.stdout is not None
            until(lambda: process.stdout is None or "Ctrl-C" in process.stdout.readline(), "the start")
            refused = run("controller", "--profile", "watched")
            assert refused.exit_code == 1
            assert "looks after its controller itself" in refused.output
            assert "directview stop --profile watched" in refused.output
            assert run("stop", "--profile", "watched").exit_code == 0
            process.communicate(timeout=DEADLINE)
        finally:
            process.kill()


def test_new_keys_need_a_word() -> None:
    found = run("keys", "--disconnect")
    assert found.exit_code == 2
    assert "--disconnect needs --rotate" in found.output
