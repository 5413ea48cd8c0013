"""Pure: a call in an engine, and what an engine has of one client's calls."""

from __future__ import annotations

import enum
from collections import deque

from directview.wire.messages import ResultItem
from directview.wire.parcels import Parcel, Unpacked
from directview.wire.transfers import Outgoing

__all__ = ["Call", "ClientCalls", "Stage", "size_of"]


class Stage(enum.Enum):
    """Where in its life a call is; the table is in `directview.engine._state`."""

    ARRIVING = enum.auto()
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    SUSPENDED = enum.auto()
    DONE = enum.auto()


class Call:
    """One call, from its arrival to its acknowledgement."""

    __slots__ = (
        "cancelled", "client", "detached", "granted", "name", "outgoing", "parcel", "problem", "result",
        "seq", "stage",
    )  # fmt: skip

    def __init__(self, client: bytes, seq: int, name: str, detached: bool = False) -> None:
        self.detached = detached
        """It goes on when its client is gone."""
        self.client = client
        self.seq = seq
        self.name = name
        self.stage = Stage.ARRIVING
        self.cancelled = False
        """It has been told. Once is enough: it may be cleaning up."""
        self.parcel: Unpacked | None = None
        self.problem: Exception | None = None
        """Why the payload can't be used."""
        self.granted = 0
        self.result: tuple[ResultItem, Parcel | None] | None = None
        self.outgoing: Outgoing | None = None

    @property
    def key(self) -> tuple[bytes, int]:
        """The call's client uuid and seq."""
        return self.client, self.seq

    @property
    def complete(self) -> bool:
        """Nothing of its payload is still to come."""
        return self.parcel is None or not self.parcel.missing


def size_of(call: Call) -> int:
    """Bytes of its result."""
    parcel = call.result[1] if call.result is not None else None
    if parcel is None:
        return 0
    return parcel.nbytes + (sum([len(chunk) for chunk in parcel.chunks]) if parcel.chunks else 0)


class ClientCalls:
    """What is here of one client."""

    __slots__ = ("begun", "calls", "kept", "large", "line", "parked", "retained", "watermark")

    def __init__(self, begun: int) -> None:
        self.begun = begun
        """Calls below this number may have run before this engine was told to forget the client."""
        self.calls: dict[int, Call] = {}
        """All that is known, by seq."""
        self.line: deque[Call] = deque()
        """ARRIVING calls in order; the first one's payload is incomplete."""
        self.large: dict[int, Call] = {}
        """Calls with chunked payloads that have not started, in order: the first few are granted."""
        self.retained: dict[int, Call] = {}
        """DONE and not acknowledged."""
        self.kept = 0
        """Bytes of their results."""
        self.parked: list[Call] = []
        """Calls whose turn it was while that was too much, in order."""
        self.watermark = 0
