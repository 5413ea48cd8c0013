"""Pure: a client's calls, and what happens to them: the vocabulary of `directview._client_state`."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from directview._client_receiving import Adjacent
from directview.wire.messages import Answer, Engines, ResultItem
from directview.wire.parcels import Parcel, Unpacked
from directview.wire.postmortem import NOTHING_KNOWN, Postmortem
from directview.wire.transfers import Outgoing

__all__ = [
    "Answered",
    "Call",
    "Death",
    "Ended",
    "EnginesChanged",
    "Event",
    "Gone",
    "Printed",
    "Sent",
    "Stage",
    "earlier",
]

_NONE: Final[frozenset[int]] = frozenset()
"""One for all calls: each ``frozenset()`` makes another."""


class Stage(enum.Enum):
    """Where a call is, for one of its engines; the table is in `directview._client_state`."""

    HELD = enum.auto()
    SENT = enum.auto()
    ASKED = enum.auto()
    ACCEPTED = enum.auto()


class Call:
    """One call, for one or more engines, until it has ended on all of them.

    Args:
        seq: its number.
        name: what errors and status call it.
        targets: ids of its engines.
        parcel: its payload. Chunked buffers are not copied: they must not change until `Sent`.
        context: whatever the submitter wants to find again in the events.
        flags: travel with it.
    """

    __slots__ = (
        "aborting",
        "adjacent",
        "context",
        "flags",
        "keeps",
        "name",
        "outgoing",
        "parcel",
        "pending",
        "seq",
        "unaccepted",
    )  # fmt: skip

    def __init__(
        self,
        seq: int,
        name: str,
        targets: Iterable[int],
        parcel: Parcel,
        context: Any,
        flags: int = 0,
    ) -> None:
        self.seq = seq
        self.name = name
        self.parcel: Parcel | None = parcel
        self.pending = dict.fromkeys(targets, Stage.HELD)
        """Engines on which it has not ended, and where it is there."""
        self.unaccepted = len(self.pending)
        """How many of them may still need the payload."""
        self.outgoing: Outgoing | None = None
        """Its chunked buffers, on their way."""
        self.keeps = parcel.keeps
        self.adjacent: Adjacent | None = None
        """Large parts of its result come side by side."""
        self.aborting = _NONE
        """Engines on which it was aborted after it had been sent there."""
        self.context = context
        self.flags = flags

    @property
    def targets(self) -> tuple[int, ...]:
        """Engines on which it has not ended."""
        return tuple(self.pending)


class Ended(NamedTuple):
    """The call ended on this engine, with a result or an error from there, or aborted before."""

    call: Call
    engine: int
    item: ResultItem
    parcel: Unpacked | None
    """None when there is nothing, or `problem` says why it can't be read."""
    problem: Exception | None = None


class Death(NamedTuple):
    """What is known of the end of an engine, or of why it can't answer."""

    uuid: bytes = b""
    exit_code: int | None = None
    reason: str = ""
    running: str = ""
    postmortem: Postmortem = NOTHING_KNOWN


class Gone(NamedTuple):
    """The call can't be answered any more on this engine."""

    call: Call
    engine: int
    uuid: bytes
    exit_code: int | None
    reason: str
    started: bool
    """It was running, or may have been."""
    running: str
    """Name of the call that was running there, if it was one of ours."""
    postmortem: Postmortem = NOTHING_KNOWN


class Sent(NamedTuple):
    """All engines have the call whole: its buffers may be changed."""

    call: Call


class Printed(NamedTuple):
    """The call printed something."""

    call: Call
    engine: int
    stream: str
    text: str


class EnginesChanged(NamedTuple):
    """Engines joined, came back or left."""

    message: Engines


class Answered(NamedTuple):
    """A query was answered."""

    message: Answer


Event = Ended | Gone | Sent | Printed | EnginesChanged | Answered


def earlier(first: float | None, second: float | None) -> float | None:
    """Which of two deadlines comes first; None is none."""
    if first is None or (second is not None and second < first):
        return second
    return first
