"""What type checkers must see in a user's program. Checked by mypy and pyright, never run.

Each ``type: ignore`` is an error that must be found: an unused one fails the check.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, assert_type

from directview import (
    AsyncMapResult,
    AsyncResult,
    Client,
    Cluster,
    DirectView,
    EngineView,
    Many,
    One,
    Reference,
    Stream,
    interactive,
    require,
)


def add(x: int, y: float = 1.0) -> float:
    return x + y


async def fetch(name: str, *, retries: int = 0) -> bytes:
    return name.encode() * retries


def indexing(rc: Client) -> None:
    assert_type(rc[0], DirectView[One])
    assert_type(rc[:], DirectView[Many])
    assert_type(rc[::2], DirectView[Many])
    assert_type(rc[[0, 2]], DirectView[Many])
    assert_type(rc.direct_view("all"), DirectView[Many])
    assert_type(rc.direct_view(3), DirectView[One])
    assert_type(rc.ids, list[int])
    view: EngineView = rc[1]
    assert_type(view.apply_sync(add, 1), float)


def blocking(rc: Client) -> None:
    assert_type(rc[0].apply_sync(add, 1, y=2.0), float)
    assert_type(rc[:].apply_sync(add, 1), list[float])
    assert_type(rc[0].apply_sync(fetch, "a", retries=3), bytes)
    assert_type(rc[:].apply_sync(fetch, "a"), list[bytes])
    assert_type(rc[:].map_sync(add, range(10)), list[float])
    assert_type(rc[:].apply(add, 1), Any)


async def awaiting(rc: Client) -> None:
    assert_type(rc[0].apply_async(add, 1), AsyncResult[float])
    assert_type(await rc[0].apply_async(add, 1), float)
    assert_type(await rc[:].apply_async(add, 1), list[float])
    assert_type(await rc[0].apply_async(fetch, "a"), bytes)
    assert_type(await rc[:].apply_async(fetch, "a", retries=1), list[bytes])
    assert_type(rc[:].map_async(add, [1, 2]), AsyncMapResult[float])
    assert_type(await rc[:].map_async(add, [1, 2]), list[float])
    assert_type(await rc[:].scatter_async("a", range(4)), list[None])
    one, many = await asyncio.gather(rc[0].apply_async(add, 1), rc[:].apply_async(add, 1))
    assert_type(one, float)
    assert_type(many, list[float])


def numbers(n: int, *, step: int = 1) -> Iterator[int]:
    yield from range(0, n, step)


async def lines(name: str) -> AsyncIterator[bytes]:
    yield name.encode()


def as_list(n: int) -> list[str]:
    return [str(n)]


async def streams(rc: Client) -> None:
    assert_type(rc[0].stream(numbers, 3, step=2), Stream[int])
    assert_type(rc[:].stream(numbers, 3), Stream[tuple[int, int]])
    assert_type(rc[0].stream(lines, "a"), Stream[bytes])
    assert_type(rc[:].stream(lines, name="a"), Stream[tuple[int, bytes]])
    assert_type(rc[0].stream(as_list, 3), Stream[str])
    assert_type([item async for item in rc[0].stream(lines, "a")], list[bytes])
    assert_type([item for _, item in rc[:].options(time_limit=2.5).stream(numbers, 3)], list[int])
    assert_type(rc[:].options(targets=0, block=True), DirectView[Any])
    for engine, item in rc[:].stream(numbers, 3):
        assert_type(engine, int)
        assert_type(item, int)
    assert_type(await anext(rc[0].stream(numbers, 3)), int)
    rc[0].stream(numbers, "3")  # type: ignore[call-overload]
    rc[0].stream(add, 1)  # type: ignore[call-overload]


def remote_functions(rc: Client) -> None:
    @rc[:].remote(block=True)
    def everywhere(x: int, y: float = 1.0) -> float:
        return x + y

    assert_type(everywhere(1, y=2.0), list[float])
    everywhere("1")  # type: ignore[arg-type]
    assert_type(list(map(everywhere, [1, 2])), list[list[float]])
    assert_type(rc[0].remote(block=True)(add)(1), float)
    assert_type(rc[0].remote(block=True)(fetch)("a", retries=1), bytes)
    assert_type(rc[0].remote(block=False)(add)(1), AsyncResult[float])
    assert_type(rc[:].remote(block=False)(fetch)("a"), AsyncResult[list[bytes]])
    assert_type(rc[:].remote()(add)(1), Any)
    rc[:].remote()(add)("1")  # type: ignore[arg-type]


def parallel_functions(rc: Client, a: list[int]) -> None:
    @rc[:].parallel(block=True)
    def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    assert_type(double(a), Any)
    assert_type(double.map(a), Any)
    double(1)  # type: ignore[arg-type]
    assert_type(rc[:].parallel("r", block=False)(double.func)(a), AsyncResult[Any])
    assert_type(rc[:].parallel()(double.func)(a), Any)


async def dependencies(rc: Client) -> None:
    required = require("re", np="numpy")(add)
    assert_type(required(1), float)
    required("1")  # type: ignore[arg-type]
    assert_type(await rc[0].apply_async(required, 1), float)
    assert_type(await rc[:].apply_async(add, Reference("a")), list[float])
    assert_type(await rc[:].apply_async(interactive(add), 1, y=Reference("b.c")), list[float])


async def rejected(rc: Client) -> None:
    rc[0].apply_sync(add)  # type: ignore[call-overload]
    rc[0].apply_sync(add, "1")  # type: ignore[call-overload]
    rc[:].apply_sync(add, 1, z=2)  # type: ignore[arg-type, call-arg]
    await rc[0].apply_async(fetch, b"a")  # type: ignore[call-overload]
    rc["a"]  # type: ignore[index]


async def clusters() -> None:
    async with Cluster(n=4) as rc:
        assert_type(rc, Client)
    with Cluster(n=4) as rc:
        assert_type(rc, Client)
    cluster = Cluster(n=2)
    assert_type(await cluster.start_and_connect(), Client)
    assert_type(cluster.start_and_connect_sync(), Client)


def callbacks(rc: Client, f: Callable[[int], str]) -> None:
    result = rc[0].apply_async(f, 1)
    result.add_done_callback(lambda done: print(done))
    assert_type(result.get(), str)
    assert_type(result.get(timeout=1.0), str)
    assert_type(result.result(), str)
