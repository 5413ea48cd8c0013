"""Sums of random walks are farmed out, with dependencies, retries and lazily: load balancing as it is used.

Only what ipyparallel's users know is used: this runs with `import ipyparallel as ipp` too.
Argument: how the module is to be imported.
"""

import importlib
import itertools
import os
import sys
import tempfile

ipp = importlib.import_module(sys.argv[1])


def walk(seed, steps=50):
    import random

    generator = random.Random(seed)
    return sum(generator.choice((-1, 1)) for _ in range(steps))


def once_in_vain(path):
    import os

    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "at the second try"
    raise RuntimeError("at the first try")


def remember(x):
    global remembered
    remembered = x
    return x


with ipp.Cluster(n=3) as rc:
    lview = rc.load_balanced_view()
    expected = list(map(walk, range(40)))

    # Maps: waited for, as they come, in chunks.
    lview.block = True
    assert lview.map(walk, range(40)) == expected
    assert lview.map(walk, range(40), chunksize=7) == expected
    lview.block = False
    amr = lview.map_async(walk, range(40), ordered=False)
    assert isinstance(amr, ipp.AsyncMapResult)
    assert sorted(amr) == sorted(expected)
    assert amr.get() == expected
    assert len(amr) == 40
    assert set(amr.engine_id) <= set(rc.ids)
    amr.wait_interactive()

    # Lazily.
    lazy = lview.imap(walk, itertools.count(), max_outstanding=4)
    assert [next(lazy) for _ in range(10)] == expected[:10]
    lazy.cancel()
    assert sorted(lview.imap(walk, range(40), ordered=False)) == sorted(expected)
    failing = list(lview.imap(lambda x: 1 / x, [1, 0], return_exceptions=True))
    assert failing[0] == 1
    assert isinstance(failing[1], ipp.error.RemoteError)

    # What comes before and after, and where.
    first = lview.apply_async(remember, 17)
    with lview.temp_flags(follow=first):
        assert lview.apply_sync(lambda: remembered) == 17
    with lview.temp_flags(after=[first, amr], timeout=60):
        later = lview.apply_async(walk, 1)
    assert later.get() == expected[1]
    assert later.started >= first.completed
    lview.set_flags(after=None, follow=None)
    with lview.temp_flags(after=ipp.Dependency(first, all=False)):
        assert lview.apply_sync(walk, 2) == expected[2]

    # Again.
    with tempfile.TemporaryDirectory() as folder:
        with lview.temp_flags(retries=2):
            tried = lview.apply_async(once_in_vain, os.path.join(folder, "tried"))
        assert tried.get() == "at the second try"
    try:
        lview.apply_sync(lambda: 1 / 0)
    except ipp.RemoteError as error:
        assert error.ename == "ZeroDivisionError"
    else:
        raise AssertionError("no error")

    # Names of calls, and their end.
    assert set(amr.msg_ids) <= set(lview.history)
    assert rc.get_result(first.msg_ids[0], block=True).get() == 17
    stuck = [lview.apply_async(__import__("time").sleep, 1) for _ in range(12)]
    stuck[-1].abort()
    lview.wait(stuck, timeout=30)
    try:
        stuck[-1].get()
    except ipp.error.TaskAborted:
        pass
    assert lview.queue_status()["unassigned"] == 0

    # Functions, and executors.
    @lview.remote(block=True)
    def double(x):
        return 2 * x

    @lview.parallel(block=True)
    def doubled(part):
        return [2 * x for x in part]

    assert double(4) == 8
    assert doubled(list(range(10))) == [2 * x for x in range(10)]
    with rc.executor() as executor:
        assert list(executor.map(walk, range(5))) == expected[:5]
        assert executor.submit(walk, 3).result() == expected[3]
    assert rc.load_balanced_view(targets=[0, 2]).apply_async(walk, 4).get() == expected[4]

print("balanced")
