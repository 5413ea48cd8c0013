"""The house rules that no linter knows: purity, size, names, exports."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

IMPURE = {
    "anyio", "asyncio", "datetime", "multiprocessing", "random", "secrets", "selectors", "socket",
    "subprocess", "threading", "time", "uuid", "zmq",
}  # fmt: skip
"""What a pure module can't need: loops, sockets, clocks, processes, randomness."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in {"engine", "controller"}:
        parts = ("directview", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, Path]:
    """All modules by the name under which they are imported."""
    found = [path for top in ("directview", "engine", "controller") for path in (ROOT / top).rglob("*.py")]
    return {module_name(path): path for path in sorted(found)}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in `tree`, except for annotations only."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            skipped.update(part for statement in node.body for part in ast.walk(statement))
        elif node in skipped:
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


SOURCES = sources()
PURE = [
    name
    for name, path in SOURCES.items()
    if "Pure" in (ast.get_docstring(tree_of(path)) or "").partition("\n")[0]
]
PUBLIC = [
    name
    for name, path in SOURCES.items()
    if not any(part.startswith("_") for part in name.split("."))
    and path.name != "__main__.py"
    and len(tree_of(path).body) > 1  # a package's __init__ may be a docstring and nothing else
]


def test_the_pure_modules_are_found() -> None:
    assert "directview.wire.messages" in PURE


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_touches_no_loop_socket_clock_or_chance(name: str) -> None:
    imported = {module.partition(".")[0] for module in imports_of(tree_of(SOURCES[name]))}
    assert imported & IMPURE == set()


def test_zmq_is_imported_by_the_wire_only() -> None:
    users = [
        name
        for name, path in SOURCES.items()
        if any(module.partition(".")[0] == "zmq" for module in imports_of(tree_of(path)))
    ]
    assert [name for name in users if not name.startswith("directview.wire.")] == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_is_short_and_says_what_it_is_for(name: str) -> None:
    source = SOURCES[name].read_text()
    assert source.count("\n") <= 600
    assert (ast.get_docstring(tree_of(SOURCES[name])) or "").strip()
    assert SOURCES[name].stem not in {"utils", "helpers", "misc", "base", "common"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_exports_what_it_says(name: str) -> None:
    if name == "directview.magics":
        pytest.importorskip("IPython", reason="needs IPython: the extra directview[ipython]")
    module = importlib.import_module(name)
    exported = module.__all__
    assert len(exported) == len(set(exported))
    for export in exported:
        assert hasattr(module, export), f"{name}.__all__ names {export}, which is not there"


def test_the_controller_needs_neither_arrays_nor_pickles() -> None:
    """It is forked before numpy is imported, and starts the sooner for it."""
    code = "import directview.controller.__main__, sys; print(*{'numpy', 'cloudpickle'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


WALL_CLOCK = {
    "directview._cleaning": "how old a file is, which has no other time",
    "directview._delivering": "when a call ended, for people",
    "directview._detached_calls": "when a call ended, for people",
    "directview._demo_report": "the demo's picture",
    "directview._dispatching": "when a call ended, for people",
    "directview._log_reading": "the time of a line that has none",
    "directview._metadata": "how long a call has taken so far, for people",
    "directview._slots": "when a call was made, for people",
    "directview._trace_writing": "a call's story",
    "directview.commands.report": "how old a cluster is, for people",
    "directview.controller._listening": "when the cluster was started, for people",
    "directview.controller._shell": "when calls happened, for people, and how old a kept result is",
    "directview.engine._runner": "when a call began and ended, for people",
    "directview.folders": "how old a folder is, which has no other time",
    "directview.supervisor._shell": "when it was started, for people",
}
"""Who asks what time of day it is, and what for. It may leap: nothing that is waited for may depend on it."""


def asks_the_wall_clock(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and (ast.unparse(node) == "time.time" or node.attr in ("time_ns", "now", "utcnow", "today"))
        for node in ast.walk(tree)
    )


def test_nobody_else_asks_what_time_of_day_it_is() -> None:
    """Deadlines and pauses are of monotonic time: see the comment there before adding to it."""
    product = {name: path for name, path in SOURCES.items() if not name.startswith("directview.testing")}
    assert {name for name, path in product.items() if asks_the_wall_clock(tree_of(path))} == set(WALL_CLOCK)
