"""What a client asks of its controller beside calls: how engines stand, to signal them, to end them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from directview import _dask
from directview._answers import AsyncHubResult
from directview._client_records import Records
from directview.events import EngineEvent, EngineEvents

if TYPE_CHECKING:
    from directview.view import DirectView

__all__ = ["Controls"]


class Controls(Records):
    """The part of a `Client` that talks to the controller."""

    def _view(self, targets: Any) -> DirectView[Any]:
        raise NotImplementedError

    # --- asking -------------------------------------------------------------------------------------------

    async def query(self, what: str, **params: Any) -> Any:
        """Ask the controller, without blocking: ``status``, ``queue_status``.

        Raises:
            ValueError: the question is unknown or wrong; the text says how.
            ControllerLost: the controller is gone.
        """
        return await asyncio.wrap_future(self._binding.core().query(what, params))

    def _ask(self, what: str, **params: Any) -> Any:
        self.check_may_block(f"{what}()", f"`await rc.query({what!r})`")
        return self._binding.core().query(what, params).result()

    def _request(self, name: str, what: str, block: bool | None, **params: Any) -> Any:
        """Ask for something to be done: wait until it is granted, or return the `AsyncHubResult`."""
        blocks = self.block if block is None else block
        if blocks:
            self.check_may_block(f"{name}()", f"`await rc.{name}(..., block=False)`")
        answer: AsyncHubResult[Any] = AsyncHubResult(self, name, self._binding.core().query(what, params))
        return answer.get() if blocks else answer

    def _targeted(self, targets: Any) -> list[int] | None:
        """Engine ids for the controller; None: all."""
        if targets is None or targets == "all":
            return None
        chosen = self._choose(targets)
        return [chosen] if isinstance(chosen, int) else chosen

    # --- engines ------------------------------------------------------------------------------------------

    def queue_status(self, targets: Any = None, verbose: bool = False) -> dict[Any, Any]:
        """How many calls wait for each engine (``queue``) and have been given to it (``tasks``).

        Args:
            targets: engines; None or ``'all'``: all of them.
            verbose: the calls instead of their numbers.

        Returns:
            For one engine by its id, its own; otherwise one for each, by id.
        """
        answer = self._ask("queue_status", targets=self._targeted(targets), verbose=verbose)
        found = {int(key) if key.isdigit() else key: value for key, value in answer.items()}
        if hasattr(targets, "__index__"):
            one: dict[Any, Any] = found[self._choose(targets)]
            return one
        return found

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
        """
        number = _signal_number(sig)
        return self._request("send_signal", "signal", block, targets=self._targeted(targets), signal=number)

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Remove what users have put into engines' namespaces.

        Args:
            targets: engines; None: all.
            block: wait until it is done; None: as the client's `block`.
        """
        view = self._view(targets)
        return view.clear(block=self.block if block is None else block)

    def shutdown(
        self, targets: Any = "all", restart: bool = False, hub: bool = False, block: bool | None = None
    ) -> Any:
        """End engines, or with `hub` the whole cluster.

        Args:
            targets: which engines.
            restart: not offered here: restart engines through their Cluster.
            hub: end the controller too, and everything with it.
            block: wait until the controller has granted it; None: as the client's `block`.

        Returns:
            None, or an `AsyncHubResult`.
        """
        if restart:
            raise ValueError("restart: use `cluster.restart_engines()` of the Cluster that started them")
        if hub:
            return self._request("shutdown", "shutdown", block, reason="it was shut down by a client")
        return self._request("shutdown", "stop", block, targets=self._targeted(targets))

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
        """Make engines engines only again, and end the scheduler that `become_dask` started. Blocks."""
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
    number = names.get(sig.upper(), 0) if isinstance(sig, str) else int(sig)
    if number not in signal.valid_signals():
        raise ValueError(f"{sig!r} is no signal: give a number, or a name such as 'SIGTERM'")
    return number
