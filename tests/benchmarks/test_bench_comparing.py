"""Two runs, before and after: what is named a regression, and what is not."""

from __future__ import annotations

from benchmarks.comparing import Comparison, compare
from benchmarks.figures import FigureName
from benchmarks.report import SUBJECT, Participant, Report
from benchmarks.works import WORKS

WORK = {work.name: work for work in WORKS}
LIMITS = {work.name: work.limits for work in WORKS}
NOOP = FigureName("noop-1-sync", "p50")
BURST = FigureName("burst-1-sync-5000", "rate")


def a_run(
    figures: dict[tuple[FigureName, str], list[float]], *, cores: int = 2, depth: str = "normal"
) -> Report:
    rounds = max([len(values) for values in figures.values()], default=0)
    machine = {"cores": cores, "load": rounds * 0.1}
    report = Report("then", depth, rounds, machine, {work.name: work.title for work in WORKS})
    for (name, peer), values in figures.items():
        report.participants[peer] = Participant(peer, "subject" if peer == SUBJECT else "limit", peer)
        for number, value in enumerate(values):
            report.add(WORK[name.work], peer, number, {name.what: value})
    return report


def ours(name: FigureName, *values: float) -> Report:
    return a_run({(name, SUBJECT): list(values)})


def finding(comparison: Comparison) -> str:
    (change,) = comparison.changes
    return change.finding


def test_a_longer_time_is_a_regression() -> None:
    comparison = compare(ours(NOOP, 1.0, 1.1, 0.9), ours(NOOP, 1.5, 1.6, 1.4), LIMITS)
    assert finding(comparison) == "regression"
    assert comparison.regressions[0].name == NOOP
    assert round(comparison.regressions[0].part, 6) == 0.5


def test_a_lower_rate_is_a_regression() -> None:
    assert finding(compare(ours(BURST, 100, 110, 90), ours(BURST, 50, 60, 40), LIMITS)) == "regression"


def test_a_shorter_time_is_an_improvement() -> None:
    comparison = compare(ours(NOOP, 1.5, 1.6, 1.4), ours(NOOP, 1.0, 1.1, 0.9), LIMITS)
    assert finding(comparison) == "improvement"
    assert comparison.regressions == []


def test_overlapping_rounds_are_the_same() -> None:
    assert finding(compare(ours(NOOP, 1.0, 1.3, 0.9), ours(NOOP, 1.2, 1.6, 1.4), LIMITS)) == "same"


def test_a_slower_machine_is_drift_and_no_regression() -> None:
    """The limit program took as much longer as we did."""
    before = a_run({(NOOP, SUBJECT): [1.0, 1.1, 0.9], (NOOP, "bare-relay"): [0.5, 0.55, 0.45]})
    after = a_run({(NOOP, SUBJECT): [2.0, 2.2, 1.8], (NOOP, "bare-relay"): [1.0, 1.1, 0.9]})
    assert finding(compare(before, after, LIMITS)) == "drift"
    assert finding(compare(after, before, LIMITS)) == "drift"


def test_a_regression_is_one_although_the_limit_program_was_measured_too() -> None:
    before = a_run({(BURST, SUBJECT): [100, 110, 90], (BURST, "bare-relay"): [200, 220, 180]})
    after = a_run({(BURST, SUBJECT): [50, 55, 45], (BURST, "bare-relay"): [200, 220, 180]})
    assert finding(compare(before, after, LIMITS)) == "regression"
    assert finding(compare(after, before, LIMITS)) == "improvement"


def test_a_limit_that_only_one_run_measured_is_not_used() -> None:
    before = a_run({(NOOP, SUBJECT): [1.0, 1.1, 0.9], (NOOP, "bare-relay"): [0.5, 0.55, 0.45]})
    assert finding(compare(before, ours(NOOP, 2.0, 2.2, 1.8), LIMITS)) == "regression"


def test_a_figure_that_is_gone_is_named() -> None:
    comparison = compare(ours(NOOP, 1.0, 1.0, 1.0), ours(BURST, 1.0, 1.0, 1.0), LIMITS)
    assert comparison.only_before == [NOOP]
    assert comparison.changes == []


def test_figures_of_peers_and_limits_are_not_judged() -> None:
    before = a_run({(NOOP, "bare-relay"): [1.0, 1.0, 1.0]})
    after = a_run({(NOOP, "bare-relay"): [9.0, 9.0, 9.0]})
    assert compare(before, after, LIMITS).changes == []


def test_another_machine_or_depth_and_too_few_rounds_are_warned_of() -> None:
    before = ours(NOOP, 1.0, 1.0, 1.0)
    assert compare(before, before, LIMITS).warnings == []
    after = a_run({(NOOP, SUBJECT): [9.0]}, cores=64, depth="quick")
    comparison = compare(before, after, LIMITS)
    assert [warning.partition(" ")[0] for warning in comparison.warnings] == ["machine:", "depth", "fewer"]
    assert "cores was 2, is 64" in comparison.warnings[0]


def test_too_few_rounds_are_no_change_and_not_the_same_either() -> None:
    assert finding(compare(ours(NOOP, 1.0, 1.0, 1.0), ours(NOOP, 9.0, 9.0), LIMITS)) == "unclear"
