"""An object that is pickled once, to be an argument of many calls."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final

from directview import sharing
from directview.errors import SerializationError
from directview.wire import by_value
from directview.wire.objects import dumps, loads

__all__ = ["PrePickled"]

_OWN: Final = (
    by_value.make_main_function.__name__.encode(),
    by_value.make_guest_function.__name__.encode(),
)
"""What is in the pickle of functions that engines make anew."""

if TYPE_CHECKING:
    _Anything = Any  # it passes as any argument
else:
    _Anything = object


class PrePickled(_Anything):  # type: ignore[misc] # subclasses of Any are what that takes
    """An object that is pickled now, and not again for each call that it is an argument of.

    ::

        table = PrePickled(large_table)
        results = [view.apply_async(look_up, table, key) for key in keys]

    It may be anywhere inside the arguments; engines see the object itself, each call a new one. It saves the
    pickling and no more: the bytes go with each call, those of large arrays from where they lie, so that what
    is changed in them later is seen. What engines should keep is better pushed once and named by a
    `Reference`.

    Args:
        obj: anything that can travel, but for functions and classes that are defined in the program itself:
            on engines they look names up where they are called, and so have to travel as they are.

    Raises:
        SerializationError: a part of it can't be pickled; the text says which, and why.
    """

    def __init__(self, obj: object) -> None:
        self._data, self._buffers = dumps(obj, part="PrePickled")
        self._keeps = sharing.taken()
        if any([mark in self._data for mark in _OWN]):
            raise SerializationError(
                "PrePickled: in it is a function or class of the program itself, which has to travel as it "
                "is: give it as an argument of its own"
            )

    def __repr__(self) -> str:
        size = len(self._data) + sum([buffer.nbytes for buffer in self._buffers])
        return f"<PrePickled: {size} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        sharing.registered(self._keeps)
        return loads_parts, (self._data, *[pickle.PickleBuffer(buffer) for buffer in self._buffers])


def loads_parts(data: bytes, *buffers: Any) -> Any:
    """The object of a `PrePickled`, where it arrives."""
    return loads(data, buffers)
