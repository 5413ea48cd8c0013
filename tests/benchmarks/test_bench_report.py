"""From samples to figures, ratios, targets, and a file that can be read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.figures import Figure, FigureName, Sample, figures_of, further_engine, times_better
from benchmarks.report import SUBJECT, Participant, Report, ReportError
from benchmarks.targets import TARGETS
from benchmarks.works import WORKS, Kind, Work

WORK = {work.name: work for work in WORKS}


def a_report(**rounds: dict[str, list[float]]) -> Report:
    """`rounds`: peer → {"work what": value in each round}."""
    report = Report("2026-01-01T00:00:00+00:00", "quick", 3, {"cores": 2}, {w.name: w.title for w in WORKS})
    for peer, figures in rounds.items():
        role: Any = "subject" if peer == SUBJECT else "peer"
        report.participants[peer] = Participant(peer, role, peer)
        for name, values in figures.items():
            work, _, what = name.partition(" ")
            for number, value in enumerate(values):
                report.add(WORK[work], peer, number, {what: value})
    return report


def figure(what: str, *values: float) -> Figure:
    return Figure(FigureName("w", what), "p", dict(enumerate(values)))


def work(kind: Kind, amount: float = 1.0) -> Work:
    return Work("w", "w", kind, "op", {}, amount=amount)


class TestFigures:
    """What is made of measured seconds."""

    def test_a_latency_has_its_median_and_its_tail(self) -> None:
        sample = Sample([0.001] * 98 + [0.5, 0.7])
        assert figures_of(work(Kind.LATENCY), sample) == {"p50": 0.001, "p99": 0.5}

    def test_a_rate_is_of_the_median_repetition(self) -> None:
        assert figures_of(work(Kind.RATE, 1000), Sample([0.5, 0.25, 9.0])) == {"rate": 2000}

    def test_single_calls_give_a_rate_its_tail(self) -> None:
        assert figures_of(work(Kind.RATE, 10), Sample([1.0], [0.1, 0.2]))["p99"] == 0.2

    def test_throughput_is_bytes_per_second_and_below_a_megabyte_a_time(self) -> None:
        assert figures_of(work(Kind.THROUGHPUT, 1e8), Sample([0.1])) == {"throughput": 1e9}
        assert figures_of(work(Kind.THROUGHPUT, 1e3), Sample([0.1])) == {"seconds": 0.1}

    def test_sizes_stand_beside_the_seconds(self) -> None:
        sample = Sample([0.5], sizes={"controller": 7.0})
        assert figures_of(work(Kind.THROUGHPUT, 1e9), sample) == {"throughput": 2e9, "controller": 7.0}

    def test_a_sample_of_nothing_is_refused(self) -> None:
        for kind in Kind:
            with pytest.raises(ValueError, match=r"no values|nothing was measured"):
                figures_of(work(kind), Sample())

    def test_a_call_on_many_is_also_told_per_engine(self) -> None:
        sample = Sample([0.5] * 3, sizes={"register": 2.0})
        assert figures_of(work(Kind.FAN_OUT, 10), sample) == {"register": 2.0, "p50": 0.5, "each": 0.05}

    def test_what_a_further_engine_takes_follows_from_two_numbers_of_engines(self) -> None:
        report = a_report(directview={"memory-4 total": [80.0, 90.0], "memory-16 total": [160.0]})
        (found,) = further_engine(report.figures, WORKS, SUBJECT, 0)
        assert (found[0].name, found[1]) == ("memory-16", (160 - 80) / 12)
        assert further_engine(report.figures, WORKS, SUBJECT, 1) == []

    def test_a_figure_is_the_median_of_its_rounds(self) -> None:
        assert figure("p50", 3.0, 1.0, 2.0).value == 2.0


class TestRatios:
    """How many times better one is than another."""

    def test_half_the_time_is_twice_as_good(self) -> None:
        assert times_better(figure("p50", 1.0), figure("p50", 2.0)) == 2.0

    def test_twice_the_rate_is_twice_as_good(self) -> None:
        assert times_better(figure("rate", 2.0), figure("rate", 1.0)) == 2.0

    def test_drift_that_hits_a_whole_round_leaves_the_ratio_alone(self) -> None:
        ours = figure("p50", 1.0, 10.0, 1.0)
        theirs = figure("p50", 3.0, 30.0, 3.0)
        assert times_better(ours, theirs) == 3.0

    def test_only_rounds_that_both_took_part_in_count(self) -> None:
        theirs = Figure(FigureName("w", "p50"), "q", {1: 4.0})
        assert times_better(figure("p50", 1.0, 2.0, 3.0), theirs) == 2.0

    def test_without_a_common_round_there_is_no_ratio(self) -> None:
        theirs = Figure(FigureName("w", "p50"), "q", {7: 4.0})
        assert times_better(figure("p50", 1.0), theirs) is None

    def test_nothing_is_divided_by_zero(self) -> None:
        assert times_better(figure("client", 0.0), figure("client", 5.0)) is None
        assert times_better(figure("client", 5.0), figure("client", 0.0)) is None


class TestReport:
    """What a run remembers."""

    def test_it_reads_back_what_it_wrote(self) -> None:
        report = a_report(
            directview={"noop-1-sync p50": [1.0, 2.0], "push-1GB-to-1 controller": [0.0]},
            ipyparallel={"noop-1-sync p50": [3.0, 4.0]},
        )
        report.participants["dask"] = Participant("dask", "peer", "dask", missing="pip: no such version")
        report.refuse(WORK["noop-1-sync"], "dask", "it has none", failed=False)
        contents = json.loads(json.dumps(report.to_json(TARGETS)))
        assert Report.from_json(contents) == report

    def test_the_file_holds_medians_ratios_and_targets_for_other_tools(self) -> None:
        report = a_report(
            directview={"start-4 seconds": [1.0, 3.0]}, ipyparallel={"start-4 seconds": [8.0, 6.0]}
        )
        contents = report.to_json(TARGETS)
        assert [entry["median"] for entry in contents["figures"]] == [2.0, 7.0]
        assert [entry["times_better"] for entry in contents["figures"]] == [None, 5.0]
        assert len(contents["targets"]) == len(TARGETS)

    def test_figures_come_in_the_order_of_the_work(self) -> None:
        report = a_report(
            directview={"push-1kB seconds": [1.0], "noop-1-sync p99": [1.0], "start-4 import": [1.0]}
        )
        assert [name.work for name in report.names()] == ["start-4", "noop-1-sync", "push-1kB"]

    def test_a_failure_outweighs_what_a_peer_does_not_offer_and_not_the_other_way(self) -> None:
        report = a_report()
        for reason, failed in (("none", False), ("broke", True), ("none", False)):
            report.refuse(WORK["push-1kB"], "p", reason, failed=failed)
        assert report.refusals["push-1kB", "p"].reason == "broke"

    def test_why_there_is_no_figure(self) -> None:
        report = a_report(directview={"noop-1-sync p50": [1.0]})
        report.participants["dask"] = Participant("dask", "peer", "dask", missing="pip: no such version")
        report.refuse(WORK["share-100MB"], SUBJECT, "it has none", failed=False)
        assert report.why_not("noop-1-sync", "ray") == "ray was not asked"
        assert report.why_not("noop-1-sync", "dask") == "dask is MISSING: pip: no such version"
        assert report.why_not("share-100MB", SUBJECT) == "directview: it has none"
        report.works.pop("start-4")
        assert report.why_not("start-4", SUBJECT) == "the work was not chosen"

    def test_a_figure_of_a_later_round_takes_the_place_of_a_refusal_and_not_of_a_failure(self) -> None:
        report = a_report()
        report.refuse(WORK["start-4"], "p", "no time", failed=False)
        report.refuse(WORK["push-1kB"], "p", "it broke", failed=True)
        report.add(WORK["start-4"], "p", 1, {"seconds": 1.0})
        report.add(WORK["push-1kB"], "p", 1, {"seconds": 1.0})
        assert [work for work, _ in report.refusals] == ["push-1kB"]

    @pytest.mark.parametrize("contents", [[], {}, None, {"figures": []}])
    def test_another_file_is_refused(self, contents: object) -> None:
        with pytest.raises(ReportError, match="no benchmark report"):
            Report.from_json(contents)

    def test_another_format_is_refused_by_its_number(self) -> None:
        with pytest.raises(ReportError, match="format is 99"):
            Report.from_json({**a_report().to_json(), "format": 99})

    def test_a_damaged_file_is_refused(self) -> None:
        contents = a_report(directview={"noop-1-sync p50": [1.0]}).to_json()
        contents["figures"][0].pop("work")
        with pytest.raises(ReportError, match=r"damaged.*work"):
            Report.from_json(contents)
