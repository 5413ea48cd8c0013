"""Pure: sending a call's large buffers in chunks, as far as the receivers have granted.

One transfer may have several receivers (a push of one array to all engines). It is sent once for all
that are at the same place: `Chunk.engines` names them, and the controller fans it out. Whoever sends says
for how long those that have room wait for the others; then a receiver that falls behind gets its own
chunks, so that a busy engine holds up nobody but itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from directview.wire.messages import CHUNK_BYTES, WINDOW_CHUNKS

__all__ = ["GRANT_AHEAD", "STANDARD", "Outgoing", "Pace", "due_grant"]

GRANT_AHEAD: Final = WINDOW_CHUNKS * CHUNK_BYTES
"""Bytes of one transfer that may be on their way: a window of 16 chunks kept a relay at 1.9 GB/s in
35 MB of memory."""


class Pace(NamedTuple):
    """In which steps transfers go. Tests take small ones, to go through many with little data."""

    chunk: int = CHUNK_BYTES
    """Bytes of a chunk; only a transfer's last one is smaller."""
    ahead: int = GRANT_AHEAD
    """Bytes that may be granted ahead of what has been received."""

    @property
    def low(self) -> int:
        """A new grant is due when the last one has shrunk by this many bytes."""
        return self.ahead // 4


STANDARD: Final = Pace()


def due_grant(received: int, granted: int, size: int, pace: Pace = STANDARD) -> int | None:
    """The next `Grant.upto` that a receiver owes, or None while the last one is far enough ahead."""
    if granted >= size or granted - received > pace.ahead - pace.low:
        return None
    return min(size, received + pace.ahead)


class Outgoing:
    """The chunks of one transfer, for one or more receivers."""

    __slots__ = ("_buffers", "_ends", "_granted", "_pace", "_sent", "size")

    def __init__(
        self, buffers: Sequence[memoryview], receivers: Iterable[int], pace: Pace = STANDARD
    ) -> None:
        self._buffers = list(buffers)
        self._ends = list(accumulate([len(buffer) for buffer in buffers]))
        self._pace = pace
        self.size = self._ends[-1] if self._ends else 0
        self._sent = dict.fromkeys(receivers, 0)
        self._granted = dict.fromkeys(self._sent, 0)

    @property
    def receivers(self) -> tuple[int, ...]:
        """Receivers that have not been sent everything yet."""
        return tuple(self._sent)

    def grant(self, receiver: int, upto: int) -> None:
        """`receiver` has room for bytes up to `upto`; grants never go back."""
        if receiver in self._sent:
            self._granted[receiver] = max(self._granted[receiver], min(upto, self.size))

    def restart(self, receiver: int) -> None:
        """`receiver` has nothing of it (any more): begin again."""
        self._sent[receiver] = self._granted[receiver] = 0

    def drop(self, receiver: int) -> None:
        """`receiver` needs nothing more."""
        self._sent.pop(receiver, None)
        self._granted.pop(receiver, None)

    @property
    def held_back(self) -> bool:
        """Somebody has room, and waits for others that have none or are behind."""
        granted = self._granted
        return any([granted[receiver] > sent for receiver, sent in self._sent.items()])

    def ready(self, patient: bool = True) -> Iterator[tuple[tuple[int, ...], int, memoryview]]:
        """Chunks that may be sent now: (receivers, offset, bytes). Taking one counts it as sent.

        Args:
            patient: only what goes to all that are furthest behind, so that each chunk is sent once as long
                as all keep up, and those that fell behind find the others again. Otherwise whatever was
                granted, in as few chunks as that takes.
        """
        while True:
            chosen = self._choose(patient)
            if chosen is None:
                return
            receivers, offset = chosen
            chunk = self._at(offset)
            for receiver in receivers:
                self._sent[receiver] = offset + len(chunk)
                if self._sent[receiver] == self.size:
                    self.drop(receiver)
            yield receivers, offset, chunk

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

    def _at(self, offset: int) -> memoryview:
        """One chunk. It may span buffers: small ones that lie side by side are copied together."""
        index = bisect_right(self._ends, offset)
        start = offset - (self._ends[index - 1] if index else 0)
        room = self._pace.chunk
        pieces = [self._buffers[index][start : start + room]]
        room -= len(pieces[0])
        while room and index + 1 < len(self._buffers):
            index += 1
            pieces.append(self._buffers[index][:room])
            room -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
