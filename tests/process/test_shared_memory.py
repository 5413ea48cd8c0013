"""Shared memory between real processes: large data at its speed, whoever dies, and the same without it."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from directview import AsyncResult, Client, Cluster, EngineError, PrePickled, RemoteError, sharing
from directview.testing.polling import until
from directview.wire.arena import Arena, arena
from directview.wire.windows import may_read

pytestmark = [
    pytest.mark.process,
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(not arena().reference, reason="no memory files, or no /proc, on this system"),
]

SOMETHING = np.arange(16, dtype=np.uint8)
SIZES = [pytest.param(200 << 20, id="200MB"), pytest.param(1 << 30, id="1GB", marks=pytest.mark.slow)]


def lent() -> bool:
    """Something of this process's arena is on its way."""
    windows = arena()._windows
    return bool(arena()._lent or arena()._sheets_lent or (windows is not None and windows._shown))


def shown() -> int:
    """Pieces that this process has shown so far."""
    windows = arena()._windows
    return 0 if windows is None else windows._count


can_attach = may_read(os.getpid(), SOMETHING.__array_interface__["data"][0], SOMETHING.tobytes())
"""Processes can read each other's memory here."""


def pattern(nbytes: int) -> np.ndarray:
    return np.arange(nbytes // 8, dtype=np.int64)


@pytest.fixture(autouse=True)
def nothing_is_let_go_for_being_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at after a transfer is there however long the test was held up."""
    trim = Arena.trim
    monkeypatch.setattr(Arena, "trim", lambda self, seconds: None if seconds else trim(self, seconds))


@pytest.fixture
def rc(own_folders: object) -> Iterator[Client]:
    """Three engines for one test, because some are killed."""
    with Cluster(n=3) as client:
        yield client


def test_large_data_goes_through_shared_memory_and_arrives_writable(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        whole, before = pattern(40 << 20), shown()
        rc[:].scatter("part", whole, block=True)
        assert shown() > before if can_attach else arena().used_bytes > 0, "it went another way"
        until(lambda: not lent())
        assert rc[:].apply_sync(lambda: (part.flags.writeable, int(part.sum()))) == [  # type: ignore[name-defined]
            (True, int(piece.sum())) for piece in np.array_split(whole, len(rc))
        ]
        back = rc[:].gather("part", block=True)
        assert np.array_equal(back, whole)
        back += 1


def test_what_several_engines_get_is_copied_once_and_is_writable_memory_of_each(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        view, whole = rc[:], pattern(20 << 20)
        total = int(whole.sum())
        view.push({"mine": whole, "other": [whole[:2_000_000]]}, block=True)
        assert arena().sheets.nbytes > whole.nbytes, "it went another way"
        until(lambda: not lent())
        view.execute(
            "import os, pickle\n"
            "mine += 1000\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    mine += 1\n"
            "    os._exit(0 if mine[0] == 1001 else 1)\n"
            "died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])",
            block=True,
        )
        looked = view.apply_sync(lambda: (mine.flags.writeable, int(mine.sum()), int(other[0].sum()), died))  # type: ignore[name-defined]
        assert looked == [(True, total + 1000 * len(whole), int(whole[:2_000_000].sum()), 0)] * len(rc)
        rc[0].execute("mine[:] = 7", block=True)
        assert rc[1].apply_sync(lambda: int(mine[0])) == 1000, "another engine's"  # type: ignore[name-defined]
        assert np.array_equal(whole, pattern(20 << 20)), "the sender's own"
        back = rc[1].pull_sync("mine")
        view.push({"mine": back}, block=True)
        assert view.apply_sync(lambda: int(mine.sum())) == [looked[0][1]] * len(rc)  # type: ignore[name-defined]
        view.execute("del mine, other", block=True)


def test_what_engines_keep_is_not_changed_by_what_is_sent_after_it(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        view = rc[:]
        for n in range(6):
            view.push({f"kept{n % 3}": np.full(1_000_000, n)}, block=True)
        kept = view.apply_sync(lambda: [(int(a.min()), int(a.max())) for a in (kept0, kept1, kept2)])  # type: ignore[name-defined]
        assert kept == [[(3, 3), (4, 4), (5, 5)]] * len(rc)
        assert arena().sheets.nbytes < 60_000_000, "sheets are not used again"
        view.execute("del kept0, kept1, kept2", block=True)


def test_an_engine_without_descriptors_is_sent_a_copy(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        view, whole = rc[:], pattern(20 << 20)
        view.push({"mine": whole}, block=True)  # From now on the engine reads this process's slots.
        rc[0].execute(
            "import os, resource\n"
            "limits = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))\n"
            "spent = []\n"
            "try:\n"
            "    while True:\n"
            "        spent.append(os.dup(0))\n"
            "except OSError:\n"
            "    pass",
            block=True,
        )
        try:
            view.push({"mine": whole}, block=True)
            rc[0].push({"alone": whole}, block=True)
            assert rc[0].apply_sync(lambda: (int(mine.sum()), int(alone.sum()))) == (int(whole.sum()),) * 2  # type: ignore[name-defined]
        finally:
            rc[0].execute("for fd in spent: os.close(fd)", block=True)
            rc[0].execute("resource.setrlimit(resource.RLIMIT_NOFILE, limits)", block=True)
        assert rc[1].apply_sync(lambda: int(mine.sum())) == int(whole.sum())  # type: ignore[name-defined]
        view.execute("del mine", block=True)


def killed_while_it_receives(pid: int, send: Callable[[], AsyncResult[Any]]) -> None:
    """It has stopped before, so that it cannot be done with it first; the sender's memory comes back."""
    os.kill(pid, signal.SIGSTOP)
    sent = send()
    until(lent)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RemoteError) as caught:
        sent.get(120)
    assert [type(error) for error in caught.value.exceptions] == [EngineError]  # type: ignore[attr-defined]
    until(lambda: not lent())


@pytest.mark.parametrize("size", SIZES)
def test_an_engine_that_dies_while_several_receive_costs_its_own_call_only(rc: Client, size: int) -> None:
    whole = pattern(size)
    pids = rc[:].apply_sync(os.getpid)
    killed_while_it_receives(pids[1], lambda: rc[:].push({"theirs": whole}, block=False))
    total = int(whole.sum())
    assert rc[[0, 2]].apply_sync(lambda: int(theirs.sum())) == [total] * 2  # type: ignore[name-defined]
    rc[[0, 2]].push({"theirs": whole[::-1].copy()}, block=True)
    assert rc[[0, 2]].apply_sync(lambda: int(theirs[0])) == [int(whole[-1])] * 2  # type: ignore[name-defined]


@pytest.mark.parametrize("size", SIZES)
def test_an_engine_that_dies_while_it_receives_costs_its_own_call_only(rc: Client, size: int) -> None:
    whole = pattern(size)
    pids = rc[:].apply_sync(os.getpid)
    killed_while_it_receives(pids[1], lambda: rc[:].scatter("part", whole, block=False))
    pieces = np.array_split(whole, 3)
    for id in (0, 2):
        assert rc[id].apply_sync(lambda: int(part.sum())) == int(pieces[id].sum())  # type: ignore[name-defined]
    rc[[0, 2]].scatter("part", whole, block=True)
    assert np.array_equal(rc[[0, 2]].gather("part", block=True), whole)


