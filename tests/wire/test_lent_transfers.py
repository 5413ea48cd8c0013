"""Transfers that go on a sheet: one copy for all receivers, and the right bytes for each, whatever fails."""

from __future__ import annotations

import os
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.testing.simulated_memory import SimulatedMemory
from directview.wire.parcels import Packed, Parcel, Unpacked, pack, unpack
from directview.wire.transfers import Outgoing, Pace, Piece, due_grant, spread

TIMES = 50 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1
PACE = Pace(chunk=10, ahead=60)


class Sure(Random):
    """There is always room, and nobody is crowded."""

    def random(self) -> float:
        return 0.99


def sent(*sizes: int, memory: SimulatedMemory) -> tuple[Parcel, list[bytes]]:
    whole = np.arange(sum(sizes), dtype=np.uint8).tobytes()
    cuts = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    parts = [whole[a:b] for a, b in pairwise(cuts)]
    packed = Packed(b"", [memoryview(part) for part in parts])
    return pack((packed,), chunk_bytes=8, arena=memory.reference), parts


def arriving(parcel: Parcel, memory: SimulatedMemory | None) -> Unpacked:
    return unpack(parcel.body, (), nobjects=1, memory=memory)


def take(piece: Piece, who: Unpacked, granted: int) -> bool:
    return who.receive_chunk(piece.message(b"c", 1, piece.receivers, 0), piece.frames, granted)


def arrived(parcel: Unpacked) -> list[bytes]:
    return [bytes(buffer) for buffer in parcel.objects()[0].buffers]


@pytest.fixture
def memory() -> SimulatedMemory:
    return SimulatedMemory({}, slot_bytes=20, slots=2, random=Sure(1))


def test_buffers_lie_aligned_on_a_sheet() -> None:
    starts, size = spread([1, 64, 65, 10])
    assert starts == [0, 64, 128, 256]
    assert size == 320
    assert spread([]) == ([], 0)


def test_several_receivers_get_one_copy(memory: SimulatedMemory) -> None:
    parcel, parts = sent(30, 70, 50, memory=memory)
    transfer = Outgoing(parcel.chunks, (0, 1, 2), PACE, memory)
    peers = [arriving(parcel, memory) for _ in range(3)]
    while any(peer.missing for peer in peers):
        for id, peer in enumerate(peers):
            transfer.grant(id, min(150, peer.received + 60), peer.received, shared=True)
        pieces = list(transfer.ready())
        assert pieces
        for piece in pieces:
            assert piece.receivers == (0, 1, 2)
            assert piece.nbytes <= memory.slot_bytes
            assert not piece.frames
            for peer in peers:
                assert take(piece, peer, 150)
    assert [arrived(peer) for peer in peers] == [parts] * 3
    assert len(memory.sheets) == 1
    assert not memory.lent
    transfer.drop(0)
    transfer.drop(1)
    assert memory.sheets, "one has not said that it has it"
    transfer.drop(2)
    assert not memory.sheets


def test_one_receiver_and_small_transfers_take_no_sheet(memory: SimulatedMemory) -> None:
    for receivers, sizes in (((0,), (100,)), ((0, 1), (30,)), ((0, 1), (9,) * 17)):
        parcel, _ = sent(*sizes, memory=memory)
        transfer = Outgoing(parcel.chunks, receivers, PACE, memory)
        for id in receivers:
            transfer.grant(id, 60, shared=True)
        assert list(transfer.ready())
        assert not memory.sheets
        assert memory.lent
        transfer.close()


def test_who_comes_late_finds_what_is_on_the_sheet(memory: SimulatedMemory) -> None:
    parcel, parts = sent(120, memory=memory)
    transfer = Outgoing(parcel.chunks, (0, 1, 2), PACE, memory)
    peers = [arriving(parcel, memory) for _ in range(3)]
    for upto in (60, 120):
        for id in (0, 1):
            transfer.grant(id, upto, shared=True)
        for piece in transfer.ready(patient=False):
            assert piece.receivers == (0, 1)
            for id in piece.receivers:
                assert take(piece, peers[id], upto)
    transfer.drop(0)
    transfer.grant(2, 120, shared=True)
    (piece,) = transfer.ready(patient=False)
    assert (piece.receivers, piece.offset, piece.nbytes) == ((2,), 0, 120)
    transfer.drop(1)
    assert take(piece, peers[2], 120)
    assert [arrived(peer) for peer in peers] == [parts] * 3
    transfer.close()
    assert not memory.sheets


