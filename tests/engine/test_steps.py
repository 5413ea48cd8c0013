"""Each step of a call runs as that call: its names, its id, its output; and between the steps nobody's."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import FunctionType
from typing import Any

import pytest

from directview.engine._interrupt import CallCancelled
from directview.engine._mould import make_function
from directview.engine._namespace import PLAIN, Namespace, Overlay
from directview.engine._overlay import Layouts
from directview.engine._steps import Driven, DrivenGenerator, Steps, result_of, run_hidden
from directview.wire import objects


class Log:
    """Enter and leave of a driver, written down."""

    def __init__(self) -> None:
        self.inside = 0
        self.steps = 0

    def enter(self) -> None:
        assert self.inside == 0
        self.inside = 1
        self.steps += 1

    def leave(self) -> None:
        assert self.inside == 1
        self.inside = 0

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Driven:
        return Driven(coroutine, self.enter, self.leave)


@pytest.fixture
def log() -> Log:
    return Log()


# --- Driven -----------------------------------------------------------------------------------------------


async def three_steps(log: Log) -> str:
    for _ in range(2):
        assert log.inside == 1
        await asyncio.sleep(0)
    assert log.inside == 1
    return "done"


async def test_enter_and_leave_surround_every_step(log: Log) -> None:
    assert await asyncio.create_task(log.drive(three_steps(log))) == "done"
    assert (log.steps, log.inside) == (3, 0)


async def test_a_driven_coroutine_can_be_awaited_directly(log: Log) -> None:
    assert await log.drive(three_steps(log)) == "done"
    assert log.steps == 3


async def test_what_it_raises_comes_out_and_leave_is_called(log: Log) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        await asyncio.create_task(log.drive(fails()))
    assert (log.steps, log.inside) == (2, 0)


async def test_a_step_that_cannot_be_entered_is_not_taken(log: Log) -> None:
    def refuse() -> None:
        raise RuntimeError("no entry")

    coroutine = three_steps(log)
    driven = Driven(coroutine, refuse, log.leave)
    with pytest.raises(RuntimeError, match="no entry"):
        driven.send(None)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
    coroutine.close()


async def test_cancelling_goes_through_and_cleaning_up_is_surrounded_too(log: Log) -> None:
    cleaned: list[int] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(log.inside)
            await asyncio.sleep(0)
            cleaned.append(log.inside)

    task: asyncio.Task[Any] = asyncio.create_task(log.drive(waits()))
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert cleaned == [1, 1]
    assert log.inside == 0


async def test_timeouts_and_task_groups_work_inside_and_outside(log: Log) -> None:
    async def times_out() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            assert log.inside == 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, i)) for i in range(3)]
        assert log.inside == 1
        return f"{[task.result() for task in tasks]}"

    assert await asyncio.create_task(log.drive(times_out())) == "[0, 1, 2]"
    other = Log()

    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await other.drive(forever())
    assert other.inside == 0


async def test_closing_is_a_step(log: Log) -> None:
    closed: list[int] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(log.inside)

    driven = log.drive(waits())
    driven.send(None)
    driven.close()
    assert closed == [1]
    assert log.inside == 0
    driven.close()  # as often as one likes


async def test_a_task_shows_the_users_coroutine(log: Log) -> None:
    task: asyncio.Task[Any] = asyncio.create_task(log.drive(three_steps(log)))
    assert "three_steps" in repr(task)
    (frame,) = task.get_stack()
    assert frame.f_code.co_name == "three_steps"
    await task


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_an_eager_task_takes_its_first_step_at_once(log: Log) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    task: asyncio.Task[Any] = asyncio.create_task(log.drive(three_steps(log)))
    assert log.steps == 1
    assert await task == "done"


def test_a_driven_generator_is_a_generator(log: Log) -> None:
    def doubles() -> Generator[int, int, str]:
        value = 0
        while value < 10:
            assert log.inside == 1
            try:
                value = yield 2 * value
            except KeyError:
                value = 7
        return "end"

    driven = DrivenGenerator(doubles(), log.enter, log.leave)
    assert next(driven) == 0
    assert driven.send(4) == 8
    assert driven.throw(KeyError) == 14
    with pytest.raises(StopIteration) as stopped:
        driven.send(10)
    assert stopped.value.value == "end"
    assert log.inside == 0


# --- a hidden loop ----------------------------------------------------------------------------------------


def runs_its_own_loop() -> int:
    async def main() -> int:
        task = asyncio.current_task()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            seven = group.create_task(asyncio.sleep(0, 7))
        assert asyncio.current_task() is task
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return seven.result()
        raise AssertionError("no timeout")

    return asyncio.run(main())


def drives_a_loop_by_hand() -> int:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.sleep(0, 8))
    finally:
        loop.close()


@pytest.mark.parametrize(("function", "value"), [(runs_its_own_loop, 7), (drives_a_loop_by_hand, 8)])
async def test_a_plain_function_can_run_a_loop_of_its_own(function: Callable[[], int], value: int) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert run_hidden(function) == value
    assert asyncio.get_running_loop() is loop
    assert asyncio.current_task() is task
    from_callback: asyncio.Future[int] = loop.create_future()
    loop.call_soon(lambda: from_callback.set_result(run_hidden(function)))
    assert await from_callback == value
    async with asyncio.timeout(10):
        await asyncio.sleep(0)


async def test_neither_loop_nor_task_can_be_seen_and_both_come_back_after_an_error() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def fails(*, word: str) -> None:
        assert asyncio.current_task(loop) is None
        asyncio.get_running_loop()

    with pytest.raises(RuntimeError, match="no running event loop"):
        run_hidden(fails, word="x")
    assert asyncio.get_running_loop() is loop
    assert asyncio.current_task() is task


def test_without_a_loop_there_is_nothing_to_hide() -> None:
    assert run_hidden(lambda x, y: x + y, 1, y=2) == 3


# --- Steps ------------------------------------------------------------------------------------------------


class Engine:
    """Steps on a namespace, and functions with overlays as a client's would have them."""

    def __init__(self) -> None:
        self.namespace = Namespace()
        self.namespace.names["shared"] = "the engine's"
        self.steps = Steps(self.namespace)
        self._layouts = Layouts()

    def overlay(self, **names: Any) -> Overlay:
        names |= {"asyncio": asyncio, "runs_its_own_loop": runs_its_own_loop}  # the tests' own globals
        return Overlay(names, self._layouts.make(names), {})

    def function(self, function: Any, overlay: Overlay) -> Any:
        made = make_function(
            self.namespace.names, overlay.builtins, function.__code__, None, function.__closure__
        )
        assert type(made) is FunctionType
        return made

    @property
    def at_rest(self) -> bool:
        return self.steps.current is None and self.namespace.names["__builtins__"] is builtins


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_a_plain_function_runs_as_its_call(engine: Engine) -> None:
    overlay = engine.overlay(mine="the client's")

    def look(word: str, *, other: str) -> Any:
        return engine.steps.current, engine.steps.owner(), (lambda: (shared, mine))(), word + other  # type: ignore[name-defined]

    f = engine.function(look, overlay)
    expected = (("c", 1), ("c", 1), ("the engine's", "the client's"), "ab")
    assert engine.steps.run(("c", 1), overlay, f, ("a",), {"other": "b"}) == expected
    assert engine.at_rest
    assert engine.steps.owner() is None


