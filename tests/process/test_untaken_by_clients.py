"""Clients that do not take what was made for them: engines, controller and they themselves stay small."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from directview import Client, Cluster
from directview.supervisor.control import SupervisorFile, request

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 60.0
MB = 1e6


@contextmanager
def cluster(most: int) -> Iterator[Client]:
    """Two engines, with which each client may leave so many MiB; lost clients are waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRECTVIEW_UNTAKEN", str(most))
        with Cluster(n=2, resilient=True) as rc:
            rc[:].apply_sync(abs, -1)
            yield rc


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    with cluster(16) as rc:
        yield rc


def sizes(rc: Client) -> tuple[float, float]:
    """Of engine 0 and of the controller, in MB."""
    assert rc.cluster is not None
    file = SupervisorFile.read(Path(rc.cluster.connection_file).parent)
    assert file is not None
    found: dict[str, Any] = asyncio.run(request(file.control, "status"))
    pids = rc.engine_infos[0].pid, int(found["controller"])
    engine, controller = [psutil.Process(pid).memory_info().rss / MB for pid in pids]
    return engine, controller


@contextmanager
def program(rc: Client, text: str, *arguments: int) -> Iterator[subprocess.Popen[str]]:
    """A client; it ends well."""
    assert rc.cluster is not None
    given = [rc.cluster.connection_file, *map(str, arguments)]
    with subprocess.Popen(
        [sys.executable, "-c", text, *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


MANY = """\
import sys
from directview import Client
def value(k):
    return k.to_bytes(4, "big") * 250_000
with Client(sys.argv[1], timeout=60) as rc:
    results = [rc[0].apply_async(value, k) for k in range(int(sys.argv[2]))]
    results[0].get()
    print("begun", flush=True)
    for k, result in enumerate(results):
        assert result.get() == value(k)
    print("all", flush=True)
"""


@pytest.mark.parametrize(
    ("most", "n", "seconds"), [(16, 150, 2.5), pytest.param(256, 2000, 8.0, marks=pytest.mark.slow)]
)
def test_a_client_that_is_stopped_amid_its_results(rc: Client, most: int, n: int, seconds: float) -> None:
    """For longer than a lost connection takes to be noticed. Others' go on there, and it misses none."""
    if most != 16:
        with cluster(most) as other:
            stopped_amid(other, most, n, seconds)
    else:
        stopped_amid(rc, most, n, seconds)


def stopped_amid(rc: Client, most: int, n: int, seconds: float) -> None:
    before = sizes(rc)
    with program(rc, MANY, n) as client:
        assert says(client) == "begun"
        client.send_signal(signal.SIGSTOP)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert rc[:].apply_async(abs, -1).get(DEADLINE) == [1, 1]
        engine, controller = sizes(rc)
        client.send_signal(signal.SIGCONT)
        assert says(client) == "all"
    assert engine < before[0] + 1.05 * most + 50
    assert controller < before[1] + 60


STANDING = """\
import asyncio, sys, psutil
from directview import Client
def value(k):
    return k.to_bytes(4, "big") * 250_000
def talk(k):
    for _ in range(8):
        sys.stdout.write(str(k) * 1_000_000)
def size():
    return psutil.Process().memory_info().rss / 1e6
async def main():
    async with Client(sys.argv[1], timeout=60) as rc:
        f, expected = (talk, None) if sys.argv[2] == "1" else (value, b"")
        await rc[0].execute_async("import sys")
        results = [rc[0].apply_async(f, k % 10) for k in range(int(sys.argv[3]))]
        await asyncio.sleep(0.05)
        before = size()  # What came while the loop ran is taken.
        print("begun", flush=True)
        sys.stdin.readline()
        print(size() - before, flush=True)
        for k, result in enumerate(results):
            assert await result == (value(k % 10) if f is value else None)
            assert result.stdout == ("" if f is value else str(k % 10) * 8_000_000)
        print("all", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize(("printing", "n"), [(0, 200), (1, 16)], ids=["results", "output"])
def test_a_client_whose_loop_stands_still(rc: Client, printing: int, n: int) -> None:
    """Its connection lives, and what is sent to it would pile up in its own process. Nothing is missing."""
    before = sizes(rc)
    with program(rc, STANDING, printing, n) as client:
        assert says(client) == "begun"
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert rc[:].apply_async(abs, -1).get(DEADLINE) == [1, 1]
        engine, controller = sizes(rc)
        assert client.stdin is not None
        client.stdin.write("on\n")
        client.stdin.flush()
        grown = float(says(client))
        assert says(client) == "all"
    assert engine < before[0] + 70
    assert controller < before[1] + 60
    assert grown < 75
