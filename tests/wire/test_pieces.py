"""Large bytes, bytearrays and strings beside a pickle: the same objects come out, whatever is around them."""

from __future__ import annotations

import gc
import pickle
import struct
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.wire import pieces
from directview.wire.objects import dump_arguments, dumps, loads
from directview.wire.pieces import PAYLOAD_BYTES

LARGE = PAYLOAD_BYTES
HANDED = 64 << 10
"""From here on a pickler hands payloads to its file by themselves."""


def received(packed: Any) -> Any:
    return loads(packed.data, [memoryview(bytearray(buffer)) for buffer in packed.buffers])


@pytest.mark.parametrize("item", [b"x", bytearray(b"x"), "x", "é", "\ud800"], ids=ascii)
def test_large_ones_travel_beside_and_come_back_as_they_were(item: Any) -> None:
    value = item * LARGE
    packed = dumps(value)
    assert len(packed.data) < 100
    assert len(packed.buffers) == 1
    again = received(packed)
    assert type(again) is type(value)
    assert again == value


@pytest.mark.parametrize("make", [bytes, bytearray])
def test_bytes_and_bytearrays_are_not_copied(make: Callable[[int], Any]) -> None:
    value = make(LARGE)
    (buffer,) = dumps({"deep": [value]}).buffers
    assert (buffer.format, buffer.ndim, buffer.nbytes) == ("B", 1, LARGE)
    assert np.shares_memory(np.frombuffer(buffer, "u1"), np.frombuffer(value, "u1"))


@pytest.mark.parametrize("size", [LARGE - 1, HANDED, HANDED - 1, 0])
def test_smaller_ones_stay_in_the_stream(size: int) -> None:
    for value in (bytes(size), bytearray(size), "x" * size):
        packed = dumps([value])
        assert packed.buffers == []
        assert received(packed) == [value]


def test_the_pickle_is_one_that_any_unpickler_reads() -> None:
    values = [b"x" * LARGE, 1, bytearray(LARGE), "y" * LARGE, np.zeros(LARGE), "small"]
    packed = dumps(values)
    for load in (pickle.loads, pickle._loads):  # type: ignore[attr-defined]
        again = load(packed.data, buffers=packed.buffers)
        assert again[:4] + again[5:] == values[:4] + values[5:]
        assert (again[4] == values[4]).all()


def test_what_was_one_object_is_one_object_there() -> None:
    shared, changing = b"x" * LARGE, bytearray(LARGE)
    loop: list[Any] = [shared, changing]
    loop.append(loop)
    packed = dumps({shared: [shared, changing], "loop": loop, "changing": changing})
    assert len(packed.buffers) == 2
    again = received(packed)
    key = next(iter(again))
    assert key is again[key][0] is again["loop"][0]
    assert again["changing"] is again[key][1] is again["loop"][1]
    assert again["loop"][2] is again["loop"]
    again["changing"].append(1)  # and it is a bytearray like any other


class Bytes(bytes):
    pass


class Text(str):
    __slots__ = ("mark",)
    mark: bytes


def test_subclasses_and_attributes() -> None:
    text = Text("x" * LARGE)
    text.mark = b"m" * LARGE
    again = received(dumps([Bytes(LARGE), text, SimpleNamespace(data=bytes(LARGE))]))
    assert type(again[0]) is Bytes
    assert again[0] == bytes(LARGE)
    assert (type(again[1]), again[1], again[1].mark) == (Text, text, text.mark)
    assert again[2].data == bytes(LARGE)


def test_arguments_of_a_call() -> None:
    packed = dump_arguments((1, b"x" * LARGE), {"text": ["y" * LARGE]})
    assert (len(packed.data) < 200, len(packed.buffers)) == (True, 2)
    assert received(packed) == ((1, b"x" * LARGE), {"text": ["y" * LARGE]})


def test_a_bytearray_is_free_again_when_its_pickle_is_gone() -> None:
    value = bytearray(LARGE)
    packed = dumps(value)
    with pytest.raises(BufferError):  # said at once, rather than sent half-changed
        value.append(1)
    del packed
    gc.collect()
    value.append(1)


class Odd:
    """Reduces to a read-only buffer that pickle is to write into the stream."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(bytes(self.size)),)


@pytest.mark.parametrize("size", [HANDED, LARGE])
def test_more_buffers_than_a_message_can_describe_go_into_the_stream(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("directview.wire.objects._MOST_BUFFERS", 2)
    array = np.arange(size // 8)
    packed = dumps([array, array + 1, array + 2, Odd(size), array + 3])
    assert len(packed.buffers) == (2 if size < LARGE else 5)
    again = received(packed)
    assert [value[0] for value in (*again[:3], again[4])] == [0, 1, 2, 3]
    assert again[3] == bytes(size)


# --- whatever is around them ----------------------------------------------------------------------------


def looks_like_a_header(size: int) -> bytes:
    """What would announce a payload of so many bytes, if it stood behind a frame."""
    return b"B" + size.to_bytes(4, "little")


def pool() -> dict[str, Any]:
    """Objects of sizes at which a pickler behaves differently, and some that resemble its opcodes."""
    made: dict[str, Any] = {}
    for size in (0, 3, 255, 256, HANDED - 10, HANDED, LARGE, LARGE + 1):
        made[f"bytes {size}"] = bytes(size)
        made[f"bytearray {size}"] = bytearray(b"\x95") * size
        made[f"str {size}"] = "ü" * size
        made[f"array {size}"] = np.full(size, 7, "u1")
    for size in (HANDED, LARGE, HANDED + 20, 24):
        made[f"header {size}"] = looks_like_a_header(size)
        made[f"headers {size}"] = looks_like_a_header(size) * (HANDED // 5)
    made["frame"] = b"\x95" + (100).to_bytes(8, "little")
    return made


POOL = pool()
structures = st.recursive(
    st.sampled_from(sorted(POOL)).map(POOL.__getitem__) | st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=6) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=20,
)


def same(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray):
        return bool((first == second).all()) and first.dtype == second.dtype
    if isinstance(first, dict):
        return list(first) == list(second) and all(map(same, first.values(), second.values()))
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("beside", [HANDED, LARGE])
@settings(deadline=None, max_examples=200)
@given(value=structures)
def test_any_structure_comes_back(beside: int, value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PAYLOAD_BYTES", beside)
        packed = dumps(value)
    large = [buffer.nbytes for buffer in packed.buffers]
    assert min(large, default=HANDED) >= 16 << 10
    again = received(packed)
    assert same(again, value)
    assert dumps(again).data == packed.data or beside != LARGE  # what is shared stays shared


def test_data_at_the_end_of_a_frame_are_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that ends with what would announce a payload of the length of the next piece."""
    monkeypatch.setattr(pieces, "PAYLOAD_BYTES", HANDED)

    def numbers(length: int) -> list[float]:
        return list(struct.unpack(">d", b"\1\1\1" + looks_like_a_header(length))) * 20_000

    def written(value: Any) -> list[bytes]:
        file = pieces.Pieces()
        pickle.Pickler(file, 5).dump(value)
        return file

    length = len(written(numbers(HANDED))[1])
    value = numbers(length)
    first, second, *_ = written(value)
    assert first.endswith(looks_like_a_header(length))
    assert len(second) == length
    packed = dumps(value)
    assert packed.buffers == []
    assert received(packed) == value


def test_this_python_hands_payloads_over_by_themselves() -> None:
    """If it didn't, nothing would be wrong but the speed."""
    file = pieces.Pieces()
    value = bytes(HANDED)
    pickle.Pickler(file, 5).dump(value)
    assert file[1] is value, sys.version
