"""Who is not let in: strangers on the network, other users of the machine, keys that were replaced."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pickle
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from directview import Client, Cluster, ConnectionRejected, DirectViewError
from directview.cli import main
from directview.connection import ConnectionFileError
from directview.controller.options import ControllerOptions
from directview.engine.options import EngineOptions
from directview.supervisor.control import SupervisorFile, request
from directview.testing.polling import until
from directview.wire.curve import fingerprint

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 40.0
NOBODY = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Two engines, with TCP beside the unix socket."""
    with Cluster(n=2, ip="127.0.0.1", profile="guarded") as client:
        yield client


def folder_of(rc: Client) -> Path:
    assert rc.cluster is not None
    return Path(rc.cluster.connection_file).parent


def contents(rc: Client, role: str = "client") -> dict[str, Any]:
    """What a copy of the connection file on another machine says: no unix socket there."""
    found: dict[str, Any] = json.loads((folder_of(rc) / f"{role}.json").read_text())
    return {**found, "ipc": None}


def status(rc: Client) -> dict[str, Any]:
    """What the supervisor knows: all the pids."""
    file = SupervisorFile.read(folder_of(rc))
    assert file is not None
    found: dict[str, Any] = asyncio.run(request(file.control, "status"))
    return found


def everybody(rc: Client) -> list[psutil.Process]:
    """All processes of the cluster."""
    supervisor = psutil.Process(status(rc)["pid"])
    return [supervisor, *supervisor.children(recursive=True)]


# --- keys ----------------------------------------------------------------------------------------------


def secrets_of(rc: Client) -> list[str]:
    engine = contents(rc, "engine")
    return [contents(rc)["secret"], engine["secret"], engine["supervisor_secret"]]


def test_each_role_has_a_key_pair_of_its_own(rc: Client) -> None:
    client, engine = contents(rc), contents(rc, "engine")
    assert client["server_public"] == engine["server_public"]
    publics = {client["public"], engine["public"], engine["supervisor_public"], client["server_public"]}
    assert len(publics) == 4
    assert len(set(secrets_of(rc))) == 3
    assert client["supervisor_secret"] is None


@pytest.mark.usefixtures("rc")
def test_the_keys_are_shown_by_their_fingerprints(rc: Client) -> None:
    said = CliRunner().invoke(main, ["keys", "--profile", "guarded"], catch_exceptions=False).output
    for role, key in (
        ("controller", contents(rc)["server_public"]),
        ("client", contents(rc)["public"]),
        ("engine", contents(rc, "engine")["public"]),
        ("supervisor", contents(rc, "engine")["supervisor_public"]),
    ):
        assert f"{role:<12}{fingerprint(key)}" in said
    assert not [secret for secret in secrets_of(rc) if secret in said]


@pytest.mark.parametrize("disconnect", [False, True])
def test_keys_are_replaced_without_a_restart(rc: Client, disconnect: bool) -> None:
    """The old ones are refused at once, in the log too; who is connected stays, or is cut off on request."""
    old, engine = contents(rc), contents(rc, "engine")
    with Client(old) as connected:
        assert connected[:].apply_async(abs, -1).get(DEADLINE) == [1, 1]
        flags = ["--rotate", "--disconnect"] if disconnect else ["--rotate"]
        said = CliRunner().invoke(main, ["keys", "--profile", "guarded", *flags], catch_exceptions=False)
        assert "no restart is needed" in said.output
        new = contents(rc)
        assert new["public"] != old["public"]
        assert new["server_public"] == old["server_public"]
        renewed = contents(rc, "engine")
        assert {engine["public"], engine["supervisor_public"]}.isdisjoint(renewed.values())
        for key in (new["public"], renewed["public"], renewed["supervisor_public"]):
            assert fingerprint(key) in said.output
        assert oct(stat.S_IMODE((folder_of(rc) / "client.json").stat().st_mode)) == "0o600"
        with pytest.raises(DirectViewError, match="refuses this key; use the connection file"):
            Client(old, timeout=DEADLINE).ids
        log, refused = folder_of(rc) / "controller.log", f"was replaced ({fingerprint(old['public'])})"
        until(lambda: f"has a key that {refused}" in log.read_text(), "the reason in the log")
        with Client(new) as fresh:
            assert fresh[:].apply_async(abs, -1).get(DEADLINE) == [1, 1]
        if disconnect:
            until(lambda: not connected.ids, "the end of the old connection")
        else:
            assert connected[:].apply_async(abs, -1).get(DEADLINE) == [1, 1]
    assert rc[:].apply_async(abs, -1).get(DEADLINE) == [1, 1]  # It came by the unix socket.


