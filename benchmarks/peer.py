"""What a library must be able to do to take part. One subclass each, in `benchmarks/peers/`.

A peer runs in a process of its own, in its own environment. It imports its library in `__init__` (so that
the others' environments don't need it) and does each operation the way that library's documentation would
have a user do it. What it can't do stays as it is here, with the reason in `cannot`: the harness then shows
the reason, and no figure.

Array operations take and return numpy arrays; names are in the engines' namespaces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

__all__ = ["ALL", "Array", "AwaitCall", "Growth", "Peer", "Simulated", "Target", "Unsupported"]

Array = Any
"""A numpy array; of any library's environment, so without a type of numpy's."""
Target = int | None
"""An engine by position, or all of them."""
ALL: Target = None

AwaitCall = Callable[[Callable[[], Any], Target], Awaitable[Any]]
"""Call a function without arguments on a target, and await its result."""


@dataclass(frozen=True)
class Growth:
    """Bytes by which processes grew while a great many calls were made; not counting their beginning."""

    client: int
    controller: int
    engine: int
    """Of the engine that grew most."""


@dataclass(frozen=True)
class Simulated:
    """What was measured with engines that are sockets and bookkeeping only."""

    register: float
    """Seconds from the first one's start until the client knows all of them."""
    calls: list[float]
    """Seconds of single calls on all of them."""


class Unsupported(Exception):
    """This is nothing that the library offers; the text says why."""


class Peer:
    """A library under measurement: its engines, and what can be done with them."""

    distributions: ClassVar[Sequence[str]] = ()
    """Whose versions the report names."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """Operation → why the library has nothing like it."""

    def __init__(self) -> None:
        """Import the library."""

    def _refuse(self, operation: str) -> NoReturn:
        raise Unsupported(self.cannot.get(operation, "it has no such operation"))

    # --- life -----------------------------------------------------------------------------------------

    def start(self, n: int) -> None:
        """Start `n` engines. The harness times it together with the first call on each."""
        raise NotImplementedError

    def stop(self) -> None:
        """End everything that `start` began; may be called twice."""
        raise NotImplementedError

    def controllers(self) -> Sequence[int]:
        """Process ids of what stands between client and engines; processes below them count too."""
        self._refuse("controllers")

    # --- calls ----------------------------------------------------------------------------------------

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        """Something that calls `f` on a target and waits for the result, with nothing else around it."""
        self._refuse("caller")

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        """Call `f` with an argument on the first engine, and wait for the result."""
        self._refuse("apply")

    def burst(self, f: Callable[[], Any], count: int, engines: int) -> None:
        """Make `count` calls on the first `engines` engines in turn, then wait for all results."""
        self._refuse("burst")

    def awaiting(self) -> Any:
        """An async context manager that gives an `AwaitCall` for the running loop."""
        return self._nothing_to_await()

    @asynccontextmanager
    async def _nothing_to_await(self) -> AsyncIterator[AwaitCall]:
        self._refuse("awaiting")
        yield  # type: ignore[unreachable]

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``list(map(f, items))`` on all engines."""
        self._refuse("map")

    def balanced(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``list(map(f, items))``, each item a task of its own for whichever engine is free."""
        self._refuse("balanced")

    def counted(self, seconds: float) -> float:
        """As how much a map that took so long counts: a program that computes a bound has its own answer."""
        return seconds

    # --- arrays ---------------------------------------------------------------------------------------

    def scatter(self, name: str, array: Array) -> None:
        """Set `name` to one part of `array` on each engine; return when they have it."""
        self._refuse("scatter")

    def gather(self, name: str) -> Array:
        """The array whose parts are `name` on the engines."""
        self._refuse("gather")

    def push(self, name: str, array: Array, target: Target) -> None:
        """Set `name` to the whole of `array` on a target; return when it has it."""
        self._refuse("push")

    def share(self, name: str, array: Array) -> None:
        """Set `name` to the whole of `array` on all engines, read-only, in memory that all of them see."""
        self._refuse("share")

    def shared_caller(self, f: Callable[[Any], Any], array: Array) -> Callable[[], Sequence[Any]]:
        """Something that calls `f` on all engines with an array that they have been given to share before."""
        self._refuse("share")

    def pull(self, name: str) -> Sequence[Array]:
        """What `name` is on each engine."""
        self._refuse("pull")

    def stored(self, name: str) -> Sequence[int]:
        """How many bytes `name` is on each engine; 0 where it is not set."""
        self._refuse("stored")

    # --- what only directview is asked ------------------------------------------------------------------

    def growth(self, f: Callable[[], Any], count: int, beginning: int) -> Growth:
        """Make `count` calls of `f` on all engines in turn; how much everybody grew after the `beginning`."""
        self._refuse("growth")

    def simulated(self, f: Callable[[], Any], n: int, calls: int) -> Simulated:
        """Start a controller and `n` simulated engines, and call `f` on all of them, `calls` times."""
        self._refuse("simulated")
