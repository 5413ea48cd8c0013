"""Where a cluster keeps its files: one folder for each profile, one for each private cluster, short sockets.

Three places, all of mode 0700 and all ours:

- ``<state>/profiles/<name>/``: connection files, logs and lock of a named cluster. They outlive it, so that
  one can read the log of what ended.
- ``<runtime>/clusters/<id>/``: the same for a private cluster. It goes when the cluster goes.
- ``<runtime>/s/<hash>.sock``: unix sockets. The kernel allows 107 bytes for such a path, and a deep home
  folder or a long profile name uses them up; so sockets lie apart, under a name of fixed length.

State and runtime follow XDG through platformdirs. Where the runtime folder is missing or isn't ours (cron,
containers, ``su``), a folder of ours under the temporary folder takes its place.

A cluster's folder is locked (flock) by its controller for as long as it lives: libzmq would take over the
socket of a live controller without a word, and then there would be two.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote, unquote

import platformdirs

from directview.errors import DirectViewError, LaunchError

__all__ = [
    "DEFAULT_PROFILE",
    "FolderError",
    "ProfileInUse",
    "ProfileLock",
    "SUPERVISOR_LOCK",
    "TAKEOVER_FILES",
    "cluster_folders",
    "folder_of_file",
    "private_folder",
    "private_sockets",
    "profile_folder",
    "remove_folder",
    "remove_private",
    "runtime_folder",
    "socket_path",
    "state_folder",
    "stop_reason_file",
    "sweep",
]

DEFAULT_PROFILE: Final = "default"
TAKEOVER_FILES: Final = ("controller.json", "engines.json", "engines.1.json")
"""What a controller leaves in its folder for one that takes over when it has died."""
SUPERVISOR_LOCK: Final = "supervisor.lock"
"""Held by the supervisor in a private folder. Where it has only engines, for a cluster elsewhere, there is no
controller to hold a lock, and one that has died holds none until another has taken over."""

MAX_SOCKET_PATH: Final = 100
"""Of the 107 bytes that Linux allows (103 on macOS)."""
_SOCKET_TAIL: Final = len("/s/0123456789abcdef.sock")
_MAX_NAME: Final = 120
_SWEEP_AGE: Final = 60.0
"""Seconds: a private folder younger than this may belong to a cluster that hasn't got its lock yet."""


class FolderError(DirectViewError):
    """A folder that directview needs can't be made, or others could reach into it."""


class ProfileInUse(LaunchError):
    """Another live controller owns the profile. The text names its process and how to end it."""


def state_folder() -> Path:
    """The folder that outlives clusters, made if it isn't there: 0700 and ours."""
    return _own_folder(Path(platformdirs.user_state_path("directview", appauthor=False)))


def runtime_folder() -> Path:
    """The folder for what lives as long as a cluster, made if it isn't there: 0700, ours, and short."""
    found = _xdg_runtime()
    if found is not None and len(os.fsencode(found)) <= MAX_SOCKET_PATH - _SOCKET_TAIL:
        return _own_folder(found)
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > MAX_SOCKET_PATH - _SOCKET_TAIL - len("/directview-4294967295"):
        base = "/tmp"  # A test run's or a batch job's own TMPDIR can be deeper than a socket's path may be.
    return _own_folder(Path(base) / f"directview-{os.geteuid()}")


def _xdg_runtime() -> Path | None:
    """What platformdirs says, if that is a session's real runtime folder and ours."""
    if sys.platform == "linux" and not os.environ.get("XDG_RUNTIME_DIR"):
        if not Path(f"/run/user/{os.getuid()}").is_dir():
            return None  # No session (cron, container): platformdirs would warn, and make one up in /tmp.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It warns about a folder that it won't use; neither do we.
            found = Path(platformdirs.user_runtime_path("directview", appauthor=False))
        return found if found.parent.stat().st_uid == os.geteuid() else None
    except OSError:
        return None


def profile_folder(profile: str, *, create: bool = False) -> Path:
    """The folder of a named cluster.

    Args:
        profile: any name; what a file name can't hold is escaped.
        create: make it if it isn't there.

    Raises:
        ValueError: the name is empty or holds a NUL.
        FolderError: it can't be made, or others could write in it.
    """
    base = state_folder() / "profiles"
    folder = base / _escape(profile)
    if create:
        _own_folder(base)
        _own_folder(folder)
    return folder


def private_folder(cluster_id: str, *, create: bool = False) -> Path:
    """The folder of an unnamed cluster, by its id."""
    base = runtime_folder() / "clusters"
    folder = base / _escape(cluster_id)
    if create:
        _own_folder(base)
        _own_folder(folder)
    return folder


def socket_path(cluster_id: str, purpose: str = "") -> Path:
    """Path for a unix socket of this cluster; its folder is there, the socket isn't.

    Args:
        cluster_id: the cluster's id.
        purpose: tells several sockets of one cluster apart; the controller's own is "".

    Raises:
        FolderError: the runtime folder's path leaves no room.
    """
    folder = _own_folder(runtime_folder() / "s")
    digest = hashlib.blake2b(f"{cluster_id}\0{purpose}".encode(), digest_size=8).hexdigest()
    path = folder / f"{digest}.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise FolderError(
            f"{folder} is too long for a unix socket ({MAX_SOCKET_PATH} bytes at most): "
            "set XDG_RUNTIME_DIR to a shorter folder of yours",
        )
    return path


