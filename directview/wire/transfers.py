"""Pure: sending a call's large buffers in chunks, as far as the receivers have granted.

One transfer may have several receivers (a push of one array to all engines). It is sent once for all
that are at the same place: `Chunk.engines` names them, and the controller fans it out. Whoever sends says
for how long those that have room wait for the others; then a receiver that falls behind gets its own
chunks, so that a busy engine holds up nobody but itself.

Receivers that can read the sender's arena get larger chunks, which lie there until all that were named have
said that they have them. If these are several, and the transfer is large, it is copied into one sheet, chunk
by chunk as it is granted, which all of them map: see `directview.wire.sheets`. And to one that can read the
sender's memory it is only shown where it is: see `directview.wire.windows`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from directview.wire.messages import CHUNK_BYTES, WINDOW_CHUNKS, Chunk

if TYPE_CHECKING:  # The controller counts with transfers, and needs none of the rest.
    from directview.wire.arena import SharedMemory

__all__ = [
    "APART", "GRANT_AHEAD", "SEEN", "SHARED", "STANDARD", "Outgoing", "Pace", "Piece", "due_grant", "spread",
]  # fmt: skip

GRANT_AHEAD: Final = WINDOW_CHUNKS * CHUNK_BYTES
"""Bytes of one transfer that may be on their way: a window of 16 chunks kept a relay at 1.9 GB/s in
35 MB of memory."""
APART: Final = 0
SHARED: Final = 1
SEEN: Final = 2
"""`Grant.shared`: the receiver can read nothing; the sender's arena; what the sender shows too."""
_ALIGNED: Final = 64
_MOST_ON_A_SHEET: Final = 16
"""Buffers: whoever keeps one of them keeps all of the sheet."""


class Pace(NamedTuple):
    """In which steps transfers go. Tests take small ones, to go through many with little data."""

    chunk: int = CHUNK_BYTES
    """Bytes of a chunk in a frame; only a transfer's last one is smaller."""
    ahead: int = GRANT_AHEAD
    """Bytes that may be granted ahead of what has been received."""

    @property
    def low(self) -> int:
        """A new grant is due when the last one has shrunk by this many bytes."""
        return self.ahead // 4

    def toward(self, shared: int) -> Pace:
        """That of a receiver which can read so much of our memory: what is shown needs none on its way."""
        return self._replace(ahead=2 * self.ahead) if shared == SEEN else self


STANDARD: Final = Pace()


def due_grant(received: int, granted: int, size: int, pace: Pace = STANDARD) -> int | None:
    """The next `Grant.upto` that a receiver owes, or None while the last one is far enough ahead."""
    if granted >= size or granted - received > pace.ahead - pace.low:
        return None
    return min(size, received + pace.ahead)


