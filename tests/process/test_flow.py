"""Floods: every process stays within its bound, and everybody else's calls go on."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from directview import Client, Cluster
from directview.supervisor.control import SupervisorFile, request

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 60.0
MB = 1e6


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Two engines, and a port for whoever wants to flood that."""
    with Cluster(n=2, ip="127.0.0.1") as client:
        client[:].apply_sync(abs, -1)
        yield client


def size(pid: int) -> float:
    """Of a process, in MB."""
    return float(psutil.Process(pid).memory_info().rss / MB)


def controller(rc: Client) -> int:
    assert rc.cluster is not None
    file = SupervisorFile.read(Path(rc.cluster.connection_file).parent)
    assert file is not None
    found: dict[str, Any] = asyncio.run(request(file.control, "status"))
    return int(found["controller"])


def others_go_on(rc: Client, *ids: int) -> None:
    """Calls on these engines are answered."""
    for _ in range(20):
        assert rc[list(ids)].apply_async(abs, -1).get(DEADLINE) == [1] * len(ids)


FLOOD = """\
import sys, time
from directview import Client
with Client(sys.argv[1]) as rc:
    blocked = rc[0].apply_async(time.sleep, 3)
    results = [rc[0].apply_async(abs, -n) for n in range(int(sys.argv[2]))]
    print("submitted", flush=True)
    assert [result.get() for result in results] == list(range(len(results)))
    print("answered", flush=True)
"""


@pytest.mark.parametrize("n", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_flood_of_calls_stays_with_the_client_that_makes_it(rc: Client, n: int) -> None:
    """Controller and engine hold what they can work off soon; another client's calls go in between."""
    assert rc.cluster is not None
    before = size(controller(rc)), size(rc.engine_infos[0].pid)
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD, rc.cluster.connection_file, str(n)], stdout=subprocess.PIPE, text=True
    ) as flood:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "submitted\n"
        others_go_on(rc, 1)
        others_go_on(rc, 0)
        assert size(controller(rc)) < before[0] + 60
        assert size(rc.engine_infos[0].pid) < before[1] + 60
        assert flood.stdout.readline() == "answered\n"
    assert flood.returncode == 0
    assert size(controller(rc)) < before[0] + 60


def test_a_generator_without_a_reader_waits(rc: Client) -> None:
    """An endless one; its engine grows by two batches, and others' calls go on."""

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(10_000)

    before = size(rc.engine_infos[0].pid)
    items = iter(rc[0].stream(endless))
    assert next(items) == bytes(10_000)
    others_go_on(rc, 0, 1)
    assert size(rc.engine_infos[0].pid) < before + 60
    del items


@pytest.mark.parametrize("megabytes", [80, pytest.param(2000, marks=pytest.mark.slow)])
def test_what_is_printed_without_end_is_cut_off(rc: Client, megabytes: int) -> None:
    """At 64 MiB for each call, with a word about it; the engine stays small."""

    def spam(megabytes: int) -> None:
        line = "x" * 999
        for _ in range(1000 * megabytes):
            print(line)

    before = size(rc.engine_infos[0].pid), size(controller(rc))
    result = rc[0].apply_async(spam, megabytes)
    others_go_on(rc, 1)
    assert result.get(280.0) is None
    assert 60 << 20 < len(result.stdout) < 70 << 20
    assert "truncated" in result.stderr
    assert size(rc.engine_infos[0].pid) < before[0] + 100
    assert size(controller(rc)) < before[1] + 150


CROWD = """\
import asyncio, sys
from directview import Client
async def one(i):
    async with Client(sys.argv[1], timeout=60) as rc:
        for k in range(10):
            assert await rc[(i + k) % 2].apply_async(abs, -k) == k
async def main():
    await asyncio.gather(*[one(i) for i in range(100)])
asyncio.run(main())
"""


def test_a_hundred_clients_at_once(rc: Client) -> None:
    assert rc.cluster is not None
    subprocess.run([sys.executable, "-c", CROWD, rc.cluster.connection_file], check=True, timeout=50)
    others_go_on(rc, 0, 1)


@pytest.mark.slow
def test_ten_thousand_connections_that_never_speak(rc: Client) -> None:
    """The controller keeps a thousand of them at a time, for seconds; who speaks gets in, and calls go on."""
    assert rc.cluster is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert rc._info.tcp is not None
    port = int(rc._info.tcp.rpartition(":")[2])
    process = psutil.Process(controller(rc))
    before, most = (process.num_fds(), size(process.pid)), 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        for _ in range(10):
            with ExitStack() as batch:
                for _ in range(1000):
                    batch.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
                others_go_on(rc, 0, 1)
                most = max(most, process.num_fds())
                rc.cluster.connect_client_sync().close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert most < before[0] + 1100
    log = (Path(rc.cluster.connection_file).parent / "controller.log").read_text().splitlines()
    refused = [line for line in log if "refused a connection: 127.0.0.1 " in line]
    assert 1 <= len(refused) <= 10  # Each reason once in a minute.
    assert len([line for line in log if "connection" in line]) < 100
    assert size(process.pid) < before[1] + 100
    deadline = time.monotonic() + DEADLINE
    while process.num_fds() > before[0] + 10:
        assert time.monotonic() < deadline, process.num_fds()
        time.sleep(0.1)
