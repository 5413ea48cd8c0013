"""What is kept for a while to be used again, and let go of when nobody has wanted it for seconds.

Memory that was used before is faster than fresh memory, so rooms of the wire keep some. They say here how it
is let go of, and whoever has a timer anyway says when; with the last of these timers all is let go of. This
room knows none of the others: a process that handles no buffers, as the controller, need not import what
they need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from weakref import WeakSet

__all__ = ["IDLE_SECONDS", "register", "started", "stopped", "trim"]

IDLE_SECONDS: Final = 5.0
"""How long it is kept, at least."""

Trim = Callable[[float], None]
_trims: list[Trim] = []
_timers: Final[WeakSet[object]] = WeakSet()


def register(trim: Trim) -> Trim:
    """Have `trim`, which lets go of what has not been used for so many seconds, be called now and then."""
    _trims.append(trim)
    return trim


def trim(seconds: float = IDLE_SECONDS) -> None:
    """Let go of everything that has not been used for that long."""
    for each in _trims:
        each(seconds)


def started(timer: object) -> None:
    """This one will call `trim` now and then."""
    _timers.add(timer)


def stopped(timer: object) -> None:
    """This one will not any more. If none is left, what is kept would be kept for good: it is let go of."""
    _timers.discard(timer)
    if not _timers:
        trim(0.0)
