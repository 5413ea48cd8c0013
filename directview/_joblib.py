"""joblib on engines, and so whatever stands on joblib: scikit-learn's ``n_jobs``.

joblib calls back on the client's own thread when a batch has ended, and sends the next one from there.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from directview.balanced import LoadBalancedView
from directview.client import Client
from directview.errors import ControllerUnreachable
from directview.result import AsyncResult

__all__ = ["register"]

log: Final = logging.getLogger("directview")

_lock: Final = threading.Lock()
_default: list[LoadBalancedView] = []
"""The view of a backend that was registered without one, once it has been used."""


def register(name: str, make_default: bool, view: LoadBalancedView | None) -> None:
    """As `directview.register_joblib_backend`; with a view, for its engines."""
    if not isinstance(name, str):
        raise TypeError(f"a backend's name is a str, not {name!r:.60}")
    factory = partial(DirectViewBackend, view)
    names = [name, "ipyparallel"] if name == "directview" else [name]
    for one in reversed(names):
        register_parallel_backend(one, factory, make_default=make_default and one == name)


class DirectViewBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc] # joblib has no types
    """A joblib backend: each batch is one balanced call.

    Args:
        view: where batches run; None: on the default profile's cluster.
        options: of joblib.
    """

    supports_retrieve_callback = True

    def __init__(self, view: LoadBalancedView | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._given = view
        self._open: set[concurrent.futures.Future[Any]] = set()

    @property
    def _view(self) -> LoadBalancedView:
        return self._given if self._given is not None else _default_view()

    # joblib has no types, and pyright takes its defaults for them.

    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """How many batches run at a time: as many as there are engines for -1, one for None."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, len(self._view) + 1 + n_jobs)

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, n_jobs: int = 1, parallel: Any = None, **options: Any
    ) -> int:
        """Prepare for a `Parallel`; how many batches will run at a time.

        Raises:
            WouldBlockLoop: joblib blocks, which is not possible on the loop that the client is bound to.
        """
        self._view.client.check_may_block("joblib", "`await asyncio.to_thread(...)`")
        super().configure(n_jobs, parallel, **options)
        return self.effective_n_jobs(n_jobs)

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None
    ) -> concurrent.futures.Future[Any]:
        """Run a batch; `callback` is called with what is returned when that has ended."""
        ended = partial(self._ended, callback)
        try:
            future = self._view._call_telling(ended, func, (), {}, name="joblib batch")
        except Exception as error:  # noqa: BLE001 - joblib waits for what can't be sent as well
            failed: concurrent.futures.Future[Any] = concurrent.futures.Future()
            failed.set_exception(error)
            self._view.client._binding.core().post(lambda: ended(failed))
            return failed
        self._open.add(future)
        if future.done():
            self._open.discard(future)
        return future

    def _ended(
        self, callback: Callable[[Any], object] | None, future: concurrent.futures.Future[Any]
    ) -> None:
        self._open.discard(future)
        if isinstance(future, AsyncResult):
            future._look()  # joblib does, unless another batch has failed before
        if callback is not None:
            try:
                callback(future)
            except Exception:
                log.exception("joblib could not take a result")

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """The values of a batch that has ended, or its error raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not ended."""
        for future in list(self._open):
            future.cancel()


def _default_view() -> LoadBalancedView:
    with _lock:
        if not _default or _default[0].client._binding.closed:
            _default[:] = [_default_client().load_balanced_view()]
        return _default[0]


def _default_client() -> Client:
    try:
        client = Client(timeout=2)
    except (FileNotFoundError, ControllerUnreachable):
        # Looked up: clusters stand above clients, and only this default needs one.
        started: Client = importlib.import_module("directview.cluster").Cluster().start_and_connect_sync()
        return started
    client.wait_for_engines(timeout=10)
    return client
