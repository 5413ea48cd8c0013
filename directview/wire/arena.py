"""Shared memory between processes of one host: the sender copies a piece in, the receiver copies it out.

A piece of a large buffer that goes to a process of the same host need not go through sockets. The sender
copies it into a slot of its *arena*, a memory file, and the message carries the slot's place. The receiver
copies it out into ordinary memory and says how far it is, which frees the slot for a piece that follows.
The same few slots are used again and again, so their pages are never fresh, and mostly in the cache.

Nobody has to trust names or to tidy up. The receiver opens the arena through ``/proc/<pid>/fd/<fd>``: who
can do that is on the same host, with the same process numbers, as the same user. The file has no name, so
nothing is left when its last user ends, however that happens. And a slot says which piece it holds: each
writing gives it another *place*, which is checked before and after it is read. So a message that was long
on its way finds the slot taken by something else, and says so, instead of reading other bytes.

Space is allocated before it is written. Writing to a page that the kernel can't supply ends a process.

What goes to several receivers is copied into a *sheet* instead, which they map (`directview.wire.sheets`).
And where the receiver may read the sender's memory, a large piece is not copied here at all, but only shown
(`directview.wire.windows`). Bits tell their places from those of slots.
"""

from __future__ import annotations

import atexit
import mmap
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgpack
import numpy as np

from directview.wire.idle import IDLE_SECONDS, register
from directview.wire.sheets import Reserved, Sheet, Sheets, borrow, crowded
from directview.wire.windows import (
    ENTRIES,
    ENTRY_BYTES,
    WINDOW_BYTES,
    Windows,
    is_window,
    look,
    may_read,
)

__all__ = [
    "LENT_BYTES",
    "LIMIT_BYTES",
    "SHEET_FROM",
    "SLOT_BYTES",
    "Arena",
    "Mapped",
    "Reader",
    "SharedMemory",
    "arena",
    "is_sheet",
    "is_window",
]

SLOT_BYTES: Final = 4 << 20
"""Bytes of a slot: of a piece that travels by one message. Smaller ones cost more messages, larger ones leave
the caches of the processor."""
LIMIT_BYTES: Final = 64 << 20
"""Most bytes of one process's arena, unless ``DIRECTVIEW_SHARED_MEMORY`` says otherwise (MiB; 0: none)."""
LENT_BYTES: Final = 1 << 30
"""Most bytes of one process's sheets. A limit of the environment is for slots and sheets together."""
SHEET_FROM: Final = 4 << 20
"""Smallest transfer for which a sheet is taken. Mapping a smaller one takes as long as copying it."""
_SHEET: Final = 1 << 62
"""In the places of sheets, beside the number of the writing and the descriptor."""
_FD_BITS: Final = 20
_TOKEN_BYTES: Final = 16
_PLACES_BYTES: Final = 4096
"""Token and the places that the slots hold now. It bounds the number of slots."""
_HEADER_BYTES: Final = _PLACES_BYTES + ENTRIES * ENTRY_BYTES
"""With the table of what is shown."""
_MOST_SLOTS: Final = (_PLACES_BYTES - _TOKEN_BYTES) // 8
_MOST_MAPPED: Final = 64
"""Arenas of others that a process keeps open."""
_MOST_SLOT_BYTES: Final = 1 << 30
_VARIABLE: Final = "DIRECTVIEW_SHARED_MEMORY"

Bytes = np.ndarray[Any, Any]


class SharedMemory(Protocol):
    """Where pieces are put and found. State machines know no more of shared memory than this and `Reader`."""

    slot_bytes: int
    """Most bytes of a piece."""
    sheet_from: int
    """Fewest bytes for which a sheet is worth while."""
    window_bytes: int
    """Most bytes of a piece that is shown."""
    reference: bytes
    """By which others find what is put here. Empty: not at all."""

    def put(self, parts: Sequence[memoryview]) -> int | None:
        """Copy a piece in; its place, or None if there is no room now."""

    def lend(self, size: int) -> int | None:
        """Take a sheet of that many bytes, for several receivers; its place, or None if there is no room."""

    def step(self, place: int) -> int:
        """Most bytes to be copied into a sheet at once."""
        ...

    def fill(self, place: int, start: int, part: memoryview) -> bool:
        """Copy bytes into a sheet, behind those that were; False if there is no memory for them."""
        ...

    def show(self, part: memoryview) -> int | None:
        """Let receivers read bytes that stay as they are; their place, or None if they can't be shown."""

    def move(self, place: int, part: memoryview) -> None:
        """What is shown there is here from now on."""
        ...

    def free(self, place: int) -> None:
        """Nobody needs the piece, or the sheet, any more. Whoever maps the sheet keeps it as it is."""

    def open(self, reference: bytes) -> Reader | None:
        """Another process's arena; None if it can't be read from here."""


