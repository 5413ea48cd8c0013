"""The supervisor's connection to the controller.

What the supervisor has to say (an engine's exit, the answer to a launch) must arrive: while there is no
connection it waits here, and goes out on the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from directview import connection
from directview.connection import ConnectionInfo
from directview.errors import DirectViewError
from directview.wire.curve import CurveKeys
from directview.wire.host import proof
from directview.wire.link import LAX
from directview.wire.messages import PROTOCOL_VERSION, Alive, Exited, Goodbye, Hello, Message, Welcome
from directview.wire.session import Session

__all__ = ["LinkUplink"]

_log = logging.getLogger(__name__)

_LINGER: Final = 0.5
_MAX_WAITING: Final = 10_000
_REMEMBERED: Final = 256
_TELL_AGAIN: Final = 60.0
"""Seconds: longer than a controller that says nothing keeps its connection."""
RECONNECT_TIMEOUT: Final = 600.0
"""Seconds for which engines elsewhere are kept, in a cluster that outlives its controller and has none."""


class LinkUplink:
    """A session with the controller as a supervisor.

    Args:
        uuid: the supervisor's.
        patience: seconds for the first connection.
    """

    def __init__(self, uuid: bytes, patience: float = 10.0) -> None:
        self._uuid = uuid
        self._patience = patience
        self._session: Session | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: deque[Message] = deque(maxlen=_MAX_WAITING)
        self._exits: deque[tuple[float, Exited]] = deque(maxlen=_REMEMBERED)
        """With their times. They are told again on the next connection: the one before may have been dead
        already, or its controller frozen, when they were sent. Who knows of them ignores them."""
        self._incarnation = 0

    def start(
        self, connection: str, on_message: Callable[[Message], None], on_lost: Callable[[str], None]
    ) -> None:
        """Connect in the background. May be called again after `on_lost`, to try once more."""
        self._opening = asyncio.get_running_loop().create_task(self._open(connection, on_message, on_lost))

    async def _open(
        self, path: str, on_message: Callable[[Message], None], on_lost: Callable[[str], None]
    ) -> None:
        try:
            info = connection.load(path)
            session = self._session = Session(
                addresses=info.addresses,
                where=info.where,
                keys=_keys(info),
                hello=lambda again: self._hello(info),
                on_welcome=lambda message: self._welcomed(message, on_message),
                on_message=lambda message, frames: on_message(message),
                on_turn=lambda: None,
                on_lost=lambda reason: _log.info("connection to the controller lost: %s", reason),
                on_gone=on_lost,
                heartbeat=LAX,
                reconnect_timeout=RECONNECT_TIMEOUT,
                awaited=info.is_current,
            )
            await session.open(self._patience, patient=info.resilient)
        except (DirectViewError, OSError, ValueError) as error:
            on_lost(str(error))

    def _hello(self, info: ConnectionInfo) -> Hello:
        return Hello(
            version=PROTOCOL_VERSION,
            role="supervisor",
            uuid=self._uuid,
            cluster=info.cluster_id,
            incarnation=self._incarnation,
            wanted_id=-1,
            supervisor=b"",
            resuming=False,
            pid=os.getpid(),
            hostname=socket.gethostname(),
            python=platform.python_version(),
            host=proof(),
        )

    def _welcomed(self, message: Welcome, on_message: Callable[[Message], None]) -> None:
        self._incarnation = message.incarnation
        assert self._session is not None
        since = time.monotonic() - _TELL_AGAIN
        for at, exited in self._exits:
            if at > since:
                self._session.send(exited)
        self._flush()
        on_message(message)

    def _flush(self) -> None:
        while self._waiting and self._session is not None and self._session.link is not None:
            self._session.send(self._waiting.popleft())

    def send(self, message: Message) -> None:
        """Send it, now or on the next connection. What is only true now is sent now or not at all."""
        if isinstance(message, Exited):
            self._exits.append((time.monotonic(), message))
        if isinstance(message, Alive) and (self._session is None or self._session.link is None):
            return
        self._waiting.append(message)
        self._flush()

    async def close(self) -> None:
        """Say goodbye, if anybody is there, and close."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._session is not None:
            self._session.send(Goodbye("the supervisor ends"))
            self._session.close(_LINGER)


def _keys(info: ConnectionInfo) -> CurveKeys | None:
    info.check_may_supervise()
    if info.server_public and info.supervisor_public and info.supervisor_secret:
        return CurveKeys(info.server_public, info.supervisor_public, info.supervisor_secret)
    return None
