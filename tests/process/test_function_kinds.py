"""Every kind of function that a program can define and send, from a real `__main__`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

PROGRAM = Path(__file__).with_name("function_kinds.py")


def test_every_kind_of_function(own_folders: Path) -> None:
    """The engine's names first, then what came along, then builtins; nothing is left in the namespace."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM)], capture_output=True, text=True, timeout=50, check=False
    )
    assert (ran.stdout, ran.stderr) == ("35 kinds right\n", "")
