"""Connection files: what one must know to reach a controller, and how to find it.

A controller writes two files into its cluster's folder (`directview.folders`): ``client.json`` for clients
and ``engine.json`` for engines and supervisors. Whoever can read one can run code as its owner, so they are
of mode 0600, and a file that others can read or write is refused instead of used.

Everything here is plain blocking file access plus, in `is_alive`, one throw-away plain socket: no zmq.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shlex
import socket
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from directview.errors import ConnectionRejected, ControllerUnreachable, DirectViewError
from directview.folders import DEFAULT_PROFILE, cluster_folders, private_folder, profile_folder
from directview.wire.messages import PROTOCOL_VERSION

__all__ = [
    "FILE_VERSION",
    "ConnectionFileError",
    "ConnectionFileNotFound",
    "ConnectionInfo",
    "choose_address",
    "find",
    "is_alive",
    "load",
    "new_cluster_id",
]

FILE_VERSION: Final = 1
"""Version of the file's own layout; the protocol has its own number in it."""

_MAX_BYTES: Final = 65_536
_POLL: Final = 0.05
_PROBE_TIMEOUT: Final = 1.0


class ConnectionFileError(DirectViewError):
    """A connection file can't be used: what is wrong with it, and the remedy."""


class ConnectionFileNotFound(ConnectionFileError, FileNotFoundError):
    """There is no connection file where one was looked for."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionInfo:
    """The contents of a connection file."""

    cluster_id: str
    role: str
    """``client`` or ``engine``: what the file's bearer may register as."""
    pid: int
    """Of the controller."""
    hostname: str
    created: float
    """Seconds since the epoch."""
    profile: str | None = None
    ipc: str | None = None
    """``ipc://`` address, for peers on the controller's machine."""
    tcp: str | None = None
    """``tcp://`` address, when the controller was asked for one."""
    server_public: str | None = None
    """CURVE keys as z85 text, for TCP: the controller's public key, and the bearer's own pair."""
    public: str | None = None
    secret: str | None = dataclasses.field(default=None, repr=False)
    supervisor_public: str | None = None
    """In a file for engines: the pair of their supervisors. A copy without it is good for engines alone."""
    supervisor_secret: str | None = dataclasses.field(default=None, repr=False)
    resilient: bool = False
    """Whether another controller takes over when this one dies: then it pays to wait for one."""
    version: int = FILE_VERSION
    protocol: int = PROTOCOL_VERSION
    source: str = dataclasses.field(default="the given contents", compare=False)
    """Where it was read from, for messages; not part of the file."""

    def to_dict(self) -> dict[str, Any]:
        """The file's contents as plain data."""
        contents = dataclasses.asdict(self)
        del contents["source"]
        return contents

    @classmethod
    def from_dict(cls, contents: Mapping[str, Any], source: str = "the given contents") -> ConnectionInfo:
        """Check plain data, field by field.

        Args:
            contents: what `to_dict` gave; unknown fields are ignored.
            source: what to call it in errors.

        Raises:
            ConnectionFileError: not a map, a field is missing or of the wrong type, or there is no address.
            ConnectionRejected: made by another version of directview.
        """
        if not isinstance(contents, Mapping):
            raise ConnectionFileError(
                f"{source} is not a connection file: expected a map of fields, got {type(contents).__name__}"
            )
        _check_versions(contents, source)
        fields = _checked(contents, source)
        if fields["role"] not in ("client", "engine"):
            raise ConnectionFileError(f"{source}: role must be client or engine, not {fields['role']!r:.40}")
        if fields.get("ipc") is None and fields.get("tcp") is None:
            raise ConnectionFileError(f"{source} names no address: neither 'ipc' nor 'tcp' is there")
        for name in ("ipc", "tcp"):
            address = fields.get(name)
            if address is not None and not address.startswith(f"{name}://"):
                raise ConnectionFileError(f"{source}: {name} must start with {name}://, not {address!r:.40}")
        return cls(**fields, source=source)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``<role>.json`` into `folder`: whole or not at all, and readable by nobody else.

        Returns:
            The path written.
        """
        path = Path(folder) / f"{self.role}.json"
        fd, temporary = tempfile.mkstemp(prefix=f".{self.role}-", dir=folder)  # 0600 from its birth
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(self.to_dict(), file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the controller can be reached, best first."""
        return tuple([address for address in (self.ipc, self.tcp) if address is not None])

    def is_current(self) -> bool:
        """Whether the file is still there: the end of a cluster removes it, a controller's death doesn't."""
        return not os.path.isabs(self.source) or os.path.exists(self.source)

    @property
    def may_supervise(self) -> bool:
        """Whether a supervisor may connect with it: where there are keys, those need one of their own."""
        return self.server_public is None or bool(self.supervisor_public and self.supervisor_secret)

    def check_may_supervise(self) -> None:
        """Raise ConnectionRejected unless `may_supervise`."""
        if not self.may_supervise:
            raise ConnectionRejected(
                f"{self.source} has no key for a supervisor: it is for single engines (`directview engine "
                "--file ...`); for engines under a supervisor, use the whole engine.json that the controller "
                "wrote"
            )

    @property
    def where(self) -> str:
        """File and addresses, for messages."""
        return f"{' and '.join(self.addresses)} (from {self.source})"


