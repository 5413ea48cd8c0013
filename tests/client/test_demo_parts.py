"""The demo's parts that need no cluster: its tasks, and the picture of who did what when."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from directview._demo_report import Step, Work, counted, remarks_of, report, table_of, timeline_of
from directview._demo_tasks import merge, print_radii, running_median, spectral_radius, survey
from directview._timeline import HEIGHTS, Cell, Span, busy_share, draw, share_columns, spans_of

SOURCE = b"""\
class A:
    def f(self, x):
        return x + x  # x is no identifier here
    async def g(self): ...
"""


def test_a_survey_counts_identifiers_and_definitions() -> None:
    found = survey(SOURCE)
    assert found.identifiers == {"A": 1, "f": 1, "self": 2, "x": 3, "g": 1}
    assert (found.files, found.lines, found.functions, found.classes, found.unparsed) == (1, 4, 2, 1, 0)
    assert found.depth == 7  # module, class, function, return, sum, name and its context


def test_what_is_no_python_is_counted_and_not_raised() -> None:
    for source in (
        b"def (",
        b"x = '\\ud800",
        b"# coding: nonsense\n",
        b"a\x00b",
        b"\xff = 1",
        b"if x:\n  a\n b\n",
    ):
        assert survey(source).unparsed == 1


def test_a_survey_is_silent_about_odd_sources() -> None:
    """Warnings are errors here: `is` with a literal and an invalid escape would raise."""
    assert survey(b"x is 1\ny = '\\d'\n").unparsed == 0


def test_merging_adds_up_and_does_not_depend_on_how_files_were_dealt_out() -> None:
    surveys = [survey(SOURCE), survey(b"x = 1\n"), survey(b"def (")]
    whole = merge(surveys)
    assert whole.identifiers["x"] == 4
    assert (whole.files, whole.lines, whole.unparsed) == (3, 5, 1)
    assert merge([merge(surveys[:2]), merge(surveys[2:])]) == whole
    assert merge([]).files == 0


def test_a_running_median_takes_spikes_out_row_by_row() -> None:
    """Row by row, so that parts computed apart are bit for bit what the whole gives."""
    rows = np.random.default_rng(0).standard_normal((37, 100))
    rows[5, 50] = 1e6
    whole = running_median(rows)
    assert whole.shape == rows.shape
    assert whole[5, 50] == np.median(rows[5, 43:58]) < 3
    for n in (2, 4, 7):
        parts = [running_median(part) for part in np.array_split(rows, n)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_the_spectral_radius_is_that_of_the_seeds_matrix() -> None:
    assert spectral_radius(3, 50) == spectral_radius(3, 50) != spectral_radius(4, 50)
    assert 5 < spectral_radius(3, 50) < 10  # near the root of 50


def test_a_process_alone_prints_the_radii_as_it_finds_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_radii(2, 50)
    expected = ["ready", repr(spectral_radius(0, 50)), repr(spectral_radius(1, 50))]
    assert capsys.readouterr().out.splitlines() == expected


def test_spans_come_from_a_results_metadata() -> None:
    moments = [datetime.fromtimestamp(seconds, UTC) for seconds in (10, 11, 12)]
    many = SimpleNamespace(engine_id=[0, 2], started=moments[:2], completed=moments[1:])
    assert spans_of(many, "a") == [Span(0, 10, 11, "a"), Span(2, 11, 12, "a")]
    one = SimpleNamespace(engine_id=1, started=moments[0], completed=moments[2])
    assert spans_of(one, "b") == [Span(1, 10, 12, "b")]


def text(cells: list[Cell]) -> str:
    return "".join(HEIGHTS[cell.height] for cell in cells)


def test_a_picture_shows_when_each_engine_was_busy() -> None:
    spans = [Span(0, 0, 4, "a"), Span(1, 2, 3, "a"), Span(0, 4, 6, "b"), Span(1, 5.5, 6, "b")]
    rows = draw(spans, 0, 8, 8)
    assert {engine: text(cells) for engine, cells in rows.items()} == {0: "██████  ", 1: "  █  ▄  "}
    assert [cell.kind for cell in rows[0]] == ["a"] * 4 + ["b"] * 2 + [""] * 2
    assert [cell.tone for cell in rows[0][:6]] == [0, 0, 0, 0, 1, 1]


def test_a_picture_shows_a_trace_of_the_shortest_call_and_nothing_of_other_times() -> None:
    spans = [Span(0, 1.0, 1.0001, "a"), Span(0, 50, 60, "b"), Span(0, -5, -1, "b")]
    assert text(draw(spans, 0, 10, 10)[0]) == " ▁        "


@given(
    st.lists(
        st.builds(
            lambda engine, start, length: Span(engine, start, start + length, "a"),
            st.integers(0, 3),
            st.floats(-5, 15),
            st.floats(0, 20),
        )
    ),
    st.integers(1, 50),
)
def test_any_spans_give_full_rows(spans: list[Span], width: int) -> None:
    rows = draw(spans, 0, 10, width)
    assert set(rows) == {span.engine for span in spans}
    assert all(len(cells) == width for cells in rows.values())
    shares = busy_share(spans, [(0, 10)])
    assert all(0 <= share <= 1 + 1e-9 for share in shares.values())


def test_overlapping_calls_keep_an_engine_busy_once() -> None:
    spans = [Span(0, 0, 5, "a"), Span(0, 2, 3, "a"), Span(0, 4, 6, "a"), Span(1, 20, 21, "a")]
    assert busy_share(spans, [(0, 10), (20, 22)]) == pytest.approx({0: 0.5, 1: 1 / 12})


@given(st.lists(st.floats(0, 100), max_size=5), st.integers(0, 200))
def test_columns_are_shared_by_duration(durations: list[float], width: int) -> None:
    columns = share_columns(durations, width)
    assert len(columns) == len(durations)
    assert all(column >= 12 for column in columns)
    if durations and width >= 12 * len(durations):
        assert sum(columns) == width


def finished(**changes: object) -> Work:
    """A piece of work on two engines, in which all went well."""
    work = Work("filter", "Filter signals", "2 × 3")
    work.steps = [Step("scatter", 0.5, 10**9), Step("filter", 1.0), Step("gather", 0.25, 10**9)]
    work.spans = [Span(0, 100.5, 101.5, "filter"), Span(1, 100.5, 101, "filter")]
    work.window = (100.0, 102.0)
    work.serial = 3.0
    work.agrees = True
    for name, value in changes.items():
        setattr(work, name, value)
    return work


def printed(thing: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_tells_times_throughput_and_agreement() -> None:
    lines = printed(table_of([finished()], 2)).splitlines()
    whole = " ".join(next(line for line in lines if "Filter signals" in line).split())
    assert whole == "Filter signals 3.00 s 2.00 s × 1.50 ✔ identical"
    assert "2.00 GB/s" in next(line for line in lines if "scatter" in line)
    assert any(line.strip() == "2 × 3" for line in lines)
    assert "…" not in printed(table_of([finished(agreement="to 1e-09")], 16), width=80)
    assert "✘ differ" in printed(table_of([finished(agrees=False)], 2))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_timeline_fits_and_has_a_row_for_each_engine(width: int) -> None:
    lines = timeline_of([finished(), finished(kind="eigen", spans=[])], width).plain.splitlines()
    assert [line.split("│")[0].strip() for line in lines[:2]] == ["engine   0", "engine   1"]
    assert max(map(len, lines)) <= width
    assert "filter 2.0 s" in lines[2]
    assert lines[0].endswith("50% busy")


def test_remarks_say_where_the_cluster_lost_and_why() -> None:
    assert list(remarks_of([finished()], 2, 2)) == []
    assert list(remarks_of([], 4, 2)) == ["4 engines share 2 cores: × 2 is the most there can be."]
    (moving,) = remarks_of([finished(serial=1.9)], 2, 2)
    assert "moving the data took 0.75 s" in moving
    (sharing,) = remarks_of([finished(serial=0.1)], 2, 2)
    assert "had to share what one process had for itself" in sharing
    assert counted(1, "core") == "1 core"


@pytest.mark.parametrize(
    ("agrees", "verdict"), [(True, "All answers agree"), (False, "differ from the serial")]
)
def test_the_report_ends_with_a_verdict(agrees: bool, verdict: str) -> None:
    console = Console(file=io.StringIO(), width=100)
    report(console, [finished(agrees=agrees)], 2, 2)
    assert isinstance(console.file, io.StringIO)
    assert verdict in console.file.getvalue().splitlines()[-1]


def test_work_times_itself() -> None:
    work = Work("filter", "", "")
    with work.on_engines(), work.step("a", 5):
        pass
    with work.alone():
        sum(range(10_000))
    assert work.steps[0].nbytes == 5
    assert work.parallel >= work.steps[0].seconds >= 0
    assert work.serial > 0
