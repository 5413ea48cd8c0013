"""What is kept for a while to be used again, and let go of when nobody has wanted it for seconds.

Memory that was used before is faster than fresh memory, so rooms of the wire keep some. They say here how it
is let go of, and whoever has a timer anyway says when. It knows none of them: a process that handles no
buffers, as the controller, need not import what they need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["IDLE_SECONDS", "register", "trim"]

IDLE_SECONDS: Final = 5.0
"""How long it is kept, at least."""

Trim = Callable[[float], None]
_trims: list[Trim] = []


def register(trim: Trim) -> Trim:
    """Have `trim`, which lets go of what has not been used for so many seconds, be called now and then."""
    _trims.append(trim)
    return trim


def trim(seconds: float = IDLE_SECONDS) -> None:
    """Let go of everything that has not been used for that long."""
    for each in _trims:
        each(seconds)
