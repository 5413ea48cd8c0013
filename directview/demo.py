"""The main job, on real input, before your eyes: what ``directview demo`` and ``make demo`` run.

Three pieces of work go to a cluster of its own and are done again by this process alone, which says
whether the answers are the same, what moving the data cost, and what the engines gained. It is honest
about that: where the cluster is slower, it says so.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from directview._demo_report import Work, counted, report
from directview._demo_tasks import SIGNAL_LENGTH, Survey, merge, running_median, spectral_radius, survey
from directview._timeline import spans_of
from directview.cluster import Cluster

__all__ = ["main"]

ROUNDS: Final = 12
"""Calls for each engine in each piece of work: what the progress bar and the timeline can tell apart."""
BLAS_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""Four engines whose BLAS runs a thread per core each took 51 s on two cores for what one took 4 s for."""
TOLERANCE: Final = 1e-9
"""Relative, for eigenvalues: BLAS adds up in another order when it runs on another number of threads."""


class Stage:
    """Where the progress is shown, and who works on it."""

    def __init__(self, console: Console, engines: int, blas_threads: int) -> None:
        self.engines = engines
        self.blas_threads = blas_threads
        """Of each engine, and so of the process that they are compared with."""
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
        )

    @contextmanager
    def bars(self) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
        """Two bars: for the engines, and for this process alone. Each is moved by a share of `ROUNDS`."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        many = self._progress.add_task(f"on {self.engines} engines", total=ROUNDS, start=True)
        alone = self._progress.add_task("by one process", total=ROUNDS, start=False)
        with self._progress:
            yield self._mover(many), self._mover(alone)

    def _mover(self, task: TaskID) -> Callable[[int], None]:
        def move(done: int) -> None:
            if not self._progress.tasks[self._progress.task_ids.index(task)].started:
                self._progress.start_task(task)
            self._progress.update(task, completed=done)

        return move


def pieces(length: int, rounds: int = ROUNDS) -> list[tuple[int, int]]:
    """(start, stop) of `rounds` pieces of `length` items, for work that is to show how far it is."""
    marks = [length * i // rounds for i in range(rounds + 1)]
    return list(pairwise(marks))


# --- the three pieces of work ---------------------------------------------------------------------------


def library_sources(limit: int) -> list[bytes]:
    """The sources of the running Python's standard library, largest first.

    Args:
        limit: bytes to stop at.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    sources: list[bytes] = []
    total = 0
    for path in paths:
        source = path.read_bytes()
        total += len(source)
        if total > limit:
            break
        sources.append(source)
    return sorted(sources, key=len, reverse=True)


def survey_library(view: Any, stage: Stage, quick: bool) -> Work:
    """Count the identifiers of the standard library, and parse it: scatter, work, gather, merge."""
    sources = library_sources(3_000_000 if quick else 20_000_000)
    nbytes = sum(map(len, sources))
    work = Work("survey", "Survey sources", f"{len(sources):,} files, {nbytes / 1e6:.0f} MB")
    view.execute_sync("from directview._demo_tasks import survey\nfound = []")
    with stage.bars() as (engines, alone):
        with work.on_engines():
            with work.step("scatter the sources", nbytes):
                # In turn, from the largest down: each engine gets about as much to do.
                move(work, view.scatter_async("sources", sources, dist="r"))
            with work.step("count and parse"):
                running = [
                    view.execute_async(
                        f"part = sources[len(sources) * {i} // {ROUNDS}:len(sources) * {i + 1} // {ROUNDS}]\n"
                        "found += [survey(source) for source in part]"
                    )
                    for i in range(ROUNDS)
                ]
                follow(work, running, engines)
            with work.step("gather and merge"):
                gathered: list[Survey] = move(work, view.gather_async("found", dist="r"))
                merged = merge(gathered)
        with work.alone():
            expected: list[Survey] = []
            for done, (first, last) in enumerate(pieces(len(sources))):
                alone(done)
                expected += [survey(source) for source in sources[first:last]]
            serial = merge(expected)
        alone(ROUNDS)
    work.agrees = gathered == expected and merged == serial
    top = ", ".join(f"{name} {count:,}" for name, count in merged.identifiers.most_common(6))
    work.finding = (
        f"{merged.lines:,} lines, {merged.functions:,} functions, {merged.classes:,} classes, "
        f"{len(merged.identifiers):,} different identifiers: {top}"
    )
    return work


