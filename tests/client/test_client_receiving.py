"""Large results: parts that are joined are received side by side, and nobody waits long for that."""

from __future__ import annotations

import numpy as np
import pytest

from directview import partition
from directview._client_calls import Call, Ended
from directview._client_receiving import PATIENCE, Adjacent
from directview._client_state import ClientState
from directview.wire import blocks
from directview.wire.messages import (
    OK,
    RESULT,
    Chunk,
    EngineInfo,
    Grant,
    Message,
    Result,
    ResultItem,
    Welcome,
)
from directview.wire.objects import dumps, loads
from directview.wire.parcels import Packed, pack
from directview.wire.transfers import Outgoing, Pace

ME = b"c" * 16
MEGABYTE = 1 << 20
PACE = Pace()


def connected(engines: int) -> ClientState:
    state = ClientState(ME, PACE)
    infos = tuple([EngineInfo(id, bytes([id]) * 16, 1, "h", "3", b"") for id in range(engines)])
    state.welcome(Welcome(1, 1, -1, "wait", 60.0, 100, 1 << 20, infos))
    list(state.flush())
    return state


def gathers(state: ClientState, engines: int) -> Call:
    call = Call(state.next_seq, "gather", range(engines), pack((Packed(b"f", ()),) * 2), None)
    call.adjacent = Adjacent(range(engines))
    state.submit(call)
    list(state.flush())
    return call


class Part:
    """What one engine sends of its part."""

    def __init__(self, id: int, value: object) -> None:
        self.id = id
        self.parcel = pack((dumps(value),))
        self.outgoing = Outgoing(self.parcel.chunks, (0,), PACE)

    def header(self, seq: int) -> tuple[Message, list[bytes]]:
        body, frames, _, nbytes, _ = self.parcel
        item = ResultItem(seq, OK, 1.0, 2.0, nbytes, len(frames), body)
        return Result(ME, self.id, (item,)), [bytes(frame) for frame in frames]

    def take_grant(self, grant: Grant, state: ClientState) -> None:
        self.outgoing.grant(0, grant.upto)
        for piece in self.outgoing.ready():
            message = Chunk(ME, grant.seq, (self.id,), RESULT, piece.offset)
            state.receive(message, [bytes(piece.frames[0])], 0.0)


def values(state: ClientState, parts: list[Part]) -> list[np.ndarray]:
    """Let all come that is granted; the values, in the order of the engines."""
    came: dict[int, np.ndarray] = {}
    for _ in range(100):
        for message, _ in state.flush():
            if isinstance(message, Grant):
                parts[message.engine].take_grant(message, state)
        for event in state.events():
            if isinstance(event, Ended):
                assert event.parcel is not None
                ((data, buffers),) = event.parcel.objects()
                came[event.engine] = loads(data, buffers)
        if len(came) == len(parts):
            break
    return [came[part.id] for part in parts]


def granted(state: ClientState) -> list[int]:
    return [message.engine for message, _ in state.flush() if isinstance(message, Grant)]


def arrays(*lengths: int) -> list[np.ndarray]:
    whole = np.arange(sum(lengths), dtype=np.float64)
    return np.split(whole, np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_parts_whose_sizes_are_known_are_received_as_one_array(order: list[int]) -> None:
    state = connected(3)
    call = gathers(state, 3)
    parts = [Part(id, value) for id, value in enumerate(arrays(MEGABYTE, MEGABYTE // 2 + 1, MEGABYTE // 3))]
    for id in order[:2]:
        state.receive(*parts[id].header(call.seq), 0.0)
        assert granted(state) == []
    state.receive(*parts[order[2]].header(call.seq), 0.0)
    got = values(state, parts)
    whole = partition.join(got)
    assert np.array_equal(whole, np.arange(len(whole)))
    assert np.shares_memory(whole, got[1])
    assert whole.flags.writeable
    assert state.next_deadline() is None or not state.calls


def test_a_part_that_does_not_come_is_not_waited_for_long() -> None:
    state = connected(2)
    call = gathers(state, 2)
    parts = [Part(id, value) for id, value in enumerate(arrays(MEGABYTE, MEGABYTE))]
    state.receive(*parts[0].header(call.seq), 5.0)
    assert granted(state) == []
    assert state.next_deadline() == 5.0 + PATIENCE
    state.tick(5.0 + PATIENCE)
    assert granted(state) == [0]
    state.receive(*parts[1].header(call.seq), 9.0)
    assert granted(state) == [1]


def test_a_part_that_is_small_or_fails_holds_up_nobody() -> None:
    state = connected(2)
    call = gathers(state, 2)
    large, small = (Part(0, np.zeros(MEGABYTE)), Part(1, np.zeros(3)))
    state.receive(*large.header(call.seq), 0.0)
    state.receive(*small.header(call.seq), 0.0)
    assert granted(state) == [0]


def test_after_a_lost_connection_parts_come_one_by_one() -> None:
    state = connected(2)
    call = gathers(state, 2)
    parts = [Part(id, value) for id, value in enumerate(arrays(MEGABYTE, MEGABYTE))]
    state.receive(*parts[0].header(call.seq), 0.0)
    state.link_lost()
    infos = tuple([EngineInfo(id, bytes([id]) * 16, 1, "h", "3", b"") for id in range(2)])
    state.welcome(Welcome(1, 2, -1, "wait", 60.0, 100, 1 << 20, infos))
    marks = [item for message, _ in state.flush() for item in getattr(message, "items", ())]
    for item in marks[::2]:
        state.receive(Result(ME, item.engine, (ResultItem(item.seq, 3, 0.0, 0.0, 0, 0, b""),)), (), 0.0)
    for part in parts:
        state.receive(*part.header(call.seq), 1.0)
    got = values(state, parts)
    assert np.array_equal(partition.join(got), np.arange(2 * MEGABYTE))


def test_only_parts_of_one_block_that_touch_are_one_array() -> None:
    block = blocks.take(4 * MEGABYTE)
    first, second, third = block[:MEGABYTE], block[MEGABYTE : 2 * MEGABYTE], block[2 * MEGABYTE :]
    whole = blocks.joined([first, second, third])
    assert whole is not None
    assert np.shares_memory(whole, second)
    assert len(whole) == 4 * MEGABYTE
    assert blocks.joined([second, first]) is None
    assert blocks.joined([first, third]) is None
    assert blocks.joined([first, np.zeros(MEGABYTE, np.uint8)]) is None
    assert blocks.joined([np.zeros(8), np.zeros(8)]) is None


def test_a_joined_array_keeps_its_block() -> None:
    block = blocks.take(2 * MEGABYTE)
    block[:] = 7
    whole = blocks.joined([block[:MEGABYTE], block[MEGABYTE:]])
    del block
    assert whole is not None
    other = blocks.take(2 * MEGABYTE)
    other[:] = 8
    assert (whole == 7).all()
