"""Real controllers that are killed under load: engines and clients come back, every call ends once."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import directview.cluster
from directview import AsyncResult, Client, Cluster, ControllerLost, EngineError, connection
from directview.controller._shell import ControllerShell
from directview.controller.options import ControllerOptions
from directview.controller.takeover import Registered
from directview.engine.options import EngineOptions
from directview.folders import TAKEOVER_FILES, profile_folder
from directview.supervisor.control import SupervisorFile, request
from directview.testing.polling import until

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 40.0
LEASE = 2.0
"""Seconds within which everybody is to be back."""


def controller_pid(cluster: Cluster) -> int:
    """The controller's process, as its supervisor knows it; 0 between two of them."""
    file = SupervisorFile.read(Path(cluster.connection_file).parent)
    assert file is not None
    pid: int = asyncio.run(request(file.control, "status"))["controller"]
    return pid


def kill_controller(cluster: Cluster) -> int:
    """kill -9, as soon as there is one; its pid."""
    pid: int = until(lambda: controller_pid(cluster), "a controller")
    os.kill(pid, signal.SIGKILL)
    until(lambda: controller_pid(cluster) not in (0, pid), "the next controller")
    return pid


def note(path: str, number: int) -> int:
    """A side effect: a line with the call's number, written at once and whole."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\n" % number)
    os.close(fd)
    return number


def noted(path: Path) -> list[int]:
    """The numbers in it."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def sleep_and_note(path: str, number: int, seconds: float) -> int:
    """A call that is under way for a while, in the way that blocks its engine."""
    note(path, number)
    time.sleep(seconds)
    return number


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Three engines that outlive their controller, with a lease that a test can wait for and a store."""
    with pytest.MonkeyPatch.context() as patch:
        short = functools.partial(ControllerOptions, lease=LEASE)
        patch.setattr(directview.cluster, "ControllerOptions", short)
        with Cluster(n=3, resilient=True, store=own_folders / "calls.sqlite") as client:
            yield client


def test_a_frozen_engine_is_given_up_long_before_the_lease_is_over(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is for who was cut off. One that is frozen for less than a heartbeat's time just goes on."""
    monkeypatch.setattr(
        directview.cluster, "ControllerOptions", functools.partial(ControllerOptions, lease=1e4)
    )
    with Cluster(n=2, resilient=True) as rc:
        pid = rc[0].apply_sync(os.getpid)
        result = rc[0].apply_async(time.sleep, 1.0)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.5)  # How long it is frozen is what is tested.
        os.kill(pid, signal.SIGCONT)
        assert result.get(DEADLINE) is None
        result = rc[0].apply_async(time.sleep, 100)
        other = rc[1].apply_async(time.sleep, 1.0)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match=r"engine 0 was lost \(its process is stopped"):
            result.get(DEADLINE)
        assert other.get(DEADLINE) is None
        assert rc.ids == [1]
        until(lambda: not psutil.pid_exists(pid), "its end: it must not wake up and go on")


def test_every_call_ends_once_under_load_over_two_crashes(rc: Client, tmp_path: Path) -> None:
    """Large arrays, small calls, balanced ones, a stream, busy functions; ids and namespaces stay."""
    assert rc.cluster is not None
    ids, pids = rc.ids, rc[:].apply_sync(os.getpid)
    rc[:].push({"kept": 7}, block=True)
    notes = {name: tmp_path / name for name in ("small", "balanced", "long", "streamed")}
    data = np.random.default_rng(1).integers(0, 255, 60_000_000, dtype=np.uint8)

    def count(path: str, n: int) -> Iterator[int]:
        for number in range(n):
            yield note(path, number)
            time.sleep(0.001)

    # Bound to this function's globals, so that it travels with what it needs.
    scattered = rc[:].scatter("part", data, block=False)
    streamed = iter(rc[1].stream(count, str(notes["streamed"]), 1500))
    items = [next(streamed) for _ in range(10)]
    long = [rc[0].apply_async(sleep_and_note, str(notes["long"]), number, 0.7) for number in range(3)]
    small = [rc[2].apply_async(note, str(notes["small"]), number) for number in range(1500)]
    view = rc.load_balanced_view([1, 2])
    balanced = view.map_async(functools.partial(note, str(notes["balanced"])), range(1500), chunksize=1)
    pulled = rc[1].apply_async(lambda n: np.arange(n), 8_000_000)
    kill_controller(rc.cluster)
    small += [rc[2].apply_async(note, str(notes["small"]), number) for number in range(1500, 3000)]
    kill_controller(rc.cluster)
    assert [result.get(DEADLINE) for result in small] == list(range(3000))
    assert [result.get(DEADLINE) for result in long] == [0, 1, 2]
    assert list(balanced.get(DEADLINE)) == list(range(1500))
    items += list(streamed)
    assert items == list(range(1500))
    scattered.get(DEADLINE)
    assert (rc[:].gather("part").get(DEADLINE) == data).all()
    assert (pulled.get(DEADLINE) == np.arange(8_000_000)).all()
    assert noted(notes["small"]) == list(range(3000))
    assert noted(notes["long"]) == [0, 1, 2]
    assert Counter(noted(notes["balanced"])) == Counter(range(1500))
    assert noted(notes["streamed"]) == list(range(1500))
    assert rc.ids == ids
    assert rc[:].apply_sync(os.getpid) == pids
    assert rc[:].pull("kept", block=True) == [7, 7, 7]


