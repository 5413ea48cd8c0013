"""What a controller leaves behind for one that takes over from it: who it is, where it listens, its keys.

``controller.json`` in the cluster's folder, mode 0600, written under policy ``wait`` alone and removed when
the cluster ends in order. So it is there exactly when a controller has died and its peers may be waiting.
Beside it lies ``engines.json``: who was there, and how many controllers there have been.
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

_CONTROLLER, _ENGINES = TAKEOVER_FILES
_PAIRS: Final = ("server", *ROLES)


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
    """The contents of ``engines.json``."""

    incarnation: int
    ids: dict[bytes, int]
    """Engines (uuid → id) and clients (uuid → -1)."""

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        ids = {uuid.hex(): id for uuid, id in self.ids.items()}
        _write(folder / _ENGINES, {"incarnation": self.incarnation, "ids": ids})

    @classmethod
    def read(cls, folder: Path) -> Registered | None:
        """What an earlier controller has left, if there was one.

        Raises:
            LaunchError: the file is damaged.
        """
        contents = _read(folder / _ENGINES)
        if contents is None:
            return None
        try:
            ids = {bytes.fromhex(uuid): int(id) for uuid, id in contents["ids"].items()}
            return cls(int(contents["incarnation"]), ids)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(folder / _ENGINES, error) from None


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
