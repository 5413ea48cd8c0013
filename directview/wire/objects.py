"""Objects to bytes and back: pickle protocol 5, large buffers out of band and uncopied. Pure.

Everything goes through one pickler. It looks like cloudpickle's, with a dict look-up where that has a
ChainMap, so that an array costs 6 µs and not 14; the price for plain data is 1 µs over `pickle.dumps`,
which is not right here: of a function in ``__main__`` it sends the name, and the other side has no such
thing. How functions and classes travel is in `directview.wire.by_value`, how arrays do in
`directview.wire.arrays`, and large bytes and strings in `directview.wire.pieces`.

What can't be pickled raises `SerializationError`, which names the part: an argument by its position or
keyword, and inside of it the path to the item, attribute or closure variable.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from sys import modules
from types import FunctionType, ModuleType
from typing import Any, Final

import cloudpickle.cloudpickle as cp
import numpy as np

from directview.errors import SerializationError
from directview.wire import arrays
from directview.wire.arrays import OUT_OF_BAND_BYTES
from directview.wire.by_value import reduce_class, reduce_function
from directview.wire.function_cache import FunctionCache, take_snapshot
from directview.wire.parcels import Packed
from directview.wire.pieces import Pieces, assemble
from directview.wire.unpicklable import Sink, locate

__all__ = [
    "NO_ARGUMENTS",
    "OUT_OF_BAND_BYTES",
    "Packed",
    "dump_arguments",
    "dump_function",
    "dumps",
    "dumps_whole",
    "loads",
]

_REDUCERS: Final = {**cp.Pickler._dispatch_table, **arrays.REDUCERS}
_PLAIN: Final = frozenset([type(None), bool, int, float])
"""Types of whose instances `pickle.dumps` makes what our pickler does, in a third of the time."""
_FEW: Final = 16
"""Items of a list that are looked at for whether they are plain; with more, asking costs what it saves."""
_MOST_BUFFERS: Final = 60_000
"""Of one object. A parcel of two of them describes twice as many; what is beyond stays in the stream."""


NO_ARGUMENTS: Final = Packed(pickle.dumps(((), {}), 5), ())
"""What a call without any has."""


def _is_plain(value: object) -> bool:
    """Whether `pickle.dumps` is enough for `value`: a number, or the few of a chunk of a map."""
    kind = type(value)
    return (
        kind in _PLAIN
        or kind is range
        or (
            kind is list and len(value) <= _FEW and _PLAIN.issuperset(map(type, value))  # type: ignore[arg-type, call-overload]
        )
    )


class _Pickler(pickle.Pickler):
    """The C pickler, asked only about what it can't do or would do wrong."""

    shared: dict[tuple[int, int, bool], dict[str, Any]] | None = None
    taken: Mapping[str, Any] | None = None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType:
            if cp._should_pickle_by_reference(obj):
                return NotImplemented
            if self.shared is None:
                self.shared = {}
            return reduce_function(obj, self.shared, self.taken)
        reduce = _REDUCERS.get(kind)
        if reduce is not None:
            return reduce(obj)
        if issubclass(kind, _BY_ANCESTOR):
            if issubclass(kind, type):
                return reduce_class(obj)
            if issubclass(kind, ModuleType):  # lazy modules
                return cp._module_reduce(obj)
            return arrays.reduce_subclass(obj)
        if "pyarrow" in modules and kind.__module__ == "pyarrow.lib":
            return arrays.reduce_arrow(obj)
        if "torch" in modules and kind.__name__ == "Tensor":
            return arrays.reduce_tensor(obj)
        return NotImplemented


_BY_ANCESTOR: Final = (type, np.ndarray, ModuleType)


def dumps(obj: object, *, part: str = "object", taken: Mapping[str, object] | None = None) -> Packed:
    """Pickle `obj`.

    Args:
        obj: anything. Its buffers of `OUT_OF_BAND_BYTES` and more are not copied: they must not be changed
            until they have been sent.
        part: what it is to the caller, for the error.
        taken: names that functions take along where their own globals lack them.

    Returns:
        The pickle, and flat views of the buffers beside it.

    Raises:
        SerializationError: a part of it can't be pickled; the text says which, and why.
    """
    try:
        return _dump(obj, taken)
    except Exception as error:
        raise _refusal(obj, part, error) from error


