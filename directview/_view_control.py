"""What a view knows of its own calls, and what it does to its engines beside calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from directview._answers import AsyncHubResult
from directview._view_targets import K, Targeted, Targets
from directview.result import AsyncResult

__all__ = ["Control"]


class Control(Targeted[K]):
    """The operations of a view that look after calls and engines. Each behaves as the client's does."""

    # --- the calls that were made through it --------------------------------------------------------------

    @property
    def history(self) -> list[str]:
        """The msg_ids of the calls made through this view, oldest first."""
        return self.client._msg_ids([call for calls in list(self._made) for call in calls])

    @property
    def outstanding(self) -> set[str]:
        """Those of them that have not ended."""
        return self.client.outstanding.intersection(self.history)

    @property
    def results(self) -> Mapping[str, Any]:
        """As `Client.results`."""
        return self.client.results

    def get_result(self, ids: Any = None, block: bool | None = None, owner: bool = True) -> AsyncResult[Any]:
        """As `Client.get_result`; but an int counts the results of this view: -1 is its last.

        Args:
            ids: an int; or msg_ids, an AsyncResult, a list of these. None: the last result.
            block: wait until it is done; None: as the view's `block`.
            owner: accepted for programs that pass it.

        Raises:
            KeyError: the result is not kept any more.
            IndexError: there was no such call.
        """
        block = self._blocks(block)
        if ids is None:
            ids = -1
        if not hasattr(ids, "__index__"):
            return self.client.get_result(ids, block, owner)
        made = list(self._made)
        try:
            calls = made[ids]
        except IndexError:
            raise IndexError(f"result {ids} of a view that has made {len(made)} calls") from None
        return self.client.get_result(self.client._msg_ids(calls), block, owner)

    def get_result_async(self, ids: Any = None) -> AsyncResult[Any]:
        """`get_result` that does not wait: the `AsyncResult`, to await or `get` later."""
        return self.get_result(ids, block=False)

    def get_result_sync(self, ids: Any = None) -> AsyncResult[Any]:
        """`get_result` that waits until the call has ended, and raises nothing of its own."""
        return self.get_result(ids, block=True)

    def wait(self, jobs: Any = None, timeout: float | None = None) -> bool:
        """As `Client.wait`. None: all calls of this view."""
        return self.client.wait(list(self.outstanding) if jobs is None else jobs, timeout)

    async def wait_async(self, jobs: Any = None, timeout: float | None = None) -> bool:
        """`wait` for event loops. May be cancelled, which ends the waiting and no call."""
        return await self.client.wait_async(list(self.outstanding) if jobs is None else jobs, timeout)

    def abort(self, jobs: Any = None, targets: Targets | None = None, block: bool | None = None) -> None:
        """As `Client.abort`, for this view's engines."""
        self.client.abort(jobs, self._whose(targets), self._blocks(block))

    async def abort_async(self, jobs: Any = None, targets: Targets | None = None) -> None:
        """`abort` for event loops: waits until every engine has answered. May be cancelled."""
        await self.client.abort_async(jobs, self._whose(targets))

    def abort_sync(self, jobs: Any = None, targets: Targets | None = None) -> None:
        """`abort` that waits until every engine has answered."""
        self.client.abort_sync(jobs, self._whose(targets))

    def _whose(self, targets: Targets | None) -> Any:
        return self._targets if targets is None and self._targets != "all" else targets

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """As `Client.purge_results`. ``'all'`` targets: this view's."""
        self.client.purge_results(jobs, self._doomed(targets))

    async def purge_results_async(self, jobs: Any = (), targets: Any = ()) -> None:
        """`purge_results` for event loops. May be cancelled."""
        await self.client.purge_results_async(jobs, self._doomed(targets))

    def _doomed(self, targets: Any) -> Any:
        return list(self._ids(None)) if isinstance(targets, str) and targets == "all" else targets

    # --- its engines --------------------------------------------------------------------------------------

    def queue_status(self, targets: Targets | None = None, verbose: bool = False) -> dict[Any, Any]:
        """As `Client.queue_status`, for this view's engines."""
        return self.client.queue_status(self._asked(targets), verbose)

    async def queue_status_async(
        self, targets: Targets | None = None, verbose: bool = False
    ) -> dict[Any, Any]:
        """`queue_status` for event loops. May be cancelled."""
        return await self.client.queue_status_async(self._asked(targets), verbose)

    def _asked(self, targets: Targets | None) -> int | list[int]:
        ids = self._ids(targets)
        return ids[0] if self._is_one(targets) else list(ids)

    def shutdown(
        self,
        targets: Targets | None = None,
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> Any:
        """As `Client.shutdown`, for this view's engines."""
        return self.client.shutdown(list(self._ids(targets)), restart, hub, self._blocks(block))

    def shutdown_async(
        self, targets: Targets | None = None, restart: bool = False, hub: bool = False
    ) -> AsyncHubResult[None]:
        """`shutdown` that does not wait: an `AsyncHubResult`, to await or `get` later."""
        return self.client.shutdown_async(list(self._ids(targets)), restart, hub)

    def shutdown_sync(self, targets: Targets | None = None, restart: bool = False, hub: bool = False) -> None:
        """`shutdown` that waits."""
        self.client.shutdown_sync(list(self._ids(targets)), restart, hub)

    def kill(self, targets: Targets | None = None, block: bool | None = None) -> Any:
        """As `Client.kill`, for this view's engines."""
        return self.client.kill(list(self._ids(targets)), self._blocks(block))

    def kill_async(self, targets: Targets | None = None) -> AsyncHubResult[None]:
        """`kill` that does not wait: an `AsyncHubResult`, to await or `get` later."""
        return self.client.kill_async(list(self._ids(targets)))

    def kill_sync(self, targets: Targets | None = None) -> None:
        """`kill` that waits."""
        self.client.kill_sync(list(self._ids(targets)))

    # --- how things are pickled ---------------------------------------------------------------------------

    def use_dill(self) -> None:
        """Accepted for programs that call it: functions, closures and classes travel anyway."""

    def use_cloudpickle(self) -> None:
        """Accepted for programs that call it: functions, closures and classes travel anyway."""

    def use_pickle(self) -> None:
        """Accepted for programs that call it: plain data travel as fast."""
