"""Pure: who is measured, and what each needs. To add a library, write its file and add a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.report import SUBJECT, Role
from benchmarks.works import Kind, Work

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


SPECS: Sequence[Spec] = (
    Spec(
        SUBJECT,
        "directview",
        "subject",
        "benchmarks.peers.directview:DirectviewPeer",
        # Folders of its own: `directview stop --all` in another terminal is none of its business.
        env={"XDG_RUNTIME_DIR": "{scratch}", "XDG_STATE_HOME": "{scratch}"},
    ),
    Spec(
        "ipyparallel",
        "ipyparallel 9.2",
        "peer",
        "benchmarks.peers.ipyparallel:IPyParallelPeer",
        ("ipyparallel==9.2.*", "numpy=={numpy}", "pyzmq=={pyzmq}"),
        {"IPYTHONDIR": "{scratch}/ipython", "JUPYTER_RUNTIME_DIR": "{scratch}/jupyter"},
    ),
    Spec(
        "dask",
        "dask.distributed",
        "peer",
        "benchmarks.peers.dask:DaskPeer",
        ("distributed>=2026.8", "numpy=={numpy}"),
        {"DASK_TEMPORARY_DIRECTORY": "{scratch}/dask"},
    ),
    Spec(
        "ray",
        "Ray (actors)",
        "peer",
        "benchmarks.peers.ray:RayPeer",
        ("ray>=2.60", "numpy=={numpy}"),
        {"RAY_TMPDIR": "{scratch}", "RAY_USAGE_STATS_ENABLED": "0"},
    ),
    Spec(
        "mpi",
        "mpi4py (mpich)",
        "peer",
        "benchmarks.peers.mpi:MpiPeer",
        ("mpi4py>=4.1", "mpich>=5.0", "cloudpickle=={cloudpickle}", "numpy=={numpy}"),
    ),
    Spec("futures", "ProcessPoolExecutor", "peer", "benchmarks.peers.futures:FuturesPeer"),
    Spec("bare-relay", "bare relay", "limit", "benchmarks.limits.relay:BareRelay"),
    Spec("chunked-relay", "chunked relay", "limit", "benchmarks.limits.chunks:ChunkedRelay"),
    Spec("memcpy", "memcpy", "limit", "benchmarks.limits.memcpy:Memcpy"),
)
"""In the order in which they are shown."""


def choose_specs(names: Sequence[str]) -> list[Spec]:
    """directview, the named peers (none named: all), and the limit programs.

    Args:
        names: of peers; ``none`` for no peer at all; limit programs may be named too, and then only the
            named ones run.

    Raises:
        ValueError: a name that nobody has; the text lists the names.
    """
    known = {spec.name for spec in SPECS}
    for name in names:
        if name not in known and name != "none":
            raise ValueError(f"there is no peer {name!r}; there is {', '.join(sorted(known))}")
    limits = {spec.name for spec in SPECS if spec.role == "limit"}
    return [
        spec
        for spec in SPECS
        if spec.role == "subject"
        or not names
        or spec.name in names
        or (spec.role == "limit" and not limits.intersection(names))
    ]


def takes_part(spec: Spec, work: Work) -> bool:
    """Whether this work is asked of it: of a limit program only where it is named as the limit."""
    if spec.role == "limit":
        return spec.name in work.limits and work.kind not in (Kind.START, Kind.MEMORY)
    return True
