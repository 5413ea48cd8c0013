"""Tools for testing what is built on directview: a loop in virtual time, and links without a network.

With these a whole cluster runs in one process, without sockets, threads or waiting, and the same way each
time: delays come from a seeded generator, faults are verbs (`hold`, `freeze`, `drop`, `cut`), and an hour of
timeouts passes at once.
"""

from __future__ import annotations

from directview.testing.loop import NothingLeft, VirtualTimeLoop, run
from directview.testing.memory import MemoryLink, MemoryRouter
from directview.testing.network import Network
from directview.testing.simulation import SimulatedCluster

__all__ = [
    "MemoryLink",
    "MemoryRouter",
    "Network",
    "NothingLeft",
    "SimulatedCluster",
    "VirtualTimeLoop",
    "run",
]
