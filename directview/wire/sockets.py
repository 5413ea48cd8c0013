"""How every zmq socket of ours is opened: one place for the options that keep a cluster alive.

The options are measured, not chosen by taste. High-water marks are 0, because a busy engine with 3,000
small calls waiting behind the default mark stops answering heartbeats and is declared dead; our own
credit bounds what may be waiting. Heartbeats are answered by libzmq's own thread, so they say nothing
about a busy interpreter, only about a dead or stopped process or network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, TypeAlias

import zmq
import zmq.asyncio

from directview.wire.messages import MAX_FRAME_BYTES

__all__ = [
    "libzmq_version",
    "CLIENT",
    "LAX",
    "NEVER_RECONNECT_MS",
    "SMALL_FRAME",
    "TIGHT",
    "Frame",
    "Heartbeat",
    "new_context",
    "open_socket",
    "shared_context",
]

Frame: TypeAlias = bytes | memoryview
"""One frame of a message that arrived. Large ones are views of libzmq's own memory, without a copy;
handed to a `send`, such a view travels on by reference."""

SMALL_FRAME: Final = 8192
"""Bytes below which a frame is copied out. libzmq reads from the network 8 KiB at a time and hands out
slices of that block, which are mostly unaligned and keep the whole block alive; a larger frame has
memory of its own. Copying 8 kB costs about what the view's own bookkeeping costs."""

HANDSHAKE_SECONDS: Final = 3.0
"""Time for the ZMTP and CURVE handshake of one connection; after it libzmq drops the connection."""

NEVER_RECONNECT_MS: Final = 24 * 3600 * 1000
"""libzmq's reconnect interval. "Off" (-1) would do more than we want: when the connection ends it also
tears down the pipe, so that messages that arrived but are not yet read are lost (2,000 of 2,000 in a
test), and a message that is being read at that moment aborts the whole process (`fq.cpp:
Assertion failed: !_more`). With a far-off retry the pipe stays until we close the socket."""

_MAX_SOCKETS: Final = 16_384
"""Of a controller, which listens. libzmq makes a table for them at once, 12 bytes each."""

_MAX_LINKS: Final = 2_048
"""Sockets of a process that has connections: two for each client in it."""

_LARGEST_HEAP_BLOCK: Final = (32 << 20) - (1 << 16)
"""Allocated and freed once, untouched, before the first socket. It makes glibc keep blocks of up to this
size on its heap (its own rule, from the largest mapped block freed so far). Otherwise each 1 MiB frame is
mapped, page by page faulted in and given back: chunks went at 0.6 GB/s instead of 1.1."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How often a connection is tried, and how long an answer may take. All in seconds.

    A stopped peer is noticed after about `interval` + `timeout`. `ttl` asks the peer to drop the
    connection when it hears nothing for that long; 0 leaves that to the peer's own settings.
    """

    interval: float
    timeout: float
    ttl: float = 0.0

    def __post_init__(self) -> None:
        if not (self.interval >= 0 and self.timeout >= 0 and 0 <= self.ttl <= 6553):
            raise ValueError(f"interval, timeout and ttl are seconds, not negative, ttl at most 6553: {self}")


TIGHT: Final = Heartbeat(interval=1.0, timeout=3.0)
"""The controller's: a dead peer is noticed within four seconds."""
CLIENT: Final = Heartbeat(interval=10.0, timeout=10.0)
"""A client's."""
LAX: Final = Heartbeat(interval=30.0, timeout=30.0)
"""An engine's: were it as tight as the controller's, a controller paused for three seconds would lose
all its engines at once."""


_shared: dict[int, zmq.asyncio.Context] = {}


def shared_context() -> zmq.asyncio.Context:
    """The one private context of this process, for links; it lives as long as the process.

    A forked child gets its own: a context does not survive a fork.
    """
    pid = os.getpid()
    context = _shared.get(pid)
    if context is None:
        # Two threads may both come here: setdefault lets one win, the other's is closed unused.
        mine = new_context(_MAX_LINKS)
        context = _shared.setdefault(pid, mine)
        if context is not mine:
            mine.term()
    return context


def new_context(sockets: int = _MAX_SOCKETS) -> zmq.asyncio.Context:
    """A context of its own, with room for so many sockets."""
    bytes(_LARGEST_HEAP_BLOCK)
    context = zmq.asyncio.Context()
    context.set(zmq.MAX_SOCKETS, sockets)
    return context


def open_socket(context: zmq.asyncio.Context, kind: int, heartbeat: Heartbeat) -> zmq.asyncio.Socket:
    """A DEALER or ROUTER with the options that all our connections have; neither bound nor connected."""
    socket = context.socket(kind)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.set(zmq.HANDSHAKE_IVL, round(HANDSHAKE_SECONDS * 1000))
    socket.set(zmq.HEARTBEAT_IVL, round(heartbeat.interval * 1000))
    socket.set(zmq.HEARTBEAT_TIMEOUT, round(heartbeat.timeout * 1000))
    socket.set(zmq.HEARTBEAT_TTL, round(heartbeat.ttl * 1000))
    return socket


def libzmq_version() -> str:
    """The version of the library in C."""
    return zmq.zmq_version()
