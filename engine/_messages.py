"""Pure: what an engine says of its calls, in messages of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from directview.engine._calls import Call, Stage
from directview.engine._client_calls import ClientCalls
from directview.wire.messages import (
    CHUNK_BYTES,
    FORGOTTEN,
    MAX_FRAMES,
    UNKNOWN,
    Accept,
    Kept,
    Message,
    Paused,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
)

__all__ = ["Outbound", "absent_messages", "accept_messages", "held_messages", "result_messages"]

_BATCH: Final = 4096
"""Calls in one message, where a message could name any number."""
_OVERHEAD: Final = 64
"""Bytes that a result takes in a header beside its body, at most."""

Outbound = tuple[Message, Sequence[Any]]


def result_messages(id: int, results: Iterable[Call]) -> Iterator[Outbound]:
    """How these calls, at least one, ended on engine `id`: each message is about one client's."""
    batch: list[ResultItem] = []
    frames: list[Any] = []
    size = 0
    client = b""
    for call in results:
        assert call.result is not None
        item, parcel = call.result
        if batch and (
            call.client != client
            or size + item.nbytes + _OVERHEAD > CHUNK_BYTES
            or len(frames) + item.nframes > MAX_FRAMES
        ):
            yield Result(client, id, tuple(batch)), frames
            batch, frames, size = [], [], 0
        client = call.client
        batch.append(item)
        size += item.nbytes + _OVERHEAD
        if parcel is not None and parcel.frames:
            frames.extend(parcel.frames)
    yield Result(client, id, tuple(batch)), frames


def accept_messages(id: int, fresh: Iterable[Call]) -> Iterator[Outbound]:
    """Calls that did not end in the turn in which they came (or started) are accepted in words.

    So are those that have ended and whose results have to wait: they run no longer, nor does the controller
    count them among what the engine has not begun.
    """
    news: dict[bytes, tuple[dict[int, None], dict[int, None]]] = {}
    for call in fresh:
        if call.stage is not Stage.DONE or call.behind:
            started, held = news.setdefault(call.client, ({}, {}))
            begun = call.behind or call.stage is Stage.SUSPENDED
            (started if begun else held)[call.seq] = None
    for client, (started, held) in news.items():
        for first in range(0, max(len(started), len(held)), _BATCH):
            part = slice(first, first + _BATCH)
            yield Accept(client, id, tuple(started)[part], tuple(held)[part]), ()


def absent_messages(client: bytes, id: int, begun: int, seqs: Sequence[int]) -> Iterator[Outbound]:
    """No such calls are here; those below `begun` may have run. The client knows what to make of it."""
    items = [ResultItem(seq, FORGOTTEN if seq < begun else UNKNOWN, 0.0, 0.0, 0, 0, b"") for seq in seqs]
    for first in range(0, len(items), _BATCH):
        yield Result(client, id, tuple(items[first : first + _BATCH])), ()


def held_messages(id: int, uuid: bytes, clients: Mapping[bytes, ClientCalls]) -> Iterator[Message]:
    """What an engine, of that id and uuid, tells a controller when it comes back to it.

    First the calls that it has and that have not ended; then of which clients it begins none; and of which
    ended ones it keeps results that the controller may have to keep.
    """
    for client, known in clients.items():
        items = [
            ResumeItem(call.seq, id, uuid) for call in known.calls.values() if call.stage is not Stage.DONE
        ]
        for first in range(0, max(len(items), 1), _BATCH):
            yield Resume(client, tuple(items[first : first + _BATCH]), False)
    yield Resume(b"", (), True)
    for client, known in clients.items():
        if known.untaken.paused:
            yield Paused(client, id, True)
        here = [call.seq for call in known.retained.values() if call.detached and not call.kept]
        for first in range(0, len(here), _BATCH):
            yield Kept(client, id, tuple(here[first : first + _BATCH]))
