"""Arrays and other owners of memory: what arrives is equal, of the same type, writable, and uncopied."""

from __future__ import annotations

import gc
import sys
from array import array
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from directview.wire.arrays import OUT_OF_BAND_BYTES
from directview.wire.objects import Packed, dumps, loads

LARGE = OUT_OF_BAND_BYTES


def received(packed: Packed) -> Any:
    """Rebuilt on buffers as they arrive: writable, and other memory."""
    return loads(packed.data, [memoryview(bytearray(buffer)) for buffer in packed.buffers])


def there_and_back(obj: Any) -> Any:
    return received(dumps(obj))


def assert_same(again: Any, array: Any) -> None:
    """Of the same class, dtype, shape and items (NaN equals NaN), and writable."""
    assert type(again) is type(array)
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.flags.writeable
    assert again.flags.aligned
    if array.dtype.hasobject or array.dtype.kind == "T":
        assert again.tolist() == array.tolist()
    else:
        assert again.tobytes() == array.tobytes()


def assert_uncopied(value: Any, *parts: Any) -> None:
    """That exactly these arrays' memory travels, in this order."""
    buffers = dumps(value).buffers
    assert [len(buffer) for buffer in buffers] == [part.nbytes for part in parts]
    for buffer, part in zip(buffers, parts, strict=True):
        assert np.shares_memory(np.frombuffer(buffer, "u1"), part)


# --- every dtype, order and layout ----------------------------------------------------------------------

DTYPES = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.nested_dtypes(max_itemsize=200)
    | st.sampled_from(["V7", "g", "G", "e", ">f4", "<M8[ns]", ">m8[s]", "O"]).map(np.dtype)
)


@st.composite
def layouts(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """An array of any dtype, then looked at in some way: transposed, strided, repeated, read-only."""
    dtype = draw(DTYPES)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6) | st.just((40, 60)))
    made: np.ndarray[Any, Any] = np.zeros(shape, dtype)
    if dtype.hasobject:
        made.fill("an object")
    else:
        flat = made.reshape(-1).view("u1")
        flat[:] = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 2, flat.size)
    for _ in range(draw(st.integers(0, 2))):
        way = draw(st.sampled_from(["transposed", "fortran", "strided", "backwards", "repeated"]))
        if way == "transposed":
            made = made.transpose(draw(st.permutations(range(made.ndim))))
        elif way == "fortran":
            made = np.asfortranarray(made)
        elif way == "repeated":
            made = np.broadcast_to(made, (draw(st.integers(0, 3)), *made.shape))
        elif made.ndim:
            made = made[:: 2 if way == "strided" else -1]
    if draw(st.booleans()):
        made = made.view()
        made.flags.writeable = False
    return made


@settings(deadline=None, max_examples=400)
@given(layouts())
def test_any_array_comes_back_and_is_writable(array: np.ndarray[Any, Any]) -> None:
    assert_same(there_and_back(array), array)


@pytest.mark.parametrize("n", [3, 40])
def test_axes_lie_in_memory_as_they_did(n: int) -> None:
    base = np.arange(n**3).reshape(n, n, n)
    for axes in [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)]:
        again = there_and_back(base.transpose(axes))
        assert_same(again, base.transpose(axes))
        if n > 3:
            assert again.strides == base.transpose(axes).strides


def test_what_has_no_gaps_is_not_copied_whatever_the_order_of_its_axes() -> None:
    base = np.arange(40.0 * 50 * 60).reshape(40, 50, 60)
    for view in (
        base,
        base.T,
        base.transpose(1, 0, 2),
        base.swapaxes(0, 2)[None],
        base[3:17],
        base.T[..., 3:],
    ):
        assert_uncopied(view, view)
        assert_same(there_and_back(view), view)


def test_what_repeats_itself_travels_once() -> None:
    row = np.arange(5000.0)
    table = np.broadcast_to(row, (300, 5000))
    assert_uncopied(table, row)
    again = there_and_back(table)
    assert_same(again, table)
    again[0, 0] = 7
    assert again[1, 0] == 0


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy has it since 2.0")
@pytest.mark.parametrize("options", [{}, {"na_object": None}, {"coerce": False}], ids=str)
def test_strings_of_any_length(options: dict[str, Any]) -> None:
    kind = np.dtypes.StringDType(**options)
    for made in (np.array(["a", "long" * 5000, ""] * 2, kind), np.array([], kind), np.array("one", kind)):
        for view in (made, made[::2] if made.ndim else made, made.reshape(-1, 1)):
            assert_same(there_and_back(view), view)


def test_items_may_be_any_objects_also_the_array_itself() -> None:
    items = np.array([None, b"x" * 300_000, {"a": [1]}, "é"], object)
    again = there_and_back(items)
    assert_same(again, items)
    items[0] = items
    again = there_and_back(items)
    assert again[0] is again