def stop_reason_file(folder: str | os.PathLike[str]) -> Path:
    """Where a cluster's supervisor leaves word of why it ends the controller, for its clients."""
    return Path(folder) / "stop-reason"


def cluster_folders() -> Iterator[tuple[str | None, Path]]:
    """Every cluster's folder on this machine, live or not: (profile or None, folder)."""
    for base, named in ((state_folder() / "profiles", True), (runtime_folder() / "clusters", False)):
        try:
            entries = sorted(base.iterdir())
        except FileNotFoundError:
            continue
        for folder in entries:
            if folder.is_dir():
                yield (unquote(folder.name) if named else None), folder


def folder_of_file(path: str | os.PathLike[str]) -> Path | None:
    """The cluster's folder in which a connection file lies; None if it was copied to somewhere else."""
    folder = Path(path).parent
    inside = folder.parent in (state_folder() / "profiles", runtime_folder() / "clusters")
    return folder if inside and folder.is_dir() else None


def sweep() -> None:
    """Remove the folders that private clusters left behind because all their processes were killed."""
    now = time.time()
    for profile, folder in list(cluster_folders()):
        if profile is not None:
            continue
        try:
            if now - folder.stat().st_mtime < _SWEEP_AGE:
                continue
            with ProfileLock(folder, folder.name, SUPERVISOR_LOCK), ProfileLock(folder, folder.name):
                remove_private(folder)
        except (OSError, DirectViewError):
            continue


def private_sockets(folder: Path) -> tuple[Path, Path]:
    """The sockets of whoever has this private folder: the controller's, and the supervisor's for requests."""
    cluster_id = unquote(folder.name)
    return socket_path(cluster_id), socket_path(cluster_id, "control")


def remove_private(folder: Path) -> None:
    """Remove a private cluster's folder and its sockets; what is gone already is fine."""
    remove_folder(folder)
    for path in private_sockets(folder):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a cluster's folder with all that is in it; one that is gone already is fine."""
    shutil.rmtree(folder, ignore_errors=True)


class ProfileLock:
    """The right to be the controller of one folder, held for as long as the process lives or until `release`.

    A context manager; not reentrant. The kernel drops it with the process, however that ends.

    Args:
        folder: the cluster's folder; it must exist.
        name: what to call the cluster in the error.
        file: name of the file that is locked.
    """

    def __init__(self, folder: Path, name: str, file: str = "lock") -> None:
        self._path = folder / file
        self._name = name
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock, without waiting.

        Raises:
            ProfileInUse: a live controller has it.
            OSError: the folder is missing or can't be written.
        """
        while self._fd < 0:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever removes a folder does so under its lock: a lock on a removed file is worth nothing.
                same = os.path.samestat(os.fstat(fd), os.stat(self._path))
            except BlockingIOError:
                raise self._in_use(fd) from None
            except FileNotFoundError:
                same = False
            except BaseException:
                os.close(fd)
                raise
            if not same:
                os.close(fd)
                continue
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid()}).encode(), 0)
            self._fd = fd

    def release(self) -> None:
        """Give the lock up; safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _in_use(self, fd: int) -> ProfileInUse:
        try:
            pid = json.loads(os.pread(fd, 1024, 0))["pid"]
        except (ValueError, KeyError, TypeError, OSError):
            pid = None
        finally:
            os.close(fd)
        who = f"process {pid}" if pid is not None else "another process"
        return ProfileInUse(
            f"{self._name!r} has a live controller already ({who}): connect to it, end it with "
            f"`directview stop --profile {shlex.quote(self._name)}`, or start under another --profile"
        )

    def __enter__(self) -> ProfileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _escape(name: str) -> str:
    """`name` as a file name: readable where it can be, of bounded length, and never one with a meaning."""
    if not name or "\0" in name:
        raise ValueError(f"{name!r} can't be the name of a profile: it must not be empty or hold a NUL")
    escaped = quote(name, safe=" +,=@~")
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    if len(escaped) > _MAX_NAME:
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        escaped = f"{escaped[: _MAX_NAME - 20].rstrip('%0123456789ABCDEF')}~{digest}"
    return escaped


def _own_folder(folder: Path) -> Path:
    """Make `folder` with mode 0700, or check that it is a folder of ours that nobody else can reach into."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        found = folder.lstat()
    except OSError as error:
        raise FolderError(f"can't make the folder {folder}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) and not folder.is_dir():
        raise FolderError(f"{folder} is not a folder: move it away")
    if stat.S_ISLNK(found.st_mode):
        # A link that we made ourselves, to a bigger disk say; anybody could have made one in /tmp.
        if found.st_uid != os.geteuid():
            raise FolderError(f"{folder} is a link that belongs to another user: remove it")
        found = folder.stat()
    if found.st_uid != os.geteuid():
        raise FolderError(f"{folder} belongs to another user: set XDG_RUNTIME_DIR to a folder of yours")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        # Others may have put things there already, so that closing it now would not be enough.
        raise FolderError(f"others can write in {folder}: look what is in it, then run `chmod 700 {folder}`")
    if mode & 0o077:
        folder.chmod(0o700)
    return folder
