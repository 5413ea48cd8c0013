"""An environment for each peer, made when it is first needed: ``benchmarks/.envs/``.

An environment is used again as long as it was made for the same Python and the same requirements; one
whose making was interrupted is made anew.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["EnvironmentMissing", "compile_sources", "resolve", "python_for"]

FOLDER = Path(__file__).resolve().parent / ".envs"
_INSTALL_SECONDS = 900.0


class EnvironmentMissing(Exception):
    """It could not be made; the text says why."""


def resolve(requirements: Sequence[str]) -> list[str]:
    """Requirements with ``{name}`` replaced by the version of `name` that runs here.

    Raises:
        EnvironmentMissing: `name` isn't installed here.
    """

    class Versions(dict[str, str]):
        def __missing__(self, name: str) -> str:
            return importlib.metadata.version(name)

    try:
        return [requirement.format_map(Versions()) for requirement in requirements]
    except importlib.metadata.PackageNotFoundError as error:
        raise EnvironmentMissing(f"{error.name} isn't installed in the harness's environment") from None


def python_for(name: str, requirements: Sequence[str]) -> str:
    """Path of the interpreter of a peer's environment; makes the environment if need be.

    Args:
        name: of the peer.
        requirements: what it needs; none: it runs in this process's environment.

    Raises:
        EnvironmentMissing: pip or venv failed; the text ends with what they said.
    """
    if not requirements:
        return sys.executable
    wanted = resolve(requirements)
    key = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:8]
    folder = FOLDER / f"{name}-{key}"
    python = folder / "bin" / "python"
    stamp = folder / "complete"
    if not stamp.exists():
        for other in FOLDER.glob(f"{name}-*"):
            shutil.rmtree(other)
        _run([sys.executable, "-m", "venv", str(folder)], "the virtual environment")
        _run([str(python), "-m", "pip", "install", "--quiet", *wanted], f"pip install {' '.join(wanted)}")
        stamp.touch()
    return str(python)


def compile_sources(package: str) -> None:
    """Keep the bytecode of a package that is imported from its sources, as pip does of all that it installs.

    Otherwise its first start would be a compiler's, and each one where the environment keeps no bytecode.
    """
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        compileall.compile_dir(folder, quiet=2)


def _run(command: Sequence[str], what: str) -> None:
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INSTALL_SECONDS,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentMissing(f"{what}: {error}") from None
    if done.returncode:
        # pip says what is wrong in its ERROR lines; before them come warnings about many other things.
        said = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said[-3:]
        raise EnvironmentMissing(f"{what}: {' '.join(errors)[:600] or f'exit code {done.returncode}'}")
