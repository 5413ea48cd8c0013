"""How functions and classes travel that the other side cannot import. Pure: reduces and rebuilds objects.

cloudpickle knows how to take a function or class apart. This module adds what a group of engines needs:

- A function that was typed in (``__main__``, a notebook) is rebuilt through `make_main_function` and
  `fill_main_function`. As they stand they give it globals of its own; an engine puts its own pair in their
  place, so that the function sees the engine's namespace.
- Of such a function's globals only functions, classes, modules and small values travel. Of a large one its
  name and size travel instead: ``view.push({'A': A}); view.apply(lambda: A.sum())`` must not send A again.
- A function that was made on an engine takes along the names that it had from the client.
- A class that comes home stays as it is: it is found again by its id, and must not be filled with copies
  of its own methods whose globals are those of another process.
"""

from __future__ import annotations

import builtins
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GenericAlias,
    MethodType,
    ModuleType,
    UnionType,
)
from typing import Any, Final, TypeAlias, cast

import cloudpickle.cloudpickle as cp

__all__ = [
    "GLOBAL_BYTES",
    "PLAIN_BUILTINS",
    "builtins_of",
    "cell_values",
    "fill_class",
    "fill_fields",
    "fill_main_function",
    "goes_by_reference",
    "is_immutable",
    "is_main",
    "make_main_function",
    "names_beside_builtins",
    "reduce_class",
    "reduce_function",
    "size_of",
    "travelling_names",
]

GLOBAL_BYTES: Final = 64 << 10
"""Largest value that travels as a global of a function."""
PLAIN_BUILTINS: Final[dict[str, Any]] = builtins.__dict__

_ABSENT: Final = object()
_MODULE_NAMES: Final = ("__package__", "__name__", "__path__", "__file__")
_ATOMS: Final = frozenset({type(None), type(...), type(NotImplemented), bool, int, float, complex})
_TEXTS: Final = frozenset({str, bytes})
_ALWAYS_TRAVEL: Final = (FunctionType, BuiltinFunctionType, MethodType, type, ModuleType)

Reduced: TypeAlias = tuple[Any, ...]
State: TypeAlias = tuple[dict[str, Any], dict[str, Any], dict[str, int]]
"""Of a function from ``__main__``: its attributes, its fields (with the globals that travel), and the names
and sizes of the globals that do not."""


# --- functions ------------------------------------------------------------------------------------------


def is_main(function: FunctionType) -> bool:
    """Whether `function` belongs to ``__main__``: its free names are the engine's namespace's."""
    return function.__globals__.get("__name__", "__main__") == "__main__" or function.__module__ == "__main__"


def builtins_of(function: FunctionType) -> dict[str, Any]:
    """Where `function` finds the names that are not among its globals."""
    found: dict[str, Any] = cast(Any, function).__builtins__  # typeshed has it only of late
    return found