def test_scalars_keep_their_type() -> None:
    record = np.zeros(1, [("x", "f4"), ("y", "M8[D]")])[0]
    for scalar in (
        np.float16(1.5), np.longdouble("1e400"), np.complex64(1j), np.datetime64("2020-01-01", "ns"),
        np.timedelta64(5, "ms"), np.bool_(True), np.str_("é"), np.bytes_(b"x"), np.void(b"abc"), record,
    ):  # fmt: skip
        again = there_and_back(scalar)
        assert type(again) is type(scalar)
        assert again.dtype == scalar.dtype
        assert again == scalar


# --- read-only here, writable there ---------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 50_000])
def test_copies_of_read_only_memory_are_writable(n: int, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(8 * n))
    for source in (
        np.frombuffer(bytes(8 * n), "f8"),
        np.broadcast_to(np.float64(0), (n,)),
        np.memmap(tmp_path / "data", "f8", "r"),
        np.frombuffer(bytes(8 * n), ">M8[s]"),
        np.frombuffer(bytes(8 * n), "f8").reshape(1, -1).T,
    ):
        assert not source.flags.writeable
        again = there_and_back(source)
        again[0] = 1
        assert type(again) is np.ndarray
        assert again[1:].tobytes() == source[1:].tobytes()
        assert not source.flags.writeable


def test_read_only_memory_is_not_copied_either() -> None:
    source = np.frombuffer(bytes(8 * LARGE), "f8")
    assert_uncopied([source], source)
    packed = dumps(source)
    del source
    gc.collect()
    assert received(packed).sum() == 0


@pytest.mark.parametrize("mode", ["r", "c", "r+"])
@pytest.mark.parametrize("n", [5, 50_000])
def test_memory_maps_arrive_as_arrays(mode: Any, n: int, tmp_path: Path) -> None:
    np.arange(float(n)).tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", "f8", mode)
    if n > 5:
        assert_uncopied(mapped, mapped)
    again = there_and_back([mapped, mapped[1:], mapped.reshape(1, -1).T])
    assert [type(one) for one in again] == [np.ndarray] * 3
    assert_same(again[0], np.arange(float(n)))
    assert_same(again[1], np.arange(1.0, n))
    assert_same(again[2], np.arange(float(n)).reshape(-1, 1))


# --- subclasses -----------------------------------------------------------------------------------------


class Measured(np.ndarray[Any, Any]):
    """With attributes, as numpy's own page on subclasses has it."""

    unit: Any = None

    def __array_finalize__(self, obj: Any) -> None:
        self.unit = getattr(obj, "unit", None)


class Slotted(np.ndarray[Any, Any]):
    __slots__ = ("unit",)
    unit: Any


class Careful(np.ndarray[Any, Any]):
    """Says itself how it is pickled."""

    unit: Any = None

    def __reduce__(self) -> Any:
        make, made_of, state = cast(Any, super().__reduce__())
        return make, made_of, (state, self.unit)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.unit = f"restored {state[1]}"


@pytest.mark.parametrize("n", [4, 200])
@pytest.mark.parametrize("kind", [Measured, Slotted])
def test_subclasses_keep_class_and_attributes(kind: Any, n: int) -> None:
    made: Any = np.arange(n * n).reshape(n, n).view(kind)
    made.unit = {"m": np.zeros(3)}
    in_fortrans_order: Any = np.asfortranarray(made).view(kind)
    for view in (made, made.T, in_fortrans_order):
        view.unit = made.unit
        again = there_and_back(view)
        assert_same(again, view)
        assert again.unit.keys() == {"m"}
    if n > 4:
        assert_uncopied(made, made)
    made.unit = made
    again = there_and_back(made)
    assert again.unit is again


def test_subclasses_of_objects_and_in_a_circle() -> None:
    made: Any = np.array([1, None], object).view(Measured)
    made.unit, made[1] = "m", made
    again = there_and_back(made)
    assert type(again) is Measured
    assert again[1] is again
    assert again.unit == "m"


def test_a_subclass_that_pickles_itself_does_so() -> None:
    made: Any = np.arange(5000).view(Careful)
    made.unit = "m"
    again = there_and_back(made)
    assert type(again) is Careful
    assert again.unit == "restored m"
    assert again.tolist() == made.tolist()


@pytest.mark.parametrize("n", [4, 4000])
def test_records_and_matrices(n: int) -> None:
    records = np.rec.array([(i, i / 2) for i in range(n)], dtype=[("number", "i8"), ("half", "f8")])
    again = there_and_back(records)
    assert_same(again, records)
    assert again.half[3] == 1.5
    assert type(again[3]) is np.record
    matrix = np.ones((2, n)).view(np.matrix)
    assert_same(there_and_back(matrix), matrix)
    if n > 4:
        assert_uncopied([records, matrix], records, matrix)


