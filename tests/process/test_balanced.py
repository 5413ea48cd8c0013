"""Load-balanced views, with real engines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import (
    AsyncResult,
    Client,
    Cluster,
    CompositeError,
    ControllerLost,
    Dependency,
    EngineError,
    ImpossibleDependency,
    LoadBalancedView,
    NoEnginesRegistered,
    RemoteError,
    TaskAborted,
    TaskTimeout,
    depend,
    errors,
    require,
)
from directview.supervisor.control import SupervisorFile, request
from directview.testing.polling import until
from tests.process.held import hold

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 30.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Four engines for the module."""
    with Cluster(n=4) as client:
        client[:].execute_sync("import os, time")
        yield client


@pytest.fixture
def v(rc: Client) -> Iterator[LoadBalancedView]:
    """A view; whatever a test leaves behind is over when the next one begins."""
    view = rc.load_balanced_view()
    yield view
    rc.abort(block=True)


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


# --- calls ----------------------------------------------------------------------------------------------


def test_a_call_runs_once_somewhere_and_says_where(rc: Client, v: LoadBalancedView) -> None:
    result = v.apply_async(nap, 0.05)
    assert type(result) is AsyncResult
    pid = result.get(DEADLINE)
    assert rc[result.engine_id].apply_sync(os.getpid) == pid
    assert result.metadata["engine_uuid"] == result.engine_uuid != ""
    assert result.metadata["status"] == "ok"
    assert result.targets == [result.engine_id]
    assert v.apply_sync(pow, 2, 5) == 32
    view = v.options(block=True)
    assert view.apply(pow, 2, exp=3) == 8


def test_while_it_runs_its_engine_is_known_and_what_it_prints(v: LoadBalancedView) -> None:
    def talk() -> None:
        print("here I am", flush=True)
        time.sleep(30)

    result = v.apply_async(talk)
    until(lambda: "here I am" in result.stdout)
    assert result.engine_id in range(4)
    assert not result.done()
    result.abort(DEADLINE)


def test_many_tiny_tasks(v: LoadBalancedView) -> None:
    n = 10_000
    result = v.map_async(abs, range(-n, 0))
    assert result.get(60) == list(range(n, 0, -1))
    assert len(result) == n
    assert set(result.engine_id) == {0, 1, 2, 3}
    assert result.progress == n


def test_uneven_tasks_are_balanced(v: LoadBalancedView, tmp_path: Path) -> None:
    """While one engine is at a long task the others do everything else."""
    long = v.apply_async(hold, str(tmp_path / "enough"))
    others = v.map_async(nap, [0.01] * 40)
    others.get(DEADLINE)
    assert long.engine_id not in others.engine_id
    (tmp_path / "enough").touch()
    long.get(DEADLINE)


def test_engines_that_others_keep_busy_get_fewer(rc: Client, v: LoadBalancedView, tmp_path: Path) -> None:
    busy = rc[0].apply_async(hold, str(tmp_path / "enough"))
    result = v.map_async(nap, [0.01] * 40)
    until(lambda: result.progress == 39)
    (tmp_path / "enough").touch()
    result.get(DEADLINE)
    assert result.engine_id.count(0) == 1
    busy.get(DEADLINE)


def test_maps_in_chunks_of_all_kinds_of_sequences(v: LoadBalancedView) -> None:
    assert v.map_sync(lambda x: x + 1, range(10), chunksize=3) == list(range(1, 11))
    assert v.map_async(pow, range(10), [2, 2, 2], chunksize=2).get(DEADLINE) == [0, 1, 4]
    assert v.map_sync(str, (x for x in "abc")) == ["a", "b", "c"]
    assert v.map_sync(float, np.arange(5.0), chunksize=2) == [0.0, 1.0, 2.0, 3.0, 4.0]
    empty = v.map_async(str, [])
    assert empty.done()
    assert empty.get() == []
    assert list(v.map_async(abs, [-1, -2])) == [1, 2]
    assert len(v.map_async(abs, range(10), chunksize=4).msg_ids) == 3


