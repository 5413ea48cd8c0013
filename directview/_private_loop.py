"""Blocking versions of coroutines that belong to no client: run to the end on an event loop of their own.

A client's blocking calls go to the loop of its background thread. Starting a cluster comes before there is
any client, so its coroutines are written to keep nothing on the loop between calls, and each blocking call
gets a short-lived loop: in the calling thread, or, when a loop already runs there (a notebook), in a
thread that ends with the call. The thread's current event loop, which a program may have set, is left alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["run_here"]

T = TypeVar("T")


def run_here(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the coroutine that `make` makes and return its result; Ctrl-C cancels it and is raised on.

    Works inside a running loop, which then waits too.
    """
    if _loop_runs():
        return _run_in_thread(make)
    # With a factory, the runner doesn't touch the thread's current loop.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(make())


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    result: list[T] = []
    failure: list[BaseException] = []
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(make())
        running.append((asyncio.get_running_loop(), task))
        started.set()
        result.append(await task)

    def target() -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=target, name="directview-call")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        started.wait()
        if running:
            loop, task = running[0]
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                pass  # It has just ended.
        thread.join()
        raise
    if failure:
        raise failure[0]
    return result[0]
