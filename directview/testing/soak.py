"""Soak: a cluster at full load for a long time, and whether any of its processes grows.

::

    python -m directview.testing.soak --seconds 1200

The load is that of `directview.testing.chaos`, without faults, and without pauses between calls: its clients
know the right answers. Once a minute they rest, until everything has been let go of that is kept for a few
seconds; then it is looked at what each process has for itself (its unique set). What is on its way under load
says nothing: an engine's size sways between 40 and 68 MB then. After the time in which histories and pools
fill, a line is laid below those sizes, by least squares through the smallest of each part of the time; its
slope is printed in megabytes per hour, and a process that grows by more than a little fails the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import numpy as np
import psutil

from directview import Client, Cluster
from directview.supervisor.control import SupervisorFile, request
from directview.testing.chaos._client import GO_ON, REST, ClientOptions
from directview.testing.chaos._processes import MARK, Program
from directview.wire.idle import IDLE_SECONDS

__all__ = ["Series", "SoakReport", "soak"]

_WARM: Final = 480.0
"""Seconds of warming up, at most; of a short run, two fifths. Large arrays of many sizes at many times leave
holes in the heap, and those took eight minutes until they were enough for all that came."""
_MALLOC: Final = ("MALLOC_MMAP_THRESHOLD_", str(256 << 10))
"""For every process of the run: glibc gives blocks of this size back when they are freed. By itself it raises
that bound to what was freed last, up to 32 MB, and holes in the heap look like growth."""
_PARTS: Final = 6
_PERIOD: Final = 60.0
"""Seconds from one rest to the next; in a short run, a twentieth of it or 5."""
_REST: Final = IDLE_SECONDS + 3.0
"""Seconds of a rest; half of the period, if that is less."""
_SLACK_MB: Final = 4.0
_SLACK_PART: Final = 0.05
"""What a process may grow by, from the beginning of the line to its end: the larger of the two."""
_MB: Final = 1e6


@dataclass(slots=True)
class Series:
    """What one process had, each time that its clients rested."""

    times: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    """In megabytes."""
    peak: float = 0.0
    """The most that it had under load, of what was seen once a second."""

    def line(self, warm: float) -> tuple[float, float]:
        """Slope (MB/s) and height (MB, at the end) of the line below what came after `warm` seconds.

        It goes through the smallest size of each of a few parts of that time: what is still on its way comes
        on top of what a process keeps.
        """
        chosen = [(t, size) for t, size in zip(self.times, self.sizes, strict=True) if t >= warm]
        if len(chosen) < 3:
            return 0.0, self.sizes[-1] if self.sizes else 0.0
        parts = np.array_split(np.array(chosen), min(_PARTS, len(chosen)))
        times, sizes = np.array([part[part[:, 1].argmin()] for part in parts]).T
        slope, start = np.polyfit(times, sizes, 1)
        return float(slope), float(start + slope * self.times[-1])

    def grows(self, warm: float) -> bool:
        """Whether the line rises by more than a little."""
        slope, height = self.line(warm)
        return slope * (self.times[-1] - warm) > max(_SLACK_MB, _SLACK_PART * height)


@dataclass(slots=True)
class SoakReport:
    """What a run has come to. Its text is the summary."""

    seconds: float
    warm: float
    calls: int = 0
    bad: int = 0
    """Calls that did not end right."""
    processes: dict[str, Series] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no process grows and all answers were right."""
        flat = not any([series.grows(self.warm) for series in self.processes.values()])
        return flat and self.calls > 0 and not self.bad

    def __str__(self) -> str:
        lines = [
            f"soak: {self.calls} calls in {self.seconds:.0f} s, {self.bad} of them not right",
            f"{'process':<16}{'MB at rest':>14}{'at most':>10}{'MB/hour':>10}",
        ]
        for name, series in self.processes.items():
            slope, height = series.line(self.warm)
            verdict = "  GROWS" if series.grows(self.warm) else ""
            lines.append(f"{name:<16}{height:>14.1f}{series.peak:>10.1f}{slope * 3600:>10.1f}{verdict}")
        return "\n".join([*lines, "flat" if self.ok else "NOT GOOD"])


