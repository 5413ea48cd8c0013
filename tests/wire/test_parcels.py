"""Payloads: whatever is packed comes out again, by whichever way it travelled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.wire.messages import CHUNK_BYTES, MAX_FRAMES, MAX_HEADER_BYTES, ProtocolError
from directview.wire.parcels import INLINE_BYTES, Packed, Parcel, Unpacked, pack, unpack
from directview.wire.transfers import Outgoing, Pace

TIMES = 50 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1


def packed(stream: bytes, *sizes: int) -> Packed:
    """An object with buffers of these sizes, each byte telling where it belongs."""
    return Packed(
        stream, [memoryview(bytes((n + i) % 251 for i in range(size))) for n, size in enumerate(sizes)]
    )


def carry(parcel: Parcel, nobjects: int, chunk: int = 4096) -> Unpacked:
    """Take a parcel to the other side, chunks and all."""
    arrived = unpack(parcel.body, [bytes(frame) for frame in parcel.frames], nobjects=nobjects)
    outgoing = Outgoing(parcel.chunks, [0], Pace(chunk, 1 << 40))
    outgoing.grant(0, arrived.size)
    for piece in outgoing.ready():
        assert arrived.receive(piece.offset, bytes(piece.frames[0]), arrived.size)
    return arrived


def same(objects: Sequence[Packed], arrived: Sequence[Packed]) -> bool:
    return [(data, [bytes(buffer) for buffer in buffers]) for data, buffers in objects] == [
        (data, [bytes(buffer) for buffer in buffers]) for data, buffers in arrived
    ]


SIZES = st.sampled_from([0, 1, 7, 63, 64, 65, 200, 256, 257, 1000, 5000])


@given(
    objects=st.lists(
        st.builds(lambda n, sizes: packed(b"s" * n, *sizes), SIZES, st.lists(SIZES, max_size=6)),
        min_size=1,
        max_size=3,
    ),
    chunk=st.sampled_from([64, 256, 4096]),
)
@settings(max_examples=150 * TIMES, deadline=None)
def test_what_was_packed_comes_out(objects: list[Packed], chunk: int) -> None:
    parcel = pack(objects, {"option": [1, "two"]}, chunk_bytes=chunk)
    arrived = carry(parcel, len(objects), chunk)
    assert arrived.missing == 0
    assert same(objects, arrived.objects())
    assert arrived.options == {"option": (1, "two")}
    assert parcel.nbytes == len(parcel.body) + sum(len(frame) for frame in parcel.frames)


def test_small_ones_are_in_the_body_alone() -> None:
    parcel = pack([packed(b"function"), packed(b"arguments", 100)])
    assert (parcel.frames, parcel.chunks) == ([], [])


def test_middling_ones_are_frames_and_large_ones_chunks() -> None:
    middling = pack([packed(b"", INLINE_BYTES + 1)])
    assert (len(middling.frames), middling.chunks) == (1, [])
    large = pack([packed(b"", 10, CHUNK_BYTES)])
    assert (large.frames, [len(chunk) for chunk in large.chunks]) == ([], [CHUNK_BYTES])
    assert large.nbytes < 200
    assert same([packed(b"", 10, CHUNK_BYTES)], carry(large, 1, CHUNK_BYTES).objects())


def test_only_chunks_refer_to_the_senders_memory() -> None:
    memory = bytearray(INLINE_BYTES + 1)
    parcel = pack([Packed(b"", [memoryview(memory)])])
    memory[0] = 1
    assert bytes(parcel.frames[0])[0] == 0
    memory = bytearray(CHUNK_BYTES + 1)
    parcel = pack([Packed(b"", [memoryview(memory)])])
    memory[0] = 1
    assert parcel.chunks[0][0] == 1


def test_buffers_arrive_writable_and_aligned() -> None:
    for size in (100, INLINE_BYTES + 1, CHUNK_BYTES + 1):
        ((_, (buffer,)),) = carry(pack([packed(b"", size)]), 1, CHUNK_BYTES).objects()
        assert not buffer.readonly
        assert np.frombuffer(buffer, np.uint8).ctypes.data % 8 == 0


def test_thousands_of_small_buffers_fit_in_few_chunks() -> None:
    """None of them alone is worth a message."""
    objects = [Packed(b"", [memoryview(bytes(1000))] * 50_000)]
    parcel = pack(objects)
    assert len(parcel.body) < MAX_HEADER_BYTES
    outgoing = Outgoing(parcel.chunks, [0])
    outgoing.grant(0, 1 << 40)
    assert len(list(outgoing.ready())) < 60
    assert same(objects, carry(parcel, 1, CHUNK_BYTES).objects())


def test_a_message_gets_no_more_frames_than_it_may_have() -> None:
    objects = [Packed(b"", [memoryview(bytes(100))] * (MAX_FRAMES + 1))]
    parcel = pack(objects, chunk_bytes=1 << 20)
    assert len(parcel.frames) <= MAX_FRAMES


def test_what_no_header_could_describe_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="separate buffers"):
        pack([Packed(b"", [memoryview(b"")] * (1 << 17))])
    with pytest.raises(ValueError, match="options"):
        pack([packed(b"")], {"text": "x" * MAX_HEADER_BYTES})


def body(counts: Any, descriptors: Any, options: Any) -> bytes:
    made = msgpack.packb((counts, descriptors, options))
    assert isinstance(made, bytes)
    return made


@pytest.mark.parametrize(
    ("content", "nframes"),
    [
        (b"", 0),
        (b"\xc1", 0),
        (b"\x91" * 5000, 0),
        (body([1], [b"x"], {})[:-1], 0),
        (body([1], [b"x"], []), 0),
        (body([2], [b"x"], {}), 0),
        (body([1, 1], [b"x", b"y"], {}), 0),
        (body([0], [], {}), 0),
        (body([-1, 2], [b"x"], {}), 0),
        (body([True], [b"x"], {}), 0),
        (body(["1"], [b"x"], {}), 0),
        (body([1], ["text"], {}), 0),
        (body([1], [0], {}), 0),
        (body([1], [-5], {}), 0),
        (body([1], [1 << 48], {}), 0),
        (body([1], [False], {}), 0),
        (body([1], [["shared", 1]], {}), 0),
        (body([1], [b"x"], {1: 2}), 0),
        (body([1], [True], {}), 0),
        (body([1], [b"x"], {}), 1),
        (body([1], [True], {}), 2),
    ],
)
def test_what_is_no_parcel_is_a_protocol_error(content: bytes, nframes: int) -> None:
    with pytest.raises(ProtocolError):
        unpack(content, [b"frame"] * nframes, nobjects=1)


@given(content=st.binary(max_size=100), nframes=st.integers(0, 2))
@settings(max_examples=200 * TIMES, deadline=None)
def test_random_bytes_are_a_protocol_error_or_a_parcel(content: bytes, nframes: int) -> None:
    try:
        unpack(content, [b"frame"] * nframes, nobjects=1)
    except ProtocolError:
        pass


def arriving(*sizes: int) -> Unpacked:
    return unpack(body([1 + len(sizes)], [b"", *sizes], {}), [], nobjects=1)


def test_an_announcement_alone_takes_no_memory() -> None:
    parcel = arriving(1 << 47, 1 << 47)
    assert parcel.missing == 1 << 48


def test_memory_that_is_not_there_is_said_when_it_is_needed() -> None:
    with pytest.raises(MemoryError):
        arriving(1 << 47).receive(0, b"x", 1 << 60)


def test_a_chunk_that_is_not_the_next_one_changes_nothing() -> None:
    parcel = arriving(10)
    assert not parcel.receive(5, b"late!", 1 << 60)
    assert parcel.receive(0, b"first", 1 << 60)
    assert not parcel.receive(0, b"again", 1 << 60)
    assert parcel.receive(5, b"other", 1 << 60)
    assert bytes(parcel.objects()[0].buffers[0]) == b"firstother"


def test_a_chunk_may_end_one_buffer_and_begin_the_next() -> None:
    parcel = arriving(3, 2, 4)
    assert parcel.receive(0, b"aaabbc", 1 << 60)
    assert parcel.missing == 3
    assert parcel.receive(6, b"ccc", 1 << 60)
    assert [bytes(buffer) for buffer in parcel.objects()[0].buffers] == [b"aaa", b"bb", b"cccc"]


@pytest.mark.parametrize("chunk", [b"", b"x" * 11])
def test_a_chunk_of_nothing_or_too_much_is_refused(chunk: bytes) -> None:
    with pytest.raises(ProtocolError):
        arriving(4, 6).receive(0, chunk, 1 << 60)


def test_a_chunk_beyond_what_was_granted_is_refused() -> None:
    parcel = arriving(10)
    assert parcel.receive(0, b"four", 4)
    with pytest.raises(ProtocolError, match="granted"):
        parcel.receive(4, b"more", 7)


def test_an_incomplete_parcel_has_no_objects() -> None:
    with pytest.raises(RuntimeError, match="missing"):
        arriving(4).objects()
