"""Pure: results of detached calls, which outlive their clients, kept within bounds to be fetched.

The result of a detached call is kept as it comes by, whether or not its client is there to take it as well:
pickles that nobody reads here, large ones as the chunks of which they consist.

What goes beyond a bound (count, bytes, age) is dropped, the oldest first, and whoever asks for it is told so.
A call that can't be answered any more, because its engine has died, is kept as that.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

import msgpack

from directview.wire.messages import ABORTED, CHUNK_BYTES, FAILED, OK, CallItem, ResultItem

__all__ = [
    "LOST", "STANDARD", "Box", "Key", "Kept", "Limits", "chunked_bytes", "kept_of_row", "key_of", "msg_id_of",
    "pack_known",
]  # fmt: skip

Key = tuple[bytes, int, int]
"""client, seq, engine id."""

LOST: Final = -1
"""In place of a result's status: the engine is gone."""
_PIECE: Final = CHUNK_BYTES
"""Bytes of one answer to whoever fetches a result."""


class Limits(NamedTuple):
    """What is kept at most."""

    results: int = 10_000
    nbytes: int = 256 << 20
    age: float = 7 * 86_400.0
    """Seconds."""


STANDARD: Final = Limits()


class Kept(NamedTuple):
    """What is known of a call that has ended."""

    at: float
    """When it came, in seconds since the epoch."""
    status: int
    """As of `ResultItem`, or `LOST`."""
    started: float
    completed: float
    uuid: bytes
    """Of the engine."""
    sizes: tuple[int, ...]
    """Of the body, of each frame, and of all chunks together."""
    data: bytes
    """All of these."""
    told: dict[str, Any]
    """Of a lost one: what its error says. Of one that was dropped: ``dropped``, why."""

    @property
    def dropped(self) -> str:
        """Why the result is kept no longer; empty while it is."""
        return str(self.told.get("dropped", ""))


@dataclass(slots=True)
class _Arriving:
    """A result whose chunks are on their way."""

    item: ResultItem
    frames: list[bytes]
    uuid: bytes
    size: int
    granted: int = 0
    received: int = 0
    parts: list[bytes] = field(default_factory=list)


def chunked_bytes(body: bytes) -> int:
    """Bytes of a packed call or result that travel as chunks; its objects are not looked at."""
    try:
        places = msgpack.unpackb(body, use_list=False)[1]
        return sum([place for place in places if type(place) is int])
    except (ValueError, TypeError, IndexError, msgpack.UnpackException):
        return 0


def _why(when: float, why: str) -> Kept:
    """In the place of a result that is kept no longer."""
    return Kept(when, LOST, 0.0, 0.0, b"", (), b"", {"dropped": why})


def key_of(msg_id: object) -> Key | None:
    """The call that a msg_id names; None if it is none."""
    try:
        client, seq, engine = str(msg_id).rsplit("_", 2)
        return bytes.fromhex(client), int(seq), int(engine)
    except ValueError:
        return None


def msg_id_of(key: Key) -> str:
    """The name of a call."""
    return f"{key[0].hex()}_{key[1]}_{key[2]}"


def pack_known(kept: Kept) -> bytes:
    """What is known of a call that has ended, beside its time and its data, for a row of the store."""
    return cast(
        bytes,
        msgpack.packb((kept.status, kept.started, kept.completed, kept.uuid, kept.sizes, kept.told)),
    )


def kept_of_row(name: object, at: object, known: object, data: object) -> tuple[Key, Kept] | None:
    """A row of the store as `pack_known` and `msg_id_of` made it; None for one that is damaged.

    Who fetches a result goes by what is said here of its size, and would ask for ever for what isn't there.
    """
    key = key_of(name) if type(name) is str else None
    if key is None or len(key[0]) != 16 or not 0 <= key[1] < 1 << 63 or not 0 <= key[2] < 1 << 31:
        return None
    if type(known) is not bytes or type(data) is not bytes or not _is_time(at):
        return None
    try:
        status, started, completed, uuid, sizes, told = msgpack.unpackb(known)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None
    if type(status) is not int or status not in (LOST, OK, FAILED, ABORTED):
        return None
    if not (_is_time(started) and _is_time(completed) and type(uuid) is bytes and type(sizes) is list):
        return None
    if any([type(size) is not int or size < 0 for size in sizes]) or sum(sizes) != len(data):
        return None
    if status != LOST and len(sizes) < 2:
        return None
    if type(told) is not dict or any([not _is_plain(*item) for item in told.items()]):
        return None
    return key, Kept(cast(float, at), status, started, completed, uuid, tuple(sizes), data, told)


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast(float, value))


