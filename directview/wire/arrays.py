"""How arrays, tensors and other owners of memory travel: as a view of their bytes, uncopied. Pure.

numpy sends only what is contiguous, native and of its own class that way. Here that is so for every array
whose items are plain bytes: subclasses, masked arrays, dates, records, any byte order. A copy is made of
what has gaps, and of nothing else; what repeats itself (``np.broadcast_to``) travels once.

Arrays arrive writable, also where the original was not: the copy there is nobody else's. A view of memory
(``memoryview``) may be written exactly where the original may.
"""

from __future__ import annotations

import copyreg
import importlib
import pickle
import sys
from array import array
from collections.abc import Callable
from typing import Any, Final

import numpy as np

__all__ = ["OUT_OF_BAND_BYTES", "REDUCERS", "reduce_arrow", "reduce_subclass", "reduce_tensor"]

OUT_OF_BAND_BYTES: Final = 16 << 10
"""Smallest buffer that travels beside the pickle. Below it the copy is cheaper than the bookkeeping."""

Array = np.ndarray[Any, Any]


# --- numpy's own class ----------------------------------------------------------------------------------


def _reduce_array(array: Array) -> Any:
    """numpy does it for what is small, native and writable; that is as good, and a little faster."""
    if array.nbytes < OUT_OF_BAND_BYTES and array.dtype.isnative and array.flags.writeable:
        return NotImplemented
    return _reduced(array) if _is_plain(array.dtype) else NotImplemented


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether an item is its bytes: no reference to a Python object, or to a string kept elsewhere."""
    return not (dtype.hasobject or dtype.kind == "T" or not dtype.itemsize)


def _reduced(array: Array) -> Any:
    """The array's bytes in the order in which they lie, and how they are to be looked at."""
    flags = array.flags
    ordered, axes = array, None
    if flags.f_contiguous and not flags.c_contiguous:
        ordered, axes = array.T, tuple(range(array.ndim - 1, -1, -1))
    elif not flags.c_contiguous:
        repeats = [step == 0 and length > 1 for step, length in zip(array.strides, array.shape, strict=True)]
        if True in repeats and array.nbytes >= OUT_OF_BAND_BYTES:
            once = array[tuple([slice(1) if repeated else slice(None) for repeated in repeats])]
            return _rebuild_broadcast, (once, array.shape)
        ordered, axes = _ordered(array)
    flat: Any = ordered.reshape(-1).view(np.uint8)
    if not (flags.writeable or flat.flags.writeable):
        flat = np.asarray(_Lent(flat)) if flat.nbytes >= OUT_OF_BAND_BYTES else flat.copy()
    return _rebuild_array, (pickle.PickleBuffer(flat), array.dtype, ordered.shape, axes)


def _ordered(array: Array) -> tuple[Array, tuple[int, ...] | None]:
    """`array` with its axes as they lie in memory, and the way back; a copy of it if it has gaps."""
    strides = array.strides
    axes = sorted(range(array.ndim), key=lambda axis: -strides[axis])
    ordered = array.transpose(axes)
    if ordered.flags.c_contiguous:
        return ordered, tuple(sorted(range(array.ndim), key=axes.__getitem__))
    return np.ascontiguousarray(array), None


class _Lent:
    """Read-only memory in the guise of writable memory, so that pickle asks for such. Nobody writes to it."""

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, owner: Array) -> None:
        described = owner.__array_interface__
        self._owner = owner
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}


def _rebuild_array(
    buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], axes: tuple[int, ...] | None
) -> Array:
    made: Array = np.ndarray(shape, dtype, buffer)
    return made if axes is None else made.transpose(axes)


