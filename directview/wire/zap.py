"""Deciding who may connect over TCP: the answers to libzmq's authentication requests (ZAP).

libzmq asks, for each CURVE handshake, a REP socket with a fixed name in the same context. We answer with
the role that the key belongs to, which libzmq then attaches to every message of that connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import zmq
import zmq.asyncio
from zmq.utils import z85

from directview.wire.curve import ROLES, ServerCurve, fingerprint

__all__ = ["DOMAIN", "Gatekeeper"]

DOMAIN: Final = b"directview"
"""libzmq asks only for sockets with a domain; ours on TCP have this one, the unix socket has none."""

_ENDPOINT: Final = "inproc://zeromq.zap.01"
_REMEMBERED: Final = 64


class Gatekeeper:
    """Answers the requests of one context until closed.

    Args:
        context: that of the socket which peers connect to.
        curve: whom to let in.
        on_refused: told of each one who isn't: address and reason.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        curve: ServerCurve,
        on_refused: Callable[[str | None, str], None] = lambda address, reason: None,
    ) -> None:
        self._curve = curve
        self._on_refused = on_refused
        self._retired: deque[str] = deque(maxlen=_REMEMBERED)
        """Public keys that were good once: whoever has one is told apart in the log."""
        self.refused = 0
        self._socket = context.socket(zmq.REP)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(_ENDPOINT)
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="directview-zap")

    def replace(self, curve: ServerCurve) -> None:
        """Let in these keys from now on, and no others."""
        self._retired += [self._curve.pair_of(role).public for role in ROLES]
        self._curve = curve

    async def _serve(self) -> None:
        while True:
            request = await self._socket.recv_multipart()
            await self._socket.send_multipart(self._answer(request))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        role, public = None, ""
        number = request[1] if len(request) > 1 else b""
        if len(request) == 7:
            version, _, domain, _, _, mechanism, key = request
            if (version, domain, mechanism) == (b"1.0", DOMAIN, b"CURVE") and len(key) == 32:
                public = z85.encode(key).decode("ascii")
                role = self._curve.role_of(public)
        if role is None:
            self.refused += 1
            address = request[3].decode("ascii", "replace") if len(request) > 3 else None
            what = "a key that was replaced" if public in self._retired else "an unknown key"
            self._on_refused(address, f"has {what} ({fingerprint(public) if public else 'none'})")
            return [b"1.0", number, b"400", b"unknown key", b"", b""]
        return [b"1.0", number, b"200", b"OK", role.encode("ascii"), b""]

    def close(self) -> None:
        """Stop answering: handshakes that ask from now on fail."""
        self._task.cancel()
        self._socket.close(0)