def test_everybody_is_back_after_a_kill(rc: Client) -> None:
    """From the kill to the answers of calls that are made after it, new clients included."""
    assert rc.cluster is not None
    rc[:].apply_sync(abs, -1)
    os.kill(controller_pid(rc.cluster), signal.SIGKILL)
    assert rc[:].apply_async(abs, -1).get(DEADLINE) == [1, 1, 1]
    with rc.cluster.connect_client_sync() as other:
        other.wait_for_engines(3, DEADLINE)
        assert other.ids == rc.ids
        assert other[:].apply_async(abs, -2).get(DEADLINE) == [2, 2, 2]


def test_an_engine_deep_in_a_function_is_vouched_for(rc: Client, tmp_path: Path) -> None:
    """It can't come back for longer than places are kept. What is queued behind it waits as well."""
    assert rc.cluster is not None
    path = tmp_path / "long"
    long = rc[0].apply_async(sleep_and_note, str(path), 1, 2.5 * LEASE)
    behind = rc[0].apply_async(note, str(path), 2)
    until(lambda: noted(path), "its beginning")
    kill_controller(rc.cluster)
    assert rc[1:].apply_async(abs, -1).get(DEADLINE) == [1, 1]
    assert 0 in rc.ids
    assert (long.get(DEADLINE), behind.get(DEADLINE)) == (1, 2)
    assert noted(path) == [1, 2]


def test_the_history_goes_on(rc: Client) -> None:
    """Calls of before and after are in the store."""
    assert rc.cluster is not None
    before = rc[0].apply_async(abs, -1)
    before.get(DEADLINE)
    after: list[AsyncResult[Any]] = [rc[1].apply_async(time.sleep, 0.5)]

    def ended(msg_id: str) -> bool:
        return [record["status"] for record in rc.db_query({"msg_id": msg_id})] == ["ok"]

    until(lambda: ended(before.msg_ids[0]), "the record of a call")
    until(lambda: rc.db_query({"msg_id": after[0].msg_ids[0]}), "that of one that is running")
    kill_controller(rc.cluster)
    after.append(rc[1].apply_async(abs, -1))
    ids = [result.msg_ids[0] for result in (before, *after)]
    assert [result.get(DEADLINE) for result in after] == [None, 1]
    for id in ids:
        until(functools.partial(ended, id), f"the record of {id}")


def test_an_engine_killed_at_the_same_moment(rc: Client) -> None:
    """Its calls end in one clear error, though the controller that was told is a new one."""
    assert rc.cluster is not None
    pid = rc[2].apply_sync(os.getpid)
    result = rc[2].apply_async(time.sleep, 60)
    result.wait_for_send(DEADLINE)
    os.kill(controller_pid(rc.cluster), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"engine 2 .*SIGKILL"):
        result.get(DEADLINE)
    until(lambda: rc.ids == [0, 1], "the news")
    rc.cluster.start_engines_sync(1)
    rc.wait_for_engines(3, DEADLINE)
    assert rc.ids == [0, 1, 3]  # 2 is never given to another.