def test_everything_is_put_back_when_it_raises(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError):
        engine.steps.run(1, engine.overlay(mine=1), lambda: 1 / 0)
    assert engine.at_rest
    assert engine.steps.owner() is None


def test_a_call_that_was_cancelled_before_it_began_does_not_begin(engine: Engine) -> None:
    engine.steps.cancelled[("c", 1)] = None
    began: list[int] = []
    with pytest.raises(CallCancelled) as caught:
        engine.steps.run(("c", 1), PLAIN, began.append, (1,))
    assert caught.value.args == (("c", 1),)
    assert began == []
    assert engine.steps.cancelled == {}
    assert engine.at_rest


def test_the_running_loop_is_hidden_from_plain_functions_only(engine: Engine) -> None:
    async def coroutine() -> bool:
        return asyncio.get_running_loop() is not None

    async def main() -> tuple[int, bool]:
        seven = engine.steps.run(1, PLAIN, runs_its_own_loop)
        return seven, await engine.steps.drive(2, PLAIN, coroutine())

    assert asyncio.run(main()) == (7, True)


async def test_interleaved_calls_keep_their_own_names_and_ids(engine: Engine) -> None:
    async def looks(times: int) -> list[Any]:
        seen = []
        for _ in range(times):
            seen.append((engine.steps.current, engine.steps.owner(), (lambda: mine)()))  # type: ignore[name-defined]
            await asyncio.sleep(0)
        return seen

    tasks: list[asyncio.Task[Any]] = []
    for call in range(20):
        overlay = engine.overlay(mine=call)
        coroutine = engine.function(looks, overlay)(5)
        tasks.append(asyncio.create_task(engine.steps.drive(call, overlay, coroutine)))
    await asyncio.sleep(0)
    assert engine.at_rest
    for call, task in enumerate(tasks):
        assert await task == [(call, call, call)] * 5
    assert engine.at_rest
    assert engine.steps.owner() is None


