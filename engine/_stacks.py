"""What the engine is doing, told to whoever signals it, also while it is blocked in a function.

`faulthandler` writes the stacks of all threads into a file, from a signal handler in C: it needs neither the
interpreter's lock nor anybody's permission, and the function that runs does not notice. (py-spy sees as much,
but most systems let only root use it on a process that isn't a child.) Behind it asyncio's own handler runs
as soon as the loop turns, and adds where each coroutine waits. The file is then complete, and says so.

A signal interrupts what its thread waits for in the kernel; C code that sleeps or polls may take that for the
end of its waiting (libc's `sleep` does). So the thread that runs the calls blocks this signal, and with it
the threads that they start, and it is delivered on a thread of ours.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

from directview.engine._interrupt import STACK_SIGNAL, STACKS_COMPLETE
from directview.engine._steps import Driven

__all__ = ["Stacks", "ignore_stack_signal"]

_DEPTH: Final = 100


def ignore_stack_signal() -> None:
    """What to do before, or instead of, `Stacks.install`: by default the signal would end the process."""
    signal.signal(STACK_SIGNAL, signal.SIG_IGN)


class Stacks:
    """The file into which an engine's stacks are written.

    Args:
        path: of the file.
        name: of a call, for people.
    """

    def __init__(self, path: Path, name: Callable[[Any], str]) -> None:
        self._path = path
        self._name = name
        self._file: TextIO | None = None

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to the signal. Only in the main thread, and on its loop."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "a", encoding="utf-8", errors="replace")
        except OSError:
            ignore_stack_signal()
            return
        loop.add_signal_handler(STACK_SIGNAL, self._write_tasks, loop)
        signal.pthread_sigmask(signal.SIG_BLOCK, (STACK_SIGNAL,))
        # `chain`: asyncio's handler, which was there before, runs as well.
        faulthandler.register(STACK_SIGNAL, self._file, all_threads=True, chain=True)

    def close(self) -> None:
        """Listen no more."""
        if self._file is not None:
            faulthandler.unregister(STACK_SIGNAL)
            ignore_stack_signal()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (STACK_SIGNAL,))
            self._file.close()
            self._file = None

    def _write_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        lines = []
        tasks = [task for task in asyncio.all_tasks(loop) if isinstance(task.get_coro(), Driven)]
        for task in tasks:
            driven: Any = task.get_coro()
            lines.append(f'Coroutine of {self._name(driven._call)}, task "{task.get_name()}" (waits last):')
            lines += [
                f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
                for frame in reversed(list(_frames(driven)))
            ]
        lines.append(f"{STACKS_COMPLETE}{len(tasks)}")
        if self._file is not None:
            try:
                self._file.write("\n".join(lines) + "\n")
                self._file.flush()
            except OSError:
                pass  # The disk is full: whoever asked sees no more of it.


def _frames(awaitable: Any) -> Iterator[FrameType]:
    """Where a suspended coroutine stands, and what it awaits, and so on, from the outermost."""
    for _ in range(_DEPTH):
        for prefix, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(awaitable, f"{prefix}_frame", None)
            if frame is not None:
                yield frame
                awaitable = getattr(awaitable, inner, None)
                break
        else:
            return
