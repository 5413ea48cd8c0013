"""How a command runs: its event loop, and how Ctrl-C ends what it has started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from directview._launch import SupervisorProcess

__all__ = ["Interrupted", "look_in_current_folder", "run", "stay"]

T = TypeVar("T")


def run(work: Any) -> Any:
    """Run a coroutine on an event loop of its own; its result."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


def look_in_current_folder() -> None:
    """Have engines import from the folder they are started in, not from where this command lies."""
    if os.getcwd() not in sys.path:
        sys.path[0] = os.getcwd()


async def stay(supervisor: SupervisorProcess, interrupted: Interrupted, stop: Callable[[], Any]) -> int:
    """Wait for Ctrl-C, or for the cluster's end by other hands; returns the exit code."""
    ended = asyncio.ensure_future(supervisor.stopped())
    reason = await interrupted.or_end(ended)
    if reason is None:
        click.echo("stopping")
        await stop()
        return 0
    await supervisor.wait(10.0)
    click.echo(f"the cluster has ended: {reason}", err=True)
    return 0 if "asked to stop" in reason else 1


class Interrupted:
    """Ctrl-C and its kin as an event; the second one is Python's own again, and ends at once."""

    _signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    async def __aenter__(self) -> Interrupted:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for signum in self._signals:
            self._loop.add_signal_handler(signum, self._set)
        return self

    def _set(self) -> None:
        self._event.set()
        for signum in self._signals:
            self._loop.remove_signal_handler(signum)

    async def __aexit__(self, *exc: object) -> None:
        for signum in self._signals:
            self._loop.remove_signal_handler(signum)

    async def or_end(self, work: asyncio.Future[T]) -> T | None:
        """The result of `work`, or None when the interruption came first; `work` is cancelled then."""
        waiting = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
            return None if work.cancelled() else work.result()
        finally:
            waiting.cancel()
