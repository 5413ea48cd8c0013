"""A progress bar, in a terminal or a notebook. rich draws it.

In a notebook rich's own live display needs ipywidgets, and shows nothing without; here the bar is an output
that is updated in place, which needs nothing but IPython. Where there is neither a terminal nor a notebook,
only the last state is written.

rich is imported when the first bar is drawn: it takes as long as everything else that a client needs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["in_ipython", "progress_bar"]


@contextmanager
def progress_bar(
    total: int, what: str, *, widget: bool | None = None, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for the time of a ``with`` block.

    Args:
        total: when all is done.
        what: what is being done.
        widget: whether this is a notebook; None: find out.
        console: where to draw in a terminal; by default stderr.

    Yields:
        A function to call with how many are done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # What is printed meanwhile, such as [stdout:3], is no markup of rich's either.
    console = console or Console(stderr=True, markup=False, emoji=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, auto_refresh=False)
    # Nor is what the user calls things.
    task = bar.add_task(what.replace("[", r"\["), total=total)
    if widget is None:
        widget = console.is_jupyter
    if widget and in_ipython():
        handle = importlib.import_module("IPython.display").display(bar, display_id=True)

        def update(done: int) -> None:
            bar.update(task, completed=done)
            handle.update(bar)

        yield update
        return
    with bar:
        yield lambda done: bar.update(task, completed=done, refresh=True)


def in_ipython() -> bool:
    """Whether this is an IPython session. IPython is never imported for it."""
    module = sys.modules.get("IPython")
    return module is not None and module.get_ipython() is not None
