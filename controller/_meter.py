"""Pure: what has gone through the controller, counted by its shell, a few additions for each message."""

from __future__ import annotations

from typing import Any

__all__ = ["Meter"]


class Meter:
    """Counters since the start. Messages hold any number of calls each."""

    __slots__ = ("blocked", "bytes_in", "bytes_out", "lag", "messages_in", "messages_out")

    def __init__(self) -> None:
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        """Headers and frames, before encryption; what goes to several engines counts for each."""
        self.lag = 0.0
        """Seconds by which the loop was late at worst, lately."""
        self.blocked = 0
        """How often it did not turn for a while."""

    def contents(self) -> dict[str, Any]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__}
