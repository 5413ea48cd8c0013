"""Medians, percentiles, spreads, and what counts as a change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.noise import MIN_CHANGE, median, percentile, spread, worse_by

figures = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)
rounds = st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=9)


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5


@pytest.mark.parametrize(
    ("part", "expected"), [(0.01, 1), (0.5, 50), (0.07, 7), (0.99, 99), (0.999, 100), (1.0, 100)]
)
def test_a_percentile_is_one_of_the_values_by_nearest_rank(part: float, expected: int) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], part) == expected


@given(figures, st.floats(0.001, 1.0))
def test_at_least_the_part_asked_for_lies_at_or_below_a_percentile(values: list[float], part: float) -> None:
    found = percentile(values, part)
    assert found in values
    assert sum([value <= found for value in values]) >= part * len(values) - 1e-6
    assert sum([value < found for value in values]) < part * len(values)


def test_nothing_measured_has_no_median_and_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize("part", [0.0, -0.1, 1.1])
def test_a_percentile_must_be_a_part_of_the_whole(part: float) -> None:
    with pytest.raises(ValueError, match="part"):
        percentile([1.0], part)


def test_the_spread_is_the_range_in_parts_of_the_median() -> None:
    assert spread([9.0, 10.0, 12.0]) == pytest.approx(0.3)
    assert spread([5.0]) == 0.0
    assert spread([0.0, 0.0]) == 0.0


class TestWorse:
    """`worse_by`: beyond noise, and beyond what is worth a word."""

    def test_a_longer_time_is_worse_by_the_part_it_took_longer(self) -> None:
        assert worse_by([1.0, 1.1, 0.9], [1.5, 1.4, 1.6], lower_is_better=True) == pytest.approx(0.5)

    def test_half_the_rate_is_as_bad_as_twice_the_time(self) -> None:
        assert worse_by([100.0, 110.0, 90.0], [50.0, 45.0, 55.0], lower_is_better=False) == pytest.approx(1.0)

    def test_a_shorter_time_and_a_higher_rate_are_not_worse(self) -> None:
        assert worse_by([1.5, 1.4, 1.6], [1.0, 1.1, 0.9], lower_is_better=True) is None
        assert worse_by([50.0, 45.0, 55.0], [100.0, 110.0, 90.0], lower_is_better=False) is None

    def test_rounds_that_overlap_are_noise(self) -> None:
        assert worse_by([1.0, 1.0, 1.6], [1.5, 1.5, 1.5], lower_is_better=True) is None

    def test_a_small_change_is_none_however_steady_the_rounds(self) -> None:
        slower = 1.0 + MIN_CHANGE * 0.9
        assert worse_by([1.0] * 5, [slower] * 5, lower_is_better=True) is None

    def test_two_rounds_say_nothing(self) -> None:
        assert worse_by([1.0, 1.0], [9.0, 9.0, 9.0], lower_is_better=True) is None
        assert worse_by([1.0, 1.0, 1.0], [9.0, 9.0], lower_is_better=True) is None

    def test_something_from_nothing_is_worse(self) -> None:
        assert worse_by([0.0] * 3, [5.0] * 3, lower_is_better=True) == float("inf")

    @given(rounds, rounds, st.booleans())
    def test_no_two_runs_are_each_worse_than_the_other(
        self, first: list[float], second: list[float], lower: bool
    ) -> None:
        there = worse_by(first, second, lower_is_better=lower)
        back = worse_by(second, first, lower_is_better=lower)
        assert there is None or back is None

    @given(rounds, st.booleans())
    def test_nothing_is_worse_than_itself(self, values: list[float], lower: bool) -> None:
        assert worse_by(values, values, lower_is_better=lower) is None
