"""``directview report``: the state of a cluster and its machine, for a bug report, without users' data."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from directview.commands.options import chosen, plain_errors
from directview.commands.running import run

if TYPE_CHECKING:
    from directview.connection import ConnectionInfo

__all__ = ["report"]

_PACKAGES: Final = (
    "directview", "anyio", "click", "cloudpickle", "ipykernel", "ipython", "joblib", "msgpack", "numpy",
    "platformdirs", "prometheus-client", "psutil", "py-spy", "pyzmq", "uvloop",
)  # fmt: skip
_VARIABLES: Final = ("DIRECTVIEW_", "OMP_", "OPENBLAS_", "MKL_", "PYTHONASYNCIODEBUG", "XDG_", "ZMQ_")
_LINES: Final = 200
_PARTS: Final = (0, 50, 90, 99, 100)
"""Per cent of the calls that are quicker, or smaller."""


@click.command()
@chosen
@click.option("--names", is_flag=True, help="With the names of functions, as far as they are known.")
@plain_errors
def report(profile: str | None, cluster_id: str | None, path: str | None, names: bool) -> None:
    """Print, as JSON, what a bug report should say of a cluster: versions, figures, states, our own logs.

    No arguments, results, output or code of yours is in it; the machine's name and the path of your home are
    replaced. Of a cluster that doesn't run or answer, what can still be said is said.
    """
    click.echo(_without_places(json.dumps(run(_collected(profile, cluster_id, path, names)), indent=1)))


async def _collected(
    profile: str | None, cluster_id: str | None, path: str | None, names: bool
) -> dict[str, Any]:
    from directview.connection import find
    from directview.errors import DirectViewError

    found: dict[str, Any] = {
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": _versions(),
        "machine": _machine(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)
        },
    }
    try:
        info = find(profile, cluster_id, path)
        found["cluster"] = await asyncio.wait_for(_cluster(info, names), 20.0)
    except (DirectViewError, OSError, ValueError) as error:
        found["cluster"] = {"error": f"{type(error).__name__}: {error}"}
    found.update(_files(profile, cluster_id, path))
    return found


def _versions() -> dict[str, Any]:
    from directview.wire.sockets import libzmq_version

    found: dict[str, Any] = {"python": sys.version, "libzmq": libzmq_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _machine() -> dict[str, Any]:
    import resource

    import psutil

    def free(path: str) -> dict[str, int]:
        usage = psutil.disk_usage(path)
        return {"total": usage.total, "free": usage.free}

    found: dict[str, Any] = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory": psutil.virtual_memory().total,
        "available": psutil.virtual_memory().available,
        "load": os.getloadavg(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "root": os.geteuid() == 0,
    }
    for path in ("/dev/shm", "/tmp"):
        with contextlib.suppress(OSError):
            found[path] = free(path)
    return found


async def _cluster(info: ConnectionInfo, names: bool) -> dict[str, Any]:
    from directview.client import Client
    from directview.commands.status import measured
    from directview.errors import LaunchError
    from directview.supervisor.control import SupervisorFile, request

    async with Client(info) as client:
        found = await measured(client, info, 0.5)
        records = await client.db_query_async({})
    for death in found.get("deaths", ()):
        death.pop("last_words", None)
        if not names:
            death.pop("running", None)
    found["history"] = _history(records, names)
    found["connection"] = {"tcp": info.tcp is not None, "age": round(time.time() - info.created, 1)}
    file = SupervisorFile.read(Path(info.source).parent)
    if file is not None:
        try:
            found["supervisor"] = await request(file.control, "status", 5.0)
        except LaunchError as error:
            found["supervisor"] = {"error": str(error)}
    return found


def _history(records: list[dict[str, Any]], names: bool) -> dict[str, Any]:
    """The last calls in figures."""

    def spread(seconds: Iterable[float]) -> dict[str, float]:
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return {f"{part}%": ordered[last * part // 100] for part in _PARTS if ordered}

    def between(start: str, end: str) -> dict[str, float]:
        both = [record for record in records if record[start] and record[end]]
        return spread((record[end] - record[start]).total_seconds() for record in both)

    found: dict[str, Any] = {
        "calls": len(records),
        "status": Counter(str(record["status"]) for record in records),
        "engines": Counter(str(record["engine_id"]) for record in records),
        "waited": between("submitted", "started"),
        "ran": between("started", "completed"),
        "bytes": spread(float(record["nbytes"] or 0) for record in records),
    }
    if names:
        found["names"] = dict(Counter(str(record["name"]) for record in records).most_common(50))
    return found


def _files(profile: str | None, cluster_id: str | None, path: str | None) -> dict[str, Any]:
    """What is in the cluster's folders, and the end of our own logs: no output of the user's."""
    from directview._log_reading import Wanted, log_folders, merged, shown
    from directview.connection import ConnectionFileNotFound

    try:
        folders = log_folders(profile, cluster_id, path)
    except ConnectionFileNotFound as error:
        return {"logs": [str(error)]}
    lines = [line for line in merged(folders, Wanted(level=0)) if line.level != "output"]
    return {
        "files": [
            f"{file.stat().st_mode & 0o7777:o} {file.stat().st_size} {file.relative_to(folder.parent)}"
            for folder in folders
            for file in sorted(folder.rglob("*"))
            if file.exists()
        ],
        "logs": [shown(line) for line in lines[-_LINES:]],
    }


def _without_places(text: str) -> str:
    """Without what names the user or the machine."""
    home = str(Path.home())
    if home != "/":
        text = text.replace(home, "~")
    names = {socket.gethostname(), platform.node(), socket.gethostname().partition(".")[0]} - {
        "",
        "localhost",
    }
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w])", "HOST", text)
    return text
