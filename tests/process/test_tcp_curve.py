"""TCP with CURVE: over a slow network, with wrong keys, and with hundreds of clients that come and go."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import Client, Cluster, ConnectionRejected, DirectViewError
from directview.engine.options import EngineOptions
from directview.wire.curve import new_keys

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 40.0
RATE = 40_000_000
"""Bytes a second that the slow network passes, each way."""
"""Seconds that a small call may take beside a large transfer: what is on its way fills the slow network
for half a second."""


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Two engines by unix socket, and a TCP port. None shares memory: they stand for other machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRECTVIEW_SHARED_MEMORY", "0")
        with Cluster(n=2, ip="127.0.0.1") as client:
            yield client


def contents(rc: Client, role: str = "client") -> dict[str, Any]:
    """What a copy of the connection file on another machine says: no unix socket there."""
    assert rc.cluster is not None
    found: dict[str, Any] = json.loads(Path(rc.cluster.connection_file).with_name(f"{role}.json").read_text())
    return {**found, "ipc": None}


# --- a slow network ------------------------------------------------------------------------------------


async def throttle(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float, passed: list[int]
) -> None:
    """Pass bytes on at `rate` a second, one way, and note how many."""
    clock = asyncio.get_running_loop().time
    free = clock()
    try:
        while data := await reader.read(65_536):
            free = max(free, clock()) + len(data) / rate
            await asyncio.sleep(free - clock())
            passed.append(len(data))
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def slow_network(address: str, rate: float, passed: list[int]) -> AsyncIterator[str]:
    """A proxy in front of `address`; gives its own address."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        tasks.add(asyncio.create_task(throttle(reader, there_writer, rate, passed)))
        tasks.add(asyncio.create_task(throttle(there_reader, writer, rate, [])))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def slow_network_beside(address: str, rate: float = RATE, passed: list[int] | None = None) -> Iterator[str]:
    """The same on a thread of its own. What passes towards `address` is added to `passed`."""
    found: list[str] = []
    ready, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with slow_network(address, rate, [] if passed is None else passed) as proxied:
            found.append(proxied)
            ready.set()
            await ended.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(DEADLINE)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(DEADLINE)


