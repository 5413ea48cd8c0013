"""Memory files that are lent: what a process writes there once, every receiver of the host maps as its own.

The owner copies a buffer into a *sheet*, and the receivers map that copy-on-write. What arrives is ordinary
writable memory that nobody else sees, and no page of it is copied before somebody writes there.

A sheet must not change while anybody maps it. Its owner knows that without a word being said: whoever maps it
holds a shared lock (`flock`) on it for as long as the mapping lives, in forked children too, and the kernel
lets go of the lock with the last of them, however a process ends. The owner writes again only once it needs
the sheet no longer itself and gets the lock alone. Another number then stands at the sheet's beginning: a
message that was long on its way finds nothing, instead of other bytes.

Used pages are written ten times as fast as fresh ones. So sheets are used again, and let go of when they have
been idle for seconds. There is a bound for all of them, and what receivers keep counts for as long as they
keep it. Only what the user has put there on purpose (`directview.sharing`) does not, while it is needed. No
access ends a process: a sheet can't shrink, and its pages are first written by `pwrite`, which says if there
is no memory where a touch would kill.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import resource
import secrets
import stat
import struct
import threading
import time
import weakref
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import numpy as np

__all__ = ["HEADER_BYTES", "Bytes", "Reserved", "Sheet", "Sheets", "borrow", "crowded", "is_retired"]

HEADER_BYTES: Final = 64
"""Token and number, before what is lent."""
_NUMBERED: Final = struct.Struct("<16sq")
_MOST_SHEETS: Final = 256
"""That are counted, and no more than an eighth of the process's descriptors: each may have two."""
_MOST_BORROWED: Final = 1024
"""Mappings of others' sheets that a process keeps: each has a descriptor."""
_GRAIN: Final = 256 << 10
_WASTE: Final = 1.25
"""A sheet may be this much larger than what is asked for, and by `_GRAIN`."""
_POPULATE_WRITE: Final = 23
"""`madvise`: map the pages at once, in half of the time that touching them takes. Linux 5.14."""
_SEALS: Final = getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4)

Bytes = np.ndarray[Any, Any]