class Reader(Protocol):
    """The other end: another process's arena."""

    def read(self, place: int, size: int, take: Callable[[memoryview], None]) -> bool:
        """Have `take` copy a piece out; False if the place holds something else by now, or did meanwhile."""
        ...

    @property
    def sees(self) -> bool:
        """Whether what its owner shows can be read."""
        ...

    def look(self, place: int, into: Bytes) -> bool:
        """Copy what is shown; False if that is something else by now, or was meanwhile."""
        ...

    def reserve(self) -> object | None:
        """What `borrow` will need, to be let go of right before it; None: there is nothing to map with."""

    def borrow(self, place: int, size: int) -> Bytes | None:
        """A sheet as writable memory of one's own, filled or to be filled; None if it isn't there."""

    @property
    def crowded(self) -> bool:
        """So much is borrowed here that it should be copied and let go."""
        ...


def is_sheet(place: int) -> bool:
    """Whether a place is that of a sheet, which is mapped, and not of a slot, which is read."""
    return bool(place & _SHEET) and place > 0


def _limits() -> tuple[int, int]:
    """Most bytes of slots, and of sheets."""
    given = os.environ.get(_VARIABLE, "")
    if not given:
        return LIMIT_BYTES, LENT_BYTES
    if not given.isdigit():
        raise ValueError(
            f"{_VARIABLE}={given!r}: say how many MiB of shared memory a process may use; 0 is none"
        )
    limit = int(given) << 20
    slots = min(limit, LIMIT_BYTES)
    return slots, limit - slots


