"""Keeping the logs of one host's processes bounded: the supervisor does it, for those that can't themselves.

What a process logs goes to a file that it rotates itself. But to its descriptors 1 and 2 anything may write:
a library in C, a child, a fault handler. Those files are cut here: the end is kept, as ``x.log.1``, and the
file, to which all append, begins anew. And of processes that have ended only the latest files are kept, or
an engine that ends as soon as it has started would fill the folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

__all__ = ["TIDY_SECONDS", "tidy"]

TIDY_SECONDS: Final = 5.0
RAW_BYTES: Final = 8 << 20
"""A file of what was written to the descriptors 1 and 2 is cut when it is larger."""
KEPT_BYTES: Final = 1 << 20
ENDED: Final = 32
"""Engines and clients that have ended whose files are kept."""

_OF_A_PROCESS: Final = re.compile(r"\A((?:engine|client)-[0-9a-f-]+)\.(?:log|jsonl|stack|trace)")


def tidy(folder: Path, living: Collection[str]) -> None:
    """Cut what is too large, and remove what is too old.

    Args:
        folder: where logs or traces are; it may be gone.
        living: the names of the engines' files, up to the dot, that are not to be removed.
    """
    ended: dict[str, list[tuple[float, Path]]] = {}
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        try:
            state = path.stat()
            if path.suffix == ".log" and state.st_size > RAW_BYTES:
                _cut(path, state.st_size)
            match = _OF_A_PROCESS.match(path.name)
            if match and match[1] not in living:
                ended.setdefault(match[1], []).append((state.st_mtime, path))
        except OSError:
            continue
    if len(ended) > ENDED:
        for files in sorted(ended.values(), key=max)[:-ENDED]:
            for _, path in files:
                path.unlink(missing_ok=True)


def _cut(path: Path, size: int) -> None:
    """Keep the end in another file. What is written between reading and cutting is lost."""
    with path.open("rb+") as file:
        file.seek(size - KEPT_BYTES)
        end = file.read(2 * KEPT_BYTES)
        file.truncate(0)
    kept = path.with_name(f"{path.name}.1")
    kept.touch(mode=0o600)
    kept.write_bytes(end[end.find(b"\n") + 1 :])