def filter_signals(view: Any, stage: Stage, quick: bool) -> Work:
    """Take spikes out of an array of signals: scatter it, filter its rows on the engines, gather it."""
    nbytes = 20_000_000 if quick else 100_000_000
    random = np.random.default_rng(2)
    signals = random.standard_normal((nbytes // 8 // SIGNAL_LENGTH, SIGNAL_LENGTH))
    signals[random.random(signals.shape) < 0.001] *= 1000
    work = Work("filter", "Filter signals", f"{signals.shape[0]:,} × {signals.shape[1]:,}")
    view.execute_sync("from directview._demo_tasks import running_median")
    with stage.bars() as (engines, alone):
        with work.on_engines():
            with work.step("scatter the array", signals.nbytes):
                move(work, view.scatter_async("signals", signals))
            with work.step("filter"):
                running = [
                    view.execute_async(
                        f"rows = slice(len(signals) * {i} // {ROUNDS}, len(signals) * {i + 1} // {ROUNDS})\n"
                        "signals[rows] = running_median(signals[rows])"
                    )
                    for i in range(ROUNDS)
                ]
                follow(work, running, engines)
            with work.step("gather the array", signals.nbytes):
                gathered = move(work, view.gather_async("signals"))
        with work.alone():
            expected = np.empty_like(signals)
            for done, (first, last) in enumerate(pieces(len(signals))):
                alone(done)
                expected[first:last] = running_median(signals[first:last])
        alone(ROUNDS)
    work.agrees = gathered.dtype == expected.dtype and bool(np.array_equal(gathered, expected))
    work.finding = (
        f"the largest sample was {np.abs(signals).max():,.0f}; now it is {np.abs(gathered).max():.1f}"
    )
    return work


def map_eigenvalues(view: Any, stage: Stage, quick: bool) -> Work:
    """Map a function over seeds: the largest eigenvalue of each seed's random matrix.

    The serial answers come from a fresh process: BLAS takes its number of threads when numpy is loaded, and
    this process has long had it.
    """
    size, count = (100, 96) if quick else (200, 192)
    seeds = range(count)
    work = Work("eigen", "Map eigenvalues", f"{count} of {size} × {size}")
    with stage.bars() as (engines, alone):
        with work.on_engines(), work.step("map"):
            running = [
                view.map_async(spectral_radius, seeds[first:last], [size] * (last - first))
                for first, last in pieces(count)
            ]
            radii = [radius for part in follow(work, running, engines) for radius in part]
        command = [sys.executable, "-m", "directview._demo_tasks", str(count), str(size)]
        with (
            blas_threads(stage.blas_threads),
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        ):
            answers = iter(process.stdout or ())
            next(answers)  # it has loaded numpy
            expected: list[float] = []
            with work.alone():
                for first, answer in enumerate(answers):
                    alone(first * ROUNDS // count)
                    expected.append(float(answer))
        alone(ROUNDS)
    work.agrees = len(radii) == len(expected) and np.allclose(radii, expected, rtol=TOLERANCE, atol=0)
    work.agreement = "identical" if radii == expected else f"to {TOLERANCE:g}"
    mean = float(np.mean(radii)) / size**0.5
    work.finding = f"mean spectral radius {mean:.3f} × √n: Girko's circular law says it goes to 1"
    return work


def follow(work: Work, running: Sequence[Any], move_bar: Callable[[int], None]) -> list[Any]:
    """Wait for results one after the other, show how far they are, note who worked when."""
    values = []
    for done, result in enumerate(running):
        move_bar(done)
        values.append(result.get())
        work.spans += spans_of(result, work.kind)
    move_bar(len(running))
    return values


def move(work: Work, result: Any) -> Any:
    """Wait for a scatter or gather, and note the engines' share in it."""
    value = result.get()
    work.spans += spans_of(result, "move")
    return value


def usable_cores() -> int:
    """Cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def blas_threads(n: int) -> Iterator[None]:
    """Let processes that are started meanwhile run `n` BLAS threads each, unless the user chose a number."""
    ours = [variable for variable in BLAS_THREADS if variable not in os.environ]
    os.environ.update(dict.fromkeys(ours, str(n)))
    try:
        yield
    finally:
        for variable in ours:
            del os.environ[variable]


def main(n: int = 4, quick: bool = False) -> int:
    """Run the demo on an embedded cluster and print what came of it.

    Args:
        n: number of engines.
        quick: about a tenth of the work.

    Returns:
        0 if all answers agree with the serial ones, otherwise 1: an exit code.
    """
    console = Console(highlight=False)
    cores = usable_cores()
    console.print(
        Panel(
            f"{n} engines on {counted(cores, 'core')} of {platform.node() or 'this machine'}, "
            f"Python {platform.python_version()}",
            title="[bold]directview[/bold]",
            expand=False,
        )
    )
    works: list[Work] = []
    threads = max(1, cores // n)
    children = set(psutil.Process().children(recursive=True))
    start = time.perf_counter()
    starting = console.status(f"starting {n} engines")
    starting.start()
    try:
        with blas_threads(threads), Cluster(n=n) as rc:
            starting.stop()
            console.print(f"{len(rc)} engines ready after {time.perf_counter() - start:.2f} s\n")
            stage = Stage(console, n, threads)
            for job in (survey_library, filter_signals, map_eigenvalues):
                console.print(f"[bold]{(job.__doc__ or '').splitlines()[0]}[/bold]")
                works.append(job(rc[:], stage, quick))
                console.print(f"  [dim]{works[-1].finding}[/dim]\n")
    finally:
        starting.stop()
    report(console, works, n, cores)
    left = set(psutil.Process().children(recursive=True)) - children
    if left:
        console.print(f"Left running: {', '.join(map(str, left))}.", style="bold red")
    return 0 if all(work.agrees for work in works) and not left else 1