def test_a_sheet_that_can_hold_no_more_is_left(
    memory: SimulatedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come is kept, as memory of one's own, and the rest goes through slots and sockets."""
    parcel, parts = sent(25, 75, 20, memory=memory)
    transfer = Outgoing(parcel.chunks, (0, 1), PACE, memory)
    peers = [arriving(parcel, memory) for _ in range(2)]
    fill = memory.fill
    monkeypatch.setattr(memory, "fill", lambda place, start, part: start < 100 and fill(place, start, part))
    ways = set()
    while any(peer.missing for peer in peers):
        for id, peer in enumerate(peers):
            transfer.grant(id, min(120, peer.received + 60), peer.received, shared=True)
        for piece in transfer.ready(patient=False):
            ways.add("frame" if piece.place < 0 else "sheet" if piece.place in memory.sheets else "slot")
            for id in piece.receivers:
                assert take(piece, peers[id], 120)
    assert ways >= {"sheet", "slot"}
    (place,) = memory.sheets
    memory.sheets[place][:] = 0
    assert [arrived(peer) for peer in peers] == [parts] * 2
    transfer.close()
    assert not memory.sheets
    assert not memory.lent


def test_who_maps_too_many_has_a_copy(memory: SimulatedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    parcel, parts = sent(50, 50, memory=memory)
    monkeypatch.setattr(SimulatedMemory, "crowded", True)
    transfer = Outgoing(parcel.chunks, (0, 1), Pace(10, 100), memory)
    peer = arriving(parcel, memory)
    for id in (0, 1):
        transfer.grant(id, 100, shared=True)
    for piece in transfer.ready():
        assert take(piece, peer, 100)
    (place,) = memory.sheets
    memory.sheets[place][:] = 0
    assert arrived(peer) == parts


def test_who_cannot_map_one_is_not_counted_among_those_who_share(
    memory: SimulatedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel, parts = sent(100, memory=memory)
    able = arriving(parcel, memory)
    monkeypatch.setattr(memory, "reserve", lambda: None)
    peers = [able, arriving(parcel, memory)]
    assert [peer.source is not None for peer in peers] == [True, False]
    transfer = Outgoing(parcel.chunks, (0, 1), PACE, memory)
    while any(peer.missing for peer in peers):
        for id, peer in enumerate(peers):
            transfer.grant(id, min(100, peer.received + 60), peer.received, peer.source is not None)
        for piece in transfer.ready(patient=False):
            for id in piece.receivers:
                assert take(piece, peers[id], 100)
    assert [arrived(peer) for peer in peers] == [parts] * 2


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(9, 90), min_size=1, max_size=5),
    far=st.sets(st.integers(0, 3)),
)
@settings(max_examples=200 * TIMES, deadline=None)
def test_everybody_gets_the_right_bytes_whatever_fails(seed: int, sizes: list[int], far: set[int]) -> None:
    """Receivers grant and take when they get round to it, end, or begin again.

    Memory runs out. What is sent is moved, and where it was is written to.
    """
    random = Random(seed)
    memory = SimulatedMemory({}, slot_bytes=20, slots=2, random=random)
    parcel, parts = sent(*sizes, memory=memory)
    size = sum(sizes)
    lies = [bytearray(part) for part in parts]
    parcel = parcel._replace(chunks=[memoryview(part) for part in lies])
    transfer = Outgoing(parcel.chunks, range(4), PACE, memory)
    near = {id: None if id in far else memory for id in range(4)}
    peers = {id: arriving(parcel, near[id]) for id in range(4)}
    granted = dict.fromkeys(peers, 0)
    way: dict[int, list[Piece]] = {id: [] for id in peers}
    restarts = 3
    for _ in range(10_000):
        unfinished = [id for id, peer in peers.items() if peer.missing]
        if not unfinished:
            break
        id = random.choice(unfinished)
        peer = peers[id]
        if way[id] and random.random() < 0.7:
            assert take(way[id].pop(0), peer, granted[id]), "it was sent, and is not there"
            if not peer.missing:
                transfer.drop(id)
        elif restarts and random.random() < 0.05:
            restarts -= 1
            way[id].clear()
            transfer.restart(id)
            peers[id], granted[id] = arriving(parcel, near[id]), 0
        else:
            upto = due_grant(peer.received, granted[id], size, PACE)
            if upto is not None:
                granted[id] = upto
                transfer.grant(id, upto, peer.received, peer.shared)
        if random.random() < 0.05:
            before, lies = lies, [bytearray(part) for part in lies]
            transfer.move([memoryview(part) for part in lies])
            for part in before:
                part[:] = bytes(len(part))
        for piece in transfer.ready(patient=random.random() < 0.5):
            gone = piece._replace(frames=tuple([memoryview(bytes(frame)) for frame in piece.frames]))
            for receiver in piece.receivers:
                way[receiver].append(gone)
    assert [arrived(peer) for peer in peers.values()] == [parts] * 4
    transfer.close()
    assert not memory.sheets
    assert not memory.lent
    assert not memory.shown
