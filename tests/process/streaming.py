"""Generators of each kind for engines, and how to see from here what has become of them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from directview import Client, Cluster, Stream

DEADLINE = 40.0
LONG = 60.0
"""Seconds that a step would take if nobody ended it."""


@asynccontextmanager
async def tidy_client(cluster: Cluster) -> AsyncIterator[Client]:
    """A client on the test's loop. After the test nothing is left on the engines, which are the same ones."""
    async with Client(cluster.connection_file) as client:
        pids = await client[:].apply_async(os.getpid)
        yield client
        assert await client[:].apply_async(os.getpid) == pids
        await nothing_runs(client)
        await client[:].clear()


async def nothing_runs(rc: Client) -> None:
    async with asyncio.timeout(DEADLINE):
        while any([await tasks(rc, engine) for engine in rc.ids]):  # noqa: ASYNC110 - the engines' business
            await asyncio.sleep(0.01)
    assert rc.outstanding == set()


async def tasks(rc: Client, engine: int) -> int:
    status = (await rc.query("queue_status"))[str(engine)]
    return int(status["queue"] + status["tasks"])


async def noted(rc: Client, name: str, engine: int = 0) -> Any:
    """Wait until a generator has noted something."""
    async with asyncio.timeout(DEADLINE):
        while (found := await rc[engine].pull_async(f"globals().get({name!r})")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # over there, nothing can set an event of ours
    return found


async def settled(rc: Client) -> int:
    """How far a generator has gone, when it goes no further."""
    made = -1
    async with asyncio.timeout(DEADLINE):
        while made != (made := await rc[0].pull_async("made")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return made


async def collect(stream: Stream[Any], items: list[Any]) -> None:
    """Append the items, as long as they come."""
    async for item in stream:
        items.append(item)  # noqa: PERF401 - they are to be there when the stream raises


def note(name: str, value: Any) -> None:
    from directview.operations import namespace

    namespace()[name] = value


def endless(note: Callable[[str, Any], None]) -> Iterator[int]:
    i = 0
    try:
        while True:
            i += 1
            note("made", i)
            yield i
    finally:
        note("ended", sys.exc_info()[0].__name__)  # type: ignore[union-attr]


async def endless_async(note: Callable[[str, Any], None]) -> AsyncIterator[int]:
    i = 0
    try:
        while True:
            i += 1
            note("made", i)
            yield i
    finally:
        await asyncio.sleep(0)
        note("ended", "after an await")


def then_sleeps(note: Callable[[str, Any], None]) -> Iterator[int]:
    try:
        yield from range(5)
        time.sleep(LONG)
    finally:
        note("ended", sys.exc_info()[0].__name__)  # type: ignore[union-attr]


def then_spins(note: Callable[[str, Any], None]) -> Iterator[int]:
    try:
        yield from range(5)
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            sum(range(50))  # On 3.13.0 nothing is caught that a signal raises at the end of a bare `pass`.
    finally:
        note("ended", sys.exc_info()[0].__name__)  # type: ignore[union-attr]


async def then_waits(note: Callable[[str, Any], None]) -> AsyncIterator[int]:
    try:
        for i in range(5):
            yield i
        await asyncio.sleep(LONG)
    finally:
        note("ended", sys.exc_info()[0].__name__)  # type: ignore[union-attr]


async def then_blocks(note: Callable[[str, Any], None]) -> AsyncIterator[int]:
    try:
        for i in range(5):
            yield i
        time.sleep(LONG)  # noqa: ASYNC251 - as careless code does
    finally:
        note("ended", "anyhow")
