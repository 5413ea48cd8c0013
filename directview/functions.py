"""Functions that run on engines when they are called here: what `DirectView.remote` and `parallel` make.

Both look like the function that they wrap: name, docstring and signature are its own. Where such a function
travels (in the globals of another one, as an argument), it arrives as the plain function: on an engine, it is
at home.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from directview import _checking
from directview.dependencies import Reference, depend, dependent, interactive, require
from directview.partition import Dist, check_dist

if TYPE_CHECKING:
    from directview._function_types import Parallel, Remote
    from directview.view import DirectView

__all__ = [
    "ParallelFunction",
    "RemoteFunction",
    "Reference",
    "depend",
    "dependent",
    "interactive",
    "parallel",
    "remote",
    "require",
]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class RemoteFunction(Generic[P, R]):
    """A function that runs on a view's engines when it is called. Made by `DirectView.remote`.

    Called like the function; gives what `DirectView.apply` gives. The builtin ``map`` works over it: one
    call on the engines for each item.

    Args:
        view: where it runs.
        func: the function.
        block: whether a call waits; None: as the view says when it is called.
        flags: other flags of the view, for these calls.
    """

    # The view is no part of what may travel, and is not weighed with it.
    __slots__ = ("__dict__", "__weakref__", "_view")

    __name__: str

    def __init__(
        self, view: DirectView[Any], func: Callable[..., Any], /, *, block: bool | None = None, **flags: Any
    ) -> None:
        if not callable(func):
            raise TypeError(f"a remote function is made of a function, not of {func!r:.60}")
        if flags:
            view.options(**flags)  # an unknown one is an error here, and not at the first call
        self._view = view
        self.func = func
        self.block = block
        self.flags = flags
        functools.update_wrapper(self, func)

    @property
    def view(self) -> DirectView[Any]:
        """Where it runs."""
        return self._view.options(**self.flags) if self.flags else self._view

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        view = self.view
        done: R = view._finish(lambda: view._call(self.func, args, kwargs), "apply", self.block)
        return done

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self.func, '__name__', self.func)!s} on {self._view!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.func,)


def _itself(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class ParallelFunction(RemoteFunction[P, R]):
    """A function that is called on parts of sequences, one on each engine. Made by `DirectView.parallel`.

    ``pmul(A, B)`` cuts both arrays along their first axis, calls the function on each pair of parts, one on
    each engine, and joins what it returns into one array: for a function that works element by element that
    is what a call on the whole arrays gives. Keyword arguments go to every engine whole. `map` calls the
    function on single items instead.

    Args:
        view: where it runs.
        func: the function.
        dist: how items go to engines: ``'b'`` in blocks, ``'r'`` in turn.
        block: whether a call waits; None: as the view says when it is called.
        ordered: accepted for programs that pass it: results are always in order.
        flags: other flags of the view, for these calls.
    """

    __slots__ = ("dist", "ordered")

    def __init__(
        self,
        view: DirectView[Any],
        func: Callable[..., Any],
        /,
        *,
        dist: Dist = "b",
        block: bool | None = None,
        ordered: bool = True,
        **flags: Any,
    ) -> None:
        if dist not in ("b", "r"):
            raise ValueError(f"unknown dist {dist!r}: 'b' cuts blocks, 'r' deals items out in turn")
        super().__init__(view, func, block=block, **flags)
        self.dist: Dist = dist
        self.ordered = ordered

    def __call__(self, *sequences: P.args, **whole: P.kwargs) -> R:
        view = self.view
        done: R = view._finish(
            lambda: view._call_on_parts(self.func, sequences, whole, self.dist), "apply", self.block
        )
        return done

    def map(self, *sequences: Iterable[Any]) -> Any:
        """Call the function on each item of the sequences, as the builtin ``map`` does.

        Args:
            sequences: any iterables, one of them finite; the shortest one decides.

        Returns:
            The list of results, or their `AsyncMapResult`, as `block` says.
        """
        view = self.view
        return view.map(self.func, *sequences, block=self.block)


# --- as functions of a view -----------------------------------------------------------------------------


def remote(view: DirectView[Any], block: bool | None = None, **flags: Any) -> Remote:
    """As `DirectView.remote`: ``@remote(view, block=True)``."""
    _checking.flags(flags)
    _checking.flag(block, "block")

    def decorate(f: Callable[P, Any], /) -> RemoteFunction[P, Any]:
        return RemoteFunction(view, f, block=block, **flags)

    return decorate


def parallel(
    view: DirectView[Any], dist: Dist = "b", block: bool | None = None, ordered: bool = True, **flags: Any
) -> Parallel:
    """As `DirectView.parallel`: ``@parallel(view, block=True)``."""
    _checking.flags(flags)
    _checking.flag(block, "block")
    check_dist(dist)

    def decorate(f: Callable[P, Any], /) -> ParallelFunction[P, Any]:
        return ParallelFunction(view, f, dist=dist, block=block, ordered=ordered, **flags)

    return decorate
