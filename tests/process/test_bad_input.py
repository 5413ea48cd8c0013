"""Bad input with real processes: clear errors that name the thing and the remedy; nobody else is harmed."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from directview import (
    Client,
    Cluster,
    CompositeError,
    ConnectionRejected,
    ControllerUnreachable,
    DirectViewError,
    NoEnginesRegistered,
    RemoteError,
    SerializationError,
)
from directview.connection import ConnectionFileError, ConnectionFileNotFound
from directview.wire.messages import PROTOCOL_VERSION, Answer, Hello, Query, Refused, Welcome, decode, encode

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 40.0
SILENCE = 8.0
"""Seconds within which who connects and says nothing must have lost the connection."""


@pytest.fixture(scope="module")
def cluster(own_folders: Path) -> Iterator[Client]:
    """Two engines, by unix socket and by an open TCP port with keys."""
    with Cluster(n=2, ip="127.0.0.1") as client:
        yield client


@pytest.fixture
def rc(cluster: Client, caplog: pytest.LogCaptureFixture) -> Iterator[Client]:
    """A client that must not notice what others do: its calls go on, and its connection stays."""
    caplog.set_level(logging.INFO, logger="directview")
    pids = cluster[:].apply_sync(os.getpid)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            assert cluster[:].apply_async(os.getpid).get(DEADLINE) == pids

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield cluster
    finally:
        ended.set()
        worker.join()
    assert [record.getMessage() for record in caplog.records if "lost" in record.getMessage()] == []
    assert cluster[:].apply_sync(os.getpid) == pids


def contents(rc: Client) -> dict[str, Any]:
    """Its connection file."""
    assert rc.cluster is not None
    found: dict[str, Any] = json.loads(Path(rc.cluster.connection_file).read_text())
    return found


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    """A connection file with this in it."""
    path = folder / f"client-{len(list(folder.iterdir()))}.json"
    path.touch(mode)
    path.write_text(text)
    return path


# --- which cluster ------------------------------------------------------------------------------------


def test_a_wrong_path_fails_at_once(tmp_path: Path) -> None:
    """Naming the path."""
    with pytest.raises(
        ConnectionFileNotFound, match=f"no connection file {tmp_path}/nowhere.json.*directview list"
    ):
        Client(tmp_path / "nowhere.json", timeout=1000)


@pytest.mark.usefixtures("own_folders")
def test_a_profile_that_is_not_there() -> None:
    """Is waited for as long as asked, then named, with the command that starts it."""
    with pytest.raises(
        ConnectionFileNotFound, match=r"no cluster of profile 'mpi'.*directview start.*--profile mpi"
    ):
        Client(profile="mpi", timeout=0.1)
    with pytest.raises(DirectViewError, match=r"no cluster.*beef"):
        Client(cluster_id="beef", timeout=0.1)


def test_a_stale_file(own_folders: Path, tmp_path: Path) -> None:
    """Of a controller that has ended: says that, and how to start another."""
    with Cluster(n=0) as gone:
        path = write(tmp_path, json.dumps(contents(gone)))
    with pytest.raises(ControllerUnreachable, match=f"nobody listens at ipc://.*{path}.*has ended; start"):
        Client(path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no JSON in it"),
        ("\0\xff" * 100, "no JSON in it"),
        ("[1, 2]", "expected a map of fields, got list"),
        ("{}", "has no field 'version': it is incomplete; copy it again"),
        ("[" * 100_000, "not a connection file"),
    ],
)
def test_a_file_with_something_else_in_it(tmp_path: Path, text: str, error: str) -> None:
    """What is wrong with it."""
    with pytest.raises(ConnectionFileError, match=error):
        Client(write(tmp_path, text))


def test_a_file_that_others_can_read(rc: Client, tmp_path: Path) -> None:
    """Is refused, with the command that mends it."""
    path = write(tmp_path, json.dumps(contents(rc)), 0o644)
    with pytest.raises(ConnectionFileError, match=f"chmod 600 {path}"):
        Client(path)


def test_a_controller_of_another_version(rc: Client, tmp_path: Path) -> None:
    """Known from the file; and where the file doesn't say, from the handshake."""
    path = write(tmp_path, json.dumps({**contents(rc), "protocol": PROTOCOL_VERSION + 1}))
    with pytest.raises(
        ConnectionRejected, match=f"{path} was written by another version.*install the same version"
    ):
        Client(path)
    answer = talk(rc, encode(hello(rc)._replace(version=PROTOCOL_VERSION + 1)))
    assert isinstance(answer, Refused)
    assert "install the same version" in answer.remedy


