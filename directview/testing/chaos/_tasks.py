"""What the engines run. Each run of a call is written down, so that one that runs twice is seen."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["compute", "count", "double", "fail", "nap", "say", "sleep"]


def record(ledger: str, token: str) -> None:
    """Write down that this call runs, in this process."""
    fd = os.open(f"{ledger}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, f"{token}\n".encode())  # Whole or not at all: it is appended in one go.
    finally:
        os.close(fd)


def compute(ledger: str, token: str, x: int) -> int:
    """A small call."""
    record(ledger, token)
    return x * x + 7


def double(ledger: str, token: str, array: Any) -> Any:
    """One with much to carry, there and back."""
    record(ledger, token)
    return array * 2


def fail(ledger: str, token: str) -> None:
    """One that raises."""
    record(ledger, token)
    raise ValueError(token)


def say(ledger: str, token: str) -> str:
    """One that prints."""
    record(ledger, token)
    print(token)  # noqa: T201 - that is what it is about
    return token


def sleep(ledger: str, token: str, seconds: float) -> str:
    """One that blocks its engine."""
    record(ledger, token)
    time.sleep(seconds)
    return token


async def nap(ledger: str, token: str, seconds: float) -> str:
    """One that waits beside others."""
    record(ledger, token)
    await asyncio.sleep(seconds)
    return token


def count(ledger: str, token: str, n: int) -> Iterator[int]:
    """A stream."""
    record(ledger, token)
    for i in range(n):
        if i % 10 == 9:
            time.sleep(0.003)
        yield i * i
