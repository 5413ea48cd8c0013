"""Who may wait for what, and how: bound clients and plain ones, threads and loops, ends and forks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from directview import Client, ClientClosed, Cluster, WouldBlockLoop
from tests.process.held import hold

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 50.0


@pytest.fixture
def rc(cluster: Cluster) -> Iterator[Client]:
    """A plain client."""
    with Client(cluster.connection_file) as client:
        yield client
        client[:].clear(block=True)


@pytest.fixture
async def bound(cluster: Cluster) -> AsyncIterator[Client]:
    """A client that is bound to the test's loop."""
    async with Client(cluster.connection_file) as client:
        yield client


# --- bound to a loop -----------------------------------------------------------------------------------


WAITING: dict[str, Callable[[Any, Any], Any]] = {
    "apply_sync": lambda rc, v: v.apply_sync(abs, 1),
    "apply with block": lambda rc, v: v.options(block=True).apply(abs, 1),
    "map_sync": lambda rc, v: v.map_sync(abs, [1]),
    "map with block": lambda rc, v: v.map(abs, [1], block=True),
    "push_sync": lambda rc, v: v.push_sync({"a": 1}),
    "push with block": lambda rc, v: v.push({"a": 1}, block=True),
    "assigning with block": lambda rc, v: v.options(block=True).update({"a": 1}),
    "pull_sync": lambda rc, v: v.pull_sync("a"),
    "reading": lambda rc, v: v["a"],
    "get": lambda rc, v: v.get("a"),
    "scatter_sync": lambda rc, v: v.scatter_sync("a", [1]),
    "gather_sync": lambda rc, v: v.gather_sync("a"),
    "execute_sync": lambda rc, v: v.execute_sync("a = 1"),
    "execute with block": lambda rc, v: v.execute("a = 1", block=True),
    "run_sync": lambda rc, v: v.run_sync(__file__),
    "clear with block": lambda rc, v: v.clear(block=True),
    "wait": lambda rc, v: rc.wait(),
    "wait_for_engines": lambda rc, v: rc.wait_for_engines(3),
    "queue_status": lambda rc, v: rc.queue_status(),
    "close": lambda rc, v: rc.close(),
    "leaving with": lambda rc, v: rc.__exit__(None, None, None),
}


@pytest.mark.parametrize("name", WAITING)
async def test_what_would_block_the_bound_loop_raises_at_once(bound: Client, name: str) -> None:
    """It says what to await instead, and nothing has been sent."""
    with pytest.raises(WouldBlockLoop, match="await"):
        WAITING[name](bound, bound[:])
    assert bound.history == []


async def test_results_of_a_bound_client_do_not_block_its_loop(bound: Client) -> None:
    """Looking is allowed, waiting raises, awaiting is the way."""
    result = bound[:].apply_async(time.sleep, 0.2)
    for wait in (
        result.get,
        result.wait,
        result.result,
        result.exception,
        lambda: result.r,
        lambda: list(result),
    ):
        with pytest.raises(WouldBlockLoop, match=r"await|`async for`"):
            wait()
    with pytest.raises(WouldBlockLoop):
        concurrent.futures.wait([result])
    with pytest.raises(WouldBlockLoop):
        next(concurrent.futures.as_completed([result]))
    with pytest.raises(TimeoutError, match="Result not ready"):
        result.get(0)
    assert not result.ready()
    assert await result == [None, None]
    assert result.get() == result.r == list(result) == [None, None]


async def test_awaiting_in_all_ways(bound: Client) -> None:
    """gather, wait, as_completed, wait_for, async for, a task group, on the bound loop."""
    view = bound[:]
    view["a"] = 1
    pulled, applied = await asyncio.gather(view.pull_async("a"), bound[0].apply_async(abs, -2))
    assert (pulled, applied) == ([1, 1], 2)
    done, pending = await asyncio.wait([asyncio.ensure_future(view.apply_async(abs, -i)) for i in range(5)])
    assert (sorted([task.result()[0] for task in done]), pending) == ([0, 1, 2, 3, 4], set())
    found = [await one for one in asyncio.as_completed([view.apply_async(abs, -i) for i in range(5)])]
    assert sorted(found) == [[i, i] for i in range(5)]
    assert await asyncio.wait_for(view.apply_async(abs, -1), DEADLINE) == [1, 1]
    assert [item async for item in view.map_async(abs, range(-7, 0))] == [7, 6, 5, 4, 3, 2, 1]
    assert [item async for item in view.apply_async(abs, -1)] == [1, 1]
    assert (await view.execute("a = 2"))[0].status == "ok"
    await bound.wait_for_engines_async(2)
    assert len((await bound.query("status"))["engines"]) == 2


async def test_other_threads_may_block_for_a_bound_client(bound: Client) -> None:
    """While its loop goes on."""

    def work() -> Any:
        view = bound[:]
        view.push_sync({"a": 7})
        return view["a"], view.map_sync(abs, [-1, -2, -3]), bound.queue_status()[0]["tasks"]

    assert await asyncio.to_thread(work) == ([7, 7], [1, 2, 3], 0)
    result = bound[0].apply_async(abs, -1)
    assert await asyncio.to_thread(result.get, DEADLINE) == 1


