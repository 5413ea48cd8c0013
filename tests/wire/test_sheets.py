"""Sheets: what is lent arrives as memory of one's own, and does not change while anybody maps it."""

from __future__ import annotations

import fcntl
import gc
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from directview.wire import sheets
from directview.wire.arena import Arena, Mapped, is_sheet
from directview.wire.sheets import Sheet

SIZE = 1 << 20
TIMES = 20 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1

pytestmark = pytest.mark.skipif(not Arena().reference, reason="no memory files, or no /proc, on this system")


@pytest.fixture
def lender() -> Iterator[Arena]:
    made = Arena(limit=1 << 16, slot_bytes=1 << 16, lent_bytes=4 * SIZE)
    yield made
    made.close()


@pytest.fixture
def reader(lender: Arena) -> Mapped:
    opened = Arena(limit=1 << 16, slot_bytes=1 << 16).open(lender.reference)
    assert opened is not None
    return opened


def lend(lender: Arena, value: int, size: int = SIZE) -> int:
    """A sheet full of this value, written in two steps."""
    place = lender.lend(size)
    assert place is not None
    assert is_sheet(place)
    half = np.full(size // 2, value, np.uint8).data
    assert lender.fill(place, 0, half)
    assert lender.fill(place, size // 2, half)
    return place


def borrow(reader: Mapped, place: int, size: int = SIZE) -> np.ndarray:
    whole = reader.borrow(place, size)
    assert whole is not None
    return whole


def test_each_receiver_has_writable_memory_of_its_own(lender: Arena, reader: Mapped) -> None:
    place = lend(lender, 7)
    one, other = borrow(reader, place), borrow(reader, place)
    one += 1
    assert (one == 8).all()
    assert (other == 7).all()
    assert (borrow(reader, place) == 7).all()
    assert one.ctypes.data % 64 == 0


def test_what_is_written_after_it_was_mapped_arrives(lender: Arena, reader: Mapped) -> None:
    place = lender.lend(SIZE)
    assert place is not None
    whole = borrow(reader, place)
    assert lender.fill(place, 0, np.full(SIZE, 5, np.uint8).data)
    assert (whole == 5).all()


def test_a_sheet_is_used_again_only_when_nobody_maps_it(lender: Arena, reader: Mapped) -> None:
    place = lend(lender, 1)
    kept = borrow(reader, place)
    part = kept[-10:]
    del kept
    lender.free(place)
    second = lend(lender, 2)
    assert lender.sheets.nbytes == 2 * SIZE
    assert (part == 1).all()
    lender.free(second)
    del part
    gc.collect()
    for value in range(5):
        lender.free(lend(lender, value))
    assert lender.sheets.nbytes == 2 * SIZE


def test_a_forked_child_keeps_the_sheet_as_well(lender: Arena, reader: Mapped) -> None:
    kept = borrow(reader, place := lend(lender, 1))
    lender.free(place)
    go_on, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        os.read(go_on, 1)
        os._exit(0 if bool((kept == 1).all()) else 1)
    os.close(go_on)
    del kept
    gc.collect()
    lender.free(lend(lender, 2))
    assert lender.sheets.nbytes == 2 * SIZE, "the child's sheet was written to"
    os.close(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lender.free(lend(lender, 3))
    lender.free(lend(lender, 4))
    assert lender.sheets.nbytes == 2 * SIZE


def test_a_message_that_is_late_finds_nothing(lender: Arena, reader: Mapped) -> None:
    old = lend(lender, 1)
    lender.free(old)
    new = lend(lender, 2)
    assert lender.sheets.nbytes == SIZE, "another sheet was taken"
    assert reader.borrow(old, SIZE) is None
    assert (borrow(reader, new) == 2).all()


def test_what_is_kept_by_receivers_counts_until_they_let_go(lender: Arena, reader: Mapped) -> None:
    kept = []
    for value in range(4):
        place = lend(lender, value)
        kept.append(borrow(reader, place))
        lender.free(place)
        assert lender.sheets.nbytes == (value + 1) * SIZE
    lender.sheets.trim(math.inf)
    assert lender.lend(SIZE) is None
    assert [int(whole.min()) for whole in kept] == [int(whole.max()) for whole in kept] == list(range(4))
    kept.pop()
    lender.free(lend(lender, 9))
    assert lender.sheets.nbytes == 4 * SIZE
    assert (kept[2] == 2).all()


def test_there_are_no_more_sheets_than_there_are_descriptors_for(
    lender: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (16, 16))
    places = [lend(lender, 1), lend(lender, 2)]
    assert lender.lend(SIZE) is None
    lender.free(places[0])
    lender.free(lend(lender, 3, SIZE // 2))


def last(lender: Arena, value: int, size: int = SIZE) -> Sheet:
    """A sheet that is taken to last, full of this value."""
    sheet = lender.sheets.take(size, b"t" * 16, lasting=True)
    assert sheet is not None
    assert sheet.write(0, np.full(size, value, np.uint8).data)
    return sheet


def borrow_lasting(sheet: Sheet) -> np.ndarray | None:
    return sheets.borrow(os.getpid(), sheet.fd, b"t" * 16, sheet.number, SIZE, writable=False)


def test_what_is_taken_to_last_counts_when_it_is_given_back(lender: Arena) -> None:
    lasting = [last(lender, value) for value in range(6)]
    assert lender.sheets.nbytes == 0
    assert lender.sheets.lasting == 6
    places = [lend(lender, 1) for _ in range(4)]
    for sheet in lasting:
        lender.sheets.give_back(sheet)
        assert lender.sheets.nbytes == 4 * SIZE, "there is no room for it"
    for place in places:
        lender.free(place)
    assert lender.sheets.lasting == 0
    assert lender.sheets.nbytes == 4 * SIZE


def test_what_is_taken_to_last_uses_memory_again_and_not_while_anybody_maps_it(lender: Arena) -> None:
    first = last(lender, 1)
    mapped = borrow_lasting(first)
    assert mapped is not None
    assert not mapped.flags.writeable
    assert not sheets.is_retired(mapped)
    first.retire()
    lender.sheets.give_back(first)
    assert sheets.is_retired(mapped)
    assert borrow_lasting(first) is None
    second = last(lender, 2)
    assert second is not first
    assert (mapped == 1).all()
    lender.sheets.give_back(second)
    del mapped
    assert last(lender, 3) in (first, second)
    assert lend(lender, 4) & ((1 << 20) - 1) in (first.fd, second.fd), "there is one pool"


def test_what_was_taken_to_last_gives_way_when_receivers_keep_it(lender: Arena) -> None:
    kept = []
    for value in range(4):
        sheet = last(lender, value)
        kept.append(borrow_lasting(sheet))
        lender.sheets.give_back(sheet)
    assert lender.sheets.nbytes == 4 * SIZE
    for _ in range(4):
        lend(lender, 9)
    assert lender.sheets.nbytes == 4 * SIZE
    assert [int(whole.min()) for whole in kept if whole is not None] == list(range(4))


def test_what_is_not_to_be_used_again_is_let_go_of_at_once(lender: Arena) -> None:
    lender.sheets.give_back(last(lender, 1), again=False)
    assert lender.sheets.nbytes == 0


def test_no_more_is_lent_than_the_limit(lender: Arena) -> None:
    places = [lend(lender, value) for value in range(4)]
    assert lender.lend(SIZE) is None
    assert lender.lend(5 * SIZE) is None
    lender.free(places[0])
    lend(lender, 9)


def test_memory_that_the_system_refuses_is_said(lender: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    place = lender.lend(SIZE)
    assert place is not None

    def refuse(fd: int, data: object, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        assert not lender.fill(place, 0, memoryview(bytes(SIZE)))
        assert lender.lend(SIZE) is None
    assert lender.fill(place, 0, memoryview(bytes(SIZE)))


def test_idle_sheets_are_given_back(lender: Arena, reader: Mapped) -> None:
    place = lend(lender, 1)
    kept = borrow(reader, place)
    lender.trim(0.0)
    assert lender.sheets.nbytes == SIZE
    lender.free(place)
    lender.trim(60.0)
    assert lender.sheets.nbytes == SIZE
    lender.sheets.trim(math.inf)
    assert lender.sheets.nbytes == SIZE, "a receiver has it"
    assert (kept == 1).all()
    lender.trim(0.0)
    assert lender.sheets.nbytes == 0, "all is to end"
    place = lend(lender, 2)
    assert (kept == 1).all()
    lender.free(place)
    lender.sheets.trim(math.inf)
    assert lender.sheets.nbytes == 0


def test_a_sheet_outlives_its_owner() -> None:
    program = """
        import numpy as np, sys
        from directview.wire.arena import Arena
        made = Arena()
        place = made.lend(1 << 20)
        made.fill(place, 0, memoryview(np.full(1 << 20, 3, np.uint8)))
        print(made.reference.hex(), place, flush=True)
        sys.stdin.read()
        """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with owner:
        assert owner.stdout is not None
        reference, place = owner.stdout.readline().split()
        opened = Arena().open(bytes.fromhex(reference))
        assert opened is not None
        whole = borrow(opened, int(place))
        owner.send_signal(signal.SIGKILL)
        owner.wait(30)
        assert (whole == 3).all()
        whole += 1
        assert opened.borrow(int(place), SIZE) is None


def test_only_sealed_memory_files_are_mapped(lender: Arena) -> None:
    token = bytes(16)
    fd = os.memfd_create("other", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.pwrite(fd, sheets._NUMBERED.pack(token, 1), 0)
        os.ftruncate(fd, sheets.HEADER_BYTES + SIZE)
        assert sheets.borrow(os.getpid(), fd, token, 1, SIZE) is None
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sheets._SEALS)
        assert sheets.borrow(os.getpid(), fd, token, 1, SIZE) is not None
        assert sheets.borrow(os.getpid(), fd, token, 2, SIZE) is None
        assert sheets.borrow(os.getpid(), fd, bytes(15) + b"x", 1, SIZE) is None
        assert sheets.borrow(os.getpid(), fd, token, 1, SIZE + 1) is None
        assert sheets.borrow(os.getpid(), 1 << 19, token, 1, SIZE) is None
    finally:
        os.close(fd)


def test_a_sheet_cannot_shrink_under_its_readers(lender: Arena) -> None:
    place = lend(lender, 1)
    with pytest.raises(PermissionError):
        os.ftruncate(place & ((1 << 20) - 1), 0)


def test_descriptors_for_mapping_are_kept_until_they_are_needed(lender: Arena, reader: Mapped) -> None:
    place = lend(lender, 1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserved = reader.reserve()
    assert reserved is not None
    spent = []
    try:
        most = max(map(int, os.listdir("/proc/self/fd"))) + 8
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        with suppress(OSError):
            while True:
                spent.append(os.dup(place & ((1 << 20) - 1)))
        assert reader.reserve() is None
        with pytest.raises(MemoryError):
            reader.borrow(place, SIZE)
        del reserved
        assert (borrow(reader, place) == 1).all()
    finally:
        for fd in spent:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_process_says_when_it_maps_too_many(
    lender: Arena, reader: Mapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (8, 8))
    place = lend(lender, 1)
    kept = []
    said = []
    for _ in range(2):
        kept.append(borrow(reader, place))
        said.append(reader.crowded)
    assert said == [False, True]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert not reader.crowded


class Pool(RuleBasedStateMachine):
    """Lending, mapping, letting go and trimming in any order: no receiver sees another's bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.lender = Arena(limit=1 << 16, slot_bytes=1 << 16, lent_bytes=3 << 20)
        opened = Arena(limit=1 << 16, slot_bytes=1 << 16).open(self.lender.reference)
        assert opened is not None
        self.reader = opened
        self.lent: list[tuple[int, int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.kept: list[tuple[np.ndarray, int]] = []
        self.value = 0

    @rule(size=st.integers(1, 1 << 20))
    def lend(self, size: int) -> None:
        self.value = self.value % 250 + 1
        place = self.lender.lend(size)
        if place is not None:
            assert self.lender.fill(place, 0, np.full(size, self.value, np.uint8).data)
            self.lent.append((place, size, self.value))

    @rule(which=st.integers(0, 9))
    def borrow(self, which: int) -> None:
        if self.lent:
            place, size, value = self.lent[which % len(self.lent)]
            whole = self.reader.borrow(place, size)
            assert whole is not None
            self.kept.append((whole, value))

    @rule(which=st.integers(0, 9))
    def come_late(self, which: int) -> None:
        if self.ended:
            place, size = self.ended[which % len(self.ended)]
            whole = self.reader.borrow(place, size)
            if whole is not None:  # nobody has written there since
                self.kept.append((whole, int(whole[0])))

    @rule(which=st.integers(0, 9))
    def free(self, which: int) -> None:
        if self.lent:
            place, size, _ = self.lent.pop(which % len(self.lent))
            self.lender.free(place)
            self.ended.append((place, size))

    @rule(which=st.integers(0, 9))
    def let_go(self, which: int) -> None:
        if self.kept:
            del self.kept[which % len(self.kept)]

    @rule()
    def trim(self) -> None:
        self.lender.trim(0.0)

    @invariant()
    def nothing_has_changed(self) -> None:
        for whole, value in self.kept:
            assert int(whole.min()) == int(whole.max()) == value
        assert self.lender.sheets.nbytes <= 3 << 20

    def teardown(self) -> None:
        self.kept.clear()
        self.lender.close()


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=25 * TIMES, stateful_step_count=30, deadline=None)
