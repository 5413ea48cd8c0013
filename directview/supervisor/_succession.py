"""Pure: whether a controller that ended by itself gets a successor, and when.

One that has worked for a while is replaced at once. One that ends soon after its start again and again is
replaced more and more slowly, and at last no more: what kills it (a full disk, a taken port, no memory) kills
its successors as well, and clients should learn of that rather than wait.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MOST_IN_A_ROW", "SETTLED", "START_LIMIT", "Succession"]

SETTLED: Final = 5.0
"""Seconds after which a controller that was ready counts as one that works."""
MOST_IN_A_ROW: Final = 8
"""Controllers that may end in a row without having worked for that long."""
START_LIMIT: Final = 30.0
"""Seconds within which a successor must be ready; then it is killed, and the next one's turn comes."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0


class Succession:
    """Counts the controllers of one supervisor."""

    def __init__(self) -> None:
        self.in_a_row = 0
        """How many have ended without having worked for long."""
        self.begun = False
        """There has been one that was ready: there is something to take over."""
        self._ready_at: float | None = None

    def ready(self, now: float) -> None:
        """The controller listens and has written its files."""
        self.begun = True
        self._ready_at = now

    def ended(self, now: float) -> float | None:
        """The controller ended by itself.

        Returns:
            Seconds until its successor is to be started; None: it gets none.
        """
        if not self.begun:
            return None
        if self._ready_at is not None and now - self._ready_at >= SETTLED:
            self.in_a_row = 0
        self._ready_at = None
        self.in_a_row += 1
        if self.in_a_row > MOST_IN_A_ROW:
            return None
        if self.in_a_row == 1:
            return 0.0
        return min(_FIRST_PAUSE * 2.0 ** (self.in_a_row - 2), _LONGEST_PAUSE)
