"""Pure: what an engine has of one client's calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from directview.engine._calls import Call, Stage
from directview.engine._untaken import Untaken
from directview.wire.transfers import Pace, due_grant

__all__ = ["RECEIVE_AT_ONCE", "ClientCalls"]

RECEIVE_AT_ONCE: Final = 2
"""Large payloads of one client that are received ahead: the next one to run, and the one after it."""


class ClientCalls:
    """What is here of one client.

    Args:
        begun: its calls below this number may have run here before it was forgotten.
        most: bytes of results that it may leave here.
    """

    __slots__ = (
        "begun", "calls", "doubtful", "gone", "large", "line", "parked", "retained", "untaken", "watermark",
    )  # fmt: skip

    def __init__(self, begun: int, most: int) -> None:
        self.begun = begun
        self.gone = False
        """Its detached calls go on for the controller."""
        self.calls: dict[int, Call] = {}
        """All that is known, by seq."""
        self.line: deque[Call] = deque()
        """ARRIVING calls in order; the first one's payload is incomplete."""
        self.large: dict[int, Call] = {}
        """Calls with chunked payloads that have not started, in order: the first few are granted."""
        self.retained: dict[int, Call] = {}
        """DONE and not acknowledged."""
        self.doubtful: set[int] = set()
        """While the client asks about its calls: those of them that it has not asked about yet."""
        self.untaken = Untaken(most)
        self.parked: list[Call] = []
        """Calls whose turn it was while that was too much, in order."""
        self.watermark = 0

    def forget_line(self) -> None:
        """What has not arrived whole, and what came behind it, will be sent again."""
        for call in self.line:
            if call.stage is Stage.ARRIVING:
                del self.calls[call.seq]
                self.large.pop(call.seq, None)
        self.line.clear()

    def due_grants(self, pace: Pace) -> Iterator[tuple[int, int, int, int]]:
        """Payloads of which more may come now. They count as granted.

        Returns:
            For each: seq, up to where, how much has come, what of the sender's memory can be read.
        """
        for call in islice(self.large.values(), RECEIVE_AT_ONCE):
            parcel = call.parcel
            assert parcel is not None
            upto = due_grant(parcel.received, call.granted, parcel.size, pace.toward(parcel.shared))
            if upto is not None:
                call.granted = upto
                yield call.seq, upto, parcel.received, parcel.shared
