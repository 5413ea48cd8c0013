"""The arena: bounded, reused, given back, and nobody reads what is no longer there."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Iterator
from typing import cast

import msgpack
import numpy as np
import pytest

from directview.wire.arena import Arena, Mapped, arena

SLOT = 1 << 16

pytestmark = pytest.mark.skipif(not Arena().reference, reason="no memory files, or no /proc, on this system")


@pytest.fixture
def lender() -> Iterator[Arena]:
    made = Arena(limit=4 * SLOT, slot_bytes=SLOT)
    yield made
    made.close()


@pytest.fixture
def reader(lender: Arena) -> Mapped:
    opened = Arena(limit=SLOT, slot_bytes=SLOT).open(lender.reference)
    assert opened is not None
    return opened


def read(reader: Mapped, place: int, size: int) -> bytes | None:
    taken = bytearray()
    return bytes(taken) if reader.read(place, size, taken.extend) else None


def test_what_is_put_is_read(lender: Arena, reader: Mapped) -> None:
    first = lender.put([memoryview(b"one"), memoryview(b"two")])
    second = lender.put([memoryview(bytes(range(256)) * 256)])
    assert first is not None
    assert second is not None
    assert read(reader, first, 6) == b"onetwo"
    assert read(reader, second, SLOT) == bytes(range(256)) * 256


def test_no_more_than_its_limit_is_lent_and_memory_is_reused(lender: Arena) -> None:
    assert lender.used_bytes == 0
    places = [lender.put([memoryview(b"x")]) for _ in range(5)]
    assert None not in places[:4]
    assert places[4] is None
    assert lender.used_bytes == 4 * SLOT
    for place in places[:4]:
        lender.free(place or 0)
    for _ in range(100):
        place = lender.put([memoryview(b"y")])
        assert place is not None
        assert place not in places
        lender.free(place)
    assert lender.used_bytes == 4 * SLOT


def test_a_place_that_was_freed_or_taken_again_is_not_read(lender: Arena, reader: Mapped) -> None:
    place = lender.put([memoryview(b"first")])
    assert place is not None
    lender.free(place)
    assert read(reader, place, 5) is None
    other = lender.put([memoryview(b"other")])
    assert other is not None
    assert read(reader, place, 5) is None
    assert read(reader, other, 5) == b"other"
    lender.free(place)  # once more: nothing happens
    assert read(reader, other, 5) == b"other"


def test_a_place_that_is_taken_while_it_is_read_is_noticed(lender: Arena, reader: Mapped) -> None:
    place = lender.put([memoryview(b"first")])
    assert place is not None

    def meanwhile(view: memoryview) -> None:
        lender.free(place)
        lender.put([memoryview(b"other")])

    assert not reader.read(place, 5, meanwhile)


def test_idle_memory_is_given_back_and_can_be_used_again(lender: Arena, reader: Mapped) -> None:
    place = lender.put([memoryview(b"one")])
    assert place is not None
    lender.trim(0.0)
    assert read(reader, place, 3) == b"one", "what is lent stays"
    lender.free(place)
    lender.trim(60.0)
    assert lender.used_bytes == SLOT
    lender.trim(0.0)
    assert lender.used_bytes == 0
    assert read(reader, place, 3) is None
    again = lender.put([memoryview(b"two")])
    assert again is not None
    assert again != place
    assert read(reader, again, 3) == b"two"


def test_memory_that_the_system_refuses_is_not_written_to(
    lender: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the process with SIGBUS."""
    one = lender.put([memoryview(bytes(SLOT))])

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        assert lender.put([memoryview(bytes(SLOT))]) is None
        assert lender.used_bytes == SLOT
        lender.free(one or 0)
        assert lender.put([memoryview(bytes(SLOT))]) is not None, "what it has can still be used"
    assert lender.put([memoryview(bytes(SLOT))]) is not None