@pytest.mark.usefixtures("nothing_left")
def test_stopping_such_a_cluster_ends_everything_at_once(own_folders: Path) -> None:
    """Nobody waits for a controller that ended in order; nothing is left that another would take over."""
    with Cluster(n=1, resilient=True, profile="ended") as first:
        assert first.cluster is not None
        folder = Path(first.cluster.connection_file).parent
        assert {name for name in TAKEOVER_FILES if (folder / name).exists()} == set(TAKEOVER_FILES)
        with first.cluster.connect_client_sync() as other:
            result = other[0].apply_async(time.sleep, 60)
            result.wait_for_send(DEADLINE)
            kill_controller(first.cluster)
            first.cluster.stop_cluster_sync()
            with pytest.raises(ControllerLost, match=r"has ended|is gone"):
                result.get(DEADLINE)
    assert [path.name for path in folder.iterdir() if path.suffix == ".json"] == []


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("before", [False, True], ids=["the first", "a successor"])
def test_a_controller_tells_that_its_supervisor_was_killed(
    own_folders: Path, tmp_path: Path, before: bool
) -> None:
    """And ends: a client elsewhere doesn't see that its file is gone, and would wait for another."""
    with Cluster(n=1, ip="127.0.0.1", resilient=True) as rc:
        assert rc.cluster is not None
        copy = dataclasses.replace(connection.load(rc.cluster.connection_file), ipc=None).write(tmp_path)
        with Client(str(copy), reconnect_timeout=1000.0) as other:
            result = other[0].apply_async(time.sleep, 60)
            result.wait_for_send(DEADLINE)
            if before:
                kill_controller(rc.cluster)
                assert other.db_query({"msg_id": "of no call"}) == []  # It is back.
            file = SupervisorFile.read(Path(rc.cluster.connection_file).parent)
            assert file is not None
            os.kill(file.pid, signal.SIGKILL)
            with pytest.raises(ControllerLost, match="has ended: its supervisor was killed"):
                result.get(DEADLINE)


