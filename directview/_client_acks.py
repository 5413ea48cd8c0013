"""Pure: which results a client has received and not acknowledged, and when it has to say so.

An engine keeps each result until it hears that the client has it. While calls go on, that costs nothing:
every batch carries the client's watermark, below which all is received. What it doesn't cover is said in
words, soon. Words can be lost with a connection: then the engines are asked about all that is outstanding,
which tells them what is not. What calls print is acknowledged a megabyte at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from directview._client_batches import Outbound
from directview.wire.messages import Ack, Taken

__all__ = ["Acknowledgements"]

ACK_COUNT: Final = 256
ACK_BYTES: Final = 1 << 20
ACK_DELAY: Final = 0.05
"""Results are acknowledged at this many, this many bytes, or after this many seconds."""
TAKEN_BYTES: Final = 1 << 20
"""Of output, as `output_size` counts it."""
_BATCH: Final = 4096


class Acknowledgements:
    """What one client owes its engines, by id."""

    __slots__ = ("_bytes", "_count", "_owed", "_printed", "_uuid", "deadline")

    def __init__(self, uuid: bytes) -> None:
        self._uuid = uuid
        self._owed: dict[int, list[int]] = {}
        self._count = 0
        self._bytes = 0
        self._printed: dict[int, int] = {}
        self.deadline: float | None = None
        """When what is owed is to be said at the latest."""

    def owe(self, id: int, seq: int, nbytes: int, now: float) -> None:
        """A result has been received, of that size."""
        owed = self._owed.get(id)
        if owed is None:
            self._owed[id] = [seq]
        else:
            owed.append(seq)
        self._count += 1
        self._bytes += nbytes
        if self.deadline is None:
            self.deadline = now + ACK_DELAY

    def covered(self, id: int, watermark: int) -> None:
        """A batch for this engine carries the watermark: results below it need no other word."""
        owed = self._owed.get(id)
        if owed is not None and owed[0] < watermark:
            rest = [seq for seq in owed if seq >= watermark]
            self._count -= len(owed) - len(rest)
            if rest:
                self._owed[id] = rest
            else:
                del self._owed[id]

    def forget(self, id: int) -> None:
        """Nothing is owed to this engine."""
        self._count -= len(self._owed.pop(id, ()))
        self._printed.pop(id, None)

    def printed(self, id: int, size: int) -> Taken | None:
        """Output has been received, of that size; what to say of it, now and then."""
        size += self._printed.get(id, 0)
        if size < TAKEN_BYTES:
            self._printed[id] = size
            return None
        self._printed.pop(id, None)
        return Taken(self._uuid, id, size)

    def asks(self, id: int) -> None:
        """The engine is asked about all that is outstanding, which tells it what is owed."""
        self.forget(id)

    @property
    def urgent(self) -> bool:
        """Enough is owed to be said at once."""
        return self._count >= ACK_COUNT or self._bytes >= ACK_BYTES

    def say(self, watermark: int) -> Iterator[Outbound]:
        """All that is owed, in messages of bounded size. It counts as said.

        Results below the watermark need no words, but their engine does.
        """
        owed, self._owed = self._owed, {}
        self._count = self._bytes = 0
        self.deadline = None
        parts: list[tuple[int, tuple[int, ...]]] = []
        size = 0
        for id, named in owed.items():
            seqs = [seq for seq in named if seq >= watermark]
            for first in range(0, max(len(seqs), 1), _BATCH):
                part = tuple(seqs[first : first + _BATCH])
                parts.append((id, part))
                size += 1 + len(part)
                if size >= _BATCH:
                    yield Ack(self._uuid, watermark, tuple(parts)), ()
                    parts, size = [], 0
        if parts:
            yield Ack(self._uuid, watermark, tuple(parts)), ()
