"""Pure: what a client knows of one engine, and has on its way to it and from it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Final

from directview._client_calls import Call
from directview._client_receiving import Receiving
from directview.wire.messages import EngineInfo
from directview.wire.transfers import Pace, due_grant

__all__ = ["KnownEngine"]

_RECEIVE_AT_ONCE: Final = 2
"""Large results of one engine that are received at a time."""


class KnownEngine:
    """One engine, as this client sees it."""

    __slots__ = (
        "asked", "awaiting", "bytes", "calls", "credit_bytes", "credit_calls", "dead", "given", "held",
        "info", "receiving", "running", "unknown",
    )  # fmt: skip

    def __init__(self, info: EngineInfo, credit: tuple[int, int]) -> None:
        self.info = info
        self.credit_calls, self.credit_bytes = credit
        self.dead = False
        """Its calls are being reported as lost; the controller's last word on it follows."""
        self.running = ""
        """What of ours it was running when it died, if it did."""
        self.calls = 0
        """Calls, and bytes, sent ahead of Accept: never more than the credit."""
        self.bytes = 0
        self.held: OrderedDict[int, Call] = OrderedDict()
        """HELD calls in the order in which they are to be sent."""
        self.given: dict[int, Call] = {}
        """Calls that have been sent and have not ended."""
        self.awaiting = 0
        """The mark of the last question to the engine, until it has been read there. What the engine said
        before it had read the question doesn't count: it says it again in its answers."""
        self.asked = 0
        """ASKED calls: the question about them has not been answered."""
        self.unknown: dict[int, Call] = {}
        """Calls that the engine doesn't have, to be sent again when all answers are there."""
        self.receiving: dict[int, Receiving] = {}
        """Results whose chunks are on their way."""

    @property
    def open(self) -> bool:
        """New calls may be sent: it lives, and they would not overtake any that are to be sent again."""
        return not self.awaiting and not self.asked and not self.dead

    def begin_to_ask(self, mark: int) -> None:
        """It is asked about all its calls: what was on the way to it and from it doesn't count."""
        self.awaiting = mark
        self.calls = self.bytes = 0
        self.receiving.clear()

    def take(self) -> list[Call]:
        """Held calls that the credit allows now, as given; the first one always goes, however large."""
        taken = []
        held = self.held
        while held and self.calls < max(self.credit_calls, 1):
            seq, call = held.popitem(last=False)
            assert call.parcel is not None
            nbytes = call.parcel.nbytes
            if self.calls and self.bytes + nbytes > self.credit_bytes:
                held[seq] = call
                held.move_to_end(seq, last=False)
                break
            self.calls += 1
            self.bytes += nbytes
            self.given[seq] = call
            taken.append(call)
        return taken

    def hold_again(self) -> None:
        """All answers are there: what is to be sent again goes ahead of what was not sent yet."""
        for seq in sorted(self.unknown, reverse=True):
            self.held[seq] = self.unknown[seq]
            self.held.move_to_end(seq, last=False)
        self.unknown.clear()

    def due_grants(self, pace: Pace) -> Iterator[tuple[int, int, int, int]]:
        """(seq, upto, received, shared) of the results of which more may come now."""
        for seq, receiving in islice(self.receiving.items(), _RECEIVE_AT_ONCE):
            parcel = receiving.parcel
            upto = due_grant(parcel.received, receiving.granted, parcel.size, pace.toward(parcel.shared))
            if upto is not None and not receiving.held:
                receiving.granted = upto
                yield seq, upto, parcel.received, parcel.shared
