"""Who was not let in: each end of a connection explained once, with its own address or none."""

from __future__ import annotations

import random

import pytest

from directview.wire.doorway import Doorway, Failure, Refusal

A, B = "10.0.0.1:1111", "10.0.0.2:2222"


def told(doorway: Doorway) -> list[tuple[str | None, str]]:
    return [(refusal.address, refusal.reason) for refusal in doorway.take()]


@pytest.mark.parametrize("failure", [kind for kind in Failure if kind is not Failure.AUTHENTICATION])
def test_a_failed_handshake_is_told_with_address_and_reason(failure: Failure) -> None:
    door = Doorway()
    door.accepted(7, A, local=False)
    door.failed(failure)
    before = door.refusing
    door.ended(7, known=False)
    assert (before, door.refusing) == (False, True)
    assert door.take() == [Refusal("10.0.0.1", failure.value)]
    assert door.take() == []
    assert door.refused == 1


def test_who_ends_without_any_event_is_told_too() -> None:
    door = Doorway()
    door.accepted(7, A, local=False)
    door.ended(7, known=False)
    ((address, reason),) = told(door)
    assert address == "10.0.0.1"
    assert "before it had said who it is" in reason


def test_who_was_let_in_is_not() -> None:
    door = Doorway()
    door.accepted(7, A, local=False)
    door.ended(7, known=True)
    assert door.refused == 0
    door.accepted(7, B, local=False)
    door.failed(Failure.BROKEN)
    door.ended(7, known=True)  # We had cut it off ourselves.
    door.accepted(8, A, local=False)
    door.ended(8, known=False)
    ((address, reason),) = told(door)
    assert address == "10.0.0.1"
    assert reason != Failure.BROKEN.value, "another connection's failure"


def test_who_has_a_wrong_key_is_told_by_whoever_saw_the_key() -> None:
    """That connection may end later than others that fail meanwhile."""
    door = Doorway()
    door.accepted(7, A, local=False)
    door.failed(Failure.AUTHENTICATION)
    door.accepted(8, B, local=False)
    door.failed(Failure.NO_KEYS)
    door.ended(8, known=False)
    door.ended(7, known=False)
    assert told(door) == [("10.0.0.2", Failure.NO_KEYS.value)]


def test_an_address_that_was_anothers_already_is_not_told() -> None:
    """Its connection had ended, and the descriptor was taken, before its acceptance was read."""
    door = Doorway()
    door.accepted(7, B, local=False)
    door.failed(Failure.BROKEN)
    door.ended(7, known=False)
    door.accepted(7, B, local=False)
    door.failed(Failure.NO_KEYS)
    door.ended(7, known=False)
    assert told(door) == [(None, Failure.BROKEN.value), ("10.0.0.2", Failure.NO_KEYS.value)]


def test_two_connections_from_one_machine_are_two() -> None:
    door = Doorway()
    for port in (1, 2):
        door.accepted(7, f"10.0.0.1:{port}", local=False)
        door.failed(Failure.NO_KEYS)
        door.ended(7, known=False)
    assert told(door) == [("10.0.0.1", Failure.NO_KEYS.value)] * 2


def test_an_address_of_ipv6_is_told_whole() -> None:
    door = Doorway()
    door.accepted(7, "fe80::1:99", local=False)
    door.ended(7, known=False)
    assert told(door)[0][0] == "fe80::1"


def test_who_only_looks_whether_somebody_listens_at_the_unix_socket_is_not_told() -> None:
    door = Doorway()
    for failure in (None, Failure.BROKEN):
        door.accepted(7, None, local=True)
        if failure is not None:
            door.failed(failure)
        door.ended(7, known=False)
    assert door.refused == 0
    door.accepted(7, None, local=True)
    door.failed(Failure.PROTOCOL)
    door.ended(7, known=False)
    assert told(door) == [("the unix socket", Failure.PROTOCOL.value)]


def test_who_is_cut_off_is_told_once_and_a_flood_is_bounded() -> None:
    door = Doorway()
    for fd in range(3000):
        door.accepted(fd, f"10.0.0.1:{fd}", local=False)
        door.cut(fd, "said nothing")
        door.failed(Failure.BROKEN)
        door.ended(fd, known=True)
    assert door.refused == 3000
    assert set(told(door)) == {("10.0.0.1", "said nothing")}
    assert told(door) == []
    door.cut(9, "said nothing")
    assert len(door.take()) == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_refusal_has_anothers_address(seed: int) -> None:
    """Descriptors that come back at once; acceptances that are read late, when the next one is there."""
    chance = random.Random(seed)
    door = Doorway()
    events: list[tuple[str, int, int]] = []
    for number in range(200):
        fd = chance.randrange(3)
        events += [("accepted", fd, number), ("failed", fd, number), ("ended", fd, number)]
    at = 0
    while at < len(events):
        seen = min(len(events), at + chance.randrange(1, 12))
        for place in range(at, seen):
            kind, fd, number = events[place]
            if kind == "accepted":
                ends = [n for k, f, n in events[:seen] if f == fd and k == "ended"]
                latest = [n for k, f, n in events[:seen] if f == fd and k == "accepted"][-1]
                door.accepted(fd, None if latest in ends else f"{latest}:1", local=False)
            elif kind == "failed":
                door.failed(Failure.NO_KEYS)
            else:
                door.ended(fd, known=False)
        numbers = [n for k, _, n in events[at:seen] if k == "ended"]
        refused = door.take()
        assert len(refused) == len(numbers)
        for number, refusal in zip(numbers, refused, strict=True):
            assert refusal.address in (None, str(number))
        at = seen
