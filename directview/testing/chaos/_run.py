"""A run: one episode after the other, and the sum of what became of them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from directview.testing.chaos._clocks import library
from directview.testing.chaos._episode import Life
from directview.testing.chaos._processes import MARK
from directview.testing.chaos._report import Report
from directview.testing.chaos._schedule import KINDS, Episode, episodes

__all__ = ["run"]


async def run(
    seed: int,
    seconds: float,
    base: Path,
    *,
    small: bool = False,
    only: int | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Report:
    """Run all episodes of a seed. Cancelling it ends everything that it has started.

    Args:
        seed: of all chance.
        seconds: for which the episodes last together.
        base: an empty folder of this process's own, with a short path: sockets lie below it.
        small: whether ``base/disk`` and /dev/shm are small ones that may be filled (see the command).
        only: the number of the only episode that is wanted.
        say: called with a line of text after each episode.
    """
    report = Report(seed, seconds)
    needs_small = [kind for kind in KINDS if kind.startswith("fill")]
    clocks = library() if small else None
    report.left_out = (*(() if small else needs_small), *(() if clocks else ("step clock",)))
    began = time.monotonic()
    with _own_folders(base / "disk"):
        for episode in episodes(seed, seconds):
            if only is not None and episode.number != only:
                continue
            folder = base / f"episode-{episode.number}"
            life = Life(seed, episode, folder, base / "disk", small, clocks)
            verdict = await life.live()
            report.episodes += 1
            report.endings[episode.ending] += 1
            report.resilient += episode.resilient
            report.verdict.add(verdict)
            say(_line(episode, verdict.calls, verdict.problems))
            if verdict.problems:
                report.kept.append(_keep(folder, base / "disk", seed, episode))
            shutil.rmtree(folder, ignore_errors=True)
    report.took = time.monotonic() - began
    return report


def _line(episode: Episode, calls: int, problems: list[str]) -> str:
    verdict = f"{len(problems)} PROBLEMS" if problems else "all good"
    line = f"episode {episode.number}: {episode.seconds:.0f} s, {calls} calls, {len(episode.faults)} faults"
    return "\n".join([f"{line}, {episode.ending}: {verdict}", *[f"  {problem}" for problem in problems[:5]]])


def _keep(folder: Path, disk: Path, seed: int, episode: Episode) -> str:
    """Copy records and logs to where they outlive the run."""
    kept = Path(tempfile.gettempdir()) / f"dv-chaos-kept-{seed}-{episode.number}-{os.getpid()}"
    shutil.copytree(folder, kept, dirs_exist_ok=True)
    shutil.copytree(
        disk / "state", kept / "state", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock")
    )
    return str(kept)


@contextmanager
def _own_folders(disk: Path) -> Iterator[None]:
    """Have this process and its children keep clusters below `disk`, and know each other by a mark."""
    (disk / "run").mkdir(mode=0o700, parents=True)
    ours = {
        "XDG_RUNTIME_DIR": str(disk / "run"),
        "XDG_STATE_HOME": str(disk / "state"),
        MARK: secrets.token_hex(8),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
