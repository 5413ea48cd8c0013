"""How a fresh Python process is started, so that it finds directview and what the launcher can import.

``-P`` keeps the current folder off ``sys.path`` while our own imports run: a file of the user's called
``random.py`` would otherwise end up in numpy. Where directview isn't installed but lies on the launcher's
path, PYTHONPATH helps for the moment of the start; it is put back before any code of the user's runs, since
the programs that it starts would inherit it.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

import directview.supervisor

__all__ = ["adopt_path", "command", "environment", "launcher_path"]


def command(*arguments: str) -> list[str]:
    """The command that runs this package with `arguments`."""
    return [sys.executable, "-P", "-m", "directview.supervisor", *arguments]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base`, with a PYTHONPATH that finds this very package, where that is needed."""
    root = _root()
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    changed = dict(base)
    if root not in installed:
        old = base.get("PYTHONPATH")
        changed["PYTHONPATH"] = root if not old else f"{root}{os.pathsep}{old}"
    return changed


def launcher_path() -> list[str]:
    """``sys.path`` of this process for another one: absolute, and without what can't be passed on."""
    return [os.path.abspath(entry) for entry in sys.path]


def adopt_path(path: list[str] | None, pythonpath: str | None) -> None:
    """Undo `environment` and find what the launcher finds, after what this process finds by itself.

    Args:
        path: the launcher's ``sys.path``, or None to leave it at our own.
        pythonpath: what PYTHONPATH was before `environment`.
    """
    if pythonpath is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = pythonpath
    if path is None:
        return
    root = _root()
    if root in sys.path and root not in path:
        sys.path.remove(root)
    # The launcher's own order: its first entries shadow later ones, and must do so here.
    ours = [entry for entry in sys.path if entry not in path]
    sys.path[:] = path + ours


def _root() -> str:
    return str(Path(directview.supervisor.__path__[0]).parent.parent)
