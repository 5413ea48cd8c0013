"""Shared memory of a simulated host: small, reused at once, and now and then not there.

As in the real arena, a place names one writing of one slot, and whoever reads it later is told so. Slots are
few, and the one that was freed last is taken first, so that a machine that frees too early reads other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

__all__ = ["SimulatedMemory"]


_SHEET = 1 << 62
_WINDOW = 1 << 61


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
        self.sheet_from = 2 * slot_bytes
        self.window_bytes = 3 * slot_bytes
        self.reference = random.randbytes(8)
        self.lent: dict[int, int] = {}
        """Slots in use, by place."""
        self.sheets: dict[int, np.ndarray[Any, Any]] = {}
        """Those that are lent, by place."""
        self.borrowed = 0
        """How often others have mapped one."""
        self.shown: dict[int, memoryview] = {}
        """What others may read where it is, by place."""
        self.seen = 0
        """How often others have."""
        self._numbers = 0
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

    def lend(self, size: int) -> int | None:
        """A sheet; None if there is no room."""
        if self._random.random() < 0.2:
            return None
        self._numbers += 1
        place = _SHEET | self._numbers
        self.sheets[place] = np.zeros(size, np.uint8)
        return place

    def step(self, place: int) -> int:
        """Most bytes to be copied into a sheet at once."""
        return self.slot_bytes

    def fill(self, place: int, start: int, part: memoryview) -> bool:
        """Copy bytes into a sheet; False if there is no memory."""
        if self._random.random() < 0.03:
            return False
        self.sheets[place][start : start + len(part)] = np.frombuffer(part, np.uint8)
        return True

    def show(self, part: memoryview) -> int | None:
        """Bytes to be read where they are; None if they can't be."""
        if self._random.random() < 0.2:
            return None
        self._numbers += 1
        place = _WINDOW | self._numbers
        self.shown[place] = part
        return place

    def move(self, place: int, part: memoryview) -> None:
        """They are elsewhere now."""
        assert self.shown[place] == part
        self.shown[place] = part

    @property
    def sees(self) -> bool:
        """Whether others can read what is shown here: not all of them."""
        return self._random.random() < 0.7

    def look(self, place: int, into: np.ndarray[Any, Any]) -> bool:
        """Copy what is shown; False if it is not any more."""
        part = self.shown.get(place)
        if part is None:
            into[:] = 0  # Whatever is there now.
            return False
        assert len(part) == len(into)
        into[:] = np.frombuffer(part, np.uint8)
        self.seen += 1
        return True

    def reserve(self) -> object | None:
        """What mapping a sheet takes; None: it can't be done."""
        return None if self._random.random() < 0.1 else object()

    def borrow(self, place: int, size: int) -> np.ndarray[Any, Any] | None:
        """A sheet, which is filled further; None if it is lent no longer."""
        sheet = self.sheets.get(place)
        if sheet is not None:
            assert len(sheet) == size
            self.borrowed += 1
        return sheet

    @property
    def crowded(self) -> bool:
        """So much is borrowed that it should be copied."""
        return self._random.random() < 0.3

    def free(self, place: int) -> None:
        """Its slot may be taken again; a sheet is left to those that map it; nothing is shown there."""
        if place & _SHEET:
            del self.sheets[place]
            return
        if place & _WINDOW:
            del self.shown[place]
            return
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