@pytest.mark.parametrize("full", [False, True])
async def test_a_disk_that_is_full_when_somebody_comes(
    own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Who is there is written down before anybody is told of it; where that fails, a moment later."""
    write, disk = Registered.write, {"full": False}

    def write_if_possible(registered: Registered, folder: Path) -> None:
        if disk["full"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(registered, folder)

    monkeypatch.setattr(Registered, "write", write_if_possible)
    options = ControllerOptions(folder=str(tmp_path), cluster_id="full", policy="wait")
    controller = asyncio.ensure_future(ControllerShell(options).run())
    path = tmp_path / "client.json"
    while not path.exists():
        assert not controller.done()
        await asyncio.sleep(0.01)
    disk["full"] = full
    async with Client(str(path), timeout=DEADLINE) as rc:
        left = Registered.read(tmp_path)
        assert left is not None
        assert bool(left.ids) is not full
        disk["full"] = False
        while not left.ids:
            await asyncio.sleep(0.05)
            left = Registered.read(tmp_path)
            assert left is not None
        await rc.shutdown_async(hub=True)
        await controller


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_a_controller_that_can_not_start_again_is_given_up(own_folders: Path) -> None:
    """After a few attempts, each with its reason in the log; all calls end."""
    with Cluster(n=1, resilient=True, profile="broken") as client:
        assert client.cluster is not None
        folder = Path(client.cluster.connection_file).parent
        result = client[0].apply_async(time.sleep, 100)
        result.wait_for_send(DEADLINE)
        (folder / "controller.json").write_text("{")
        os.kill(controller_pid(client.cluster), signal.SIGKILL)
        file = SupervisorFile.read(folder)
        assert file is not None
        until(lambda: not psutil.pid_exists(file.pid) or file.process() is None, "the supervisor's end")
        said = (folder / "supervisor.log").read_text()
        assert said.count("a controller couldn't take over: ") == 8
        assert "controller.json, by which this controller should take over, is damaged" in said
        assert "9 controllers ended in a row, the last one: exited with code 1" in said


# --- controllers without a supervisor ---------------------------------------------------------------------


class ByHand:
    """A controller that is started, killed and started again by hand, with engines that nobody supervises."""

    def __init__(self, profile: str, stack: ExitStack) -> None:
        self.folder = profile_folder(profile, create=True)
        self._stack = stack
        self._options = ControllerOptions(
            folder=str(self.folder), cluster_id="0123456789ab", profile=profile, policy="wait", lease=LEASE
        )
        self._controller: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ready, said = os.pipe()
        options = ControllerOptions.from_dict({**self._options.to_dict(), "ready_fd": said})
        self._controller = self._run("directview.controller", options.to_json(), (said,))
        os.close(said)
        with open(ready) as pipe:
            assert "client" in json.loads(pipe.readline())

    def kill(self) -> None:
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait(DEADLINE)

    def end(self) -> None:
        assert self._controller is not None
        self._controller.terminate()
        assert self._controller.wait(DEADLINE) == 0

    def engine(self) -> subprocess.Popen[bytes]:
        options = EngineOptions(connection=str(self.folder / "engine.json"), uuid=os.urandom(16).hex())
        return self._run("directview.engine", options.to_json())

    def _run(self, module: str, options: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", module, options], pass_fds=fds)
        self._stack.callback(process.wait, DEADLINE)
        self._stack.callback(process.kill)
        return process


@contextmanager
def by_hand(profile: str) -> Iterator[ByHand]:
    with ExitStack() as stack:
        made = ByHand(profile, stack)
        made.start()
        yield made


CLIENT = """\
import os, sys, time
from directview import Client

rc = Client(sys.argv[1])
rc.ids


def note(path, number, seconds):
    with open(path, "a") as file:
        file.write(f"{number}\\n")
    time.sleep(seconds)


running, queued = [rc[0].apply_async(note, sys.argv[2], *call) for call in ((1, 2), (2, 0))]
running.wait_for_send(20), queued.wait_for_send(20)
print("sent", flush=True)
time.sleep(1000)
"""


@pytest.mark.usefixtures("nothing_left")
def test_deaths_while_there_is_no_controller(own_folders: Path, tmp_path: Path) -> None:
    """An engine's: its calls end, the others keep their ids. A client's: what it had queued is dropped."""
    path = tmp_path / "notes"
    with by_hand("hand") as hand:
        engines = []
        with Client(hand.folder) as rc:
            for number in range(3):
                engines.append(hand.engine())
                rc.wait_for_engines(number + 1, DEADLINE)
            rc[:].push({"kept": 7}, block=True)
            program = subprocess.Popen(
                [sys.executable, "-c", CLIENT, str(hand.folder), str(path)], stdout=subprocess.PIPE
            )
            assert program.stdout is not None
            assert program.stdout.readline() == b"sent\n"
            until(lambda: noted(path), "the beginning of the other client's call")
            results = [rc[id].apply_async(time.sleep, 1) for id in (1, 2)]
            for result in results:
                result.wait_for_send(DEADLINE)
            hand.kill()
            program.kill()
            program.communicate()
            engines[2].kill()
            late = rc[1].pull_async("kept")
            assert not any([result.ready() for result in (*results, late)])
            hand.start()
            assert results[0].get(DEADLINE) is None
            assert late.get(DEADLINE) == 7
            with pytest.raises(EngineError, match="engine 2"):
                results[1].get(DEADLINE)
            assert rc.ids == [0, 1]
            until(lambda: rc.queue_status()[0]["queue"] == 0, "an empty queue")
            assert rc[0].pull_async("kept").get(DEADLINE) == 7
            registered = Registered.read(hand.folder)
            assert registered is not None
            assert registered.incarnation == 2
            hand.end()
        for engine in engines:
            engine.wait(DEADLINE)
    assert noted(path)[0] == 1
    assert noted(path) in ([1], [1, 2])


def test_who_finds_no_controller_in_time_says_so(own_folders: Path) -> None:
    """Each call ends in ControllerLost after the client's own patience."""
    with by_hand("lost") as hand, Client(hand.folder, reconnect_timeout=1.0) as rc:
        engine = hand.engine()
        rc.wait_for_engines(1, DEADLINE)
        results: list[AsyncResult[Any]] = [rc[0].apply_async(time.sleep, 0.1) for _ in range(20)]
        results[0].get(DEADLINE)
        began = time.monotonic()
        hand.kill()
        results.append(rc[0].apply_async(abs, -1))
        errors = [result.exception(DEADLINE) for result in results]
        assert {type(error) for error in errors} <= {type(None), ControllerLost}
        assert isinstance(errors[-1], ControllerLost)
        assert time.monotonic() - began > 0.9
        with pytest.raises(ControllerLost, match="is gone"):
            rc[0]
        engine.kill()
        hand.start()  # to take away what the killed one has left
        hand.end()
