"""Frozen is who is stopped for a while that we have seen, whatever was paused besides."""

from __future__ import annotations

import pytest

from directview.supervisor._vouching import LOOK_AGAIN, Vouching

A, B = b"a" * 16, b"b" * 16
LEASE = 30.0


@pytest.fixture
def vouching() -> Vouching:
    return Vouching(LEASE)


def test_who_runs_is_vouched_for_and_looked_at_long_before_its_place_is_lost(vouching: Vouching) -> None:
    frozen, delay = vouching.look([], 100.0)
    assert not frozen
    assert LOOK_AGAIN < delay < LEASE / 3


def test_who_is_stopped_is_looked_at_again_before_that_is_said(vouching: Vouching) -> None:
    assert vouching.look([A], 100.0) == (frozenset(), LOOK_AGAIN)
    frozen, delay = vouching.look([A, B], 100.0 + LOOK_AGAIN)
    assert frozen == {A}
    assert delay == LOOK_AGAIN
    frozen, delay = vouching.look([A, B], 100.0 + 2 * LOOK_AGAIN)
    assert frozen == {A, B}
    assert delay > LOOK_AGAIN


def test_who_goes_on_in_between_is_not_frozen(vouching: Vouching) -> None:
    vouching.look([A], 100.0)
    vouching.look([], 100.05)
    assert vouching.look([A], 100.1) == (frozenset(), LOOK_AGAIN)


def test_two_looks_at_once_are_one(vouching: Vouching) -> None:
    """Two engines' connections are lost in one turn, and the controller asks twice."""
    vouching.look([A, B], 100.0)
    assert vouching.look([A, B], 100.001) == (frozenset(), LOOK_AGAIN)


def test_after_a_pause_of_our_own_what_was_seen_before_says_nothing(vouching: Vouching) -> None:
    """Everything was stopped, the engine before us, and goes on, the engine after us."""
    vouching.look([A], 100.0)
    assert vouching.look([A], 103.0) == (frozenset(), LOOK_AGAIN)
    assert vouching.look([], 103.0 + LOOK_AGAIN)[0] == frozenset()


def test_who_stays_frozen_stays_so_at_the_next_regular_look(vouching: Vouching) -> None:
    now = 100.0
    vouching.look([A], now)
    _, delay = vouching.look([A], now := now + LOOK_AGAIN)
    assert vouching.look([A], now + delay)[0] == {A}
