"""Running a call step by step, with everything that belongs to it in place around each step, and only there.

A plain function is one step. A coroutine has many, and between them other calls run: so what says "this
call is running now" (the names that came with it, the id that an interrupt is aimed at, whose output a
print is) is put in place before each `send` or `throw` and taken away after it. That costs a quarter of a
microsecond a step, and cancelling, timeouts and task groups work as if nothing were there, because the
task holds the driver and the driver passes everything on.

The two ways in, for a call that has arrived::

    value = steps.run(call, overlay, function, args, kwargs)
    if inspect.iscoroutine(value):
        task = loop.create_task(steps.drive(call, overlay, value))
    ...
    value = result_of(task)

Tasks that the user's coroutine makes belong to the same call: `Steps.install_task_factory`.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
    Sequence,
    Sized,
)
from contextvars import ContextVar, Token
from typing import Any, Final, Generic, TypeVar

from directview.engine._forked import is_child, leave
from directview.engine._interrupt import CallCancelled
from directview.engine._namespace import PLAIN, Namespace, Overlay
from directview.wire.objects import Packed

__all__ = [
    "Armed",
    "Driven",
    "DrivenAsyncGenerator",
    "DrivenGenerator",
    "Escaped",
    "Steps",
    "result_of",
    "run_hidden",
]

T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")

_owner: Final[ContextVar[object | None]] = ContextVar("directview.engine.owner", default=None)
"""The call whose output a print is. Unlike `Steps.current` it goes along into the callbacks and the threads
(of `asyncio.to_thread`) that a call starts."""


class Armed:
    """Which call's own code is running, and so may be interrupted."""

    def __init__(self) -> None:
        self.current: object | None = None
        self.cancelled: dict[object, None] = {}
        self.ending = False


