"""Pure: what an engine has of one client's calls."""

from __future__ import annotations

from collections import deque

from directview.engine._calls import Call
from directview.engine._untaken import Untaken

__all__ = ["ClientCalls"]


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