def spread(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where each buffer begins on a sheet, and how large that must be."""
    starts = []
    end = 0
    for size in sizes:
        starts.append(end)
        end = -(-(end + size) // _ALIGNED) * _ALIGNED
    return starts, end


class Piece(NamedTuple):
    """One chunk: in a frame, or in the arena."""

    receivers: tuple[int, ...]
    offset: int
    nbytes: int
    place: int
    """-1 if it is in a frame."""
    frames: tuple[memoryview, ...]

    def message(self, client: bytes, seq: int, engines: tuple[int, ...], way: int) -> Chunk:
        """What says so."""
        if self.place < 0:
            return Chunk(client, seq, engines, way, self.offset)
        return Chunk(client, seq, engines, way, self.offset, self.place, self.nbytes)


class _Lent:
    """A piece in the arena or shown, and who has not read it yet."""

    __slots__ = ("begin", "end", "place", "readers", "shown")

    def __init__(self, begin: int, end: int, place: int, readers: Iterable[int], *, shown: bool) -> None:
        self.begin = begin
        self.end = end
        self.shown = shown
        self.place = place
        self.readers = set(readers)


class _Sheet:
    """One copy of the whole transfer, and who maps it or will."""

    __slots__ = ("filled", "full", "place", "readers", "starts")

    def __init__(self, place: int, starts: list[int]) -> None:
        self.place = place
        self.starts = starts
        self.filled = 0
        """As far as the transfer is in it."""
        self.full = False
        """There is no memory for more of it."""
        self.readers: set[int] = set()


class Outgoing:
    """The chunks of one transfer, for one or more receivers.

    Args:
        buffers: what is to be sent.
        receivers: to whom.
        pace: in which steps.
        arena: for those who can read it.
    """

    __slots__ = (
        "_arena", "_buffers", "_ends", "_granted", "_lent", "_pace", "_seeing", "_sent", "_shared", "_sheet",
        "size",
    )  # fmt: skip

    def __init__(
        self,
        buffers: Sequence[memoryview],
        receivers: Iterable[int],
        pace: Pace = STANDARD,
        arena: SharedMemory | None = None,
    ) -> None:
        self._buffers = list(buffers)
        self._ends = list(accumulate([len(buffer) for buffer in buffers]))
        self._pace = pace
        self._arena = arena
        self.size = self._ends[-1] if self._ends else 0
        self._sent = dict.fromkeys(receivers, 0)
        self._granted = dict.fromkeys(self._sent, 0)
        self._shared: set[int] = set()
        self._seeing: set[int] = set()
        """Receivers that can read our memory."""
        self._lent: list[_Lent] = []
        self._sheet: _Sheet | None = None

    @property
    def receivers(self) -> tuple[int, ...]:
        """Receivers that have not been sent everything yet."""
        return tuple(self._sent)

    def grant(self, receiver: int, upto: int, received: int = 0, shared: int = APART) -> None:
        """`receiver` has room for bytes up to `upto`; grants never go back.

        Args:
            receiver: who says so.
            upto: in the transfer.
            received: it has what lies before.
            shared: it can read the arena (`SHARED`), or our memory too (`SEEN`).
        """
        if receiver in self._sent:
            self._granted[receiver] = max(self._granted[receiver], min(upto, self.size))
            if shared and self._arena is not None:
                self._shared.add(receiver)
                if shared == SEEN:
                    self._seeing.add(receiver)
        self._returned(receiver, received)

    def move(self, buffers: Sequence[memoryview]) -> None:
        """The same bytes are elsewhere from now on."""
        self._buffers = list(buffers)
        for lent in self._lent:
            if lent.shown and self._arena is not None:
                (part,), _ = self._at(lent.begin, lent.end - lent.begin)
                self._arena.move(lent.place, part)

    def restart(self, receiver: int) -> None:
        """`receiver` has nothing of it (any more): begin again."""
        self._sent[receiver] = self._granted[receiver] = 0
        self._shared.discard(receiver)
        self._seeing.discard(receiver)
        self._returned(receiver, self.size)

    def drop(self, receiver: int) -> None:
        """`receiver` needs nothing more."""
        self._sent.pop(receiver, None)
        self._granted.pop(receiver, None)
        self._returned(receiver, self.size)

    def close(self) -> None:
        """Nobody needs anything more."""
        self._sent.clear()
        self._granted.clear()
        for lent in self._lent:
            lent.readers.clear()
        if self._sheet is not None:
            self._sheet.readers.clear()
        self._returned(-1, 0)

    def _returned(self, receiver: int, upto: int) -> None:
        """`receiver` needs nothing any more of what lies before `upto`."""
        sheet = self._sheet
        if sheet is not None and self._arena is not None:
            if upto >= self.size:
                sheet.readers.discard(receiver)
            if not sheet.readers:
                self._arena.free(sheet.place)
                self._sheet = None
        if not self._lent:
            return
        assert self._arena is not None
        left = []
        for lent in self._lent:
            if lent.end <= upto:
                lent.readers.discard(receiver)
            if lent.readers:
                left.append(lent)
            else:
                self._arena.free(lent.place)
        self._lent = left

    @property
    def held_back(self) -> bool:
        """Somebody has room, and waits: for others that have none or are behind, or for shared memory."""
        granted = self._granted
        return any([granted[receiver] > sent for receiver, sent in self._sent.items()])

    def ready(self, patient: bool = True) -> Iterator[Piece]:
        """Chunks that may be sent now. Taking one counts it as sent.

        Args:
            patient: only what goes to all that are furthest behind, so that each chunk is sent once as long
                as all keep up, and those that fell behind find the others again; and what can go through
                shared memory only there. Otherwise whatever was granted, in as few chunks as that takes.
        """
        while True:
            chosen = self._choose(patient)
            piece = None if chosen is None else self._piece(*chosen, patient)
            if piece is None:
                return
            for receiver in piece.receivers:
                self._sent[receiver] = piece.offset + piece.nbytes
                if self._sent[receiver] == self.size:
                    del self._sent[receiver], self._granted[receiver]
            yield piece

    def _choose(self, patient: bool) -> tuple[tuple[int, ...], int] | None:
        """Receivers to serve next, together: they are at one place."""
        places: dict[int, list[int]] = {}
        for receiver, sent in self._sent.items():
            places.setdefault(sent, []).append(receiver)
        for offset in sorted(places):
            able = [receiver for receiver in places[offset] if self._granted[receiver] > offset]
            if patient and len(able) < len(places[offset]):
                return None
            if able:
                return tuple(able), offset
            # Impatient, and these have no room: the next ones.
        return None

    def _piece(self, receivers: tuple[int, ...], offset: int, patient: bool) -> Piece | None:
        """The next one for these receivers, or for those of them that share memory with us."""
        arena = self._arena
        near = tuple([receiver for receiver in receivers if receiver in self._shared])
        if near and arena is not None:
            piece = self._lend(arena, near, offset)
            if piece is None:
                piece = self._show(arena, near, offset)
            if piece is not None:
                return piece
            room = min([self._granted[receiver] for receiver in near]) - offset
            parts, nbytes = self._at(offset, min(arena.slot_bytes, room))
            place = arena.put(parts)
            if place is not None:
                self._lent.append(_Lent(offset, offset + nbytes, place, near, shown=False))
                return Piece(near, offset, nbytes, place, ())
            if patient:
                return None
        parts, nbytes = self._at(offset, self._pace.chunk)
        frame = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return Piece(receivers, offset, nbytes, -1, (frame,))

    def _show(self, arena: SharedMemory, near: tuple[int, ...], offset: int) -> Piece | None:
        """The next one where it lies, for those that can read it there; None if it goes another way."""
        near = tuple([receiver for receiver in near if receiver in self._seeing])
        if not near:
            return None
        end = min([self._granted[receiver] for receiver in near])
        end = min(end, offset + arena.window_bytes, self._ends[bisect_right(self._ends, offset)])
        if end < self.size:
            end -= end % self._pace.chunk  # What follows may go as frames.
        if 2 * (end - offset) < arena.slot_bytes:
            return None  # Several such pieces travel together in a slot.
        (part,), nbytes = self._at(offset, end - offset)
        place = arena.show(part)
        if place is None:
            return None
        self._lent.append(_Lent(offset, offset + nbytes, place, near, shown=True))
        return Piece(near, offset, nbytes, place, ())

    def _lend(self, arena: SharedMemory, near: tuple[int, ...], offset: int) -> Piece | None:
        """The next one of the sheet, for those that map it or may begin to; None if it goes another way."""
        sheet = self._sheet
        if sheet is None:
            if offset or len(near) < 2 or self.size < arena.sheet_from or len(self._ends) > _MOST_ON_A_SHEET:
                return None
            starts, nbytes = spread([len(buffer) for buffer in self._buffers])
            place = arena.lend(nbytes)
            if place is None:
                return None
            sheet = self._sheet = _Sheet(place, starts)
        if not offset and not sheet.full:
            sheet.readers.update(near)
        near = tuple([receiver for receiver in near if receiver in sheet.readers])
        if not near:
            return None
        room = min([self._granted[receiver] for receiver in near]) - offset
        if offset < sheet.filled:
            return Piece(near, offset, min(room, sheet.filled - offset), sheet.place, ())
        nbytes = 0 if sheet.full else self._fill(arena, sheet, min(room, arena.step(sheet.place)))
        return Piece(near, offset, nbytes, sheet.place, ()) if nbytes else None

    def _fill(self, arena: SharedMemory, sheet: _Sheet, room: int) -> int:
        """Copy the next bytes into the sheet; how many, 0 if there is no memory for them."""
        index = bisect_right(self._ends, sheet.filled)
        begin = sheet.filled - (self._ends[index - 1] if index else 0)
        parts, nbytes = self._at(sheet.filled, room)
        for part in parts:
            if not arena.fill(sheet.place, sheet.starts[index] + begin, part):
                sheet.full = True
                return 0
            index, begin = index + 1, 0
        sheet.filled += nbytes
        return nbytes

    def _at(self, offset: int, room: int) -> tuple[list[memoryview], int]:
        """What lies there, and its size. It may span buffers."""
        index = bisect_right(self._ends, offset)
        start = offset - (self._ends[index - 1] if index else 0)
        parts = [self._buffers[index][start : start + room]]
        size = len(parts[0])
        while size < room and index + 1 < len(self._buffers):
            index += 1
            parts.append(self._buffers[index][: room - size])
            size += len(parts[-1])
        return parts, size
