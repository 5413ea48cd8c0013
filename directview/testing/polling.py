"""Waiting for what other processes do: look again and again, and give up in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil

__all__ = ["gone", "until"]


def until(condition: Callable[[], Any], what: str = "what was waited for", seconds: float = 40.0) -> Any:
    """Poll until `condition` gives something true, which is returned.

    Args:
        condition: asked every few milliseconds.
        what: shall happen; for the error's text.
        seconds: how long it may take. It is there against hanging: no promise about speed.

    Raises:
        AssertionError: it did not happen in time.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() >= end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.005)
    return found


def gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
