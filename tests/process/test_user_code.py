"""What user code may do on an engine, on purpose or not, without harm to the engine or to the next call."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from directview import Client, Cluster, RemoteError

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 40.0


@pytest.fixture(scope="module")
def engine(own_folders: Path) -> Iterator[Client]:
    """One engine, which all tests use and none may end."""
    with Cluster(n=1) as client:
        yield client


@pytest.fixture
def rc(engine: Client) -> Iterator[Client]:
    """After the test, it is the same engine, and it answers at once and prints."""
    pid = engine[0].apply_async(os.getpid).get(DEADLINE)
    yield engine
    assert engine[0].apply_async(os.getpid).get(DEADLINE) == pid
    after = engine[0].apply_async(print, "hi")
    after.get(DEADLINE)
    assert after.stdout == "hi\n"


# --- descriptors ---------------------------------------------------------------------------------------


def descriptors() -> dict[str, str]:
    """What they stand for, by number."""
    with os.scandir("/proc/self/fd") as found:
        return {entry.name: os.readlink(entry) for entry in found if os.path.lexists(entry)}


def owned() -> list[int]:
    """Numbers that objects of this process would close at their end."""
    numbers = []
    for found in gc.get_objects():
        if isinstance(found, (socket.socket, selectors.EpollSelector)):
            with contextlib.suppress(ValueError):  # It is closed.
                numbers.append(found.fileno())
    return [number for number in numbers if number >= 0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_descriptors_are_the_engines_own(rc: Client) -> None:
    """What the fork server has left in its memory closes none when it is collected, nor at the end."""

    def collect() -> tuple[dict[str, str], dict[str, str], list[int]]:
        gc.unfreeze()
        before = descriptors()
        gc.collect()
        return before, descriptors(), owned()

    before, after, numbers = rc[0].apply_async(collect).get(DEADLINE)
    assert after == before
    assert len(set(numbers)) == len(numbers)
    kinds = ("socket:", "anon_inode:[eventpoll]")
    assert [number for number in numbers if not after[str(number)].startswith(kinds)] == []


# --- processes -----------------------------------------------------------------------------------------


def fork_pool() -> list[int]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def spawn_pool() -> list[int]:
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(abs, [-1, -2])


def executor() -> list[int]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(abs, [-1, -2]))


def fork_and_terminate(times: int) -> set[int]:
    ends = set()
    for _ in range(times):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.kill(pid, signal.SIGTERM)
        ends.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return ends


@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_a_forked_child_ends_by_a_signal_that_comes_at_once(rc: Client) -> None:
    """It would be lost on the engine's handlers, or end the engine."""
    assert rc[0].apply_async(fork_and_terminate, 100).get(DEADLINE) == {-signal.SIGTERM}


@pytest.mark.filterwarnings("ignore:.*use of fork")
@pytest.mark.parametrize("pool", [fork_pool, spawn_pool, executor], ids=lambda f: f.__name__)
def test_process_pools(rc: Client, pool: Callable[[], list[int]]) -> None:
    """Their workers are ended by SIGTERM, which is not for the engine."""
    for _ in range(3):
        assert rc[0].apply_async(pool).get(DEADLINE) == [1, 2]


def forks_and_returns() -> int:
    return os.fork()


def forks_and_exits() -> int:
    pid = os.fork()
    if pid == 0:
        sys.exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forks_and_raises() -> int:
    pid = os.fork()
    if pid == 0:
        print("from the child")  # Nobody's: it goes to the log.
        raise ValueError
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def forks_in_a_coroutine() -> int:
    pid = os.fork()
    return pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 - as careless code does


def terminates_its_child() -> int:
    heard, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(says, b"runs")
        time.sleep(60)
    os.read(heard, 4)
    os.close(heard)
    os.close(says)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*use of fork")