def test_another_processs_arena_outlives_it() -> None:
    """What was lent can be read to the end; nothing is left in any folder, so nothing is to be tidied up."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def lend() -> None:
        made = arena()
        theirs.send((made.reference, made.put([memoryview(b"from there")])))
        theirs.recv()
        os._exit(0)

    child = context.Process(target=lend)
    child.start()
    reference, place = ours.recv()
    opened = Arena(limit=SLOT, slot_bytes=SLOT).open(reference)
    assert opened is not None
    assert read(opened, place, 10) == b"from there"
    ours.send(None)
    child.join(30)
    assert read(opened, place, 10) == b"from there"
    assert Arena(limit=SLOT, slot_bytes=SLOT).open(reference) is None


def test_a_forked_child_has_an_arena_of_its_own() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(arena().reference))
    mine = arena().reference
    child.start()
    assert ours.recv() != mine
    child.join(30)


@pytest.mark.parametrize(
    "reference",
    [
        b"",
        b"\xc1",
        msgpack.packb("text"),
        msgpack.packb((1, 2, 3)),
        msgpack.packb((os.getpid(), 0, SLOT, 4, bytes(16))),
        msgpack.packb((os.getpid(), -1, SLOT, 4, bytes(16))),
        msgpack.packb((1 << 40, 0, SLOT, 4, bytes(16))),
        msgpack.packb((os.getpid(), 0, 1 << 60, 4, bytes(16))),
        msgpack.packb((os.getpid(), 0, SLOT, 1 << 40, bytes(16))),
        msgpack.packb((os.getpid(), 0, SLOT, 4, b"short")),
    ],
    ids=[
        "empty",
        "no msgpack",
        "text",
        "too few",
        "standard input",
        "no descriptor",
        "no process",
        "beyond its end",
        "too many slots",
        "a short token",
    ],
)
def test_what_is_no_arena_is_not_opened(lender: Arena, reference: bytes) -> None:
    assert lender.open(reference) is None


def test_an_arena_with_another_token_is_not_opened(lender: Arena) -> None:
    """Its process may have ended, and another have its number."""
    *where, token, begin = msgpack.unpackb(lender.reference)
    forged = cast(bytes, msgpack.packb((*where, bytes(len(token)), begin)))
    assert Arena(limit=SLOT, slot_bytes=SLOT).open(forged) is None


def test_pieces_larger_than_a_slot_are_refused(lender: Arena, reader: Mapped) -> None:
    place = lender.put([memoryview(b"x")])
    assert place is not None
    for size in (0, -1, SLOT + 1):
        with pytest.raises(ValueError, match=f"{SLOT}"):
            read(reader, place, size)


def test_whoever_shares_nothing_opens_nothing(lender: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRECTVIEW_SHARED_MEMORY", "0")
    none = Arena()
    assert none.reference == b""
    assert none.put([memoryview(b"x")]) is None
    assert none.open(lender.reference) is None


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRECTVIEW_SHARED_MEMORY", "1")
    made = Arena(slot_bytes=1 << 19)
    assert [made.put([memoryview(b"x")]) is None for _ in range(3)] == [False, False, True]
    made.close()
    monkeypatch.setenv("DIRECTVIEW_SHARED_MEMORY", "much")
    with pytest.raises(ValueError, match=r"DIRECTVIEW_SHARED_MEMORY='much'.*MiB"):
        Arena()


def test_pieces_go_to_ordinary_memory(lender: Arena, reader: Mapped) -> None:
    """A reader copies; what it has does not change when the slot does."""
    place = lender.put([memoryview(b"abc")])
    assert place is not None
    into = np.empty(3, np.uint8)
    assert reader.read(place, 3, lambda view: into.__setitem__(slice(None), np.frombuffer(view, np.uint8)))
    lender.free(place)
    lender.put([memoryview(b"xyz")])
    assert into.tobytes() == b"abc"


def test_arenas_of_others_are_kept_for_a_while_only(lender: Arena) -> None:
    """Their memory would outlive their processes."""
    other = Arena(limit=SLOT, slot_bytes=SLOT)
    opened = other.open(lender.reference)
    other.trim(60.0)
    assert other.open(lender.reference) is opened
    other.trim(0.0)
    again = other.open(lender.reference)
    assert again is not None
    assert again is not opened