def test_the_file_of_another_cluster(rc: Client) -> None:
    """At the same address, say: the controller refuses it."""
    with pytest.raises(ConnectionRejected, match=r"cluster id 'another'.*use the current one"):
        Client({**contents(rc), "cluster_id": "another"}).ids


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"sshserver": "me@there"}, "no argument 'sshserver': forward the port with `ssh -L`"),
        ({"colour": "red"}, "no argument 'colour'"),
    ],
)
def test_arguments_that_a_client_does_not_have(given: dict[str, Any], error: str) -> None:
    """What to do instead."""
    with pytest.raises(TypeError, match=error):
        Client(**given)


# --- which engine ---------------------------------------------------------------------------------------


def test_an_engine_that_is_not_there(rc: Client) -> None:
    """Unknown ids and things that are none."""
    for wrong in (7, -3, [0, 7]):
        with pytest.raises(IndexError, match=r"no engine (7|-3).*\[0, 1\]"):
            rc[wrong]
    for unfit in ("0", 0.5, None):
        with pytest.raises(TypeError, match="expected an engine id, a list of ids or a slice"):
            rc[unfit]  # type: ignore[index]
    with pytest.raises(ValueError, match="empty list of engines"):
        rc[[]]


def test_no_engines_at_all(own_folders: Path) -> None:
    """At once, saying how to start some; and they can be waited for, as long as one likes."""
    with Cluster(n=0) as rc:
        assert rc.ids == []
        view = rc.direct_view("all")
        for attempt in (lambda: rc[:], lambda: rc[0], lambda: view.apply_async(abs, -1), lambda: view["a"]):
            with pytest.raises(
                NoEnginesRegistered, match="no engines: start some with `directview add-engines"
            ):
                attempt()
        with pytest.raises(TimeoutError, match=r"0 of 1 engines were there after 0\.1 s"):
            rc.wait_for_engines(1, timeout=0.1)


# --- what travels -----------------------------------------------------------------------------------------


class Holder:
    """Holds what can't travel."""

    def __init__(self) -> None:
        self.inner = {"lock": threading.Lock()}


def test_arguments_that_cannot_travel(rc: Client) -> None:
    """Which one, and what in it; nothing is sent."""
    lock = threading.Lock()
    with Client(contents(rc)) as own:
        view: Any = own[:]
        with pytest.raises(SerializationError, match=r"argument 2 of print.*lock"):
            view.apply_async(print, 1, lock)
        with pytest.raises(SerializationError, match=r"'held' of print.*\['lock'\]"):
            view.apply_async(print, held=Holder())
        with pytest.raises(SerializationError, match=r"push: \['f'\]"), open(os.devnull, "w") as file:
            view.push({"e": 1, "f": file})
        with pytest.raises(SerializationError, match="generator"):
            view.apply_async(print, (i for i in range(3)))
        with pytest.raises(SerializationError, match="'lock' of <lambda>: cannot pickle"):
            view.apply_async(lambda: lock)
        with pytest.raises(SerializationError, match=r"Client of cluster .* can't travel"):
            view.apply_async(lambda: view.targets)
        assert own.history == []


def test_results_that_cannot_travel(rc: Client) -> None:
    """Which call's, and what in it; the engine goes on."""

    def make() -> object:
        import threading

        return {"k": [threading.Lock()]}

    with pytest.raises(SerializationError, match=r"result of make.*\['k'\]\[0\].*lock") as caught:
        rc[0].apply_async(make).get(DEADLINE)
    assert isinstance(caught.value, RemoteError)
    with pytest.raises(SerializationError, match=r"generator.*stream"):
        rc[0].apply_async(lambda: (i for i in range(3))).get(DEADLINE)
    with pytest.raises(CompositeError) as group:
        rc[:].apply_async(make).get(DEADLINE)
    assert group.group_contains(SerializationError)


