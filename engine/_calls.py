"""Pure: a call in an engine."""

from __future__ import annotations

import enum

from directview.wire.messages import ResultItem
from directview.wire.parcels import Parcel, Unpacked
from directview.wire.transfers import Outgoing

__all__ = ["Call", "Stage"]


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
        "behind", "cancelled", "client", "detached", "granted", "kept", "name", "outgoing", "parcel",
        "problem", "result", "seq", "stage", "taken", "weight",
    )  # fmt: skip

    def __init__(self, client: bytes, seq: int, name: str, detached: bool = False) -> None:
        self.detached = detached
        """It goes on when its client is gone."""
        self.kept = False
        """Of a detached one: the controller has said that it keeps the result."""
        self.taken = False
        """Its client has the result, which stays for the controller."""
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
        self.behind = False
        """Its result waits to be sent until others have been taken."""
        self.weight = 0
        """Bytes that its result takes here."""

    @property
    def key(self) -> tuple[bytes, int]:
        """The call's client uuid and seq."""
        return self.client, self.seq

    @property
    def complete(self) -> bool:
        """Nothing of its payload is still to come."""
        return self.parcel is None or not self.parcel.missing
