"""Pure: what the log says of those who were not let in, whatever their number.

Whoever can reach the port can be refused as often as they like, and must neither fill the disk nor hide
others by it. So what is the same (address and reason) is one line in a minute, each address has a few lines
in that time, and all together have some; of what was left out the number is told when the minute is over.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["EACH", "LINES", "SPAN", "Refusals"]

SPAN: Final = 60.0
"""Seconds."""
EACH: Final = 20
"""Lines for each address in that time."""
LINES: Final = 60
"""Lines for all of them."""
_ADDRESSES: Final = 1024
"""Addresses whose left-out refusals are counted apart."""
_NAMED: Final = 3
_SHOWN: Final = 300
"""Characters of a reason, in which there may be what the other side has sent."""


class Refusals:
    """What to log of connections that were refused or cut off."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._lines: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self.due: float | None = None
        """When to call `sum_up`; None while there is nothing to sum up."""

    def add(self, address: str | None, reason: str, now: float, *, expelled: bool = False) -> list[str]:
        """Somebody was refused.

        Args:
            address: where they are; None if that isn't known.
            reason: why; of a connection that was not even a peer's, what follows the address in a sentence.
            now: the time, in seconds.
            expelled: it was a peer's connection.

        Returns:
            The lines to log.
        """
        lines = self.sum_up() if self.due is not None and self.due <= now else []
        if self.due is None:
            self.due = now + SPAN
        where = address or "somebody who was gone before we could see from where"
        reason = reason[:_SHOWN]
        if (where, reason) in self._seen or self._lines[where] >= EACH or self._lines.total() >= LINES:
            self._left_out[where if where in self._left_out or len(self._left_out) < _ADDRESSES else ""] += 1
            return lines
        self._seen.add((where, reason))
        self._lines[where] += 1
        if expelled:
            return [*lines, f"expelled a peer at {where}: {reason}"]
        return [*lines, f"refused a connection: {where} {reason}"]

    def sum_up(self) -> list[str]:
        """The minute is over: the lines to log of what was left out in it."""
        left_out, self._left_out = self._left_out, Counter()
        self._seen, self._lines, self.due = set(), Counter(), None
        if not left_out:
            return []
        total = left_out.total()
        named = [(where, count) for where, count in left_out.most_common(_NAMED) if where]
        others = total - sum([count for _, count in named])
        told = [f"{where} ({count})" for where, count in named] + ([f"others ({others})"] if others else [])
        return [f"{total} more connections were refused or cut off within {SPAN:g} s: {', '.join(told)}"]