@pytest.mark.parametrize(
    ("fork", "code"),
    [(forks_and_exits, 5), (forks_and_raises, 1), (forks_in_a_coroutine, 0), (terminates_its_child, -15)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_forked_child_is_no_second_engine(rc: Client, fork: Callable[[], int], code: int) -> None:
    """It ends where the call that forked it ends, and signals for it reach nobody else."""
    result = rc[0].apply_async(fork)
    assert result.get(DEADLINE) == code
    assert result.stdout == ""


def test_a_forked_child_that_returns(rc: Client) -> None:
    """The call has one result: the engine's."""
    pid = rc[0].apply_async(forks_and_returns).get(DEADLINE)
    assert pid > 0
    assert rc[0].apply_async(lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).get(DEADLINE) == 0


def test_programs_that_are_started_can_be_interrupted(rc: Client) -> None:
    """The engine takes no SIGINT, its children do; their output can be caught."""

    def run() -> tuple[int, str]:
        process = subprocess.Popen(["sleep", "60"])
        process.send_signal(signal.SIGINT)
        said = subprocess.run(["echo", "said"], capture_output=True, text=True, check=True).stdout
        return process.wait(), said

    assert rc[0].apply_async(run).get(DEADLINE) == (-signal.SIGINT, "said\n")


# --- the loop ------------------------------------------------------------------------------------------


async def stops_the_loop() -> str:
    asyncio.get_running_loop().stop()
    return "done"


async def cancels_all_tasks() -> str:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    return "done"


async def leaves_a_failed_task() -> str:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.sleep(0.01)
    return "done" if task.done() else "still running"


def runs_a_loop() -> str:
    return asyncio.run(asyncio.sleep(0.01, "done"))


def uses_the_loop_of_old() -> str:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(asyncio.sleep(0.01, "done"))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize(
    "function",
    [stops_the_loop, cancels_all_tasks, leaves_a_failed_task, runs_a_loop, uses_the_loop_of_old],
    ids=lambda f: f.__name__,
)
def test_the_engines_loop_is_not_the_users_to_end(rc: Client, function: Any) -> None:
    """And there is room for others."""
    for _ in range(2):
        assert rc[0].apply_async(function).get(DEADLINE) == "done"


# --- errors of every kind ------------------------------------------------------------------------------


class Unspeakable(Exception):
    """Has no text and can't be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Escape(BaseException):
    """Not an Exception."""


def recurses() -> int:
    return recurses() + 1


def raises(make: Callable[[], BaseException]) -> None:
    raise make()


@pytest.mark.parametrize(
    ("make", "kind", "name"),
    [
        (lambda: ValueError("x" * 10_000_000), ValueError, "ValueError"),
        (lambda: Unspeakable(), RemoteError, "Unspeakable"),
        (lambda: Escape("out"), RemoteError, "Escape"),
        (KeyboardInterrupt, RemoteError, "KeyboardInterrupt"),
        (GeneratorExit, RemoteError, "GeneratorExit"),
        (asyncio.CancelledError, RemoteError, "CancelledError"),
        (lambda: StopIteration(3), RemoteError, "StopIteration"),
        (lambda: ExceptionGroup("two", [ValueError(1), KeyError(2)]), ExceptionGroup, "ExceptionGroup"),
        (lambda: OSError(2, "none such", "/file"), FileNotFoundError, "FileNotFoundError"),
        (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeDecodeError, "UnicodeDecodeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_of_every_kind(
    rc: Client, make: Callable[[], BaseException], kind: type[BaseException], name: str
) -> None:
    """Arrive as remote errors, of their own type where that can be, and not larger than one can read."""
    result = rc[0].apply_async(raises, make)
    error = result.exception(DEADLINE)
    assert isinstance(error, kind)
    assert isinstance(error, RemoteError)
    assert error.ename == name
    assert len(str(error)) < 100_000
    for again in (lambda: asyncio.run(wait_for(result)), lambda: result.get(DEADLINE)):
        with pytest.raises(kind):
            again()


async def wait_for(result: Any) -> Any:
    """Await it."""
    return await result


def too_deep() -> Any:
    found: Any = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (recurses, "RecursionError"),
        (too_deep, "SerializationError"),
        (lambda: bytearray(1 << 46), "MemoryError"),
    ],
    ids=["recursion", "too deep a result", "too much memory"],
)
def test_errors_of_limits(rc: Client, function: Any, name: str) -> None:
    """Of the stack, of pickle, of memory."""
    error = rc[0].apply_async(function).exception(DEADLINE)
    assert isinstance(error, RemoteError)
    assert error.ename == name
    assert len(str(error)) < 10_000


# --- the process itself --------------------------------------------------------------------------------


def test_signal_handlers_of_users(rc: Client) -> None:
    """Work in plain functions: they run in the main thread."""

    def timed_out() -> None:
        def alarm(*_: object) -> None:
            raise TimeoutError("rang")

        before = signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            time.sleep(10)
        finally:
            signal.signal(signal.SIGALRM, before)

    result = rc[0].apply_async(timed_out)
    assert result.wait(DEADLINE)
    with pytest.raises(builtins.TimeoutError, match="rang"):
        result.get()


def test_a_folder_that_goes(rc: Client) -> None:
    """The engine needs none."""

    def leave() -> None:
        import tempfile

        home = os.getcwd()
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)
        sys.modules["__main__"].__dict__["home"] = home

    rc[0].apply_async(leave).get(DEADLINE)
    assert rc[0].apply_async(abs, -1).get(DEADLINE) == 1
    rc[0].execute("import os; os.chdir(home)", block=True)


def test_streams_that_users_replace(rc: Client) -> None:
    """For the time of a call, or for good: the next call prints again where it should."""

    def redirected() -> str:
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()) as caught:
            print("caught")
        return caught.getvalue()

    result = rc[0].apply_async(redirected)
    assert (result.get(DEADLINE), result.stdout) == ("caught\n", "")
    rc[0].execute("import sys; kept = sys.stdout; sys.stdout = None", block=True)
    assert rc[0].apply_async(print, "nowhere").get(DEADLINE) is None
    rc[0].execute("sys.stdout = kept", block=True)


def test_a_thread_that_fails(rc: Client) -> None:
    """Says so in the output of the call that is running."""

    def fails() -> None:
        raise ValueError("in a thread")

    def start() -> None:
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()

    result = rc[0].apply_async(start)
    assert result.get(DEADLINE) is None
    assert "ValueError: in a thread" in result.stderr
