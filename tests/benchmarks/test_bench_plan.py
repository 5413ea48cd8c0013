"""What is still begun, and for how long it is waited for."""

from __future__ import annotations

import math

from benchmarks.plan import Plan


def plan(budget: float = 100.0) -> Plan:
    return Plan(begun=1000.0, budget=budget, long=6.0, longest=60.0)


def test_what_took_long_is_not_repeated() -> None:
    made = plan()
    assert made.repeats("ray", "burst")
    made.note("ray", "burst", 6.1)
    made.note("ray", "noop", 5.9)
    assert not made.repeats("ray", "burst")
    assert made.repeats("ray", "noop")
    assert made.repeats("dask", "burst")


def test_the_longest_time_counts() -> None:
    made = plan()
    made.note("ray", "burst", 7.0)
    made.note("ray", "burst", 1.0)
    assert not made.repeats("ray", "burst")


def test_nothing_is_begun_that_would_end_too_late() -> None:
    made = plan()
    made.note("ray", "burst", 30.0)
    assert made.fits("ray", "burst", 1069.0)
    assert not made.fits("ray", "burst", 1070.0)
    assert made.fits("ray", "unknown", 1099.0)
    assert not made.fits("ray", "unknown", 1100.0)


def test_nothing_is_waited_for_much_longer_than_the_run_lasts() -> None:
    made = plan()
    assert made.patience(1000.0) == 60.0
    assert made.patience(1080.0) == 20.0
    assert made.patience(1099.0) == 5.0
    assert made.patience(2000.0) == 5.0


def test_a_turn_ends_after_twice_its_share_of_the_time() -> None:
    made = plan()
    made.begin_turn(1000.0, to_come=5)
    assert made.left(1000.0) == 40.0
    assert made.fits("ray", "burst", 1039.0)
    assert not made.fits("ray", "burst", 1040.0)
    assert made.patience(1010.0) == 30.0
    made.begin_turn(1040.0, to_come=None)
    assert made.fits("dask", "burst", 1099.0)


def test_the_last_turn_ends_with_the_run_and_a_late_one_is_no_shorter_than_sense_has() -> None:
    made = plan()
    made.begin_turn(1060.0, to_come=1)
    assert made.left(1060.0) == 40.0
    made.begin_turn(1000.0, to_come=1000)
    assert made.left(1000.0) == 20.0


def test_without_a_budget_there_is_always_time() -> None:
    made = plan(math.inf)
    made.begin_turn(1000.0, to_come=3)
    assert made.left(1e9) == math.inf
    assert made.fits("ray", "burst", 1e9)
    assert made.patience(1e9) == 60.0
