"""The first steps of a process that was just forked: become a clean one of its own.

What a child has from its parent and must not keep: signal handlers, open descriptors (a socket of the
supervisor held by an engine would keep a dead peer's connection open), the state of random number
generators (all engines would draw the same numbers), the parent's ``__main__``.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import types
from collections.abc import Iterable

from directview.engine._interrupt import INTERRUPT_SIGNAL, STACK_SIGNAL
from directview.supervisor._processes import prepare_die_with_parent

__all__ = ["become", "fork"]


def fork() -> int:
    """`os.fork`, with our own buffered output written first, so that it isn't written twice."""
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def become(
    name: str,
    *,
    parent: int | None,
    orphaned: int = signal.SIGKILL,
    log: str = "",
    keep: Iterable[int] = (),
    session: bool = False,
) -> None:
    """Turn a forked copy into a process of its own. To be called first thing in the child.

    Args:
        name: shown as ``sys.argv[0]``.
        parent: pid of the process that forked; this one is killed when it ends. None: this one sees to its
            own end.
        orphaned: the signal that it is killed with then.
        log: file that descriptors 1 and 2 go to; appended to, made 0600. Empty: they stay.
        keep: descriptors that stay open, besides 0, 1 and 2.
        session: lead a session of its own, away from any terminal.
    """
    # An object of the parent's that has a descriptor closes it when the collector gets to it: by then that
    # number may be the engine's event loop's.
    gc.freeze()
    signal.set_wakeup_fd(-1)
    if parent is not None:
        prepare_die_with_parent(parent, orphaned)
    if session:
        os.setsid()
    _default_signals()
    _redirect(log)
    _close_all_but(keep)
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    sys.argv = [name]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main


def _default_signals() -> None:
    kept_by_python = {signal.SIGPIPE, signal.SIGXFSZ}  # ignored, so that errors are raised instead
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # None: a handler that some C library set, or a signal that its threads use.
        if signum not in kept_by_python and signal.getsignal(signum) not in (signal.SIG_DFL, None):
            signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # An interrupt that comes before the engine has its handler would end it.
    signal.signal(INTERRUPT_SIGNAL, signal.SIG_IGN)
    signal.signal(STACK_SIGNAL, signal.SIG_IGN)  # likewise
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _redirect(log: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null > 2:
        os.close(null)
    if log:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if file > 2:
            os.close(file)
    for stream in (sys.stdout, sys.stderr):
        # Lines, so that a log read after a kill -9 is complete up to its last line.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]


def _close_all_but(keep: Iterable[int]) -> None:
    kept = sorted({0, 1, 2, *keep})
    try:
        found = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        found = list(range(3, 1024))
    for fd in found:
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass  # The listing's own descriptor, closed by now.
