"""`directview clean`, and the sweep at each start: what dead clusters have left goes, what lives stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from directview import Client, Cluster, _cleaning, folders
from directview.cli import main
from directview.supervisor.control import SupervisorFile
from directview.testing.polling import until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 20.0


def age(*paths: Path, seconds: float = 3600.0) -> None:
    """Make them, and what is in them, look as old as that."""
    then = time.time() - seconds
    for path in paths:
        inside = list(path.iterdir()) if path.is_dir() else []
        for one in (*inside, path):
            os.utime(one, (then, then), follow_symlinks=False)


def clean(*options: str) -> str:
    found = CliRunner().invoke(main, ["clean", *options])
    assert found.exit_code == 0, found.output
    return found.output


def leave_socket(path: Path) -> Path:
    """As of a process that was killed."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    return path


@pytest.fixture
def private(own_folders: Path) -> Iterator[list[Path]]:
    """What a private cluster has left, all of whose processes were killed at once."""
    folder = folders.private_folder("0123456789ab", create=True)
    for name in ("lock", "supervisor.lock", "engine-1.log"):
        (folder / name).touch()
    left = [folder, *[leave_socket(path) for path in folders.private_sockets(folder)]]
    age(*left)
    yield left
    folders.remove_private(folder)


@pytest.fixture
def named(own_folders: Path) -> Iterator[Path]:
    """The folder of a resilient named cluster, all of whose processes were killed an hour ago."""
    folder = folders.profile_folder("dead", create=True)
    takeover = {"cluster_id": "c0ffee", "ip": None, "port": 0, "store": None, "keys": None}
    contents = {
        "client.json": {"cluster_id": "c0ffee", "profile": "dead", "hostname": socket.gethostname()},
        "engine.json": {},
        "controller.json": takeover,
        "engines.json": {},
        "supervisor.json": {"pid": os.getpid(), "started": 1.0, "control": "/nowhere"},
        ".client-x7": {},
    }
    for name, text in contents.items():
        (folder / name).write_text(json.dumps(text))
    (folder / "lock").touch()
    for name in ("controller.log", "controller.jsonl.1", "mine.txt"):
        (folder / name).write_text("long ago")
    age(folder)
    yield folder
    folders.remove_folder(folder)


# --- what is dead ------------------------------------------------------------------------------


def test_what_a_private_cluster_left_goes_and_a_dry_run_only_says_so(private: list[Path]) -> None:
    for _ in range(2):  # To look changes nothing, so a second look finds the same.
        said = clean("--dry-run").splitlines()
        assert [line.rpartition(": ")[2] for line in said] == [
            str(private[0]),
            *sorted(map(str, private[1:])),
        ]
        assert all([line.startswith("would remove ") for line in said])
        assert all([path.exists() for path in private])
    said = clean().splitlines()
    assert [line.rpartition(": ")[2] for line in said] == [str(private[0]), *sorted(map(str, private[1:]))]
    assert not any([path.exists() for path in private])
    assert clean() == "nothing to remove\n"


def test_of_a_named_one_all_but_its_lock_and_younger_logs_goes(named: Path) -> None:
    age(named / "controller.jsonl.1", seconds=30 * 86_400)
    said = clean()
    assert sorted([path.name for path in named.iterdir()]) == ["controller.log", "lock", "mine.txt"]
    for name in ("controller.json", "engines.json"):
        assert f"removed takeover file: {named / name}" in said
    assert f"removed old log: {named / 'controller.jsonl.1'}" in said
    assert clean() == "nothing to remove\n"
    assert str(named / "controller.log") in clean("--older-than", "0.01")
    assert not (named / "controller.log").exists()
    assert (named / "mine.txt").exists()


def test_all_processes_of_a_resilient_cluster_killed_at_once(own_folders: Path) -> None:
    """What it leaves is taken away, and the name can be used again."""
    cluster = Cluster(n=1, profile="killed", resilient=True)
    cluster.start_and_connect_sync().close()
    assert cluster._supervisor is not None
    everybody = [psutil.Process(cluster._supervisor.pid)]
    everybody += everybody[0].children(recursive=True)
    folder = folders.profile_folder("killed")
    for process in everybody:  # Stopped first: none sees another's end.
        process.suspend()
    for process in everybody:
        process.kill()
    until(lambda: not any([alive(process) for process in everybody]), "the end")
    for name in folders.TAKEOVER_FILES:
        assert (folder / name).exists()
    sockets = list((folders.runtime_folder() / "s").iterdir())
    age(folder, *sockets)
    said = clean()
    assert len(sockets) == 2
    for path in (*[folder / name for name in folders.TAKEOVER_FILES], folder / "client.json", *sockets):
        assert str(path) in said
        assert not path.exists()
    cluster.stop_cluster_sync()
    with Cluster(n=0, profile="killed"):
        pass
    folders.remove_folder(folder)


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# --- what lives --------------------------------------------------------------------------------


def test_what_lives_stays(own_folders: Path, request: pytest.FixtureRequest) -> None:
    """However old it looks."""
    with Cluster(n=1) as rc, Cluster(n=1, profile="lives", resilient=True) as other:
        base = folders.runtime_folder()
        private: list[Path] = request.getfixturevalue("private")  # The start of a cluster would sweep it.
        living = [path for path in (*base.glob("clusters/*"), *base.glob("s/*")) if path not in private]
        living.append(folders.profile_folder("lives"))
        files = [path for folder in living if folder.is_dir() for path in folder.iterdir()]
        assert len(living) == 6
        age(*living)
        said = clean()
        assert len(said.splitlines()) == len(private)
        assert all([path.exists() for path in (*living, *files)])
        assert rc[0].apply_async(abs, -1).get(DEADLINE) == other[0].apply_async(abs, -1).get(DEADLINE) == 1
    folders.remove_folder(living[-1])


