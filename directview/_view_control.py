"""What a view knows of its own calls, and what it does to its engines beside calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    def wait(self, jobs: Any = None, timeout: float | None = None) -> bool:
        """As `Client.wait`. None: all calls of this view."""
        return self.client.wait(list(self.outstanding) if jobs is None else jobs, timeout)

    def abort(self, jobs: Any = None, targets: Targets | None = None, block: bool | None = None) -> None:
        """As `Client.abort`, for this view's engines."""
        chosen = self._targets if targets is None and self._targets != "all" else targets
        self.client.abort(jobs, chosen, self._blocks(block))

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """As `Client.purge_results`. ``'all'`` targets: this view's."""
        self.client.purge_results(jobs, list(self._ids(None)) if targets == "all" else targets)

    # --- its engines --------------------------------------------------------------------------------------

    def queue_status(self, targets: Targets | None = None, verbose: bool = False) -> dict[Any, Any]:
        """As `Client.queue_status`, for this view's engines."""
        if self._is_one(targets):
            return self.client.queue_status(self._ids(targets)[0], verbose)
        return self.client.queue_status(list(self._ids(targets)), verbose)

    def shutdown(
        self,
        targets: Targets | None = None,
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> Any:
        """As `Client.shutdown`, for this view's engines."""
        return self.client.shutdown(list(self._ids(targets)), restart, hub, self._blocks(block))

    # --- how things are pickled ---------------------------------------------------------------------------

    def use_dill(self) -> None:
        """Accepted for programs that call it: functions, closures and classes travel anyway."""

    def use_cloudpickle(self) -> None:
        """Accepted for programs that call it: functions, closures and classes travel anyway."""

    def use_pickle(self) -> None:
        """Accepted for programs that call it: plain data travel as fast."""
