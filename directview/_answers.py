"""The controller's answer to a request: to await, or to block for, like the result of a call."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import TypeVar

from directview._waiting import CallOwner, SharedFuture

__all__ = ["AsyncHubResult"]

T = TypeVar("T")


class AsyncHubResult(SharedFuture[T]):
    """What the controller answers to `Client.send_signal`, `shutdown` and the like.

    ``await`` it in any running event loop, or block with ``get()``. Cancelling it, or a wait that times out,
    does not take the request back.

    Args:
        owner: the client.
        name: the request.
        answer: where the answer arrives.
    """

    def __init__(self, owner: CallOwner, name: str, answer: concurrent.futures.Future[T]) -> None:
        super().__init__(owner)
        self._name = name
        answer.add_done_callback(self._answered)

    def _answered(self, answer: concurrent.futures.Future[T]) -> None:
        error = answer.exception()
        self._settle(None if error is not None else answer.result(), error)

    def _outstanding(self) -> Sequence[tuple[int, int]]:
        return ()

    def get(self, timeout: float | None = None) -> T:
        """Block until the answer is there; raises what was wrong with the request.

        Args:
            timeout: seconds; None or negative: for ever; 0: only look.

        Raises:
            TimeoutError: "Result not ready."
        """
        return self.result(timeout)

    @property
    def r(self) -> T:
        """The answer; blocks like `get`."""
        return self.get()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the answer is there, and raise nothing of its own.

        Args:
            timeout: seconds; None or negative: for ever; 0: only look.

        Returns:
            Whether it is there.
        """
        self._block(self.done, timeout, "wait()", "`await` on it")
        return self.done()

    def ready(self) -> bool:
        """Whether the answer is there."""
        return self.done()

    def successful(self) -> bool:
        """Whether the request was granted.

        Raises:
            ValueError: there is no answer yet.
        """
        if not self.done():
            raise ValueError(f"{self!r} not ready")
        return self._exception is None

    def __repr__(self) -> str:
        state = "pending" if not self.done() else "finished" if self._exception is None else "failed"
        return f"<{type(self).__name__}({self._name}): {state}>"
