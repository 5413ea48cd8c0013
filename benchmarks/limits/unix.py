"""A bare unix socket: one process asks, another answers, and nobody is in between."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from benchmarks.limits.processes import Processes
from benchmarks.limits.relay import message_sizes
from benchmarks.peer import Peer, Target

__all__ = ["UnixSocket"]


def _answer(theirs: socket.socket, call_bytes: int, result_bytes: int) -> None:
    result = os.urandom(result_bytes)
    while True:
        _receive(theirs, call_bytes)
        theirs.sendall(result)


def _receive(end: socket.socket, size: int) -> None:
    while size:
        received = len(end.recv(size))
        if not received:
            raise ConnectionResetError("the other side has ended")
        size -= received


class UnixSocket(Peer):
    """The floor under one call on one engine, without a controller: two switches of process."""

    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "nothing stands between the processes",
        **dict.fromkeys(("burst", "awaiting", "map"), "it carries one message at a time"),
    }

    def __init__(self) -> None:
        self._processes: Processes | None = None
        self._ours: socket.socket | None = None
        self._call_bytes, self._result_bytes = message_sizes()

    def start(self, n: int) -> None:
        self._processes = Processes()
        self._ours, theirs = socket.socketpair()
        self._processes.fork(_answer, theirs, self._call_bytes, self._result_bytes)
        theirs.close()

    def stop(self) -> None:
        processes, self._processes = self._processes, None
        if processes is not None:
            processes.end()
        if self._ours is not None:
            self._ours.close()
            self._ours = None

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        ours, result_bytes = self._ours, self._result_bytes
        assert ours is not None
        message = os.urandom(self._call_bytes)

        def call() -> None:
            ours.sendall(message)
            _receive(ours, result_bytes)

        return call
