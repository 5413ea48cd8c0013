"""Objects that are put into shared memory once and read there by every process of the host, without a copy.

A segment is a sheet (`directview.wire.sheets`) that holds one pickled object: its stream and its buffers,
which readers map and build arrays on. They can't write to it, and its maker does not as long as anybody maps
it. It is used again when its maker needs it no longer and the last reader has let go. Readers keep it mapped
for a while, since it may be asked for again; what stands at its beginning tells them when it will not be.
Readers find it as they find an arena (`directview.wire.arena`).

Where it can't be found, on another host say, whoever needs it is sent the object once and holds it here.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from directview.errors import SerializationError
from directview.wire.idle import register
from directview.wire.objects import loads
from directview.wire.parcels import Packed
from directview.wire.sheets import HEADER_BYTES, Bytes, Sheet, Sheets, borrow, is_retired
from directview.wire.transfers import spread

__all__ = ["Segment", "drop", "hold", "opened"]

_TOKEN_BYTES: Final = 16


class Segment:
    """One object in shared memory, for as long as this is referred to.

    Args:
        packed: the object's pickle.
        sheets: which it is put on one of.

    Raises:
        MemoryError: there is not enough shared memory, or this system has no memory files.
    """

    def __init__(self, packed: Packed, sheets: Sheets) -> None:
        self.token = secrets.token_bytes(_TOKEN_BYTES)
        self.reusable = True
        """Whether its memory is kept for another one."""
        self._pid = os.getpid()
        self._sheets = sheets
        self._sheet: Sheet | None = None
        parts = [memoryview(packed.data), *packed.buffers]
        sizes = [len(part) for part in parts]
        starts, size = spread(sizes)
        self.nbytes = HEADER_BYTES + size
        sheet = self._sheet = sheets.take(size, self.token, lasting=True)
        if sheet is None or not all([sheet.write(*each) for each in zip(starts, parts, strict=True)]):
            raise MemoryError(f"no shared memory for {self.nbytes} bytes")
        fields: Any = msgpack.packb((self._pid, sheet.fd, sheet.number, sizes))
        self.reference = bytes(fields)

    def __del__(self) -> None:
        # A forked child lets go of its own copy of the descriptor, and does nothing else.
        sheet = getattr(self, "_sheet", None)
        if sheet is not None and self._pid == os.getpid():
            sheet.retire()
            self._sheets.give_back(sheet, self.reusable)


class _Found:
    """A segment, or an object that is held here, ready to be built as often as it is asked for."""

    __slots__ = ("asked_at", "data", "views", "whole")

    def __init__(self, data: bytes, views: Sequence[memoryview], whole: Bytes | None = None) -> None:
        self.data = data
        self.views = views
        self.whole = whole
        """As it was mapped."""
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
            _let_go(-math.inf)
            found = _mapped.setdefault(token, found)
    found.asked_at = time.monotonic()
    return loads(found.data, found.views)


def _map(token: bytes, reference: bytes) -> _Found:
    try:
        pid, fd, number, sizes = msgpack.unpackb(reference, use_list=False)
        starts, size = spread(sizes)
        whole = borrow(int(pid), int(fd), token, int(number), size, writable=False)
        if whole is None:
            raise ValueError("another segment")
    except (MemoryError, ValueError, TypeError, msgpack.UnpackException) as error:
        raise SerializationError(
            "an object that was shared (`rc.share`) is gone: its client has ended, or had let go of "
            f"it before this call was begun ({error})"
        ) from None
    data, *views = [whole[start : start + size].data for start, size in zip(starts, sizes, strict=True)]
    return _Found(bytes(data), views, whole)


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
    if _mapped:
        with _lock:
            _let_go(time.monotonic() - seconds)


def _let_go(since: float) -> None:
    """Of what nobody has asked for since then, and of what its maker needs no longer."""
    for token, found in list(_mapped.items()):
        if found.asked_at <= since or (found.whole is not None and is_retired(found.whole)):
            del _mapped[token]
