"""Proof that two processes share a host: one opens what only the other one's kernel has.

Names and addresses don't prove it: containers share host names, one host has many addresses. So each
process keeps 16 random bytes in a memory file and tells where: pid and descriptor. Whoever can read
those bytes through ``/proc/<pid>/fd/<fd>`` is on the same host, with the same process numbers, and is
the same user (or root): exactly those with whom memory can be shared. Where there is no ``/proc`` or no
memory file, an ordinary file in the user's temporary folder takes its place.
"""

from __future__ import annotations

import atexit
import os
import secrets
import stat
import tempfile
from typing import Any, Final

import msgpack

__all__ = ["proof", "shares_host"]

_TOKEN_BYTES: Final = 16
_MAX_BYTES: Final = 256
_NOTHING: Final = b""

_proofs: dict[int, bytes] = {}
"""By pid: a forked child must make its own, since its parent may end before it."""


def proof() -> bytes:
    """This process's proof, at most 256 bytes; the same one each time. Empty if none can be made."""
    pid = os.getpid()
    made = _proofs.get(pid)
    if made is None:
        made = _proofs.setdefault(pid, _by_memory() or _by_file() or _NOTHING)
    return made


def shares_host(proof: bytes) -> bool:
    """Whether the process that made `proof` lives on this host, as this user.

    Never raises for anything that a peer may have sent; opens nothing but memory files of other
    processes and files in this user's temporary folder.
    """
    parsed = _parsed(proof)
    if parsed is None:
        return False
    path, token = parsed
    try:
        # Not blocking: what a hostile proof names might be a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        return regular and secrets.compare_digest(os.pread(fd, _TOKEN_BYTES + 1, 0), token)
    except OSError:
        return False
    finally:
        os.close(fd)


def _parsed(proof: bytes) -> tuple[str, bytes] | None:
    """The path to read and the bytes that should be there."""
    if not 0 < len(proof) <= _MAX_BYTES:
        return None
    try:
        fields = msgpack.unpackb(proof, use_list=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    match fields:
        case (int(pid), int(fd), bytes(token)) if pid > 0 and fd >= 0:
            path = f"/proc/{pid}/fd/{fd}"
        case (str(name), bytes(token)) if _is_file_name(name):
            path = os.path.join(tempfile.gettempdir(), name)
        case _:
            return None
    return (path, token) if len(token) == _TOKEN_BYTES else None


_PREFIX: Final = "directview-host-"


def _is_file_name(name: str) -> bool:
    return name.startswith(_PREFIX) and name[len(_PREFIX) :].isalnum() and len(name) < 100


def _packed(*fields: object) -> bytes:
    packed: Any = msgpack.packb(fields)
    return bytes(packed)


def _by_memory() -> bytes | None:
    if not hasattr(os, "memfd_create") or not os.path.isdir(f"/proc/{os.getpid()}/fd"):
        return None
    token = secrets.token_bytes(_TOKEN_BYTES)
    try:
        fd = os.memfd_create("directview-host", os.MFD_CLOEXEC)
        os.write(fd, token)
    except OSError:
        return None
    return _packed(os.getpid(), fd, token)


def _by_file() -> bytes | None:
    token = secrets.token_bytes(_TOKEN_BYTES)
    name = _PREFIX + secrets.token_hex(16)
    path = os.path.join(tempfile.gettempdir(), name)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, token)
        finally:
            os.close(fd)
    except OSError:
        return None
    atexit.register(_remove, path, os.getpid())
    return _packed(name, token)


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:
        try:
            os.unlink(path)
        except OSError:
            pass
