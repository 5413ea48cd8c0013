"""Pure: whether an engine that died gets another in its place, and when.

Where that is wanted, each engine that has had an id is followed by another under that id. One that has lived
for a while is followed at once. One that dies soon after its start, again and again (its `on_start` fails,
its machine has too little memory), is followed more and more slowly, and after a few times no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["MOST_IN_A_ROW", "SETTLED", "Outlook", "Place", "Restarts"]

SETTLED: Final = 30.0
"""Seconds after which an engine counts as one that works."""
MOST_IN_A_ROW: Final = 5
"""Engines that may die one after the other in one place without having lived for that long."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0


class Place(NamedTuple):
    """What an engine that follows another takes over from it."""

    id: int
    deaths: int
    """How many have died there in a row."""


class Outlook(NamedTuple):
    """What comes after an engine's death."""

    id: int = -1
    """The engine's, as far as it is known."""
    returns: bool = False
    """Another engine will take its place."""
    text: str = ""
    """That in words; empty where nobody asked for it."""


@dataclass(slots=True)
class _Life:
    id: int
    deaths: int
    since: float | None = None
    """When it registered with the controller."""


class Restarts:
    """Counts the engines of one supervisor, place by place.

    Args:
        wanted: whether engines that die are to be followed by others.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._lives: dict[bytes, _Life] = {}
        self._due: list[tuple[float, Place]] = []

    def begun(self, uuid: bytes, place: Place) -> None:
        """An engine is being started in a place; its id is -1 if the controller is yet to give it one."""
        self._lives[uuid] = _Life(*place)

    def registered(self, uuid: bytes, id: int, now: float) -> None:
        """The controller knows it, under this id. May be said again."""
        life = self._lives.get(uuid)
        if life is not None:
            life.id = id
            life.since = now if life.since is None else life.since

    def ended(self, uuid: bytes, wanted: bool, now: float) -> Outlook:
        """It has ended. `wanted`: somebody asked for that, or everything ends."""
        life = self._lives.pop(uuid, None)
        if life is None:
            return Outlook()
        if wanted or not self._wanted or life.id < 0:
            return Outlook(life.id)
        settled = life.since is not None and now - life.since >= SETTLED
        deaths = 1 if settled else life.deaths + 1
        if deaths > MOST_IN_A_ROW:
            text = f"no other is started in its place: {deaths} have died there one after the other"
            return Outlook(life.id, False, text)
        pause = 0.0 if deaths == 1 else min(_FIRST_PAUSE * 2.0 ** (deaths - 2), _LONGEST_PAUSE)
        self._due.append((now + pause, Place(life.id, deaths)))
        return Outlook(life.id, True, f"another is started in its place{f' in {pause:g} s' if pause else ''}")

    def next_deadline(self) -> float | None:
        """When `due` has something."""
        return min([at for at, _ in self._due], default=None)

    def due(self, now: float) -> list[Place]:
        """The places for which an engine is to be started now."""
        found = [place for at, place in self._due if at <= now]
        self._due = [(at, place) for at, place in self._due if at > now]
        return found

    def cancel(self) -> None:
        """Nobody is started any more in the places that wait for it."""
        self._due.clear()

    def stop(self) -> None:
        """Nobody is started any more."""
        self._wanted = False
        self._due.clear()
