"""What a user wants done in an engine before its first call: run before the engine registers.

So no call can come before it, and an engine where it fails was never there: the process ends, its log says
why, and whoever started it is told.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import traceback
from pathlib import Path
from typing import Any, Final

from directview.engine._namespace import PLAIN, Namespace, Overlay
from directview.engine._steps import Steps, result_of
from directview.errors import LaunchError
from directview.wire.objects import Packed, dump_arguments

__all__ = ["ON_START", "run_on_start"]

ON_START: Final = "on_start"
"""In place of a call's id, for interrupts. What it prints goes to the engine's log."""


async def run_on_start(path: str, steps: Steps, namespace: Namespace) -> None:
    """Run it to its end; a coroutine is awaited.

    Args:
        path: of the file in which it is written down.
        steps: runs it like a call.
        namespace: where it finds its names.

    Raises:
        LaunchError: it failed. The traceback has been written to the log.
    """
    try:
        value, overlay = _run(path, steps, namespace)
        if inspect.isawaitable(value):
            driven = steps.drive(ON_START, overlay, value)
            result_of(await _ended(driven))
    except BaseException as error:  # noqa: BLE001 - whatever user code raises
        if steps.ending:
            raise LaunchError("it was told to end while its on_start was running") from None
        traceback.print_exc()
        raise LaunchError(f"on_start failed: {type(error).__name__}: {error}") from None


def _run(path: str, steps: Steps, namespace: Namespace) -> tuple[Any, Overlay]:
    contents = json.loads(Path(path).read_text())
    if "source" in contents:
        code = compile(contents["source"], contents["name"], "exec")
        steps.run(ON_START, PLAIN, exec, (code, namespace.names))
        return None, PLAIN
    function = Packed(_data(contents["function"]), [memoryview(_data(text)) for text in contents["buffers"]])
    return steps.run_loaded(ON_START, namespace, function, dump_arguments((), {}))


async def _ended(driven: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(driven)
    await asyncio.wait((task,))
    return task


def _data(text: str) -> bytes:
    return base64.b64decode(text)
