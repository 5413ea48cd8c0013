"""Where the controller listens and whom it lets in: addresses, keys, the files that tell peers of both.

Keys are made at the start of a cluster, and those of the roles anew whenever somebody asks for it: from
then on the old ones are refused. The controller's own pair stays for the cluster's life: its secret is in no
connection file.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import time
from pathlib import Path
from typing import Final

from directview.connection import ConnectionInfo
from directview.controller.options import ControllerOptions
from directview.controller.takeover import Takeover
from directview.folders import socket_path
from directview.wire.curve import ROLES, ServerCurve, fingerprint
from directview.wire.router import RouterLink

__all__ = ["Listening"]

log: Final = logging.getLogger("directview.controller")


class Listening:
    """The addresses, keys and connection files of one controller.

    Args:
        options: the controller's.
        router: its socket.
        earlier: what it takes over, if it does.
    """

    def __init__(self, options: ControllerOptions, router: RouterLink, earlier: Takeover | None) -> None:
        self.socket = socket_path(options.cluster_id)
        self.files: dict[str, Path] = {}
        """The connection files that were written, by role."""
        self._options = options
        self._folder = Path(options.folder)
        self._router = router
        self._earlier = earlier
        self._tcp: str | None = None
        self._port = 0
        self._curve: ServerCurve | None = None

    def open(self) -> None:
        """Bind the sockets, then write the files.

        Raises:
            ValueError: it would be open to everybody.
            OSError: an address can't be had.
        """
        options = self._options
        self.socket.unlink(missing_ok=True)
        self._router.bind_ipc(str(self.socket))
        self.socket.chmod(0o600)
        if options.ip is not None:
            self._bind_tcp("0.0.0.0" if options.ip == "*" else options.ip)
        self._write()

    def _bind_tcp(self, host: str) -> None:
        options, earlier = self._options, self._earlier
        if earlier is not None and earlier.curve is not None:
            self._curve = earlier.curve
        elif options.curve:
            self._curve = ServerCurve.new()
        elif not _is_loopback(host):
            raise ValueError(
                f"refusing to listen at {host} without keys: whoever reaches the port could run code here; "
                "leave CURVE on, or listen at 127.0.0.1"
            )
        port = options.port
        if earlier is not None and earlier.ip == options.ip:
            port = port or earlier.port
        self._port = self._router.bind_tcp(host, port, self._curve)
        shown = socket.gethostname() if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
        self._tcp = f"tcp://{shown}:{self._port}"

    def _write(self) -> None:
        """The connection files; before them, what a controller that takes over needs for the same ones."""
        options = self._options
        if options.policy == "wait":
            left = Takeover(options.cluster_id, options.ip, self._port, options.store, self._curve)
            left.write(self._folder)
        for role in ("client", "engine"):
            host = self._curve.supervisor if self._curve is not None and role == "engine" else None
            keys = self._curve.keys_for(role) if self._curve is not None else None
            info = ConnectionInfo(
                cluster_id=options.cluster_id,
                role=role,
                pid=os.getpid(),
                hostname=socket.gethostname(),
                created=time.time(),
                profile=options.profile,
                ipc=f"ipc://{self.socket}",
                tcp=self._tcp,
                server_public=keys.server_public if keys is not None else None,
                public=keys.public if keys is not None else None,
                secret=keys.secret if keys is not None else None,
                supervisor_public=host.public if host is not None else None,
                supervisor_secret=host.secret if host is not None else None,
                resilient=options.policy == "wait",
            )
            self.files[role] = info.write(self._folder)

    def rotate(self, disconnect: bool) -> dict[str, str]:
        """Make new keys for all roles and write them; the old ones are refused from now on.

        Args:
            disconnect: whether to cut off those who came with an old key; if not, only new connections count.

        Returns:
            The new fingerprints, by role.

        Raises:
            ValueError: there are no keys.
            OSError: the files can't be written; the old keys stay then.
        """
        if self._curve is None:
            raise ValueError(
                "this cluster listens on its unix socket only, which needs no keys: nothing to rotate"
            )
        before = self._curve
        self._curve = ServerCurve.new(before.server)
        try:
            self._write()
        except OSError:
            self._curve = before
            raise
        self._router.replace_keys(self._curve)
        if disconnect:
            self._router.expel_keyed("its key was replaced by a new one")
        prints = {role: fingerprint(self._curve.pair_of(role).public) for role in ROLES}
        told = ", ".join([f"{role} {shown}" for role, shown in prints.items()])
        log.warning("new keys: %s; the old ones are refused", told)
        return prints


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
