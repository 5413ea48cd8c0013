"""What a call asks of the engine that it runs on: names, modules, objects, conditions.

A `Reference` in the arguments stands for something in the engine's namespace. A function decorated with
`require` or `depend` is called only where what it asks for is there; elsewhere the call ends in
`UnmetDependency`, and the function has not run. All of it works at any depth, because it happens where the
objects are unpickled, or called, on the engine.

On an engine this module is imported when it is first needed, so it needs little itself.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, cast

from directview import operations
from directview.errors import UnmetDependency

__all__ = ["Reference", "depend", "dependent", "interactive", "require"]

if TYPE_CHECKING:
    _Anything = Any  # a Reference passes as any argument
else:
    _Anything = object

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")


# --- references -----------------------------------------------------------------------------------------


class Reference(_Anything):  # type: ignore[misc] # subclasses of Any are what that takes
    """Stands for an object in each engine's namespace: ``view.apply(f, Reference('a'))``.

    It may be anywhere inside the arguments, or the function that is called. Each engine puts its own object
    in its place when the call starts, so it sees what earlier calls have done.

    Args:
        name: a name, or any expression that the engine evaluates in its namespace: ``'a.b'``, ``'x[0]'``.

    Raises:
        TypeError: `name` is not a str.
        SyntaxError: it is not an expression.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a Reference is made from a name or expression as a str, not {name!r:.60}")
        compile(name.strip(), "<Reference>", "eval", dont_inherit=True)
        self.name = name.strip()

    def __repr__(self) -> str:
        return f"<Reference: {self.name!r}>"

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash((Reference, self.name))

    def __copy__(self) -> Reference:
        return self

    def __deepcopy__(self, memo: object) -> Reference:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return operations.dereference, (self.name,)


# --- conditions -----------------------------------------------------------------------------------------


