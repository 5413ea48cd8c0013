"""The lasting connection: handshake, refusal, loss, coming back and giving up, over links that play a script.

In virtual time, so that what takes minutes is exact and costs nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from directview.errors import ConnectionRejected, ControllerUnreachable
from directview.testing import run
from directview.wire import session as under_test
from directview.wire.messages import (
    PROTOCOL_VERSION,
    Answer,
    Hello,
    Message,
    Query,
    Refused,
    Submit,
    Welcome,
    decode,
    encode,
)
from directview.wire.session import NobodyListens, Session
from directview.wire.sockets import CLIENT

HELLO = Hello(
    PROTOCOL_VERSION, "client", b"u" * 16, "c", 0, -1, b"", False, 1, "host", "3.11.7", b""
)  # fmt: skip
WELCOME = Welcome(PROTOCOL_VERSION, 1, -1, "stop", 2.0, 8, 1000, ())
Fate = Literal["nobody", "silence", "lost", "lost in the handshake", "refused by its key"] | Message


class ScriptedLink:
    """A link whose fate was decided beforehand."""

    fates: list[Fate]
    """What the next links will meet, one each."""
    made: list[ScriptedLink]

    def __init__(
        self,
        *,
        on_message: Callable[[bytes, Sequence[Any]], None],
        on_lost: Callable[[str], None],
        on_turn: Callable[[], None],
    ) -> None:
        self.arrives = on_message
        self.lose = on_lost
        self.turn = on_turn
        self.sent: list[Message] = []
        self.closed = False
        self.rejected = self.refused = False
        self.made.append(self)
        self.fate = self.fates.pop(0)

    async def connect(self, address: str, **options: Any) -> None:
        self.address, self.options = address, options
        await asyncio.sleep(0)
        if self.fate == "nobody":
            raise ControllerUnreachable(f"nobody listens at {address}")
        if self.fate in ("lost in the handshake", "refused by its key"):
            self.rejected = True
            self.refused = self.fate == "refused by its key"
            self.lose("the controller has another key")

    def send(self, header: bytes, frames: Sequence[Any] = ()) -> None:
        self.sent.append(decode(header))
        if self.closed or len(self.sent) > 1:
            return
        loop = asyncio.get_running_loop()
        if isinstance(self.fate, tuple):
            loop.call_soon(self.arrives, encode(self.fate), ())
        elif self.fate == "lost":
            loop.call_soon(self.lose, "the connection ended")

    def close(self, linger: float = 0.0) -> None:
        self.closed = True


class Peer:
    """A session and what it has told."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *fates: Fate, addresses: Sequence[str] = ("ipc:///s",)
    ) -> None:
        self.links: list[ScriptedLink] = []
        link = type("Link", (ScriptedLink,), {"fates": list(fates), "made": self.links})
        monkeypatch.setattr(under_test, "Link", link)
        self.told: list[Any] = []
        self.awaited = True
        self.session = Session(
            addresses=addresses,
            where="its address",
            keys=None,
            hello=lambda again: HELLO._replace(resuming=again),
            on_welcome=lambda message: self.told.append("welcome"),
            on_message=lambda message, frames: self.told.append(message),
            on_turn=lambda: self.told.append("turn"),
            on_lost=lambda reason: self.told.append("lost"),
            on_gone=lambda reason: self.told.append(f"gone: {reason}"),
            heartbeat=CLIENT,
            reconnect_timeout=60.0,
            awaited=lambda: self.awaited,
        )


def test_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hello, welcome, and from then on messages go both ways; before it nothing else is sent."""
    peer = Peer(monkeypatch, WELCOME)

    async def main() -> None:
        peer.session.send(Query(1, "status", {}))
        assert not peer.session.link
        assert await peer.session.open(5.0) == WELCOME
        (link,) = peer.links
        assert id(peer.session.link) == id(link)
        peer.session.send(Query(2, "status", {}))
        assert link.sent == [HELLO, Query(2, "status", {})]
        link.arrives(encode(Answer(2, True, None)), ())
        link.turn()
        assert peer.told == ["welcome", Answer(2, True, None), "turn"]
        peer.session.close()
        assert link.closed
        link.lose("too late to matter")
        assert peer.told[3:] == []

    run(main())


def test_the_next_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is tried where nobody listens at the first; nobody at all has an error of its own."""

    async def main() -> None:
        peer = Peer(monkeypatch, "nobody", WELCOME, addresses=("ipc:///s", "tcp://h:1"))
        await peer.session.open(5.0)
        assert [link.address for link in peer.links] == ["ipc:///s", "tcp://h:1"]
        assert peer.links[0].closed
        peer = Peer(monkeypatch, "nobody", "nobody", addresses=("ipc:///s", "tcp://h:1"))
        with pytest.raises(NobodyListens, match="nobody listens at its address"):
            await peer.session.open(5.0)

    run(main())


