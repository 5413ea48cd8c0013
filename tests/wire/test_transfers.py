"""Chunked transfers: in order, as granted, together where that is possible, and nobody waits for the slow."""

from __future__ import annotations

import os
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.wire.messages import CHUNK_BYTES
from directview.wire.transfers import GRANT_AHEAD, Outgoing, Pace, due_grant

TIMES = 50 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1
PACE = Pace(chunk=10, ahead=40)


def outgoing(size: int, *receivers: int) -> Outgoing:
    return Outgoing([memoryview(bytes(i % 251 for i in range(size)))], receivers, PACE)


def taken(transfer: Outgoing, *, patient: bool = True) -> list[tuple[tuple[int, ...], int, int]]:
    """(receivers, offset, bytes) of what may be sent now."""
    return [(piece.receivers, piece.offset, piece.nbytes) for piece in transfer.ready(patient)]


def waits(transfer: Outgoing) -> bool:
    """Whether somebody that has room waits for others."""
    return transfer.held_back


def test_nothing_goes_out_before_it_is_granted() -> None:
    transfer = outgoing(25, 0)
    assert taken(transfer) == []
    transfer.grant(0, 5)
    assert taken(transfer) == [((0,), 0, 10)]
    assert taken(transfer) == []


def test_only_the_last_chunk_is_a_smaller_one() -> None:
    transfer = outgoing(25, 0)
    transfer.grant(0, 1000)
    assert taken(transfer) == [((0,), 0, 10), ((0,), 10, 10), ((0,), 20, 5)]
    assert transfer.receivers == ()


def test_chunks_span_buffers() -> None:
    transfer = Outgoing(
        [memoryview(b"abc"), memoryview(b""), memoryview(b"defgh"), memoryview(b"ijklm")], [0], PACE
    )
    transfer.grant(0, 100)
    assert [bytes(piece.frames[0]) for piece in transfer.ready()] == [b"abcdefghij", b"klm"]


def test_a_chunk_inside_one_buffer_is_not_copied() -> None:
    memory = bytearray(30)
    transfer = Outgoing([memoryview(memory)], [0], PACE)
    transfer.grant(0, 30)
    chunks = [piece.frames[0] for piece in transfer.ready()]
    memory[15] = 7
    assert chunks[1][5] == 7


def test_receivers_at_one_place_are_served_together() -> None:
    transfer = outgoing(20, 0, 1)
    transfer.grant(0, 20)
    transfer.grant(1, 20)
    assert taken(transfer) == [((0, 1), 0, 10), ((0, 1), 10, 10)]


def test_who_has_room_waits_for_the_others() -> None:
    """As long as the sender has patience: then each chunk is sent once."""
    transfer = outgoing(200, 0, 1)
    transfer.grant(0, 40)
    assert taken(transfer) == []
    assert waits(transfer)
    transfer.grant(1, 40)
    assert [receivers for receivers, _, _ in taken(transfer)] == [(0, 1)] * 4
    assert not waits(transfer)
    transfer.grant(0, 60)
    assert taken(transfer) == []
    transfer.grant(1, 50)
    assert taken(transfer) == [((0, 1), 40, 10)]
    assert waits(transfer)


def test_without_patience_whoever_has_room_goes_ahead() -> None:
    """And waits there until the others have come, who then go on with it."""
    transfer = outgoing(200, 0, 1, 2)
    transfer.grant(0, 20)
    transfer.grant(1, 10)
    assert taken(transfer) == []
    assert taken(transfer, patient=False) == [((0, 1), 0, 10), ((0,), 10, 10)]
    assert not waits(transfer)
    transfer.grant(0, 60)
    transfer.grant(1, 50)
    assert taken(transfer) == []
    transfer.grant(2, 40)
    assert taken(transfer) == [((2,), 0, 10), ((1, 2), 10, 10), *[((0, 1, 2), at, 10) for at in (20, 30)]]
    assert waits(transfer)
    assert taken(transfer, patient=False) == [((0, 1), 40, 10), ((0,), 50, 10)]