class dependent(Generic[P, T]):  # noqa: N801 - the name that programs know
    """A function that runs on an engine only if a condition is met there. Made by `depend` and `require`.

    Called on the client, it is the plain function.

    Args:
        f: the function.
        df: the condition: returns False, or raises `UnmetDependency`, if it is not met.
        dargs: its arguments.
        dkwargs: its keyword arguments.
    """

    __name__: str

    def __init__(self, f: Callable[P, T], df: Callable[..., object], /, *dargs: Any, **dkwargs: Any) -> None:
        for called in (f, df):
            if not callable(called):
                raise TypeError(f"a dependency needs functions, not {type(called).__name__} {called!r:.60}")
        self.f = f
        self.df = df
        self.dargs = dargs
        self.dkwargs = dkwargs
        functools.update_wrapper(self, f)

    def check_dependency(self) -> None:
        """Check the condition, here and now.

        Raises:
            UnmetDependency: it is not met.
        """
        met = self.df(*self.dargs, **self.dkwargs)
        if inspect.isawaitable(met):
            if inspect.iscoroutine(met):
                met.close()
            raise TypeError(f"{_name(self.df)}, a condition, must be a plain function, not an async one")
        if met is not None and not met:
            raise UnmetDependency(f"{_name(self.df)} said no: {_name(self.f)} was not run")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        if operations.is_engine():
            self.check_dependency()
        return self.f(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<dependent {_name(self.f)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _dependent, (type(self), self.f, self.df, self.dargs, self.dkwargs)


def _dependent(
    kind: type[dependent[Any, Any]], f: Any, df: Any, dargs: tuple[Any, ...], dkwargs: dict[str, Any]
) -> dependent[Any, Any]:
    return kind(f, df, *dargs, **dkwargs)


def depend(
    condition: Callable[..., object], /, *args: Any, **kwargs: Any
) -> Callable[[Callable[P, T]], dependent[P, T]]:
    """Decorator: call the function only on engines where ``condition(*args, **kwargs)`` holds.

    Args:
        condition: called on the engine before each call; if it returns False or raises `UnmetDependency`,
            the call ends in `UnmetDependency` and the function is not run.
        args: its arguments.
        kwargs: its keyword arguments.
    """

    def decorate(f: Callable[P, T]) -> dependent[P, T]:
        return dependent(f, condition, *args, **kwargs)

    return decorate


class _Import(NamedTuple):
    module: str
    alias: str
    """The name to set; empty: as ``import a.b`` does."""


def require(*objects: Any, **named: Any) -> Callable[[Callable[P, T]], dependent[P, T]]:
    """Decorator: have modules imported, and objects there, before the function is called on an engine.

    They are set in the engine's namespace, as by an import statement or by a push, so that the function
    finds them under their names::

        @require("re", "numpy as np", helper, table=[1, 2, 3])
        def f(text): ...

    Args:
        objects: modules, or their names; functions and classes, which go along and are set by their names.
        named: any other objects, by the names to set.

    Raises:
        TypeError: an object without a name of its own was not passed by keyword.
        ValueError: a str is not the name of a module.
    """
    imports: list[_Import] = []
    for obj in objects:
        if isinstance(obj, ModuleType):
            imports.append(_Import(obj.__name__, ""))
        elif isinstance(obj, str):
            imports.append(_import(obj))
        else:
            name = getattr(obj, "__name__", None)
            if not isinstance(name, str) or not name.isidentifier():
                raise TypeError(
                    f"require takes modules, their names, functions and classes; pass a {type(obj).__name__} "
                    f"by keyword, with the name that it is to have: require(name={obj!r:.60})"
                )
            named[name] = obj

    def decorate(f: Callable[P, T]) -> dependent[P, T]:
        return dependent(f, _provide, f, tuple(imports), named)

    return decorate


def _import(text: str) -> _Import:
    module, _, alias = text.strip().partition(" as ")
    module, alias = module.strip(), alias.strip()
    parts = [*module.split("."), *([alias] if alias else ())]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{text!r} is not the name of a module: 'a', 'a.b' or 'a.b as c'")
    return _Import(module, alias)


def _provide(f: Any, imports: tuple[_Import, ...], objects: dict[str, Any]) -> None:
    """The condition of `require`, which it also brings about."""
    found: dict[str, Any] = {}
    for module, alias in imports:
        try:
            imported = importlib.import_module(module)
        except Exception as error:
            raise UnmetDependency(
                f"{_name(f)} was not run: it requires {module!r}, which can't be imported on this engine "
                f"({type(error).__name__}: {error})"
            ) from error
        top = module.partition(".")[0]
        found[alias or top] = imported if alias else sys.modules[top]
    found |= objects
    operations.push(found)
    own = _globals_of(f)
    if own is not None and own is not operations.namespace():  # it was imported here, from a module
        for name, value in found.items():
            own.setdefault(name, value)


def _globals_of(f: Any) -> dict[str, Any] | None:
    while isinstance(f, functools.partial):
        f = f.func
    f = inspect.unwrap(f) if callable(f) else f
    found = getattr(f, "__globals__", None)
    return found if isinstance(found, dict) else None


def _name(f: object) -> str:
    while isinstance(f, functools.partial):
        f = f.func
    return str(getattr(f, "__name__", type(f).__name__))


# --- where a function finds its names -------------------------------------------------------------------


def interactive(f: F) -> F:
    """Decorator: have a function from a module find its names as one that was typed in does.

    A function that is imported from a module finds them in that module, on the engine as here; one that was
    typed in (in a script, a shell, a notebook) finds them in the engine's namespace.

    Args:
        f: the function.

    Returns:
        A copy of the function, which belongs to ``__main__``; another callable is marked and returned.

    Raises:
        TypeError: it can't be called.
    """
    made: Any = f
    if not callable(made):
        raise TypeError(f"interactive is for functions, and {type(made).__name__} {made!r:.60} is none")
    if isinstance(f, FunctionType):
        names = vars(sys.modules["__main__"])
        made = FunctionType(f.__code__, names, f.__name__, f.__defaults__, f.__closure__)
        made.__kwdefaults__ = f.__kwdefaults__
        functools.update_wrapper(made, f)
        del made.__wrapped__
    made.__module__ = "__main__"
    return cast("F", made)