def test_a_bound_loop_that_does_not_run(cluster: Cluster) -> None:
    """An error at once, from the loop's thread and from others, awaited or not: never a hang."""
    with asyncio.Runner() as runner:
        client = Client(cluster.connection_file)
        runner.run(client.__aenter__())
        result = runner.run(submitted(client))
        view = client[:]

        def try_all() -> None:
            for wait in (lambda: view.apply_sync(abs, 1), lambda: view["a"], result.get, client.queue_status):
                with pytest.raises(RuntimeError, match="not running, so no answer can come"):
                    wait()
            with pytest.raises(RuntimeError, match="not running"):
                asyncio.run(awaited(result))

        try_all()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(try_all).result(DEADLINE)
        runner.run(client.aclose())
    with pytest.raises(ClientClosed):
        client.ids


async def submitted(client: Client) -> Any:
    """A call that will not have ended when the loop stops."""
    return client[:].apply_async(time.sleep, 0.3)


async def awaited(result: Any) -> Any:
    """On whatever loop."""
    return await result


async def test_a_client_binds_once(cluster: Cluster, rc: Client) -> None:
    """`async with` comes first or not at all."""
    assert rc.ids == [0, 1]
    with pytest.raises(RuntimeError, match="enter `async with Client"):
        await rc.__aenter__()
    assert await rc[0].apply_async(abs, -1) == 1


# --- plain ---------------------------------------------------------------------------------------------


async def test_a_plain_client_in_a_running_loop(rc: Client) -> None:
    """As in a notebook: blocking works, awaiting works, and callbacks come by the loop."""
    view = rc[:]
    view.block = True
    view["a"] = 3
    assert view["a"] == [3, 3]
    assert view.apply(abs, -1) == [1, 1]
    assert await view.apply_async(abs, -2) == [2, 2]
    assert [item async for item in view.map_async(abs, [-1, -2])] == [1, 2]
    called: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    view.apply_async(abs, -1).add_done_callback(lambda _: called.set_result(threading.get_ident()))
    assert await called == threading.get_ident()
    assert rc.wait([view.apply_async(abs, -i) for i in range(10)], DEADLINE)


def test_many_threads_at_once(rc: Client) -> None:
    """One client serves them all."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: rc[i % 2].apply_sync(abs, -i), range(400)))
    assert found == list(range(400))


def test_two_loops_share_a_plain_client(rc: Client) -> None:
    """Each awaits its own calls, and both the same one."""
    shared = rc[:].apply_async(time.sleep, 0.1)

    async def main(i: int) -> Any:
        return await rc[0].apply_async(abs, -i), await shared

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: asyncio.run(main(i)), [1, 2]))
    assert found == [(1, [None, None]), (2, [None, None])]


def test_waits_have_an_end(rc: Client, tmp_path: Path) -> None:
    """A timeout ends the wait, not the call."""
    result = rc[0].apply_async(hold, tmp_path / "go on")
    with pytest.raises(TimeoutError, match=r"Result not ready\."):
        result.get(0.05)
    assert not result.wait(0.05)
    assert not rc.wait([result], 0.05)
    assert not rc.wait(timeout=0.05)
    assert rc.outstanding == set(result.msg_ids)
    (tmp_path / "go on").touch()
    assert result.get(-1) is None
    assert rc.wait()
    assert rc.outstanding == set()


# --- closing -------------------------------------------------------------------------------------------


def test_a_closed_client(cluster: Cluster, tmp_path: Path) -> None:
    """What was outstanding ends; what comes later says what to do; closing again is fine."""
    client = Client(cluster.connection_file)
    view = client[:]
    done = view.apply_async(abs, -1)
    assert done.get(DEADLINE) == [1, 1]
    outstanding = view.apply_async(hold, tmp_path / "go on")
    client.close()
    client.close()
    (tmp_path / "go on").touch()
    with pytest.raises(ExceptionGroup) as caught:
        outstanding.get(DEADLINE)
    assert caught.group_contains(ClientClosed)
    assert done.get() == [1, 1]
    for use in (
        lambda: client.ids,
        lambda: client[0],
        lambda: view.apply_async(abs, 1),
        lambda: view.apply_sync(abs, 1),
        lambda: view["a"],
        lambda: client.queue_status(),
        lambda: client.wait_for_engines(1),
        lambda: asyncio.run(client.wait_for_engines_async(1)),
        lambda: asyncio.run(client.query("status")),
        client.__enter__,
    ):
        with pytest.raises(ClientClosed, match="make a new one"):
            use()


async def test_a_bound_client_closes_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    """With its block, whatever the block raises; awaits that were under way end as `ClientClosed`."""
    client = Client(cluster.connection_file)
    task: Any = None

    async def program() -> None:
        async with client:
            nonlocal task
            task = asyncio.ensure_future(awaited(client[0].apply_async(hold, tmp_path / "go on")))
            await asyncio.sleep(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await program()
    (tmp_path / "go on").touch()
    with pytest.raises(ClientClosed):
        await task
    with pytest.raises(ClientClosed):
        client[0].apply_async(abs, 1)
    await client.aclose()


def run_program(cluster: Cluster, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program that has the cluster's file as its first argument."""
    text = (
        "import asyncio, os, signal, sys, threading, time\nfrom directview import *\nFILE = sys.argv[1]\n"
        + text
    )
    command = [
        sys.executable,
        "-W",
        "default::ResourceWarning",
        "-c",
        text,
        cluster.connection_file,
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("rc = Client(FILE)", False),
        ("rc = Client(FILE); rc.ids", False),
        ("rc = Client(FILE); ar = rc[:].apply_async(time.sleep, 0.5)", False),
        ("def main():\n rc = Client(FILE); rc.ids\nmain(); time.sleep(0)", True),
        ("async def main():\n rc = Client(FILE); await rc.__aenter__(); rc.ids\nasyncio.run(main())", True),
        (
            "rc = Client(FILE); threading.Thread(target=rc[0].apply_sync, args=(time.sleep, 0.3)).start()",
            False,
        ),
        (
            "rc = Client(FILE); ar = rc[0].apply_async(abs, -1)\nar.add_done_callback(lambda ar: rc.close())",
            False,
        ),
    ],
    ids=[
        "unused",
        "used",
        "with a call",
        "dropped",
        "bound",
        "with a waiting thread",
        "closed in a callback",
    ],
)
def test_a_program_that_closes_nothing_ends(cluster: Cluster, text: str, warned: bool) -> None:
    """Without a traceback; with a ResourceWarning where the client was lost while the program ran."""
    ran = run_program(cluster, text)  # It would wait for ever, or for the minute of a lost controller.
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ("ResourceWarning: unclosed <Client" in ran.stderr) == warned, ran.stderr


