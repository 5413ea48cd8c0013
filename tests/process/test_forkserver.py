"""Supervisor, fork server and engines as real processes, with stand-ins for what they run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from directview.engine._interrupt import pack_call_id
from directview.errors import LaunchError
from directview.supervisor.control import SupervisorFile, request
from directview.supervisor.options import SupervisorOptions
from directview.testing.polling import gone, until
from directview.wire.messages import Answer, Exited, Interrupt, Launch, Message, Stop, decode, encode

pytestmark = pytest.mark.process

STANDIN = Path(__file__).with_name("supervisor_standin.py")
DEADLINE = 20.0


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's own XDG runtime folder, with a path short enough for sockets; a state folder beside it."""
    with tempfile.TemporaryDirectory(prefix="dv", dir="/tmp", ignore_cleanup_errors=True) as found:
        folder = Path(found) / "run"
        folder.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_STATE_HOME", str(Path(found) / "state"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


class Family:
    """A stand-in supervisor with all its processes, its lifeline, and the controller's end of the uplink."""

    def __init__(self, folder: Path, behave: str, **options: Any) -> None:
        self.folder = folder
        (folder / "behave").write_text(behave)
        self.lifeline, theirs = socket.socketpair()
        self.lifeline.settimeout(DEADLINE)
        self._data = b""
        self.up = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.up.settimeout(DEADLINE)
        self.up.bind(str(folder / "up"))
        told = SupervisorOptions(
            folder=str(folder),
            cluster_id=folder.name,
            controller={"folder": str(folder), "log": str(folder / "controller.log")},
            launcher_pid=os.getpid(),
            lifeline_fd=theirs.fileno(),
            **{"n": 2, "grace": 0.5, **options},
        )
        read_end, write_end = os.pipe()
        os.write(write_end, told.to_json().encode())
        os.close(write_end)
        with (folder / "supervisor.log").open("wb") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, str(STANDIN), str(read_end)],
                pass_fds=(read_end, theirs.fileno()),
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        os.close(read_end)
        theirs.close()

    def event(self, kind: str) -> dict[str, Any]:
        """The next event of this kind from the lifeline; others are passed over."""
        while True:
            while b"\n" not in self._data:
                piece = self.lifeline.recv(65_536)
                assert piece, f"the lifeline ended before {kind!r}: {self.log('supervisor')}"
                self._data += piece
            line, _, self._data = self._data.partition(b"\n")
            found: dict[str, Any] = json.loads(line)
            if found["event"] == kind:
                return found

    def send(self, message: Message) -> None:
        until((self.folder / "down").exists, "the uplink")
        self.up.sendto(encode(message), str(self.folder / "down"))

    def receive(self) -> Message:
        return decode(self.up.recv(65_536))

    def engines(self, n: int = 2) -> list[dict[str, Any]]:
        """What `n` engines found at their start."""

        def reports() -> list[dict[str, Any]]:
            lines = [path.read_text().splitlines() for path in sorted(self.folder.glob("engine-*.log"))]
            return [json.loads(found[0]) for found in lines if found]

        return until(lambda: len(reports()) >= n and reports(), f"{n} engines")  # type: ignore[no-any-return]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def controller_pid(self) -> int:
        return int((self.folder / "controller.pid").read_text())

    def ask(self, do: str, **params: Any) -> Any:
        file = until(lambda: SupervisorFile.read(self.folder), "supervisor.json")
        return asyncio.run(request(file.control, do, **params))

    def everybody(self) -> list[int]:
        """Pids of supervisor, controller, fork server, engines and all that these started."""
        try:
            top = psutil.Process(self.supervisor.pid)
        except psutil.NoSuchProcess:
            return []
        return [top.pid, *[process.pid for process in top.children(recursive=True)]]

    def close(self) -> None:
        everybody = self.everybody()
        self.lifeline.close()
        self.up.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.supervisor.wait(DEADLINE)
        left = [pid for pid in everybody if not gone(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.supervisor.wait()
        assert not left, f"left behind: {left}"


@contextlib.contextmanager
def family(folder: Path, behave: str = "sleep", **options: Any) -> Iterator[Family]:
    """A running family. At its end the lifeline is closed, and nobody may be left."""
    found = Family(folder, behave, **options)
    try:
        yield found
    finally:
        found.close()


def test_engines_start_clean(tmp_path: Path) -> None:
    """Each leads its own session, has its own random numbers, default signals and no descriptor of others."""
    with family(tmp_path) as f:
        assert len(f.event("engines")["value"]) == 2
        first, second = f.engines()
        for engine in (first, second):
            assert engine["sid"] == engine["pid"]
            # 0, 1, 2, the interrupt pipe, and the listing's own
            assert len(engine["fds"]) == 5
            assert engine["interrupt_fd"] in engine["fds"]
            assert engine["sigterm"]
            assert engine["sigint"]
            assert engine["wakeup"] == -1
            assert engine["main"] is None
        assert first["random"] != second["random"]
        assert first["numpy"] != second["numpy"]
        assert first["ppid"] == second["ppid"] != f.supervisor.pid


def test_closing_the_lifeline_ends_everybody(tmp_path: Path) -> None:
    """Supervisor, controller, fork server, engines: all gone, and so are sockets and connection files."""
    with family(tmp_path) as f:
        f.engines()
        everybody = f.everybody()
        assert len(everybody) == 5
        control = SupervisorFile.read(tmp_path)
        assert control is not None
        f.lifeline.close()
        until(lambda: all(gone(pid) for pid in everybody), "everybody gone")
        f.supervisor.wait(DEADLINE)
        assert not (tmp_path / "client.json").exists()
        assert not (tmp_path / "supervisor.json").exists()
        assert not Path(control.control).exists()


def test_a_deaf_controller_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    """It is told of that death, and doesn't act on it: the fork server sees to it, and clears the folder."""
    with family(tmp_path, "deaf controller") as f:
        f.engines()
        everybody = f.everybody()
        f.supervisor.kill()
        try:
            until(lambda: all(gone(pid) for pid in everybody), "everybody gone")
        finally:
            for pid in everybody:
                if not gone(pid):
                    os.kill(pid, signal.SIGKILL)
        assert not (tmp_path / "client.json").exists()


@pytest.mark.parametrize("victim", ["supervisor", "controller", "fork server"])
def test_kill_of_any_of_the_family_ends_the_family(tmp_path: Path, victim: str) -> None:
    """After kill -9 of one, nobody is left, processes that engines had started included."""
    with family(tmp_path, "children") as f:
        engines = f.engines()
        everybody = f.everybody()
        assert len(everybody) == 9
        pid = {
            "supervisor": f.supervisor.pid,
            "controller": f.controller_pid(),
            "fork server": engines[0]["ppid"],
        }[victim]
        os.kill(pid, signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in everybody), "everybody gone")


def test_kill_of_the_launcher_ends_the_family_though_its_child_holds_the_lifeline(tmp_path: Path) -> None:
    """A launcher that had forked (multiprocessing, say) leaves a copy of the lifeline open."""
    script = (
        "import os, subprocess, sys, socket, signal\n"
        f"sys.path.insert(0, {str(STANDIN.parent)!r})\n"
        "from pathlib import Path\n"
        "from test_forkserver import Family\n"
        f"f = Family(Path({str(tmp_path)!r}), 'sleep')\n"
        "f.engines()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        "    signal.pause()\n"
        "print(child, *f.everybody(), flush=True)\n"
        "signal.pause()\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    child, *everybody = map(int, launcher.stdout.readline().split())
    try:
        assert len(everybody) >= 5
        launcher.kill()
        until(lambda: all(gone(pid) for pid in everybody if pid != child), "everybody gone")
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)
        launcher.wait(DEADLINE)
        launcher.stdout.close()
        for pid in everybody:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_an_exit_is_reported_with_its_code(tmp_path: Path) -> None:
    """Also one that comes at once; and to the launcher, with the log's last lines."""
    with family(tmp_path, "exit 3", n=1) as f:
        report = f.receive()
        assert isinstance(report, Exited)
        assert report.exit_code == 3
        assert report.reason == "exited with code 3"
        assert f.event("ended")["code"] == 3


def test_a_killed_engine_is_reported_with_its_signal_and_its_processes_end(tmp_path: Path) -> None:
    """Its subprocesses die with it, those in groups of their own too; the other engine lives on."""
    with family(tmp_path, "children") as f:
        first, second = f.engines()
        os.kill(first["pid"], signal.SIGKILL)
        report = f.receive()
        assert isinstance(report, Exited)
        assert report[:3] == (bytes.fromhex(first["uuid"]), -9, "killed by SIGKILL")
        assert report.postmortem.peak > 1_000_000
        until(lambda: all(gone(pid) for pid in first["children"]), "its processes")
        assert not gone(second["pid"])
        assert not any(gone(pid) for pid in second["children"])


def test_a_deaf_engine_is_killed_after_the_grace(tmp_path: Path) -> None:
    """SIGTERM first, SIGKILL when that did nothing."""
    with family(tmp_path, "deaf engine", n=1) as f:
        (engine,) = f.engines(1)
        f.send(Stop(bytes.fromhex(engine["uuid"]), "enough"))
        report = f.receive()
        assert isinstance(report, Exited)
        assert report[:3] == (bytes.fromhex(engine["uuid"]), -9, "enough")


def test_a_deaf_controller_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """It is killed after the grace, and the engines end after it."""
    with family(tmp_path, "deaf controller") as f:
        f.engines()
        everybody = f.everybody()
        f.supervisor.terminate()
        until(lambda: all(gone(pid) for pid in everybody), "everybody gone")
        assert f.supervisor.wait(DEADLINE) == 0


def test_an_interrupt_arrives_with_its_call(tmp_path: Path) -> None:
    """The call's id comes with it, in the right engine, which lives on."""
    with family(tmp_path) as f:
        first, second = f.engines()
        client = bytes(range(16))
        f.send(Interrupt(bytes.fromhex(first["uuid"]), client, 258))
        log = tmp_path / f"engine-{first['uuid'][:12]}.log"
        until(lambda: "interrupted" in log.read_text(), "the interrupt")
        assert json.loads(log.read_text().splitlines()[1]) == {
            "interrupted": [pack_call_id(client, 258).hex()]
        }
        assert not gone(first["pid"])
        assert "interrupted" not in (tmp_path / f"engine-{second['uuid'][:12]}.log").read_text()


def test_launch_starts_more_and_answers(tmp_path: Path) -> None:
    """The controller's request gets the uuids of the new engines."""
    with family(tmp_path) as f:
        f.engines()
        f.send(Launch(2, 7))
        answer = f.receive()
        assert isinstance(answer, Answer)
        assert answer.number == 7
        assert answer.ok
        assert {engine["uuid"] for engine in f.engines(4)} >= set(answer.value)


def test_control_requests(tmp_path: Path) -> None:
    """Status, start, signal, restart, stop of one, and what isn't there."""
    with family(tmp_path, n=1) as f:
        (engine,) = f.engines(1)
        status = f.ask("status")
        assert status["pid"] == f.supervisor.pid
        assert [found["uuid"] for found in status["engines"]] == [engine["uuid"]]
        (started,) = f.ask("start", n=1)
        f.ask("signal", uuids=[engine["uuid"]], signum=int(signal.SIGKILL))
        assert isinstance(f.receive(), Exited)
        until(lambda: [e["uuid"] for e in f.ask("status")["engines"]] == [started], "one engine left")
        (again,) = f.ask("restart-engines", engines=[[started, 1]])
        report = f.receive()
        assert isinstance(report, Exited)
        assert (report.uuid, report.reason) == (bytes.fromhex(started), "restarted")
        # One that has only just been forked may not heed SIGTERM yet, and is killed after the grace.
        assert report.exit_code in (-signal.SIGTERM, -signal.SIGKILL)
        f.ask("stop-engines", uuids=[again])
        assert f.ask("status")["engines"] == []
        with pytest.raises(LaunchError, match="no engine"):
            f.ask("stop-engines", uuids=[again])
        with pytest.raises(LaunchError, match="knows no request"):
            f.ask("dance")
        f.ask("stop")
        until(lambda: f.supervisor.poll() is not None, "the end")


def test_fresh_engines_get_their_environment(tmp_path: Path) -> None:
    """With an environment of its own, an engine is a new process with the launcher's path."""
    with family(tmp_path, n=1, env={"DIRECTVIEW_TEST": "yes"}, sys_path=[str(tmp_path)]) as f:
        f.event("engines")
        # The stand-in's engine can't be the real one's: what starts is directview.engine, with no controller.
        log = until(lambda: next(iter(tmp_path.glob("engine-*.log")), None), "the log")
        report = f.receive()
        assert isinstance(report, Exited)
        assert report.exit_code not in (0, 127), log.read_text()


@pytest.mark.parametrize(
    ("behave", "error", "tail"),
    [
        ("refuse", "the port is taken: choose another", ""),
        ("crash", "the controller ended before it was ready", "ImportError: no module named flux"),
    ],
)
def test_a_controller_that_does_not_start_is_told_with_its_last_words(
    tmp_path: Path, behave: str, error: str, tail: str
) -> None:
    """And everybody ends."""
    with family(tmp_path, behave) as f:
        failed = f.event("failed")
        assert failed["error"] == error
        assert failed["tail"] == tail
        assert f.supervisor.wait(DEADLINE) == 0


def test_a_detached_family_outlives_its_launcher(tmp_path: Path) -> None:
    """Until it is asked to stop."""
    with family(tmp_path) as f:
        f.engines()
        f.ask("detach")
        f.lifeline.close()
        assert f.ask("status")["stopping"] is None
        f.ask("stop")
        assert f.supervisor.wait(DEADLINE) == 0