@pytest.mark.parametrize(
    ("fate", "attempts", "error", "text"),
    [
        ("silence", 1, ControllerUnreachable, "its address did not answer within 5 s"),
        (
            "lost",
            5,
            ControllerUnreachable,
            "no connection to the controller at its address: the connection ended",
        ),
        ("lost in the handshake", 5, ConnectionRejected, "at its address: the controller has another key"),
        ("refused by its key", 1, ConnectionRejected, "at its address: the controller has another key"),
        (Refused("too old", "update it"), 1, ConnectionRejected, "its address refused: too old; update it"),
        (Answer(1, True, None), 5, ControllerUnreachable, "sent what it may not: Answer before the welcome"),
    ],
    ids=["silent", "lost", "lost in the handshake", "wrong key", "refused", "nonsense"],
)
def test_a_handshake_that_fails(
    monkeypatch: pytest.MonkeyPatch, fate: Fate, attempts: int, error: type[Exception], text: str
) -> None:
    """Ends in one error that says why, in the time given, and leaves no open link.

    One that ends without a word is tried again, but not for long.
    """
    fates: list[Fate] = [fate] * attempts
    peer = Peer(monkeypatch, *fates)

    async def main() -> None:
        with pytest.raises(error, match=text):
            await peer.session.open(5.0)
        took = 5.0 if fate == "silence" else 0.0 if attempts == 1 else 0.3
        assert asyncio.get_running_loop().time() == pytest.approx(took)

    run(main())
    assert [link.closed for link in peer.links] == [True] * attempts
    assert peer.told == []


def test_a_line_that_breaks_in_the_first_handshake_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(monkeypatch, "lost in the handshake", "lost", WELCOME)

    async def main() -> None:
        await peer.session.open(5.0)
        peer.session.close()

    run(main())
    assert peer.told == ["welcome"]


def test_a_lost_connection_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hello that says so; what is sent meanwhile is dropped."""
    peer = Peer(monkeypatch, WELCOME, "lost", WELCOME)

    async def main() -> None:
        await peer.session.open(5.0)
        peer.links[0].lose("cut")
        peer.session.send(Query(1, "status", {}))
        await asyncio.sleep(1.0)
        assert peer.told == ["welcome", "lost", "welcome"]
        assert peer.links[2].sent == [HELLO._replace(resuming=True)]
        assert id(peer.session.link) == id(peer.links[2])
        peer.session.close()

    run(main())


def test_who_expects_another_controller_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first time, until the time is up; a refusal counts all the same."""

    async def main() -> None:
        peer = Peer(monkeypatch, "nobody", "lost in the handshake", "lost", WELCOME)
        assert await peer.session.open(5.0, patient=True) == WELCOME
        peer.session.close()
        nobody: list[Fate] = ["nobody"] * 99
        peer = Peer(monkeypatch, *nobody)
        began = asyncio.get_running_loop().time()
        with pytest.raises(NobodyListens):
            await peer.session.open(5.0, patient=True)
        assert 5.0 <= asyncio.get_running_loop().time() - began < 6.0
        peer = Peer(monkeypatch, "nobody", Refused("too old", "update it"))
        with pytest.raises(ConnectionRejected, match="too old"):
            await peer.session.open(5.0, patient=True)

    run(main())


