"""What the controller's shell does with effects that fail: each of them is harmless to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from directview.controller._effects import Effect, Finish, Keep, Persist, Send
from directview.controller._meter import Meter
from directview.controller._shell import ControllerShell
from directview.controller.options import ControllerOptions


class Machine:
    """Has these effects once, and hears what is kept."""

    def __init__(self, *effects: Effect) -> None:
        self.effects = list(effects)
        self.diary: list[str] = []
        self.told: list[Keep] = []

    def flush(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def next_deadline(self) -> None:
        return None

    def kept(self, keep: Keep) -> None:
        self.told.append(keep)


class Router:
    """Sends to everybody but `bad`."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.expelled: list[bytes] = []

    def send(self, route: bytes, header: bytes, frames: Sequence[Any] = ()) -> None:
        if route == b"bad":
            raise OSError("no memory")
        self.sent.append(route)

    def send_many(self, routes: Sequence[bytes], header: bytes, frames: Sequence[Any] = ()) -> None:
        for route in routes:
            self.send(route, header, frames)

    def address_of(self, route: bytes) -> str:
        return ""

    def expel(self, route: bytes, reason: str) -> None:
        self.expelled.append(route)


class Broken:
    """A store that takes nothing."""

    def keep(self, keep: Keep, done: Any) -> None:
        raise RuntimeError("can't start new thread")


def shell(tmp_path: Path, *effects: Effect) -> tuple[Any, Machine, Router]:
    """A controller's shell that has not begun, with these effects to perform."""
    made: Any = ControllerShell(ControllerOptions(cluster_id="c", folder=str(tmp_path)))
    machine, router = Machine(*effects), Router()
    made._machine, made._router, made._meter = machine, router, Meter()
    made._tracer = None
    made._finished = asyncio.Event()
    made._loop = asyncio.get_running_loop()
    return made, machine, router


@pytest.mark.parametrize("routes", [(b"bad",), (b"before", b"bad", b"behind")])
async def test_a_message_that_can_not_be_sent_costs_its_receivers_their_connections_and_nobody_else(
    tmp_path: Path, routes: tuple[bytes, ...]
) -> None:
    """They have lost it, and ask for what is missing on the next connection."""
    made, _, router = shell(tmp_path, Send(routes, b"x"), Send((b"good",), b"y"), Finish("all was done"))
    made._refused = lambda *args, **how: None
    made._turn()
    assert router.sent[-1] == b"good"
    assert router.expelled == list(routes)
    assert made._finished.is_set()


async def test_whatever_else_fails_the_effects_behind_it_are_performed(tmp_path: Path) -> None:
    """A result that can't be given to the store holds no engine up."""
    keep = Keep(())
    made, machine, router = shell(tmp_path, Persist({}), keep, Send((b"good",), b"y"))
    made._store = Broken()

    def fail(ids: Any) -> None:
        raise OSError("no descriptors left")

    made._keep_ids = fail
    made._turn()
    assert router.sent == [b"good"]
    await asyncio.sleep(0)
    assert machine.told == [keep]