class Arena:
    """This process's slots, and those of others that it reads. Nothing is allocated before the first piece.

    Any thread may use it.

    Args:
        limit: most bytes of the slots; by default `LIMIT_BYTES` or what the environment says.
        slot_bytes: bytes of a slot.
        lent_bytes: most bytes of the sheets; by default `LENT_BYTES` or what the environment leaves.

    Raises:
        ValueError: the environment's limit is no number.
    """

    def __init__(
        self, limit: int | None = None, slot_bytes: int = SLOT_BYTES, lent_bytes: int | None = None
    ) -> None:
        self.slot_bytes = slot_bytes
        self.sheet_from = SHEET_FROM
        self.window_bytes = WINDOW_BYTES
        self.reference = b""
        self._limit, lent = _limits() if limit is None else (limit, LENT_BYTES)
        self._lent_bytes = lent if lent_bytes is None else lent_bytes
        self.sheets = Sheets(0, b"")
        """Memory files that others map."""
        self._sheets_lent: dict[int, Sheet] = {}
        """Sheets in use, by place."""
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._places: Bytes = np.empty(0, np.int64)
        self._windows: Windows | None = None
        self._idle: list[int] = []
        """Slots that have memory and hold nothing; the last one was used last."""
        self._allocated = 0
        self._lent: dict[int, int] = {}
        """Slots in use, by place."""
        self._used_at = 0.0
        self._opened: dict[bytes, tuple[Mapped | None, float]] = {}
        """Arenas of others, and when they were last asked for."""
        self._lock = threading.Lock()
        slots = min(self._limit // slot_bytes, _MOST_SLOTS)
        if slots > 0:
            self._open(slots)

    def _open(self, slots: int) -> None:
        pid = os.getpid()
        if not hasattr(os, "memfd_create") or not os.path.isdir(f"/proc/{pid}/fd"):
            return
        token = secrets.token_bytes(_TOKEN_BYTES)
        try:
            self._fd = os.memfd_create("directview-arena", os.MFD_CLOEXEC)
            os.ftruncate(self._fd, _HEADER_BYTES + slots * self.slot_bytes)
            os.posix_fallocate(self._fd, 0, _HEADER_BYTES)
            self._map = mmap.mmap(self._fd, 0)
        except OSError:
            self.close()
            return
        self._map[:_TOKEN_BYTES] = token
        self._places = np.frombuffer(self._map, np.int64, slots, _TOKEN_BYTES)
        self._windows = Windows(_table(self._map))
        begin = np.frombuffer(self._map, np.uint8, 1).__array_interface__["data"][0]
        packed: Any = msgpack.packb((pid, self._fd, self.slot_bytes, slots, token, begin))
        self.reference = bytes(packed)
        self.sheets = Sheets(self._lent_bytes, token)

    @property
    def used_bytes(self) -> int:
        """Bytes of shared memory that it occupies."""
        return self._allocated * self.slot_bytes

    def put(self, parts: Sequence[memoryview]) -> int | None:
        """Copy a piece of at most `slot_bytes` into a slot.

        Args:
            parts: which make it up.

        Returns:
            Its place, to be passed to readers and to `free`; None if all slots are in use, or there is no
            memory for another one.
        """
        with self._lock:
            slot = self._idle.pop() if self._idle else self._allocate()
            if slot is None or self._map is None:
                return None
            place = int(self._places[slot]) + len(self._places)
            self._places[slot] = place  # before its bytes change: who still reads the old ones is told
            self._lent[place] = slot
        start = _HEADER_BYTES + slot * self.slot_bytes
        for part in parts:
            np.frombuffer(self._map, np.uint8, len(part), start)[:] = np.frombuffer(part, np.uint8)
            start += len(part)
        return place

    def _allocate(self) -> int | None:
        slot = self._allocated
        if slot == len(self._places):
            return None
        try:
            os.posix_fallocate(self._fd, _HEADER_BYTES + slot * self.slot_bytes, self.slot_bytes)
        except OSError:
            return None
        self._allocated += 1
        if not self._places[slot]:
            self._places[slot] = slot
        return slot

    def lend(self, size: int) -> int | None:
        """Take a sheet.

        Args:
            size: bytes that will be written to it.

        Returns:
            Its place, to be passed to `fill`, to readers and to `free`; None if there is no room for it.
        """
        sheet = self.sheets.take(size)
        if sheet is None:
            return None
        if sheet.fd >= 1 << _FD_BITS:
            self.sheets.give_back(sheet)
            return None
        place = _SHEET | sheet.number << _FD_BITS | sheet.fd
        self._sheets_lent[place] = sheet
        return place

    def step(self, place: int) -> int:
        """Most bytes to be copied into a sheet at once: memory that was used before takes no time."""
        sheet = self._sheets_lent.get(place)
        return self.window_bytes if sheet is not None and sheet.used else self.slot_bytes

    def fill(self, place: int, start: int, part: memoryview) -> bool:
        """Copy bytes into a sheet, behind those that were.

        Args:
            place: of the sheet.
            start: where the bytes go.
            part: they.

        Returns:
            Whether there was memory for them.
        """
        sheet = self._sheets_lent.get(place)
        return sheet is not None and sheet.write(start, part)

    def show(self, part: memoryview) -> int | None:
        """Let receivers read bytes that stay as they are until `free`: see `Windows.show`."""
        return None if self._windows is None else self._windows.show(part)

    def move(self, place: int, part: memoryview) -> None:
        """What is shown there is here from now on, and where it was may change."""
        if self._windows is not None:
            self._windows.move(place, part)

    def free(self, place: int) -> None:
        """What is at this place is needed no longer. Places that hold nothing are no error."""
        if is_sheet(place):
            sheet = self._sheets_lent.pop(place, None)
            if sheet is not None:
                self.sheets.give_back(sheet)
            return
        if is_window(place):
            if self._windows is not None:
                self._windows.hide(place)
            return
        with self._lock:
            slot = self._lent.pop(place, None)
            if slot is not None:
                self._places[slot] += len(self._places)
                self._idle.append(slot)
                self._used_at = time.monotonic()

    def trim(self, seconds: float = IDLE_SECONDS) -> None:
        """Let go of what has not been used for that long: the slots' memory, and arenas of others.

        Those keep the memory of a process that has ended. A transfer that goes on keeps what it reads. Sheets
        that receivers keep are counted on, unless this is all to end (0 seconds).
        """
        since = time.monotonic() - seconds
        self.sheets.trim(since, kept=not seconds)
        with self._lock:
            for reference in [key for key, (_, asked_at) in self._opened.items() if asked_at <= since]:
                del self._opened[reference]
            if self._map is not None and self._allocated and not self._lent and self._used_at <= since:
                self._map.madvise(mmap.MADV_REMOVE, _HEADER_BYTES, self._allocated * self.slot_bytes)
                self._idle.clear()
                self._allocated = 0

    def open(self, reference: bytes) -> Mapped | None:
        """The arena that another process tells of; None if it can't be read from here.

        Never raises for anything that a peer may have sent, and opens nothing but regular files that are open
        in another process of this user.
        """
        if not reference or not self.reference:
            return None
        with self._lock:
            known = self._opened.pop(reference, None)
            if known is None and len(self._opened) >= _MOST_MAPPED:
                del self._opened[next(iter(self._opened))]
            mapped = _mapped(reference) if known is None else known[0]
            self._opened[reference] = mapped, time.monotonic()
            return mapped

    def hide(self) -> None:
        """Show nothing any more: this process's memory is about to go."""
        if self._windows is not None:
            self._windows.close()

    def close(self) -> None:
        """Give everything back. What others have mapped stays until they let go of it."""
        self.hide()
        self.reference = b""
        self._places = np.empty(0, np.int64)
        self._idle.clear()
        self._lent.clear()
        self._sheets_lent.clear()
        self.sheets.close()
        self._allocated = 0
        self._map = None  # unmapped when no view is left of it
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Mapped:
    """Another process's arena, mapped for reading.

    Args:
        pid: the process.
        fd: its descriptor of the memory file.
        slot_bytes: bytes of a slot.
        slots: how many there are.
        token: what stands at its beginning.
        begin: that beginning's address in the process.

    Raises:
        OSError, ValueError: it can't be opened from here, or is not that arena.
    """

    def __init__(self, pid: int, fd: int, slot_bytes: int, slots: int, token: bytes, begin: int) -> None:
        size = _HEADER_BYTES + slots * slot_bytes
        opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode) or status.st_size < size or len(token) != _TOKEN_BYTES:
                raise ValueError("not an arena")
            self._map = mmap.mmap(opened, size, prot=mmap.PROT_READ)
        finally:
            os.close(opened)
        if not secrets.compare_digest(self._map[:_TOKEN_BYTES], token):
            raise ValueError("another arena")
        self._pid = pid
        self._token = token
        self._slot_bytes = slot_bytes
        self._begin = begin
        self._places = np.frombuffer(self._map, np.int64, slots, _TOKEN_BYTES)
        self._table = _table(self._map)
        self.sees = may_read(pid, begin, token)
        """Whether what that process shows can be read from here."""

    def look(self, place: int, into: Bytes) -> bool:
        """Copy what is shown into memory of ours; False if that is something else by now, or was meanwhile.

        Raises:
            MemoryError: it can't be read, although it is shown.
        """
        if not (is_window(place) and look(self._table, place, self._pid, into)):
            return False
        return may_read(self._pid, self._begin, self._token)  # another process may have that number by now

    def reserve(self) -> Reserved | None:
        """Descriptors for mapping a sheet; None if this process has none left."""
        try:
            return Reserved()
        except OSError:
            return None

    def borrow(self, place: int, size: int) -> Bytes | None:
        """Map a sheet: see `directview.wire.sheets.borrow`.

        Raises:
            MemoryError: there is no memory or descriptor for it.
        """
        number, fd = (place & ~_SHEET) >> _FD_BITS, place & ((1 << _FD_BITS) - 1)
        return borrow(self._pid, fd, self._token, number, size)

    @property
    def crowded(self) -> bool:
        """See `directview.wire.sheets.crowded`."""
        return crowded()

    def read(self, place: int, size: int, take: Callable[[memoryview], None]) -> bool:
        """Have `take` copy `size` bytes out; False if the place holds another piece by now, or did meanwhile.

        Raises:
            ValueError: no slot has so many bytes.
        """
        if not 0 < size <= self._slot_bytes:
            raise ValueError(f"a piece of {size} bytes in slots of {self._slot_bytes}")
        slot = place % len(self._places)
        if self._places[slot] != place:
            return False
        start = _HEADER_BYTES + slot * self._slot_bytes
        take(memoryview(self._map)[start : start + size])
        return bool(self._places[slot] == place)