@pytest.mark.parametrize("n", [6, 60_000])
def test_masked_arrays(n: int) -> None:
    data = np.arange(float(n))
    masked = np.ma.MaskedArray(data, mask=data % 2 == 0, fill_value=-1.0, hard_mask=True)
    if n > 6:
        assert_uncopied(masked, data, np.ma.getmaskarray(masked))
    again = there_and_back(masked)
    assert type(again) is np.ma.MaskedArray
    assert again.data.tobytes() == data.tobytes()
    assert again.mask.tobytes() == np.ma.getmaskarray(masked).tobytes()
    assert again.fill_value == -1
    assert again.hardmask
    again.data[1] = 7
    again[3] = np.ma.masked
    assert again.filled()[:4].tolist() == [-1, 7, -1, -1]
    unmasked = there_and_back(np.ma.array(data.reshape(2, -1).T))
    assert unmasked.mask is np.ma.nomask
    assert unmasked.shape == (n // 2, 2)
    fields: Any = np.ma.MaskedArray(
        [(1, 2.0), (3, 4.0)], mask=[(False, True), (True, False)], dtype=[("a", "i4"), ("b", "f8")]
    )
    assert there_and_back(fields).mask.tolist() == fields.mask.tolist()
    assert there_and_back(np.ma.masked) is np.ma.masked


# --- other owners of memory -----------------------------------------------------------------------------


TEXT = "w" if sys.version_info >= (3, 13) else "u"


@pytest.mark.parametrize("n", [0, 3, 50_000])
@pytest.mark.parametrize("typecode", [*"bBhHiIlLqQfd", TEXT])
def test_arrays_of_the_standard_library(typecode: str, n: int) -> None:
    made: array[Any] = array(typecode, "x" * n if typecode == TEXT else range(n) if n < 4 else bytes(n))
    again = there_and_back(made)
    assert type(again) is array
    assert again.typecode == typecode
    assert again == made
    again.extend(made)
    if n > 3 and typecode != TEXT:
        assert_uncopied(made, np.frombuffer(made, typecode))


def viewed(memory: Any) -> memoryview:
    return memoryview(memory)


@pytest.mark.parametrize("n", [0, 4, 40_000])
@pytest.mark.parametrize("format", list("cbBhHiIlLqQnNfd?e"))
def test_views_of_memory_keep_format_shape_and_whether_they_may_be_written(format: Any, n: int) -> None:
    size = np.dtype("S1" if format == "c" else {"n": "p", "N": "P"}.get(format, format)).itemsize
    for memory in (bytes(n * size), bytearray(n * size)):
        for shape in ((n,), (2, n // 2)) if n else ((0,),):
            if format == "e":
                view = viewed(np.frombuffer(memory, "e").reshape(shape))
            else:
                view = (
                    memoryview(memory).cast("B").cast(format, shape) if n else memoryview(memory).cast(format)
                )
            again = there_and_back(view)
            assert type(again) is memoryview
            assert (again.format, again.shape) == (format, shape)
            assert again.tobytes() == view.tobytes()
            assert again.readonly == view.readonly
            if format in "cbB" and view.readonly:
                assert hash(again) == hash(view)


def test_views_of_memory_with_gaps_in_another_order_or_of_records() -> None:
    large = bytes(range(256)) * 200
    assert there_and_back(memoryview(large)[::2]) == large[::2]
    assert len(dumps(memoryview(large)).buffers) == 1
    table = np.arange(60_000.0).reshape(200, 300)
    for view in map(viewed, (table, table.T, table[::2, ::3])):
        again = there_and_back(view)
        assert again.shape == view.shape
        assert again == view
    record = np.zeros(3, [("x", "f4"), ("y", ">i2")])
    assert np.asarray(there_and_back(viewed(record))).dtype == record.dtype
    scalar = viewed(np.float64(1.5))
    assert there_and_back(scalar)[()] == 1.5


# --- torch ----------------------------------------------------------------------------------------------


def test_tensors_of_torch() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed; it takes 5 GB")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.complex64):
        for tensor in (
            torch.ones(3, 4, dtype=dtype),
            torch.ones(200, 300, dtype=dtype),
            torch.ones((), dtype=dtype),
        ):
            again = there_and_back(tensor)
            assert again.dtype == dtype
            assert again.shape == tensor.shape
            assert torch.equal(again, tensor)
    large = torch.arange(60_000.0).reshape(200, 300)
    some = large[3:50]
    assert_uncopied([large, large.T, some], large.numpy(), large.numpy(), some.numpy())
    assert there_and_back(large.T).stride() == large.T.stride()
    wanted = torch.ones(5, requires_grad=True)
    assert there_and_back(wanted).requires_grad
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    assert type(there_and_back(parameter)) is torch.nn.Parameter
    layer = torch.nn.Linear(300, 200)
    assert len(dumps(layer).buffers) == 1
    assert torch.equal(there_and_back(layer)(large), layer(large))


def test_a_class_called_tensor_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch" not in sys.modules:
        monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
        sys.modules["torch"].Tensor = array  # type: ignore[attr-defined]

    class Tensor:
        value = 5

    assert there_and_back(Tensor()).value == 5