def test_keys_are_not_replaced_from_elsewhere(rc: Client) -> None:
    """Whoever has a key could lock out the others."""
    with Client(contents(rc)) as distant, pytest.raises(ValueError, match="on the controller's machine"):
        asyncio.run(distant.query("rotate_keys"))


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    said = [sys.executable, "-m", "directview", *map(str, words)]
    return subprocess.run(said, capture_output=True, text=True, timeout=DEADLINE, check=False)


def test_a_supervisors_key_makes_no_engine_and_an_engines_no_supervisor(rc: Client, tmp_path: Path) -> None:
    """Nor does either make a client. Each is told, and the log says whose key it was."""
    log = folder_of(rc) / "controller.log"
    found = contents(rc, "engine")
    pairs = [(found[f"{role}public"], found[f"{role}secret"]) for role in ("", "supervisor_")]
    engines, supervisors = pairs
    swapped = dict(zip(("public", "secret", "supervisor_public", "supervisor_secret"),
                       (*supervisors, *engines), strict=True))  # fmt: skip
    path = file_of(tmp_path / "swapped.json", {**found, **swapped})
    options = EngineOptions(connection=str(path), uuid=os.urandom(16).hex(), connect_timeout=DEADLINE)
    engine = subprocess.run(
        [sys.executable, "-m", "directview.engine", options.to_json()],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert engine.returncode == 1
    assert "the key presented is for role 'supervisor', not 'engine'" in engine.stderr
    supervisor = command("add-engines", "-n", "1", "--file", path)
    assert supervisor.returncode != 0
    until(lambda: "is for role 'engine', not 'supervisor'" in log.read_text(), "the reason in the log")
    for pair in pairs:
        with pytest.raises(ConnectionRejected, match="client connection file"):
            Client({**contents(rc), "public": pair[0], "secret": pair[1]}).ids
    assert len(rc) == 2


def test_a_file_without_a_supervisors_key_is_good_for_engines_alone(rc: Client, tmp_path: Path) -> None:
    """A copy of engine.json from which that pair was taken out."""
    found = {**contents(rc, "engine"), "supervisor_public": None, "supervisor_secret": None}
    path = str(file_of(tmp_path / "engine.json", found))
    refused = command("add-engines", "-n", "1", "--file", path)
    assert refused.returncode != 0
    assert "no key for a supervisor" in refused.stderr
    engine = subprocess.Popen([sys.executable, "-m", "directview", "engine", "--file", path])
    try:
        rc.wait_for_engines(3, DEADLINE)
        assert rc[rc.ids[-1]].apply_async(os.getpid).get(DEADLINE) == engine.pid
    finally:
        engine.terminate()
        engine.wait(DEADLINE)
    until(lambda: len(rc) == 2, "the engine's end")


def file_of(path: Path, found: dict[str, Any]) -> Path:
    """A connection file with these contents."""
    path.touch(0o600)
    path.write_text(json.dumps(found))
    return path


def test_a_clients_key_makes_no_supervisor(rc: Client, tmp_path: Path) -> None:
    """Whatever the file says it is for. That it makes no engine either is tested with a bare one."""
    found = contents(rc)
    as_supervisor = {"supervisor_public": found["public"], "supervisor_secret": found["secret"]}
    path = file_of(tmp_path / "engine.json", {**found, **as_supervisor, "role": "engine"})
    before = len(asyncio.run(rc.query("status"))["supervisors"])
    done = command("engine", "--file", path)
    assert done.returncode != 0
    assert len(rc) == 2
    assert len(asyncio.run(rc.query("status"))["supervisors"]) == before
    log = folder_of(rc) / "controller.log"
    # The engine's watcher comes first, and ends the engine when it is refused.
    until(lambda: "key presented is for role 'client', not 'supervisor'" in log.read_text(), "the reason")


def test_it_does_not_listen_beyond_this_machine_without_keys(own_folders: Path, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "*", "192.0.2.1", "::", "somewhere.example"):
        options = ControllerOptions(folder=str(tmp_path), cluster_id="0" * 12, ip=host, curve=False)
        done = subprocess.run(
            [sys.executable, "-m", "directview.controller", options.to_json()],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "without keys: whoever reaches the port could run code here" in done.stderr


def test_strangers_are_refused_before_a_byte_is_decoded(rc: Client) -> None:
    """Plain ZMTP, HTTP, noise, nothing: none of it reaches the controller, and its log tells of each."""
    host, _, port = contents(rc)["tcp"].removeprefix("tcp://").rpartition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(32)
    log = folder_of(rc) / "controller.log"
    for said in (greeting, b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, b""):
        with socket.create_connection((host, int(port)), DEADLINE) as stranger:
            stranger.settimeout(DEADLINE)
            stranger.sendall(said)
            if not said:
                stranger.shutdown(socket.SHUT_WR)
            try:
                while stranger.recv(4096):
                    pass
            except OSError:
                pass
    for reason in ("came without our keys", "ended before it had said who", "ended its handshake"):
        told = re.compile(f"refused a connection: (127.0.0.1|somebody .* where) {reason}")
        until(functools.partial(lambda told: told.search(log.read_text()), told), reason)
    assert rc[:].apply_async(abs, -1).get(DEADLINE) == [1, 1]


def test_a_file_that_others_can_read_is_refused(rc: Client, tmp_path: Path) -> None:
    path = tmp_path / "client.json"
    path.write_text(json.dumps(contents(rc)))
    path.chmod(0o640)
    with pytest.raises(ConnectionFileError, match=r"others can read or write .*chmod 600"):
        Client(path)


def test_everything_on_disk_is_closed_to_others(rc: Client, own_folders: Path) -> None:
    """Folders 0700, files and sockets without any right for group and others."""
    for base in (own_folders / "run/directview", own_folders / "state/directview"):
        assert stat.S_IMODE(base.stat().st_mode) == 0o700
        for path in base.rglob("*"):
            mode = path.lstat().st_mode
            # What is in a closed folder can't be reached, whatever its own mode; keys and sockets have both.
            if path.suffix in (".json", ".sock", ".log") or stat.S_ISSOCK(mode) or path.is_dir():
                assert not stat.S_IMODE(mode) & 0o077, f"{path}: {stat.filemode(mode)}"


# --- other users of the machine ------------------------------------------------------------------------


def test_no_secret_is_in_arguments_or_environment(rc: Client, own_folders: Path) -> None:
    """Of no process of the cluster: everybody may read arguments, and children inherit the environment."""
    assert rc.cluster is not None
    rc.cluster.start_engines_sync(1)
    rc.wait_for_engines(3, DEADLINE)
    processes = everybody(rc)
    assert len(processes) >= 5
    secrets = [secret.encode() for secret in secrets_of(rc)]
    for process in processes:
        for name in ("cmdline", "environ"):
            found = Path(f"/proc/{process.pid}/{name}").read_bytes()
            assert not [secret for secret in secrets if secret in found], f"{name} of {process}"
    rc.cluster.stop_engine_sync(rc.ids[-1])
    until(lambda: len(rc) == 2, "the engine's end")


SPY = """\
import json, os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = []
for path in sys.argv[2:]:
    try:
        open(path, "rb").read(1); found.append("read " + path)
    except OSError:
        pass
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path); found.append("connected to " + path)
    except OSError:
        pass
for pid in sys.argv[1].split(","):
    for name in ("environ", "mem", "maps"):
        try:
            open(f"/proc/{pid}/{name}", "rb").read(1); found.append(f"read {name} of {pid}")
        except OSError:
            pass
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            found.append(f"saw descriptor {fd} of {pid}")
    except OSError:
        pass
    for fd in range(200):
        try:
            os.close(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY)); found.append(f"opened {fd} of {pid}")
        except OSError:
            pass
for name in os.listdir("/dev/shm"):
    if "directview" in name:
        try:
            open(f"/dev/shm/{name}", "rb").read(1); found.append("read " + name)
        except OSError:
            pass
print(json.dumps(found))
"""


@needs_root
def test_another_user_gets_at_nothing(rc: Client, own_folders: Path) -> None:
    """Neither files nor sockets, memory or descriptors, of any process, with large arrays on their way."""
    base = own_folders
    base.chmod(0o755)  # So that nothing but our own folders keeps that user out.
    for name in ("run", "state"):
        (base / name).chmod(0o755)
    kept = rc.share(np.ones(5_000_000))
    assert rc[:].apply_async(np.sum, kept).get(DEADLINE) == [5_000_000] * 2
    shared = rc[:].push_async({"large": np.ones(50_000_000, dtype=np.uint8)})
    paths = [str(path) for path in base.rglob("*") if not path.is_dir()]
    assert any([path.endswith(".sock") for path in paths])
    pids = [process.pid for process in everybody(rc)] + [os.getpid()]
    try:
        said = subprocess.run(
            [sys.executable, "-c", SPY, ",".join(map(str, pids)), *paths],
            stdout=subprocess.PIPE, timeout=DEADLINE, check=True, cwd="/",
        ).stdout  # fmt: skip
    finally:
        (base / "run").chmod(0o700)
        base.chmod(0o700)
    assert json.loads(said) == []
    shared.get(DEADLINE)


# --- pickles -------------------------------------------------------------------------------------------


POISONED = """\
import _pickle, json, pickle, sys

def never(*args, **kwargs):
    sys.stderr.write("UNPICKLED\\n")
    raise AssertionError("the controller unpickled something")

class Never:
    def __init__(self, *args, **kwargs):
        never()

for module in (pickle, _pickle):
    module.load = module.loads = never
    module.Unpickler = Never
pickle._Unpickler = pickle._load = pickle._loads = never

from directview.controller.__main__ import run
from directview.controller.options import ControllerOptions
from directview.engine.options import EngineOptions
code = run(ControllerOptions.from_json(sys.argv[1]))
print(json.dumps(sorted({"cloudpickle", "dill", "directview.wire.objects"} & set(sys.modules))))
sys.exit(code)
"""


def test_the_controller_never_unpickles(own_folders: Path, tmp_path: Path) -> None:
    """Under every kind of load, with its unpicklers replaced by ones that fail."""
    folder = tmp_path / "cluster"
    folder.mkdir(0o700)
    options = ControllerOptions(folder=str(folder), cluster_id="f" * 12, store=str(tmp_path / "store"))
    controller = subprocess.Popen(
        [sys.executable, "-c", POISONED, options.to_json()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    engine = None
    try:
        until(lambda: (folder / "engine.json").exists(), "the controller")
        engine = subprocess.Popen([sys.executable, "-m", "directview", "engine", "--file", str(folder)])
        with Client(folder) as rc:
            rc.wait_for_engines(1, DEADLINE)
            view = rc[:]
            view.push({"a": np.arange(3_000_000), "b": {"c": [1, "two"]}}, block=True)
            assert view.pull("b", block=True) == [{"c": [1, "two"]}]
            view.scatter("s", list(range(10)), block=True)
            assert list(view.gather("s", block=True)) == list(range(10))
            assert view.map_sync(lambda x: x * x, range(50)) == [x * x for x in range(50)]
            assert list(rc.load_balanced_view().map(lambda x: x + 1, range(50))) == list(range(1, 51))
            assert view.execute("print(1); a.sum()").get(DEADLINE) is not None
            with pytest.raises(Exception, match="division"):
                rc[0].apply_sync(lambda: 1 / 0)
            assert list(rc[0].stream(lambda: iter(range(5)))) == list(range(5))
            rc[0].apply_async(time.sleep, 60).abort()
            assert len(rc.db_query()) > 5
            assert rc.queue_status()
            assert pickle.loads(pickle.dumps(1)) == 1  # Here they are whole.
    finally:
        for process in (engine, controller):
            if process is not None:
                process.send_signal(signal.SIGTERM)
        said, complaints = controller.communicate(timeout=DEADLINE)
        if engine is not None:
            engine.wait(DEADLINE)
    assert controller.returncode == 0, complaints
    assert "UNPICKLED" not in complaints
    assert json.loads(said) == []


def test_a_refused_peer_is_no_peer(rc: Client) -> None:
    """One with the right key and another cluster's id is refused in words."""
    with pytest.raises(ConnectionRejected, match="connection file is of another or an earlier cluster"):
        Client({**contents(rc), "cluster_id": "0" * 12}).ids