def test_nobody_waits_at_the_end_for_one_that_is_stuck() -> None:
    """One has granted all that there is; another has room, takes nothing, and will not say more."""
    transfer = outgoing(60, 0, 1, 2)
    for receiver in (0, 1, 2):
        transfer.grant(receiver, 40)
    assert len(taken(transfer)) == 4
    transfer.grant(0, 60)
    transfer.grant(1, 50)
    assert taken(transfer) == []
    assert ((0, 1), 40, 10) in taken(transfer, patient=False)
    assert 0 not in transfer.receivers


def test_grants_never_go_back() -> None:
    transfer = outgoing(100, 0)
    transfer.grant(0, 30)
    transfer.grant(0, 10)
    assert len(taken(transfer)) == 3


def test_a_restarted_receiver_begins_again() -> None:
    transfer = outgoing(20, 0, 1)
    transfer.grant(0, 20)
    transfer.grant(1, 20)
    assert len(taken(transfer)) == 2
    transfer.restart(1)
    assert taken(transfer) == []
    transfer.grant(1, 20)
    transfer.grant(0, 20)
    assert taken(transfer) == [((1,), 0, 10), ((1,), 10, 10)]


def test_a_dropped_receiver_holds_up_nobody() -> None:
    transfer = outgoing(200, 0, 1)
    transfer.grant(0, 20)
    assert taken(transfer) == []
    transfer.drop(1)
    assert len(taken(transfer)) == 2
    transfer.grant(1, 100)
    assert transfer.receivers == (0,)


@pytest.mark.parametrize(
    ("received", "granted", "expected"),
    [
        (0, 0, 40),
        (0, 40, None),
        (9, 40, None),
        (10, 40, 50),
        (60, 100, None),
        (100, 100, None),
        (99, 99, 100),
    ],
)
def test_a_grant_is_due_when_a_quarter_of_the_last_is_used(
    received: int, granted: int, expected: int | None
) -> None:
    assert due_grant(received, granted, 100, PACE) == expected


def test_the_real_window_is_sixteen_chunks() -> None:
    assert due_grant(0, 0, 1 << 40) == GRANT_AHEAD == 16 * CHUNK_BYTES


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=5),
    receivers=st.integers(1, 4),
    stuck=st.integers(0, 2),
)
@settings(max_examples=150 * TIMES, deadline=None)
def test_everybody_who_takes_gets_everything_whoever_does_not(
    seed: int, sizes: list[int], receivers: int, stuck: int
) -> None:
    """Receivers grant by the rule, whenever they get round to it; some stop in the middle, for ever."""
    random = Random(seed)
    whole = bytes(random.randrange(256) for _ in range(sum(sizes)))
    cuts = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    buffers = [memoryview(whole[a:b]) for a, b in pairwise(cuts)]
    transfer = Outgoing(buffers, range(receivers), PACE)
    got = dict.fromkeys(range(receivers), b"")
    way: dict[int, list[bytes]] = {receiver: [] for receiver in got}
    granted = dict.fromkeys(got, 0)
    quits = {receiver: random.randrange(len(whole)) for receiver in range(min(stuck, receivers - 1))}
    while True:
        for who, offset, _, _, (chunk,) in transfer.ready(patient=random.random() < 0.7):
            for receiver in who:
                sent = len(got[receiver]) + sum(map(len, way[receiver]))
                assert offset == sent < granted[receiver]
                way[receiver].append(bytes(chunk))
        willing = [r for r in got if len(got[r]) <= quits.get(r, len(whole))]
        busy = [r for r in willing if way[r] or due_grant(len(got[r]), granted[r], len(whole), PACE)]
        if not busy and not transfer.held_back:
            break
        if not busy:
            continue
        receiver = random.choice(busy)
        if way[receiver] and random.random() < 0.8:
            got[receiver] += way[receiver].pop(0)
        upto = due_grant(len(got[receiver]), granted[receiver], len(whole), PACE)
        if upto is not None:
            assert granted[receiver] < upto <= len(got[receiver]) + PACE.ahead
            granted[receiver] = upto
            transfer.grant(receiver, upto)
    assert all(got[receiver] == whole for receiver in got if receiver not in quits)
