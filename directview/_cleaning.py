"""What dead clusters have left on this machine: found, and removed where nobody lives who might want it.

A cluster lives while somebody holds a lock in its folder, its supervisor's process runs, or any process has a
file of the folder open. Engines that wait for another controller, of a resilient cluster, give no other sign
of life; those started by hand not even this one, but their command line says of which cluster they are. What
was touched within the last minute may belong to a cluster that is being started. And a folder of another
machine's cluster, in a home that both have, is that machine's affair.

Shared memory needs none of this: it has no name, and goes with the last process that has it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from directview._trace_writing import TRACE_FOLDER
from directview.controller.takeover import Takeover
from directview.errors import DirectViewError
from directview.folders import (
    DEFAULT_PROFILE,
    SUPERVISOR_LOCK,
    TAKEOVER_FILES,
    FolderError,
    ProfileLock,
    cluster_folders,
    private_sockets,
    remove_folder,
    runtime_folder,
    socket_path,
    stop_reason_file,
)
from directview.supervisor.control import SupervisorFile

__all__ = ["Leftover", "clean"]

_YOUNG: Final = 60.0
_FILES: Final = ("client.json", "engine.json", "supervisor.json", "on_start.json")
_TEMPORARY: Final = re.compile(r"\A\.(?:(?:client|engine|supervisor)-|(?:controller|engines)\.json\Z)")
_LOG: Final = re.compile(r"\A[a-z][\w.-]*\.(?:log|jsonl|stack|trace)(?:\.\d+)?\Z")


class Leftover(NamedTuple):
    """Something that nobody needs any more."""

    kind: str
    path: Path

    def remove(self) -> None:
        """Remove it; what has gone by itself is fine.

        Raises:
            OSError, FolderError: it can't be removed.
        """
        if self.path.is_dir():
            remove_folder(self.path)
            if self.path.exists():
                raise FolderError(f"can't remove the folder {self.path}: look who owns what is in it")
        else:
            self.path.unlink(missing_ok=True)


def clean(age: float, *, dry_run: bool = False) -> Iterator[Leftover]:
    """Remove what dead clusters have left: folders, connection files, sockets, and logs that are old.

    Args:
        age: seconds after which a log is old, and nobody on another machine waits for a controller any more.
        dry_run: only find it.

    Yields:
        What was removed, each right after it was.

    Raises:
        OSError, FolderError: something can't be removed, or the folders aren't ours.
    """
    found = list(cluster_folders())
    users = _Users.of([folder for _, folder in found])
    spared: set[Path] = set()
    for profile, folder in found:
        about = _about(folder)
        try:
            alive = _lives(folder, about, users) or _awaits_controller(folder, about, users, age)
            alive = alive or time.time() - _touched(folder, private=profile is None) < _YOUNG
        except FileNotFoundError:
            continue  # It is being removed, by its own processes.
        with contextlib.nullcontext(False) if alive else _claimed(folder, dry_run) as claimed:
            if not claimed:
                spared.update(_sockets(folder, about))
                continue
            whole = [Leftover("folder of a cluster", folder)]
            for leftover in whole if profile is None else _of_profile(folder, age):
                if not dry_run:
                    leftover.remove()
                yield leftover
    for leftover in _dead_sockets(spared):
        if not dry_run:
            leftover.remove()
        yield leftover


def _of_profile(folder: Path, age: float) -> Iterator[Leftover]:
    """What of a named cluster's folder goes when the cluster is dead: all but its lock and younger logs."""
    now = time.time()
    for name in TAKEOVER_FILES:
        if (folder / name).exists():
            yield Leftover("takeover file", folder / name)
    temporary = sorted([path for path in folder.iterdir() if _TEMPORARY.match(path.name)])
    for path in (*[folder / name for name in _FILES], stop_reason_file(folder), *temporary):
        if path.exists():
            yield Leftover("file of a cluster", path)
    for base in (folder, folder / TRACE_FOLDER):
        for path in sorted(base.iterdir()) if base.is_dir() else ():
            if _LOG.match(path.name) and path.is_file() and now - path.stat().st_mtime > age:
                yield Leftover("old log", path)


def _dead_sockets(spared: set[Path]) -> Iterator[Leftover]:
    folder = runtime_folder() / "s"
    for path in sorted(folder.glob("*.sock")) if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            state = path.lstat()
            ours = stat.S_ISSOCK(state.st_mode) and state.st_uid == os.geteuid()
            old = time.time() - state.st_mtime >= _YOUNG
            if ours and old and path not in spared and not _listens(path):
                yield Leftover("socket", path)


