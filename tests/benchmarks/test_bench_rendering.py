"""Figures as people read them; the same rows in the terminal and in Markdown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.comparing import compare
from benchmarks.rendering import comparison_sheets, quantity, report_sheets, to_markdown, to_terminal
from benchmarks.report import SUBJECT, Participant, Report
from benchmarks.targets import TARGETS
from benchmarks.works import WORKS

WORK = {work.name: work for work in WORKS}


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.00124, "s", "1.24 ms"),
        (0.000185, "s", "185 µs"),
        (6.7, "s", "6.70 s"),
        (6450.4, "1/s", "6 450/s"),
        (2.6e8, "B/s", "260 MB/s"),
        (1.65e9, "B/s", "1.65 GB/s"),
        (374e6, "B", "374 MB"),
        (0.0, "B", "0 B"),
        (-12e6, "B", "-12.0 MB"),
        (17.0, "", "17"),
        (7.123, "×", "7.12×"),
        (14.5, "×", "14.5×"),
    ],
)
def test_quantities_are_shown_in_three_digits(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


@pytest.fixture
def report() -> Report:
    made = Report("2026-01-01", "quick", 3, {"cores": 2, "memory": 24e9}, {w.name: w.title for w in WORKS})
    made.participants = {
        SUBJECT: Participant(SUBJECT, "subject", SUBJECT, {"directview": "0.1.0"}),
        "ipyparallel": Participant("ipyparallel", "peer", "ipyparallel 9.2", {"ipyparallel": "9.2.0"}, "", 2),
        "ray": Participant("ray", "peer", "Ray", missing="pip install ray: ERROR: no such version"),
        "bare-relay": Participant("bare-relay", "limit", "bare relay"),
    }
    for peer, seconds in ((SUBJECT, 0.002), ("ipyparallel", 0.001), ("bare-relay", 0.0005)):
        for number in range(3):
            made.add(WORK["noop-1-sync"], peer, number, {"p50": seconds})
    for work in ("push-1kB", "pull-1kB"):
        made.refuse(WORK[work], "ipyparallel", "it broke", failed=True)
    return made


def terminal(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(to_terminal(report_sheets(report, TARGETS)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_both_forms_say_the_same(report: Report) -> None:
    markdown = to_markdown(report_sheets(report, TARGETS), "Benchmarks")
    for text in (markdown, terminal(report)):
        for said in (
            "1.00 ms (0.50×)",  # a loss, as plainly as a win
            "0.25×",
            "Ray (missing)",
            "MISSING: pip install ray: ERROR: no such version",
            "FAILED: it broke",
            "push-1kB, pull-1kB",
            "left 2 processes behind",
            "not measured",
        ):
            assert said in text


def test_a_condition_that_is_missed_says_so_with_its_figures(report: Report) -> None:
    lines = to_markdown(report_sheets(report, TARGETS), "Benchmarks").splitlines()
    (line,) = [line for line in lines if line.startswith("|  | ≤ 1/6 of ipyparallel's")]
    assert line.endswith("| 0.50× (2.00 ms, 1.00 ms) | missed |")
    (line,) = [line for line in lines if line.startswith("| no-op call on 1 engine")]
    assert line.endswith("| missed |")


def test_what_could_not_be_judged_says_why(report: Report) -> None:
    lines = to_markdown(report_sheets(report, TARGETS), "Benchmarks").splitlines()
    (line,) = [line for line in lines if line.startswith("|  | ≤ 0.7 of Ray's")]
    assert line.endswith("| not measured: ray is MISSING: pip install ray: ERROR: no such version |")


def test_losses_have_a_table_of_their_own_the_worst_first(report: Report) -> None:
    for number in range(3):
        report.add(WORK["noop-4-sync"], SUBJECT, number, {"p50": 0.003})
        report.add(WORK["noop-4-sync"], "ipyparallel", number, {"p50": 0.001})
        report.add(WORK["start-4"], SUBJECT, number, {"seconds": 1.0})
        report.add(WORK["start-4"], "ipyparallel", number, {"seconds": 2.0})
    (sheet,) = [sheet for sheet in report_sheets(report, TARGETS) if sheet.title == "Where directview loses"]
    assert [row[-1] for row in sheet.rows] == ["0.33×", "0.50×"]


def test_a_single_round_has_no_spread(report: Report) -> None:
    report.add(WORK["start-4"], SUBJECT, 0, {"seconds": 1.0})
    (sheet,) = [sheet for sheet in report_sheets(report, TARGETS) if sheet.title == "Figures"]
    assert [row[-1] for row in sheet.rows] == ["", "0%"]


def test_a_comparison_names_the_regression(report: Report) -> None:
    after = Report(report.started, report.depth, 3, report.machine, report.works, dict(report.participants))
    for number in range(3):
        after.add(WORK["noop-1-sync"], SUBJECT, number, {"p50": 0.006})
    sheets = comparison_sheets(compare(report, after, {}), after)
    text = to_markdown(sheets, "Comparison")
    assert "| regression | no-op on 1 engine, blocking, median | 2.00 ms | 6.00 ms | 200% |" in text


def test_markdown_cells_cannot_break_the_table(report: Report) -> None:
    report.participants["ray"].missing = "a | b\nc"
    assert "| Ray | MISSING: a \\| b c |" in to_markdown(report_sheets(report, TARGETS), "Benchmarks")
