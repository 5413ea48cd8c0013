"""Messages between supervisor and fork server: a length, then msgpack; descriptors travel beside them.

A stream socket keeps the order of messages and of the descriptors that came with them, but not which byte a
descriptor came with; so a message says with ``fds`` how many belong to it.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Any, Final

import msgpack

__all__ = ["Pipe", "PipeClosed"]

_MAX_FDS: Final = 16
_RECEIVE: Final = 65_536


class PipeClosed(Exception):
    """The other end is gone."""


class Pipe:
    """One end of the socket pair.

    The fork server sends blocking, the supervisor never does: two that both block in a send wait for ever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self._fds: list[int] = []
        self._outbox: deque[tuple[memoryview, tuple[int, ...]]] = deque()

    def fileno(self) -> int:
        """For selectors."""
        return self._sock.fileno()

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send one message, blocking; the descriptors are closed on this side.

        Raises:
            PipeClosed: nobody is there to read it.
        """
        self._put(message, fds)
        while self._outbox:
            self._send_some(0)

    def post(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> bool:
        """Send one message, or what can be sent of it now; the descriptors are closed when they are sent.

        Returns:
            Whether all has been sent. If not, `flush` is to be called when the pipe is writable.

        Raises:
            PipeClosed: nobody is there to read it.
        """
        self._put(message, fds)
        return self.flush()

    def flush(self) -> bool:
        """Send what can be sent now; returns whether that was all. Raises as `post`."""
        while self._outbox:
            try:
                self._send_some(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
        return True

    def _put(self, message: dict[str, Any], fds: tuple[int, ...]) -> None:
        body: bytes = msgpack.packb({**message, "fds": len(fds)})  # pyright: ignore[reportAssignmentType]
        self._outbox.append((memoryview(len(body).to_bytes(4, "big") + body), fds))

    def _send_some(self, flags: int) -> None:
        data, fds = self._outbox[0]
        try:
            sent = socket.send_fds(self._sock, [data], fds, flags) if fds else self._sock.send(data, flags)
        except BlockingIOError:
            raise
        except OSError as error:
            self._drop()
            raise PipeClosed(str(error)) from None
        # The descriptors travel with the first byte.
        for fd in fds:
            os.close(fd)
        if sent < len(data):
            self._outbox[0] = (data[sent:], ())
        else:
            self._outbox.popleft()

    def _drop(self) -> None:
        while self._outbox:
            for fd in self._outbox.popleft()[1]:
                os.close(fd)

    def receive(self) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
        """Read what is there (blocking if nothing is): complete messages, each with its descriptors.

        Raises:
            PipeClosed: the other end is gone and all it sent has been read.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _RECEIVE, _MAX_FDS)
        except ConnectionError as error:
            raise PipeClosed(str(error)) from None
        if not data:
            raise PipeClosed("closed")
        for fd in fds:
            os.set_inheritable(fd, False)  # not to slip into programs that are executed
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
        """Close this end, and what was to go out by it."""
        self._drop()
        self._sock.close()
