"""Pure: what the controller's state machine asks its shell to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Admit", "Effect", "Expel", "Finish", "Persist", "Send"]


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


class Persist(NamedTuple):
    """Write down who is there, for a controller that has to take over."""

    ids: dict[bytes, int]
    """uuid → id of each engine; -1 for each client."""


class Finish(NamedTuple):
    """End the controller once everything before this has been sent."""

    reason: str


Effect = Send | Admit | Expel | Persist | Finish
