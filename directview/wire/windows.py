"""One's own memory, as others of this host may read it: nothing is copied here, and once there.

A sender *shows* a buffer that is not to change for a while, and says where. The receiver has the kernel copy
it from the one process's memory into the other's (``process_vm_readv``: the cross-memory attach of MPI
libraries). The kernel lets those do it who may debug the other process: the same user's, if nothing more is
forbidden. Many desktops forbid it (Yama's ``ptrace_scope``) and so do some containers: receivers try it once,
and say whether they can.

What is shown has an entry in a table that both map: a *place*, which is another one each time, and the
address. The owner takes the place away before the memory may change or go, and puts another address there
when the same bytes have moved, which is counted. The receiver looks before and after it has read: so one that
comes late reads nothing wrong.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from typing import Any, Final

import numpy as np

__all__ = ["ENTRIES", "ENTRY_BYTES", "WINDOW_BYTES", "Windows", "is_window", "look", "may_read"]

WINDOW_BYTES: Final = 16 << 20
"""Most bytes that are read at once. A loop that reads them turns again after a few milliseconds."""
ENTRIES: Final = 256
"""Of the table: pieces that one process shows at a time."""
ENTRY_BYTES: Final = 32
"""Place, address, how often it has been another one, and nothing."""
_WINDOW: Final = 1 << 61
"""In the places of windows, beside a count and the entry."""
_VARIABLE: Final = "DIRECTVIEW_ATTACH"

Bytes = np.ndarray[Any, Any]


def is_window(place: int) -> bool:
    """Whether a place is that of a piece in its owner's memory, if it is not that of a sheet."""
    return bool(place & _WINDOW) and place > 0


class Windows:
    """What this process shows. Any thread may use it.

    Args:
        table: a row for each entry, in memory that receivers map; all 0.
    """

    def __init__(self, table: Bytes) -> None:
        self._table = table
        self._idle = list(range(len(table)))
        self._shown: dict[int, int] = {}
        """Entries in use, by place."""
        self._count = 0
        self._lock = threading.Lock()

    def show(self, part: memoryview) -> int | None:
        """Show bytes that stay as they are until this is taken back.

        Returns:
            The place; None if there is no entry left, or memory of this kind can't be read by others (that of
            some devices).
        """
        address = _address(part)
        if not (_can_be_read(address) and _can_be_read(address + len(part) - 1)):
            return None
        with self._lock:
            if not self._idle:
                return None
            entry = self._idle.pop()
            self._count += 1
            place = _WINDOW | self._count * len(self._table) + entry
            self._table[entry, 1] = address
            self._table[entry, 0] = place
            self._shown[place] = entry
            return place

    def move(self, place: int, part: memoryview) -> None:
        """The same bytes are elsewhere from now on: where they were may change when this returns."""
        with self._lock:
            entry = self._shown.get(place)
            if entry is not None:
                self._table[entry, 1] = _address(part)
                self._table[entry, 2] += 1

    def hide(self, place: int) -> None:
        """Nobody needs them any more. Places that show nothing are no error."""
        with self._lock:
            entry = self._shown.pop(place, None)
            if entry is not None:
                self._table[entry, 0] = 0
                self._idle.append(entry)

    def close(self) -> None:
        """Show nothing any more."""
        with self._lock:
            self._idle.clear()
            self._shown.clear()
            self._table[:] = 0


def look(table: Bytes, place: int, pid: int, into: Bytes) -> bool:
    """Copy what another process shows.

    Args:
        table: its own.
        place: what its message says.
        pid: that process.
        into: memory for it, which says how many bytes.

    Returns:
        Whether that is what it showed, and still shows.

    Raises:
        MemoryError: it can't be read, although it is shown.
    """
    entry = place % len(table)
    while table[entry, 0] == place:
        moves = table[entry, 2]
        address = int(table[entry, 1])
        failed = _read(pid, address, into)
        if table[entry, 0] != place or failed == errno.ESRCH:
            break
        if table[entry, 2] != moves:
            continue  # It has moved meanwhile, and the copy may be of something else.
        if failed:
            raise MemoryError(f"process {pid} can't be read from here: {os.strerror(failed)}")
        return True
    return False


def may_read(pid: int, address: int, content: bytes) -> bool:
    """Whether a process's memory can be read from here, and has this content there."""
    if os.environ.get(_VARIABLE) == "0":
        return False
    into = np.zeros(len(content), np.uint8)
    return not _read(pid, address, into) and into.tobytes() == content


# --- the system call ------------------------------------------------------------------------------------


def _prepared() -> Any:
    try:
        function = ctypes.CDLL(None, use_errno=True).process_vm_readv
    except (OSError, AttributeError, TypeError):
        return None  # Another system than Linux.
    function.restype = ctypes.c_ssize_t
    function.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong,
    ]  # fmt: skip
    return function


_process_vm_readv: Final = _prepared()


def _read(pid: int, address: int, into: Bytes) -> int:
    """Copy another process's memory; 0, or the number of the error."""
    if _process_vm_readv is None:
        return errno.ENOSYS
    here = into.__array_interface__["data"][0]
    done, size = 0, len(into)
    while done < size:
        local = (ctypes.c_size_t * 2)(here + done, size - done)
        remote = (ctypes.c_size_t * 2)(address + done, size - done)
        count = _process_vm_readv(pid, local, 1, remote, 1, 0)
        if count < 0:
            return ctypes.get_errno()
        done += count
    return 0


def _address(part: memoryview) -> int:
    address: int = np.frombuffer(part, np.uint8).__array_interface__["data"][0]
    return address


def _can_be_read(address: int) -> bool:
    return not _read(os.getpid(), address, np.empty(1, np.uint8))
