"""Pickles of functions, kept as long as a fresh one would come out the same. Pure.

Pickling a lambda takes some 20 µs, and a burst of calls pickles the same one again and again. A kept
pickle is used only while all of this holds, for the function and for every function that travels with it:
its code, defaults, attributes and annotations are what they were; every name that it uses is absent, or a
module, function or class that goes by reference, or the identical immutable value; and so is what it
closes over. Whatever could be changed in place makes a function unfit to be kept, because nobody would
see the change.

The cache keeps no function alive, and is bounded.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

import cloudpickle.cloudpickle as cp

from directview.wire.by_value import (
    GLOBAL_BYTES,
    PLAIN_BUILTINS,
    builtins_of,
    goes_by_reference,
    is_immutable,
    is_main,
    size_of,
)
from directview.wire.parcels import Packed

__all__ = ["FunctionCache", "Snapshot", "take_snapshot"]

_ABSENT: Final = object()
_MAX_FUNCTIONS: Final = 64
"""Functions that travel together; more of them take longer to compare than to pickle."""


class _Watched(NamedTuple):
    """One function, and what must not have changed about it."""

    reference: weakref.ref[FunctionType] | None
    """None for the function that is looked up, which the caller holds."""
    code: Any
    defaults: tuple[Any, ...] | None
    fields: tuple[Any, ...]
    annotations: dict[str, Any]
    same: tuple[tuple[str, Any], ...]
    """Globals that must be absent, or this very object."""
    functions: tuple[tuple[str, weakref.ref[FunctionType]], ...]
    """Globals that must be this very function, itself watched."""
    sizes: tuple[tuple[str, int], ...]
    """Globals too large to travel: only their size does."""
    cells: tuple[Any, ...]
    """What the closure must hold, in order: an object, or a reference to a watched function."""

    def unchanged(self, function: FunctionType) -> bool:
        if (
            function.__code__ is not self.code
            or function.__defaults__ is not self.defaults
            or function.__dict__
            or function.__kwdefaults__ is not None
            or _fields(function) != self.fields
            or function.__annotations__ != self.annotations
        ):
            return False
        names = function.__globals__
        for name, value in self.same:
            if names.get(name, _ABSENT) is not value:
                return False
        for name, reference in self.functions:
            if names.get(name, _ABSENT) is not reference():
                return False
        for name, size in self.sizes:
            if name not in names or size_of(names[name]) != size:
                return False
        return not self.cells or self._cells_unchanged(function)

    def _cells_unchanged(self, function: FunctionType) -> bool:
        for cell, expected in zip(function.__closure__ or (), self.cells, strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # deleted since
                return False
            if value is not (expected() if type(expected) is weakref.ref else expected):
                return False
        return True


class Snapshot(NamedTuple):
    """All that the pickle of a function depends on."""

    watched: tuple[_Watched, ...]
    by_value: frozenset[str]
    """Modules registered to be pickled by value."""
    modules: int
    """How many modules were imported, if the function uses a package; otherwise -1. An import may add to
    the submodules that have to be imported there too."""

    def unchanged(self, function: FunctionType) -> bool:
        """Whether pickling `function` now would give what it gave then."""
        for watched in self.watched:
            current = function if watched.reference is None else watched.reference()
            if current is None or not watched.unchanged(current):
                return False
        return self.by_value == cp._PICKLE_BY_VALUE_MODULES and self.modules in (-1, len(sys.modules))


def _fields(function: FunctionType) -> tuple[Any, ...]:
    return function.__name__, function.__qualname__, function.__module__, function.__doc__


class _Unfit(Exception):
    """Something about the function could change without being noticed."""


def take_snapshot(function: FunctionType) -> Snapshot | None:
    """What the pickle of `function` depends on; None if it may change unseen."""
    by_value = frozenset(cp._PICKLE_BY_VALUE_MODULES)
    if goes_by_reference(function):
        return Snapshot((), by_value, -1)
    watched: dict[int, _Watched] = {}
    waiting = [function]
    packages = False

    def follow(value: object) -> bool:
        """Whether `value` is a function to be watched; _Unfit if it is nothing that can be relied on."""
        nonlocal packages
        if isinstance(value, FunctionType) and not goes_by_reference(value):
            waiting.append(value)
            return True
        if isinstance(value, ModuleType):
            packages = packages or bool(value.__package__)
        if not (is_immutable(value) or goes_by_reference(value)):
            raise _Unfit
        return False

    try:
        while waiting:
            current = waiting.pop()
            if id(current) in watched:
                continue
            if len(watched) >= _MAX_FUNCTIONS:
                return None
            reference = None if current is function else weakref.ref(current)
            watched[id(current)] = _watch(current, reference, follow)
    except _Unfit:
        return None
    return Snapshot(tuple(watched.values()), by_value, len(sys.modules) if packages else -1)


def _watch(
    function: FunctionType,
    reference: weakref.ref[FunctionType] | None,
    follow: Callable[[object], bool],
) -> _Watched:
    annotations = function.__annotations__
    if (
        function.__dict__
        or function.__kwdefaults__ is not None
        or builtins_of(function) is not PLAIN_BUILTINS
        or any([follow(value) for value in annotations.values()])
        or any([follow(value) for value in function.__defaults__ or ()])
    ):
        raise _Unfit
    main = is_main(function)
    same: list[tuple[str, Any]] = []
    functions: list[tuple[str, weakref.ref[FunctionType]]] = []
    sizes: list[tuple[str, int]] = []
    for name in cp._extract_code_globals(function.__code__):
        value = function.__globals__.get(name, _ABSENT)
        size = size_of(value) if main and value is not _ABSENT else 0
        if size > GLOBAL_BYTES:
            sizes.append((name, size))
        elif value is not _ABSENT and name != "__builtins__" and follow(value):
            functions.append((name, weakref.ref(value)))
        else:
            same.append((name, value))
    cells: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:
            raise _Unfit from None  # it will be set, and nobody will see it
        cells.append(weakref.ref(value) if follow(value) else value)
    return _Watched(
        reference,
        function.__code__,
        function.__defaults__,
        _fields(function),
        dict(annotations),
        tuple(same),
        tuple(functions),
        tuple(sizes),
        tuple(cells),
    )


class _Entry(NamedTuple):
    reference: weakref.ref[FunctionType]
    snapshot: Snapshot
    packed: Packed


class FunctionCache:
    """Pickles by function."""

    def __init__(self, limit: int = 1024, max_bytes: int = 256 << 10) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._entries: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, function: FunctionType) -> Packed | None:
        """The pickle of `function`, if it is known and would come out the same now."""
        entry = self._entries.get(id(function))
        if entry is None or entry.reference() is not function:
            return None
        if entry.snapshot.unchanged(function):
            return entry.packed
        self._entries.pop(id(function), None)
        return None

    def put(self, function: FunctionType, snapshot: Snapshot, packed: Packed) -> None:
        """Keep a pickle that was made while `snapshot` held."""
        if packed.buffers or len(packed.data) > self._max_bytes:
            return
        key = id(function)
        entries = self._entries

        def forget(reference: weakref.ref[FunctionType]) -> None:
            entry = entries.get(key)
            if entry is not None and entry.reference is reference:
                entries.pop(key, None)

        while len(entries) >= self._limit:
            # Another thread may have been faster.
            entries.pop(next(iter(entries), key), None)
        entries[key] = _Entry(weakref.ref(function, forget), snapshot, packed)
