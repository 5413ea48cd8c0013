"""What type checkers must see in programs with load-balanced views. They check it; it is never run."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, assert_type

from directview import AsyncMapResult, AsyncResult, Client, LazyMap, LoadBalancedView, ViewExecutor


def add(x: int, y: float = 1.0) -> float:
    return x + y


async def fetch(name: str, *, retries: int = 0) -> bytes:
    return name.encode() * retries


def blocking(rc: Client) -> None:
    view = rc.load_balanced_view(retries=2)
    assert_type(view, LoadBalancedView)
    assert_type(view.options(after=None), LoadBalancedView)
    assert_type(view.apply_sync(add, 1, y=2.0), float)
    assert_type(view.apply_sync(fetch, "a", retries=3), bytes)
    assert_type(view.map_sync(add, range(3), chunksize=2), list[float])
    assert_type(view.map_sync(fetch, ["a"]), list[bytes])
    assert_type(view.apply(add, 1), Any)
    view.apply_sync(add, "1")  # type: ignore[call-overload]


async def awaiting(rc: Client) -> None:
    view = rc.load_balanced_view()
    assert_type(view.apply_async(add, 1), AsyncResult[float])
    assert_type(await view.apply_async(fetch, "a"), bytes)
    assert_type(view.map_async(add, range(3), ordered=False), AsyncMapResult[float])
    assert_type(view.imap(add, range(3)), LazyMap[float])
    assert_type(rc[:].imap(fetch, ["a"]), LazyMap[bytes])
    async for item in view.imap(fetch, ["a"], max_outstanding=3):
        assert_type(item, bytes)
    for number in rc[:].imap(add, range(3), max_outstanding="auto"):
        assert_type(number, float)
    view.imap(add, [1], max_outstanding="all")  # type: ignore[call-overload]


def executors(rc: Client) -> None:
    assert_type(rc.executor(), ViewExecutor)
    executor: Executor = rc[:].executor
    assert_type(executor.submit(add, 1).result(), float)
    assert_type(rc.load_balanced_view().executor.submit(add, 1), AsyncResult[float])
    assert_type(list(rc.executor().map(add, [1])), list[float])


def decorators(rc: Client) -> None:
    @rc.load_balanced_view().remote(block=True)
    def plus(x: int) -> int:
        return x + 1

    assert_type(plus(1), int)
