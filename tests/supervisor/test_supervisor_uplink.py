"""What the supervisor has to say arrives, whatever becomes of the connection that it is said on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from directview import connection
from directview.connection import ConnectionInfo
from directview.supervisor import _uplink as under_test
from directview.supervisor._uplink import LinkUplink
from directview.wire.messages import PROTOCOL_VERSION, Alive, Answer, Exited, Message, Welcome

WELCOME = Welcome(PROTOCOL_VERSION, 1, -1, "wait", 30.0, 1, 1, ())
GONE = Exited(b"e" * 16, -9, "killed by SIGKILL")


class StandinSession:
    """A session whose connections are made and lost by the test."""

    made: list[StandinSession]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.link: object | None = None
        self.sent: list[Message] = []
        self.made.append(self)

    async def open(self, timeout: float, *, patient: bool = False) -> None:
        self.connect()

    def connect(self) -> None:
        self.link = object()
        self.options["on_welcome"](WELCOME)

    def send(self, message: Message) -> None:
        if self.link is not None:
            self.sent.append(message)

    def close(self, linger: float) -> None:
        self.link = None


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[StandinSession]:
    made: list[StandinSession] = []
    monkeypatch.setattr(under_test, "Session", type("Session", (StandinSession,), {"made": made}))
    info = ConnectionInfo(cluster_id="c", role="engine", pid=1, hostname="h", created=0.0, ipc="ipc:///s")
    monkeypatch.setattr(connection, "load", lambda path: info)
    return made


async def connected(sessions: list[StandinSession]) -> tuple[LinkUplink, StandinSession, list[Message]]:
    heard: list[Message] = []
    uplink = LinkUplink(b"s" * 16)
    uplink.start("engine.json", heard.append, lambda reason: None)
    async with asyncio.timeout(30):
        while not sessions or sessions[0].link is None:  # noqa: ASYNC110 - it takes a turn or two
            await asyncio.sleep(0)
    return uplink, sessions[0], heard


async def test_an_exit_is_told_again_on_the_next_connection(
    sessions: list[StandinSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before may have been dead without anybody knowing."""
    uplink, session, _ = await connected(sessions)
    uplink.send(GONE)
    uplink.send(Answer(1, True, None))
    assert session.sent == [GONE, Answer(1, True, None)]
    session.connect()
    assert session.sent[2:] == [GONE]
    monkeypatch.setattr(under_test, "_TELL_AGAIN", 0.0)
    session.connect()
    assert session.sent[3:] == []  # Long ago.
    await uplink.close()


async def test_what_is_said_between_two_connections_waits(sessions: list[StandinSession]) -> None:
    """But not what was only true then."""
    uplink, session, heard = await connected(sessions)
    session.link = None
    uplink.send(Answer(1, True, None))
    uplink.send(Alive((b"e" * 16,)))
    assert session.sent == []
    session.connect()
    assert session.sent == [Answer(1, True, None)]
    uplink.send(Alive(()))
    assert session.sent[1:] == [Alive(())]
    assert heard == [WELCOME, WELCOME]
    await uplink.close()
