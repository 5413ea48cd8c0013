"""Pure: what the controller's state machine asks its shell to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = [
    "Admit",
    "Effect",
    "Expel",
    "Finish",
    "Keep",
    "Lookup",
    "Note",
    "Persist",
    "Record",
    "Rotate",
    "Send",
]


class Send(NamedTuple):
    """Send one message to each of `routes`."""

    routes: Sequence[bytes]
    header: bytes
    frames: Sequence[Any] = ()


class Admit(NamedTuple):
    """The peer on this route is one of ours: watch whether it lives."""

    route: bytes


class Expel(NamedTuple):
    """Close this one connection."""

    route: bytes
    reason: str


class Note(NamedTuple):
    """Write this into the log: somebody may wonder."""

    text: str


class Persist(NamedTuple):
    """Write down who is there, for a controller that has to take over."""

    ids: dict[bytes, int]
    """uuid → id of each engine; -1 for each client."""


class Finish(NamedTuple):
    """End the controller once everything before this has been sent."""

    reason: str


class Record(NamedTuple):
    """Write down what is new in the history of calls. Comes only where there is a store."""

    made: Sequence[tuple[Any, ...]]
    """Whole records: number and fields."""
    ended: Sequence[tuple[Any, ...]]
    """engine_id, engine_uuid, started, completed, received, status, result_nbytes; then the msg_ids that the
    call has, or would have if nobody said which engine should take it."""
    dropped: Sequence[tuple[str, Sequence[str]]]
    """Clients that are gone: what has not ended of theirs has nobody to end for, but for these msg_ids."""


class Lookup(NamedTuple):
    """Look into the store, or forget a part of it, and have `Controller.answered` tell the client."""

    client: bytes
    number: int
    """Of its query."""
    sql: str
    """The condition."""
    values: tuple[Any, ...]
    fields: Sequence[str] | None
    """What is wanted of the records; None: that they are forgotten, as far as they have ended."""
    after: int = 0
    """Only records with greater numbers."""


class Rotate(NamedTuple):
    """Replace the keys, and have `Controller.answered` tell the client."""

    client: bytes
    number: int
    """Of its query."""
    route: bytes
    disconnect: bool
    """Cut off those who have come with an old key."""


class Keep(NamedTuple):
    """Write down results of detached calls, or forget them (None); then call `Controller.kept`.

    That is called when it can't be done, too. Comes only where there is a store.
    """

    changes: Sequence[tuple[Any, Any]]
    """Keys and what is kept, as of `directview.controller._detached`."""


Effect = Keep | Send | Admit | Expel | Note | Persist | Finish | Record | Lookup | Rotate
