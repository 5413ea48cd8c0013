"""What engines do before their first call: a user's function or code, written down for all that will start.

It is kept in the cluster's folder, for engines that follow others as well. A function is pickled as a call's
is, so what it names is looked up in the engine's namespace first.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from directview.wire.objects import dump_function

__all__ = ["FILE", "check_on_start", "write_on_start"]

FILE: Final = "on_start.json"


def check_on_start(on_start: Any) -> None:
    """Raise TypeError unless this is a function, code or a path, or None."""
    if on_start is not None and not isinstance(on_start, str | os.PathLike) and not callable(on_start):
        raise TypeError(
            f"on_start: expected a function, source code or the Path of a file, got {on_start!r:.60}"
        )


def write_on_start(on_start: Callable[[], Any] | str | os.PathLike[str], folder: Path) -> str:
    """Write it down in a cluster's folder.

    Args:
        on_start: a function without arguments; source code, as text; or a file of code, as a Path.
        folder: the cluster's.

    Returns:
        The path, for `EngineOptions.on_start`.

    Raises:
        OSError: the file of code can't be read.
        SyntaxError: the code is none.
        SerializationError: the function can't travel.
    """
    contents: dict[str, Any]
    if callable(on_start):
        data, buffers = dump_function(on_start, part="on_start")
        contents = {"function": _text(data), "buffers": [_text(buffer) for buffer in buffers]}
    else:
        name = "<on_start>" if isinstance(on_start, str) else os.path.abspath(on_start)
        source = on_start if isinstance(on_start, str) else Path(on_start).read_text("utf-8")
        compile(source, name, "exec")
        contents = {"source": source, "name": name}
    path = folder / FILE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        json.dump(contents, file)
    return str(path)


def _text(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")