def _rebuild_broadcast(once: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(once, shape).copy()


# --- its subclasses -------------------------------------------------------------------------------------

_ITS_OWN: Final = ("__reduce_ex__", "__reduce__", "__setstate__")
"""What a class that says how it is pickled overrides."""


def reduce_subclass(array: Array) -> Any:
    """An array of a subclass, with its attributes, which numpy leaves behind.

    Of a memory map only what it maps travels: there is no such file there.
    """
    kind = type(array)
    if isinstance(array, np.memmap):
        return _reduced(np.ndarray.view(array, np.ndarray))
    ways = np.ma.MaskedArray if isinstance(array, np.ma.MaskedArray) else np.ndarray
    if kind in copyreg.dispatch_table or any(
        [getattr(kind, way) is not getattr(ways, way) for way in _ITS_OWN]
    ):
        return NotImplemented
    attributes = object.__getstate__(array)
    if array.dtype.hasobject:  # an item may be the array itself, which has to be there before its items
        reduced: Any = np.ndarray.__reduce_ex__(array, 4)
        make, made_of, items = reduced
        return make, made_of, (items, attributes), None, None, _fill_objects
    plain = np.ndarray.view(array, np.ndarray)
    return _rebuild_subclass, (plain, kind), attributes, None, None, _set_attributes


def _rebuild_subclass(plain: Array, kind: type[Array]) -> Array:
    return plain.view(kind)


def _fill_objects(array: Array, state: Any) -> None:
    items, attributes = state
    np.ndarray.__setstate__(array, items)
    _set_attributes(array, attributes)


def _set_attributes(array: Array, attributes: Any) -> None:
    """What ``object.__getstate__`` gave: a dict, or a pair of that and of what is in slots."""
    names, slots = attributes if isinstance(attributes, tuple) else (attributes, None)
    if names:
        vars(array).update(names)
    for name, value in (slots or {}).items():
        setattr(array, name, value)


# --- other owners of memory -----------------------------------------------------------------------------

_CAST: Final = frozenset("cbBhHiIlLqQnNfd?")
"""Formats that a view of bytes can be cast to."""


def _reduce_memoryview(view: memoryview) -> Any:
    if view.format not in _CAST:  # half floats, records, another byte order: numpy reads and makes them
        return _rebuild_unusual_memoryview, (np.asarray(view), view.readonly)
    whole = view.c_contiguous and view.nbytes
    flat = view.cast("B") if whole else bytearray(view.tobytes())
    # Without items it can be cast to one dimension only.
    return _rebuild_memoryview, (
        pickle.PickleBuffer(flat), view.format, view.shape if view.nbytes else (0,), view.readonly,
    )  # fmt: skip


def _rebuild_memoryview(buffer: Any, format: Any, shape: tuple[int, ...], readonly: bool) -> memoryview:
    flat = memoryview(bytes(buffer) if readonly else buffer)  # of bytes it has a hash
    return flat.cast(format, shape) if flat.nbytes else flat.cast(format)


def _rebuild_unusual_memoryview(items: Any, readonly: bool) -> memoryview:
    return memoryview(items).toreadonly() if readonly else memoryview(items)


def _reduce_stdlib_array(items: array[Any]) -> Any:
    if items.typecode in "uw" or len(items) * items.itemsize < OUT_OF_BAND_BYTES:
        return NotImplemented
    return _rebuild_stdlib_array, (items.typecode, pickle.PickleBuffer(memoryview(items).cast("B")))


def _rebuild_stdlib_array(typecode: str, buffer: Any) -> array[Any]:
    made: array[Any] = array(typecode)
    made.frombytes(buffer)
    return made


REDUCERS: Final[dict[type, Callable[[Any], Any]]] = {
    np.ndarray: _reduce_array,
    memoryview: _reduce_memoryview,
    array: _reduce_stdlib_array,
}
"""By exact class."""


# --- pyarrow --------------------------------------------------------------------------------------------

_SLICED: Final = ("Table", "RecordBatch", "ChunkedArray")


def reduce_arrow(rows: Any) -> Any:
    """What is a small part of larger buffers, as a stream of its own rows: pyarrow would send all buffers.

    So a DataFrame that is cut into parts sends each part's strings only.
    """
    pyarrow: Any = sys.modules["pyarrow"]
    kind = type(rows).__name__
    if not (kind in _SLICED or isinstance(rows, pyarrow.Array)):
        return NotImplemented
    whole = rows.get_total_buffer_size()
    if whole < OUT_OF_BAND_BYTES or whole < 2 * rows.nbytes:
        return NotImplemented
    if kind == "ChunkedArray":
        columns = pyarrow.table({"": rows})
    else:
        columns = rows if kind in _SLICED else pyarrow.record_batch([rows], [""])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, columns.schema) as stream:
        stream.write(columns)
    return _rebuild_arrow, (kind if kind in _SLICED else "Array", sink.getvalue())


def _rebuild_arrow(kind: str, stream: Any) -> Any:
    reader = importlib.import_module("pyarrow").ipc.open_stream(stream)
    if kind in ("Table", "ChunkedArray"):
        table = reader.read_all()
        return table if kind == "Table" else table.column(0)
    batch = reader.read_next_batch()
    return batch if kind == "RecordBatch" else batch.column(0)


# --- torch ----------------------------------------------------------------------------------------------


def reduce_tensor(tensor: Any) -> Any:
    """A dense tensor in this process's memory, as the array that shares it.

    torch itself would write the whole of its storage, of which it may be a small view, into the pickle.
    """
    torch: Any = sys.modules.get("torch")
    if (
        torch is None
        or type(tensor) is not torch.Tensor
        or tensor.device.type != "cpu"
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
        or vars(tensor)
        or not (tensor.is_leaf or not tensor.requires_grad)
    ):
        return NotImplemented
    values = tensor.detach()
    try:
        plain, dtype = values.numpy(), None
    except (TypeError, RuntimeError):  # bfloat16 and others that numpy doesn't have
        dtype = tensor.dtype
        plain = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    return _rebuild_tensor, (plain, dtype, tuple(tensor.shape), tensor.requires_grad)


def _rebuild_tensor(plain: Array, dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    torch: Any = importlib.import_module("torch")
    made = torch.from_numpy(plain)
    if dtype is not None:
        made = made.view(dtype).reshape(shape)
    return made.requires_grad_() if requires_grad else made
