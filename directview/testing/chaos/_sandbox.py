"""A small disk and a small /dev/shm of one's own, which can be filled without harm to the machine.

Both are file systems in memory of a few megabytes in a mount namespace of this process: they go with it,
however it ends. Where the kernel doesn't allow that, these faults are left out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["SHARED", "enter", "full", "leave"]

SHARED: Final = "/dev/shm"
_DISK_MB: Final = 64
_SHARED_MB: Final = 128
_NEW_MOUNTS: Final = 0x00020000
_NEW_USER: Final = 0x10000000
_DETACH: Final = 2
_PRIVATE: Final = (1 << 18) | (1 << 14)


def enter(disk: Path) -> bool:
    """Give this process, and those that it starts, a small disk at `disk` and a small /dev/shm.

    To be called while it has one thread. Returns whether it has them now.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    try:
        if libc.unshare(_NEW_MOUNTS if uid == 0 else _NEW_MOUNTS | _NEW_USER):
            return False
        if uid != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        if libc.mount(b"none", b"/", None, _PRIVATE, None):
            return False
        return all([_mount(libc, str(disk), _DISK_MB), _mount(libc, SHARED, _SHARED_MB)])
    except OSError:
        return False


def leave(disk: Path) -> None:
    """Give the small disk back, so that its folder can be removed."""
    ctypes.CDLL(None).umount2(str(disk).encode(), _DETACH)


def _mount(libc: ctypes.CDLL, where: str, megabytes: int) -> bool:
    options = f"size={megabytes}m,mode=1777"
    return not libc.mount(b"tmpfs", where.encode(), b"tmpfs", 0, options.encode())


@contextmanager
def full(folder: str | Path) -> Iterator[None]:
    """While it lasts, the file system of `folder` is full. It must be one of `enter`'s."""
    found = os.statvfs(folder)
    if found.f_blocks * found.f_frsize > (max(_DISK_MB, _SHARED_MB) << 20):
        raise RuntimeError(f"{folder} is not on a small disk of our own: it is not filled")
    path = Path(folder) / f".filled-by-chaos-{os.getpid()}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (1 << 20, 4096):
            _write_all_there_is(fd, bytes(size))
        yield
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def _write_all_there_is(fd: int, piece: bytes) -> None:
    try:
        while True:
            os.write(fd, piece)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
