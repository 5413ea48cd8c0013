"""What a `Cluster` is told, checked: each error names the argument, and what to do instead."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from directview import _checking
from directview.controller._metrics import address_of

__all__ = [
    "check_arguments",
    "check_detached",
    "check_env",
    "check_ids",
    "check_metrics",
    "check_names",
    "check_numbers",
    "cores",
    "signal_number",
    "uuids_of",
]

_INSTEAD: Final = {
    "sshserver": "make a tunnel with `ssh -L` to the controller's TCP port, and copy the connection file",
    "engine_launcher_class": "start engines by hand: `mpiexec -n 4 directview engine --profile NAME`",
    "controller_launcher_class": "start the controller by hand: `directview controller --profile NAME`",
    "controller_ip": "it is called `ip` here",
    "profile_dir": "name a `profile`; its folder is directview's own affair",
    "controller_args": "use the arguments of Cluster",
    "engine_args": "use the arguments of Cluster",
}
_HARMLESS: Final = frozenset({"delay", "send_engines_connection_env", "engine_timeout", "config", "parent"})


def check_arguments(
    n: int | None, engines: str, start_method: str, unsupported: Mapping[str, Any], kind: type
) -> None:
    """Raise ValueError or TypeError for what a Cluster can't be, or has no use for."""
    if n is not None and (type(n) is not int or n < 0):
        raise ValueError(f"n: expected a number of engines, got {n!r}")
    if not isinstance(engines, str):
        raise TypeError(
            f"engines: 'local' is all there is, got {engines!r:.60}; their number is n: Cluster(n=4)"
        )
    if engines != "local":
        raise ValueError(
            f"engines={engines!r}: a Cluster starts engines on this machine only; start others with "
            f"`{'mpiexec' if 'mpi' in engines else 'srun'} directview engine --profile NAME`"
        )
    if start_method not in ("fork", "exec"):
        raise ValueError(f"start_method: 'fork' or 'exec', got {start_method!r}")
    for name in unsupported:
        if name in _HARMLESS:
            continue
        hint = _INSTEAD.get(name)
        if hint is None:
            raise _checking.unknown("Cluster()", name, kind)
        raise TypeError(f"Cluster() does without {name!r}: {hint}")


def check_detached(results: Any, nbytes: Any, age: Any) -> dict[str, Any]:
    """What is kept of detached calls, as fields of `ControllerOptions`; raise ValueError unless it can be."""
    for name, value in (("results", results), ("bytes", nbytes), ("age", age)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"detached_{name}: expected a number of 0 or more, got {value!r:.60}")
    return {"detached_results": int(results), "detached_bytes": int(nbytes), "detached_age": float(age)}


def check_env(env: Any) -> None:
    """Raise TypeError unless these are environment variables, or None."""
    if env is None:
        return
    if not isinstance(env, Mapping):
        raise TypeError(f"env: expected a dict of environment variables, got {env!r:.60}")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env: names and values are text, got {name!r:.60}: {value!r:.60}")


def check_ids(engine_ids: Any) -> list[int]:
    """Engine ids as a list; raise TypeError if they are none."""
    if isinstance(engine_ids, str) or not isinstance(engine_ids, Iterable):
        raise TypeError(f"engine_ids: expected a list of engine ids, got {engine_ids!r:.60}")
    return list(engine_ids)


def signal_number(signum: Any) -> int:
    """The number of a signal; raise ValueError if there is no such signal."""
    try:
        return int(signal.Signals[signum.upper()] if isinstance(signum, str) else signal.Signals(signum))
    except (ValueError, KeyError):
        raise ValueError(f"{signum!r:.60} is no signal: give a number, or a name such as 'SIGTERM'") from None


def check_names(**given: Any) -> None:
    """Raise TypeError unless each is text, or None."""
    for what, value in given.items():
        _checking.text(value, what)


def check_numbers(start_timeout: Any, port: Any) -> None:
    """Raise TypeError or ValueError unless these are seconds and a port."""
    _checking.seconds(start_timeout, "start_timeout")
    if type(port) is not int or not 0 <= port <= 65_535:
        raise ValueError(f"port: expected a number from 0 to 65535, got {port!r:.60}")


def check_metrics(metrics: Any) -> str:
    """``[HOST:]PORT`` as text, empty for None; raise ValueError or TypeError if it is neither."""
    if metrics is None:
        return ""
    if type(metrics) not in (int, str):
        raise TypeError(f"metrics: expected a port, or HOST:PORT, got {metrics!r:.60}")
    address_of(str(metrics))
    return str(metrics)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def uuids_of(engines: Mapping[int, Any], engine_ids: Sequence[int]) -> list[str]:
    """The uuids of engines, in hex; raise IndexError if one isn't there."""
    unknown = [id for id in engine_ids if id not in engines]
    if unknown:
        raise IndexError(f"there is no engine {', '.join(map(str, unknown))}; there are {list(engines)}")
    return [engines[id].uuid.hex() for id in engine_ids]
