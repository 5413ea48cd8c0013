"""Engines that die: error, events and status say how, of what, with how much memory, doing what."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from directview import Client, Cluster, EngineError
from directview.cli import main

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 20.0
MB = 1_000_000
CGROUP = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def crowd(own_folders: Path) -> Iterator[Client]:
    """A cluster whose engines may be killed: each test starts its victim, and the first one stays."""
    with Cluster(n=1) as client:
        yield client


@pytest.fixture
def victim(crowd: Client) -> int:
    """The id of an engine of the test's own."""
    assert crowd.cluster is not None
    before = set(crowd.ids)
    crowd.cluster.start_engines_sync(1)
    crowd.wait_for_engines(len(before) + 1, DEADLINE)
    (id,) = set(crowd.ids) - before
    return id


def death(crowd: Client, id: int, function: Callable[..., Any], *args: Any) -> EngineError:
    """Call something that the engine doesn't survive."""
    with pytest.raises(EngineError) as caught:
        crowd[id].apply_async(function, *args).get(DEADLINE)
    return caught.value


def test_a_segmentation_fault_says_where_in_the_code_it_was(crowd: Client, victim: int) -> None:
    """By the interpreter's own report, which is shown as the error's cause."""

    def read_nothing() -> None:
        ctypes.string_at(0)

    error = death(crowd, victim, read_nothing)
    assert error.last_words.startswith("Fatal Python error: Segmentation fault")
    assert "in read_nothing" in error.last_words
    assert error.running == "read_nothing"
    text = "\n".join(error.render_traceback())
    assert "Segmentation fault" in text
    assert text.endswith(f"EngineError: engine {victim} was killed by SIGSEGV while running read_nothing")
    assert "in read_nothing" in str(error.__cause__)


def test_what_c_code_writes_before_it_aborts_is_told(crowd: Client, victim: int) -> None:
    def give_up() -> None:
        os.write(2, b"terminate called after throwing 'bad_alloc'\n")
        os.abort()

    error = death(crowd, victim, give_up)
    assert error.signal_name == "SIGABRT"
    log = next(crowd_folder(crowd).glob(f"engine-{error.engine_info['engine_uuid'][:12]}.log")).read_text()
    assert "bad_alloc" in log
    assert "Fatal Python error: Aborted" in error.last_words


def crowd_folder(crowd: Client) -> Path:
    assert crowd.cluster is not None
    return Path(crowd.cluster.connection_file).parent


def test_the_memory_at_the_end_is_told(crowd: Client, victim: int) -> None:
    """What it had when it was last looked at, and the most that it ever had."""

    def grow_and_die(nbytes: int) -> None:
        import numpy as np

        ballast = np.ones(nbytes, np.uint8)
        del ballast
        ballast = np.ones(nbytes // 2, np.uint8)
        time.sleep(1.5)
        os._exit(7 if len(ballast) else 8)

    error = death(crowd, victim, grow_and_die, 200 * MB)
    assert 200 * MB < error.peak_memory < 400 * MB
    assert 100 * MB < error.memory < 200 * MB
    assert "in memory" in "\n".join(error.render_traceback())


def test_events_and_status_tell_of_the_death(crowd: Client, victim: int) -> None:
    """Also those who had no call there."""
    assert crowd.cluster is not None

    where = crowd.cluster.connection_file

    async def hear() -> Any:
        async with Client(where) as rc, rc.events() as events:
            dying = rc[victim].apply_async(os.kill, crowd[victim].apply_sync(os.getpid), signal.SIGBUS)
            async with asyncio.timeout(DEADLINE):
                event = await anext(events)
            await asyncio.wait([asyncio.ensure_future(_end(dying))])
            return event

    event = asyncio.run(hear())
    assert (event.kind, event.id, event.exit_code) == ("left", victim, -signal.SIGBUS)
    assert event.running == "kill"
    assert event.peak_memory > 10 * MB
    assert "Bus error" in event.last_words
    said = CliRunner().invoke(main, ["status", "--file", where]).output
    assert f"engine {victim} died at " in said
    assert "killed by SIGBUS while running kill; " in said


async def _end(result: Any) -> None:
    with pytest.raises(EngineError):
        await result


def test_a_memory_error_is_an_error_like_any_other(crowd: Client, victim: int) -> None:
    """Under a limit of its own, the engine lives on."""

    def take_too_much() -> int:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, hard))
        try:
            return len(bytearray(8 << 30))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    with pytest.raises(MemoryError):
        crowd[victim].apply_async(take_too_much).get(DEADLINE)
    assert crowd[victim].apply_async(abs, -1).get(DEADLINE) == 1


@pytest.fixture
def small_room() -> Iterator[Path]:
    """A control group of 300 MB, for one process."""
    room = CGROUP / f"directview-test-{os.getpid()}"
    try:
        room.mkdir()
        (room / "memory.limit_in_bytes").write_text(str(300 * MB))
    except OSError as error:
        pytest.skip(f"needs root and a memory control group: {error}")
    yield room
    end = time.monotonic() + DEADLINE
    while True:
        try:
            room.rmdir()
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_kill_by_the_kernel_for_lack_of_memory_says_so(
    crowd: Client, victim: int, small_room: Path
) -> None:
    def fill(group: str) -> None:
        import numpy as np

        with open(f"{group}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
        np.ones(600_000_000, np.uint8)

    error = death(crowd, victim, fill, str(small_room))
    assert error.signal_name == "SIGKILL"
    assert str(error) == (
        f"engine {victim} was killed by SIGKILL (out of memory, killed by the kernel) while running fill"
    )
    assert error.peak_memory > 200 * MB
