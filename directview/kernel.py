"""An IPython kernel inside of an engine: a console or notebook looks into the namespace that calls run in."""

from __future__ import annotations

import importlib
from typing import Any

from directview import operations

__all__ = ["bind_kernel"]


def bind_kernel(connection_file: str | None = None, **options: Any) -> str:
    """Open an engine to frontends of Jupyter, as a kernel of their own. To be called on engines.

    ::

        files = view.apply_sync(bind_kernel)     # one connection file for each engine
        # in a terminal there: jupyter console --existing FILE

    The kernel shares the engine's namespace. It runs in a thread of its own, so it answers while the engine
    is busy, and what both do at once they do at their own risk. It listens at 127.0.0.1, and takes messages
    that are signed with the key in the file; the file is removed when the engine ends in order. Called again,
    it returns the same file.

    Args:
        connection_file: path of the file; None: a new one in Jupyter's runtime folder.
        options: further options of ``ipykernel``'s application, such as `ip`.

    Returns:
        The path of the connection file, on the engine's machine.

    Raises:
        ImportError: the package ``ipykernel`` is missing on the engine.
        RuntimeError: this is not an engine, or the kernel did not start.
    """
    if not operations.is_engine():
        raise RuntimeError("bind_kernel is to be called on engines: view.apply(bind_kernel)")
    try:
        embedded = importlib.import_module("directview._kernel_ipykernel")
    except ImportError as error:
        raise ImportError(
            f"bind_kernel needs the package ipykernel on the engine: pip install ipykernel ({error})"
        ) from error
    path: str = embedded.start(connection_file, options)
    return path
