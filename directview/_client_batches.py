"""Pure: cutting what a client has to say into messages that fit into a header and into `CHUNK_BYTES`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from directview._client_calls import Call, Stage
from directview.wire.messages import (
    CHUNK_BYTES,
    DETACHED,
    MAX_FRAMES,
    Abort,
    Ack,
    CallItem,
    Message,
    Query,
    Resume,
    ResumeItem,
    Submit,
)

__all__ = ["Outbound", "aborts", "marks", "questions", "submits"]

_BATCH_CALLS: Final = 512
_BATCH_SEQS: Final = 4096
"""Calls in one message that only names them."""
_BATCH_MARKS: Final = 1000
_OVERHEAD: Final = 64
"""Bytes that a call takes in a header beside name, targets and body, at most."""

Outbound = tuple[Message, Sequence[Any]]


def submits(uuid: bytes, watermark: int, ready: Sequence[tuple[Call, list[int]]]) -> Iterator[Outbound]:
    """Calls, with the engines that each of them goes to."""
    items: list[CallItem] = []
    frames: list[Any] = []
    size = 0
    for call, ids in ready:
        assert call.parcel is not None
        body, own_frames, _, nbytes, _ = call.parcel
        cost = nbytes + 4 * len(call.name) + 5 * len(ids) + _OVERHEAD
        if items and (
            size + cost > CHUNK_BYTES
            or len(items) >= _BATCH_CALLS
            or len(frames) + len(own_frames) > MAX_FRAMES
        ):
            yield Submit(uuid, watermark, tuple(items)), frames
            items, frames, size = [], [], 0
        items.append(CallItem(call.seq, tuple(ids), call.name, call.flags, nbytes, len(own_frames), body))
        frames.extend(own_frames)
        size += cost
    if items:
        yield Submit(uuid, watermark, tuple(items)), frames


def aborts(uuid: bytes, seqs: Mapping[int, Sequence[int]]) -> Iterator[Message]:
    """Calls to be ended, by engine id."""
    for id, named in seqs.items():
        for first in range(0, len(named), _BATCH_SEQS):
            yield Abort(uuid, ((id, tuple(named[first : first + _BATCH_SEQS])),))


def marks(calls: Iterable[Call]) -> Iterator[Message]:
    """Which of these are detached, and with whom: another controller knows only what engines have said.

    The same one may not have heard it, if the connection was lost too soon. Nobody waits for an answer.
    """
    known = [
        [call.seq, id]
        for call in calls
        if call.flags & DETACHED
        for id, stage in call.pending.items()
        if stage is not Stage.HELD
    ]
    for first in range(0, len(known), _BATCH_MARKS):
        yield Query(0, "mark_detached", {"calls": known[first : first + _BATCH_MARKS]})


def questions(uuid: bytes, items: Sequence[ResumeItem], watermark: int) -> Iterator[Message]:
    """Calls to be asked about, by engine; at the end a word to these engines that this was all.

    Args:
        uuid: the client's.
        items: the calls.
        watermark: the client's; 0 if it has never made a call, and none of them keeps anything for it.
    """
    for first in range(0, len(items), _BATCH_SEQS):
        yield Resume(uuid, tuple(items[first : first + _BATCH_SEQS]), False)
    if items and watermark:
        yield Ack(uuid, watermark, tuple([(id, ()) for id in dict.fromkeys([item.engine for item in items])]))
