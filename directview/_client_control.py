"""What a client has done to engines beside calls: signalled, cleared, ended; and what it hears of them."""

from __future__ import annotations

import concurrent.futures
import importlib
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from directview import _dask
from directview._answers import AsyncHubResult
from directview._client_observing import Observing
from directview.connection import ConnectionInfo
from directview.events import EngineEvent, EngineEvents
from directview.result import AsyncResult

if TYPE_CHECKING:
    from directview.cluster import Cluster
    from directview.view import DirectView

__all__ = ["Controls"]


class Controls(Observing):
    """The part of a `Client` that does something to engines, and hears of them."""

    cluster: Cluster | None
    _info: ConnectionInfo

    def _view(self, targets: Any) -> DirectView[Any]:
        raise NotImplementedError

    # --- ending and signalling engines --------------------------------------------------------------------

    def _request(self, name: str, what: str, block: bool | None, **params: Any) -> Any:
        """Ask for something to be done: wait until it is granted, or return the `AsyncHubResult`."""
        blocks = self.block if block is None else block
        if blocks:
            self.check_may_block(f"{name}()", f"`await rc.{name}_async(...)`")
        answer: AsyncHubResult[Any] = AsyncHubResult(self, name, self._binding.core().query(what, params))
        return answer.get() if blocks else answer

    def send_signal(
        self, sig: int | str | signal.Signals, targets: Any = None, block: bool | None = None
    ) -> Any:
        """Send an operating-system signal to engines, through their supervisors.

        Args:
            sig: a number, or a name: ``signal.SIGTERM``, ``15``, ``'SIGTERM'``.
            targets: engines; None: all.
            block: wait until the supervisors have been told; None: as the client's `block`.

        Returns:
            None, or an `AsyncHubResult`.

        Raises:
            ValueError: there is no such signal; or (from the result) an engine has no supervisor.
            IndexError: there is no such engine.
        """
        number = _signal_number(sig)
        return self._request("send_signal", "signal", block, targets=self._targeted(targets), signal=number)

    def send_signal_async(self, sig: int | str | signal.Signals, targets: Any = None) -> AsyncHubResult[None]:
        """`send_signal` that does not wait: an `AsyncHubResult`, to await or `get` later."""
        answer: AsyncHubResult[None] = self.send_signal(sig, targets, block=False)
        return answer

    def send_signal_sync(self, sig: int | str | signal.Signals, targets: Any = None) -> None:
        """`send_signal` that waits."""
        self.send_signal(sig, targets, block=True)

    def kill(self, targets: Any = "all", block: bool | None = None) -> Any:
        """End engines at once, by SIGKILL and without a word to them; what they run ends in `EngineError`.

        Args:
            targets: which engines.
            block: wait until the supervisors have been told; None: as the client's `block`.

        Returns:
            None, or an `AsyncHubResult`.

        Raises:
            ValueError: (from the result) an engine has no supervisor.
            IndexError: there is no such engine.
        """
        return self._request("kill", "signal", block, targets=self._targeted(targets), signal=signal.SIGKILL)

    def kill_async(self, targets: Any = "all") -> AsyncHubResult[None]:
        """`kill` that does not wait: an `AsyncHubResult`, to await or `get` later."""
        answer: AsyncHubResult[None] = self.kill(targets, block=False)
        return answer

    def kill_sync(self, targets: Any = "all") -> None:
        """`kill` that waits."""
        self.kill(targets, block=True)

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Remove what users have put into engines' namespaces.

        Args:
            targets: engines; None: all.
            block: wait until it is done; None: as the client's `block`.

        Returns:
            An `AsyncResult`; or ``[None, ...]``, one per engine, when it was waited for.
        """
        return self._view(targets).clear(block=self.block if block is None else block)

    def clear_async(self, targets: Any = None) -> AsyncResult[Any]:
        """`clear` that does not wait: an `AsyncResult`, to await or `get` later."""
        result: AsyncResult[Any] = self.clear(targets, block=False)
        return result

    def clear_sync(self, targets: Any = None) -> Any:
        """`clear` that waits."""
        return self.clear(targets, block=True)

    def shutdown(
        self, targets: Any = "all", restart: bool = False, hub: bool = False, block: bool | None = None
    ) -> Any:
        """End engines, or with `hub` the whole cluster.

        Args:
            targets: which engines.
            restart: start others in their places: same ids, empty namespaces. The cluster must be one of this
                machine.
            hub: end the controller too, and everything with it.
            block: wait until the controller has granted it, or the new engines are there; None: as the
                client's `block`.

        Returns:
            None, or an `AsyncHubResult`.

        Raises:
            ValueError: `restart` and `hub` at once; or `restart` of a cluster that was started elsewhere.
            LaunchError: (from the result) engines could not be restarted.
            IndexError: there is no such engine.
        """
        if hub and restart:
            raise ValueError("restart and hub: a cluster that ends as a whole has nobody to restart engines")
        if hub:
            return self._request("shutdown", "shutdown", block, reason="it was shut down by a client")
        if restart:
            return self._restart(self._targeted(targets), block)
        return self._request("shutdown", "stop", block, targets=self._targeted(targets))

    def shutdown_async(
        self, targets: Any = "all", restart: bool = False, hub: bool = False
    ) -> AsyncHubResult[None]:
        """`shutdown` that does not wait: an `AsyncHubResult`, to await or `get` later."""
        answer: AsyncHubResult[None] = self.shutdown(targets, restart, hub, block=False)
        return answer

    def shutdown_sync(self, targets: Any = "all", restart: bool = False, hub: bool = False) -> None:
        """`shutdown` that waits."""
        self.shutdown(targets, restart, hub, block=True)

    def _restart(self, ids: list[int] | None, block: bool | None) -> Any:
        """Restarting is the supervisor's business: it is told by a Cluster, which takes a loop of its own."""
        blocks = self.block if block is None else block
        if blocks:
            self.check_may_block("shutdown()", "`await rc.shutdown_async(...)`")
        cluster = self.cluster
        if cluster is None:
            if not self._info.source:
                raise ValueError(
                    "restart: this client has no connection file by which to find its cluster; use "
                    "`Cluster.from_file(...).restart_engines()` on the machine where it was started"
                )
            home = importlib.import_module("directview.cluster")  # that imports this one
            cluster = home.Cluster.from_file(self._info.source)
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def restart() -> None:
            try:
                done.set_result(cluster.restart_engines_sync(ids))
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is asked for
                done.set_exception(error)

        answer = AsyncHubResult(self, "shutdown", done)
        threading.Thread(target=restart, name="directview-restart", daemon=True).start()
        return answer.get() if blocks else answer

    # --- dask ---------------------------------------------------------------------------------------------

    def become_dask(
        self,
        targets: Any = "all",
        port: int = 0,
        nanny: bool = False,
        scheduler_args: dict[str, Any] | None = None,
        **worker_args: Any,
    ) -> Any:
        """Make engines dask workers too, of a scheduler in this process. Blocks.

        The engines go on to take calls; `stop_dask` ends it.

        Args:
            targets: which engines.
            port: where the scheduler listens; 0: a free port.
            nanny: must be False: engines are looked after by their supervisor.
            scheduler_args: arguments of ``distributed.LocalCluster``; ``{"host": "0.0.0.0"}`` for engines on
                other machines.
            worker_args: arguments of ``distributed.Worker``, such as `nthreads`.

        Returns:
            A ``distributed.Client``.

        Raises:
            ImportError: the package ``distributed`` is missing here; or (from engines) there.
        """
        if nanny:
            raise ValueError("nanny: engines can't have one, they are looked after by their supervisor")
        self.check_may_block("become_dask()", "`await asyncio.to_thread(rc.become_dask)`")
        self.stop_dask()
        scheduler = _dask.Scheduler(port, dict(scheduler_args or {}))
        try:
            started = self._view(targets).apply_async(_dask.start_worker, scheduler.address, worker_args)
            started.get()
        except BaseException:
            scheduler.close()
            raise
        self._scheduler = scheduler
        return scheduler.client

    def stop_dask(self, targets: Any = "all") -> None:
        """Make engines engines only again, and end the scheduler that `become_dask` started. Blocks.

        Args:
            targets: which engines.
        """
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            try:
                self._view(targets).apply_async(_dask.stop_worker).get()
            finally:
                scheduler.close()

    _scheduler: _dask.Scheduler | None = None

    # --- hearing of them ----------------------------------------------------------------------------------

    def events(self) -> EngineEvents:
        """Engines that join and leave from here on: ``async for event in rc.events():``.

        It ends when the client is closed, or the controller is lost.
        """
        return self._binding.core().observers.stream()

    def on_engine_joined(self, callback: Callable[[EngineEvent], object]) -> Callable[[], None]:
        """Have `callback` called with an `EngineEvent` for each engine that joins.

        Args:
            callback: called by the event loop that runs now, or else on the client's own thread.

        Returns:
            What ends it.
        """
        return self._on("joined", callback)

    def on_engine_left(self, callback: Callable[[EngineEvent], object]) -> Callable[[], None]:
        """Have `callback` called with an `EngineEvent` for each engine that leaves, or dies.

        Args:
            callback: called by the event loop that runs now, or else on the client's own thread.

        Returns:
            What ends it.
        """
        return self._on("left", callback)

    def _on(
        self, kind: Literal["joined", "left"], callback: Callable[[EngineEvent], object]
    ) -> Callable[[], None]:
        if not callable(callback):
            raise TypeError(f"a callback is a function, not {callback!r:.60}")
        return self._binding.core().observers.call(kind, callback)


def _signal_number(sig: int | str | signal.Signals) -> int:
    names = {known.name: int(known) for known in signal.Signals}
    number = names.get(sig.upper(), 0) if isinstance(sig, str) else sig
    if not hasattr(number, "__index__") or isinstance(number, bool) or number not in signal.valid_signals():
        raise ValueError(f"{sig!r:.60} is no signal: give a number, or a name such as 'SIGTERM'")
    return int(number)