class Sheet:
    """One memory file of this process, written from its beginning to its end.

    Args:
        size: its bytes, the header's aside.

    Raises:
        OSError: this system has no memory files, or no more descriptors.
    """

    __slots__ = ("_allocated", "_map", "_populated", "fd", "lasting", "number", "size", "used_at")

    def __init__(self, size: int) -> None:
        self.fd = -1
        self.size = size
        self.number = 0
        """Of this writing; 0: it is not needed here."""
        self.lasting = False
        """It was taken to last, and is not counted as long as it is needed."""
        self.used_at = 0.0
        self._map: mmap.mmap | None = None
        self._allocated = 0
        self._populated = 0
        self.fd = os.memfd_create("directview-lent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(self.fd, 0o600)
        os.ftruncate(self.fd, HEADER_BYTES + size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)

    @property
    def mapped(self) -> bool:
        """Whether a receiver has it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    @property
    def used(self) -> bool:
        """All of it has been written to, in this process's own mapping."""
        return self._populated >= HEADER_BYTES + self.size - _GRAIN

    def begin(self, token: bytes, number: int) -> bool:
        """Write to it from now on, if nobody maps it.

        Returns:
            Whether that is so, and there is memory for its first page.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            os.pwrite(self.fd, _NUMBERED.pack(token, number), 0)
        except OSError:
            return False
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.number = number
        return True

    def retire(self) -> None:
        """What is in it is needed no longer: receivers that keep it only to look at it again may let go."""
        os.pwrite(self.fd, _NUMBERED.pack(bytes(16), 0), 0)

    def write(self, start: int, part: memoryview) -> bool:
        """Copy bytes in, behind those that were written before.

        Returns:
            Whether there is memory for that.
        """
        start += HEADER_BYTES
        end = start + len(part)
        if end <= self._allocated and (whole := self._whole()) is not None:
            if end > self._populated:
                self._populate(whole, start, end)
            np.frombuffer(whole, np.uint8, len(part), start)[:] = np.frombuffer(part, np.uint8)
            return True
        try:
            while part:
                written = os.pwrite(self.fd, part, start)
                start += written
                part = part[written:]
        except OSError:
            return False
        self._allocated = max(self._allocated, end)
        return True

    def _whole(self) -> mmap.mmap | None:
        """It, mapped here, which it is once it is used again; None if there is no descriptor for that."""
        if self._map is None:
            try:
                self._map = mmap.mmap(self.fd, HEADER_BYTES + self.size)
            except OSError:
                return None
        return self._map

    def _populate(self, whole: mmap.mmap, start: int, end: int) -> None:
        start -= start % mmap.PAGESIZE
        try:
            whole.madvise(_POPULATE_WRITE, start, end - start)
        except OSError:
            pass  # An older kernel does it page by page.
        self._populated = end

    def __del__(self) -> None:
        # A forked child closes its own copy of the descriptor, which takes nobody's lock away.
        if self.fd >= 0:
            os.close(self.fd)


class Sheets:
    """The sheets of this process. Any thread may use it.

    Args:
        limit: most bytes of all of them.
        token: by which others know that a file is one of them.
    """

    def __init__(self, limit: int, token: bytes) -> None:
        self._limit = limit
        self._token = token
        self._numbers = count(1)
        self._sheets: list[Sheet] = []
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory that count: all but what was taken to last and is still needed."""
        return sum([sheet.size for sheet in self._counted()])

    @property
    def lasting(self) -> int:
        """How many there are that were taken to last, and are needed."""
        return sum([1 for sheet in self._sheets if sheet.lasting and sheet.number])

    def _counted(self) -> list[Sheet]:
        return [sheet for sheet in self._sheets if not (sheet.lasting and sheet.number)]

    def take(self, size: int, token: bytes = b"", lasting: bool = False) -> Sheet | None:
        """A sheet that nobody maps, to be given back.

        Args:
            size: its bytes, at least.
            token: by which others know this one; by default that of all.
            lasting: it is for as long as the user likes, and the limit is not for it.

        Returns:
            The sheet; None if there is no room for it.
        """
        token = token or self._token
        with self._lock:
            sheet = self._again(size, token) or self._new(size, token, lasting)
            if sheet is not None:
                sheet.lasting = lasting
            return sheet

    def _again(self, size: int, token: bytes) -> Sheet | None:
        most = size * _WASTE + _GRAIN
        fitting = [sheet for sheet in self._sheets if not sheet.number and size <= sheet.size <= most]
        for sheet in sorted(fitting, key=lambda sheet: sheet.size):
            if sheet.begin(token, next(self._numbers)):
                return sheet
        return None

    def _new(self, size: int, token: bytes, lasting: bool) -> Sheet | None:
        size = -(-size // _GRAIN) * _GRAIN
        if not (lasting or self._forget(self._limit - size, _most_sheets() - 1)):
            return None
        try:
            sheet = Sheet(size)
        except (OSError, ValueError):
            return None
        if not sheet.begin(token, next(self._numbers)):
            return None
        self._sheets.append(sheet)
        return sheet

    def _forget(self, nbytes: int, most: int) -> bool:
        """Let go of what is idle, the oldest first, until so much is left; False if it is more.

        Then of what was shared, and is needed by receivers alone: it lives on with them.
        """
        left = self._counted()
        excess = sum([sheet.size for sheet in left]) - nbytes
        beyond = len(left) - most
        unneeded = sorted([sheet for sheet in left if not sheet.number], key=lambda sheet: sheet.used_at)
        for sheet in sorted(unneeded, key=lambda sheet: sheet.lasting and sheet.mapped):
            if excess <= 0 and beyond <= 0:
                break
            if sheet.lasting or not sheet.mapped:
                self._sheets.remove(sheet)
                excess -= sheet.size
                beyond -= 1
        return excess <= 0 and beyond <= 0

    def give_back(self, sheet: Sheet, again: bool = True) -> None:
        """It is needed here no longer. Never waits: it may be called by the garbage collector.

        Args:
            sheet: from `take`.
            again: it may be used again. Otherwise it is let go of.
        """
        sheet.used_at = time.monotonic()
        sheet.number = 0
        if sheet.lasting and self._lock.acquire(blocking=False):
            try:
                if again:
                    self._forget(self._limit, _most_sheets())
                elif sheet in self._sheets:
                    self._sheets.remove(sheet)
            finally:
                self._lock.release()

    def trim(self, since: float, *, kept: bool = False) -> None:
        """Let go of what nobody here has needed since then.

        Args:
            since: that time.
            kept: also of what receivers keep. It lives on with them, and counts no longer.
        """
        with self._lock:
            self._sheets = [
                sheet
                for sheet in self._sheets
                if sheet.number or sheet.used_at > since or (sheet.mapped and not kept)
            ]

    def close(self) -> None:
        """Let go of all. What others map keeps its memory."""
        with self._lock:
            self._limit = 0
            self._sheets.clear()


def _descriptors() -> float:
    """How many this process may have."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if files == resource.RLIM_INFINITY else files


def _most_sheets() -> int:
    return int(min(_MOST_SHEETS, _descriptors() // 8))


_borrowed: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
"""Sheets of others that this process maps."""
_borrowing: Final = threading.Lock()


def crowded() -> bool:
    """This process maps as many sheets as it should, for the sake of its descriptors."""
    with _borrowing:
        return len(_borrowed) >= min(_MOST_BORROWED, _descriptors() // 4)


class Reserved:
    """Descriptors that are needed soon, to map a sheet: two, which go back when nobody refers to this.

    Raises:
        OSError: there are none.
    """

    __slots__ = ("_both",)

    def __init__(self) -> None:
        self._both: Sequence[int] = ()
        self._both = os.pipe()

    def __del__(self) -> None:
        for fd in self._both:
            os.close(fd)


def borrow(pid: int, fd: int, token: bytes, number: int, size: int, *, writable: bool = True) -> Bytes | None:
    """Map what another process has lent.

    Args:
        pid: the process.
        fd: its descriptor.
        token: of its sheets.
        number: of the writing.
        size: bytes.
        writable: it is to be this process's own memory. Otherwise it can't be written to.

    Returns:
        The memory; None if that is there no longer, or can't be what it should be:
        nothing is mapped but memory files of this user's processes that can't shrink.

    Raises:
        MemoryError: there is no memory or descriptor for it.
    """
    path = f"/proc/{pid}/fd/{fd}"
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    except OSError as error:
        raise MemoryError(f"shared memory can't be opened: {error.strerror}") from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size < HEADER_BYTES + size:
            return None
        try:
            if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return None  # It is no memory file, or is being written to.
        header = os.pread(file, _NUMBERED.size, 0)
        if not secrets.compare_digest(header, _NUMBERED.pack(token, number)):
            return None
        try:
            flags, access = (
                (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
                if writable
                else (mmap.MAP_SHARED, mmap.PROT_READ)
            )
            mapped = mmap.mmap(file, HEADER_BYTES + size, flags, access)
        except OSError as error:
            raise MemoryError(f"shared memory can't be mapped: {error.strerror}") from None
    finally:
        os.close(file)  # The mapping refers to it too, and the lock goes with both.
    with _borrowing:
        _borrowed.add(mapped)
    return np.frombuffer(mapped, np.uint8, size, HEADER_BYTES)


def is_retired(lent: Bytes) -> bool:
    """Whether the owner of what was borrowed, and can't be written to, needs it no longer."""
    return not _NUMBERED.unpack_from(memoryview(lent.base))[1]  # type: ignore[arg-type] # it is the mapping
