"""directview as it is between machines: client and engines reach the controller over TCP with CURVE."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.directview import DirectviewPeer

__all__ = ["DirectviewCurvePeer"]

_END_SECONDS = 20.0


class DirectviewCurvePeer(DirectviewPeer):
    """A cluster whose connection files name no unix socket, as a file copied to another machine would not."""

    def __init__(self) -> None:
        super().__init__()
        self._engines: subprocess.Popen[bytes] | None = None

    def start(self, n: int) -> None:
        self._cluster = self._directview.Cluster(n=0, ip="127.0.0.1")
        self._cluster.start_cluster_sync()
        folder = Path(self._cluster.connection_file).parent
        files = {role: self._without_unix_socket(folder, role) for role in ("client", "engine")}
        self._file = str(files["client"])
        # -P, as everywhere: what is found is what PYTHONPATH says.
        self._engines = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "directview",
                "engines",
                "-n",
                str(n),
                "--file",
                str(files["engine"]),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self._connect(n)

    def _without_unix_socket(self, folder: Path, role: str) -> Path:
        info: Any = self._connection.load(folder / f"{role}.json")
        below = folder / "tcp"
        below.mkdir(mode=0o700, exist_ok=True)
        written: Path = dataclasses.replace(info, ipc=None).write(below)
        return written

    def stop(self) -> None:
        engines, self._engines = self._engines, None
        if self._client is not None:
            self._client.close()
            self._client = None
        if engines is not None:
            engines.terminate()
            engines.wait(_END_SECONDS)
        super().stop()
