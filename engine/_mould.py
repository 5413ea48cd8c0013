"""A function that has arrived, so that it can be made again without unpickling. Pure.

A burst of calls brings the same pickle thousands of times. Handing out the one function that it gave would
be fast and wrong: attributes set on it, a ``nonlocal`` variable, a cache in one of its helpers would pass
from one call to the next. So each call gets functions of its own, cast from a mould: new function objects,
new cells, new overlay where that holds functions, all around the same code. Only what nothing can change is
shared; a pickle with anything else in it has no mould and is unpickled each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CellType, FunctionType
from typing import Any, Final, NamedTuple

from directview.engine._overlay import Layouts, Overlay
from directview.wire.by_value import PLAIN_BUILTINS, builtins_of, goes_by_reference, is_immutable

__all__ = ["MapMould", "Mould", "make_function"]


class _Made(NamedTuple):
    """Stands in the mould for what is made anew with each cast."""

    place: int


class _Unfit(Exception):
    """Something in the pickle could carry state from one call to another."""


class _Function(NamedTuple):
    code: Any
    has_overlay: bool
    defaults: tuple[Any, ...] | None
    cells: tuple[int, ...] | None
    fields: tuple[tuple[str, Any], ...]
    """What differs from that of a function made from the code alone."""
    attributes: tuple[tuple[str, Any], ...]


def make_function(
    namespace: dict[str, Any],
    found: dict[str, Any],
    code: Any,
    defaults: tuple[Any, ...] | None = None,
    closure: tuple[CellType, ...] | None = None,
) -> FunctionType:
    """A function whose globals are `namespace` and whose builtins are `found`."""
    before = namespace.get("__builtins__", PLAIN_BUILTINS)
    namespace["__builtins__"] = found
    try:
        return FunctionType(code, namespace, None, defaults, closure)
    finally:
        namespace["__builtins__"] = before


class Mould:
    """Casts the function of one pickle."""

    __slots__ = (
        "_cells",
        "_functions",
        "_layouts",
        "_names",
        "_namespace",
        "_overlay",
        "_returned",
        "_single",
    )

    @classmethod
    def of(
        cls,
        function: object,
        functions: Sequence[FunctionType],
        overlay: Overlay,
        layouts: Layouts,
        namespace: dict[str, Any],
    ) -> Mould | None:
        """Take a mould of what has just been unpickled; None if something in it could carry state.

        Args:
            function: what the pickle was of.
            functions: all functions that it made.
            overlay: what travelled with it.
            layouts: makes new overlays.
            namespace: the globals of the functions.
        """
        try:
            return cls(function, functions, overlay, layouts, namespace)
        except _Unfit:
            return None

    def __init__(
        self,
        function: object,
        functions: Sequence[FunctionType],
        overlay: Overlay,
        layouts: Layouts,
        namespace: dict[str, Any],
    ) -> None:
        places = {id(made): _Made(index) for index, made in enumerate(functions)}
        returned = places.get(id(function))
        if returned is None:
            raise _Unfit
        cells: dict[int, tuple[int, CellType]] = {}
        for made in functions:
            for cell in made.__closure__ or ():
                cells.setdefault(id(cell), (len(cells), cell))

        def part(value: Any) -> Any:
            place = places.get(id(value))
            if place is not None:
                return place
            if is_immutable(value) or goes_by_reference(value):
                return value
            raise _Unfit

        def contents(cell: CellType) -> Any:
            try:
                return part(cell.cell_contents)
            except ValueError:
                raise _Unfit from None

        self._functions = [_describe(made, namespace, part, cells) for made in functions]
        self._cells = [contents(cell) for _, cell in cells.values()]
        self._names = {name: part(value) for name, value in overlay.names.items()}
        self._namespace = namespace
        self._layouts = layouts
        self._overlay = overlay
        self._returned = returned.place
        only = self._functions[0]
        self._single = (
            only.code
            if len(functions) == 1
            and not (cells or only.defaults or only.fields or only.attributes)
            and not _holds_functions(self._names)
            else None
        )
        """The code, when a cast is one function and nothing else."""

    def cast(self) -> tuple[FunctionType, Overlay]:
        """The function, as if just unpickled, and its overlay."""
        overlay = self._overlay
        if overlay.names and self._layouts.refresh():
            # Others still run with the old overlay, with the builtins of their time.
            made = self._layouts.make(overlay.names)
            overlay = Overlay(overlay.names, made, overlay.withheld, stays=overlay.stays)
            self._overlay = overlay
        if self._single is not None:
            namespace = self._namespace
            before = namespace.get("__builtins__", PLAIN_BUILTINS)
            namespace["__builtins__"] = overlay.builtins
            try:
                return FunctionType(self._single, namespace), overlay
            finally:
                namespace["__builtins__"] = before
        return self._cast_all(overlay)

    def _cast_all(self, overlay: Overlay) -> tuple[FunctionType, Overlay]:
        found = overlay.builtins
        own = _holds_functions(self._names)
        if own:
            found = self._layouts.make(self._names)
        cells = [CellType() for _ in self._cells]
        functions: list[FunctionType] = []
        for code, has_overlay, defaults, indexes, _, _ in self._functions:
            closure = None if indexes is None else tuple([cells[index] for index in indexes])
            beside = found if has_overlay else PLAIN_BUILTINS
            functions.append(make_function(self._namespace, beside, code, defaults, closure))

        def real(value: Any) -> Any:
            return functions[value.place] if type(value) is _Made else value

        for cell, value in zip(cells, self._cells, strict=True):
            cell.cell_contents = real(value)
        for function, described in zip(functions, self._functions, strict=True):
            if described.defaults:
                function.__defaults__ = tuple([real(value) for value in described.defaults])
            for field, value in described.fields:
                setattr(function, field, dict(value) if type(value) is dict else value)
            for name, value in described.attributes:
                function.__dict__[name] = real(value)
        if own:
            names = {name: real(value) for name, value in self._names.items()}
            found.update(names)
            overlay = Overlay(names, found, overlay.withheld, stays=overlay.stays)
        return functions[self._returned], overlay


class MapMould:
    """Casts what a map sends: its function, to be called with the items of a chunk.

    Args:
        mapper: calls the function with each item.
        mould: of the function.
    """

    __slots__ = ("_mapper", "_mould")

    def __init__(self, mapper: Callable[..., Any], mould: Mould) -> None:
        self._mapper = mapper
        self._mould = mould

    def cast(self) -> tuple[partial[Any], Overlay]:
        """As if just unpickled, and its overlay."""
        function, overlay = self._mould.cast()
        return partial(self._mapper, function), overlay


_FIELDS: Final = ("__name__", "__qualname__", "__module__", "__doc__")


def _describe(
    function: FunctionType,
    namespace: dict[str, Any],
    part: Any,
    cells: Mapping[int, tuple[int, CellType]],
) -> _Function:
    closure = function.__closure__
    plain = FunctionType(
        function.__code__,
        namespace,
        None,
        None,
        None if closure is None else tuple([CellType() for _ in closure]),
    )
    fields: list[tuple[str, Any]] = [
        (field, getattr(function, field))
        for field in _FIELDS
        if getattr(function, field) != getattr(plain, field)
    ]
    for field in ("__kwdefaults__", "__annotations__"):
        values = getattr(function, field)
        if values:
            parts = {name: part(value) for name, value in values.items()}
            if _holds_functions(parts):
                raise _Unfit  # rare, and not worth another way
            fields.append((field, parts))
    defaults = function.__defaults__
    return _Function(
        function.__code__,
        builtins_of(function) is not PLAIN_BUILTINS,
        None if defaults is None else tuple([part(value) for value in defaults]),
        None if closure is None else tuple([cells[id(cell)][0] for cell in closure]),
        tuple(fields),
        tuple([(name, part(value)) for name, value in function.__dict__.items()]),
    )


def _holds_functions(names: Mapping[str, Any]) -> bool:
    return any([type(value) is _Made for value in names.values()])
