"""Pure: who came to the door and was not let in: from which address, and why.

Four things tell of a connection that never becomes a peer, and none says all: libzmq's events of a handshake
that failed (no descriptor in them, but the end of that very connection follows at once), the end of the
connection (a descriptor, which may be another's by now), our own word when we cut it off, and nothing at
all, for what isn't even the beginning of ZMTP. A client without keys is refused on both sides at once: of
40, 21 were seen as a mismatch, and 19 had gone first and left a handshake that broke off.

Addresses are asked for when a connection's acceptance is read. By then its descriptor may be that of the
next one: that shows when the next one's acceptance is read, and the first one's address is unknown then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["Doorway", "Failure", "Refusal"]

_MOST: Final = 1024
"""Refusals that are kept until somebody takes them; of the others only the number."""


class Failure(Enum):
    """How a handshake failed."""

    NO_KEYS = "came without our keys"
    OTHER_KEYS = "has keys for another controller"
    PROTOCOL = "speaks another protocol, or ours not as it should"
    TIMEOUT = "did not end its handshake in time"
    BROKEN = "ended its handshake: it came without our keys, or its line was cut"
    AUTHENTICATION = "has no key of ours"
    """Told by whoever has looked at the key, with the key."""


_SILENT: Final = "ended before it had said who it is, or speaks another protocol"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One connection that did not become a peer's."""

    address: str | None
    """Of the other side; None if it isn't known."""
    reason: str
    """What follows the address in a sentence."""


@dataclass(slots=True, eq=False)
class _Visitor:
    address: str | None
    """With the port, which tells two connections from one machine apart."""
    local: bool


class Doorway:
    """Connections between their acceptance and their end."""

    def __init__(self) -> None:
        self._visitors: dict[int, _Visitor] = {}
        """By descriptor."""
        self._failure: Failure | None = None
        """Of the connection whose end comes next."""
        self._unexplained = 0
        """Ends that somebody else has explained, or will."""
        self._refused: list[tuple[_Visitor, str]] = []
        self.refused = 0
        """How many there have been."""

    def accepted(self, fd: int, address: str | None, *, local: bool) -> None:
        """A connection was accepted.

        Args:
            fd: its descriptor.
            address: of whoever is connected at that descriptor now, with the port; None if nobody is.
            local: it came to the unix socket.
        """
        before = self._visitors.get(fd)
        if before is not None and before.address == address:
            before.address = None  # It was this one's address already.
        self._visitors[fd] = _Visitor(address, local)

    def failed(self, failure: Failure) -> None:
        """A handshake failed. The end of its connection is the next that comes."""
        if failure is Failure.AUTHENTICATION:
            self._unexplained += 1  # That end may come later, when the other side has heard of it.
        else:
            self._failure = failure

    def ended(self, fd: int, *, known: bool) -> None:
        """A connection ended.

        Args:
            fd: its descriptor.
            known: it was admitted, or has spoken, or was cut off by us: its end is told of elsewhere.
        """
        failure, self._failure = self._failure, None
        # It stays in the table, since the address of the next one on this descriptor may show it wrong.
        visitor = self._visitors.get(fd) or _Visitor(None, False)
        if known:
            return
        if failure is None and self._unexplained:
            self._unexplained -= 1
            return
        if visitor.local and failure in (None, Failure.BROKEN):
            return  # Whoever looks whether somebody listens there just connects, and goes.
        self._refuse(visitor, _SILENT if failure is None else failure.value)

    def cut(self, fd: int, reason: str) -> None:
        """We cut off the connection on this descriptor."""
        self._refuse(self._visitors.get(fd) or _Visitor(None, False), reason)

    def _refuse(self, visitor: _Visitor, reason: str) -> None:
        self.refused += 1
        if len(self._refused) < _MOST:
            self._refused.append((visitor, reason))

    @property
    def refusing(self) -> bool:
        """Whether `take` has something."""
        return bool(self._refused)

    def take(self) -> list[Refusal]:
        """Those who were refused since the last time."""
        refused, self._refused = self._refused, []
        return [
            Refusal("the unix socket" if visitor.local else _host(visitor.address), reason)
            for visitor, reason in refused
        ]


def _host(address: str | None) -> str | None:
    return None if address is None else address.rpartition(":")[0]
