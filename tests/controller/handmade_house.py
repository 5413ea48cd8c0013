"""A controller in a house of peers that are only names: what it has told whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from directview.controller._effects import Effect, Expel, Send
from directview.controller._state import Controller, Settings
from directview.testing.invariants import check_controller
from directview.wire.messages import (
    OK,
    PROTOCOL_VERSION,
    CallItem,
    Hello,
    Message,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
    Submit,
    decode,
    encode,
)

LEASE, GRACE = 5.0, 1.0


def uuid(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def hello(role: str, name: str, **changes: Any) -> Hello:
    made = Hello(PROTOCOL_VERSION, role, uuid(name), "cluster", 0, -1, b"", False, 42, "host", "3.11", b"")
    return made._replace(**changes)


class House:
    """A controller, and what it has told whom. Peers are named by their routes, such as ``c`` or ``e0``."""

    def __init__(self, known: dict[bytes, int] | None = None, **settings: Any) -> None:
        self.now = 100.0
        settings = {"lease": LEASE, "engine_grace": GRACE, **settings}
        self.machine = Controller(Settings("cluster", **settings), self.now, known)
        self.told: list[tuple[str, Message, Sequence[Any]]] = []
        self.others: list[Effect] = []

    def join(self, role: str, name: str, route: str | None = None, **changes: Any) -> None:
        """Connect a peer."""
        route = route or name
        self.machine.greet(route.encode(), hello(role, name, **changes), None, self.now)
        self.turn()

    def hear(self, route: str, message: Message, frames: Sequence[Any] = ()) -> None:
        """A message comes in, and the turn ends."""
        self.feed(route, message, frames)
        self.turn()

    def feed(self, route: str, message: Message, frames: Sequence[Any] = ()) -> None:
        self.machine.receive(route.encode(), message, encode(message), frames, self.now)

    def lose(self, route: str) -> None:
        """A connection is cut."""
        self.machine.lost(route.encode(), "cut", self.now)
        self.turn()

    def wait(self, seconds: float) -> None:
        """Let time pass, waking the machine whenever it asks for it."""
        until = self.now + seconds
        while (deadline := self.machine.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.machine.tick(self.now)
            self.turn()
        self.now = until

    def turn(self) -> None:
        for effect in self.machine.flush():
            if isinstance(effect, Send):
                for route in effect.routes:
                    self.told.append((route.decode(), decode(effect.header), effect.frames))
            else:
                self.others.append(effect)
        check_controller(self.machine)

    def heard(self, route: str) -> list[Message]:
        """What has been told to this peer since the last time."""
        found = [message for told, message, _ in self.told if told == route]
        self.told = [entry for entry in self.told if entry[0] != route]
        return found

    def expelled(self) -> list[str]:
        """Routes that were closed."""
        return [effect.route.decode() for effect in self.others if isinstance(effect, Expel)]


def house(engines: int = 1, clients: Sequence[str] = ("c",), **settings: Any) -> House:
    """Engines ``e0``, ``e1``, ..., watched by the supervisor ``s``, and clients."""
    made = House(**settings)
    made.join("supervisor", "s")
    for number in range(engines):
        made.join("engine", f"e{number}", supervisor=uuid("s"))
    for client in clients:
        made.join("client", client)
    made.told.clear()
    made.others.clear()
    return made


def calls(*seqs: int, client: str = "c", to: tuple[int, ...] = (0,), watermark: int = 1) -> Submit:
    return Submit(
        uuid(client), watermark, tuple([CallItem(seq, to, f"call{seq}", 0, 4, 0, b"body") for seq in seqs])
    )


def results(*seqs: int, engine: int = 0, client: str = "c", status: int = OK) -> Result:
    return Result(uuid(client), engine, tuple([ResultItem(seq, status, 1.0, 2.0, 0, 0, b"") for seq in seqs]))


def question(*seqs: int, engine: int = 0, name: str | None = None, last: bool = False) -> Resume:
    name = name or f"e{engine}"
    return Resume(uuid("c"), tuple([ResumeItem(seq, engine, uuid(name)) for seq in seqs]), last)


def seqs(messages: Sequence[Message]) -> list[int]:
    return [item.seq for message in messages if isinstance(message, Submit) for item in message.calls]