def test_what_is_young_stays(private: list[Path], named: Path) -> None:
    """It may belong to a cluster that is being started."""
    (private[0] / "engine-2.log").touch()
    (named / "lock").touch()
    for path in private[1:]:
        path.touch()
    assert clean() == "nothing to remove\n"


def test_another_machines_cluster_stays(named: Path) -> None:
    """Its home may be this one's."""
    (named / "client.json").write_text(json.dumps({"cluster_id": "c0ffee", "hostname": "elsewhere"}))
    age(named, seconds=365 * 86_400)
    assert clean() == "nothing to remove\n"


def test_engines_on_other_machines_may_wait_for_a_controller(named: Path) -> None:
    takeover = json.loads((named / "controller.json").read_text())
    (named / "controller.json").write_text(json.dumps({**takeover, "ip": "*", "port": 4711}))
    age(named)
    assert clean() == "nothing to remove\n"
    (named / "controller.json").write_text(json.dumps({**takeover, "ip": "127.0.0.1", "port": 4711}))
    age(named)
    assert str(named / "controller.json") in clean()


def test_a_living_engine_or_supervisor_keeps_what_a_controller_takes_over_by(named: Path) -> None:
    """By the files that it has open, by its number, by where it was started for, or by how."""
    with (named / "engine-1.log").open("a"):
        age(named)
        assert clean("--dry-run") == "nothing to remove\n"
    file = named / "supervisor.json"
    dead = file.read_text()
    SupervisorFile.of_this_process("/nowhere").write(named)
    age(named)
    assert clean("--dry-run") == "nothing to remove\n"
    file.write_text(dead)
    age(named)
    added = folders.private_folder("c0ffee-engines-1", create=True)
    with (added / "supervisor.log").open("a"):
        assert clean("--dry-run") == "nothing to remove\n"
    folders.remove_private(added)
    assert str(named / "controller.json") in clean("--dry-run")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--profile", "dead"], True),
        (["--profile=dead"], True),
        (["--cluster-id", "c0ff"], True),
        (["--file", "FOLDER"], True),
        (["--file", "FOLDER/client.json"], True),
        (["--file", "/nowhere"], True),
        (["--profile", "another"], False),
        ([], False),
    ],
)
def test_an_engine_started_by_hand_may_wait_for_a_controller(
    named: Path, options: list[str], kept: bool
) -> None:
    """Of which cluster it is, its command line says; if not that, it may be of any."""
    (named / "engine.json").write_text((named / "client.json").read_text())
    age(named)
    told = [option.replace("FOLDER", str(named)) for option in options]
    by_hand = [sys.executable, "-c", "import time; time.sleep(60)", "directview", "engine", *told]
    with subprocess.Popen(by_hand) as process:
        try:
            until(lambda: "engine" in psutil.Process(process.pid).cmdline(), "its command line")
            assert (clean("--dry-run") == "nothing to remove\n") == kept
        finally:
            process.kill()


def test_another_users_things_stay(private: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they lie in a folder of ours."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in private:
        os.chown(path, 65_534, 65_534)
    assert clean() == "nothing to remove\n"
    for path in private:
        os.chown(path, 0, 0)


def test_what_cannot_be_removed_is_told(private: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cleaning, "remove_folder", lambda folder: None)
    found = CliRunner().invoke(main, ["clean"])
    assert found.exit_code == 1
    assert f"can't remove the folder {private[0]}" in found.output


# --- the sweep at each start -------------------------------------------------------------------


def test_engines_for_a_cluster_elsewhere_are_swept_only_when_dead(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No controller holds the lock of their folder; without it, their supervisor would end."""
    monkeypatch.setattr(folders, "_SWEEP_AGE", 0.0)
    cluster = Cluster(n=0, profile="first")
    cluster.start_cluster_sync()
    engine_file = Path(cluster.connection_file).with_name("engine.json")
    add = [sys.executable, "-m", "directview", "add-engines", "-n", "1", "--daemonize", "--file"]
    subprocess.run([*add, str(engine_file)], check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL)
    with Client(cluster.connection_file) as rc:
        rc.wait_for_engines(1, DEADLINE)
        (folder,) = folders.runtime_folder().glob("clusters/*-engines-*")
        folders.sweep()
        with Cluster(n=0):
            assert folder.is_dir()
        age(folder)
        clean()
        assert folder.is_dir()
        engine = psutil.Process(rc[0].apply_async(os.getpid).get(DEADLINE))
        fork_server = engine.parent()
        assert fork_server is not None
        everybody = [psutil.Process(fork_server.ppid()), fork_server, engine]
        for process in everybody:
            process.suspend()
        for process in everybody:
            process.send_signal(signal.SIGKILL)
        until(lambda: not any([alive(process) for process in everybody]), "the end")

    def swept() -> bool:
        """A process that counts as dead may have threads that end a moment later, and with them its lock."""
        folders.sweep()
        return not folder.exists()

    until(swept, "the folder of the dead to be swept")
    cluster.stop_cluster_sync()
    assert not list((folders.runtime_folder() / "s").iterdir())
    folders.remove_folder(engine_file.parent)


def test_a_private_cluster_between_two_controllers_is_not_swept(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor lives."""
    monkeypatch.setattr(folders, "_SWEEP_AGE", 0.0)
    with Cluster(n=1, resilient=True) as rc:
        assert rc.cluster is not None
        rc[0].push({"kept": 7}, block=True)
        folder = Path(rc.cluster.connection_file).parent
        pid = json.loads((folder / "client.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(pid), "its end")
        folders.sweep()
        assert folder.is_dir()
        assert rc[0].pull_async("kept").get(DEADLINE) == 7