def test_functions_that_an_engine_cannot_load(rc: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing there."""
    module = types.ModuleType("only_here")
    exec("def f(): return 1\nclass C: pass", module.__dict__)
    module.__dict__["f"].__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", module)
    for call in (
        lambda: rc[0].apply_async(module.__dict__["f"]),
        lambda: rc[0].apply_async(print, module.__dict__["C"]()),
    ):
        with pytest.raises(ModuleNotFoundError, match="No module named 'only_here'") as caught:
            call().get(DEADLINE)
        (remedy,) = caught.value.__notes__
        assert "on the engine while it loaded what the client sent" in remedy
        assert "must be installed or on sys.path there too" in remedy


def test_results_that_cannot_be_loaded_here(rc: Client) -> None:
    """A class that only the engine can import: which call, which engine, what is missing."""
    source = "import sys, types\nm = types.ModuleType('only_there')\nexec('class C: pass', m.__dict__)\n"
    rc[0].execute(f"{source}m.C.__module__ = 'only_there'\nsys.modules['only_there'] = m", block=True)
    with pytest.raises(SerializationError, match=r"result of pull.*engine 0.*only_there"):
        rc[0].pull_async("m.C()").get(DEADLINE)


# --- strangers at the door --------------------------------------------------------------------------------


def hello(rc: Client) -> Hello:
    """What a client says first."""
    info = contents(rc)
    return Hello(
        PROTOCOL_VERSION, "client", os.urandom(16), info["cluster_id"], 0, -1, b"", False, os.getpid(),
        socket.gethostname(), platform.python_version(), b"",
    )  # fmt: skip


def talk(rc: Client, *messages: bytes | list[bytes]) -> Any:
    """Send these to the controller as a zmq peer of its own; what it answers first, None for the end."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.connect(contents(rc)["ipc"])
        for message in messages:
            dealer.send_multipart(message if isinstance(message, list) else [message])
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        try:
            end = time.monotonic() + SILENCE
            while (left := end - time.monotonic()) > 0:
                for found, _ in poller.poll(round(left * 1000)):
                    if found is monitor:
                        return None
                    header = dealer.recv_multipart()[0]
                    if header:
                        return decode(header)
            raise AssertionError("neither an answer nor the end")
        finally:
            dealer.disable_monitor()
            monitor.close(0)


def connect(rc: Client, transport: str) -> socket.socket:
    """A plain connection to the controller's door."""
    info = contents(rc)
    if transport == "ipc":
        door = socket.socket(socket.AF_UNIX)
        door.connect(info["ipc"].removeprefix("ipc://"))
    else:
        host, _, port = info["tcp"].removeprefix("tcp://").rpartition(":")
        door = socket.create_connection((host, int(port)))
    door.settimeout(SILENCE)
    return door


def read_to_end(door: socket.socket) -> None:
    """Until the controller hangs up."""
    try:
        while door.recv(65_536):
            pass
    except ConnectionError:
        pass


GARBAGE = {
    "noise": os.urandom(100_000),
    "zeros": bytes(100_000),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + os.urandom(200),
    "half a greeting": b"\xff\0\0\0\0\0\0\0\1\x7f\3",
    "greeting, then noise": b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(16 + 32) + os.urandom(10_000),
}


def test_garbage_and_silence_at_the_door(rc: Client) -> None:
    """Cost their sender the connection within seconds, and nobody else anything, however many they are."""
    doors = []
    for transport in ("ipc", "tcp"):
        for said in [*GARBAGE.values(), *[b""] * 150]:
            door = connect(rc, transport)
            doors.append(door)
            try:
                door.sendall(said)
            except ConnectionError:
                pass
    try:
        assert talk(rc, encode(Query(1, "status", {}))) is None  # A zmq peer that doesn't say who it is.
        for door in doors:
            read_to_end(door)
    finally:
        for door in doors:
            door.close()


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1\xc1\xc1",
        b"",
        os.urandom(1000),
        [encode(Query(1, "status", {})), b"a frame too many"],
        [b"x"] * 10_000,
        b"x" * 1_500_000,
    ],
    ids=["not msgpack", "empty", "noise", "wrong frames", "too many frames", "large"],
)
def test_messages_that_are_none(rc: Client, message: bytes | list[bytes]) -> None:
    """From a peer that speaks zmq: its connection ends, before its hello and after."""
    assert talk(rc, message) is None
    assert isinstance(talk(rc, encode(hello(rc))), Welcome)
    assert loses_connection(rc, message)


def loses_connection(rc: Client, message: bytes | list[bytes]) -> bool:
    """Say hello, then this; whether the controller hangs up."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.connect(contents(rc)["ipc"])
        dealer.send(encode(hello(rc)))
        dealer.send_multipart(message if isinstance(message, list) else [message])
        dealer.send(encode(Query(7, "status", {})))
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        try:
            end = time.monotonic() + SILENCE
            while (left := end - time.monotonic()) > 0:
                for found, _ in poller.poll(round(left * 1000)):
                    if found is monitor:
                        return True
                    header = dealer.recv_multipart()[0]
                    if header and isinstance(answer := decode(header), Answer) and answer.number == 7:
                        return False
            raise AssertionError("neither an answer nor the end")
        finally:
            dealer.disable_monitor()
            monitor.close(0)
