"""A loop that does not turn is noticed, with its stack; one that may be blocked is left alone."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest

from directview._loop_watch import LoopWatch

DEADLINE = 30.0
THRESHOLD = 0.05


def blocks_the_loop(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not until() and time.monotonic() < deadline:
        time.sleep(THRESHOLD / 10)


async def watched(
    caplog: pytest.LogCaptureFixture,
    until: Callable[[LoopWatch], bool],
    excused: Callable[[], bool],
    logged: list[logging.LogRecord],
) -> LoopWatch:
    """Block the loop until something is so, and a little longer; `logged` has what was said then."""
    caplog.set_level(logging.INFO)
    watch = LoopWatch(logging.getLogger("directview.test_watch"), "the loop", excused, THRESHOLD)
    watch.start()
    try:
        blocks_the_loop(lambda: until(watch))
        enough = time.monotonic() + 4 * THRESHOLD
        blocks_the_loop(lambda: time.monotonic() > enough)
        logged.extend(caplog.records)
        beaten = watch._beaten
        async with asyncio.timeout(DEADLINE):
            while watch._beaten == beaten:  # noqa: ASYNC110 - nothing could set an event
                await asyncio.sleep(0)
    finally:
        watch.close()
        watch.close()
    return watch


async def test_a_blocked_loop_is_told_with_its_stack_and_once(caplog: pytest.LogCaptureFixture) -> None:
    logged: list[logging.LogRecord] = []
    watch = await watched(caplog, lambda watch: watch.blocked > 0, lambda: False, logged)
    warnings = [record for record in logged if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert watch.blocked >= 1  # more, if the machine held the loop up again
    assert "the loop has not turned for" in warnings[0].getMessage()
    assert "in watched" in warnings[0].trace  # type: ignore[attr-defined]
    assert watch.longest() > THRESHOLD
    assert any("turns again" in record.getMessage() for record in caplog.records)


async def test_what_may_block_the_loop_is_not_held_against_it(caplog: pytest.LogCaptureFixture) -> None:
    watch = await watched(caplog, lambda watch: watch._may, lambda: True, [])
    assert watch.blocked == 0
    assert watch.longest() == 0.0
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


async def test_nothing_is_left_of_a_watch() -> None:
    before = threading.active_count()
    watch = LoopWatch(logging.getLogger("directview.test_watch"), "the loop")
    watch.close()
    watch.start()
    assert threading.active_count() == before + 1
    watch.close()
    assert threading.active_count() == before
