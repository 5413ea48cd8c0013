"""The kernel that `bind_kernel` starts: ipykernel's, in a thread, over the engine's own namespace.

An engine's loop, signals and standard streams stay what they are: the kernel has a loop of its own, leaves
signals alone, and what its cells print goes to its frontends because their thread prints it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from ipykernel.displayhook import ZMQDisplayHook
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp
from IPython.core.interactiveshell import InteractiveShell

__all__ = ["start"]

_PATIENCE: Final = 30.0
_started: list[str] = []
"""The connection file of this process's kernel."""


def start(connection_file: str | None, options: dict[str, Any]) -> str:
    """Start the kernel, unless it runs; the path of its connection file."""
    if not _started:
        ready: Future[str] = Future()
        thread = threading.Thread(
            target=_serve, args=(connection_file, options, ready), name="directview-kernel", daemon=True
        )
        thread.start()
        try:
            _started.append(ready.result(_PATIENCE))
        except Exception as error:
            raise RuntimeError(f"the kernel did not start: {type(error).__name__}: {error}") from error
    return _started[0]


def _serve(connection_file: str | None, options: dict[str, Any], ready: Future[str]) -> None:
    try:
        main = sys.modules["__main__"]
        asyncio.set_event_loop(asyncio.new_event_loop())
        # Quiet, and without a parent to look after: whatever happens is the frontends' to see.
        settings: dict[str, Any] = {"log_level": logging.CRITICAL, "parent_handle": 1, **options}
        if connection_file is not None:
            settings["connection_file"] = connection_file
        app = _Kernel(**settings)
        with _beside_the_engines_shell():
            app.initialize([])
        sys.modules["__main__"] = main  # IPython has put another one there
        app.kernel.user_module = main
        app.kernel.user_ns = vars(main)
        shell: Any = app.shell
        shell.set_completer_frame()
    except BaseException as error:  # noqa: BLE001 - it is raised where the kernel was asked for
        ready.set_exception(error)
        return
    ready.set_result(str(app.abs_connection_file))
    app.start()


@contextmanager
def _beside_the_engines_shell() -> Iterator[None]:
    """IPython wants one shell in a process: what is made here goes unregistered, beside the engine's."""
    registry: Any = InteractiveShell
    before = registry._instance
    if before is not None:
        type(before).clear_instance()
    try:
        yield
    finally:
        if registry._instance is not None:
            type(registry._instance).clear_instance()
        if before is not None:
            for kind in type(before)._walk_mro():
                kind._instance = before


class _Kernel(IPKernelApp):
    """ipykernel's application, without what it does to a process that is its own."""

    def init_signal(self) -> None:
        """Signals are the engine's."""

    def init_pdb(self) -> None:
        """The debugger is the engine's."""

    def init_blackhole(self) -> None:
        """Standard streams are the engine's."""

    def init_poller(self) -> None:
        """It ends with its process, and watches no other."""

    def init_io(self) -> None:
        """What this thread prints goes to frontends, everything else where it went before."""
        self.displayhook = ZMQDisplayHook(self.session, self.iopub_socket)
        for name in ("stdout", "stderr"):
            stream = OutStream(self.session, self.iopub_thread, name, watchfd=False, echo=None)
            setattr(sys, name, _ByThread(stream, getattr(sys, name)))

    def patch_io(self) -> None:
        """Nothing else is redirected."""


class _ByThread:
    """One stream for the thread that made it, another one for all others."""

    def __init__(self, ours: Any, others: Any) -> None:
        vars(self).update(_thread=threading.get_ident(), _ours=ours, _others=others)

    def _stream(self) -> Any:
        known = vars(self)
        return known["_ours" if threading.get_ident() == known["_thread"] else "_others"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        # IPython puts a `write` of its own into the stream while a cell runs.
        setattr(self._stream(), name, value)
