"""What type checkers are told of the decorators `remote` and `parallel`: what a call of the function gives.

That depends on the view, of one engine or of several, on `block`, and on whether the function is a coroutine
function, which is awaited on the engine. One protocol for each, named by what a call gives.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from directview.result import AsyncResult

if TYPE_CHECKING:
    from directview.functions import ParallelFunction, RemoteFunction

__all__ = [
    "Parallel",
    "ParallelResult",
    "Remote",
    "RemoteResult",
    "RemoteResults",
    "RemoteValue",
    "RemoteValues",
]

P = ParamSpec("P")
T = TypeVar("T")


class Remote(Protocol):
    """The value or an `AsyncResult`, as the view's `block` says then."""

    def __call__(self, f: Callable[P, Any], /) -> RemoteFunction[P, Any]: ...


class RemoteValue(Protocol):
    """What the one engine returned."""

    @overload
    def __call__(self, f: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, T]: ...
    @overload
    def __call__(self, f: Callable[P, T], /) -> RemoteFunction[P, T]: ...


class RemoteValues(Protocol):
    """A list of what the engines returned."""

    @overload
    def __call__(self, f: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, list[T]]: ...
    @overload
    def __call__(self, f: Callable[P, T], /) -> RemoteFunction[P, list[T]]: ...


class RemoteResult(Protocol):
    """The `AsyncResult` of one engine."""

    @overload
    def __call__(self, f: Callable[P, Coroutine[Any, Any, T]], /) -> RemoteFunction[P, AsyncResult[T]]: ...
    @overload
    def __call__(self, f: Callable[P, T], /) -> RemoteFunction[P, AsyncResult[T]]: ...


class RemoteResults(Protocol):
    """The `AsyncResult` of several engines."""

    @overload
    def __call__(
        self, f: Callable[P, Coroutine[Any, Any, T]], /
    ) -> RemoteFunction[P, AsyncResult[list[T]]]: ...
    @overload
    def __call__(self, f: Callable[P, T], /) -> RemoteFunction[P, AsyncResult[list[T]]]: ...


class Parallel(Protocol):
    """The whole, or an `AsyncResult` of it: of what kind, only what the function returns can tell."""

    def __call__(self, f: Callable[P, Any], /) -> ParallelFunction[P, Any]: ...


class ParallelResult(Protocol):
    """The `AsyncResult` of the whole."""

    def __call__(self, f: Callable[P, Any], /) -> ParallelFunction[P, AsyncResult[Any]]: ...
