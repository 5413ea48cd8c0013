"""What is installed is what is in the tree, and takes no name that belongs to users."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in_the_tree() -> set[str]:
    """Dotted names of all folders that hold modules, as they are imported."""
    found = set()
    for top, name in (("directview", "directview"), ("engine", "directview.engine"),
                      ("controller", "directview.controller")):  # fmt: skip
        for module in (ROOT / top).rglob("*.py"):  # does not follow directview/engine -> ../engine
            inside = module.parent.relative_to(ROOT / top).parts
            found.add(".".join((name, *inside)))
    return found


def test_every_package_of_the_tree_is_installed(project: dict[str, Any]) -> None:
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_in_the_tree()


def test_every_package_has_an_init(project: dict[str, Any]) -> None:
    folders = project["tool"]["setuptools"]["package-dir"]
    for package in project["tool"]["setuptools"]["packages"]:
        folder = ROOT / folders.get(package, package.replace(".", "/"))
        assert (folder / "__init__.py").is_file(), f"{package} would be a namespace package"


def test_the_symlinks_lead_to_the_top_level_folders() -> None:
    for name in ("engine", "controller"):
        link = ROOT / "directview" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_tests_are_no_packages() -> None:
    """A package tests/engine would be imported as the bare `engine`."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_test_modules_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


EXTRAS = {
    "directview/testing/strategies.py": {"hypothesis"},
    "directview/_joblib.py": {"joblib"},
    "directview/magics.py": {"IPython"},
    "directview/_cells_ipython.py": {"IPython", "traitlets"},
    "directview/_kernel_ipykernel.py": {"IPython", "ipykernel"},
}
"""Modules that come with an extra of their own, and what they import of it."""


def test_every_third_party_import_is_declared(project: dict[str, Any]) -> None:
    """What the package imports at the top of a module is among its dependencies."""
    declared = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in project["project"]["dependencies"]}
    module_of = {"pyzmq": "zmq", "typing_extensions": "typing_extensions"}
    known = {module_of.get(name, name) for name in declared} | {"directview"} | set(sys.stdlib_module_names)
    for top in ("directview", "engine", "controller"):
        for path in (ROOT / top).rglob("*.py"):
            for statement in ast.parse(path.read_text()).body:
                modules: list[str] = []
                if isinstance(statement, ast.Import):
                    modules = [alias.name for alias in statement.names]
                elif isinstance(statement, ast.ImportFrom):
                    modules = [statement.module or ""]
                place = path.relative_to(ROOT).as_posix()
                unknown = {module.partition(".")[0] for module in modules} - known
                assert unknown <= EXTRAS.get(place, set()), f"{place} imports {unknown}"


@pytest.mark.process
def test_a_users_own_engine_module_is_the_users(tmp_path: Path) -> None:
    """`import engine` finds the user's file also where directview.engine has been imported."""
    (tmp_path / "engine.py").write_text("whose = 'the user'\n")
    (tmp_path / "controller.py").write_text("whose = 'the user'\n")
    program = (
        "import directview.engine, directview.controller\n"
        "import engine, controller\n"
        "print(engine.whose, controller.whose, directview.engine is engine, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("the user|the user|False\n", "")