def _table(header: mmap.mmap) -> Bytes:
    """Of what is shown."""
    return np.frombuffer(header, np.int64, ENTRIES * ENTRY_BYTES // 8, _PLACES_BYTES).reshape(ENTRIES, -1)


def _mapped(reference: bytes) -> Mapped | None:
    try:
        fields = msgpack.unpackb(reference, use_list=False)
        match fields:
            case (int(pid), int(fd), int(slot_bytes), int(slots), bytes(token), int(begin)) if (
                pid > 0
                and fd >= 0
                and 0 < slot_bytes <= _MOST_SLOT_BYTES
                and 0 < slots <= _MOST_SLOTS
                and 0 < begin < 1 << 63
            ):
                return Mapped(pid, fd, slot_bytes, slots, token, begin)
    except (OSError, ValueError, TypeError, msgpack.UnpackException):
        pass
    return None


_arenas: dict[int, Arena] = {}
"""By pid: a forked child must have its own."""


def arena() -> Arena:
    """This process's arena.

    Raises:
        ValueError: the environment asks for something that is no size.
    """
    pid = os.getpid()
    made = _arenas.get(pid)
    if made is None:
        made = _arenas.setdefault(pid, Arena())
    return made


@atexit.register
def _hide() -> None:
    """Objects go one by one from now on, in any order."""
    made = _arenas.get(os.getpid())
    if made is not None:
        made.hide()


@register
def _trim(seconds: float) -> None:
    """Let go of what this process's arena has not used for that long."""
    made = _arenas.get(os.getpid())
    if made is not None:
        made.trim(seconds)
