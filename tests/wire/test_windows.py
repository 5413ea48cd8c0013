"""Memory that is shown to other processes: read right, or not at all."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from directview.wire.arena import Arena, Mapped
from directview.wire.parcels import Packed, pack, unpack
from directview.wire.transfers import SEEN, SHARED, Outgoing
from directview.wire.windows import ENTRIES, Windows, is_window, look

SLOT = 1 << 16
HERE = Arena(limit=4 * SLOT, slot_bytes=SLOT)


def reader(arena: Arena) -> Mapped | None:
    return Arena(limit=SLOT, slot_bytes=SLOT).open(arena.reference)


_OPENED = reader(HERE)
pytestmark = pytest.mark.skipif(
    _OPENED is None or not _OPENED.sees, reason="processes can't read each other's memory here"
)


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(limit=4 * SLOT, slot_bytes=SLOT)
    yield made
    made.close()


def numbers(size: int, start: int = 0) -> np.ndarray[Any, Any]:
    return (np.arange(size) + start).astype(np.uint8)


def seen(opened: Mapped, place: int, size: int) -> np.ndarray[Any, Any] | None:
    into = np.zeros(size, np.uint8)
    return into if opened.look(place, into) else None


def opened(arena: Arena) -> Mapped:
    found = reader(arena)
    assert found is not None
    return found


def test_what_is_shown_is_read_until_it_is_taken_back(arena: Arena) -> None:
    a, b = numbers(100_000), numbers(50, 7)
    places = [arena.show(part.data) for part in (a, b)]
    assert None not in places
    first, second = cast(list[int], places)
    assert is_window(first)
    assert is_window(second)
    look_in = opened(arena)
    assert np.array_equal(cast(Any, seen(look_in, first, 100_000)), a)
    assert np.array_equal(cast(Any, seen(look_in, second, 50)), b)
    arena.free(first)
    assert seen(look_in, first, 100_000) is None
    assert np.array_equal(cast(Any, seen(look_in, second, 50)), b)
    arena.free(second)
    arena.free(second)  # no error


def test_another_process_reads_it(arena: Arena) -> None:
    whole = numbers(3_000_000)
    place = arena.show(whole.data)
    program = """
        import sys, numpy as np
        from directview.wire.arena import Arena
        reference, place, size = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
        opened = Arena(limit=1 << 16, slot_bytes=1 << 16).open(reference)
        into = np.zeros(size, np.uint8)
        assert opened.sees and opened.look(place, into)
        print(int(into.astype(np.int64).sum()))
        """
    argv = [
        sys.executable,
        "-c",
        textwrap.dedent(program),
        arena.reference.hex(),
        str(place),
        str(len(whole)),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{int(whole.astype(np.int64).sum())}\n", done.stderr


def test_a_place_is_another_one_each_time(arena: Arena) -> None:
    whole = numbers(10)
    places = set()
    for _ in range(3 * ENTRIES):
        place = arena.show(whole.data)
        assert place is not None
        places.add(place)
        arena.free(place)
    assert len(places) == 3 * ENTRIES


def test_no_more_is_shown_than_there_are_entries(arena: Arena) -> None:
    whole = numbers(10)
    places = [arena.show(whole.data) for _ in range(ENTRIES)]
    assert None not in places
    assert arena.show(whole.data) is None
    arena.free(cast(int, places[5]))
    assert arena.show(whole.data) is not None


def test_what_has_moved_is_read_where_it_is_now(arena: Arena) -> None:
    was, now = numbers(1000), numbers(1000)
    place = arena.show(was.data)
    assert place is not None
    arena.move(place, now.data)
    was[:] = 0
    assert np.array_equal(cast(Any, seen(opened(arena), place, 1000)), now)
    arena.move(-1, now.data)  # no error


def test_nobody_sees_a_mixture_of_before_and_after(arena: Arena) -> None:
    """One thread moves the bytes again and again and writes over where they were; others read them."""
    size, stop = 200_000, threading.Event()
    right = numbers(size)
    place = arena.show(right.data)
    assert place is not None
    look_in = opened(arena)
    wrong: list[int] = []
    read = [0, 0]

    def reads(number: int) -> None:
        while not stop.is_set():
            found = seen(look_in, place, size)
            read[number] += 1
            if found is None or not np.array_equal(found, right):
                wrong.append(read[number])

    threads = [threading.Thread(target=reads, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    lies = [right.copy(), right.copy()]
    try:
        for turn in range(2000):
            lies[turn % 2][:] = right
            arena.move(place, lies[turn % 2].data)
            lies[1 - turn % 2][:] = 0xAA
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not wrong
    assert min(read) > 0


def test_memory_that_others_cannot_read_is_not_shown(arena: Arena) -> None:
    area = mmap.mmap(-1, 4 * mmap.PAGESIZE)
    whole = np.frombuffer(area, np.uint8)
    address = whole.__array_interface__["data"][0]
    assert arena.show(whole.data) is not None
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    last = address + 3 * mmap.PAGESIZE
    assert mprotect(last, mmap.PAGESIZE, 0) == 0
    try:
        assert arena.show(whole.data) is None
    finally:
        assert mprotect(last, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) == 0


def test_what_is_shown_and_cannot_be_read_is_an_error(arena: Arena) -> None:
    table = np.zeros((ENTRIES, 4), np.int64)
    windows = Windows(table)
    place = windows.show(numbers(100).data)
    assert place is not None
    table[place % ENTRIES, 1] = 8  # where nothing is
    with pytest.raises(MemoryError, match=f"process {os.getpid()} can't be read from here"):
        look(table, place, os.getpid(), np.zeros(100, np.uint8))


def test_nothing_is_seen_of_a_process_that_has_ended() -> None:
    program = """
        import numpy as np, sys
        from directview.wire.arena import Arena
        arena = Arena(limit=1 << 16, slot_bytes=1 << 16)
        whole = np.ones(1000, np.uint8)
        print(arena.reference.hex(), arena.show(whole.data), flush=True)
        sys.stdin.read()
        """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        reference, place = child.stdout.readline().split()
        found = Arena(limit=SLOT, slot_bytes=SLOT).open(bytes.fromhex(reference))
        assert found is not None
        assert seen(found, int(place), 1000) is not None
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        assert seen(found, int(place), 1000) is None


def test_it_can_be_turned_off(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRECTVIEW_ATTACH", "0")
    assert not opened(arena).sees


def test_an_address_where_the_token_is_not_shows_nothing(arena: Arena) -> None:
    *fields, begin = msgpack.unpackb(arena.reference)
    forged = cast(bytes, msgpack.packb((*fields, begin + mmap.PAGESIZE)))
    found = Arena(limit=SLOT, slot_bytes=SLOT).open(forged)
    assert found is not None
    assert not found.sees


def test_places_of_nothing_show_nothing(arena: Arena) -> None:
    look_in = opened(arena)
    for place in (0, 1, ENTRIES, 1 << 61, 1 << 61 | 5, 1 << 62, -1):
        assert seen(look_in, place, 10) is None


@pytest.mark.parametrize("reads", [SHARED, SEEN])
def test_a_transfer_is_read_where_it_lies_if_that_is_possible(arena: Arena, reads: int) -> None:
    parts = [numbers(5 * SLOT, 1).tobytes(), numbers(SLOT // 8).tobytes(), numbers(2 * SLOT, 3).tobytes()]
    packed = Packed(b"", [memoryview(part) for part in parts])
    parcel = pack((packed,), chunk_bytes=1024, arena=arena.reference)
    transfer = Outgoing(parcel.chunks, (0,), arena=arena)
    arriving = unpack(parcel.body, (), nobjects=1, memory=Arena(limit=SLOT, slot_bytes=SLOT))
    assert arriving.shared == SEEN
    transfer.grant(0, arriving.size, 0, reads)
    pieces = []
    while arriving.missing:
        for piece in transfer.ready(patient=False):
            pieces.append(piece)
            assert arriving.receive_chunk(piece.message(b"", 1, (0,), 0), piece.frames, arriving.size)
            transfer.grant(0, arriving.size, arriving.received, reads)
    (only,) = arriving.objects()
    assert [bytes(buffer) for buffer in only.buffers] == parts
    assert any(is_window(piece.place) for piece in pieces) == (reads == SEEN)
    transfer.close()
    assert not arena._lent
    assert arena._windows is not None
    assert not arena._windows._shown


def test_nothing_is_shown_when_objects_begin_to_go() -> None:
    """At its end an interpreter lets go of arrays one by one, and their memory may be used again."""
    program = """
        import atexit, sys, numpy as np
        from directview.wire import arena
        made = arena.arena()
        whole = np.ones(1000, np.uint8)
        print(made.reference.hex(), made.show(whole.data), flush=True)
        sys.stdin.readline()

        class Late:
            def __del__(self, print=print, input=sys.stdin.readline):
                print("late", flush=True)
                input()

        late = Late()
        """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdin is not None
        reference, place = child.stdout.readline().split()
        found = Arena(limit=SLOT, slot_bytes=SLOT).open(bytes.fromhex(reference))
        assert found is not None
        assert seen(found, int(place), 1000) is not None
        child.stdin.write("go on\n")
        child.stdin.flush()
        assert child.stdout.readline() == "late\n"
        assert seen(found, int(place), 1000) is None
        child.stdin.write("end\n")


@pytest.mark.parametrize("size", [(4 << 20) - 1, 4 << 20, (9 << 20) + 1])
def test_large_pieces_are_whole(arena: Arena, size: int) -> None:
    whole = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    place = arena.show(whole.data)
    assert place is not None
    assert np.array_equal(cast(Any, seen(opened(arena), place, size)), whole)
