"""A network that cuts, stalls, swallows and delays: calls of a resilient cluster are late, and right."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import Client, Cluster
from directview.engine.options import EngineOptions
from directview.testing.chaos._proxy import Proxy

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 45.0
OUT = 3.5
"""Seconds for which nothing passes: longer than what the controller's heartbeats allow."""

Fault = Callable[[Proxy], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def cluster(own_folders: Path) -> Iterator[Cluster]:
    """No engines yet, and nothing but the network between its parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRECTVIEW_SHARED_MEMORY", "0")
        made = Cluster(n=1, ip="127.0.0.1", resilient=True)
        made.start_cluster_sync(0)
        yield made
        made.stop_cluster_sync()


def contents(cluster: Cluster, role: str) -> dict[str, Any]:
    """What stands in a connection file."""
    found: dict[str, Any] = json.loads(Path(cluster.connection_file).with_name(f"{role}.json").read_text())
    return found


def through(proxy: Proxy, contents: dict[str, Any]) -> dict[str, Any]:
    """The same for a peer behind the proxy."""
    return {**contents, "ipc": None, "tcp": f"tcp://127.0.0.1:{proxy.port}"}


@contextlib.asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    """A network of one's own to the controller."""
    proxy = Proxy(port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()


@contextlib.asynccontextmanager
async def engine(folder: Path, contents: dict[str, Any]) -> AsyncIterator[None]:
    """An engine with this connection file, which nobody supervises."""
    path = folder / "engine.json"
    path.touch(0o600)
    path.write_text(json.dumps(contents))
    options = EngineOptions(connection=str(path), uuid=secrets.token_hex(16))
    command = [sys.executable, "-m", "directview.engine", options.to_json()]
    process = subprocess.Popen(command)  # noqa: ASYNC220 - it blocks for milliseconds
    try:
        yield
    finally:
        process.terminate()  # In order, so that it is gone at once.
        await asyncio.to_thread(process.wait)  # Its goodbye goes through the proxy, which is on this loop.


def note(path: str, number: int) -> int:
    """A side effect: a line with the call's number."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\n" % number)
    os.close(fd)
    return number


async def cuts(proxy: Proxy) -> None:
    """Three times, each as soon as the connection is back."""
    for _ in range(3):
        await asyncio.sleep(0.4)
        proxy.cut()


async def stalls(proxy: Proxy) -> None:
    await proxy.stall(OUT)


async def swallows(proxy: Proxy) -> None:
    """Half-open: what is sent vanishes, and nobody is told."""
    await proxy.swallow(OUT)


async def delays(proxy: Proxy) -> None:
    await proxy.delay(OUT, 0.15)


@pytest.mark.parametrize(
    ("whose", "fault"),
    [
        ("engine", cuts),
        ("client", swallows),
        pytest.param("client", stalls, marks=pytest.mark.slow),
        pytest.param("engine", swallows, marks=pytest.mark.slow),
        pytest.param("client", cuts, marks=pytest.mark.slow),
        pytest.param("engine", stalls, marks=pytest.mark.slow),
        pytest.param("client", delays, marks=pytest.mark.slow),
        pytest.param("engine", delays, marks=pytest.mark.slow),
    ],
)
async def test_calls_survive_the_network(cluster: Cluster, tmp_path: Path, whose: str, fault: Fault) -> None:
    """Small ones with side effects, large ones both ways and a stream: each once, each right."""
    path = tmp_path / "notes"
    data = np.random.default_rng(2).integers(0, 256, 30_000_000, dtype=np.uint8)

    def numbers(n: int) -> Iterator[int]:
        import time

        for number in range(n):
            yield number
            time.sleep(0.001)

    async with contextlib.AsyncExitStack() as stack:
        files = {role: contents(cluster, role) for role in ("client", "engine")}
        port = int(files["client"]["tcp"].rpartition(":")[2])
        networks = {role: await stack.enter_async_context(proxied(port)) for role in files}
        await stack.enter_async_context(engine(tmp_path, through(networks["engine"], files["engine"])))
        rc = await stack.enter_async_context(Client(through(networks["client"], files["client"])))
        async with asyncio.timeout(DEADLINE):
            while not rc.ids:  # noqa: ASYNC110 - a deadline stands over it
                await asyncio.sleep(0.02)
            (id,) = rc.ids
            view = rc[id]
            stream = [item async for item in view.stream(numbers, 10)]
            breaking = asyncio.create_task(fault(networks[whose]))
            pushed = view.push_async({"data": data})
            small = [view.apply_async(note, str(path), number) for number in range(200)]
            await asyncio.sleep(0.2)
            small += [view.apply_async(note, str(path), number) for number in range(200, 400)]
            await pushed
            pulled = view.pull_async("data")
            stream = [item async for item in view.stream(numbers, 300)]
            await breaking
            assert stream == list(range(300))
            assert await asyncio.gather(*small) == list(range(400))
            assert (await pulled == data).all()
            assert await view.apply_async(note, str(path), 400) == 400
            assert [int(line) for line in path.read_text().split()] == list(range(401))
            assert rc.ids == [id]