async def test_the_tasks_of_a_call_run_as_the_call(engine: Engine) -> None:
    engine.steps.install_task_factory(asyncio.get_running_loop())
    overlay = engine.overlay(mine="the client's")

    async def child() -> Any:
        await asyncio.sleep(0)
        return engine.steps.current, (lambda: mine)()  # type: ignore[name-defined]

    async def parent() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(), name="child") for _ in range(3)]
        grandchild = asyncio.ensure_future(asyncio.wait_for(child(), 10))
        return [await task for task in [*tasks, grandchild]]

    child = engine.function(child, overlay)
    found: Any = await asyncio.create_task(engine.steps.drive(9, overlay, parent()))
    assert found == [(9, "the client's")] * 4

    async def not_a_call() -> Any:
        return engine.steps.current

    assert await asyncio.create_task(not_a_call()) is None


async def test_a_task_factory_that_is_there_goes_on_making_the_tasks(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    made: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    engine.steps.install_task_factory(loop)

    async def child() -> object:
        return engine.steps.current

    async def parent() -> object:
        return await asyncio.create_task(child(), name="mine")

    assert await asyncio.create_task(engine.steps.drive(4, PLAIN, parent())) == 4
    assert [isinstance(coroutine, Driven) for coroutine in made] == [True, True]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_the_first_step_of_an_eager_task_lies_inside_its_makers(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    engine.steps.install_task_factory(loop)
    overlay = engine.overlay(mine="outer")
    seen: list[object] = []

    async def child() -> None:
        seen.append(engine.steps.current)
        await asyncio.sleep(0)
        seen.append(engine.steps.current)

    async def parent() -> Any:
        task: asyncio.Task[Any] = asyncio.create_task(child())
        seen.append(engine.steps.current)
        await task
        return (lambda: mine)()  # type: ignore[name-defined]

    parent = engine.function(parent, overlay)
    assert await asyncio.create_task(engine.steps.drive(3, overlay, parent())) == "outer"
    assert seen == [3, 3, 3]
    assert engine.at_rest


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_nothing_that_a_coroutine_raises_ends_the_loop(
    kind: type[BaseException], engine: Engine
) -> None:
    engine.steps.install_task_factory(asyncio.get_running_loop())

    async def leaves() -> None:
        await asyncio.sleep(0)
        raise kind(3)

    async def parent() -> None:
        await asyncio.create_task(leaves())

    for coroutine in (leaves(), parent()):
        task: asyncio.Task[Any] = asyncio.create_task(engine.steps.drive(1, PLAIN, coroutine))
        await asyncio.wait([task])
        with pytest.raises(kind) as caught:
            result_of(task)
        assert caught.value.args == (3,)


async def test_an_interrupted_coroutine_ends_as_a_cancelled_task(engine: Engine) -> None:
    async def interrupted() -> None:
        await asyncio.sleep(0)
        raise CallCancelled(1)  # as the handler would, in the middle of this step

    task: asyncio.Task[Any] = asyncio.create_task(engine.steps.drive(1, PLAIN, interrupted()))
    await asyncio.wait([task])
    assert task.cancelled()
    assert task.cancelling() == 1
    with pytest.raises(asyncio.CancelledError):
        result_of(task)


def fails_in_cleaning_up() -> None:
    try:
        raise CallCancelled(1)
    finally:
        raise RuntimeError("so asyncio.run says when it is hit in closing its loop")


async def test_what_fails_because_it_was_interrupted_counts_as_interrupted(engine: Engine) -> None:
    with pytest.raises(CallCancelled) as caught:
        engine.steps.run(1, PLAIN, fails_in_cleaning_up)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError):  # the interrupt of another call is no excuse
        engine.steps.run(2, PLAIN, fails_in_cleaning_up)

    async def fails() -> None:
        fails_in_cleaning_up()

    task: asyncio.Task[Any] = asyncio.create_task(engine.steps.drive(1, PLAIN, fails()))
    await asyncio.wait([task])
    assert task.cancelled()
    other: asyncio.Task[Any] = asyncio.create_task(engine.steps.drive(2, PLAIN, fails()))
    await asyncio.wait([other])
    with pytest.raises(RuntimeError):
        result_of(other)


async def test_a_result_comes_through(engine: Engine) -> None:
    task: asyncio.Task[Any] = asyncio.create_task(engine.steps.drive(1, PLAIN, asyncio.sleep(0, "value")))
    await asyncio.wait([task])
    assert result_of(task) == "value"


async def test_what_a_thread_prints_is_its_calls(engine: Engine) -> None:
    owners: list[object] = []

    def in_thread() -> None:
        thread = threading.Thread(target=lambda: owners.append(engine.steps.owner()))
        thread.start()
        thread.join()

    engine.steps.run("plain", PLAIN, in_thread)

    async def inherits() -> None:
        await asyncio.to_thread(lambda: owners.append(engine.steps.owner()))

    await engine.steps.drive("coroutine", PLAIN, inherits())
    assert owners == ["plain", "coroutine"]


def test_a_plain_function_inside_a_step_gives_the_step_back(engine: Engine) -> None:
    def outer() -> list[object]:
        seen = [engine.steps.current]
        seen.append(engine.steps.run("inner", PLAIN, lambda: engine.steps.current))
        seen.append(engine.steps.current)
        return seen

    assert engine.steps.run("outer", PLAIN, outer) == ["outer", "inner", "outer"]


def test_a_generators_items_are_plain_steps(engine: Engine) -> None:
    overlay = engine.overlay(mine="the client's")

    def items() -> Generator[Any, None, None]:
        for _ in range(2):
            yield engine.steps.current, (lambda: mine)()  # type: ignore[name-defined]
        yield runs_its_own_loop()

    async def main() -> list[Any]:
        generator = engine.steps.run(5, overlay, engine.function(items, overlay))
        found = []
        for item in engine.steps.drive_generator(5, overlay, generator):
            assert engine.at_rest
            found.append(item)
        return found

    assert asyncio.run(main()) == [(5, "the client's"), (5, "the client's"), 7]


async def test_an_async_generators_steps_are_the_calls(engine: Engine) -> None:
    overlay = engine.overlay(mine="the client's")
    closed: list[object] = []

    async def items() -> AsyncGenerator[Any, Any]:
        try:
            while True:
                await asyncio.sleep(0)
                sent = yield engine.steps.current, (lambda: mine)()  # type: ignore[name-defined]
                if sent is not None:
                    yield sent
        except KeyError:
            yield "thrown"
        finally:
            await asyncio.sleep(0)
            closed.append(engine.steps.current)

    driven = engine.steps.drive_async_generator(6, overlay, engine.function(items, overlay)())
    assert await anext(driven) == (6, "the client's")
    assert engine.at_rest
    assert await driven.asend("sent") == "sent"
    assert await driven.athrow(KeyError()) == "thrown"
    await driven.aclose()
    assert closed == [6]


# --- from the bytes ---------------------------------------------------------------------------------------


def test_a_call_is_loaded_and_run_in_one_go(engine: Engine) -> None:
    function = objects.dumps(max)
    arguments = objects.dump_arguments((1, 5), {"key": abs})
    assert engine.steps.run_loaded(1, engine.namespace, function, arguments) == (5, PLAIN)
    assert engine.at_rest


def test_names_that_came_with_function_and_arguments_are_there(engine: Engine) -> None:
    """Functions of ``__main__``, as far as the pickler can tell."""
    client: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "def helper(x): return x + 1\n"
        "def other(x): return -x\n"
        "def applies(f, x): return [helper(y) for y in f(x)], list(helper(y) for y in (1,))\n"
        "def negates(x): return list(other(y) for y in x)\n",
        client,
    )
    function = objects.dump_function(client["applies"])
    arguments = objects.dump_arguments((client["negates"], [1, 2]), {})
    for _ in range(2):
        value, overlay = engine.steps.run_loaded(1, engine.namespace, function, arguments)
        assert value == ([0, -1], [2])
        assert set(overlay.names) == {"helper", "other"}
        assert engine.at_rest


def test_what_cannot_be_loaded_leaves_everything_in_place(engine: Engine) -> None:
    bad = objects.Packed(b"cnosuchmodule_anywhere\nf\n.", [])
    with pytest.raises(ModuleNotFoundError):
        engine.steps.run_loaded(1, engine.namespace, bad, objects.dump_arguments((), {}))
    assert engine.at_rest
