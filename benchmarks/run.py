"""One run: rounds, and in each round every participant in turn, alone on the machine.

A participant is started, does all the work, and is ended before the next one starts, so that nobody is
measured beside another's idle processes. The order changes from round to round. Within a round all are
measured within a minute or so of each other: that is what ratios are made of.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environments import EnvironmentMissing, python_for
from benchmarks.figures import Sample, figures_of
from benchmarks.participants import Spec, takes_part
from benchmarks.processes import (
    AdapterEnded,
    AdapterProcess,
    PeerError,
    PeerRefused,
    Watched,
    descendants,
    end_leftovers,
)
from benchmarks.report import Participant, Report
from benchmarks.works import Depth, Kind, Work

__all__ = ["Run"]

_START_SECONDS = 120.0
_WORK_SECONDS = 300.0

Say = Callable[[str], None]


class Run:
    """Has participants do work, and fills a report.

    Args:
        report: to fill.
        specs: who takes part.
        works: what is to be done.
        depth: how often within a round.
        logs: a folder for what the participants print.
        say: told what goes on.
    """

    def __init__(
        self, report: Report, specs: Sequence[Spec], works: Sequence[Work], depth: Depth, logs: Path, say: Say
    ) -> None:
        self._report = report
        self._works = works
        self._depth = depth
        self._logs = logs
        self._say = say
        self._specs = [spec for spec in specs if any([takes_part(spec, work) for work in works])]
        self._pythons: dict[str, str] = {}
        self._others = descendants()

    def prepare(self) -> None:
        """Make the environments. Who has none is reported as missing, with the reason."""
        for spec in self._specs:
            participant = Participant(spec.name, spec.role, spec.title)
            self._report.participants[spec.name] = participant
            try:
                self._say(f"environment of {spec.name}")
                self._pythons[spec.name] = python_for(spec.name, spec.requirements)
            except EnvironmentMissing as reason:
                participant.missing = str(reason)

    def rounds(self, count: int, budget: float) -> None:
        """Do `count` rounds; fewer if another one would end after `budget` seconds. One is always done."""
        first_begun = time.monotonic()
        for number in range(count):
            spent = time.monotonic() - first_begun
            if number and spent + spent / number > budget:
                self._say(f"no round {number + 1}: it would end after {budget:g} s")
                break
            self._report.rounds = number + 1
            present = [spec for spec in self._specs if not self._report.participants[spec.name].missing]
            first = number % len(present) if present else 0
            for spec in (*present[first:], *present[:first]):
                begun = time.monotonic()
                self._one(spec, number)
                self._say(f"round {number + 1} of {count}: {spec.name} took {time.monotonic() - begun:.1f} s")

    def _one(self, spec: Spec, number: int) -> None:
        """All work of one participant in one round."""
        mine = [work for work in self._works if takes_part(spec, work)]
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            for engines, works in _by_engines(mine):
                try:
                    self._with_engines(spec, number, engines, works, scratch)
                finally:
                    self._report.participants[spec.name].left_behind += end_leftovers(self._others)

    def _with_engines(self, spec: Spec, number: int, engines: int, works: list[Work], scratch: str) -> None:
        """Work until all is done; a participant whose process has ended starts once more for what is left."""
        env = {key: value.format(scratch=scratch) for key, value in spec.env.items()}
        left = deque(works)
        while left:
            try:
                process = AdapterProcess(
                    self._pythons[spec.name], spec.peer, env, self._logs / f"{spec.name}.log"
                )
            except AdapterEnded as error:
                self._report.participants[spec.name].missing = f"it didn't start: {error}"
                return
            try:
                self._report.participants[spec.name].versions = process.hello["versions"]
                turn = _Turn(self._report, spec, number, self._depth, process, self._say)
                if not turn.start(engines, left):
                    return
                turn.work(left)
                turn.stop()
            except AdapterEnded as error:
                self._say(f"{spec.name}: {error}")
            finally:
                process.end()


def _by_engines(works: Sequence[Work]) -> Iterator[tuple[int, list[Work]]]:
    """Works that need the same number of engines, smallest number first."""
    for engines in sorted({work.engines for work in works}):
        yield engines, [work for work in works if work.engines == engines]


class _Turn:
    """One participant with its engines up."""

    def __init__(
        self, report: Report, spec: Spec, number: int, depth: Depth, process: AdapterProcess, say: Say
    ) -> None:
        self._report = report
        self._spec = spec
        self._number = number
        self._depth = depth
        self._process = process
        self._say = say
        self._watched: Watched | None = None

    def start(self, engines: int, works: Iterable[Work]) -> bool:
        """Start the engines; note time and memory where they were asked for. False if they don't start."""
        before = self._process.client_memory()
        try:
            seconds = self._process.ask({"do": "start", "n": engines}, _START_SECONDS)["seconds"]
        except PeerError as error:
            for work in works:
                self._report.refuse(work, self._spec.name, f"it didn't start: {error}", failed=True)
            return False
        if any([work.watch_controller for work in works]):
            self._watch()
        for work in works:
            if work.kind is Kind.START:
                self._note(work, Sample([seconds], sizes={"import": self._process.hello["import_seconds"]}))
            elif work.kind is Kind.MEMORY:
                self._note_memory(work, before)
        return True

    def _watch(self) -> None:
        try:
            self._watched = Watched(self._process.ask({"do": "controller"}, _START_SECONDS)["pids"])
        except PeerRefused as reason:
            self._say(f"{self._spec.name}: its controller is not watched: {reason}")

    def _note_memory(self, work: Work, before: int) -> None:
        client = self._process.client_memory() - before
        try:
            total, count = self._process.cluster_memory()
        except PeerRefused as reason:
            self._report.refuse(work, self._spec.name, str(reason), failed=False)
        else:
            sizes = {"processes": float(count), "total": float(total), "client": float(max(0, client))}
            self._note(work, Sample(sizes=sizes))

    def work(self, works: deque[Work]) -> None:
        """Do what is to be done with these engines, taking it out of `works`.

        Raises:
            AdapterEnded: the process is gone; the work that it was at is noted as failed.
        """
        while works:
            work = works.popleft()
            if work.kind in (Kind.START, Kind.MEMORY):
                continue
            self._say(f"round {self._number + 1}: {self._spec.name}: {work.name}")
            try:
                self._note(work, self._measure(work))
            except PeerRefused as reason:
                self._report.refuse(work, self._spec.name, str(reason), failed=False)
            except PeerError as error:
                self._report.refuse(work, self._spec.name, str(error), failed=True)
                if isinstance(error, AdapterEnded):
                    raise

    def _measure(self, work: Work) -> Sample:
        watched = self._watched if work.watch_controller else None
        if watched is not None:
            watched.reset_peak()
        request: dict[str, Any] = {
            "do": "work",
            "operation": work.operation,
            "params": dict(work.params),
            "repetitions": max(1, work.repetitions[self._depth]),
        }
        answer = self._process.ask(request, _WORK_SECONDS)
        sizes = {} if watched is None else {"controller": float(watched.growth())}
        return Sample(answer["seconds"], answer["single_calls"], sizes)

    def _note(self, work: Work, sample: Sample) -> None:
        self._report.add(work, self._spec.name, self._number, figures_of(work, sample))

    def stop(self) -> None:
        """End the engines, and say so if that fails."""
        try:
            self._process.ask({"do": "stop"}, _START_SECONDS)
        except PeerError as error:
            self._say(f"{self._spec.name}: it didn't stop in order: {error}")
