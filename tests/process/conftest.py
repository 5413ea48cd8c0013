"""Real-process tests get state and runtime folders of their own, with paths short enough for sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's XDG runtime folder; its state folder lies beside it."""
    with tempfile.TemporaryDirectory(prefix="dv", dir="/tmp", ignore_cleanup_errors=True) as found:
        folder = Path(found) / "run"
        folder.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_STATE_HOME", str(Path(found) / "state"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder
