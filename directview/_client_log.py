"""The log that a client writes into its cluster's folder, if it is asked to: one file for each process."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from directview._log_writing import ProcessLog, level_number
from directview.folders import folder_of_file

__all__ = ["CLIENT_LEVEL_VARIABLE", "ClientLog"]

CLIENT_LEVEL_VARIABLE: Final = "DIRECTVIEW_CLIENT_LOG_LEVEL"

_lock: Final = threading.Lock()
_open: Final[dict[tuple[int, Path], tuple[ProcessLog, int]]] = {}
"""By process and path: the log, and how many clients write it."""


class ClientLog:
    """A client's share in its process's log. Nothing happens where there is none to be written.

    Args:
        source: the client's connection file.
        level: the least level that is written; None: what the environment says, or else nothing.

    Raises:
        ValueError: there is no such level.
    """

    def __init__(self, source: str, level: str | int | None) -> None:
        level = level if level is not None else os.environ.get(CLIENT_LEVEL_VARIABLE) or None
        self._key: tuple[int, Path] | None = None
        if level is None:
            return
        number = level_number(level)
        folder = folder_of_file(source)
        if folder is None:
            return
        key = self._key = (os.getpid(), folder / f"client-{os.getpid()}.jsonl")
        with _lock:
            log, users = _open.get(key) or (ProcessLog("client", key[1], number, "directview.client"), 0)
            _open[key] = (log, users + 1)

    def close(self) -> None:
        """Write no more. May be repeated."""
        key, self._key = self._key, None
        if key is None:
            return
        with _lock:
            log, users = _open.pop(key)
            if users > 1:
                _open[key] = (log, users - 1)
            else:
                log.close()
