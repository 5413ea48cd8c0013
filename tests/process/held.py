"""Calls that last until the test makes a file, not for so many seconds: no pause of the machine ends them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

__all__ = ["hold"]

_LONGEST = 100.0
"""Seconds until a call that nobody lets go gives up."""


def hold(until: str | Path, value: Any = None) -> Any:
    """Say that it runs, keep the engine until there is such a file, and return the value."""
    print("runs", flush=True)
    end = time.monotonic() + _LONGEST
    while not os.path.exists(until):
        if time.monotonic() > end:
            raise TimeoutError(f"nobody has made {until}")
        time.sleep(0.01)
    return value
