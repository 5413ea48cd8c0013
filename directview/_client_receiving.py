"""Pure: the large results that a client is receiving, and how it grants them.

An engine sends as much of a result as was granted. Parts that are joined into one (`gather`) are received
side by side in one block, so that joining them moves nothing: if each had memory of its own, joining 100 MB
would be another copy of them, to memory that may be fresh. For that, a part is granted when the sizes of all
are known. Engines that answer do so within a millisecond of one another; one that is busy is not waited for
long, and what is joined then is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from directview.wire import blocks
from directview.wire.messages import RESULT, Chunk, Grant, ResultItem
from directview.wire.parcels import Unpacked
from directview.wire.transfers import Pace

if TYPE_CHECKING:
    from directview._client_batches import Outbound
    from directview._client_calls import Call
    from directview._client_engine import KnownEngine

__all__ = ["PATIENCE", "Adjacent", "Receiving", "Results"]

PATIENCE: Final = 0.02
"""Seconds for which parts that could come wait for the sizes of the others."""


class Receiving:
    """A result whose chunks are on their way."""

    __slots__ = ("call", "granted", "held", "item", "parcel")

    def __init__(self, call: Call, item: ResultItem, parcel: Unpacked) -> None:
        self.call = call
        self.item = item
        self.parcel = parcel
        self.granted = 0
        self.held = False
        """It is not known yet where it goes."""


class Adjacent:
    """The parts of one call's result that are to be joined.

    Args:
        targets: the call's engines, in the order of the parts.
    """

    __slots__ = ("_parts", "_unknown", "deadline")

    def __init__(self, targets: Iterable[int]) -> None:
        self._parts: dict[int, Receiving | None] = dict.fromkeys(targets)
        self._unknown = set(self._parts)
        """Engines that have not answered."""
        self.deadline: float | None = None
        """When the waiting for them ends."""

    @property
    def complete(self) -> bool:
        """All have answered."""
        return not self._unknown

    def begins(self, id: int, part: Receiving, now: float) -> None:
        """The size of this engine's part is known. It is held, unless it came too late for that."""
        if id in self._unknown:
            self._unknown.discard(id)
            self._parts[id] = part
            part.held = True
            if self.deadline is None:
                self.deadline = now + PATIENCE

    def ends(self, id: int) -> None:
        """This engine has no such part: what it sent was small, or it sent nothing."""
        self._unknown.discard(id)

    def release(self) -> list[int]:
        """The waiting is over: lay the parts out, if all are here, and let them come.

        Returns:
            The engines whose parts are held no longer.
        """
        parts = {id: part for id, part in self._parts.items() if part is not None}
        if len(parts) == len(self._parts):
            _lay_out(list(parts.values()))
        for part in parts.values():
            part.held = False
        self._unknown.clear()
        self._parts.clear()
        return list(parts)


def _lay_out(parts: list[Receiving]) -> None:
    sizes = [part.parcel.only_buffer for part in parts]
    if 0 in sizes:
        return
    try:
        block = blocks.take(sum(sizes))
    except MemoryError:
        return  # Perhaps there is some for each part; where there is none is told then.
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        part.parcel.receive_into(block[start : start + size])
        start += size


class Results:
    """The large results that one client is receiving.

    Args:
        uuid: the client's.
        engines: those it knows, by id.
        pace: in which steps.
    """

    __slots__ = ("_due", "_engines", "_pace", "_uuid", "_waiting")

    def __init__(self, uuid: bytes, engines: Mapping[int, KnownEngine], pace: Pace) -> None:
        self._uuid = uuid
        self._engines = engines
        self._pace = pace
        self._due: dict[int, None] = {}
        """Engines to which a grant may be due."""
        self._waiting: dict[int, Adjacent] = {}
        """Calls whose parts are held, by seq."""

    def begins(self, engine: KnownEngine, call: Call, item: ResultItem, parcel: Unpacked, now: float) -> None:
        """A result has been announced."""
        id = engine.info.id
        part = engine.receiving[item.seq] = Receiving(call, item, parcel)
        self._due[id] = None
        if call.adjacent is not None:
            call.adjacent.begins(id, part, now)
            self._waiting[call.seq] = call.adjacent

    def came(self, engine: KnownEngine, part: Receiving, message: Chunk, frames: Sequence[Any]) -> None:
        """A chunk has come.

        Raises:
            ProtocolError: it goes farther than was granted.
            MemoryError: there is none for the buffer that begins in it.
        """
        self._due[engine.info.id] = None
        part.parcel.receive_chunk(message, frames, part.granted)

    def ended(self, engine: KnownEngine | None, call: Call, id: int) -> None:
        """The call has ended on this engine."""
        if engine is not None and engine.receiving.pop(call.seq, None) is not None:
            self._due[id] = None
        if call.adjacent is not None:
            call.adjacent.ends(id)

    def link_lost(self) -> None:
        """What was half received is begun again, each part by itself."""
        for seq in list(self._waiting):
            self._release(seq)
        self._due.clear()

    def __bool__(self) -> bool:
        """Something may be granted."""
        return bool(self._due or self._waiting)

    @property
    def deadline(self) -> float | None:
        """When held parts are let go."""
        ends = [waiting.deadline for waiting in self._waiting.values() if waiting.deadline is not None]
        return min(ends, default=None)

    def overdue(self, now: float) -> None:
        """Let go of parts that have been held for long enough."""
        for seq, adjacent in list(self._waiting.items()):
            if adjacent.deadline is not None and now >= adjacent.deadline:
                self._release(seq)

    def _release(self, seq: int) -> None:
        self._due.update(dict.fromkeys(self._waiting.pop(seq).release()))

    def grants(self) -> Iterator[Outbound]:
        """What is to be granted now."""
        for seq in [seq for seq, adjacent in self._waiting.items() if adjacent.complete]:
            self._release(seq)
        due, self._due = self._due, {}
        for id in due:
            if id in self._engines:
                for seq, upto, received, shared in self._engines[id].due_grants(self._pace):
                    yield Grant(self._uuid, seq, id, RESULT, upto, received, shared), ()
