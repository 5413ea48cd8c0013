"""Pictures, and the page of the documentation that a report fills."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import plots
from benchmarks.page import BEGIN, END, PAGE, PageError, filled, write
from benchmarks.report import SUBJECT, Participant, Report
from benchmarks.works import WORKS

WORK = {work.name: work for work in WORKS}


@pytest.fixture
def report() -> Report:
    made = Report("then", "quick", 1, {"cores": 2, "memory": 24e9}, {work.name: work.title for work in WORKS})
    made.participants = {
        SUBJECT: Participant(SUBJECT, "subject", SUBJECT),
        "ray": Participant("ray", "peer", "Ray"),
        "memcpy": Participant("memcpy", "limit", "memcpy"),
    }
    for peer in made.participants:
        made.add(WORK["scatter-1kB"], peer, 0, {"seconds": 0.001})
        made.add(WORK["scatter-100MB"], peer, 0, {"throughput": 2e9})
    made.add(WORK["noop-1-sync"], SUBJECT, 0, {"p50": 0.001})
    return made


def test_a_curve_has_a_throughput_where_a_time_was_measured(report: Report) -> None:
    assert plots.curve(report, "scatter", "ray") == [(1_000, 1e6), (100_000_000, 2e9)]
    assert plots.curve(report, "gather", "ray") == []


def test_bars_have_gaps_where_nothing_was_measured(report: Report) -> None:
    assert plots.bars(report, ["noop-1-sync", "noop-4-sync"], "p50", SUBJECT) == [0.001, None]


def test_the_same_report_gives_the_same_pictures(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first = plots.draw(report, tmp_path / "first")
    second = plots.draw(report, tmp_path / "second")
    # No rates were measured, and there is no picture of them.
    assert [path.name for path in first] == ["throughput.svg", "latency.svg"]
    assert [path.read_text() for path in first] == [path.read_text() for path in second]
    assert "Ray" in first[0].read_text()


def test_without_matplotlib_it_says_what_to_install(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(plots.PlottingMissing, match=r"pip install directview\[bench\]"):
        plots.draw(report, tmp_path)


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    assert filled(page, "new\n") == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert filled(filled(page, "new"), "new") == filled(page, "new")


@pytest.mark.parametrize(
    "page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"]
)
def test_a_page_without_its_marks_is_left_alone(page: str, report: Report, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(page)
    with pytest.raises(PageError, match="once, in this order"):
        write(report, tmp_path / "page.md")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_the_page_shows_pictures_and_tables_and_keeps_the_report(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "performance.md"
    page.write_text(f"# Title\n{BEGIN}\n{END}\n")
    written = write(report, page)
    text = page.read_text()
    assert "](performance/throughput.svg)" in text
    assert "| scatter 100 MB | 2.00 GB/s | 2.00 GB/s (1.00×) |" in text
    assert all([path.exists() for path in written])
    kept = json.loads((tmp_path / "performance" / "report.json").read_text())
    assert Report.from_json(kept) == report


def test_the_page_of_the_documentation_can_be_filled() -> None:
    page = PAGE.read_text()
    assert filled(page, "") != page


def test_the_page_of_the_documentation_is_what_its_report_makes(tmp_path: Path) -> None:
    """So that figures on it are never edited by hand."""
    pytest.importorskip("matplotlib")
    report = Report.from_json(json.loads((PAGE.with_suffix("") / "report.json").read_text()))
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text())
    write(report, copy)
    assert copy.read_text() == PAGE.read_text()
