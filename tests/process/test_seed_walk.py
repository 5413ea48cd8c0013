"""The tutorial of the direct interface, and programs for ipyparallel, run as users run them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

PROGRAMS = Path(__file__).parent / "programs"
DEADLINE = 60.0


def command(*arguments: str) -> str:
    """Run the `directview` command; what it says."""
    ran = subprocess.run(
        [sys.executable, "-m", "directview", *arguments],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def run(program: str, *arguments: str, options: tuple[str, ...] = (), complains: str = "") -> str:
    """Run a program as `__main__` of a process of its own; what it prints.

    Args:
        program: its file.
        arguments: for it.
        options: for Python.
        complains: what it may say on stderr, where every line begins with it.
    """
    ran = subprocess.run(
        [sys.executable, *options, str(PROGRAMS / program), *arguments],
        capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=PROGRAMS,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DASK_LOGGING__DISTRIBUTED": "critical",  # dask warns of each worker that leaves
        },
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # asyncio's debug mode remarks on slow steps
    expected = ("Executing <", complains) if complains else "Executing <"
    assert [line for line in ran.stderr.splitlines() if not line.startswith(expected)] == []
    return ran.stdout


@pytest.fixture(scope="module")
def clusters(own_folders: Path) -> Iterator[Path]:
    """Two clusters that were started by hand, `default` of four engines and `mpi` of one.

    Returns:
        A copy of the first one's connection file.
    """
    command("start", "-n", "4", "--daemonize")
    try:
        command("start", "-n", "1", "--profile", "mpi", "--daemonize")
        (found,) = [path for path in own_folders.rglob("client.json") if "default" in str(path)]
        copy = own_folders / "copied.json"
        shutil.copy2(found, copy)
        yield copy
    finally:
        command("stop", "--all")


def test_the_tutorial_can_be_followed_from_its_first_line_to_its_last(clusters: Path) -> None:
    """As a script."""
    assert run("seed_walk.py", str(clusters), "mpi") == "walked\n"


def test_the_tutorial_can_be_followed_in_an_async_program(clusters: Path) -> None:
    """Awaited, in asyncio's debug mode, with warnings as errors."""
    said = run("seed_walk_awaited.py", str(clusters), "mpi", options=("-X", "dev", "-W", "error"))
    assert said == "walked\n"


@pytest.mark.parametrize(
    ("program", "says"),
    [("diffusion.py", "same\n"), ("survey.py", "counted\n"), ("bookkeeping.py", "accounted\n")],
)
def test_programs_for_ipyparallel_run_with_another_import(own_folders: Path, program: str, says: str) -> None:
    """They use its public interface only, and run with ipyparallel itself."""
    assert run(program, "directview", complains="count ") == says  # its progress bar


@pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="needs IPython")
def test_sessions_in_ipython_run_with_another_import(own_folders: Path, tmp_path: Path) -> None:
    """Magics, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path))
        assert run("session.py", "directview").splitlines()[-1] == "typed"


# Not imported here: it starts threads of its own.
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the package distributed")
def test_engines_can_be_dask_workers_too(own_folders: Path) -> None:
    assert run("dask_workers.py") == "both\n"
