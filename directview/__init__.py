"""directview: a group of Python engines that you can hold in your hand.

A client connects to a controller, sees engines by id, and is indexed to get a `DirectView`::

    from directview import Cluster

    with Cluster(n=4) as rc:
        view = rc[:]
        view["a"] = 5
        print(view.apply_sync(lambda x: a + x, 27))

Names are imported when they are first used: engines import this package too, and need little of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

    from directview import error, errors
    from directview._answers import AsyncHubResult
    from directview.balanced import Dependency, LoadBalancedView
    from directview.client import Client
    from directview.cluster import Cluster
    from directview.dependencies import Reference, depend, dependent, interactive, require
    from directview.errors import (
        ClientClosed,
        CompositeError,
        ConnectionRejected,
        ControllerLost,
        ControllerUnreachable,
        DirectViewError,
        EngineError,
        ImpossibleDependency,
        IPythonError,
        KernelError,
        LaunchError,
        NoEnginesRegistered,
        RemoteError,
        ResultUnavailable,
        SerializationError,
        TaskAborted,
        TaskTimeout,
        TimeoutError,
        UnmetDependency,
        UnmetDependencyError,
        WouldBlockLoop,
    )
    from directview.events import EngineEvent
    from directview.executor import ViewExecutor, register_joblib_backend
    from directview.functions import ParallelFunction, RemoteFunction, parallel, remote
    from directview.kernel import bind_kernel
    from directview.lazy import LazyMap
    from directview.prepickled import PrePickled
    from directview.reply import ExecuteReply
    from directview.result import AsyncMapResult, AsyncResult
    from directview.sharing import Shared
    from directview.streams import Stream
    from directview.view import BroadcastView, DirectView, EngineView, Many, One

_HOMES = {
    "ALL_COMPLETED": "concurrent.futures",
    "AsyncHubResult": "directview._answers",
    "AsyncMapResult": "directview.result",
    "AsyncResult": "directview.result",
    "BroadcastView": "directview.view",
    "Client": "directview.client",
    "ClientClosed": "directview.errors",
    "Cluster": "directview.cluster",
    "CompositeError": "directview.errors",
    "ConnectionRejected": "directview.errors",
    "ControllerLost": "directview.errors",
    "ControllerUnreachable": "directview.errors",
    "Dependency": "directview.balanced",
    "DirectView": "directview.view",
    "DirectViewError": "directview.errors",
    "EngineError": "directview.errors",
    "EngineEvent": "directview.events",
    "EngineView": "directview.view",
    "ExecuteReply": "directview.reply",
    "FIRST_COMPLETED": "concurrent.futures",
    "FIRST_EXCEPTION": "concurrent.futures",
    "IPythonError": "directview.errors",
    "ImpossibleDependency": "directview.errors",
    "KernelError": "directview.errors",
    "LaunchError": "directview.errors",
    "LazyMap": "directview.lazy",
    "LoadBalancedView": "directview.balanced",
    "Many": "directview.view",
    "NoEnginesRegistered": "directview.errors",
    "One": "directview.view",
    "ParallelFunction": "directview.functions",
    "PrePickled": "directview.prepickled",
    "Reference": "directview.dependencies",
    "RemoteError": "directview.errors",
    "ResultUnavailable": "directview.errors",
    "RemoteFunction": "directview.functions",
    "SerializationError": "directview.errors",
    "Shared": "directview.sharing",
    "Stream": "directview.streams",
    "TaskAborted": "directview.errors",
    "TaskTimeout": "directview.errors",
    "TimeoutError": "directview.errors",
    "UnmetDependency": "directview.errors",
    "UnmetDependencyError": "directview.errors",
    "ViewExecutor": "directview.executor",
    "WouldBlockLoop": "directview.errors",
    "bind_kernel": "directview.kernel",
    "depend": "directview.dependencies",
    "dependent": "directview.dependencies",
    "interactive": "directview.dependencies",
    "parallel": "directview.functions",
    "register_joblib_backend": "directview.executor",
    "remote": "directview.functions",
    "require": "directview.dependencies",
}
"""Where each public name lives."""
_MODULES = ("error", "errors")

__version__ = "0.1.0"
version_info = (0, 1, 0)

__all__ = [
    "ALL_COMPLETED",
    "AsyncHubResult",
    "AsyncMapResult",
    "AsyncResult",
    "BroadcastView",
    "Client",
    "ClientClosed",
    "Cluster",
    "CompositeError",
    "ConnectionRejected",
    "ControllerLost",
    "ControllerUnreachable",
    "Dependency",
    "DirectView",
    "DirectViewError",
    "EngineError",
    "EngineEvent",
    "EngineView",
    "ExecuteReply",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "IPythonError",
    "ImpossibleDependency",
    "KernelError",
    "LaunchError",
    "LazyMap",
    "LoadBalancedView",
    "Many",
    "NoEnginesRegistered",
    "One",
    "ParallelFunction",
    "PrePickled",
    "Reference",
    "RemoteError",
    "ResultUnavailable",
    "RemoteFunction",
    "SerializationError",
    "Shared",
    "Stream",
    "TaskAborted",
    "TaskTimeout",
    "TimeoutError",
    "UnmetDependency",
    "UnmetDependencyError",
    "ViewExecutor",
    "WouldBlockLoop",
    "bind_kernel",
    "depend",
    "dependent",
    "error",
    "errors",
    "interactive",
    "parallel",
    "register_joblib_backend",
    "remote",
    "require",
    "version_info",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"directview.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'directview' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext directview``: registers ``%px`` and its kin (see `directview.magics`)."""
    importlib.import_module("directview.magics").load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext directview``."""
    importlib.import_module("directview.magics").unload_ipython_extension(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
