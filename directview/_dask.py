"""Engines as dask workers: the scheduler runs in the client's process, a worker in each engine's loop."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Scheduler", "start_worker", "stop_worker"]

_PATIENCE = 30.0
"""Seconds that a worker has to reach the scheduler."""


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise ImportError(
            "become_dask needs the package `distributed` (pip install distributed), here and on the engines"
        ) from error


class Scheduler:
    """A dask scheduler in this process, and a dask client of it.

    Args:
        port: where it listens; 0: a free one.
        options: further arguments of ``distributed.LocalCluster``, such as `host`.
    """

    def __init__(self, port: int, options: dict[str, Any]) -> None:
        distributed = _distributed()
        # It serves HTTP, dashboard or not: on a free port, and on this machine alone.
        options = {"dashboard_address": "127.0.0.1:0", **options}
        self._cluster = distributed.LocalCluster(n_workers=0, scheduler_port=port, **options)
        self.client = distributed.Client(self._cluster)

    @property
    def address(self) -> str:
        """Where workers find it."""
        return str(self._cluster.scheduler_address)

    def close(self) -> None:
        """End it, and its client."""
        self.client.close()
        self._cluster.close()


_workers: list[Any] = []


async def start_worker(address: str, options: dict[str, Any]) -> str:
    """Make this engine a worker; its address.

    Args:
        address: of the scheduler.
        options: arguments of ``distributed.Worker``.
    """
    worker = await _distributed().Worker(
        address, **{"dashboard": False, "death_timeout": _PATIENCE, **options}
    )
    _workers.append(worker)
    return str(worker.address)


async def stop_worker() -> None:
    """Make this engine no worker."""
    while _workers:
        await _workers.pop().close()
