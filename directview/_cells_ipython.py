"""The IPython of an engine: imported and made when the first cell needs it (see `directview.cells`).

An `InteractiveShell` over the engine's own namespace, used for its parts: the syntax, the formatters,
`display`, the events and the magics. It keeps no history and reads no terminal.
"""

from __future__ import annotations

import ast
import base64
import os
import sys
from types import SimpleNamespace
from typing import Any

from IPython.core import page
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from directview import cells

__all__ = ["EngineShell", "shell"]

_INLINE = "module://matplotlib_inline.backend_inline"


class _Publisher(DisplayPublisher):
    """Gives what `display` is called with to the cell that runs."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: object = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **kwargs: Any,
    ) -> None:
        """Called by `display`, and to update what it has shown."""
        if not cells.displayed(_plain_data(data), metadata or {}, transient or {}, update=update):
            print(data.get("text/plain", ""))  # noqa: T201 - no cell: a function that was applied

    def clear_output(self, wait: bool = False) -> None:
        """Called to make room, as by an animation that draws one picture over the other."""
        cells.cleared(wait)


class EngineShell(InteractiveShell):
    """IPython over an engine's namespace. There is one in a process."""

    display_pub_class = Type(_Publisher)

    def init_sys_modules(self) -> None:
        """The engine's own namespace is ``__main__`` already."""

    def init_hooks(self) -> None:
        """There is no terminal to page through: ``print?`` is displayed."""
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(page.display_page), 99)

    def init_user_ns(self) -> None:
        """Nothing but the way back: the namespace is the user's."""
        self.user_ns["get_ipython"] = self.user_ns_hidden["get_ipython"] = self.get_ipython

    def enable_gui(self, gui: str | None = None) -> None:
        """Called by ``%matplotlib``. Inline figures need no toolkit's loop, and an engine runs none."""

    # --- what cells need ---

    def transformed(self, code: str) -> str:
        """See `cells.Shell`."""
        self.user_ns.setdefault("get_ipython", self.get_ipython)  # the namespace may have been cleared
        return str(self.transform_cell(code))

    def transformed_tree(self, tree: ast.Module) -> ast.Module:
        """See `cells.Shell`."""
        changed: ast.Module = self.transform_ast(tree)
        return changed

    def formatted(self, value: object) -> cells.Bundle:
        """See `cells.Shell`."""
        formatter: Any = self.display_formatter
        data, metadata = formatter.format(value)
        return _plain_data(data), metadata

    def before(self, cell: SimpleNamespace) -> None:
        """See `cells.Shell`."""
        self.execution_count = cell.execution_count
        self.events.trigger("pre_execute")
        self.events.trigger("pre_run_cell", cell)

    def after(self, cell: SimpleNamespace, error: BaseException | None) -> None:
        """See `cells.Shell`."""
        self.events.trigger("post_execute")
        ended = SimpleNamespace(
            info=cell, execution_count=cell.execution_count, result=None, error_in_exec=error,
            error_before_exec=None, success=error is None,
        )  # fmt: skip
        self.events.trigger("post_run_cell", ended)


def shell(namespace: dict[str, Any]) -> EngineShell | None:
    """The shell over this namespace, made at the first call; None if the process has one over another."""
    if InteractiveShell.initialized():
        there = InteractiveShell.instance()
        return there if isinstance(there, EngineShell) and there.user_ns is namespace else None
    _draw_inline()
    config = Config()
    config.HistoryManager.enabled = False
    main = sys.modules.get("__main__")
    module = main if main is not None and main.__dict__ is namespace else None
    made: EngineShell = EngineShell.instance(config=config, user_module=module, user_ns=namespace)
    return made


def _draw_inline() -> None:
    """Have matplotlib's figures displayed at the end of a cell, unless a backend has been chosen."""
    if "MPLBACKEND" not in os.environ and "matplotlib.pyplot" not in sys.modules:
        os.environ["MPLBACKEND"] = _INLINE
        if "matplotlib" in sys.modules:
            sys.modules["matplotlib"].use(_INLINE)


def _plain_data(data: dict[str, Any]) -> dict[str, Any]:
    """Bytes (of images) as text in base64, which is what notebooks keep."""
    return {
        kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for kind, value in data.items()
    }
