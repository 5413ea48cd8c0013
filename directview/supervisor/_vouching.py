"""Which engines the supervisor vouches for, to a controller that waits for them. Pure: states in, names out.

An engine deep in a function can't answer a controller, and lives; one that is stopped (SIGSTOP, a debugger)
doesn't answer either, and is given up. Stopped once isn't frozen yet: when everything was paused and goes on,
it may be an engine's turn only after ours.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

__all__ = ["LOOK_AGAIN", "Vouching"]

LOOK_AGAIN: Final = 0.1
"""Seconds after which an engine that is stopped must still be so, to be taken for frozen. If it took us twice
as long to look again, we were paused ourselves, and what was seen before says nothing."""
_INTERVAL: Final = 1 / 6
"""Of the lease for which an engine's place is kept: the time between two words that the engines live."""


class Vouching:
    """Looks again at who is stopped before it says so.

    Args:
        lease: seconds for which the controller keeps an engine's place after a word of us.
    """

    def __init__(self, lease: float) -> None:
        self._interval = lease * _INTERVAL
        self._since: dict[bytes, float] = {}
        """Engines that were stopped whenever we looked, since when."""
        self._due = float("inf")

    def look(self, stopped: Collection[bytes], now: float) -> tuple[frozenset[bytes], float]:
        """Judge what was just seen.

        Args:
            stopped: the engines whose processes are stopped.
            now: seconds of a clock that goes on while we are paused.

        Returns:
            who is frozen, and in how many seconds to look again.
        """
        before = self._since if now <= self._due + LOOK_AGAIN else {}
        self._since = {uuid: before.get(uuid, now) for uuid in stopped}
        # Half of it: one who asks in between is told what we saw, and a timer may be early.
        frozen = frozenset([uuid for uuid, since in self._since.items() if now - since > LOOK_AGAIN / 2])
        delay = LOOK_AGAIN if len(frozen) < len(self._since) else self._interval
        self._due = now + delay
        return frozen, delay
