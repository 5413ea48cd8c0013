"""What a controller leaves behind for one that takes over from it: who it is, where it listens, its keys.

``controller.json`` in the cluster's folder, mode 0600, written under policy ``wait`` alone and removed when
the cluster ends in order. So it is there exactly when a controller has died and its peers may be waiting.
Beside it lie ``engines.json`` and ``engines.1.json``: who was there, and how many controllers there have
been. They are written in turn and in place, with room to spare: a peer that comes while the disk is full has
to be known to the next controller like any other.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from directview.errors import LaunchError
from directview.folders import TAKEOVER_FILES
from directview.wire.curve import ROLES, KeyPair, ServerCurve

__all__ = ["Registered", "Takeover", "remove_takeover"]

_CONTROLLER, *_ENGINES = TAKEOVER_FILES
_PAIRS: Final = ("server", *ROLES)
_ROOM: Final = 16_384
"""Bytes of each file of peers, at first: for some 300 of them. Doubled when that is too little."""


def remove_takeover(folder: Path) -> None:
    """Nobody is to take over: the cluster has ended in order, or another one begins."""
    for name in TAKEOVER_FILES:
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Takeover:
    """The contents of ``controller.json``."""

    cluster_id: str
    ip: str | None
    port: int
    """The TCP port that was bound; 0 without one."""
    store: str | None
    curve: ServerCurve | None

    def write(self, folder: Path) -> None:
        """Write it: whole or not at all, and readable by nobody else."""
        contents: dict[str, Any] = {
            "cluster_id": self.cluster_id,
            "ip": self.ip,
            "port": self.port,
            "store": self.store,
            "keys": None if self.curve is None else dataclasses.asdict(self.curve),
        }
        _write(folder / _CONTROLLER, contents)

    @classmethod
    def read(cls, folder: Path) -> Takeover | None:
        """What an earlier controller has left, if there was one.

        Raises:
            LaunchError: the file is damaged.
        """
        contents = _read(folder / _CONTROLLER)
        if contents is None:
            return None
        try:
            keys = contents["keys"]
            curve = None if keys is None else ServerCurve(*[KeyPair(**keys[role]) for role in _PAIRS])
            found = cls(
                str(contents["cluster_id"]), contents["ip"], int(contents["port"]), contents["store"], curve
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(folder / _CONTROLLER, error) from None
        return found


@dataclass(frozen=True, slots=True)
class Registered:
    """Who was there, as the newer of two files has it."""

    incarnation: int
    ids: dict[bytes, int]
    """Engines (uuid → id) and clients (uuid → -1)."""
    generation: int = 0
    """Which writing this is: counted over all controllers of a cluster."""

    def write(self, folder: Path) -> None:
        """Write it over the older one of the files; to both of them where there are none yet.

        Raises:
            OSError: there is no room. What was written before is still there.
        """
        ids = {uuid.hex(): id for uuid, id in self.ids.items()}
        contents = {"begun": self.generation, "incarnation": self.incarnation, "ids": ids}
        # The last word is the same as the first only if all that is in between has been written as well.
        data = json.dumps({**contents, "ended": self.generation}).encode()
        name = _ENGINES[self.generation % 2]
        for other in {name, *_ENGINES} if not (folder / name).exists() else (name,):
            _write_in_place(folder / other, data)

    @classmethod
    def read(cls, folder: Path) -> Registered | None:
        """What an earlier controller has left, if there was one.

        Raises:
            LaunchError: both files are damaged.
        """
        found = [cls._read_one(folder / name) for name in _ENGINES if (folder / name).exists()]
        whole = [each for each in found if isinstance(each, cls)]
        if whole:
            return max(whole, key=lambda each: each.generation)
        for error in found:
            assert isinstance(error, Exception)
            raise _damaged(folder / _ENGINES[0], error)
        return None

    @classmethod
    def _read_one(cls, path: Path) -> Registered | Exception:
        try:
            contents = json.loads(path.read_bytes())
            if contents["begun"] != contents["ended"]:
                return ValueError("it was not written to its end")
            ids = {bytes.fromhex(uuid): int(id) for uuid, id in contents["ids"].items()}
            return cls(int(contents["incarnation"]), ids, int(contents["begun"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return error


def _write_in_place(path: Path, data: bytes) -> None:
    """Over what is there. As long as it doesn't grow, that takes no room on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        size = max(os.fstat(fd).st_size, _ROOM)
        while size < len(data):
            size *= 2
        rest = memoryview(data.ljust(size))
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, error) from None
    if not isinstance(contents, dict):
        raise _damaged(path, TypeError("no map of fields"))
    return contents


def _write(path: Path, contents: dict[str, Any]) -> None:
    """One writer at a time, by the folder's lock: so a file that a killed one left is written over."""
    temporary = path.with_name(f".{path.name}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(contents, file)
    temporary.rename(path)


def _damaged(path: Path, error: Exception) -> LaunchError:
    return LaunchError(
        f"{path}, by which this controller should take over, is damaged ({error}): remove it to start anew; "
        "engines and clients that wait for their controller are refused then"
    )
