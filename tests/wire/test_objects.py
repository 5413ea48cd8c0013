"""What goes in comes out, and large buffers travel beside the pickle, uncopied."""

from __future__ import annotations

import collections
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.errors import SerializationError
from directview.wire import objects
from directview.wire.objects import OUT_OF_BAND_BYTES, dumps, loads


def received(packed: objects.Packed) -> Any:
    """Rebuilt on buffers as they arrive: writable, and other memory."""
    return loads(packed.data, [memoryview(bytearray(buffer)) for buffer in packed.buffers])


def there_and_back(obj: Any) -> Any:
    return received(dumps(obj))


def same(first: Any, second: Any) -> bool:
    """Equal, of the same types, all the way down; NaN equals NaN."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and (first.flags.c_contiguous or first.flags.f_contiguous == second.flags.f_contiguous)
            and same(first.tolist(), second.tolist())
        )
    if isinstance(first, dict):
        return list(first) == list(second) and same(list(first.values()), list(second.values()))
    if isinstance(first, list | tuple | collections.deque):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float | complex) and first != first:
        return bool(second != second)
    return bool(first == second)


FIELDS: Any = [("x", "f4"), ("y", "M8[D]"), ("z", "i2", (2,))]


def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(st.lists(st.integers(0, 12), max_size=3).map(tuple) | st.tuples(st.integers(1000, 3000)))
    dtype = draw(
        st.sampled_from(
            ["?", "i1", ">i4", "u8", "f2", "f8", "c16", "S5", "U3", "M8[ns]", "m8[s]", "O", FIELDS]
        )
    )
    size = math.prod(shape)
    made: np.ndarray[Any, Any] = np.zeros(size, dtype)
    if made.dtype.names is None:
        made = (np.arange(size) % 5).astype("i8").astype(dtype)
    else:
        made["x"] = np.arange(size)
        made["y"] = np.datetime64("2020-01-01") + np.arange(size)
    made = made.reshape(shape, order="F" if draw(st.booleans()) else "C")
    if draw(st.booleans()) and made.ndim:
        made = made[::2]
    return made


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(bytearray, st.binary(max_size=20))
    | st.dates()
    | st.fractions()
    | st.sampled_from([int, len, math.sin, np.float64, np.sum, np.add, Ellipsis, NotImplemented, math])
    | st.integers(-5, 5).map(np.int16)
)
keys = st.text(max_size=5) | st.integers() | st.tuples(st.integers(), st.text(max_size=3))
anything = st.recursive(
    plain | st.composite(arrays)(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.frozensets(keys, max_size=4)
        | st.lists(inner, max_size=3).map(collections.deque)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(anything)
def test_what_goes_in_comes_out(obj: Any) -> None:
    assert same(there_and_back(obj), obj)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=6))
def test_exactly_the_large_buffers_travel_beside(sizes: list[int]) -> None:
    packed = dumps([np.zeros(size, "u1") for size in sizes])
    assert [len(buffer) for buffer in packed.buffers] == [n for n in sizes if n >= OUT_OF_BAND_BYTES]
    in_band = sum(n for n in sizes if n < OUT_OF_BAND_BYTES)
    assert in_band <= len(packed.data) < in_band + 300 + 100 * len(sizes)


# --- buffers --------------------------------------------------------------------------------------------


ATOMS = st.none() | st.booleans() | st.integers() | st.floats()
CHUNKS = st.lists(ATOMS, max_size=20) | st.builds(range, st.integers(), st.integers(), st.integers(1))


@settings(deadline=None)
@given(
    st.lists(ATOMS | CHUNKS, max_size=4).map(tuple) | CHUNKS.map(lambda chunk: (chunk, chunk)), ATOMS | CHUNKS
)
def test_the_short_way_for_plain_values_makes_the_same_pickle(args: tuple[Any, ...], value: Any) -> None:
    assert dumps(value).data == objects.dumps_whole(value)
    assert objects.dump_arguments(args, {}).data == objects.dumps_whole((args, {}))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_not_copied(order: Any) -> None:
    array = np.asarray(np.arange(40_000.0).reshape(200, 200), order=order)
    packed = dumps({"array": array})
    (buffer,) = packed.buffers
    assert (buffer.format, buffer.ndim, buffer.contiguous) == ("B", 1, True)
    assert np.shares_memory(np.frombuffer(buffer, "u1"), array)
    again = received(packed)["array"]
    assert same(again, array)
    again[0, 0] = 7  # writable
    assert array[0, 0] == 0


def test_small_arrays_arrive_writable_too() -> None:
    array = there_and_back(np.arange(3))
    array[0] = 5
    assert array.tolist() == [5, 1, 2]


def test_arrays_that_are_not_contiguous_arrive_whole() -> None:
    array = np.arange(90_000).reshape(300, 300)
    for view in (array[::2], array[:, ::3], array[::-1], np.broadcast_to(array[0], (50, 300))):
        assert np.array_equal(there_and_back(view), view)


@pytest.mark.parametrize("dtype", ["M8[ns]", "m8[s]", ">i4", "U20", "c16", [("x", "f4"), ("y", "M8[D]")]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_no_kind_of_large_array_is_copied_or_changed(dtype: Any, order: Any) -> None:
    array = np.zeros((100, 200), dtype, order=order)
    packed = dumps(array)
    (buffer,) = packed.buffers
    assert np.shares_memory(np.frombuffer(buffer, "u1"), array)
    again = received(packed)
    assert same(again, array)
    assert again.flags.writeable


@pytest.mark.parametrize("dtype", [">i4", ">M8[ns]", ">U3", [("x", ">f8")]])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4)])
def test_byte_order_is_kept(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    assert same(there_and_back(array), array)
    assert there_and_back(array).flags.writeable


def test_what_is_not_contiguous_is_copied_once_and_travels_beside() -> None:
    packed = dumps(np.zeros((200, 400))[:, ::2])
    assert [len(buffer) for buffer in packed.buffers] == [200 * 200 * 8]


def test_scalars_and_empty_arrays_keep_shape_and_type() -> None:
    for array in (np.array(3.5), np.array("2020-01-02", "M8[ms]"), np.empty((0, 4), "f4"), np.empty((3, 0))):
        assert same(there_and_back(array), array)


def test_string_arrays() -> None:
    if hasattr(np.dtypes, "StringDType"):
        array = np.array(["a", "long" * 5000, ""], dtype=np.dtypes.StringDType())
        again = there_and_back(array)
        assert again.dtype == array.dtype
        assert again.tolist() == array.tolist()


def test_an_array_sent_twice_is_one_array_there() -> None:
    array = np.zeros(5000)
    packed = dumps([array, array, {"again": array}])
    assert len(packed.buffers) == 1
    first, second, names = received(packed)
    assert first is second is names["again"]


def test_buffers_of_other_kinds() -> None:
    large = bytes(range(256)) * 200
    assert there_and_back(memoryview(large)) == large
    assert len(dumps(memoryview(large)).buffers) == 1
    assert there_and_back(memoryview(large)[::2]) == large[::2]
    assert there_and_back(memoryview(b"small")) == b"small"
    assert there_and_back(pickle.PickleBuffer(large)) == large


class Strided:
    """Pickles itself around a buffer that has holes."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(memoryview(bytes(100_000))[::2]),)


def test_a_buffer_with_holes_is_refused_in_words() -> None:
    with pytest.raises(SerializationError, match="contiguous"):
        dumps(Strided())
