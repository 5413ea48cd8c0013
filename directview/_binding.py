"""Where a client's core lives: on the caller's event loop, or on a background thread's. One rule decides.

Only ``async with`` binds a client to the caller's loop; no thread is started then, and whatever would wait
raises at once instead of blocking the very loop that its answer comes by. Any other first use starts a
background thread with a loop of its own (anyio's blocking portal owns it), and blocking works from
everywhere, also inside a running loop, as in a notebook.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from directview._core import Core
from directview.connection import ConnectionInfo
from directview.errors import ClientClosed, WouldBlockLoop

__all__ = ["Binding"]

T = TypeVar("T")


class Binding:
    """The one core of a client, made at the first use.

    Args:
        info: where the controller is.
        timeout: seconds to connect in.
        reconnect_timeout: as for `Core`.
    """

    def __init__(self, info: ConnectionInfo, timeout: float, reconnect_timeout: float) -> None:
        self._info = info
        self._timeout = timeout
        self._reconnect_timeout = reconnect_timeout
        self._core: Core | None = None
        self._portal: BlockingPortal | None = None
        self._portal_context: AbstractContextManager[BlockingPortal] | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self.closed = False

    @property
    def started(self) -> bool:
        """There is a core."""
        return self._core is not None

    @property
    def uuid(self) -> bytes:
        """The client's, also when it has been closed: its calls still have their names."""
        return (self._core or self.core()).uuid

    @property
    def bound(self) -> bool:
        """It lives on the loop of a caller."""
        return self._core is not None and self._portal is None

    # --- starting -------------------------------------------------------------------------------------

    async def bind(self) -> Core:
        """Bind to the running loop and connect. A client binds once.

        Raises:
            RuntimeError: it has been used before, and lives elsewhere.
        """
        self._check_usable()
        if self._core is not None:
            raise RuntimeError(
                "this client has been used before `async with`, so it lives on a background thread: "
                "enter `async with Client(...)` first, or use this one without it"
            )
        core = self._core = Core(self._info, self._reconnect_timeout)
        try:
            await core.open(self._timeout)
        except BaseException:
            self.closed = True
            raise
        return core

    def core(self) -> Core:
        """The core; if there is none yet, on a new background thread.

        Raises:
            ClientClosed: the client was closed.
            RuntimeError: this process is a fork of the client's.
        """
        if self._core is not None and not self.closed and self._pid == os.getpid():
            return self._core
        self._check_usable()
        with self._lock:
            if self._core is None:
                self._start_thread()
        assert self._core is not None
        return self._core

    def _start_thread(self) -> None:
        context = start_blocking_portal("asyncio", name="directview-client")
        portal = context.__enter__()
        try:
            core = portal.call(self._open)
        except BaseException:
            context.__exit__(None, None, None)
            raise
        self._portal, self._portal_context, self._core = portal, context, core

    async def _open(self) -> Core:
        core = Core(self._info, self._reconnect_timeout)
        await core.open(self._timeout)
        core.watch.start()
        return core

    def _check_usable(self) -> None:
        if self.closed:
            raise ClientClosed("this client was closed: make a new one")
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this client belongs to process {self._pid}, of which this one is a fork: its connection "
                "can't be shared; make a new Client in the child"
            )

    # --- waiting --------------------------------------------------------------------------------------

    def check_may_block(self, what: str, instead: str) -> None:
        """Return if this thread may wait for the core; the errors are `CallOwner.check_may_block`'s."""
        core = self.core()
        if threading.get_ident() == core.thread:
            if self._portal is not None:
                raise WouldBlockLoop(
                    f"{what} on the client's own thread (in a callback?) would wait for ever: use {instead}"
                )
            if core.loop.is_running():
                raise WouldBlockLoop(
                    f"{what} would block the event loop that this client is bound to by `async with`, and "
                    f"that its answer comes by: use {instead}"
                )
        self.check_running()

    def check_running(self) -> None:
        """Return if the core's loop runs."""
        core = self.core()
        if not core.loop.is_running():
            raise RuntimeError(
                "the event loop that this client is bound to is not running, so no answer can come: use the "
                "client inside the loop that entered `async with` (a test fixture's scope, perhaps?)"
            )

    def run(self, make: Callable[[Core], Coroutine[Any, Any, T]], what: str, instead: str) -> T:
        """Run a coroutine on the core's loop and wait for its result; Ctrl-C cancels it."""
        self.check_may_block(what, instead)
        core = self.core()
        future = asyncio.run_coroutine_threadsafe(make(core), core.loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    # --- ending ---------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close; on whatever loop this runs. Safe to repeat."""
        if self.closed:
            return
        core = self._core
        if core is not None and self._portal is not None:
            await asyncio.to_thread(self.close)
            return
        self.closed = True
        if core is not None:
            await core.close()

    def close(self) -> None:
        """Close, and end the thread if there is one. Safe to repeat.

        Raises:
            WouldBlockLoop: the client is bound to the loop of this thread: ``await rc.aclose()``.
        """
        with self._lock:
            if self.closed:
                return
            core, portal = self._core, self._portal
            if self._pid != os.getpid() or core is None:
                self.closed = True
                return
            if portal is None:
                if core.loop.is_running():
                    self.check_may_block("close()", "`await rc.aclose()`")
                    asyncio.run_coroutine_threadsafe(core.close(), core.loop).result()
                self.closed = True
                return
            self.closed = True
        assert self._portal_context is not None
        if threading.get_ident() == core.thread:
            # In a callback, or collected there: the thread can't wait for its own end.
            threading.Thread(target=self._end_thread, args=(core, portal)).start()
        else:
            self._end_thread(core, portal)

    def _end_thread(self, core: Core, portal: BlockingPortal) -> None:
        assert self._portal_context is not None
        portal.call(core.close)
        self._portal_context.__exit__(None, None, None)