def _dump(obj: object, taken: Mapping[str, object] | None = None) -> Packed:
    if type(obj) in _PLAIN or _is_plain(obj):
        return Packed(pickle.dumps(obj, 5), ())
    pieces = Pieces()
    left = _MOST_BUFFERS

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        nonlocal left
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous, and pickle says so
            return True
        if view.nbytes < OUT_OF_BAND_BYTES or not left:
            return True
        left -= 1
        pieces.append(view)
        return False

    pickler = _Pickler(pieces, 5, buffer_callback=keep_in_band)
    if taken is not None:
        pickler.taken = taken
    try:
        pickler.dump(obj)
    except BaseException:
        # The error holds this frame. A PickleBuffer of a memoryview, if it is part of a cycle, crashes the
        # garbage collector (CPython 3.11 and 3.12), so none must be left in it.
        pickler.clear_memo()
        pieces.clear()
        raise
    if len(pieces) == 1 + _MOST_BUFFERS - left:  # the stream, written in one piece at the end, and buffers
        return Packed(pieces.pop(), pieces)
    return assemble(pieces)


def dumps_whole(obj: object) -> bytes:
    """Pickle `obj` with its buffers in the same stream, for what is small and read by other means.

    Raises:
        SerializationError: it can't be pickled.
    """
    file = io.BytesIO()
    try:
        _Pickler(file, 5).dump(obj)
    except Exception as error:
        raise SerializationError(str(error)) from error
    return file.getvalue()


def _refusal(obj: object, part: str, error: Exception) -> SerializationError:
    return SerializationError(f"{part}: {locate(obj, error, _dump_into)}")


def _dump_into(obj: object, sink: Sink) -> None:
    _Pickler(sink, 5, buffer_callback=lambda _: None).dump(obj)


def loads(data: bytes, buffers: Sequence[Any] = ()) -> Any:
    """Rebuild what `dumps` pickled. Only ever for bytes from an authenticated peer: a pickle runs code.

    Args:
        data: the pickle.
        buffers: its out-of-band buffers, in order. An array that is built on a writable one is writable.

    Raises:
        Exception: a module or name that is missing here, or whatever an object's own rebuilding raises.
    """
    return pickle.loads(data, buffers=buffers) if buffers else pickle.loads(data)


def dump_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], *, call: str = "the call") -> Packed:
    """Pickle ``(args, kwargs)``.

    Args:
        args: the positional arguments.
        kwargs: the keyword arguments.
        call: what they are arguments of, for the error.

    Raises:
        SerializationError: such as "argument 1 of apply: attribute 'lock' of Foo: cannot pickle
            '_thread.lock' object"; positions count from 1.
    """
    if not kwargs and all(map(_is_plain, args)):
        return Packed(pickle.dumps((args, kwargs), 5), ()) if args else NO_ARGUMENTS
    try:
        return _dump((args, kwargs))
    except Exception as error:  # noqa: BLE001 - whatever a reducer of the user's raises
        part, value, cause = _first_refused(args, kwargs, error)
        raise _refusal(value, f"{part} of {call}", cause) from cause


def _first_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> tuple[str, object, Exception]:
    named = [(f"argument {place}", value) for place, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for part, value in named:
        try:
            _dump_into(value, Sink())
        except Exception as cause:  # noqa: BLE001 - whatever a reducer of the user's raises
            return part, value, cause
    return "the arguments", (args, kwargs), error  # each of them travels alone


_functions = FunctionCache()


def dump_function(function: Any, *, part: str | None = None) -> Packed:
    """Pickle a function that is about to be called many times; the pickle is kept while it stays valid.

    Args:
        function: any callable; only functions are kept.
        part: what it is to the caller, for the error; by default its name.

    Raises:
        SerializationError: something that travels with it can't be pickled.
    """
    if type(function) is not FunctionType:
        return dumps(function, part=part or f"function {getattr(function, '__name__', function)!s:.80}")
    packed = _functions.get(function)
    if packed is None:
        snapshot = take_snapshot(function)
        packed = dumps(function, part=part or f"function {function.__name__}")
        if snapshot is not None:
            _functions.put(function, snapshot, packed)
    return packed
