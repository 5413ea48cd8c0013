"""Shared memory of a simulated host: small, reused at once, and now and then not there.

As in the real arena, a place names one writing of one slot, and whoever reads it later is told so. Slots are
few, and the one that was freed last is taken first, so that a machine that frees too early reads other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

__all__ = ["SimulatedMemory"]


class SimulatedMemory:
    """What one peer lends to the others on its host, and reads of them.

    Args:
        host: the arenas there, by reference; this one is entered.
        slot_bytes: bytes of a slot.
        slots: how many it has.
        random: whether there is room for another slot is a matter of chance, too.
    """

    def __init__(
        self, host: dict[bytes, SimulatedMemory], slot_bytes: int, slots: int, random: Random
    ) -> None:
        self.slot_bytes = slot_bytes
        self.reference = random.randbytes(8)
        self.lent: dict[int, int] = {}
        """Slots in use, by place."""
        self.read_places = 0
        """Pieces that others have read here."""
        self._host = host
        self._random = random
        self._places = list(range(slots))
        self._contents = [b""] * slots
        self._idle = list(range(slots))
        host[self.reference] = self

    def put(self, parts: Sequence[memoryview]) -> int | None:
        """Copy a piece in; its place, or None if there is no room."""
        if not self._idle or self._random.random() < 0.1:
            return None
        slot = self._idle.pop()
        content = b"".join(parts)
        assert 0 < len(content) <= self.slot_bytes
        self._places[slot] += len(self._places)
        self._contents[slot] = content
        self.lent[self._places[slot]] = slot
        return self._places[slot]

    def free(self, place: int) -> None:
        """Its slot may be taken again."""
        slot = self.lent.pop(place)
        self._places[slot] += len(self._places)
        self._contents[slot] = bytes(len(self._contents[slot]))
        self._idle.append(slot)

    def open(self, reference: bytes) -> SimulatedMemory | None:
        """Another peer's arena, if it is on this host."""
        return self._host.get(reference)

    def read(self, place: int, size: int, take: Callable[[memoryview], None]) -> bool:
        """Have `take` copy a piece out; False if its slot has been freed or holds another one."""
        slot = place % len(self._places)
        take(memoryview(self._contents[slot])[:size])
        if self._places[slot] != place:
            return False
        assert len(self._contents[slot]) == size
        self.read_places += 1
        return True
