"""Blocking methods made from async ones: one implementation, two ways to call it.

A client runs its calls on one event loop. For a script, ``name = blocking(name_async, "name")`` in a class
body makes the method that hands the same coroutine to that loop and blocks for the result, with the exact
signature and the docstring of the original, for type checkers, `help` and editors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["Blocks", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")


class Blocks(Protocol):
    """What has blocking methods: a client, a view, a cluster."""

    def _block_on(self, make: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        """Run the coroutine that `make` makes on the object's loop, and block for its result.

        Args:
            make: called once, and not at all if blocking is not possible here, so that no coroutine is
                left behind that nobody awaits.
            what: the blocking method and its async twin, for the error of a loop that it would block.

        Raises:
            WouldBlockLoop: this is the loop's own thread.
        """
        ...


S = TypeVar("S", bound=Blocks)


def blocking(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]], name: str
) -> Callable[Concatenate[S, P], T]:
    """Make the blocking twin of an async method.

    Args:
        method: an ``async def`` of the same class body.
        name: of the method that is made.

    Returns:
        A function with the signature of `method`, whose docstring says that it blocks.

    Raises:
        TypeError: `method` is not an ``async def``.
    """
    if not inspect.iscoroutinefunction(method):
        raise TypeError(f"{method!r} is not an async def: only those have blocking twins")
    qualname = method.__qualname__.rpartition(".")[0]
    what = f"{name}() blocks; await {method.__name__}() instead"

    def twin(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._block_on(lambda: method(self, *args, **kwargs), what)

    twin.__name__ = name
    twin.__qualname__ = f"{qualname}.{name}" if qualname else name
    twin.__module__ = method.__module__
    twin.__doc__ = _doc(method.__doc__, method.__name__)
    twin.__annotations__ = dict(method.__annotations__)
    twin.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    twin.__defaults__ = None
    return twin


def _doc(doc: str | None, twin: str) -> str:
    """The docstring of `twin`, its first line saying that this one blocks."""
    first, _, rest = inspect.cleandoc(doc or "").partition("\n")
    said = f"{first.rstrip('.')} (blocks until it is done)." if first else "Blocks until it is done."
    return f"{said}\n\nThe same as awaiting `{twin}`.\n{rest}".rstrip()