@pytest.mark.parametrize(
    ("policy", "fates", "after", "reason"),
    [
        ("stop", ["nobody"], 0.0, "gone: cut"),
        ("stop", ["silence"] * 99, 2.0, "gone: cut"),
        ("wait", ["nobody"] * 999, 60.0, "gone: cut"),
        ("wait", [Refused("another cluster", "use the file")], 0.0, "gone: .*another cluster; use the file"),
        ("stop", ["refused by its key"], 0.0, "gone: .*another key"),
    ],
    ids=["nobody listens", "nobody answers", "nobody comes", "refused", "wrong key"],
)
def test_giving_up(
    monkeypatch: pytest.MonkeyPatch, policy: str, fates: list[Fate], after: float, reason: str
) -> None:
    """Under `stop` at once when nobody listens, else after the lease; under `wait` when the time is up."""
    peer = Peer(monkeypatch, WELCOME._replace(policy=policy), *fates)

    async def main() -> None:
        await peer.session.open(5.0)
        peer.links[0].lose("cut")
        while len(peer.told) < 3:  # noqa: ASYNC110 - the session has no event for it, and time is virtual
            await asyncio.sleep(0.01)
        assert after <= asyncio.get_running_loop().time() <= after + 1.0

    run(main())
    assert peer.told[:2] == ["welcome", "lost"]
    assert re.fullmatch(reason, peer.told[2])
    assert all([link.closed for link in peer.links])


@pytest.mark.parametrize("lost", [True, False])
def test_nobody_looks_for_a_controller_that_has_said_that_it_ends(
    monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Though a proxy may still accept connections; and its end is not waited for without end."""
    silence: list[Fate] = ["silence"] * 99
    peer = Peer(monkeypatch, WELCOME._replace(policy="wait"), *silence)

    async def main() -> None:
        await peer.session.open(5.0)
        peer.session.expect_end()
        assert peer.told == ["welcome"]
        if lost:
            peer.links[0].lose("cut")
        else:
            await asyncio.sleep(3.0)
        assert peer.told == ["welcome", "lost", "gone: cut" if lost else "gone: the controller has ended"]
        await asyncio.sleep(10.0)
        assert len(peer.told) == 3
        assert [link.closed for link in peer.links] == [True]

    run(main())


def test_a_line_that_breaks_in_a_handshake_is_no_wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word the two look alike; a key that was right before has the benefit of the doubt."""
    peer = Peer(monkeypatch, WELCOME, "lost in the handshake", "lost in the handshake", WELCOME)

    async def main() -> None:
        await peer.session.open(5.0)
        peer.links[0].lose("cut")
        await asyncio.sleep(1.0)
        assert peer.told == ["welcome", "lost", "welcome"]
        peer.session.close()

    run(main())


def test_nobody_waits_for_a_controller_that_can_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is gone, say: but one that listens is tried all the same."""
    nobody: list[Fate] = ["nobody"] * 99
    peer = Peer(monkeypatch, WELCOME._replace(policy="wait"), "lost", *nobody)

    async def main() -> None:
        await peer.session.open(5.0)
        peer.awaited = False
        peer.links[0].lose("cut")
        await asyncio.sleep(1.0)
        assert peer.told == ["welcome", "lost", "gone: cut"]
        assert len(peer.links) == 3

    run(main())


def test_an_older_controller_is_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was taken over from has nothing more to say."""
    peer = Peer(monkeypatch, WELCOME._replace(incarnation=3), WELCOME._replace(incarnation=2), "nobody")

    async def main() -> None:
        await peer.session.open(5.0)
        peer.links[0].lose("cut")
        await asyncio.sleep(1.0)

    run(main())
    assert peer.told == ["welcome", "lost", "gone: cut"]


@pytest.mark.parametrize("frames", [(), (b"1", b"2")])
def test_a_message_that_is_none_costs_the_connection(
    monkeypatch: pytest.MonkeyPatch, frames: Sequence[bytes]
) -> None:
    """Noise, or a number of frames other than the header says."""
    peer = Peer(monkeypatch, WELCOME, WELCOME)

    async def main() -> None:
        await peer.session.open(5.0)
        peer.links[0].arrives(b"\xc1" if not frames else encode(Submit(b"u" * 16, 0, ())), frames)
        assert peer.links[0].closed
        await asyncio.sleep(1.0)
        assert peer.told == ["welcome", "lost", "welcome"]
        peer.session.close()

    run(main())
