"""Messages between supervisor and fork server: a length, then msgpack; descriptors travel beside them.

A stream socket keeps the order of messages and of the descriptors that came with them, but not which byte a
descriptor came with; so a message says with ``fds`` how many belong to it.
"""

from __future__ import annotations

import socket
from typing import Any, Final

import msgpack

__all__ = ["Pipe", "PipeClosed"]

_MAX_FDS: Final = 16
_RECEIVE: Final = 65_536
_CLOEXEC: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
"""Received descriptors are not to slip into programs that are executed."""


class PipeClosed(Exception):
    """The other end is gone."""


class Pipe:
    """One end of the socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self._fds: list[int] = []

    def fileno(self) -> int:
        """For selectors."""
        return self._sock.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send one message, blocking; the descriptors stay open on this side.

        Raises:
            PipeClosed: nobody is there to read it.
        """
        body: bytes = msgpack.packb({**message, "fds": len(fds)})  # pyright: ignore[reportAssignmentType]
        data = len(body).to_bytes(4, "big") + body
        try:
            sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
            if sent < len(data):
                self._sock.sendall(data[sent:])
        except OSError as error:
            raise PipeClosed(str(error)) from None

    def receive(self) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
        """Read what is there (blocking if nothing is): complete messages, each with its descriptors.

        Raises:
            PipeClosed: the other end is gone and all it sent has been read.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _RECEIVE, _MAX_FDS, _CLOEXEC)
        except ConnectionError as error:
            raise PipeClosed(str(error)) from None
        if not data:
            raise PipeClosed("closed")
        self._data += data
        self._fds += fds
        messages = []
        while len(self._data) >= 4:
            end = 4 + int.from_bytes(self._data[:4], "big")
            if len(self._data) < end:
                break
            message = msgpack.unpackb(bytes(self._data[4:end]))
            del self._data[:end]
            count = message.pop("fds")
            messages.append((message, tuple(self._fds[:count])))
            del self._fds[:count]
        return messages

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
