"""One run: rounds, and in each round every participant in turn, alone on the machine.

A participant is started, does all the work, and is ended before the next one starts, so that nobody is
measured beside another's idle processes. directview goes first, since most ratios need it; the order of the
others changes from round to round. Within a round all are measured within minutes of each other: that is
what ratios are made of.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environments import EnvironmentMissing, compile_sources, python_for
from benchmarks.figures import Sample, figures_of, further_engine
from benchmarks.participants import Spec, takes_part
from benchmarks.plan import TIME_IS_UP, Plan
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
from benchmarks.works import ENGINES, Depth, Kind, Work

__all__ = ["Run"]

_OURS = ("directview", "directview.controller", "directview.engine", "benchmarks")
_END_SECONDS = 30.0
_LONG = {Depth.QUICK: 6.0, Depth.NORMAL: 60.0, Depth.FULL: 240.0}
"""Seconds from which on a participant isn't asked the same again in a later round."""
_LONGEST = {Depth.QUICK: 60.0, Depth.NORMAL: 240.0, Depth.FULL: 600.0}
"""Seconds after which a participant that gives no answer is ended."""

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
        self._specs = [spec for spec in specs if any([takes_part(spec, work, depth) for work in works])]
        self._pythons: dict[str, str] = {}
        self._others = descendants()

    def prepare(self) -> None:
        """Make the environments. Who has none is reported as missing, with the reason."""
        for package in _OURS:
            compile_sources(package)
        for spec in self._specs:
            participant = Participant(spec.name, spec.role, spec.title)
            self._report.participants[spec.name] = participant
            for work in self._works:
                if takes_part(spec, work) and not takes_part(spec, work, self._depth):
                    self._report.refuse(work, spec.name, "not asked in the quick form", failed=False)
            try:
                self._say(f"environment of {spec.name}")
                self._pythons[spec.name] = python_for(spec.name, spec.requirements)
            except EnvironmentMissing as reason:
                participant.missing = str(reason)

    def rounds(self, count: int, budget: float) -> None:
        """Do up to `count` rounds.

        Args:
            count: how many, if there is time.
            budget: seconds. What doesn't fit is left out, and said to be; so the last round may be a part of
                one.
        """
        begun = time.monotonic()
        self._plan = Plan(begun, budget, _LONG[self._depth], _LONGEST[self._depth])
        for number in range(count):
            self._plan.begin_turn(time.monotonic(), None)
            if self._plan.left(time.monotonic()) <= 0:
                self._say(f"no round {number + 1}: {budget:g} s are over")
                break
            self._report.rounds = number + 1
            order = self._order(number)
            for place, spec in enumerate(order):
                started = time.monotonic()
                alone = number or spec.role == "subject"
                self._plan.begin_turn(started, None if alone else len(order) - place)
                self._one(spec, number)
                self._say(
                    f"round {number + 1} of {count}: {spec.name} took {time.monotonic() - started:.1f} s"
                )
        self._report.seconds = round(time.monotonic() - begun, 1)

    def _order(self, number: int) -> list[Spec]:
        present = [spec for spec in self._specs if not self._report.participants[spec.name].missing]
        first = [spec for spec in present if spec.role == "subject"]
        others = [spec for spec in present if spec.role != "subject"]
        # By a step that is no divisor of a usual number: who came late in one round comes early in another.
        place = number * 5 % len(others) if others else 0
        return [*first, *others[place:], *others[:place]]

    def _one(self, spec: Spec, number: int) -> None:
        """All work of one participant in one round."""
        mine = [
            work
            for work in self._works
            if takes_part(spec, work, self._depth) and self._plan.repeats(spec.name, work.name)
        ]
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
            for engines, works in _by_engines(mine):
                start = f"start-{engines}"
                if engines != ENGINES and not self._plan.repeats(spec.name, start):
                    continue
                if not self._plan.fits(spec.name, start, time.monotonic()):
                    self._refuse_all(spec, works)
                    continue
                try:
                    self._with_engines(spec, number, engines, works, scratch)
                finally:
                    self._report.participants[spec.name].left_behind += end_leftovers(self._others)
        for work, figure in further_engine(self._report.figures, self._works, spec.name, number):
            self._report.add(work, spec.name, number, {"further": figure})

    def _refuse_all(self, spec: Spec, works: Iterable[Work]) -> None:
        for work in works:
            if not self._report.measured(work, spec.name):
                self._report.refuse(work, spec.name, TIME_IS_UP, failed=False)

    def _with_engines(self, spec: Spec, number: int, engines: int, works: list[Work], scratch: str) -> None:
        """Work until all is done; a participant whose process has ended starts once more for what is left."""
        env = {key: value.format(scratch=scratch) for key, value in spec.env.items()}
        left = deque(works)
        while left:
            if self._plan.left(time.monotonic()) <= 0:
                self._refuse_all(spec, left)
                return
            try:
                process = AdapterProcess(
                    self._pythons[spec.name], spec.peer, env, self._logs / f"{spec.name}.log"
                )
            except AdapterEnded as error:
                self._report.participants[spec.name].missing = f"it didn't start: {error}"
                return
            try:
                self._report.participants[spec.name].versions = process.hello["versions"]
                turn = _Turn(self._report, spec, number, self._depth, self._plan, process, self._say)
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
        self,
        report: Report,
        spec: Spec,
        number: int,
        depth: Depth,
        plan: Plan,
        process: AdapterProcess,
        say: Say,
    ) -> None:
        self._report = report
        self._plan = plan
        self._spec = spec
        self._number = number
        self._depth = depth
        self._process = process
        self._say = say
        self._watched: Watched | None = None

    def start(self, engines: int, works: Iterable[Work]) -> bool:
        """Start the engines; note time and memory where they were asked for. False if they don't start."""
        before = self._process.client_memory()
        begun = time.monotonic()
        try:
            patience = self._plan.patience(begun)
            seconds = self._process.ask({"do": "start", "n": engines}, patience)["seconds"]
        except PeerError as error:
            for work in works:
                self._report.refuse(work, self._spec.name, f"it didn't start: {error}", failed=True)
            return False
        finally:
            self._plan.note(self._spec.name, f"start-{engines}", time.monotonic() - begun)
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
            self._watched = Watched(self._process.ask({"do": "controller"}, _END_SECONDS)["pids"])
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
            begun = time.monotonic()
            if not self._plan.fits(self._spec.name, work.name, begun):
                if not self._report.measured(work, self._spec.name):
                    self._report.refuse(work, self._spec.name, TIME_IS_UP, failed=False)
                continue
            self._say(f"round {self._number + 1}: {self._spec.name}: {work.name}")
            try:
                self._note(work, self._measure(work))
            except PeerRefused as reason:
                self._report.refuse(work, self._spec.name, str(reason), failed=False)
            except PeerError as error:
                if self._plan.left(time.monotonic()) <= 0:
                    if not self._report.measured(work, self._spec.name):
                        self._report.refuse(work, self._spec.name, TIME_IS_UP, failed=False)
                else:
                    self._report.refuse(work, self._spec.name, str(error), failed=True)
                if isinstance(error, AdapterEnded):
                    raise
            finally:
                self._plan.note(self._spec.name, work.name, time.monotonic() - begun)

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
        answer = self._process.ask(request, self._plan.patience(time.monotonic()))
        sizes = {} if watched is None else {"controller": float(watched.growth())}
        return Sample(answer["seconds"], answer["single_calls"], {**answer["sizes"], **sizes})

    def _note(self, work: Work, sample: Sample) -> None:
        self._report.add(work, self._spec.name, self._number, figures_of(work, sample))

    def stop(self) -> None:
        """End the engines, and say so if that fails."""
        try:
            patience = min(_END_SECONDS, self._plan.patience(time.monotonic()))
            self._process.ask({"do": "stop"}, patience)
        except PeerError as error:
            self._say(f"{self._spec.name}: it didn't stop in order: {error}")
