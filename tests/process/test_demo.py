"""``directview demo``, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


@pytest.mark.process
@pytest.mark.slow
def test_the_demo_agrees_with_serial_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """No process, and no file in the runtime, state or shared-memory folder."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    shared = Path("/dev/shm")
    before = set(shared.iterdir()) if shared.is_dir() else set()
    mark = f"DIRECTVIEW_TEST_MARK={tmp_path}"
    environment = os.environ | {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "DIRECTVIEW_TEST_MARK": str(tmp_path),
        "COLUMNS": "100",
    }
    command = [sys.executable, "-m", "directview", "demo", "--quick", "-n", "3"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✔") == 3
    assert "All answers agree with the serial ones." in done.stdout
    assert [f"engine   {i} │" in done.stdout for i in range(4)] == [True, True, True, False]

    assert [process for process in psutil.process_iter() if mark in marks_of(process)] == []
    files = [path for path in (*runtime.rglob("*"), *(tmp_path / "state").rglob("*")) if not path.is_dir()]
    assert files == []
    ours = {path for path in shared.iterdir() if "directview" in path.name} if shared.is_dir() else set()
    assert ours - before == set()


def marks_of(process: psutil.Process) -> set[str]:
    """The environment of a process, which all that it starts inherit."""
    try:
        return {f"{name}={value}" for name, value in process.environ().items()}
    except psutil.Error:
        return set()
