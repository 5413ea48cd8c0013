"""Blocking methods are their async twins in everything but the waiting."""

from __future__ import annotations

import asyncio
import inspect
import pydoc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, assert_type

import pytest

from directview.blocking import blocking
from directview.errors import WouldBlockLoop

T = TypeVar("T")


class Office:
    """Has one loop per blocking call; enough to see what is handed over."""

    def __init__(self, open: bool = True) -> None:
        self.open = open
        self.asked: list[str] = []

    def _block_on(self, make: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        self.asked.append(what)
        if not self.open:
            raise WouldBlockLoop(what)
        return asyncio.run(make())

    async def count_async(self, word: str, *, times: int = 2) -> int:
        """Count the letters.

        Args:
            word: what to count.
            times: how often.
        """
        await asyncio.sleep(0)
        return len(word) * times

    async def bare_async(self) -> None:
        raise KeyError("k")

    count = blocking(count_async, "count")
    bare = blocking(bare_async, "bare")


class Branch(Office):
    """Inherits them."""


def test_returns_what_the_coroutine_returns() -> None:
    assert Office().count("abc", times=3) == 9
    assert Branch().count("abc") == 6


def test_raises_what_the_coroutine_raises() -> None:
    with pytest.raises(KeyError):
        Office().bare()


def test_no_coroutine_is_made_where_blocking_is_refused() -> None:
    # A coroutine that is never awaited is a RuntimeWarning, which the test run turns into an error.
    office = Office(open=False)
    with pytest.raises(WouldBlockLoop, match=r"count\(\) blocks; await count_async\(\) instead"):
        office.count("abc")


def test_type_checkers_see_the_exact_signature() -> None:
    assert_type(Office().count("abc"), int)
    assert list(inspect.signature(Branch().bare).parameters) == []
    with pytest.raises(TypeError, match="int"):
        Office().count(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_help_and_editors_see_the_blocking_name_and_the_signature() -> None:
    method = Office.count
    assert method.__name__ == "count"
    assert method.__qualname__ == "Office.count"
    assert method.__module__ == __name__
    assert inspect.signature(method) == inspect.signature(Office.count_async)
    assert str(inspect.signature(Office().count)) == "(word: 'str', *, times: 'int' = 2) -> 'int'"
    text = pydoc.plain(pydoc.render_doc(Office))
    assert "count(self, word: 'str', *, times: 'int' = 2) -> 'int'" in text
    assert not inspect.iscoroutinefunction(method)


def test_docstring_says_that_it_blocks_and_keeps_the_arguments() -> None:
    doc = inspect.getdoc(Office.count)
    assert doc is not None
    lines = doc.splitlines()
    assert lines[0] == "Count the letters (blocks until it is done)."
    assert "The same as awaiting `count_async`." in lines
    assert "    times: how often." in lines
    assert (inspect.getdoc(Office.bare) or "").startswith("Blocks until it is done.")


def test_only_an_async_def_has_a_blocking_twin() -> None:
    def plain(self: Office) -> int:
        return 1

    with pytest.raises(TypeError, match="not an async def"):
        blocking(plain, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