def test_an_unclosed_cluster_warns_and_ends(cluster: Cluster) -> None:
    """And leaves nothing behind, which `nothing_left` looks for."""
    ran = run_program(
        cluster, "def main():\n c = Cluster(n=1); c.start_cluster_sync()\nmain()\nprint('goes on')"
    )
    assert (ran.returncode, ran.stdout) == (0, "goes on\n")
    assert "ResourceWarning: unclosed <Cluster" in ran.stderr


# --- forks and Ctrl-C ----------------------------------------------------------------------------------


def test_a_forked_child_gets_a_clear_error(cluster: Cluster) -> None:
    """For every use of what it inherited, without a hang; the parent goes on; a new client works there."""
    text = """
rc = Client(FILE)
view = rc[:]
slow = view.apply_async(time.sleep, 0.5)
pid = os.fork()
if pid == 0:
    for use in (lambda: rc.ids, lambda: view.apply_async(abs, -1), lambda: view['a'], slow.get, slow.cancel,
                rc.queue_status, lambda: asyncio.run(rc.query('status')), rc.__enter__):
        try:
            print('no error', use())
        except RuntimeError as error:
            assert 'this client belongs to process' in str(error), error
    rc.close()
    with Client(FILE) as own:
        print('child', own[:].apply_sync(abs, -1), flush=True)
    sys.exit(7)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), slow.get(40), view.apply_sync(abs, -2))
rc.close()
"""
    ran = run_program(cluster, text)
    assert (ran.returncode, ran.stdout) == (0, "child [1, 1]\n7 [None, None] [2, 2]\n"), ran.stderr


def test_ctrl_c_ends_the_wait_and_not_the_call(cluster: Cluster, tmp_path: Path) -> None:
    """Then the result can be waited for again."""
    text = """
rc = Client(FILE)
def hold(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return 'held'

def interrupt():
    trying.wait()
    main, waits = threading.main_thread().ident, False
    while not waits:  # until the program is inside of `get`
        frame = sys._current_frames()[main]
        while frame is not None and not waits:
            waits, frame = frame.f_code.co_name == 'get', frame.f_back
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

rc[:].execute('import os, time', block=True)
result = rc[:].apply_async(hold, sys.argv[2])
trying = threading.Event()
interrupting = threading.Thread(target=interrupt)
interrupting.start()
for wait in (result.get, rc[0].apply_async(abs, -1).get):
    try:
        trying.set()
        wait()
        print('waited')
    except KeyboardInterrupt:
        print('interrupted')
        print(result.ready(), result.cancelled())
        interrupting.join()
        open(sys.argv[2], 'w').close()
print(result.get(40))
rc.close()
"""
    ran = run_program(cluster, text, str(tmp_path / "go on"))
    said = "interrupted\nFalse False\nwaited\n['held', 'held']\n"
    assert (ran.returncode, ran.stdout) == (0, said), ran.stderr