async def soak(
    seconds: float,
    folder: Path,
    *,
    engines: int = 2,
    clients: int = 2,
    say: Callable[[str], object] = lambda text: None,
) -> SoakReport:
    """Run it. Cancelling it ends everything that it has started.

    Args:
        seconds: for how long.
        folder: an empty folder for records.
        engines: how many.
        clients: how many programs make calls.
        say: called with a line of text at each rest.
    """
    report = SoakReport(seconds, min(_WARM, seconds * 0.4))
    ledger = folder / "ledger"
    ledger.mkdir()
    os.environ.setdefault(MARK, secrets.token_hex(8))
    os.environ.setdefault(*_MALLOC)
    programs: list[Program] = []
    async with Cluster(n=engines) as rc:
        try:
            programs += [_client(rc, f"c{number}", folder, ledger) for number in range(clients)]
            pids = {**await _pids(rc), **{f"client {p.name}": p.pid for p in programs}}
            await _watch(report, pids, programs, ledger, say)
        finally:
            for program in programs:
                program.close_input()
            for program in programs:
                if not await program.ended(60.0):
                    report.bad += 1
                    program.signal(9)
    _count(report, folder)
    return report


def _count(report: SoakReport, folder: Path) -> None:
    for path in folder.glob("*.jsonl"):
        with path.open() as lines:
            for line in lines:
                report.calls += 1
                report.bad += '"how": "right"' not in line and '"how": "cancelled"' not in line


def _client(rc: Client, name: str, folder: Path, ledger: Path) -> Program:
    assert rc.cluster is not None
    options = ClientOptions(
        name=name,
        connection=rc.cluster.connection_file,
        ledger=str(ledger),
        record=str(folder / f"{name}.jsonl"),
        seed=name,
        between=0.0,
    )
    run = "import sys; from directview.testing.chaos._client import main; sys.exit(main())"
    return Program(name, ["-c", run, json.dumps(dataclasses.asdict(options))], folder / f"{name}.log")


async def _pids(rc: Client) -> dict[str, int]:
    assert rc.cluster is not None
    file = SupervisorFile.read(Path(rc.cluster.connection_file).parent)
    assert file is not None
    found = await request(file.control, "status")
    own = {"supervisor": found["pid"], "controller": found["controller"], "fork server": found["fork_server"]}
    return {**own, **{f"engine {id}": info.pid for id, info in rc.engine_infos.items()}}


async def _watch(
    report: SoakReport,
    pids: Mapping[str, int],
    programs: Sequence[Program],
    ledger: Path,
    say: Callable[[str], object],
) -> None:
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    report.processes = {name: Series() for name in pids}
    period = min(_PERIOD, max(5.0, report.seconds / 20))
    began = time.monotonic()
    rests = began + period
    while time.monotonic() - began < report.seconds:
        await asyncio.sleep(1.0)
        for name, process in processes.items():
            report.processes[name].peak = max(report.processes[name].peak, _size(process))
        if time.monotonic() < rests:
            continue
        for program in programs:
            program.say(REST)
        await asyncio.sleep(min(_REST, period / 2))
        passed = time.monotonic() - began
        for name, process in processes.items():
            report.processes[name].times.append(passed)
            report.processes[name].sizes.append(_size(process))
        sizes = [f"{name} {series.sizes[-1]:.1f}" for name, series in report.processes.items()]
        say(f"{passed:.0f} s: {', '.join(sizes)} MB at rest")
        _forget(ledger)
        for program in programs:
            program.say(GO_ON)
        rests += period


def _size(process: psutil.Process) -> float:
    return process.memory_full_info().uss / _MB


def _forget(ledger: Path) -> None:
    """Who runs twice is not the question here, and the disk has an end."""
    for path in ledger.iterdir():
        with contextlib.suppress(OSError):
            os.truncate(path, 0)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=1200.0, show_default=True, help="For how long.")
@click.option("--engines", default=2, show_default=True)
@click.option("--clients", default=2, show_default=True)
def main(seconds: float, engines: int, clients: int) -> None:
    """Keep a cluster at full load, and look whether any of its processes grows."""
    with tempfile.TemporaryDirectory(prefix="dv-soak-") as folder:
        report = asyncio.run(soak(seconds, Path(folder), engines=engines, clients=clients, say=click.echo))
    click.echo(str(report))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
