"""Every name that `multiprocessing.pool.AsyncResult`, futures and ipyparallel's users expect of a result."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import multiprocessing.pool
import threading
from collections.abc import Sequence

import pytest

from directview import AsyncHubResult, AsyncMapResult, AsyncResult
from directview.errors import TaskAborted
from directview.result import CallMetadata

NAMES = [
    "get", "wait", "ready", "successful", "r", "result", "result_dict", "get_dict", "exception", "done",
    "cancelled", "running", "add_done_callback", "remove_done_callback", "cancel", "abort", "abort_async",
    "msg_ids", "metadata", "submitted", "started", "completed", "received", "engine_id", "engine_uuid",
    "status", "stdout", "stderr", "outputs", "label", "targets", "stream_output", "wait_for_output",
    "display_outputs", "elapsed", "progress", "serial_time", "wall_time", "timedelta", "wait_interactive",
    "wait_interactive_async", "sent", "wait_for_send", "wait_for_send_async", "split", "join",
]  # fmt: skip


class Owner:
    """A client whose loop is elsewhere."""

    client_uuid = "c"

    def __init__(self) -> None:
        self.cancelled: list[tuple[int, int]] = []

    def check_may_block(self, what: str, instead: str) -> None: ...

    def check_running(self) -> None: ...

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        self.cancelled += calls

    def cancel_calls_soon(self, calls: Sequence[tuple[int, int]]) -> None:
        self.cancel_calls(calls)


def call(*engines: int) -> AsyncResult[object]:
    return AsyncResult(Owner(), [(seq, id) for seq, id in enumerate(engines, 1)], single=len(engines) == 1)


def answer(result: AsyncResult[object], index: int = 0, value: object = 7) -> None:
    result._deliver(index, CallMetadata(0, "", 1.0, 2.0, 3.0, "ok"), value)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [AsyncResult, AsyncMapResult, AsyncHubResult])
@pytest.mark.parametrize("like", [multiprocessing.pool.AsyncResult, concurrent.futures.Future])
def test_it_has_all_names_of_its_kin(kind: type, like: type) -> None:
    """With parameters in the same places."""
    assert public(like) <= public(kind)
    for name in public(like):
        theirs, ours = getattr(like, name), getattr(kind, name)
        wanted = list(inspect.signature(theirs).parameters)[1:]
        assert list(inspect.signature(ours).parameters)[1 : len(wanted) + 1] == wanted, name


@pytest.mark.parametrize("name", NAMES)
def test_it_has_every_name_that_is_promised(name: str) -> None:
    assert name in public(AsyncResult)
    assert name in public(AsyncMapResult)


def test_other_names_are_none() -> None:
    """There is no attribute that is looked up among the metadata."""
    with pytest.raises(AttributeError, match="'AsyncResult' object has no attribute 'strated'"):
        call(0).strated  # type: ignore[attr-defined]


def test_it_works_with_wait_and_as_completed_of_futures() -> None:
    results = [call(0), call(1), call(2)]
    threads = [threading.Timer(0.01 * place, answer, (results[place],)) for place in (1, 0, 2)]
    for thread in threads:
        thread.start()
    first = concurrent.futures.wait(results, 20, return_when=concurrent.futures.FIRST_COMPLETED)
    assert first.done
    assert {result.result() for result in concurrent.futures.as_completed(results, 20)} == {7}
    for thread in threads:
        thread.join()


async def test_it_works_with_asyncio() -> None:
    results = [call(0), call(1)]
    wrapped = asyncio.wrap_future(results[0])
    seen: list[object] = []
    results[1].add_done_callback(lambda result: seen.append(result.result()))
    threads = [threading.Timer(0.01, answer, (result,)) for result in results]
    for thread in threads:
        thread.start()
    assert await asyncio.wait_for(wrapped, 20) == 7
    assert await asyncio.wait_for(asyncio.shield(results[1]), 20) == 7
    assert [await step for step in asyncio.as_completed(results)] == [7, 7]
    done, pending = await asyncio.wait([asyncio.ensure_future(result) for result in results])
    assert (len(done), pending) == (2, set())
    # As with any future: who waits is woken first, then what was added is called, by the same thread.
    await asyncio.to_thread(threads[1].join)
    assert seen == [7]


async def test_a_wrapped_future_that_is_cancelled_cancels_the_call() -> None:
    """And not the task that waits for it."""
    result = call(0)
    wrapped = asyncio.wrap_future(result)
    result.cancel()
    with pytest.raises(TaskAborted):
        await asyncio.wait_for(wrapped, 20)
    other = call(0)
    asyncio.wrap_future(other).cancel()
    await asyncio.sleep(0)
    assert other.cancelled()


def test_it_is_true_of_known_length_and_a_table_in_notebooks() -> None:
    result = call(0, 3)
    assert bool(result)
    assert len(result) == 2
    assert "pending" in result._repr_html_()
    answer(result)
    answer(result, 1)
    assert result._repr_html_().count("<td>ok</td>") == 2
