"""The leak check: it must name what is left, whatever that is, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from directview.testing.leaks import no_leaks

MARK = ("DIRECTVIEW_TEST_LEAKS", "1")


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that these tests start can be told by their environment."""
    monkeypatch.setenv(*MARK)


def test_what_is_cleaned_up_is_none_of_its_business(tmp_path: Path) -> None:
    (tmp_path / "before").touch()
    with no_leaks(tmp_path, MARK, patience=0) as beyond:
        (tmp_path / "folder").mkdir()
        with socket.socket(), (tmp_path / "during").open("w"):
            found = beyond()
            assert any([line.startswith("descriptor: socket") for line in found])
            assert f"file: {tmp_path / 'during'}" in found
        (tmp_path / "during").unlink()


def leave_a_file(folder: Path, cleanup: list[Callable[[], object]]) -> str:
    (folder / "left").touch()
    return f"file: {folder / 'left'}"


def leave_a_descriptor(folder: Path, cleanup: list[Callable[[], object]]) -> str:
    left = socket.socket()
    cleanup.append(left.close)
    return "descriptor: socket"


def leave_a_thread(folder: Path, cleanup: list[Callable[[], object]]) -> str:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    cleanup += [go.set, thread.join]
    return "thread: "


def leave_a_process(folder: Path, cleanup: list[Callable[[], object]]) -> str:
    """In a session of its own, by a parent that has ended: as a daemon does it."""
    script = "sleep 100 >/dev/null 2>&1 & echo $!"
    said = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, start_new_session=True
    )
    pid = int(said.stdout)
    cleanup.append(lambda: os.kill(pid, 9))
    return f"process {pid}: sleep 100"


@pytest.mark.parametrize(
    "leave", [leave_a_file, leave_a_descriptor, leave_a_thread, leave_a_process], ids=lambda f: f.__name__
)
def test_what_is_left_is_named(tmp_path: Path, leave: Callable[..., str]) -> None:
    cleanup: list[Callable[[], object]] = []
    left = ""
    try:
        with (
            pytest.raises(AssertionError, match="left behind") as caught,
            no_leaks(tmp_path, MARK, patience=0),
        ):
            left = leave(tmp_path, cleanup)
    finally:
        for step in cleanup:
            step()
    assert left in str(caught.value)


def test_a_mark_that_is_not_set_would_find_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MARK[0])
    with pytest.raises(ValueError, match="set DIRECTVIEW_TEST_LEAKS=1"), no_leaks(tmp_path, MARK):
        pass