@pytest.mark.parametrize("size", SIZES)
def test_an_engine_that_dies_while_it_sends_costs_its_own_call_only(rc: Client, size: int) -> None:
    view = rc[:]
    view.execute(f"import numpy as np; part = np.arange({size} // 24)", block=True)
    pids = view.apply_sync(os.getpid)
    pulled = view.pull_async("part")
    until(lambda: not pulled.ready() and any(_receiving(rc)))
    os.kill(pids[1], signal.SIGKILL)
    values = pulled.get(120, return_exceptions=True)
    assert isinstance(values[1], EngineError)
    for id in (0, 2):
        assert np.array_equal(values[id], np.arange(size // 24))
    assert np.array_equal(rc[0].pull_sync("part"), np.arange(size // 24))


def _receiving(rc: Client) -> list[int]:
    """Bytes that have come of the large results that are on their way."""
    engines = rc._binding.core()._state._engines
    return [
        part.parcel.received for engine in list(engines.values()) for part in list(engine.receiving.values())
    ]


@pytest.mark.parametrize("size", SIZES)
def test_a_client_that_dies_while_it_sends_leaves_nothing(rc: Client, size: int) -> None:
    program = f"""
        import json, sys, numpy as np
        from directview import Client
        from directview.wire.arena import arena
        rc = Client(json.loads(sys.argv[1]))
        theirs = np.ones({size} // 8)
        pushed = rc[:].push(dict(theirs=theirs), block=False)
        while not arena()._sheets_lent:
            if pushed.done():  # before this thread has looked
                pushed = rc[:].push(dict(theirs=theirs), block=False)
        print("sending", flush=True)
        pushed.get(120)
        """
    contents = json.dumps(rc._info.to_dict())
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), contents], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "sending\n"
        child.kill()
        child.wait(30)
    whole = pattern(40 << 20)
    rc[:].scatter("mine", whole, block=True)
    assert np.array_equal(rc[:].gather("mine", block=True), whole)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, and unshare")
def test_a_full_dev_shm_changes_nothing(own_folders: object) -> None:
    """It is full, and tiny, for the whole cluster: in a mount namespace of its own."""
    program = """
        import numpy as np
        from directview import Cluster
        if __name__ == "__main__":
            with open("/dev/shm/full", "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass
            with Cluster(n=2) as rc:
                whole = np.arange(8_000_000)
                rc[:].scatter("part", whole, block=True)
                assert np.array_equal(rc[:].gather("part", block=True), whole)
                rc[:].push(dict(all=whole), block=True)
                assert rc[:].apply_sync(lambda: int(all[-1])) == [len(whole) - 1] * 2
                shared = rc.share(whole)
                assert rc[:].apply_sync(lambda a: int(a[-1]), shared) == [7_999_999] * 2
                print("right")
        """
    script = "mount -t tmpfs -o size=64k none /dev/shm && exec " + sys.executable + ' -c "$0"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, textwrap.dedent(program)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "right\n", done.stderr


@pytest.mark.parametrize("turned_off", ["DIRECTVIEW_SHARED_MEMORY", "DIRECTVIEW_ATTACH"])
def test_without_shared_memory_everything_works_the_same(own_folders: object, turned_off: str) -> None:
    program = """
        import os
        import numpy as np
        from directview import Cluster
        from directview.wire.arena import arena
        if __name__ == "__main__":
            with Cluster(n=2) as rc:
                whole = np.arange(3_000_000)
                rc[:].scatter("part", whole, block=True)
                assert np.array_equal(rc[:].gather("part", block=True), whole)
                rc[:].push(dict(all=whole), block=True)
                assert rc[:].apply_sync(lambda: int(all[-1])) == [len(whole) - 1] * 2
                shared = rc.share(whole)
                assert rc[:].apply_sync(lambda a: int(a[-1]), shared) == [2_999_999] * 2
                if "DIRECTVIEW_SHARED_MEMORY" in os.environ:
                    assert shared.nbytes == 0 and arena().used_bytes == 0
                else:
                    assert shared.nbytes > whole.nbytes and arena().used_bytes > 0
                    assert arena()._windows._count == 0
                print("right")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, turned_off: "0"},
    )  # fmt: skip
    assert done.stdout == "right\n", done.stderr


# --- rc.share ---------------------------------------------------------------------------------------------


def test_a_shared_object_is_the_object_read_only_and_not_sent_again(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        view = rc[:]
        array = pattern(20 << 20)
        shared = rc.share({"array": array, "name": "table"})
        assert shared.nbytes == 0, "nothing happens before it is used"
        assert "not sent yet" in repr(shared)

        def look(table: Any) -> tuple[str, int, bool, int]:
            a = table["array"]
            return table["name"], int(a.sum()), a.flags.writeable, a.__array_interface__["data"][0]

        first = view.apply_sync(look, shared)
        assert [row[:3] for row in first] == [("table", int(array.sum()), False)] * len(rc)
        assert shared.nbytes > array.nbytes
        assert view.apply_sync(look, shared) == first, "mapped at the same place: not sent again"
        assert view.apply_sync(lambda both: both[0][1]["name"], [(0, shared)]) == ["table"] * len(rc)
        assert rc.load_balanced_view().apply_sync(lambda table: table["name"], shared) == "table"


def test_memory_of_shared_objects_is_used_again_when_engines_have_let_go(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        view = rc[:]
        for n in range(8):
            view.push({"table": rc.share(np.full(2_000_000, n))}, block=True)
            gc.collect()
        assert view.apply_sync(lambda: (int(table.min()), int(table.max()))) == [(7, 7)] * len(rc)  # type: ignore[name-defined]
        assert arena().sheets.nbytes + arena().sheets.lasting * 16_000_000 < 60_000_000
        view.execute("del table", block=True)
        ones = rc.share(np.full(2_000_000, 1))
        assert view.apply_sync(lambda a: int(a[0]), ones) == [1] * len(rc)
    assert arena().sheets.lasting == 1
    idle = arena().sheets.nbytes
    del ones
    assert arena().sheets.lasting == 0
    assert arena().sheets.nbytes <= idle, "its client would have let go of it later, and is closed"


def test_what_is_built_on_a_shared_object_outlives_it(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        array = pattern(8 << 20)
        rc[:].push({"kept": rc.share(array)}, block=True)
        gc.collect()
        until(lambda: not arena().sheets.lasting)
        assert rc[:].apply_sync(lambda: int(kept.sum())) == [int(array.sum())] * len(rc)  # type: ignore[name-defined]
        rc[:].execute("del kept", block=True)


def test_a_shared_object_lives_as_long_as_a_call_that_waits(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        busy = rc[0].apply_async(time.sleep, 0.5)
        waiting = rc[0].apply_async(lambda a: int(a[-1]), rc.share(pattern(8 << 20)))
        gc.collect()
        assert waiting.get(30) == (8 << 20) // 8 - 1
        busy.get(30)
        del waiting
        until(lambda: not arena().sheets.lasting)


def test_engines_elsewhere_are_sent_a_shared_object_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_is_near", lambda info: False)
    with cluster.connect_client_sync() as rc:
        shared = rc.share(pattern(8 << 20))
        for _ in range(3):
            assert rc[:].apply_sync(lambda a: (int(a[-1]), a.flags.writeable), shared) == [
                ((8 << 20) // 8 - 1, False)
            ] * len(rc)
        held = "__import__('directview.wire.segments').wire.segments._held"
        assert rc[:].pull(f"len({held})", block=True) == [1] * len(rc)
        del shared
        gc.collect()
        until(lambda: rc[:].pull(f"len({held})", block=True) == [0] * len(rc))


def test_a_shared_object_that_cannot_travel_says_which_part(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc, pytest.raises(Exception, match=r"the shared object.*lock"):
        rc[0].apply_sync(len, rc.share([threading.Lock()]))


def in_partial(shared: Any) -> Any:
    return functools.partial(lambda table, n: int(table[n]), shared)


def in_default(shared: Any) -> Any:
    return lambda n, table=shared: int(table[n])


def in_closure(shared: Any) -> Any:
    return lambda n: int(shared[n])


def in_prepickled(shared: Any) -> Any:
    return functools.partial(lambda table, n: int(table[0][n]), PrePickled([shared]))


def in_another(shared: Any) -> Any:
    return functools.partial(lambda table, n: int(table[0][n]), shared._client.share([shared]))


@pytest.mark.parametrize("where", [in_partial, in_default, in_closure, in_prepickled, in_another])
def test_each_call_of_a_map_holds_what_its_function_shares(
    cluster: Cluster, where: Callable[[Any], Any]
) -> None:
    """Though the function is pickled once for all of them, and the first call has long ended."""
    with cluster.connect_client_sync() as rc:
        late = rc[1].apply_async(time.sleep, 0.3)
        function = where(rc.share(pattern(8 << 20)))
        mapped = rc[:].map_async(function, range(2))
        dealt = iter(rc[:].imap(function, range(2), ordered=False))
        del function
        until(lambda: mapped.progress == 1)
        gc.collect()
        assert mapped.get(30) == [0, 1]
        assert sorted(dealt) == [0, 1]
        late.get(30)
        del mapped, dealt
        gc.collect()
        until(lambda: not arena().sheets.lasting)


def test_each_task_holds_what_its_function_shares(cluster: Cluster) -> None:
    with cluster.connect_client_sync() as rc:
        shared = rc.share(pattern(8 << 20))
        view = rc.load_balanced_view()
        _, parcels, _ = view._chunked(in_partial(shared), [range(4)], 1, False)
        assert [parcel.keeps for parcel in parcels] == [(shared._put,)] * 4
        assert view.map_sync(in_default(shared), range(4)) == [0, 1, 2, 3]