class Escaped(Exception):
    """A coroutine of a call raised KeyboardInterrupt or SystemExit.

    A task that ends with one of these ends its event loop too, and that is the engine's. So the task ends
    with this instead; `error` is what was raised, and `result_of` raises it.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


def result_of(task: asyncio.Future[T]) -> T:
    """What a finished task of a driven coroutine returned.

    Raises:
        CancelledError: it was cancelled, or interrupted; then ``task.cancelling()`` is not 0.
        BaseException: whatever it raised, also KeyboardInterrupt and SystemExit.
    """
    try:
        return task.result()
    except Escaped as escaped:
        error = escaped.error
    raise error


# --- hiding the loop ------------------------------------------------------------------------------------

_swap_current_task: Final[Any] = getattr(asyncio.tasks, "_swap_current_task", None)  # since 3.12


def _hide_loop() -> tuple[Any, Any] | None:
    loop = events._get_running_loop()
    if loop is None:
        return None
    task = asyncio.current_task(loop)
    if task is not None:
        if _swap_current_task is not None:
            _swap_current_task(loop, None)
        else:
            asyncio.tasks._leave_task(loop, task)
    events._set_running_loop(None)
    return loop, task


def _show_loop(hidden: tuple[Any, Any] | None) -> None:
    if hidden is None:
        return
    loop, task = hidden
    events._set_running_loop(loop)
    if task is not None:
        if _swap_current_task is not None:
            _swap_current_task(loop, task)
        else:
            asyncio.tasks._enter_task(loop, task)


def run_hidden(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a plain function as if no event loop were running: `asyncio.run` works in it.

    Args:
        function: what to call.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    hidden = _hide_loop()
    try:
        return function(*args, **kwargs)
    finally:
        _show_loop(hidden)


# --- driving --------------------------------------------------------------------------------------------


class _Driver(Generic[Y, S]):
    """Surrounds every step of something that is sent to and thrown into.

    The order in `send`, `throw` and `close` matters. While a call is armed an interrupt may be raised
    anywhere, so it is armed only around the user's own code: `enter` and `leave` always run whole. A step
    may lie inside another (an eager task takes its first one inside of its maker's), which is disarmed
    meanwhile.
    """

    __slots__ = ("_armed", "_call", "_driven", "_enter", "_leave")

    def __init__(
        self,
        driven: Any,
        enter: Callable[[], object],
        leave: Callable[[], object],
        armed: Armed | None = None,
        call: object | None = None,
    ) -> None:
        self._driven = driven
        self._enter = enter
        self._leave = leave
        self._armed = Armed() if armed is None else armed
        self._call = call

    def send(self, value: S) -> Y:
        armed = self._armed
        outer = armed.current
        armed.current = None
        try:
            self._enter()
            try:
                armed.current = self._call
                return self._driven.send(value)  # type: ignore[no-any-return]
            finally:
                armed.current = None
                self._leave()
        except BaseException as error:
            contained = self._contain(error)
            if contained is error:
                raise
            raise contained from error
        finally:
            armed.current = outer

    def throw(self, *thrown: Any) -> Y:
        armed = self._armed
        outer = armed.current
        armed.current = None
        try:
            self._enter()
            try:
                armed.current = self._call
                return self._driven.throw(*thrown)  # type: ignore[no-any-return]
            finally:
                armed.current = None
                self._leave()
        except BaseException as error:
            contained = self._contain(error)
            if contained is error:
                raise
            raise contained from error
        finally:
            armed.current = outer

    def close(self) -> None:
        armed = self._armed
        outer = armed.current
        armed.current = None
        try:
            self._enter()
            try:
                armed.current = self._call
                self._driven.close()
            finally:
                armed.current = None
                self._leave()
        finally:
            armed.current = outer

    def _contain(self, error: BaseException) -> BaseException:
        """What to raise instead of what the driven raised; by default just that."""
        return error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._driven!r}>"


class Driven(_Driver[Any, Any], Coroutine[Any, Any, Any]):
    """A coroutine with `enter` and `leave` around each of its steps; otherwise like the coroutine itself.

    Args:
        coroutine: or any awaitable with `send`, `throw` and `close`.
        enter: called before each step. If it raises, the step is not taken and `leave` is not called.
        leave: called after each step, however it ended.
        armed: where the call is named while its own code runs.
        call: its id.
    """

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def __iter__(self) -> Driven:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        """Names, frame and code, which asyncio and its debuggers show."""
        return getattr(self._driven, name)


class _CallCoroutine(Driven):
    """The coroutine of a call. Whatever it raises, the loop on which it runs goes on."""

    def _contain(self, error: BaseException) -> BaseException:
        if isinstance(error, StopIteration | StopAsyncIteration):
            return error  # it has returned, or an async generator has ended
        if _was_interrupted(error, self._call):
            task = asyncio.current_task()
            if task is not None:
                task.cancel()  # so that this counts as asked for: it was
            return asyncio.CancelledError("the call was interrupted")
        return Escaped(error) if isinstance(error, KeyboardInterrupt | SystemExit) else error


def _was_interrupted(error: BaseException, call: object) -> bool:
    """Whether `error` is the interrupt of `call`, or came of it.

    `asyncio.run`, for one, fails with a RuntimeError about its loop if it is hit while it closes that.
    """
    waiting: list[BaseException | None] = [error]
    for _ in range(100):
        if not waiting:
            break
        current = waiting.pop()
        if isinstance(current, CallCancelled) and current.args == (call,):
            return True
        if current is not None:
            waiting += [current.__context__, current.__cause__]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions[:10]
    return False


class DrivenGenerator(_Driver[Any, Any], Generator[Any, Any, Any]):
    """A generator with `enter` and `leave` around each of its steps. Arguments as for `Driven`."""


class DrivenAsyncGenerator(AsyncGenerator[Any, Any]):
    """An async generator with every step of every item surrounded.

    Args:
        generator: the async generator.
        drive: makes a `Driven` of what one of its methods returned.
    """

    def __init__(
        self, generator: AsyncGenerator[Any, Any], drive: Callable[[Awaitable[Any]], Driven]
    ) -> None:
        self._generator = generator
        self._drive = drive

    def __anext__(self) -> Driven:
        return self._drive(self._generator.__anext__())

    def asend(self, value: Any) -> Driven:
        return self._drive(self._generator.asend(value))

    def athrow(self, *error: Any) -> Driven:
        return self._drive(self._generator.athrow(*error))

    def aclose(self) -> Driven:
        return self._drive(self._generator.aclose())


# --- calls ----------------------------------------------------------------------------------------------


class _Place:
    """What belongs to one call, to be put in place around its steps."""

    __slots__ = ("_before", "_hidden", "_hides", "_outer", "_steps", "_token", "call", "overlay")

    _before: Any
    _hidden: tuple[Any, Any] | None
    _outer: _Place | None
    _token: Token[object | None]

    def __init__(self, steps: Steps, call: object, overlay: Overlay, *, hides: bool) -> None:
        self._steps = steps
        self.call = call
        self.overlay = overlay
        self._hides = hides

    def enter(self) -> None:
        steps = self._steps
        if steps._lent and steps._keep is not None:
            steps._keep()
        self._outer = steps._here
        steps._here = self
        self._before = steps._namespace.enter(self.overlay)
        self._token = _owner.set(self.call)
        self._hidden = _hide_loop() if self._hides else None

    def leave(self) -> None:
        steps = self._steps
        _show_loop(self._hidden)
        _owner.reset(self._token)
        steps._namespace.leave(self.overlay, self._before)
        steps._here = self._outer
        if is_child():
            leave()


class Steps(Armed):
    """Runs the calls of one engine, and knows which one is running.

    Args:
        namespace: the engine's namespace, where overlays are put in place.
        lent: what user code must not find in use: if there is anything when a step begins,
        keep: is called first.
    """

    def __init__(
        self,
        namespace: Namespace,
        lent: Sized = (),
        keep: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._namespace = namespace
        self._lent = lent
        self._keep = keep
        self._here: _Place | None = None
        self._plain: object | None = None

    def owner(self) -> object | None:
        """The call that a print belongs to, in this context and on this thread; None if it is nobody's.

        What comes from a thread that inherits no context counts for the plain function that is running.
        """
        call = _owner.get()
        return self._plain if call is None else call

    def here(self) -> tuple[Any, Overlay]:
        """The call whose step is running, and the overlay that is in place for it.

        Raises:
            RuntimeError: none is.
        """
        if self._here is None:
            raise RuntimeError("no call is running here")
        return self._here.call, self._here.overlay

    # --- plain functions --------------------------------------------------------------------------------

    def run(
        self,
        call: object,
        overlay: Overlay,
        function: Callable[..., T],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> T:
        """Run a function to its end, as one step of `call`, with the running loop hidden.

        Args:
            call: its id; that of `Interrupts`, (client, seq), where interrupts are to reach it.
            overlay: what came with it, from `Namespace.load` and `Namespace.merge`.
            function: what to call.
            args: its arguments.
            kwargs: its keyword arguments.

        Returns:
            What it returned; if that is a coroutine, it is for `drive`.

        Raises:
            CallCancelled: the call was interrupted, or had been before it began.
            BaseException: whatever the function raised.
        """
        return self._run(_Place(self, call, overlay, hides=True), function, args, kwargs or {})

    def run_loaded(
        self, call: object, namespace: Namespace, function: Packed, arguments: Packed
    ) -> tuple[Any, Overlay]:
        """Unpickle a call and run it, as `run` does; unpickling may run the user's code, and long.

        Args:
            call: its id.
            namespace: that of this engine.
            function: the pickle of the function.
            arguments: that of ``(args, kwargs)``.

        Returns:
            What the function returned, and the overlay of the call.

        Raises:
            CallCancelled: the call was interrupted, or had been before it began.
            BaseException: whatever unpickling or the function raised.
        """
        place = _Place(self, call, PLAIN, hides=True)

        def load_and_call() -> Any:
            if self.ending:
                raise CallCancelled(call)
            loaded, overlay = namespace.load(function.data, function.buffers)
            (args, kwargs), beside = namespace.load(arguments.data, arguments.buffers)
            if beside is not PLAIN:
                overlay = namespace.merge(overlay, beside)
            if overlay is not PLAIN:
                place.overlay = overlay
                namespace.replace(overlay)
            return loaded(*args, **kwargs)

        return self._run(place, load_and_call, (), {}), place.overlay

    def _run(
        self, place: _Place, function: Callable[..., T], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> T:
        outer = self.current
        plain = self._plain
        self.current = None
        try:
            place.enter()
            try:
                self._plain = place.call
                self.current = place.call
                if place.call in self.cancelled:
                    del self.cancelled[place.call]
                    raise CallCancelled(place.call)
                return function(*args, **kwargs)
            finally:
                self.current = None
                self._plain = plain
                place.leave()
        except BaseException as error:
            if not isinstance(error, CallCancelled) and _was_interrupted(error, place.call):
                raise CallCancelled(place.call) from error
            raise
        finally:
            self.current = outer

    # --- what has more than one step --------------------------------------------------------------------

    def drive(self, call: object, overlay: Overlay, coroutine: Awaitable[Any]) -> Driven:
        """A coroutine that takes each step of `coroutine` as one of `call`. Arguments as for `run`.

        Make it a task, and take the task's result with `result_of`. When a step is interrupted, the
        coroutine sees `CallCancelled`, and the task ends as a cancelled one.
        """
        place = _Place(self, call, overlay, hides=False)
        return _CallCoroutine(coroutine, place.enter, place.leave, self, call)

    def drive_generator(
        self, call: object, overlay: Overlay, generator: Generator[Any, Any, Any]
    ) -> DrivenGenerator:
        """A generator whose every item is a plain step of `call`, with the running loop hidden."""
        place = _Place(self, call, overlay, hides=True)
        return DrivenGenerator(generator, place.enter, place.leave, self, call)

    def drive_async_generator(
        self, call: object, overlay: Overlay, generator: AsyncGenerator[Any, Any]
    ) -> DrivenAsyncGenerator:
        """An async generator whose every step is one of `call`."""
        return DrivenAsyncGenerator(generator, lambda awaitable: self.drive(call, overlay, awaitable))

    @property
    def plain(self) -> bool:
        """The code that runs now has the thread for itself, as a plain function does. For any thread."""
        here = self._here
        return here is not None and here._hides

    def install_task_factory(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the tasks that a call's code makes on `loop` driven as steps of the same call.

        A task factory that is there already makes the tasks, from the driven coroutine.
        """
        make = loop.get_task_factory()

        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
            # The call's code has come here, and an interrupt now would leave half a task.
            outer = self.current
            self.current = None
            try:
                return self._make_task(make, loop, coroutine, options)
            finally:
                self.current = outer

        loop.set_task_factory(factory)

    def _make_task(
        self, make: Any, loop: asyncio.AbstractEventLoop, coroutine: Any, options: dict[str, Any]
    ) -> Any:
        here = self._here
        if here is not None and asyncio.iscoroutine(coroutine) and not isinstance(coroutine, Driven):
            coroutine = self.drive(here.call, here.overlay, coroutine)
        if make is not None:
            return make(loop, coroutine, **options)
        return asyncio.Task(coroutine, loop=loop, **options)