_FIELDS: Final[dict[str, tuple[type, bool]]] = {
    "version": (int, True),
    "protocol": (int, True),
    "cluster_id": (str, True),
    "role": (str, True),
    "pid": (int, True),
    "hostname": (str, True),
    "created": (float, True),
    "profile": (str, False),
    "ipc": (str, False),
    "tcp": (str, False),
    "server_public": (str, False),
    "public": (str, False),
    "secret": (str, False),
    "supervisor_public": (str, False),
    "supervisor_secret": (str, False),
    "resilient": (bool, False),
}
"""Type of each field, and whether it must be there."""
_WORDS: Final = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _checked(contents: Mapping[str, Any], source: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, (kind, required) in _FIELDS.items():
        value = contents.get(name)
        if value is None:
            if required:
                raise ConnectionFileError(
                    f"{source} has no field {name!r}: it is incomplete; copy it again, or start the "
                    "cluster anew"
                )
            continue
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ConnectionFileError(
                f"{source}: field {name!r} must be {_WORDS[kind]}, not {type(value).__name__}"
            )
        fields[name] = value
    return fields


def _check_versions(contents: Mapping[str, Any], source: str) -> None:
    for name, ours in (("version", FILE_VERSION), ("protocol", PROTOCOL_VERSION)):
        theirs = contents.get(name)
        if type(theirs) is int and theirs != ours:
            what = "connection file" if name == "version" else "protocol"
            raise ConnectionRejected(
                f"{source} was written by another version of directview ({what} version {theirs}, this is "
                f"{ours}): install the same version on both sides and start the cluster anew"
            )


def new_cluster_id() -> str:
    """A new random id for a cluster: 12 hex digits."""
    return secrets.token_hex(6)


def load(path: str | os.PathLike[str]) -> ConnectionInfo:
    """Read and check a connection file.

    Args:
        path: the file; a folder means the ``client.json`` in it.

    Raises:
        ConnectionFileNotFound: there is no such file.
        ConnectionFileError: it can't be read, others can, or what is in it isn't a connection file.
        ConnectionRejected: it was written by another version of directview.
    """
    where = Path(path).expanduser().absolute()
    if where.is_dir():
        where = where / "client.json"
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConnectionFileNotFound(
            f"there is no connection file {where}: `directview list` shows the clusters of this machine"
        ) from None
    except OSError as error:
        raise ConnectionFileError(f"can't read the connection file {where}: {error.strerror}") from None
    with os.fdopen(fd, "rb") as file:
        _check_mode(os.fstat(fd), where)
        data = file.read(_MAX_BYTES + 1) or b""
    if len(data) > _MAX_BYTES:
        raise ConnectionFileError(f"{where} is not a connection file: it is larger than {_MAX_BYTES} bytes")
    try:
        contents = json.loads(data)
    except ValueError as error:
        raise ConnectionFileError(f"{where} is not a connection file: no JSON in it ({error})") from None
    return ConnectionInfo.from_dict(contents, str(where))


def _check_mode(found: os.stat_result, where: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConnectionFileError(f"{where} is not a file")
    if os.geteuid() != 0 and found.st_uid not in (os.geteuid(), 0):
        raise ConnectionFileError(
            f"{where} belongs to another user, who could direct you to a controller of theirs: copy it"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConnectionFileError(
            f"others can read or write {where}, and whoever has it can run code in the cluster's name: "
            f"run `chmod 600 {shlex.quote(str(where))}`; if others may have read it, start the cluster anew"
        )


def is_alive(info: ConnectionInfo, timeout: float = _PROBE_TIMEOUT) -> bool:
    """Whether somebody listens at one of the addresses; who it is, only the handshake tells."""
    return choose_address(info, timeout) is not None


def choose_address(info: ConnectionInfo, timeout: float = _PROBE_TIMEOUT) -> str | None:
    """The first address at which somebody listens, or None.

    A throw-away plain socket finds out, since a zmq connection to nobody "succeeds". A unix socket answers
    at once; a TCP address may take up to `timeout` seconds.
    """
    for address in info.addresses:
        if address.startswith("ipc://"):
            if _listens_unix(address.removeprefix("ipc://"), timeout):
                return address
        elif _listens_tcp(address.removeprefix("tcp://"), timeout):
            return address
    return None


def _listens_unix(path: str, timeout: float) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout)
        try:
            probe.connect(path)
        except (BlockingIOError, TimeoutError):
            return True  # Its backlog is full: it is busy, not gone.
        except (OSError, ValueError):
            return False
        return True


def _listens_tcp(address: str, timeout: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def find(
    profile: str | None = None,
    cluster_id: str | None = None,
    path: str | os.PathLike[str] | None = None,
    timeout: float = 0.0,
    role: str = "client",
) -> ConnectionInfo:
    """Find a live cluster's connection file; without arguments, the default profile's.

    Of a cluster that outlives its controller, the file is enough: another may be starting just now.

    Args:
        profile: the name of a cluster started with ``--profile``.
        cluster_id: a cluster's id, as `directview list` shows it; a unique beginning is enough.
        path: an explicit file (or a cluster's folder): it must be there now.
        timeout: seconds for which to wait for a profile's or cluster's file and its live controller.
        role: ``client`` or ``engine``.

    Raises:
        ConnectionFileNotFound: no such file, also not within `timeout`.
        ControllerUnreachable: the file is there, but nobody listens at its addresses.
        ConnectionFileError, ConnectionRejected: as for `load`.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            info = _load_for(role, path) if path is not None else load(_locate(profile, cluster_id, role))
            if choose_address(info) is not None or info.resilient:
                return info
            failure: DirectViewError = ControllerUnreachable(
                f"nobody listens at {info.where}: its controller (process {info.pid} on {info.hostname}) has "
                f"ended; start a cluster with {_how_to_start(info.profile)}"
            )
        except ConnectionFileNotFound as error:
            failure = error
        if path is not None or time.monotonic() >= deadline:
            raise failure
        time.sleep(_POLL)


def _load_for(role: str, path: str | os.PathLike[str]) -> ConnectionInfo:
    """`load`, of a file for this role; of a folder, that role's file."""
    where = Path(path).expanduser()
    info = load(where / f"{role}.json" if where.is_dir() else where)
    if info.role != role:
        raise ConnectionFileError(
            f"{info.source} is a file for {info.role}s: what is needed here is the {role}.json that the "
            "controller wrote beside it"
        )
    return info


def _locate(profile: str | None, cluster_id: str | None, role: str) -> Path:
    """Where the file must be, whether or not it is there."""
    if cluster_id is not None:
        return _locate_by_id(cluster_id, role)
    name = DEFAULT_PROFILE if profile is None else profile
    path = profile_folder(name) / f"{role}.json"
    if not path.exists():
        raise ConnectionFileNotFound(
            f"there is no cluster of profile {name!r} (looked for {path}): start one with "
            f"{_how_to_start(name)}, or see `directview list`"
        )
    return path


def _locate_by_id(cluster_id: str, role: str) -> Path:
    matches = []
    for _, folder in cluster_folders():
        try:
            info = load(folder / f"{role}.json")
        except DirectViewError:
            continue  # Somebody else's trouble: it is a problem only when that cluster is asked for.
        if cluster_id and info.cluster_id.startswith(cluster_id):
            matches.append(folder / f"{role}.json")
    if not matches:
        raise ConnectionFileNotFound(
            f"there is no cluster with id {cluster_id!r} on this machine (looked beside "
            f"{private_folder(cluster_id or '-')}): see `directview list`"
        )
    if len(matches) > 1:
        raise ConnectionFileError(f"{len(matches)} clusters have an id that starts with {cluster_id!r}")
    return matches[0]


def _how_to_start(profile: str | None) -> str:
    if profile is None or profile == DEFAULT_PROFILE:
        return "`directview start -n 4`"
    return f"`directview start -n 4 --profile {shlex.quote(profile)}`"
