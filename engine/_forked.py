"""Processes that user code forks from an engine (multiprocessing, os.fork): copies that are not the engine.

Such a process inherits the engine's signal handlers, and with them the socket by which a signal wakes the
engine's event loop: a SIGTERM for a pool's worker would end the engine. And a child that returns from the
function that forked it would go on as a second engine, on the first one's connection. So a child gets plain
signal handling, and ends where it would go on as an engine. Until it has it, signals wait: one that came
right after the fork would still find the engine's handlers, which tell the engine and not the child.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from directview.engine._interrupt import INTERRUPT_SIGNAL

__all__ = ["ignore_interrupts", "is_child", "leave", "watch"]

_child = False


def is_child() -> bool:
    """Whether this process was forked from an engine. Quick: asked after every step of a call."""
    return _child


def watch(forked: Callable[[], None]) -> None:
    """From now on, whoever is forked from this process is made a plain process.

    Args:
        forked: called in the child as well.
    """
    ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, INTERRUPT_SIGNAL)}
    masks = threading.local()

    def hold_signals() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)

    def release_signals() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def in_child() -> None:
        global _child
        _child = True
        signal.set_wakeup_fd(-1)
        for number, handler in ours.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, signal.SIG_DFL)
        forked()
        release_signals()

    os.register_at_fork(before=hold_signals, after_in_parent=release_signals, after_in_child=in_child)


def ignore_interrupts() -> None:
    """Ignore SIGINT, without having programs that are started from here ignore it."""
    signal.signal(signal.SIGINT, _nothing)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def leave() -> NoReturn:
    """End a forked child that comes back from the step that forked it.

    What it raised, if it did, is written to the engine's log. A `SystemExit` is an end like any other.
    """
    code = 0
    error = sys.exception()
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None and not isinstance(error, StopIteration):
        traceback.print_exception(error)
        code = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
