"""Results of maps: one list of items, whatever the chunks in which they travelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from directview import errors
from directview.errors import CompositeError
from directview.result import AsyncMapResult
from tests.client.handmade_results import Owner, meta, remote, settle, soon


def chunks(*sizes: int, owner: Owner | None = None, **options: Any) -> AsyncMapResult[Any]:
    calls = tuple((7, engine) for engine in range(len(sizes)))
    return AsyncMapResult(owner or Owner(), calls, sizes, **options)


def test_a_map_is_one_list_of_items() -> None:
    ar = chunks(2, 0, 3)
    assert len(ar) == 5
    ar._deliver(2, meta(2), [2, 3, 4])
    ar._deliver(1, meta(1), [])
    ar._deliver(0, meta(0), [0, 1])
    assert ar.get() == list(ar) == [0, 1, 2, 3, 4]
    assert [ar[index] for index in range(-5, 5)] == [0, 1, 2, 3, 4] * 2
    assert ar[1:4] == [1, 2, 3]


def test_an_empty_map_is_finished_and_true() -> None:
    ar = chunks()
    assert ar
    assert ar.done()
    assert ar.successful()
    assert ar.get() == list(ar) == []
    assert len(ar) == 0
    assert ar.progress == 0
    assert ar.get(return_exceptions=True) == []


async def test_items_of_a_map_come_as_their_chunks_arrive() -> None:
    ar = chunks(2, 2, owner=Owner(bound=True))
    ar._deliver(0, meta(0), ["a", "b"])
    items = aiter(ar)
    assert [await anext(items), await anext(items)] == ["a", "b"]
    following = asyncio.ensure_future(anext(items))
    await settle()
    assert not following.done()
    with pytest.raises(errors.TimeoutError):
        ar[2]
    ar._deliver(1, meta(1), ["c", "d"])
    assert [await following, await anext(items)] == ["c", "d"]
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    assert await ar == ["a", "b", "c", "d"]


def test_items_of_a_map_come_as_their_chunks_arrive_when_blocking() -> None:
    ar = chunks(2, 2)
    ar._deliver(0, meta(0), ["a", "b"])
    items = iter(ar)
    assert next(items) == "a"
    soon(lambda: ar._deliver(1, meta(1), ["c", "d"]))
    assert list(items) == ["b", "c", "d"]


def test_a_failed_chunk_of_a_map_stands_for_each_of_its_items() -> None:
    ar = chunks(1, 2)
    ar._deliver(0, meta(0), ["a"])
    ar._deliver_error(1, meta(1), remote(KeyError("k"), 1))
    with pytest.raises(CompositeError, match="call to method: map"):
        ar.get()
    found = ar.get(return_exceptions=True)
    assert found[0] == "a"
    assert [type(item).__name__ for item in found] == ["str", "KeyError", "KeyError"]


def test_a_map_on_one_engine_iterates_and_raises_the_error_itself() -> None:
    ar = chunks(2, single=True)
    ar._deliver(0, meta(0), [1, 2])
    assert list(ar) == ar.get(return_exceptions=True) == [1, 2]
    assert ar.status == "ok"
    failed = chunks(2, single=True)
    failed._deliver_error(0, meta(0), remote(KeyError("k")))
    with pytest.raises(KeyError):
        failed.get()
    assert len(failed.get(return_exceptions=True)) == 2


def test_a_map_may_join_its_chunks_to_something_else() -> None:
    ar = chunks(1, 2, join=lambda parts: [parts[0] + parts[1]])
    ar._deliver(0, meta(0), [1])
    ar._deliver(1, meta(1), [2, 3])
    assert ar.get() == [[1, 2, 3]]
    assert list(ar) == [1, 2, 3]


def test_a_map_wants_one_size_for_each_chunk() -> None:
    with pytest.raises(ValueError, match="1 sizes for 0 chunks"):
        AsyncMapResult(Owner(), (), (1,))
