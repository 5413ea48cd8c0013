"""What each process of a cluster writes down about itself: JSON lines in files that can't grow.

Standard logging does it, with a formatter of a few lines: rotation, levels and handlers are there already,
and engines, whose logging belongs to the user, have no further library to import. A process has a file of
its own in the cluster's folder (``controller.jsonl``, ``engine-<uuid>.jsonl``), of which `FILES` are kept, of
`FILE_BYTES` each. `directview._log_reading` merges them.

No arguments, results or output of calls are written, and nothing for each call: what happens to processes and
connections is.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

__all__ = ["LEVELS", "LEVEL_VARIABLE", "ProcessLog", "level_number", "text_handler"]

LEVELS: Final = ("debug", "info", "warning", "error")
LEVEL_VARIABLE: Final = "DIRECTVIEW_LOG_LEVEL"
FILE_BYTES: Final = 4 << 20
FILES: Final = 3
"""The one that is written, and the two before it."""


def level_number(level: str | int | None) -> int:
    """The number of a level; of None or "", what the environment says, or else that of ``info``.

    Raises:
        ValueError: there is no such level.
    """
    if level is None or level == "":
        level = os.environ.get(LEVEL_VARIABLE) or "info"
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    if isinstance(level, str) and level.lower() in LEVELS:
        return logging.getLevelNamesMapping()[level.upper()]
    raise ValueError(f"{level!r:.60} is no log level: there is {', '.join(LEVELS)}")


class _Lines(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "process": self.process,
            "pid": record.process,
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        elif isinstance(getattr(record, "trace", None), str):
            line["trace"] = record.trace  # type: ignore[attr-defined]
        return json.dumps(line, ensure_ascii=False)


class _Text(logging.Formatter):
    """A record for people. Lines after the first are indented, so that they are seen to belong to it."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\n  | ")


class _File(logging.handlers.RotatingFileHandler):
    """A rotating file of our own, 0600, that never stands in the way of what is logged about."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8", errors="replace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """The disk is full, or the folder has gone with the cluster: calls go on."""


class ProcessLog:
    """The log of one process.

    Args:
        process: what it is called in the log: ``controller``, ``engine``.
        path: of the file.
        level: as for `level_number`.
        loggers: whose records are written; "" is every logger's, for a process that runs nobody else's code.

    Raises:
        ValueError: there is no such level.
    """

    def __init__(self, process: str, path: str | Path, level: str | int | None, *loggers: str) -> None:
        number = level_number(level)
        self._lines = _Lines(process)
        self._loggers = [logging.getLogger(name) for name in loggers]
        self._handler: logging.Handler | None = None
        try:
            handler = _File(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")
        except OSError as error:
            logging.getLogger(f"directview.{process}").warning("no log in %s: %s", path, error.strerror)
            return
        self._handler = handler
        handler.setFormatter(self._lines)
        handler.setLevel(number)
        for logger in self._loggers:
            logger.addHandler(handler)
            logger.setLevel(min(number, logger.level or number))

    def called(self, process: str) -> None:
        """From now on the process has another name: an engine has got its id."""
        self._lines.process = process

    def close(self) -> None:
        """Write no more."""
        if self._handler is not None:
            for logger in self._loggers:
                logger.removeHandler(self._handler)
            self._handler.close()
            self._handler = None


def text_handler(format: str) -> logging.Handler:
    """A handler for stderr; what `directview logs` need not show again is recognised by its format."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Text(f"%(asctime)s {format}"))
    handler.setLevel(logging.INFO)
    return handler
