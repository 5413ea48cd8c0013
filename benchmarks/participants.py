"""Pure: who is measured, and what each needs. To add a library, write its file and add a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.report import SUBJECT, Role
from benchmarks.works import Depth, Kind, Work

__all__ = ["SPECS", "Spec", "choose_specs", "takes_part"]


@dataclass(frozen=True)
class Spec:
    """One library or limit program."""

    name: str
    title: str
    role: Role
    peer: str
    """``module:Class`` of its `benchmarks.peer.Peer`."""
    requirements: Sequence[str] = ()
    """What pip installs into an environment of its own; none: it runs in the harness's. ``{name}`` stands
    for the version of that distribution in the harness's environment, so that all use the same numpy."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables; ``{scratch}`` stands for a folder that goes away with the run."""


_OWN_FOLDERS = {"XDG_RUNTIME_DIR": "{scratch}", "XDG_STATE_HOME": "{scratch}"}
"""`directview stop --all` in another terminal is none of its business."""
_NO_MEMORY = {"DIRECTVIEW_SHARED_MEMORY": "0"}
_OBJECTS = ("numpy=={numpy}", "pandas=={pandas}", "pyarrow=={pyarrow}")
"""What travels, of the same version everywhere."""

SPECS: Sequence[Spec] = (
    Spec(
        SUBJECT,
        "directview",
        "subject",
        "benchmarks.peers.directview:DirectviewPeer",
        env=_OWN_FOLDERS,
    ),
    Spec(
        "directview-sockets",
        "without shared memory",
        "variant",
        "benchmarks.peers.directview:DirectviewPeer",
        env={**_OWN_FOLDERS, **_NO_MEMORY},
    ),
    Spec(
        "directview-curve",
        "TCP with CURVE",
        "variant",
        "benchmarks.peers.directview_curve:DirectviewCurvePeer",
        env={**_OWN_FOLDERS, **_NO_MEMORY},
    ),
    Spec("bare-relay", "bare relay", "limit", "benchmarks.limits.relay:BareRelay"),
    Spec("unix-socket", "bare unix socket", "limit", "benchmarks.limits.unix:UnixSocket"),
    Spec("chunked-relay", "chunked relay", "limit", "benchmarks.limits.chunks:ChunkedRelay"),
    Spec("two-copy", "two copies in shared memory", "limit", "benchmarks.limits.arena:TwoCopies"),
    Spec("memcpy", "memcpy", "limit", "benchmarks.limits.memcpy:Memcpy"),
    Spec("pickling", "pickling alone", "limit", "benchmarks.limits.maps:Pickling"),
    Spec("serial", "one process", "limit", "benchmarks.limits.maps:Serial"),
    Spec(
        "ipyparallel",
        "ipyparallel 9.2",
        "peer",
        "benchmarks.peers.ipyparallel:IPyParallelPeer",
        ("ipyparallel==9.2.0", *_OBJECTS[:1], "pyzmq=={pyzmq}", *_OBJECTS[1:]),
        {"IPYTHONDIR": "{scratch}/ipython", "JUPYTER_RUNTIME_DIR": "{scratch}/jupyter"},
    ),
    Spec("futures", "ProcessPoolExecutor", "peer", "benchmarks.peers.futures:FuturesPeer"),
    Spec(
        "ray",
        "Ray (actors)",
        "peer",
        "benchmarks.peers.ray:RayPeer",
        ("ray==2.60.0", *_OBJECTS),
        {"RAY_TMPDIR": "{scratch}", "RAY_USAGE_STATS_ENABLED": "0"},
    ),
    Spec(
        "mpi",
        "mpi4py (mpich)",
        "peer",
        "benchmarks.peers.mpi:MpiPeer",
        ("mpi4py==4.1.2", "mpich==5.0.2", "cloudpickle=={cloudpickle}", *_OBJECTS),
    ),
    Spec(
        "dask",
        "dask.distributed",
        "peer",
        "benchmarks.peers.dask:DaskPeer",
        ("distributed==2026.8.0", *_OBJECTS),
        {"DASK_TEMPORARY_DIRECTORY": "{scratch}/dask"},
    ),
)
"""In the order in which they are shown, and in which the first round goes: if its time runs out, whoever
the fewest promises name is left."""


def choose_specs(names: Sequence[str]) -> list[Spec]:
    """directview, the named peers (none named: all), its variants, and the limit programs.

    Args:
        names: of peers; ``none`` for no peer at all; variants and limit programs may be named too, and then
            only the named ones of their kind run.

    Raises:
        ValueError: a name that nobody has; the text lists the names.
    """
    roles = {spec.name: spec.role for spec in SPECS}
    for name in names:
        if name not in roles and name != "none":
            raise ValueError(f"there is no peer {name!r}; there is {', '.join(sorted(roles))}")
    limited = {roles[name] for name in names if name != "none"} | ({"peer"} if names else set())
    return [
        spec for spec in SPECS if spec.role == "subject" or spec.name in names or spec.role not in limited
    ]


def takes_part(spec: Spec, work: Work, depth: Depth = Depth.NORMAL) -> bool:
    """Whether this work is asked of it: of a limit program only where it is named as the limit."""
    match spec.role:
        case "subject":
            return True
        case "variant":
            return work.variants
        case "limit":
            return spec.name in work.limits and work.kind not in (Kind.START, Kind.MEMORY)
        case "peer":
            if depth is Depth.QUICK and work.quick_peers is not None and spec.name not in work.quick_peers:
                return False
            return work.peers
