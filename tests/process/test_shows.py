"""What the README promises, done with real engines: the Direct interface in scripts and in async programs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import (
    AsyncMapResult,
    AsyncResult,
    Client,
    Cluster,
    CompositeError,
    DirectView,
    ExecuteReply,
    Many,
    RemoteError,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 30.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Four engines for the module."""
    with Cluster(n=4) as client:
        yield client


@pytest.fixture
def v(rc: Client) -> Iterator[DirectView[Many]]:
    """A blocking view of all four, with empty namespaces."""
    view = rc[:]
    view.block = True
    yield view
    view.clear()


def run_script(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program as users do: as `__main__` of a process of its own."""
    path = folder / "program.py"
    path.write_text(text)
    command = [sys.executable, *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=folder)


SCRIPT = """\
import numpy
from directview import Cluster

with Cluster(n=4) as rc:
    v = rc[:]
    v.block = True
    v['a'] = 5
    v['b'] = 10
    assert v.apply(lambda x: a + b + x, 27) == [42] * 4
    rc[::2].execute('c=a+b')
    rc[1::2].execute('c=a-b')
    assert v['c'] == [15, -5, 15, -5]
    assert v.scatter('a', range(16)) == [None] * 4
    assert [list(part) for part in v['a']] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert v.gather('a') == list(range(16))
    assert v.map_sync(lambda x: x**10, range(32)) == list(map(lambda x: x**10, range(32)))
    assert [list(pair[0]) + [pair[1]] for pair in v.pull(('a', 'b'))][3] == [12, 13, 14, 15, 10]
    A = numpy.random.random((64, 48))
    v.scatter('A', A)
    assert [part.shape for part in v['A']] == [(16, 48)] * 4
    back = v.gather('A')
    assert back.dtype == A.dtype and (back == A).all()
    try:
        rc[0].apply_sync(lambda: 1/0)
    except ZeroDivisionError as error:
        print('caught', error)
print('done')
"""

ASYNC_PROGRAM = """\
import asyncio
import threading
from directview import Client, Cluster

def f():
    return 6 * 7

async def nap(i):
    await asyncio.sleep(0.001)
    return i

async def main():
    async with Cluster(n=4) as rc:
        assert await rc[:].apply_async(f) == [42] * 4
        async def one(i):
            assert await rc[i % 4].apply_async(nap, i) == i
            done.append(i)
        done = []
        async with asyncio.TaskGroup() as group:
            for i in range(1000):
                group.create_task(one(i))
        assert sorted(done) == list(range(1000))
        async with Client(rc.cluster.connection_file) as other:
            assert await other[:].apply_async(f) == [42] * 4
            assert threading.active_count() == 1, threading.enumerate()

asyncio.run(main())
print('done')
"""


@pytest.mark.parametrize(
    ("text", "said"), [(SCRIPT, "caught division by zero\ndone\n"), (ASYNC_PROGRAM, "done\n")]
)
def test_programs_as_users_write_them(own_folders: Path, text: str, said: str) -> None:
    """With warnings as errors and asyncio's debug mode, they say nothing but what they should."""
    ran = run_script(own_folders, text, "-W", "error", "-X", "dev")
    assert (ran.returncode, ran.stdout) == (0, said), ran.stderr
    complaints = [line for line in ran.stderr.splitlines() if not line.startswith("Executing <")]
    assert complaints == []  # but for asyncio's remarks about slow steps


def test_a_client_by_itself_has_no_thread(rc: Client) -> None:
    """`async with Client()` binds it to the loop there is."""

    async def main(before: int) -> list[int]:
        async with Client(rc.cluster.connection_file) as bound:  # type: ignore[union-attr]
            found = await bound[:].apply_async(os.getpid)
            assert threading.active_count() == before
            return found

    assert len(set(asyncio.run(main(threading.active_count())))) == 4


# --- apply ----------------------------------------------------------------------------------------------


def test_apply_in_all_forms(rc: Client, v: DirectView[Many]) -> None:
    """Bare follows `block`; suffixes mean what they say; arguments and keywords are the function's."""

    def f(x: int, *rest: int, block: str = "mine") -> Any:
        return x, rest, block

    assert v.apply(f, 1, 2, block="theirs") == [(1, (2,), "theirs")] * 4
    assert v.apply_sync(f, 1) == [(1, (), "mine")] * 4
    result = v.apply_async(f, 1)
    assert isinstance(result, AsyncResult)
    assert result.get(DEADLINE) == [(1, (), "mine")] * 4
    v.block = False
    assert isinstance(v.apply(f, 1), AsyncResult)
    assert rc[0].apply_sync(f, 1) == (1, (), "mine")
    assert rc[-1].apply_sync(os.getpid) == rc[3].apply_sync(os.getpid)
    assert rc[[1]].apply_sync(f, 1) == [(1, (), "mine")]
    assert rc[np.int64(2)].targets == 2


def test_targets_are_scalar_or_list(rc: Client) -> None:
    """An id gives a scalar, everything else a list in the order asked for."""
    pids = rc[:].apply_sync(os.getpid)
    assert len(set(pids)) == 4
    assert rc[2].apply_sync(os.getpid) == pids[2]
    assert rc[1:3].apply_sync(os.getpid) == pids[1:3]
    assert rc[[3, 0]].apply_sync(os.getpid) == [pids[3], pids[0]]
    assert repr(rc[1:3]) == "<DirectView [1, 2]>"
    assert [view.apply_sync(os.getpid) for view in rc] == pids
    everybody = rc.direct_view("all")
    assert everybody.targets == [0, 1, 2, 3]
    v: DirectView[Any] = rc[:]

    def now() -> Any:
        return v.apply_sync(os.getpid)

    v.targets = [0, 2]
    assert now() == [pids[0], pids[2]]
    v.targets = 1
    assert now() == pids[1]
    v.targets = rc.ids
    assert now() == pids
    v.execute_sync("x = 1")
    assert v.pull("x", targets=0, block=True) == 1
    assert v.pull("x", targets=[0, 3], block=True) == [1, 1]
    assert v.push({"y": 2}, targets=2, block=True) is None
    assert v.execute("y += 1", targets=2, block=True).ready()
    assert rc[2]["y"] == 3


def test_flags_of_a_view_and_of_one_call(v: DirectView[Many]) -> None:
    """`block` and `track` as attributes, for a call, for a while, or on a copy."""
    assert v.push({"a": 1}) == [None] * 4
    assert isinstance(v.push({"a": 2}, block=False, track=True), AsyncResult)
    with v.temp_flags(block=False):
        assert isinstance(v.pull("a"), AsyncResult)
    assert v.pull("a") == [2] * 4
    assert isinstance(v.options(block=False).pull("a"), AsyncResult)
    v.set_flags(block=False, track=True)
    assert v.track
    assert v.block is False
    v.track = False
    big = np.zeros(1 << 20)
    sent = v.push({"big": big})
    sent.wait_for_send(DEADLINE)
    big += 1
    assert sent.get(DEADLINE) == [None] * 4
    v.block = True
    assert v.pull("big.sum()") == [0.0] * 4
    with pytest.raises(TypeError, match="no flag 'colour'"):
        v.set_flags(colour="red")


# --- names and objects ----------------------------------------------------------------------------------


def test_push_pull_and_the_dictionary(v: DirectView[Many]) -> None:
    """Names and expressions; several at once; as a dictionary."""
    assert v.push({"a": 1.03234, "b": 3453}) == [None] * 4
    assert v.pull("a") == [1.03234] * 4
    assert v.pull("b", targets=0) == 3453
    assert v.pull(("a", "b")) == [[1.03234, 3453]] * 4
    v["a"] = ["foo", "bar"]
    assert v["a"] == [["foo", "bar"]] * 4
    assert v.get("a") == [["foo", "bar"]] * 4
    assert v["a[0]"] == ["foo"] * 4
    v.update({"c": "speed"})
    assert v["c"] == ["speed"] * 4
    v.block = False
    assert v.pull("c").get(DEADLINE) == ["speed"] * 4
    assert v["c"] == ["speed"] * 4
    with pytest.raises(CompositeError) as caught:
        v["nowhere"]
    assert "[3:apply]: NameError: name 'nowhere' is not defined" in str(caught.value)


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize(
    "seq",
    [
        list(range(11)),
        tuple(range(11)),
        range(11),
        range(2, 40, 3),
        "hello, world",
        b"hello, world",
        np.arange(64 * 48.0).reshape(64, 48),
        np.arange(30).reshape(5, 3, 2)[:, ::-1],
        np.array(["2020-01-01", "2021-01-01", "2022-01-01"], dtype="datetime64[D]"),
        np.zeros(7, dtype=[("x", "i4"), ("y", "f8")]),
        [1, 2],
        [],
    ],
    ids=lambda seq: f"{type(seq).__name__}-{getattr(seq, 'dtype', len(seq))}",
)
def test_scatter_and_gather_give_back_what_it_was(v: DirectView[Many], seq: Any, dist: Any) -> None:
    """Kind, dtype, shape and order; also with fewer items than engines."""
    assert v.scatter("part", seq, dist) == [None] * 4
    back = v.gather("part", dist)
    if isinstance(seq, np.ndarray):
        assert back.dtype == seq.dtype
        assert back.shape == seq.shape
        assert (back == seq).all()
        assert all(part.flags.writeable for part in v["part"])
    elif isinstance(seq, range):
        assert back == list(seq)
    else:
        assert type(back) is type(seq)
        assert back == seq


def test_scatter_raises_and_flattens(rc: Client, v: DirectView[Many]) -> None:
    """One item each instead of sequences of one; without blocking it gives an AsyncResult."""
    v.scatter("i", [10, 20, 30, 40], flatten=True)
    assert v["i"] == [10, 20, 30, 40]
    assert rc[[3, 1]].scatter("i", "ab", block=True) == [None] * 2
    assert v["i"] == [10, "b", 30, "a"]
    assert v.scatter("i", range(4), block=False).get(DEADLINE) == [None] * 4
    assert v.gather("i", block=False).get(DEADLINE) == [0, 1, 2, 3]
    assert rc[1].gather("i", block=True) == [1]
    with pytest.raises(TypeError):
        v.scatter("i", 7)


def test_map_in_all_forms(rc: Client, v: DirectView[Many]) -> None:
    """Order kept, several sequences, the shortest one decides; items arrive while others are computed."""
    assert v.map_sync(lambda x: x**10, range(32)) == [x**10 for x in range(32)]
    assert v.map(pow, [2, 3, 4, 5, 6], [3, 2, 1]) == [8, 9, 4]
    result = v.map_async(lambda x: x + 1, iter(range(10)))
    assert isinstance(result, AsyncMapResult)
    assert list(result) == list(range(1, 11))
    assert len(result) == 10
    assert result[3] == 4
    assert v.map(abs, []) == []
    empty = v.map_async(abs, [])
    assert empty
    assert empty.ready()
    assert list(rc[0].map_sync(len, ["a", "bb"])) == [1, 2]
    assert v.map_sync(np.sum, np.ones((8, 3))) == [3.0] * 8
    with pytest.raises(CompositeError) as caught:
        v.map(lambda x: 1 // x, [1, 0, 1, 1, 1])
    assert caught.group_contains(ZeroDivisionError)
    found = v.map(lambda x: 1 // x, [1, 0, 1, 1, 1], return_exceptions=True)
    assert isinstance(found[1], ZeroDivisionError)
    assert found[:1] + found[2:] == [1] * 4


def test_execute_and_run(own_folders: Path, rc: Client, v: DirectView[Many]) -> None:
    """Both give an AsyncResult of ExecuteReply, finished and checked when blocking; output comes along."""
    result = v.execute("a = 5\nprint('hi')\na * 2")
    assert isinstance(result, AsyncResult)
    assert result.ready()
    assert all(isinstance(reply, ExecuteReply) for reply in result.get())
    assert result.stdout == ["hi\n"] * 4
    assert v["a"] == [5] * 4
    assert [reply.stdout for reply in result.get()] == ["hi\n"] * 4
    v.block = False
    failing = v.execute("1/0")
    with pytest.raises(CompositeError):
        failing.get(DEADLINE)
    script = own_folders / "job.py"
    script.write_text("import math\nroot = math.sqrt(81)\n")
    v.run(script, block=True)
    v.block = True
    assert v["root"] == [9.0] * 4
    with pytest.raises(FileNotFoundError, match="nowhere"):
        v.run(own_folders / "nowhere.py")
    with pytest.raises(CompositeError) as caught:
        v.execute("a =")
    assert caught.group_contains(SyntaxError)
    v.execute("import asyncio\nawait asyncio.sleep(0)\nawaited = True")
    assert v["awaited"] == [True] * 4


# --- errors ---------------------------------------------------------------------------------------------


def engine_of(error: BaseException) -> Any:
    """The id of the engine that raised it."""
    assert isinstance(error, RemoteError)
    return error.engine_info["engine_id"]


def test_an_error_is_of_its_own_type_and_a_remote_error(rc: Client) -> None:
    """One engine: both `except` clauses catch it, and its cause shows the engine's traceback."""
    with pytest.raises(ZeroDivisionError) as caught:
        rc[0].apply_sync(lambda: 1 / 0)
    with pytest.raises(RemoteError) as also_caught:
        rc[0].apply_sync(lambda: 1 / 0)
    error = also_caught.value
    assert isinstance(error, type(caught.value))
    assert (error.ename, error.evalue, error.engine_info["engine_id"]) == (
        "ZeroDivisionError",
        "division by zero",
        0,
    )
    assert "1 / 0" in str(error.__cause__)
    assert "ZeroDivisionError" in error.traceback


def test_errors_of_several_engines_are_a_group(v: DirectView[Many]) -> None:
    """The seed's text with a line for each engine; `except*` splits it; the originals can be raised."""
    with pytest.raises(CompositeError) as caught:
        v.execute("1/0")
    text = str(caught.value)
    assert text.splitlines()[0] == "one or more exceptions from call to method: _execute"
    for engine in range(4):
        assert f"[{engine}:apply]: ZeroDivisionError: division by zero" in text
    with pytest.raises(ZeroDivisionError):
        caught.value.raise_exception()
    v.scatter("odd", [0, 1, 0, 1], flatten=True)
    seen: dict[str, list[Any]] = {}
    try:
        v.execute("1/0 if odd else [][0]")
    except* ZeroDivisionError as group:
        seen["zero"] = [engine_of(error) for error in group.exceptions]
    except* IndexError as others:
        seen["index"] = [engine_of(error) for error in others.exceptions]
    assert seen == {"zero": [1, 3], "index": [0, 2]}


def test_part_of_the_engines_failing_leaves_the_others_results(v: DirectView[Many]) -> None:
    """They are on the AsyncResult."""
    v.scatter("d", [0, 1, 2, 4], flatten=True)
    result = v.pull("4 / d", block=False)
    with pytest.raises(CompositeError):
        result.get(DEADLINE)
    found = result.get(return_exceptions=True)
    assert found[1:] == [4, 2, 1]
    assert isinstance(found[0], ZeroDivisionError)


# --- at the same time -----------------------------------------------------------------------------------


def test_coroutine_functions_interleave_on_an_engine(rc: Client) -> None:
    """A hundred of them, each of which waits for all the others; plain functions take their turns."""

    async def meets(i: int) -> int:
        await together.wait()  # type: ignore[name-defined]
        return i

    rc[0].execute("import asyncio; together = asyncio.Barrier(100)", block=True)
    results = [rc[0].apply_async(meets, i) for i in range(100)]
    assert [result.get(DEADLINE) for result in results] == list(range(100))
    assert rc[1].apply_sync(lambda: asyncio.run(asyncio.sleep(0, "inner"))) == "inner"


def test_a_users_own_engine_module_is_found(own_folders: Path, v: DirectView[Many]) -> None:
    """`import engine` is the user's; `directview.engine` is ours; both on the same engine."""
    (own_folders / "engine.py").write_text("power = 9001\n")
    v.execute(f"import sys; sys.path.insert(0, {str(own_folders)!r})")
    v.execute("import engine, directview.engine as ours")
    assert v.pull("engine.power") == [9001] * 4
    assert v.pull("ours.__name__") == ["directview.engine"] * 4
