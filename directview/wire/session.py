"""One peer's lasting connection to the controller: handshake, loss, and coming back.

A `Link` is one connection and ends with it; a `Session` is what a peer has for as long as it lives. A new
connection is a new handshake under the same uuid, after which the peer resumes what was outstanding.

How long it tries is the controller's policy, told in its `Welcome`: under ``stop``, for the lease of a
connection that was cut, and not at all when nobody listens any more; under ``wait``, for
`reconnect_timeout`, since another controller is expected to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from directview.errors import ConnectionRejected, ControllerUnreachable
from directview.wire.curve import CurveKeys
from directview.wire.link import Heartbeat, Link
from directview.wire.messages import (
    Hello,
    Message,
    ProtocolError,
    Refused,
    Welcome,
    decode,
    encode,
    frames_of,
)

__all__ = ["NobodyListens", "Session"]

_RETRY_FIRST: Final = 0.02
_RETRY_MOST: Final = 0.5
"""Seconds between attempts to reconnect: doubled from the first to the most."""
_ATTEMPT_FIRST: Final = 1.0
_ATTEMPT_MOST: Final = 4.0
"""Seconds for one such attempt, likewise. Where the network swallows what is sent, an attempt hears nothing,
and the kernel tries again more and more rarely: a new one finds sooner that the network is back."""
_LAST_SECONDS: Final = 2.0
"""Seconds for which a controller that has said that it ends may still send something."""
_OPEN_SPARE: Final = 4
"""Further attempts at the first connection, when one has ended in its handshake without a word."""
_OPEN_SPARE_KEYLESS: Final = 1
"""The same for TCP without keys. Mostly that is a controller which wants some: both sides close then, and
whoever is first leaves the other without a word."""


class NobodyListens(ControllerUnreachable):
    """There is no controller at any of the addresses."""


class Session:
    """A peer's connection to the controller, over as many links as it takes.

    Args:
        addresses: where the controller may be reached, best first.
        where: what to call the controller in errors: addresses and file.
        keys: CURVE keys, for TCP.
        hello: makes the first message of a connection; its argument says whether it is a reconnection.
        on_welcome: the handshake is done; called on every connection before anything else arrives.
        on_message: a message, decoded, and its frames.
        on_turn: the end of a turn in which messages came: time to flush.
        on_lost: the connection is gone; another one is tried for.
        on_gone: no other one can be had, and why. Nothing is called after it.
        heartbeat: how soon to notice that the controller answers no more.
        reconnect_timeout: seconds to try for under policy ``wait``.
        awaited: whether another controller may still come; asked while nobody listens.
    """

    def __init__(
        self,
        *,
        addresses: Sequence[str],
        where: str,
        keys: CurveKeys | None,
        hello: Callable[[bool], Hello],
        on_welcome: Callable[[Welcome], None],
        on_message: Callable[[Message, Sequence[Any]], None],
        on_turn: Callable[[], None],
        on_lost: Callable[[str], None],
        on_gone: Callable[[str], None],
        heartbeat: Heartbeat,
        reconnect_timeout: float = 60.0,
        awaited: Callable[[], bool] = lambda: True,
    ) -> None:
        self._addresses = addresses
        self._where = where
        self._keys = keys
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_message = on_message
        self._on_turn = on_turn
        self._on_lost = on_lost
        self._on_gone = on_gone
        self._heartbeat = heartbeat
        self._reconnect_timeout = reconnect_timeout
        self._awaited = awaited
        self.tap: Callable[[str, Message], None] | None = None
        """Sees every message after the handshake, with ``in`` or ``out``."""
        self._link: Link | None = None
        self._welcomed: asyncio.Future[Welcome] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._broke_off = False
        """Whether the last attempt ended in its handshake, without a word."""
        self._policy = "stop"
        self._lease = 0.0
        self._incarnation = 0
        self._closed = False
        self._ending: asyncio.TimerHandle | None = None
        """Since the controller has said that it ends."""

    @property
    def link(self) -> Link | None:
        """The connection, while there is one that has been welcomed."""
        return self._link if self._welcomed is None else None

    async def open(self, timeout: float, *, patient: bool = False) -> Welcome:
        """Connect and shake hands.

        Args:
            timeout: seconds for both.
            patient: whether to try again until then if nobody listens: another controller is expected.

        Raises:
            NobodyListens: nobody listens at any of the addresses.
            ControllerUnreachable: nobody answers in time.
            ConnectionRejected: the controller refused; the text has its reason and remedy.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        keyless = self._keys is None and self._addresses[-1].startswith("tcp")
        pause, spare = _RETRY_FIRST, _OPEN_SPARE_KEYLESS if keyless else _OPEN_SPARE
        while True:
            try:
                return await self._connect(max(deadline - clock(), 0.1), again=False)
            except (ConnectionRejected, ControllerUnreachable) as error:
                # A line that was cut looks like a wrong key; but a key that is wrong stays so.
                spare -= self._broke_off
                waits = patient and isinstance(error, ControllerUnreachable)
                if not (waits or (self._broke_off and spare >= 0)) or clock() >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_MOST)

    async def _connect(self, timeout: float, *, again: bool) -> Welcome:
        """Try one address after the other: that somebody listens at one decides."""
        for address in self._addresses:
            link = Link(on_message=self._arrived, on_lost=self._link_lost, on_turn=self._turn)
            # Before it connects: it may be lost in the very turn in which it was made.
            self._link, self._broke_off = link, False
            welcomed: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
            self._welcomed = welcomed
            try:
                async with asyncio.timeout(timeout):
                    try:
                        await link.connect(
                            address,
                            keys=self._keys if address.startswith("tcp") else None,
                            heartbeat=self._heartbeat,
                            timeout=timeout,
                        )
                    except ConnectionError:
                        self._drop(link)
                        continue
                    link.send(encode(self._hello(again)))
                    return await welcomed
            except TimeoutError:
                self._drop(link)
                raise ControllerUnreachable(
                    f"the controller at {self._where} did not answer within {timeout:g} s"
                ) from None
            except BaseException:
                self._drop(link)
                raise
        raise NobodyListens(f"nobody listens at {self._where}: the controller has ended, or can't be reached")

    def _drop(self, link: Link) -> None:
        link.close()
        if self._link is link:
            self._link = self._welcomed = None

    def _arrived(self, header: bytes, frames: Sequence[Any]) -> None:
        try:
            message = decode(header)
            if frames_of(message) != len(frames):
                raise ProtocolError(f"{type(message).__name__} with {len(frames)} frames")
            if self._welcomed is None:
                if self.tap is not None:
                    self.tap("in", message)
                self._on_message(message, frames)
            else:
                self._greeted(message)
        except ProtocolError as error:
            link = self._link
            if link is not None:
                link.close()
                self._link_lost(f"the controller sent what it may not: {error}")

    def _greeted(self, message: Message) -> None:
        """The answer to our hello."""
        assert self._welcomed is not None
        if isinstance(message, Refused):
            if not self._welcomed.done():
                text = f"the controller at {self._where} refused: {message.reason}; {message.remedy}"
                self._welcomed.set_exception(ConnectionRejected(text))
            return
        if not isinstance(message, Welcome):
            raise ProtocolError(f"{type(message).__name__} before the welcome")
        if message.incarnation < self._incarnation:
            raise ProtocolError(f"an older controller: incarnation {message.incarnation}")
        welcomed, self._welcomed = self._welcomed, None
        self._policy, self._lease = message.policy, message.lease
        self._incarnation = message.incarnation
        self._on_welcome(message)
        if not welcomed.done():
            welcomed.set_result(message)

    def _turn(self) -> None:
        if self._welcomed is None and self._link is not None:
            self._on_turn()

    def _link_lost(self, reason: str) -> None:
        if self._closed or self._link is None:
            return
        link, welcomed = self._link, self._welcomed
        self._link = self._welcomed = None
        link.close()
        if welcomed is not None:
            if not welcomed.done():
                # A key that was right once is not taken for a wrong one because a line broke in a handshake.
                final = link.refused if self._incarnation else link.rejected
                self._broke_off = not link.refused
                error = ConnectionRejected if final else ControllerUnreachable
                welcomed.set_exception(error(f"no connection to the controller at {self._where}: {reason}"))
            return
        self._on_lost(reason)
        if self._ending is not None:
            self._ending.cancel()
            self._on_gone(reason)
            return
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(reason))

    async def _reconnect(self, reason: str) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + (self._reconnect_timeout if self._policy == "wait" else self._lease)
        pause, attempt = _RETRY_FIRST, _ATTEMPT_FIRST
        while True:
            try:
                await self._connect(min(max(deadline - clock(), 0.1), attempt), again=True)
                return
            except ControllerUnreachable as error:
                nobody = isinstance(error, NobodyListens)
                if not nobody:
                    attempt = min(attempt * 2, _ATTEMPT_MOST)
                hopeless = nobody and (self._policy == "stop" or not self._awaited())
                if hopeless or clock() >= deadline:
                    self._on_gone(reason)
                    return
            except ConnectionRejected as error:
                self._on_gone(str(error))
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_MOST)

    def expect_end(self) -> None:
        """The controller has said that it ends in order: nobody comes after it, whoever else may listen.

        Where the connection goes through something in between (a tunnel, a proxy), an attempt to reconnect
        could not tell that nobody is there.
        """
        if self._ending is None and self._link is not None:
            said = "the controller has ended"
            self._ending = asyncio.get_running_loop().call_later(_LAST_SECONDS, self._link_lost, said)

    def send(self, message: Message, frames: Sequence[Any] = ()) -> None:
        """Send, or drop it while there is no connection: what matters is resumed on the next one."""
        if self._link is not None and self._welcomed is None:
            if self.tap is not None:
                self.tap("out", message)
            self._link.send(encode(message), frames)

    def close(self, linger: float = 0.0) -> None:
        """End the session. `linger`: seconds for what is still to be sent."""
        self._closed = True
        if self._ending is not None:
            self._ending.cancel()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._link is not None:
            self._link.close(linger)
        self._link = self._welcomed = None
