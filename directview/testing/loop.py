"""An asyncio loop in virtual time: it never waits, and does the same thing each time.

When nothing is ready, time jumps to the next timer. When there is no timer either, nothing can ever happen
again, which in a test is a hang: the loop says so at once instead. Whatever would make a run depend on the
world outside (sockets, threads) is refused.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import HasFileno

__all__ = ["NothingLeft", "VirtualTimeLoop", "run"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_DAY: Final = 24 * 3600.0


class NothingLeft(RuntimeError):
    """Something is awaited, and nothing is left that could ever bring it: the test hangs here."""


class _VirtualSelector(selectors.DefaultSelector):
    """Looks, and lets time pass instead of waiting."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.now = 0.0
        self.limit = limit

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)  # the loop's own pipe, which wakes it from another thread
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise NothingLeft("nothing is ready, and no timer is set: what is awaited can never come")
        if self.now + timeout > self.limit:
            limit, self.limit = self.limit, float("inf")  # the clean-up that follows may take its time
            raise TimeoutError(f"not done after {limit:g} virtual seconds")
        self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` starts at 0 and passes only by timers.

    Args:
        limit: virtual seconds that may pass, so that a periodic timer can't hide a hang.

    Raises:
        NothingLeft: out of `run_until_complete`, when neither a callback nor a timer is left.
        TimeoutError: out of it, when the limit would be passed.
        RuntimeError: for readers, writers and executors, which would make a run depend on the outside.
    """

    def __init__(self, limit: float = _DAY) -> None:
        self._virtual = _VirtualSelector(limit)
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def add_reader(self, fd: int | HasFileno, callback: Callable[[*_Ts], Any], *args: *_Ts) -> None:
        """Refused."""
        self._refuse("a reader")

    def add_writer(self, fd: int | HasFileno, callback: Callable[[*_Ts], Any], *args: *_Ts) -> None:
        """Refused."""
        self._refuse("a writer")

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Refused."""
        self._refuse("an executor")

    def _refuse(self, what: str) -> NoReturn:
        raise RuntimeError(f"{what} has no place in virtual time; use in-memory links, or a real loop")


def run(main: Coroutine[Any, Any, _T], *, limit: float = _DAY) -> _T:
    """Run `main` to its end on a new `VirtualTimeLoop`, as `asyncio.run` does on an ordinary one.

    Args:
        main: the coroutine to run.
        limit: virtual seconds that it may take.

    Returns:
        What `main` returns.

    Raises:
        NothingLeft: `main` waits for what can't come.
        TimeoutError: the limit passed.

    Example:
        >>> import asyncio
        >>> from directview.testing import run
        >>> run(asyncio.sleep(3600, "an hour later"))
        'an hour later'
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(limit)) as runner:
        return runner.run(main)
