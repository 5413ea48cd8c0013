"""Large buffers, cut into chunks and put together again: bookkeeping of 100 MB, and the copy at its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from directview.wire.messages import ARGUMENT, Chunk, Grant, Message, decode, encode
from directview.wire.objects import dump_arguments, dump_function, loads
from directview.wire.parcels import pack, unpack
from directview.wire.transfers import Outgoing, due_grant

BYTES = 100_000_000
ARRAY: Any = np.zeros(BYTES, np.uint8)
CLIENT = bytes(16)


def nothing() -> None:
    """The smallest call."""


nothing.__module__ = "__main__"  # as in a script: it travels by value


@pytest.mark.parametrize("receivers", [1, 4])
def test_send_in_chunks(benchmark: BenchmarkFixture, receivers: int) -> None:
    """As if each receiver granted a window whenever one is due. Nothing is copied."""
    benchmark.extra_info["bytes"] = BYTES

    def send() -> int:
        outgoing = Outgoing([memoryview(ARRAY)], range(receivers))
        sent = chunks = granted = 0
        while outgoing.receivers:
            upto = due_grant(sent, granted, BYTES)
            if upto is not None:
                granted = upto
                for receiver in range(receivers):
                    outgoing.grant(receiver, granted)
            for piece in outgoing.ready():
                sent = piece.offset + piece.nbytes
                chunks += 1
        return chunks

    assert benchmark(send) == -(-BYTES // (1 << 20))


def test_receive_in_chunks(benchmark: BenchmarkFixture) -> None:
    """Into memory of its own: one copy, and what it takes to touch fresh pages."""
    parcel = pack((dump_function(nothing), dump_arguments((ARRAY,), {})))
    (whole,) = parcel.chunks
    pieces = [(first, whole[first : first + (1 << 20)]) for first in range(0, len(whole), 1 << 20)]
    benchmark.extra_info["bytes"] = BYTES

    def receive() -> int:
        unpacked = unpack(parcel.body, parcel.frames, nobjects=2)
        for offset, piece in pieces:
            unpacked.receive(offset, piece, BYTES)
        arguments, _ = loads(*unpacked.objects()[1])
        return int(arguments[0].nbytes)

    timed: Any = benchmark  # `pedantic` has no types
    assert timed.pedantic(receive, rounds=8, iterations=1, warmup_rounds=1) == BYTES


def test_headers_of_chunks(benchmark: BenchmarkFixture) -> None:
    """Encoded, and decoded by the controller and by the receiver; with the grants for them."""
    messages: list[Message] = [Chunk(CLIENT, 1, (0,), ARGUMENT, number << 20) for number in range(96)]
    messages += [Grant(CLIENT, 1, 0, ARGUMENT, number << 22) for number in range(24)]
    benchmark.extra_info["chunks"] = 96

    def pass_on() -> int:
        headers = [encode(message) for message in messages]
        return len([decode(header) for header in headers for _ in range(2)])

    assert benchmark(pass_on) == 2 * len(messages)