def _listens(path: Path) -> bool:
    """Whether some process has this socket; one that is stopped has."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # Its queue is full, say.
    return True


# --- who lives -----------------------------------------------------------------------------------


class _Users(NamedTuple):
    """Who uses the folders of clusters, as far as processes show it."""

    folders: frozenset[Path]
    """Those in which some process has a file open."""
    clusters: frozenset[str]
    """Ids of the clusters to which those belong: also where engines were added to one elsewhere."""
    by_hand: frozenset[str]
    """Profiles, and ids of clusters or beginnings of them, of engines that were started by hand."""

    @classmethod
    def of(cls, folders: Iterable[Path]) -> _Users:
        known = {folder.resolve(): folder for folder in folders}
        used: set[Path] = set()
        by_hand: set[str] = set()
        for process in psutil.process_iter():
            try:
                paths = [Path(file.path) for file in process.open_files()]
                theirs = {known[parent] for path in paths for parent in path.parents if parent in known}
                words = process.cmdline()
                if "engine" in words and any(["directview" in word for word in words]):
                    by_hand.add(_joined(words, process.cwd()))
            except (psutil.Error, OSError):
                continue  # It has ended, or is another user's.
            used |= theirs
        clusters = frozenset([folder.name.partition("-engines-")[0] for folder in used])
        return cls(frozenset(used), clusters, frozenset(by_hand))


def _joined(words: list[str], cwd: str) -> str:
    """The cluster that `directview engine` was told to join; empty, with which each id begins: unknown."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    options = dict(itertools.pairwise(split))
    if "--file" in options:
        path = Path(cwd, options["--file"])
        return str(_contents(path / "engine.json" if path.is_dir() else path).get("cluster_id", ""))
    return options.get("--cluster-id") or options.get("--profile") or DEFAULT_PROFILE


def _lives(folder: Path, about: dict[str, Any], users: _Users) -> bool:
    """Whether somebody lives there who may hold no lock, or it isn't for us to say."""
    if folder in users.folders or about.get("cluster_id") in users.clusters:
        return True
    if folder.lstat().st_uid != os.geteuid():
        return True
    if about.get("hostname", socket.gethostname()) != socket.gethostname():
        return True
    file = SupervisorFile.read(folder)
    return file is not None and file.process() is not None


def _awaits_controller(folder: Path, about: dict[str, Any], users: _Users, age: float) -> bool:
    """Whether engines that have nothing open here may be waiting for another controller of this cluster."""
    names = (str(about.get("cluster_id", "")), str(about.get("profile", "")))
    if any([names[0].startswith(joined) or names[1] == joined for joined in users.by_hand]):
        return (folder / TAKEOVER_FILES[0]).exists()
    try:
        left = Takeover.read(folder)
    except DirectViewError:
        return False  # Damaged: nobody can take over by it.
    if left is None or left.ip is None or time.time() - _touched(folder, private=False) > age:
        return False
    try:
        return not ipaddress.ip_address(left.ip).is_loopback
    except ValueError:
        return left.ip != "localhost"


def _about(folder: Path) -> dict[str, Any]:
    """What a cluster's connection file says, or nothing."""
    return _contents(folder / "client.json")


def _contents(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def _sockets(folder: Path, about: dict[str, Any]) -> Iterator[Path]:
    """The sockets of a cluster that lives, or may: its controller may just be replaced."""
    yield from private_sockets(folder)
    if about.get("cluster_id"):
        yield socket_path(str(about["cluster_id"]))
    file = SupervisorFile.read(folder)
    if file is not None:
        yield Path(file.control)


def _touched(folder: Path, *, private: bool) -> float:
    """When something there was last changed. A profile's folder itself is changed by each cleaning."""
    times = [folder.stat().st_mtime] if private else [0.0]
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            times.append(path.lstat().st_mtime)
    return max(times)


@contextlib.contextmanager
def _claimed(folder: Path, dry_run: bool) -> Iterator[bool]:
    """Whether nobody holds a lock there; nobody can begin to while the block lasts."""
    with contextlib.ExitStack() as stack:
        for name in (SUPERVISOR_LOCK, "lock"):
            path = folder / name
            before = path.stat() if path.exists() else None
            if before is None and (dry_run or name == SUPERVISOR_LOCK):
                continue
            lock = ProfileLock(folder, folder.name, name)
            try:
                lock.acquire()
            except (OSError, DirectViewError):
                yield False
                return
            stack.callback(lock.release)
            if before is not None:  # To look is no sign of life.
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        yield True