def _is_plain(name: object, value: object) -> bool:
    return type(name) is str and (value is None or type(value) in (bool, int, str))


class Box:
    """The detached calls that have not ended, and what is kept of those that have.

    Args:
        limits: what is kept.
        kept: what an earlier controller has left, oldest first.
    """

    def __init__(self, limits: Limits, kept: Iterable[tuple[Key, Kept]] = ()) -> None:
        self._limits = limits
        self._open: dict[bytes, dict[int, set[int]]] = {}
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._dropped: OrderedDict[Key, Kept] = OrderedDict()
        """Of what is kept no longer, only why."""
        for key, one in kept:
            (self._dropped if one.dropped else self._kept)[key] = one
        self._arriving: dict[Key, _Arriving] = {}
        self._coming = 0
        """Bytes of results on their way."""
        self.nbytes = sum([len(one.data) for one in self._kept.values()])
        """Of what is kept."""
        self.changed: dict[Key, None] = {}
        """What is new, or gone, since the last `changes`."""
        self.ended: list[Key] = []
        """Calls that have ended since somebody looked: who waits for them can be told."""

    # --- calls that go on ---------------------------------------------------------------------------------

    def submitted(self, client: bytes, item: CallItem, engine: int) -> None:
        """A detached call waits for this engine."""
        self._open.setdefault(client, {}).setdefault(item.seq, set()).add(engine)

    def adopted(self, client: bytes, seqs: Iterable[int], engine: int) -> None:
        """An engine says that it goes on with these, of a client that is gone."""
        for seq in seqs:
            self._open.setdefault(client, {}).setdefault(seq, set()).add(engine)

    def goes_on(self, key: Key) -> bool:
        """Whether this is a detached call that has not ended."""
        return key[2] in self._open.get(key[0], {}).get(key[1], ())

    def of(self, client: bytes, engine: int) -> list[int]:
        """seqs of this client's detached calls that go on with this engine, in order."""
        return sorted([seq for seq, engines in self._open.get(client, {}).items() if engine in engines])

    def arrives(self, key: Key) -> bool:
        """Whether its result is on its way."""
        return key in self._arriving

    def arriving(self) -> Collection[Key]:
        """The calls whose results are on their way."""
        return self._arriving.keys()

    def has_result(self, key: Key) -> bool:
        """Whether its result is here, or was."""
        return key in self._dropped or (key in self._kept and self._kept[key].status != LOST)

    def open_of(self, client: bytes) -> frozenset[int]:
        """seqs of all detached calls of this client that go on."""
        return frozenset(self._open.get(client, ()))

    def clients(self) -> Collection[bytes]:
        """Who has detached calls that go on."""
        return self._open.keys()

    def withdrawn(self, key: Key) -> None:
        """Nobody has this call, but its client: that will send it again, or not."""
        self._forget_arriving(key)
        self._close(key)

    # --- calls that end -----------------------------------------------------------------------------------

    def result(self, key: Key, uuid: bytes, item: ResultItem, frames: Sequence[Any], when: float) -> bool:
        """A result has come, or its beginning. Returns whether all of it is here, kept or not."""
        size = chunked_bytes(item.body) if item.body else 0
        self._forget_arriving(key)
        arriving = _Arriving(item, [bytes(frame) for frame in frames], uuid, size)
        total = len(item.body) + sum([len(frame) for frame in arriving.frames]) + size
        if total + self._coming > self._limits.nbytes:
            self._end(key, _why(when, f"its {total:,} bytes are more than what is kept of results"))
            return True
        if size:
            self._arriving[key] = arriving
            self._coming += total
            self._make_room(when)
            return False
        self._keep(key, arriving, when)
        return True

    def chunk(self, key: Key, offset: int, data: Any, when: float) -> bool:
        """A piece of a result. Returns whether all of it is here now."""
        arriving = self._arriving.get(key)
        if arriving is None or offset != arriving.received:
            return False
        arriving.parts.append(bytes(data))
        arriving.received += len(data)
        if arriving.received < arriving.size:
            return False
        self._forget_arriving(key)
        self._keep(key, arriving, when)
        return True

    def due_grant(self, key: Key, ahead: int) -> tuple[int, int] | None:
        """(upto, received): how far the engine may send a result, if that is to be told."""
        arriving = self._arriving.get(key)
        if arriving is None or arriving.granted >= arriving.size:
            return None
        if arriving.granted - arriving.received > ahead // 2:
            return None
        arriving.granted = min(arriving.size, arriving.received + ahead)
        return arriving.granted, arriving.received

    def lost(self, key: Key, uuid: bytes, told: dict[str, Any], when: float) -> None:
        """It can't be answered any more."""
        self._forget_arriving(key)
        self._end(key, Kept(when, LOST, 0.0, 0.0, uuid, (), b"", told))

    def _keep(self, key: Key, arriving: _Arriving, when: float) -> None:
        item, frames = arriving.item, arriving.frames
        sizes = (len(item.body), *[len(frame) for frame in frames], arriving.size)
        data = b"".join([item.body, *frames, *arriving.parts])
        self._end(key, Kept(when, item.status, item.started, item.completed, arriving.uuid, sizes, data, {}))

    def _end(self, key: Key, kept: Kept) -> None:
        self._close(key)
        self._put(key, kept)
        self.ended.append(key)
        self._make_room(kept.at)

    def _close(self, key: Key) -> None:
        client, seq, engine = key
        seqs = self._open.get(client, {})
        engines = seqs.get(seq, set())
        engines.discard(engine)
        if not engines:
            seqs.pop(seq, None)
        if not seqs:
            self._open.pop(client, None)

    def _put(self, key: Key, kept: Kept) -> None:
        before = self._kept.pop(key, None)
        self.nbytes -= len(before.data) if before is not None else 0
        self._dropped.pop(key, None)
        if kept.dropped:
            self._dropped[key] = kept
        else:
            self._kept[key] = kept
            self.nbytes += len(kept.data)
        self.changed[key] = None

    def _forget_arriving(self, key: Key) -> None:
        arriving = self._arriving.pop(key, None)
        if arriving is not None:
            own = len(arriving.item.body) + sum([len(frame) for frame in arriving.frames])
            self._coming -= own + arriving.size

    # --- bounds ---------------------------------------------------------------------------------------------

    def _make_room(self, now: float) -> None:
        """Drop the oldest results; then forget the oldest of those that have been dropped."""
        limits, kept = self._limits, self._kept
        while kept:
            key, oldest = next(iter(kept.items()))
            if now - oldest.at > limits.age:
                why = f"it was older than {limits.age / 3600:g} hours"
            elif len(kept) > limits.results:
                why = f"{limits.results:,} other calls have ended since"
            elif self.nbytes + self._coming > limits.nbytes:
                why = f"the results of other calls needed its place among {limits.nbytes / 1e6:,.0f} MB"
            else:
                break
            self._put(key, _why(oldest.at, why))
        while len(self._dropped) > limits.results:
            key, _ = self._dropped.popitem(last=False)
            self.changed[key] = None

    # --- asked for ------------------------------------------------------------------------------------------

    def get(self, key: Key, now: float) -> Kept | None:
        """What is kept of a call; None if nothing is known of it."""
        self._make_room(now)
        return self._kept.get(key) or self._dropped.get(key)

    def answer(self, kept: Kept, offset: int) -> dict[str, Any]:
        """A piece of what is kept, for whoever fetches it."""
        return {
            "state": "kept",
            "at": kept.at,
            "status": kept.status,
            "started": kept.started,
            "completed": kept.completed,
            "uuid": kept.uuid,
            "sizes": list(kept.sizes),
            "told": kept.told,
            "data": kept.data[offset : offset + _PIECE],
        }

    def forget(self, keys: Iterable[Key]) -> None:
        """Somebody wants these results gone."""
        for key in keys:
            kept = self._kept.pop(key, None) or self._dropped.pop(key, None)
            if kept is not None:
                self.nbytes -= len(kept.data)
                self.changed[key] = None

    def keys(self) -> list[Key]:
        """The calls of which something is kept, oldest first."""
        return list(self._kept)

    def changes(self) -> list[tuple[Key, Kept | None]]:
        """What is new since the last time, and what is gone (None): for the store."""
        changed, self.changed = self.changed, {}
        return [(key, self._kept.get(key) or self._dropped.get(key)) for key in changed]

    def take_ended(self) -> list[Key]:
        """Calls that have ended since the last time."""
        ended, self.ended = self.ended, []
        return ended
