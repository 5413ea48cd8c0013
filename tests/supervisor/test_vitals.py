"""Memory of engines, last words, and whether the kernel killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from directview.supervisor import _vitals
from directview.supervisor._vitals import Vitals, last_words, memory_of, oom_kills
from directview.wire.postmortem import MAX_SAID


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the kernel says that it has counted."""
    count = [7]
    monkeypatch.setattr(_vitals, "oom_kills", lambda: count[0])
    return count


def test_the_memory_is_that_of_the_process() -> None:
    assert memory_of(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert oom_kills() >= -1


def test_what_was_seen_last_is_known_after_the_end() -> None:
    vitals = Vitals()
    process = subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    vitals.look({b"a": process.pid}, 0.0)
    seen = vitals.memory(b"a")
    assert seen > 1_000_000
    process.kill()
    process.communicate()
    vitals.look({b"a": process.pid}, 1.0)
    assert vitals.forget(b"a") == seen
    assert vitals.forget(b"a") == 0


def test_a_kill_by_the_kernel_explains_a_death_right_after_it(kills: list[int]) -> None:
    """Also when it was counted in a look between the two; but not for long, and never a kill of before."""
    vitals = Vitals()
    assert not vitals.out_of_memory(0.0)
    kills[0] = 8
    assert vitals.out_of_memory(1.0)
    assert vitals.out_of_memory(2.0)
    assert not vitals.out_of_memory(4.0)
    kills[0] = 9
    vitals.look({}, 5.0)
    assert vitals.out_of_memory(5.5)


def test_last_words_are_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join([f"line {n}\n" for n in range(5000)]))
    assert last_words(log).splitlines() == [f"line {n}" for n in range(4980, 5000)]
    log.write_text("x" * 100_000)
    assert last_words(log) == "x" * MAX_SAID
    assert last_words(tmp_path / "none") == ""


def test_a_fatal_errors_report_is_kept_from_its_beginning(tmp_path: Path) -> None:
    """Its first lines say what was running; a list of all modules follows."""
    log = tmp_path / "log"
    report = [
        "Fatal Python error: Segmentation fault",
        *[f"  File {n}" for n in range(60)],
        "Extension modules: x",
    ]
    log.write_text("\n".join(["before", *report]))
    assert last_words(log).splitlines() == report
