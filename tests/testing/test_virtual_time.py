"""The loop in which time only passes by timers."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time

import pytest

from directview.testing import NothingLeft, VirtualTimeLoop, run


def test_hours_pass_at_once_and_exactly() -> None:
    started = time.monotonic()

    async def main() -> float:
        await asyncio.sleep(3600)
        await asyncio.sleep(0.25)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(3600.25)
    assert time.monotonic() - started < 1800


def test_timers_fire_in_order_and_timeouts_time_out() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        delays = [random.Random(1).uniform(0, 100) for _ in range(100)]
        for delay in delays:
            loop.call_later(delay, fired.append, delay)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(50):
                await asyncio.Event().wait()
        assert fired == sorted(delay for delay in delays if delay <= 50)
        return fired

    run(main())


def test_what_can_never_come_is_said_at_once() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingLeft):
        run(main())


def test_a_periodic_timer_does_not_hide_a_hang() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_later(1.0, again)

        again()
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="100 virtual seconds"):
        run(main(), limit=100.0)


def test_clean_up_after_a_hang_may_take_its_time() -> None:
    cleaned = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5.0)
            cleaned.append(True)

    with pytest.raises(NothingLeft):
        run(main())
    assert cleaned == [True]


def test_the_outside_world_is_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as outside:
            with pytest.raises(RuntimeError, match="virtual time"):
                loop.add_reader(outside, print)
            with pytest.raises(RuntimeError, match="virtual time"):
                loop.add_writer(outside, print)
        with pytest.raises(RuntimeError, match="virtual time"):
            await asyncio.to_thread(time.time)

    run(main())


def test_another_thread_can_wake_it() -> None:
    """Not deterministic, so not for tests; but it must not be lost either."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(told.set_result, "told"))
        thread.start()
        thread.join()
        return str(await told)

    assert run(main()) == "told"


def test_a_loop_may_be_used_without_run() -> None:
    loop = VirtualTimeLoop()
    try:
        assert loop.run_until_complete(asyncio.sleep(10, "done")) == "done"
        assert loop.time() == pytest.approx(10)
    finally:
        loop.close()
