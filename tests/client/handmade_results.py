"""Results without a client: its part is played by a few lines, and the test says what arrives when."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

from directview.errors import RemoteError, WouldBlockLoop
from directview.result import AsyncResult, CallMetadata, CallOwner
from directview.wire.exceptions import capture, rebuild

UUID = "c0ffee"


class Owner:
    """A client bound to the loop and thread on which it is made, or to none."""

    def __init__(self, bound: bool = False) -> None:
        self.thread = threading.get_ident() if bound else None
        self.loop = asyncio.get_running_loop() if bound else None
        self.cancelled: list[tuple[int, int]] = []

    @property
    def client_uuid(self) -> str:
        return UUID

    def check_may_block(self, what: str, instead: str) -> None:
        if threading.get_ident() == self.thread:
            raise WouldBlockLoop(f"{what} would block: {instead}")
        self.check_running()

    def check_running(self) -> None:
        if self.loop is not None and not self.loop.is_running():
            raise RuntimeError("the client's loop is not running")

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        self.cancelled.extend(calls)


def fits(owner: Owner) -> CallOwner:
    """Type checkers hold the test's owner to the protocol."""
    return owner


def meta(engine: int = 0, status: str = "ok") -> CallMetadata:
    return CallMetadata(engine, f"uuid{engine}", 100.0, 102.5, 2e9, status)


def one(owner: Owner | None = None) -> AsyncResult[Any]:
    return AsyncResult(owner or Owner(), ((7, 0),), single=True, name="f")


def many(n: int = 3, owner: Owner | None = None, **options: Any) -> AsyncResult[Any]:
    return AsyncResult(owner or Owner(), tuple((7, engine) for engine in range(n)), name="f", **options)


def remote(error: Exception, engine: int = 0) -> RemoteError:
    summary, rich = capture(error, engine_id=engine, engine_uuid="u", method="f", dumps=pickle.dumps)
    return rebuild(summary, rich)


def soon(act: Callable[[], object]) -> None:
    """Do it from another thread, as the loop thread of a plain client does."""
    threading.Thread(target=act).start()


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


# --- cancelling ---------------------------------------------------------------------------------------


async def waiting(ar: AsyncResult[Any]) -> Any:
    return await ar