def test_an_unordered_map_yields_as_items_come(v: LoadBalancedView, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcd"]
    result = v.map_async(hold, paths, range(4), ordered=False)  # one on each engine
    items = iter(result)
    for number in (3, 1, 2, 0):
        paths[number].touch()
        assert next(items) == number
    assert result.get(DEADLINE) == [0, 1, 2, 3]
    assert list(v.map_async(hold, paths, range(4))) == [0, 1, 2, 3]


def test_errors_of_items(v: LoadBalancedView) -> None:
    def inverse(x: float) -> float:
        return 1 / x

    with pytest.raises(ZeroDivisionError) as caught:
        v.apply_sync(inverse, 0)
    assert isinstance(caught.value, RemoteError)
    with pytest.raises(CompositeError, match="inverse"):
        v.map_sync(inverse, [1, 0, 2])
    for chunksize in (1, 2):
        found: list[Any] = v.map_sync(inverse, [1, 0, 2], return_exceptions=True, chunksize=chunksize)
        assert found[::2] == [1, 0.5]
        assert isinstance(found[1], ZeroDivisionError)


async def test_coroutines_run_beside_one_another(rc: Client) -> None:
    """A hundred of them, half a second each, on four engines."""

    async def wait(x: int) -> int:
        import asyncio

        running.append(x)  # type: ignore[name-defined]
        await asyncio.sleep(0.2)
        most.append(len(running))  # type: ignore[name-defined]
        running.remove(x)  # type: ignore[name-defined]
        return x

    rc[:].push_sync({"running": [], "most": []})
    view = rc.load_balanced_view()
    assert await view.map_async(wait, range(60)) == list(range(60))
    assert await view.apply_async(wait, 7) == 7
    assert max(rc[:].pull_sync("max(most)")) > 4


def test_targets(rc: Client) -> None:
    view = rc.load_balanced_view([1, 3])
    assert view.targets == [1, 3]
    assert len(view) == 2
    result = view.map_async(nap, [0.02] * 10)
    result.get(DEADLINE)
    assert set(result.engine_id) == {1, 3}
    view.targets = 2
    assert view.targets == [2]
    assert view.apply_async(nap, 0).get_dict(DEADLINE).keys() == {2}
    with view.temp_flags(targets=[0]):
        assert view.apply_async(nap, 0).get_dict(DEADLINE).keys() == {0}
    assert view.targets == [2]
    assert view.options(targets=None).targets is None
    assert repr(view) == "<LoadBalancedView [2]>"
    assert repr(rc.load_balanced_view()) == "<LoadBalancedView all>"


def test_remote_and_parallel_functions(rc: Client, v: LoadBalancedView) -> None:
    @v.remote(block=True)
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(4) == 8
    assert double.__doc__ == "Twice."

    @v.parallel(block=True, chunksize=3)
    def squares(part: Any) -> Any:
        return [x**2 for x in part]

    assert squares(list(range(10))) == [x**2 for x in range(10)]
    assert v.parallel(block=True)(lambda a, b: a * b)(np.arange(8), np.arange(8)).tolist() == [
        x * x for x in range(8)
    ]
    assert v.parallel(block=True)(abs).map([-1, -2, -3]) == [1, 2, 3]
    later = v.parallel(block=False, ordered=False)(abs).map([-1, -2])
    assert sorted(later) == [1, 2]


# --- what tasks wait for --------------------------------------------------------------------------------


def test_after(rc: Client, v: LoadBalancedView) -> None:
    first = v.apply_async(nap, 0.3)
    direct = rc[1].apply_async(nap, 0.4)
    last = v.options(after=[first, direct]).apply_async(nap, 0)
    last.get(DEADLINE)
    assert last.started >= max(first.completed, direct.completed)
    by_name = v.options(after=first.msg_ids[0]).map_async(nap, [0, 0])
    assert by_name.get(DEADLINE)


def test_after_a_whole_map_and_what_comes_after_it(v: LoadBalancedView) -> None:
    first = v.map_async(nap, [0.01] * 30)
    second = v.options(after=first).map_async(nap, [0.0] * 30)
    third = v.options(after=second).apply_async(nap, 0)
    third.get(DEADLINE)
    assert max(first.completed) <= min(second.started)
    assert max(second.completed) <= third.started


def test_follow(rc: Client, v: LoadBalancedView) -> None:
    first = v.apply_async(nap, 0)
    same = v.options(follow=first).map_async(nap, [0.01] * 5)
    assert set(same.get(DEADLINE)) == {first.get()}
    direct = rc[2].apply_async(nap, 0.1)
    assert v.options(follow=direct.msg_ids).apply_sync(nap, 0) == direct.get()
    ones = [rc[0].apply_async(nap, 0), rc[1].apply_async(nap, 0)]
    with pytest.raises(ImpossibleDependency, match="different engines"):
        v.options(follow=ones).apply_sync(nap, 0)
    either = Dependency(ones, all=False)
    assert v.options(follow=either).apply_sync(nap, 0) in {one.get() for one in ones}


def test_what_fails_is_depended_on_in_vain_unless_that_is_said(v: LoadBalancedView) -> None:
    failed = v.apply_async(int, "a")
    with pytest.raises(ImpossibleDependency, match=r"nap was not run: .* run after"):
        v.options(after=failed).apply_sync(nap, 0)
    assert v.options(after=Dependency(failed, success=False, failure=True)).apply_sync(nap, 0)
    with pytest.raises(ValueError, match="int"):
        failed.get()


def test_what_is_no_dependency(rc: Client, v: LoadBalancedView) -> None:
    with pytest.raises(errors.InvalidDependency, match="not a msg_id"):
        v.options(after="12345").apply_sync(nap, 0)
    with pytest.raises(errors.InvalidDependency, match="there was no call"):
        v.options(after=f"{rc.client_uuid}_{10**9}_-1").apply_sync(nap, 0)
    with pytest.raises(TypeError, match="after: a dependency is an AsyncResult or a msg_id, not 3"):
        v.options(after=3)
    with pytest.raises(ValueError, match="success=True"):
        Dependency([], success=False)


def test_engines_where_a_condition_does_not_hold_are_passed_over(rc: Client, v: LoadBalancedView) -> None:
    rc[:].push_sync({"data": None})
    rc[2].push_sync({"data": 5})

    @depend(lambda: data is not None)  # type: ignore[name-defined]
    def use() -> int:
        return data + 1  # type: ignore[name-defined,no-any-return]

    result = v.apply_async(use)
    assert result.get(DEADLINE) == 6
    assert result.engine_id == 2
    picky = depend(lambda: data is not None)(abs)  # type: ignore[name-defined]
    assert v.map_sync(picky, [-1, -2], return_exceptions=True) == [1, 2]
    with pytest.raises(
        ImpossibleDependency, match=r"refused it \(nap was not run: it requires 'no_such_module'"
    ):
        v.apply_sync(require("no_such_module")(nap), 0)
    with pytest.raises(ImpossibleDependency):
        v.options(targets=[0, 1], retries=3).apply_sync(use)


def test_timeout_is_for_waiting_and_not_for_running(rc: Client, v: LoadBalancedView) -> None:
    assert v.options(timeout=0.05).apply_sync(nap, 0.2)
    busy = v.map_async(nap, [30.0] * 4)
    with pytest.raises(TaskTimeout, match=r"nap was not started: no engine had room for it within 0.05 s"):
        v.options(timeout=0.05).apply_sync(nap, 0)
    with pytest.raises(TaskTimeout, match="depends"):
        v.options(timeout=0.05, after=busy).apply_sync(nap, 0)
    busy.abort(DEADLINE)


def test_time_limit_is_for_both(v: LoadBalancedView) -> None:
    with pytest.raises(TaskTimeout, match="time limit"):
        v.options(time_limit=0.2).apply_sync(nap, 30)
    assert v.options(time_limit=20).apply_sync(nap, 0)


# --- calls by name, and their end -----------------------------------------------------------------------


def test_names_history_and_outstanding(rc: Client, v: LoadBalancedView, tmp_path: Path) -> None:
    before = len(rc.history)
    result = v.map_async(hold, [tmp_path / "go on"] * 6, range(6))
    assert rc.history[before:] == result.msg_ids == v.history
    assert set(result.msg_ids) == v.outstanding <= rc.outstanding
    assert rc.get_result(result.msg_ids) is result
    (tmp_path / "go on").touch()
    assert v.wait(timeout=DEADLINE)
    assert v.outstanding == set()
    again = rc.get_result(result.msg_ids[5])
    assert again.get(DEADLINE) == [result.get()[5]]
    assert again.engine_id == result.engine_id[5]
    assert v.get_result(-1).get(DEADLINE) == result.get()
    assert rc.wait(result.msg_ids[0], DEADLINE)


def test_queue_status_counts_what_no_engine_has(rc: Client, v: LoadBalancedView) -> None:
    result = v.map_async(nap, [30] * 10)
    until(lambda: rc.queue_status()["unassigned"] == 6)
    result.abort(DEADLINE)
    assert rc.queue_status()["unassigned"] == 0


def test_what_is_cancelled_while_it_waits_never_starts(rc: Client, v: LoadBalancedView) -> None:
    rc[:].push_sync({"ran": []})
    busy = v.map_async(nap, [30.0] * 4)
    waiting = v.apply_async(lambda: ran.append(1))  # type: ignore[name-defined]
    assert waiting.cancel()
    with pytest.raises(TaskAborted):
        waiting.get(DEADLINE)
    waiting.abort(DEADLINE)
    assert waiting.engine_id is None
    busy.abort(DEADLINE)
    assert rc[:].pull_sync("ran") == [[], [], [], []]


def test_what_is_cancelled_while_it_runs_ends_on_its_engine(rc: Client, v: LoadBalancedView) -> None:
    result = v.options(retries=5).apply_async(nap, 60)
    until(lambda: result.engine_id is not None)
    rc.abort(result.msg_ids, block=True)
    with pytest.raises(TaskAborted):
        result.get(DEADLINE)
    assert len(v.map_sync(nap, [0.02] * 8)) == 8


def test_abort_of_a_view_ends_its_own_calls_only(rc: Client, v: LoadBalancedView) -> None:
    other = rc.load_balanced_view()
    mine, theirs = v.map_async(nap, [60] * 4), other.apply_async(nap, 0)
    v.abort(block=True)
    assert mine.cancelled()
    assert theirs.get(DEADLINE)


async def test_in_an_event_loop(rc: Client) -> None:
    async with Client(rc._info) as bound:
        view = bound.load_balanced_view()
        assert await view.apply_async(pow, 2, 3) == 8
        assert await view.map_async(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
        assert [x async for x in view.map_async(abs, [-1, -2], ordered=False)] in ([1, 2], [2, 1])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await view.apply_async(nap, 60)
        async with asyncio.timeout(DEADLINE):
            assert len(await asyncio.gather(*[view.apply_async(nap, 0.01) for _ in range(20)])) == 20
        with pytest.raises(errors.WouldBlockLoop):
            view.map_sync(abs, [1])
        left = [view.apply_async(nap, 60) for _ in range(10)]
    with pytest.raises(errors.ClientClosed):
        await left[0]
    with pytest.raises(errors.ClientClosed):
        await left[9]


def test_bad_flags(rc: Client, v: LoadBalancedView) -> None:
    assert rc.load_balanced_view(scheme="twobin").apply_sync(abs, -1) == 1
    with pytest.raises(ValueError, match="scheme: expected one of leastload"):
        rc.load_balanced_view(scheme="fastest")
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (TypeError, {"retries": 1.5}),
        (ValueError, {"retries": -1}),
        (TypeError, {"timeout": "1"}),
        (ValueError, {"timeout": -1}),
        (TypeError, {"targets": "some"}),
        (IndexError, {"targets": [17]}),
        (TypeError, {"colour": 1}),
    ]
    for error, flags in wrong:
        with pytest.raises(error, match=next(iter(flags)) if "targets" not in flags else "engine"):
            v.set_flags(**flags)
    with pytest.raises(ValueError, match="chunksize"):
        v.map(abs, [1], chunksize=0)
    with pytest.raises(TypeError, match="at least one sequence"):
        v.map(abs)


# --- a program for ipyparallel ---------------------------------------------------------------------------


def test_a_program_for_ipyparallel_runs_with_another_import(own_folders: Path) -> None:
    """It uses its public interface only, and runs with ipyparallel itself."""
    program = Path(__file__).parent / "programs" / "balanced_sums.py"
    command = [sys.executable, str(program), "directview"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (ran.stdout, ran.returncode) == ("balanced\n", 0), ran.stderr


# --- engines that die -----------------------------------------------------------------------------------


@pytest.fixture
def mortal(own_folders: Path) -> Iterator[Client]:
    """Four engines that a test may kill."""
    with Cluster(n=4) as client:
        yield client


def test_an_engine_that_is_killed_under_load_loses_nothing_with_retries(mortal: Client) -> None:
    view = mortal.load_balanced_view(retries=3)
    result = view.map_async(nap, [0.01] * 300)
    names = result.msg_ids
    until(lambda: result.progress > 40)
    os.kill(mortal[1].apply_async(os.getpid).get(DEADLINE), signal.SIGKILL)
    pids = result.get(DEADLINE)
    assert len(pids) == 300
    assert result.msg_ids == names
    until(lambda: mortal.ids == [0, 2, 3])
    assert view.apply_sync(abs, -1) == 1


def test_without_retries_a_call_on_an_engine_that_dies_ends_in_its_error(mortal: Client) -> None:
    view = mortal.load_balanced_view()

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(EngineError, match="SIGKILL while running die") as caught:
        view.apply_sync(die)
    assert caught.value.engine_id not in mortal.ids
    # What had not begun there goes elsewhere.
    assert view.map_sync(abs, range(-20, 0)) == list(range(20, 0, -1))


def test_a_function_that_kills_engines_is_blamed(mortal: Client) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    view = mortal.load_balanced_view(retries=10)
    with pytest.raises(EngineError, match=r"3 engines have died while they had this call of die"):
        view.apply_sync(die)
    assert len(mortal.ids) == 1
    with pytest.raises(EngineError):
        view.apply_sync(die)  # there is no engine left to try it on
    with pytest.raises(NoEnginesRegistered):
        view.apply_sync(abs, -1)


def test_what_is_to_follow_a_dead_engine_does_not_wait(mortal: Client) -> None:
    view = mortal.load_balanced_view()
    first = view.apply_async(os.getpid)
    pid = first.get(DEADLINE)
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(mortal.ids) == 3)
    with pytest.raises(ImpossibleDependency, match="gone"):
        view.options(follow=first).apply_sync(abs, -1)


def test_a_view_whose_engines_have_all_died_says_so(mortal: Client) -> None:
    view = mortal.load_balanced_view([1])
    os.kill(view.apply_sync(os.getpid), signal.SIGKILL)
    until(lambda: len(mortal.ids) == 3)
    with pytest.raises(NoEnginesRegistered, match="of this view is left"):
        view.apply_sync(abs, -1)


def test_when_the_controller_dies_everything_ends(own_folders: Path) -> None:
    with Cluster(n=2) as rc:
        assert rc.cluster is not None
        view = rc.load_balanced_view(retries=3)
        running = view.map_async(nap, [60.0] * 10)
        waiting = view.options(after=running).apply_async(nap, 0)
        until(lambda: len(running.targets) == 2)
        file = SupervisorFile.read(Path(rc.cluster.connection_file).parent)
        assert file is not None
        os.kill(asyncio.run(request(file.control, "status"))["controller"], signal.SIGKILL)
        for error in (waiting.exception(DEADLINE), running.exception(DEADLINE)):
            for each in error.exceptions if isinstance(error, CompositeError) else [error]:
                assert isinstance(each, ControllerLost | EngineError | ImpossibleDependency), repr(each)
        assert rc.outstanding == set()
        with pytest.raises(ControllerLost):
            view.apply_async(nap, 0)


def test_an_engine_that_joins_takes_part(mortal: Client, tmp_path: Path) -> None:
    view = mortal.load_balanced_view()
    result = view.map_async(hold, [tmp_path / "go on"] * 30)
    assert mortal.cluster is not None
    mortal.cluster.start_engines_sync(1)
    until(lambda: 4 in set(result.engine_id))
    (tmp_path / "go on").touch()
    result.get(DEADLINE)


async def test_tasks_that_would_be_tried_again_end_with_the_controller(own_folders: Path) -> None:
    """There is no engine to try them on, and nothing happens any more that could end them later."""
    async with Cluster(n=1) as rc:
        core = rc._binding.core()
        view = rc.load_balanced_view(retries=2)
        results = [view.apply_async(nap, 60) for _ in range(3)]
        while not core._state.calls:  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(0.01)
        core._session.close()
        core._gone("nobody answers")
        for result in results:
            with pytest.raises(ControllerLost):
                await asyncio.wait_for(result, DEADLINE)
