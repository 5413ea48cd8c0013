"""Objects that are put into shared memory once and read there by every process of the host, without a copy.

A segment is a memory file that holds one pickled object: its stream and its buffers, which readers map and
build arrays on. It is sealed when it has been written, so it never changes and never shrinks under a
reader. It has no name. Its maker holds it open; who has mapped it keeps its memory after that, and when the
last of them is gone, so is the memory. Readers find it as they find an arena (`directview.wire.arena`).

Where it can't be found, on another host say, whoever needs it is sent the object once and holds it here.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import stat
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from directview.errors import SerializationError
from directview.wire.idle import register
from directview.wire.objects import loads
from directview.wire.parcels import Packed

__all__ = ["Segment", "drop", "hold", "opened"]

_TOKEN_BYTES: Final = 16
_ALIGNED: Final = 64
_MOST_BYTES: Final = 1 << 48


class Segment:
    """One object in shared memory, for as long as this is referred to.

    Args:
        packed: the object's pickle.

    Raises:
        MemoryError: there is not enough shared memory.
        OSError: this system has no memory files.
    """

    def __init__(self, packed: Packed) -> None:
        self.token = secrets.token_bytes(_TOKEN_BYTES)
        self._pid = os.getpid()
        sizes = [len(packed.data), *[len(buffer) for buffer in packed.buffers]]
        places, self.nbytes = _layout(sizes)
        self._fd = os.memfd_create("directview-shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            try:
                os.posix_fallocate(self._fd, 0, self.nbytes)
            except OSError as error:
                raise MemoryError(f"no shared memory for {self.nbytes} bytes: {error.strerror}") from None
            with mmap.mmap(self._fd, self.nbytes) as whole:
                whole[:_TOKEN_BYTES] = self.token
                for place, part in zip(places, [memoryview(packed.data), *packed.buffers], strict=True):
                    whole[place : place + len(part)] = part
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise
        fields: Any = msgpack.packb((self._pid, self._fd, self.token, sizes))
        self.reference = bytes(fields)

    def __del__(self) -> None:
        # A forked child closes its own copy of the descriptor, and nothing else.
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1


_SEALS: Final = (
    getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4) | getattr(fcntl, "F_SEAL_WRITE", 8)
)


def _layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each part begins, and the size of all."""
    places = []
    end = _TOKEN_BYTES
    for size in sizes:
        start = -(-end // _ALIGNED) * _ALIGNED
        places.append(start)
        end = start + size
    return places, end


class _Found:
    """A segment, or an object that is held here, ready to be built as often as it is asked for."""

    __slots__ = ("asked_at", "data", "views")

    def __init__(self, data: bytes, views: Sequence[memoryview]) -> None:
        self.data = data
        self.views = views
        self.asked_at = time.monotonic()


_lock = threading.Lock()
_mapped: dict[bytes, _Found] = {}
"""Segments of others by token, for as long as they are asked for now and then."""
_held: dict[bytes, _Found] = {}
"""What was sent because it could not be mapped, until it is dropped."""


def opened(token: bytes, reference: bytes) -> Any:
    """The object of a segment, built on its memory: arrays in it are read-only, all else is a copy.

    Raises:
        SerializationError: it can't be found: its maker has ended, or has let go of it.
    """
    with _lock:
        found = _held.get(token) or _mapped.get(token)
    if found is None:
        found = _map(token, reference)
        with _lock:
            found = _mapped.setdefault(token, found)
    found.asked_at = time.monotonic()
    return loads(found.data, found.views)


def _map(token: bytes, reference: bytes) -> _Found:
    try:
        pid, fd, expected, sizes = msgpack.unpackb(reference, use_list=False)
        places, nbytes = _layout(sizes)
        file = os.open(f"/proc/{int(pid)}/fd/{int(fd)}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size != nbytes or nbytes > _MOST_BYTES:
                raise ValueError("not a segment")
            whole = memoryview(mmap.mmap(file, nbytes, prot=mmap.PROT_READ))
        finally:
            os.close(file)
        if not secrets.compare_digest(whole[:_TOKEN_BYTES], token) or expected != token:
            raise ValueError("another segment")
    except (OSError, ValueError, TypeError, msgpack.UnpackException) as error:
        raise SerializationError(
            "an object that was shared (`rc.share`) is gone: its client has ended, or had let go of "
            f"it before this call was begun ({error})"
        ) from None
    data, *views = [whole[place : place + size] for place, size in zip(places, sizes, strict=True)]
    return _Found(bytes(data), views)


def hold(token: bytes, data: bytes, buffers: Sequence[Any]) -> None:
    """Keep an object that can't be mapped from here until it is dropped."""
    with _lock:
        _held[token] = _Found(data, [memoryview(buffer).toreadonly() for buffer in buffers])


def drop(tokens: Sequence[bytes]) -> None:
    """Nobody needs these any more; what was built on their memory keeps it."""
    with _lock:
        for token in tokens:
            _held.pop(token, None)
            _mapped.pop(token, None)


@register
def _trim(seconds: float) -> None:
    """Let go of segments that nobody has asked for for that long. They are mapped again when they are."""
    if not _mapped:
        return
    since = time.monotonic() - seconds
    with _lock:
        for token in [token for token, found in _mapped.items() if found.asked_at <= since]:
            del _mapped[token]
