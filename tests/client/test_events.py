"""Who is told of engines that join and leave, of what, and where."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from directview._observers import Observers
from directview.events import EngineEvent
from directview.wire.messages import EngineInfo, Engines
from directview.wire.postmortem import NOTHING_KNOWN


def engine(id: int, life: int = 1) -> EngineInfo:
    return EngineInfo(id, bytes([id, life]) * 8, 100 + id, "here", "3.11", b"")


def engines(*infos: EngineInfo) -> dict[int, EngineInfo]:
    return {info.id: info for info in infos}


@pytest.fixture
def observers() -> Observers:
    """With two engines from the start."""
    made = Observers()
    made.changed(engines(engine(0), engine(1)))
    return made


async def test_a_stream_tells_of_all_changes_from_its_beginning(observers: Observers) -> None:
    observers.changed(engines(engine(0), engine(1), engine(2)))
    stream = observers.stream()
    observers.changed(engines(engine(0), engine(2)), Engines((), ((1, engine(1).uuid, -9, "killed"),)))
    observers.changed(engines(engine(0), engine(1, 2), engine(2), engine(7)))
    observers.close()
    events = [event async for event in stream]
    assert [(event.kind, event.id, event.restarted) for event in events] == [
        ("left", 1, False), ("joined", 1, True), ("joined", 7, False),
    ]  # fmt: skip
    assert (events[0].exit_code, events[0].reason, events[0].pid) == (-9, "killed", 101)
    assert events[0].uuid == engine(1).uuid.hex() != events[1].uuid


async def test_an_engine_in_anothers_place_is_both(observers: Observers) -> None:
    stream = observers.stream()
    observers.changed(engines(engine(0, 2), engine(1)))
    first, second = await anext(stream), await anext(stream)
    assert (first.kind, second.kind, second.restarted) == ("left", "joined", True)
    assert first.reason == "its connection was lost"


async def test_a_reader_is_woken_from_another_thread_and_ends(observers: Observers) -> None:
    stream = observers.stream()
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="read by another task"):
        await anext(stream)
    threading.Thread(target=observers.changed, args=(engines(engine(0)),)).start()
    assert (await asyncio.wait_for(reading, 30)).id == 1
    async with stream:
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        again = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
    with pytest.raises(StopAsyncIteration):
        await again
    await stream.aclose()
    observers.changed({})
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_after_the_end_a_stream_is_empty(observers: Observers) -> None:
    observers.close()
    assert [event async for event in observers.stream()] == []


def test_callbacks_are_called_until_they_are_stopped(
    observers: Observers, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[EngineEvent] = []

    def fail(event: EngineEvent) -> None:
        raise ValueError

    observers.call("left", fail)
    stop = observers.call("left", heard.append)
    with caplog.at_level(logging.ERROR, "directview"):
        observers.changed(engines(engine(0)), reason="gone")
    assert [(event.id, event.reason) for event in heard] == [(1, "gone")]
    assert "a callback for engines that left failed" in caplog.text
    observers.changed(engines(engine(0), engine(1, 2)))
    stop()
    stop()
    observers.changed({})
    assert len(heard) == 1


async def test_a_callback_is_called_by_the_loop_that_it_was_given_under(observers: Observers) -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()
    threads = []

    def note(event: EngineEvent) -> None:
        threads.append(threading.get_ident())
        heard.put_nowait(event.id)

    observers.call("joined", note)
    await asyncio.to_thread(observers.changed, engines(engine(0), engine(1), engine(5)))
    assert await asyncio.wait_for(heard.get(), 30) == 5
    assert threads == [threading.get_ident()]


async def test_an_end_is_told_once_though_another_controller_tells_it_again(observers: Observers) -> None:
    """It knows of the death from the supervisor, and not whom the one before it has told."""
    stream = observers.stream()
    known = NOTHING_KNOWN._replace(id=1)
    death = Engines((), ((1, engine(1).uuid, -9, "killed"),), (known,))
    observers.changed(engines(engine(0)), death)
    observers.changed(engines(engine(0)), death)
    failed = Engines((), ((5, engine(5).uuid, 1, "no module"),), (known._replace(id=5),))
    observers.changed(engines(engine(0)), failed)
    observers.changed(engines(engine(0)), failed)
    observers.close()
    assert [(event.kind, event.id) async for event in stream] == [("left", 1), ("failed", 5)]
