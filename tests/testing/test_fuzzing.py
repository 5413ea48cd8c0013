"""The fuzzers' targets under Hypothesis: every decoder and state machine with anything at all.

`make fuzz` goes further, with coverage as its guide. DIRECTVIEW_HYPOTHESIS=long looks far longer.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from typing import cast

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from directview.testing.fuzzing import TARGETS, joined, seeds
from directview.testing.strategies import any_message
from directview.wire.messages import MAX_HEADER_BYTES, ProtocolError, decode, encode
from directview.wire.parcels import unpack

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

TIMES = 100 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1
MACHINES = ("controller", "engine", "client")


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A seed with a piece overwritten, repeated, taken out or put elsewhere; or two of them joined."""
    data = draw(st.sampled_from(seeds(name)))
    if draw(st.booleans()):
        data += draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 40))
        piece = draw(
            st.sampled_from([data[at : at + size] * 2, b"", data[: at + size]]) | st.binary(max_size=12)
        )
        data = data[:at] + piece + data[at + size :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_do_no_harm(name: str) -> None:
    assert seeds(name)
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=30 * TIMES, deadline=None, suppress_health_check=SLOW)
def test_nothing_does_harm(name: str, data: st.DataObject) -> None:
    """Noise, and damaged sense, which gets further."""
    TARGETS[name](data.draw(damaged(name) | st.binary(max_size=200)))


UUIDS = st.sampled_from([bytes(15) + bytes([number]) for number in range(1, 6)])


@pytest.mark.parametrize("name", MACHINES)
@given(parts=st.lists(st.tuples(st.integers(0, 255), any_message(UUIDS)), max_size=20))
@settings(max_examples=30 * TIMES, deadline=None, suppress_health_check=SLOW)
def test_no_order_of_messages_does_harm(name: str, parts: list[tuple[int, object]]) -> None:
    """Each valid by itself, from peers that exist and others, with losses and time between."""
    TARGETS[name](joined([(who, encode(message)) for who, message in parts]))  # type: ignore[arg-type]


# --- bombs ------------------------------------------------------------------------------------------------


def array(size: int) -> bytes:
    return b"\xdd" + struct.pack(">I", size)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "an array of four billion": lambda size: array(0xFFFF_FFFF),
    "a map of four billion": lambda size: b"\xdf" + struct.pack(">I", 0xFFFF_FFFF),
    "four gigabytes of text": lambda size: b"\xdb" + struct.pack(">I", 0xFFFF_FFFF),
    "a nest": lambda size: b"\x91" * (size - 1) + b"\xc0",
    "a nest of maps": lambda size: b"\x81\x01" * (size // 2 - 1) + b"\xc0",
    "many empty maps": lambda size: array(size - 5) + b"\x80" * (size - 5),
    "many short arrays": lambda size: array((size - 5) // 2) + b"\x91\xc0" * ((size - 5) // 2),
    "an extension": lambda size: b"\xc9" + struct.pack(">I", 0xFFFF_FFFF) + b"\x01",
}


READERS: dict[str, Callable[[bytes], object]] = {
    "header": decode,
    "parcel": lambda bomb: unpack(bomb, (), nobjects=2),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("reader", READERS)
def test_a_bomb_is_refused_in_bounded_memory(name: str, reader: str) -> None:
    """A header of the largest size takes at most a hundred times as much while it is looked at."""
    bomb = BOMBS[name](MAX_HEADER_BYTES)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            READERS[reader](bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * MAX_HEADER_BYTES


def test_what_is_larger_than_a_header_is_not_even_looked_at() -> None:
    with pytest.raises(ProtocolError, match="header of"):
        decode(cast(bytes, msgpack.packb(bytes(MAX_HEADER_BYTES))))