def names_beside_builtins(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a function's ``__builtins__`` holds besides Python's own."""
    if found is PLAIN_BUILTINS:
        return {}
    get = PLAIN_BUILTINS.get
    return {name: value for name, value in found.items() if get(name, _ABSENT) is not value}


def travelling_names(
    function: FunctionType, taken: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, int]]:
    """The globals that go with `function`, and the sizes in bytes of those that are too large to."""
    names = function.__globals__
    beside: Mapping[str, Any] = builtins_of(function)
    main = is_main(function)
    travelling: dict[str, Any] = {}
    withheld: dict[str, int] = {}
    for name in cp._extract_code_globals(function.__code__):
        if name == "__builtins__":
            continue
        value = names.get(name, _ABSENT)
        if value is _ABSENT and beside is not PLAIN_BUILTINS:
            value = beside.get(name, _ABSENT)
            if value is PLAIN_BUILTINS.get(name, _ABSENT):
                value = _ABSENT
        if value is _ABSENT and taken is not None:
            value = taken.get(name, _ABSENT)
        if value is _ABSENT:
            continue
        size = size_of(value) if main else 0
        if size > GLOBAL_BYTES:
            withheld[name] = size
        else:
            travelling[name] = value
    return travelling, withheld


def reduce_function(
    function: FunctionType,
    shared: dict[tuple[int, int, bool], dict[str, Any]],
    taken: Mapping[str, Any] | None = None,
) -> Reduced:
    """Take a function apart, for a pickler.

    Args:
        function: one that the other side cannot import.
        shared: the pickler's own: what functions with the same globals have in common.
        taken: names that it takes along where its own globals lack them.
    """
    main = is_main(function)
    code: CodeType = function.__code__
    key = (id(function.__globals__), id(builtins_of(function)), main)
    base = shared.get(key)
    if base is None:
        names = function.__globals__
        base = shared[key] = {name: names[name] for name in _MODULE_NAMES if name in names}
        if main:
            base["__name__"] = "__main__"
    # Empty cells: what they hold comes with the state, since it may refer back to the function.
    closure = None if function.__closure__ is None else tuple([CellType() for _ in function.__closure__])
    travelling, withheld = travelling_names(function, taken)
    fields = {
        "__name__": function.__name__,
        "__qualname__": function.__qualname__,
        "__annotations__": function.__annotations__,
        "__kwdefaults__": function.__kwdefaults__,
        "__defaults__": function.__defaults__,
        "__module__": function.__module__,
        "__doc__": function.__doc__,
        "__closure__": function.__closure__,
        "_cloudpickle_submodules": _submodules(function, travelling),
        "__globals__": travelling,
    }
    attributes = dict(function.__dict__)
    if main:
        makes = (code, base, closure, bool(travelling))
        return make_main_function, makes, (attributes, fields, withheld), None, None, fill_main_function
    made = (code, base, closure)
    return make_guest_function, made, (attributes, fields), None, None, cp._function_setstate


def _submodules(function: FunctionType, travelling: Mapping[str, Any]) -> list[ModuleType]:
    """Modules to be imported there so that ``package.module`` works as it does here."""
    held = chain(travelling.values(), cell_values(function))
    packages = [value for value in held if isinstance(value, ModuleType)]
    found: list[ModuleType] = cp._find_imported_submodules(function.__code__, packages) if packages else []
    return found


def cell_values(function: FunctionType) -> list[Any]:
    """What the variables hold that `function` closes over; those without a value are left out."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    return values


def make_main_function(
    code: CodeType, base: dict[str, Any], closure: tuple[CellType, ...] | None, takes: bool
) -> FunctionType:
    """Rebuild a function from ``__main__``, with globals of its own (on an engine: with its namespace)."""
    base["__builtins__"] = builtins
    return FunctionType(code, base, None, None, closure)


def make_guest_function(
    code: CodeType, base: dict[str, Any], closure: tuple[CellType, ...] | None
) -> FunctionType:
    """Rebuild a function that its module doesn't hold by name (a lambda, say), with the globals it brings.

    On an engine, names that are not among them are looked for in the namespace.
    """
    base["__builtins__"] = builtins
    return FunctionType(code, base, None, None, closure)


def fill_main_function(function: FunctionType, state: State) -> None:
    """Give it its fields, closure and globals, which may refer back to it."""
    fields = fill_fields(function, state)
    function.__globals__.update(fields)


def fill_fields(function: FunctionType, state: State) -> dict[str, Any]:
    """Give a rebuilt function everything but its globals, which are returned."""
    attributes, fields, _ = state
    names: dict[str, Any] = fields.pop("__globals__")
    del fields["_cloudpickle_submodules"]  # it was enough to import them
    closure = fields.pop("__closure__")
    if closure is not None and function.__closure__ is not None:
        for cell, filled in zip(function.__closure__, closure, strict=True):
            try:
                cell.cell_contents = filled.cell_contents
            except ValueError:  # not set there either
                continue
    for field, value in fields.items():
        setattr(function, field, value)
    if attributes:
        function.__dict__.update(attributes)
    return names


# --- classes --------------------------------------------------------------------------------------------

_own: weakref.WeakSet[type] = weakref.WeakSet()
_arrived: weakref.WeakSet[type] = weakref.WeakSet()


def reduce_class(cls: type) -> Any:
    """Take a class apart, for a pickler; NotImplemented if the other side can import it."""
    reduced = cp._class_reduce(cls)
    if type(reduced) is not tuple or reduced[-1] is not cp._class_setstate:
        return reduced
    if cls not in _arrived:
        _own.add(cls)
    return *reduced[:-1], fill_class


def fill_class(cls: type, state: Any) -> type:
    """Give a rebuilt class its attributes, unless it is one of ours that has come home."""
    if cls not in _own:
        _arrived.add(cls)
        cp._class_setstate(cls, state)
    return cls


# --- what may be relied on ------------------------------------------------------------------------------


def goes_by_reference(value: object) -> bool:
    """Whether only the name of `value` travels: it is a module, function or class that can be imported."""
    if isinstance(value, FunctionType | type | ModuleType):
        return bool(cp._should_pickle_by_reference(value))
    if isinstance(value, BuiltinFunctionType):
        return isinstance(value.__self__, ModuleType | None)
    kind = type(value)  # by name: numpy may not be imported here
    return kind.__module__ == "numpy" and kind.__name__ in ("ufunc", "_ArrayFunctionDispatcher")


def is_immutable(value: object, depth: int = 4) -> bool:
    """Whether `value` is small, plain, and the same for ever; nothing else about it needs to be compared."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind in _TEXTS:
        return len(value) <= GLOBAL_BYTES  # type: ignore[arg-type]
    if kind is tuple or kind is frozenset:
        return (
            depth > 0
            and len(value) <= 256  # type: ignore[arg-type]
            and all([is_immutable(item, depth - 1) for item in value])  # type: ignore[attr-defined]
        )
    if kind is GenericAlias or kind is UnionType:  # list[int], int | None: annotations
        return depth > 0 and all(
            [is_immutable(item, depth - 1) or goes_by_reference(item) for item in value.__args__]  # type: ignore[attr-defined]
        )
    return False


# --- sizes ----------------------------------------------------------------------------------------------

_SAMPLED: Final = 64
_VISITED: Final = 2000


def size_of(value: object) -> int:
    """About how many bytes `value` takes as a pickle; 0 for functions, classes and modules.

    Cheap rather than exact: a long container is judged by a sample of its items.
    """
    if isinstance(value, _ALWAYS_TRAVEL):
        return 0
    visits = _VISITED

    def weigh(value: Any, depth: int) -> int:
        nonlocal visits
        visits -= 1
        kind = type(value)
        if kind in _ATOMS:
            return 9 if kind is not int else 2 + value.bit_length() // 8
        if kind is str or kind is bytes or kind is bytearray:
            return len(value) + 2
        if isinstance(value, _ALWAYS_TRAVEL):
            return 32
        if visits < 0 or depth > 16:
            return _shallow_size(value)
        if isinstance(value, dict):
            inside = weigh_all(chain.from_iterable(islice(value.items(), _SAMPLED)), len(value) * 2, depth)
        elif isinstance(value, list | tuple):
            inside = weigh_all(value[:: max(1, len(value) // _SAMPLED)], len(value), depth)
        elif isinstance(value, set | frozenset | deque):
            inside = weigh_all(islice(value, _SAMPLED), len(value), depth)
        else:
            attributes = getattr(value, "__dict__", None)
            return max(_shallow_size(value), weigh(attributes, depth + 1) if type(attributes) is dict else 0)
        return inside

    def weigh_all(sample: Iterable[Any], whole: int, depth: int) -> int:
        sizes = [weigh(item, depth + 1) for item in sample]
        return sum(sizes) * whole // len(sizes) if sizes else 2

    return weigh(value, 0)


def _shallow_size(value: Any) -> int:
    # These may be the user's own code, and here is no one to tell its errors to.
    try:
        size = sys.getsizeof(value, 64)
        nbytes = getattr(value, "nbytes", None)  # arrays and tensors
    except Exception:  # noqa: BLE001
        return 64
    if type(nbytes) is not int:
        return size
    return nbytes if 0 <= size - nbytes <= 256 else max(size, nbytes)  # an array, or a view of one