@contextmanager
def engine_process(folder: Path, contents: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """An engine that nobody supervises, as on another machine, with this connection file."""
    path = folder / f"engine-{secrets.token_hex(4)}.json"
    path.touch(0o600)
    path.write_text(json.dumps(contents))
    options = EngineOptions(connection=str(path), uuid=secrets.token_hex(16), connect_timeout=DEADLINE)
    process = subprocess.Popen(
        [sys.executable, "-m", "directview.engine", options.to_json()], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE)
        process.stderr.close()


def small_calls_beside(rc: Client, big: Any) -> int:
    """Make small calls to engine 1 until `big` is done; their number."""
    number = 0
    while not big.done():
        assert rc[1].apply_async(abs, -number).get(DEADLINE) == number
        number += 1
    return number


@pytest.mark.parametrize("size", [80_000_000, pytest.param(1_000_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("slow_one", ["client", "engine"])
def test_a_large_array_over_a_slow_network(own_folders: Path, rc: Client, slow_one: str, size: int) -> None:
    """It arrives whole, both ways, and small calls go on beside it, also by the same slow way."""
    array = np.random.default_rng(1).bytes(1 << 20) * (size >> 20)
    data = np.frombuffer(array, dtype=np.uint8)
    with slow_network_beside(contents(rc)["tcp"]) as address:
        if slow_one == "client":
            with Client({**contents(rc), "tcp": address}) as distant:
                check_transfer(distant, 0, data, distant)
        else:
            with engine_process(own_folders, {**contents(rc, "engine"), "tcp": address}):
                rc.wait_for_engines(len(rc) + 1, DEADLINE)
                check_transfer(rc, rc.ids[-1], data, rc)
            deadline = time.monotonic() + DEADLINE
            while len(rc) > 2 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert len(rc) == 2


def check_transfer(rc: Client, id: int, data: np.ndarray[Any, Any], small: Client) -> None:
    began = time.monotonic()
    pushed = rc[id].push_async({"data": data})
    number = small_calls_beside(small, pushed)
    assert pushed.get(0) is None
    assert time.monotonic() - began > 0.9 * data.nbytes / RATE  # it went by the slow way
    assert number > 5  # Behind the array they would have been one.
    assert rc[id].pull("data.sum(dtype='u8')", block=True) == data.sum(dtype="u8")
    part = len(data) // 4
    pulled = rc[id].pull_async(f"data[:{part}]")
    small_calls_beside(small, pulled)
    assert (pulled.get(0) == data[:part]).all()
    rc[id].clear(block=True)


def test_an_array_for_all_engines_crosses_the_network_once(rc: Client) -> None:
    """Though they grant its chunks each in its own time."""
    data = np.ones(40_000_000, dtype=np.uint8)
    passed: list[int] = []
    for _ in range(5):  # It goes again if a busy machine loses the connection: not each time.
        passed.clear()
        with (
            slow_network_beside(contents(rc)["tcp"], 10 * RATE, passed) as address,
            Client({**contents(rc), "tcp": address}) as distant,
        ):
            assert distant[:].push_async({"data": data}).get(DEADLINE) == [None, None]
            assert distant[:].pull_async("data.sum()").get(DEADLINE) == [40_000_000] * 2
        rc[:].clear(block=True)
        if sum(passed) < 1.5 * data.nbytes:
            break
    else:
        raise AssertionError(f"{sum(passed)} bytes for an array of {data.nbytes}, five times")


# --- keys ----------------------------------------------------------------------------------------------


def test_a_key_of_nobodys_is_refused(rc: Client) -> None:
    """In the handshake, saying what to do."""
    keys = new_keys()
    with pytest.raises(DirectViewError, match="refuses this key; use the connection file"):
        Client({**contents(rc), "public": keys.public, "secret": keys.secret}, timeout=5).ids


def test_another_controllers_key_is_noticed(rc: Client) -> None:
    """A connection file of another cluster, or of an impostor."""
    with pytest.raises(DirectViewError, match=r"controller has another key.*use the connection file"):
        Client({**contents(rc), "server_public": new_keys().public}, timeout=5).ids


def test_no_keys_at_all_are_refused(rc: Client) -> None:
    """Plain text to an encrypted port."""
    with pytest.raises(DirectViewError, match=r"security mechanism.*use the connection file"):
        Client({**contents(rc), "server_public": None, "public": None, "secret": None}, timeout=5).ids


def test_a_clients_key_makes_no_engine(own_folders: Path, rc: Client) -> None:
    """Nor an engine's key a client. Each says which file to use."""
    mixed = {**contents(rc), "role": "engine"}
    with engine_process(own_folders, mixed) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(DEADLINE) == 1
    assert "refused: the key presented is for role 'client'" in said
    assert "engine connection file" in said
    with pytest.raises(ConnectionRejected, match="client connection file"):
        Client({**contents(rc, "engine"), "role": "client"}).ids
    assert len(rc) == 2


# --- many clients --------------------------------------------------------------------------------------


CHURN = """\
import asyncio, json, logging, random, sys, time
from directview import Client

async def come_and_go(contents, until, living):
    while time.monotonic() < until:
        async with asyncio.timeout(20), Client(contents) as rc:
            for _ in range(random.randrange(4)):
                assert await rc[random.choice(rc.ids)].apply_async(abs, -3) == 3
                await asyncio.sleep(random.random() * 0.1)
        living[0] += 1

async def main():
    contents, seconds, number = json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    living = [0]
    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(come_and_go(contents, time.monotonic() + seconds, living))
    print(living[0])

logging.basicConfig(level=logging.INFO)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("transport", "seconds"),
    [
        ("tcp", 2.5),
        pytest.param("tcp", 60.0, marks=pytest.mark.slow),
        pytest.param("ipc", 60.0, marks=pytest.mark.slow),
    ],
)
def test_clients_that_come_and_go(
    rc: Client, transport: str, seconds: float, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """300 of them: none that lives is declared dead, no engine is, and no death is missed."""
    caplog.set_level(logging.INFO, logger="directview")  # A lost connection is logged by who had it.
    given = contents(rc)
    if transport == "ipc":
        assert rc.cluster is not None
        given = json.loads(Path(rc.cluster.connection_file).read_text())
    pids = rc[:].apply_sync(os.getpid)

    def log_of(number: int) -> Path:
        return tmp_path / f"worker-{number}.log"

    command = [sys.executable, "-c", CHURN, json.dumps(given)]
    # Two processes whose clients end in order, and two that are killed with theirs in the middle. What they
    # log goes to files: nobody reads while they run, and a pipe that is full would stop them.
    workers = []
    for number, lasting in enumerate((seconds, seconds, 1000.0, 1000.0)):
        with log_of(number).open("w") as log:
            workers.append(
                subprocess.Popen(
                    [*command, str(lasting), "75"], stdout=subprocess.PIPE, stderr=log, text=True
                )
            )
    try:
        with Client(given) as steady:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                assert steady[:].apply_async(os.getpid).get(DEADLINE) == pids
            for worker in workers[2:]:
                worker.send_signal(signal.SIGKILL)
            for number, worker in enumerate(workers[:2]):
                said, _ = worker.communicate(timeout=DEADLINE + 10)
                complaints = log_of(number).read_text()
                assert worker.returncode == 0, complaints
                assert int(said) > 75, said
                assert "lost" not in complaints
            assert [record for record in caplog.records if "lost" in record.getMessage()] == []
            deadline = time.monotonic() + DEADLINE
            while len(clients(rc)) > 2:
                assert time.monotonic() < deadline, f"deaths missed: {clients(rc)}"
                time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert rc[:].apply_sync(os.getpid) == pids


def clients(rc: Client) -> list[Any]:
    """Who the controller thinks is there."""
    found: list[Any] = asyncio.run(rc.query("status"))["clients"]
    return found
