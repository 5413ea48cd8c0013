"""The same tutorial in an async program: nothing blocks, everything is awaited, and there is no thread.

Arguments: a copy of the controller's connection file, and a profile of another cluster that runs.
"""

import asyncio
import contextlib
import io
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from directview import (
    Client,
    CompositeError,
    ExecuteReply,
    UnmetDependencyError,
    WouldBlockLoop,
    require,
)

COPY, OTHER_PROFILE = sys.argv[1:]
CONTENTS = json.loads(Path(COPY).read_text())


async def fails(kind, awaitable):
    """The error that awaiting raises, which is to be of a kind."""
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def blocks(f, *args):
    """Whether a call says that it would block the loop, at once."""
    try:
        f(*args)
    except WouldBlockLoop as error:
        return "await" in str(error)
    return False


async def starting():
    for forms in ({}, {"profile": "default"}, CONTENTS):
        async with Client(**forms) as rc:
            assert rc.ids == [0, 1, 2, 3]
    async with Client(COPY) as rc:
        assert len(rc) == 4
    async with Client(profile=OTHER_PROFILE) as rc:
        assert rc.ids == [0]


async def functions(rc, dview):
    assert await dview.map_async(lambda x: x**10, range(32)) == [x**10 for x in range(32)]
    assert [y async for y in dview.map_async(lambda x: x**2, range(6))] == [0, 1, 4, 9, 16, 25]

    @dview.remote()
    def getpid():
        import os

        return os.getpid()

    assert len(set(await getpid())) == 4
    found = await asyncio.gather(*map(dview.remote()(lambda x: x**10), range(3)))
    assert found == [[0] * 4, [1] * 4, [1024] * 4]

    A = np.random.random((64, 48))

    @dview.parallel()
    def pmul(A, B):
        return A * B

    assert (await pmul(A, A) == A * A).all()


async def applying(rc, dview):
    assert blocks(dview.apply_sync, abs, -1)
    dview["a"] = 5  # submits, as `block` is False
    dview["b"] = 10
    assert await dview.apply(lambda x: a + b + x, 27) == [42, 42, 42, 42]
    await asyncio.gather(rc[::2].execute("c=a+b"), rc[1::2].execute("c=a-b"))
    assert blocks(dview.__getitem__, "c")
    assert await dview.pull("c") == [15, -5, 15, -5]
    assert await dview.apply(lambda **names: names, f=1, block=2) == [{"f": 1, "block": 2}] * 4


async def waiting(rc, dview):
    def wait(t):
        import time

        tic = time.time()
        time.sleep(t)
        return time.time() - tic

    assert all([seconds >= 0.1 for seconds in await dview.apply_async(wait, 0.1)])
    ar = dview.apply_async(wait, 10)
    assert ar.ready() is False
    assert blocks(ar.get, 1)
    tic = time.monotonic()
    done, pending = await asyncio.wait([ar], timeout=0.5)
    assert (done, pending) == (set(), {ar})
    assert time.monotonic() - tic > 0.4
    await ar.abort_async()
    assert ar.cancelled()
    pr_list = [dview.apply_async(wait, 0.02) for i in range(10)]
    done, pending = await asyncio.wait(pr_list)
    assert done == set(pr_list)
    assert not pending
    assert len(pr_list[0].r) == 4


async def targeting(rc, dview):
    dview.targets = [0, 2]
    assert await dview.apply(lambda: 10) == [10, 10]
    dview.targets = rc.ids
    assert await dview.apply(lambda: 42) == [42, 42, 42, 42]
    assert await dview.pull("a", targets=[1]) == [5]
    (reply,) = await dview.execute("d = 1", targets=[2])
    assert isinstance(reply, ExecuteReply)


async def moving(rc, dview):
    assert await dview.push(dict(a=1.03234, b=3453)) == [None, None, None, None]
    assert await dview.pull("a") == [1.03234] * 4
    assert await dview.pull("b", targets=0) == 3453
    assert await dview.pull(("a", "b")) == [[1.03234, 3453]] * 4
    dview["a"] = ["foo", "bar"]
    assert await dview.pull("a") == [["foo", "bar"]] * 4
    await dview.update({"e": 1})
    assert await dview.pull("e") == [1] * 4
    assert await dview.scatter("a", range(16)) == [None] * 4
    assert [list(part) for part in await dview.pull("a")] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15],
    ]  # fmt: skip
    assert await dview.gather("a") == list(range(16))
    await dview.scatter("x", range(64))
    await dview.execute("y = [i**10 for i in x]")
    assert await dview.gather("y") == [i**10 for i in range(64)]


async def importing(rc, dview):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        async with dview.sync_imports():
            import math
    assert printed.getvalue() == "importing math on engine(s)\n"
    assert await dview.apply(lambda: math.floor(2.5)) == [2] * 4

    @require("re")
    def findall(pat, x):
        return re.findall(pat, x)

    @require(time)
    async def wait(t):
        import asyncio

        await asyncio.sleep(t)
        return time.time() > 0

    @require("no_such_module_anywhere")
    def never():
        global was_run
        was_run = True

    assert await dview.apply(findall, "o+", "foo boo") == [["oo", "oo"]] * 4
    assert await dview.apply(wait, 0.01) == [True] * 4
    await fails(UnmetDependencyError, rc[0].apply(never))
    assert await dview.pull("'was_run' in globals()") == [False] * 4


async def failing(rc, dview):
    error = await fails(CompositeError, dview.execute("1/0"))
    assert str(error).splitlines()[1] == "[0:apply]: ZeroDivisionError: division by zero"
    try:
        error.raise_exception()
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError
    caught = 0
    try:
        await dview.execute("1/0")
    except* ZeroDivisionError as group:
        caught = len(group.exceptions)
    assert caught == 4
    await fails(ZeroDivisionError, rc[2].execute("1/0"))
    assert await dview.apply(lambda: [1]) == [[1]] * 4


async def main():
    await starting()
    async with Client() as rc:
        dview = rc[:]
        assert repr(dview) == "<DirectView [0, 1, 2, 3]>"
        for session in functions, applying, waiting, targeting, moving, importing, failing:
            await session(rc, dview)
        assert threading.active_count() == 1, threading.enumerate()
    print("walked")


asyncio.run(main())
