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
def test_every_condition_can_be_judged_at_every_depth(depth: Depth) -> None:
    """Its works are done, by those whom it is about."""
    done = {work.name: work for work in choose(WORKS, depth)}
    specs = {spec.name: spec for spec in SPECS}
    for target in TARGETS:
        for condition in target.conditions:
            work = condition.work if condition.work in done else getattr(condition, "instead", "")
            assert work in done, f"{target.title}: {condition.text}"
            for who in {getattr(condition, part, SUBJECT) for part in ("who", "peer", "one")}:
                assert takes_part(specs[who], done[work], depth), f"{target.title}: {condition.text}: {who}"
            assert getattr(condition, "other", work) in done


def test_the_quick_form_leaves_out_what_takes_longest() -> None:
    assert {"push-1GB", "busy-1000000", "noop-16-await"}.isdisjoint(names(Depth.QUICK))
    assert {"push-1GB", "busy-1000000", "noop-16-await"} <= set(names(Depth.FULL))


def test_transfers_go_from_a_kilobyte_to_a_gigabyte() -> None:
    done = set(names(Depth.FULL))
    for operation in ("scatter", "gather", "push", "pull", "apply"):
        for size in ("1kB", "10kB", "100kB", "1MB", "10MB", "100MB", "1GB"):
            assert f"{operation}-{size}" in done


def test_a_beginning_or_a_pattern_chooses_what_this_depth_has() -> None:
    assert names(Depth.QUICK, "noop-4") == ["noop-4-sync", "noop-4-await"]
    assert names(Depth.QUICK, "p*-1kB") == ["push-1kB", "pull-1kB"]


def test_a_full_name_chooses_a_work_that_the_depth_leaves_out() -> None:
    assert names(Depth.QUICK, "push-1GB") == ["push-1GB", "push-1GB-to-1"]


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
        chosen = choose_specs(["ipyparallel"])
        assert [spec.name for spec in chosen if spec.role == "peer"] == ["ipyparallel"]
        others = [spec for spec in chosen if spec.role != "peer"]
        assert others == [spec for spec in SPECS if spec.role != "peer"]

    def test_naming_a_limit_leaves_the_other_limits_out(self) -> None:
        chosen = choose_specs(["memcpy"])
        assert [spec.name for spec in chosen if spec.role == "limit"] == ["memcpy"]
        assert {spec.role for spec in chosen} == {"subject", "variant", "limit"}

    def test_none_means_no_peer(self) -> None:
        assert {spec.role for spec in choose_specs(["none"])} == {"subject", "variant", "limit"}

    def test_what_is_about_directview_alone_is_asked_of_nobody_else(self) -> None:
        (work,) = choose(WORKS, Depth.FULL, ["growth-1000000"])
        assert [spec.name for spec in SPECS if takes_part(spec, work)] == [SUBJECT]

    def test_the_quick_form_asks_some_peers_only(self) -> None:
        (work,) = choose(WORKS, Depth.QUICK, ["noop-16-sync"])
        peers = {depth: set[str]() for depth in Depth}
        for depth in Depth:
            asked = [spec.name for spec in SPECS if spec.role == "peer" and takes_part(spec, work, depth)]
            peers[depth] = set(asked)
        assert peers[Depth.QUICK] == {"ipyparallel"}
        assert peers[Depth.NORMAL] == {spec.name for spec in SPECS if spec.role == "peer"}

    def test_peers_are_pinned(self) -> None:
        """So that a run can be repeated."""
        for spec in SPECS:
            for requirement in spec.requirements:
                assert "==" in requirement, requirement
                assert "*" not in requirement, requirement

    def test_an_unknown_peer_is_refused_with_the_names_that_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"no peer 'celery'.*ipyparallel"):
            choose_specs(["celery"])

    def test_a_limit_program_does_only_work_that_it_bounds(self) -> None:
        limits = {spec.name for spec in SPECS if spec.role == "limit"}
        for work in WORKS:
            assert set(work.limits) <= limits
            doing = {spec.name for spec in SPECS if spec.role == "limit" and takes_part(spec, work)}
            assert doing == set(work.limits)
