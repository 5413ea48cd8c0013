"""The table of work, and choosing from it."""

from __future__ import annotations

import pytest

from benchmarks.participants import SPECS, choose_specs, takes_part
from benchmarks.report import SUBJECT
from benchmarks.targets import TARGETS
from benchmarks.works import WORKS, Depth, Kind, choose, size_name


def names(depth: Depth, *only: str) -> list[str]:
    return [work.name for work in choose(WORKS, depth, only)]


def test_works_have_names_of_their_own() -> None:
    assert len({work.name for work in WORKS}) == len(WORKS)


def test_every_depth_measures_each_kind_of_work_and_every_work_is_in_some_depth() -> None:
    for depth in Depth:
        assert {work.kind for work in choose(WORKS, depth)} == set(Kind)
    assert {name for depth in Depth for name in names(depth)} == {work.name for work in WORKS}


@pytest.mark.parametrize("depth", list(Depth))
def test_every_target_can_be_judged_at_every_depth(depth: Depth) -> None:
    done = set(names(depth))
    for target in TARGETS:
        assert done.intersection(target.works), target.title


def test_sixty_four_engines_are_started_in_the_full_form_only() -> None:
    assert "start-64" in names(Depth.FULL)
    assert "start-64" not in names(Depth.NORMAL)


def test_a_beginning_or_a_pattern_chooses_what_this_depth_has() -> None:
    assert names(Depth.QUICK, "noop") == ["noop-1-sync", "noop-1-await", "noop-4-sync", "noop-4-await"]
    assert names(Depth.QUICK, "*-1kB") == ["scatter-1kB", "gather-1kB", "push-1kB", "pull-1kB"]


def test_a_full_name_chooses_a_work_that_the_depth_leaves_out() -> None:
    assert names(Depth.QUICK, "start-64") == ["start-64"]


def test_an_unknown_name_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no work 'naps'.*noop-1-sync"):
        choose(WORKS, Depth.QUICK, ["naps"])


@pytest.mark.parametrize(
    ("nbytes", "name"), [(1, "1 B"), (1_000, "1 kB"), (100_000_000, "100 MB"), (1_500_000_000, "1.5 GB")]
)
def test_sizes_are_decimal(nbytes: int, name: str) -> None:
    assert size_name(nbytes) == name


class TestParticipants:
    """Who takes part in what."""

    def test_without_names_everybody_takes_part(self) -> None:
        assert choose_specs([]) == list(SPECS)

    def test_naming_a_peer_keeps_directview_and_the_limits(self) -> None:
        chosen = [spec.name for spec in choose_specs(["ipyparallel"])]
        assert chosen == [SUBJECT, "ipyparallel", "bare-relay", "chunked-relay", "memcpy"]

    def test_naming_a_limit_leaves_the_other_limits_out(self) -> None:
        assert [spec.name for spec in choose_specs(["memcpy"])] == [SUBJECT, "memcpy"]

    def test_none_means_no_peer(self) -> None:
        assert {spec.role for spec in choose_specs(["none"])} == {"subject", "limit"}

    def test_an_unknown_peer_is_refused_with_the_names_that_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"no peer 'celery'.*ipyparallel"):
            choose_specs(["celery"])

    def test_a_limit_program_does_only_work_that_it_bounds(self) -> None:
        limits = {spec.name for spec in SPECS if spec.role == "limit"}
        for work in WORKS:
            assert set(work.limits) <= limits
            doing = {spec.name for spec in SPECS if spec.role == "limit" and takes_part(spec, work)}
            assert doing == set(work.limits)
