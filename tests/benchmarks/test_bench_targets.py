"""What is promised, judged: reached, missed, or not measured and why."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.report import SUBJECT, Participant, Report
from benchmarks.targets import TARGETS, AtLeast, AtMost, Cores, Finding, Ratio, Target, TimesBetter, judge
from benchmarks.works import WORKS

WORK = {work.name: work for work in WORKS}


def a_report(cores: int = 2, **figures: dict[str, float]) -> Report:
    """`figures`: participant (with _ for -) → {"work what": value}."""
    machine: dict[str, Any] = {"cores": cores}
    report = Report("then", "quick", 1, machine, {work.name: work.title for work in WORKS})
    for name, values in figures.items():
        who = name.replace("_", "-")
        report.participants[who] = Participant(who, "subject" if who == SUBJECT else "peer", who)
        for figure, value in values.items():
            work, _, what = figure.partition(" ")
            report.add(WORK[work], who, 0, {what: value})
    return report


def found(condition: Any, report: Report) -> Finding:
    (finding,) = judge(Target("t", [condition]), report).findings
    return finding


class TestConditions:
    """One at a time."""

    @pytest.mark.parametrize(("ours", "state"), [(0.5, "reached"), (1.0, "reached"), (1.01, "missed")])
    def test_a_ratio_to_a_peer_is_judged_with_the_figures_beside_it(self, ours: float, state: str) -> None:
        report = a_report(directview={"noop-1-sync p50": ours}, ray={"noop-1-sync p50": 3.0})
        finding = found(TimesBetter("", "noop-1-sync", "p50", "ray", 3), report)
        assert (finding.state, finding.beside) == (state, (ours, 3.0))

    def test_a_variant_may_be_the_one_that_is_judged(self) -> None:
        report = a_report(
            directview={"scatter-100MB throughput": 9.0},
            directview_sockets={"scatter-100MB throughput": 1.0},
            chunked_relay={"scatter-100MB throughput": 2.0},
        )
        condition = TimesBetter("", "scatter-100MB", "throughput", "chunked-relay", 0.8, "directview-sockets")
        assert (found(condition, report).value, found(condition, report).state) == (0.5, "missed")

    @pytest.mark.parametrize(("seconds", "state"), [(0.5, "reached"), (0.6, "missed")])
    def test_a_figure_that_must_be_small(self, seconds: float, state: str) -> None:
        report = a_report(directview={"start-4 seconds": seconds})
        finding = found(AtMost("", "start-4", "seconds", 0.5), report)
        assert (finding.state, finding.value, finding.unit) == (state, seconds, "s")

    @pytest.mark.parametrize(("rate", "state"), [(100.0, "reached"), (99.0, "missed")])
    def test_a_figure_that_must_be_large_stands_beside_its_tail(self, rate: float, state: str) -> None:
        report = a_report(directview={"awaits-10000 rate": rate, "awaits-10000 p99": 0.25})
        finding = found(AtLeast("", "awaits-10000", "rate", 100), report)
        assert (finding.state, finding.beside, finding.beside_unit) == (state, (0.25,), "s")

    def test_the_shorter_work_stands_in_for_the_longer_and_is_named(self) -> None:
        report = a_report(directview={"growth-200000 client": 1e6})
        condition = AtMost("flat", "growth-1000000", "client", 4e6, instead="growth-200000")
        assert found(condition, report).state == "reached"
        assert "growth-200000" in found(condition, report).text

    @pytest.mark.parametrize(("many", "state"), [(1.3, "reached"), (1.4, "missed")])
    def test_one_work_in_parts_of_another(self, many: float, state: str) -> None:
        report = a_report(directview={"simulated-1000 each": many, "simulated-10 each": 1.0})
        condition = Ratio("", "simulated-1000", "simulated-10", "each", 1.3)
        assert found(condition, report).state == state


class TestCores:
    """A speed-up that depends on how many cores there are."""

    CONDITION = Cores("", "busy-1000000", "busy-100000", "serial", 5e-6, 0.8)

    @pytest.mark.parametrize(
        ("cores", "speedup", "state"),
        [(2, 1.6, "reached"), (2, 1.5, "missed"), (64, 3.2, "reached"), (64, 3.1, "missed")],
    )
    def test_no_more_cores_count_than_there_are_engines(self, cores: int, speedup: float, state: str) -> None:
        report = a_report(
            cores,
            directview={"busy-1000000 rate": 100_000 * speedup},
            serial={"busy-1000000 rate": 100_000.0},
        )
        assert found(self.CONDITION, report).state == state

    def test_items_that_were_too_quick_judge_nothing(self) -> None:
        report = a_report(directview={"busy-100000 rate": 1e6}, serial={"busy-100000 rate": 250_000.0})
        finding = found(self.CONDITION, report)
        assert (finding.state, finding.why) == ("not measured", "an item took 4.0 µs only")

    def test_without_the_one_process_nothing_is_judged(self) -> None:
        finding = found(self.CONDITION, a_report(directview={"busy-1000000 rate": 1.0}))
        assert finding.state == "not measured"


class TestWhy:
    """What was not measured says why."""

    def test_a_peer_that_was_not_asked(self) -> None:
        report = a_report(directview={"noop-1-sync p50": 1.0})
        finding = found(TimesBetter("", "noop-1-sync", "p50", "ray", 3), report)
        assert (finding.state, finding.why) == ("not measured", "ray was not asked")

    def test_a_peer_that_is_missing(self) -> None:
        report = a_report(directview={"noop-1-sync p50": 1.0}, ray={})
        report.participants["ray"].missing = "no wheel"
        finding = found(TimesBetter("", "noop-1-sync", "p50", "ray", 3), report)
        assert finding.why == "ray is MISSING: no wheel"

    def test_a_work_that_failed(self) -> None:
        report = a_report(directview={})
        report.refuse(WORK["growth-1000000"], SUBJECT, "it broke", failed=True)
        condition = AtMost("", "growth-1000000", "client", 4e6, instead="growth-200000")
        assert found(condition, report).why == "directview: it broke"

    def test_the_shorter_work_that_was_chosen_instead_and_failed(self) -> None:
        report = a_report(directview={})
        report.works.pop("growth-1000000")
        report.refuse(WORK["growth-200000"], SUBJECT, "it broke", failed=True)
        condition = AtMost("", "growth-1000000", "client", 4e6, instead="growth-200000")
        assert found(condition, report).why == "directview: it broke"


class TestTargets:
    """Several conditions make one line."""

    def judged(self, **figures: float) -> str:
        report = a_report(directview={f"{work.replace('_', '-')} seconds": v for work, v in figures.items()})
        conditions = [AtMost(work, work, "seconds", 1.0) for work in ("start-4", "start-16", "start-64")]
        return judge(Target("start", conditions), report).state

    def test_all_must_be_reached(self) -> None:
        assert self.judged(start_4=1.0, start_16=1.0, start_64=1.0) == "reached"

    def test_one_that_is_missed_is_enough_to_miss(self) -> None:
        assert self.judged(start_4=1.0, start_16=2.0) == "missed"

    def test_one_that_was_not_measured_leaves_it_open(self) -> None:
        assert self.judged(start_4=1.0, start_16=1.0) == "not measured"

    def test_titles_are_different(self) -> None:
        assert len({target.title for target in TARGETS}) == len(TARGETS)
