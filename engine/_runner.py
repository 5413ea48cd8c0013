"""Running one call: from its bytes to its result's bytes, whatever happens on the way.

A plain function runs to its end on the loop's thread, with the running loop hidden from it, so that it may
use the main thread for whatever needs it (signals, CUDA, GUI, MPI) and call `asyncio.run`. A coroutine,
whichever callable it came from, becomes a task and runs beside others. Either way every error, also
``SystemExit`` and failures to load or to pickle, becomes the call's result: nothing that user code does
ends the engine, short of ending the process.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from directview.engine._interrupt import CallCancelled, Interrupts
from directview.engine._namespace import Namespace
from directview.engine._outbox import Outbox
from directview.engine._state import Call, EngineState
from directview.engine._steps import Steps, result_of
from directview.errors import SerializationError
from directview.wire.arena import arena
from directview.wire.exceptions import capture
from directview.wire.messages import ABORTED, FAILED, OK
from directview.wire.objects import dumps
from directview.wire.parcels import Packed, Parcel, pack, pack_small

__all__ = ["Parked", "Runner"]

_SWIFT: Final = 0.001
"""Seconds: a function whose last call was quicker may start before earlier results are sent."""
_SWIFT_NAMES: Final = 1024
_NOTHING: Final = pack((dumps(None),))
"""The result of every call that returns None."""


class Parked:
    """What a function returns whose result comes later and from elsewhere: by `Runner.finish`."""

    def parked(self, call: Call) -> None:
        """Its step is over, and the call waits. Called on the loop, where nothing interrupts."""
        raise NotImplementedError


class Runner:
    """Runs calls and reports their ends to the state machine.

    Args:
        state: the engine's state machine.
        namespace: where user code finds its names.
        steps: runs each step of user code as the call that it belongs to.
        interrupts: told when a call has ended, so that it is not interrupted any more.
        outbox: what the call prints and returns goes there.
        on_end: called when a coroutine call has ended, outside any call.
    """

    def __init__(
        self,
        state: EngineState,
        namespace: Namespace,
        steps: Steps,
        interrupts: Interrupts,
        outbox: Outbox,
        on_end: Callable[[], None],
    ) -> None:
        self._state = state
        self._namespace = namespace
        self._steps = steps
        self._interrupts = interrupts
        self._outbox = outbox
        self._on_end = on_end
        self._tasks: dict[Call, asyncio.Task[Any]] = {}
        self._parked: dict[Call, float] = {}
        """Calls that wait for `finish`, and when they started."""
        self._swift: dict[str, None] = {}

    def start(self, call: Call) -> bool:
        """Run a call: a plain function to its end, a coroutine function up to its task.

        Returns:
            Whether it goes on as a task. Its first step is still to come.
        """
        if self._state.has_news:
            if call.name in self._swift:
                self._outbox.hurry()
            else:
                self._outbox.flush()
        if self._interrupts.asked(call.key):
            self._end(call, ABORTED, 0.0, None)  # Interrupted before its time: it never starts.
            return False
        started = time.time()
        begun = time.perf_counter()
        try:
            value, overlay = self._call(call)
            # None is what many calls return, and asking takes an abstract class.
            if value is not None and inspect.isawaitable(value) and not isinstance(value, asyncio.Future):
                self._suspend(call, _coroutine(value), overlay, started)
                return True
            if isinstance(value, Parked):
                self._park(call, value, started)
                return False
            self._end(call, OK, started, self._pack_value(call, value))
        except CallCancelled:
            self._end(call, ABORTED, started, None)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is the call's result
            self._end(call, FAILED, started, self._pack_error(call, error))
        self._note_duration(call.name, time.perf_counter() - begun)
        return False

    def cancel(self, call: Call) -> None:
        """Cancel the task of a call; it ends as aborted when it has ended."""
        task = self._tasks.get(call)
        if task is not None:
            task.cancel("the call was cancelled")
        started = self._parked.pop(call, None)
        if started is not None:
            self._end(call, ABORTED, started, None)

    # --- inside a call ------------------------------------------------------------------------------

    def _call(self, call: Call) -> tuple[Any, Any]:
        """Load function and arguments and call; the value, and the overlay that it was called under."""
        if call.problem is not None or call.parcel is None:
            raise SerializationError(f"the arguments of {call.name} can't be read: {call.problem}")
        function, arguments = call.parcel.objects()
        return self._steps.run_loaded(call.key, self._namespace, function, arguments)

    def _pack_value(self, call: Call, value: Any) -> Parcel:
        if value is None:
            return _NOTHING
        packed = self._namespace.dumps(value, part=f"the result of {call.name}")
        # What is detached goes by the controller, whole: that keeps it.
        return pack_small((packed,)) or pack((packed,), arena=b"" if call.detached else arena().reference)

    def _pack_error(self, call: Call, error: BaseException) -> Parcel:
        if isinstance(error, NameError):
            self._namespace.explain(error)
        summary, rich = capture(
            error,
            engine_id=self._state.id,
            engine_uuid=self._state.uuid.hex(),
            method="apply",
            dumps=self._namespace.dumps_whole,
        )
        return pack((Packed(rich or b"", ()),), summary)

    # --- coroutines ---------------------------------------------------------------------------------

    def _suspend(self, call: Call, coroutine: Coroutine[Any, Any, Any], overlay: Any, started: float) -> None:
        with self._outbox.lock:
            self._state.suspended(call)
        loop = asyncio.get_running_loop()
        driven = self._steps.drive(call.key, overlay, coroutine)
        task: asyncio.Task[Any] = loop.create_task(driven, name=call.name)
        self._tasks[call] = task
        task.add_done_callback(lambda task: self._task_done(call, task, started))

    def _task_done(self, call: Call, task: asyncio.Task[Any], started: float) -> None:
        del self._tasks[call]
        try:
            value = result_of(task)
            self._end(call, OK, started, self._pack_value(call, value))
        except (asyncio.CancelledError, CallCancelled) as error:
            if task.cancelling() or isinstance(error, CallCancelled):
                self._end(call, ABORTED, started, None)
            else:
                self._end(call, FAILED, started, self._pack_error(call, error))
        except BaseException as error:  # noqa: BLE001 - as for plain functions
            self._end(call, FAILED, started, self._pack_error(call, error))
        self._on_end()

    # --- parked calls -------------------------------------------------------------------------------

    def _park(self, call: Call, value: Parked, started: float) -> None:
        with self._outbox.lock:
            self._state.suspended(call)
        self._parked[call] = started
        value.parked(call)

    def finish(self, call: Call, value: Any) -> bool:
        """End a parked call with its result. From any thread, under the outbox's lock.

        Returns:
            Whether it still waited: it may have been cancelled.
        """
        started = self._parked.pop(call, None)
        if started is None:
            return False
        try:
            self._end(call, OK, started, self._pack_value(call, value))
        except Exception as error:  # noqa: BLE001 - no memory for it, perhaps
            self._end(call, FAILED, started, self._pack_error(call, error))
        return True

    # --- the end ------------------------------------------------------------------------------------

    def _end(self, call: Call, status: int, started: float, parcel: Parcel | None) -> None:
        self._interrupts.forget(call.key)
        self._outbox.flush_output(call.key)
        if self._steps.ending and status != OK:
            return  # It ended because the engine does, and that is what its client is to hear.
        with self._outbox.lock:
            self._state.finished(call, status, started, time.time(), parcel)

    def _note_duration(self, name: str, seconds: float) -> None:
        if seconds >= _SWIFT:
            self._swift.pop(name, None)
        elif len(self._swift) < _SWIFT_NAMES:
            self._swift[name] = None


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _coroutine(value: Any) -> Coroutine[Any, Any, Any]:
    return value if inspect.iscoroutine(value) else _awaited(value)
