"""The names that came with a function, laid over Python's builtins. Pure: dictionaries.

A function sees its globals and then its builtins. The engine gives a function from the client the
namespace as globals; what travelled with it goes into a copy of the builtins, so that the namespace wins
and is never written to.

CPython numbers the key sets of such dictionaries to make global look-ups fast, has 65,535 numbers for
look-ups in builtins, and never takes one back: after 70,000 copies made afresh (4 seconds of calls) every
new function of the process is slower for good, 205 ns against 125 on 3.12. A copy of a dictionary shares
its number, though. So there is one template for each set of names, which has been given its number by
looking something up in it, and all others are copies of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any, Final

from directview.wire.by_value import PLAIN_BUILTINS

__all__ = ["PLAIN", "Guest", "Layouts", "Overlay"]


class Guest(dict[str, Any]):
    """Globals of functions that bring their own: what they lack is looked for in the namespace.

    CPython asks a dictionary's subclass for each global, in 0.2 to 0.4 microseconds instead of 0.02.

    Args:
        names: what came with them, and ``__name__`` and its kin.
        namespace: the engine's.
    """

    __slots__ = ("namespace", "stores")

    def __init__(self, names: Mapping[str, Any], namespace: dict[str, Any]) -> None:
        super().__init__(names)
        self["__builtins__"] = PLAIN_BUILTINS
        self.namespace = namespace
        self.stores: set[str] = set()
        """Names that ``global`` statements of these functions set."""

    def __missing__(self, name: str) -> Any:
        return self.namespace[name]

    def hand_over(self) -> None:
        """Give the namespace what was set by ``global``."""
        for name in self.stores:
            if name in self:
                self.namespace[name] = self.pop(name)


class Overlay:
    """What travelled with one pickle."""

    __slots__ = ("above", "builtins", "guests", "names", "stays", "withheld")

    def __init__(
        self,
        names: Mapping[str, Any],
        builtins: dict[str, Any],
        withheld: Mapping[str, int],
        *,
        stays: bool = False,
        guests: tuple[Guest, ...] = (),
    ) -> None:
        self.names = names
        self.builtins = builtins
        """Python's builtins and `names`: the builtins of the functions that came."""
        self.withheld = withheld
        """Names that the client has but did not send, and their sizes in bytes."""
        self.stays = stays
        """Functions that came may stay in the namespace when the call is over."""
        self.guests = guests
        """Globals, of functions that brought their own, in which something may be set for the namespace."""
        self.above: tuple[Overlay, dict[str, Any]] | None = None
        """Another overlay, and the two of them together, this one's names first."""

    def __repr__(self) -> str:
        return f"<Overlay {sorted(self.names)}>"


PLAIN: Final = Overlay({}, PLAIN_BUILTINS, {})
"""Of a pickle with which nothing travelled."""


def _look_up() -> None:
    for _ in range(100):
        abs(0)


class Layouts:
    """Templates of builtins and names, one for each set of names."""

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._templates: dict[frozenset[str], dict[str, Any]] = {}
        self._values: list[Any] = []

    def __len__(self) -> int:
        return len(self._templates)

    def refresh(self) -> bool:
        """Forget the templates if somebody has changed the builtins module; whether that was so."""
        values = list(PLAIN_BUILTINS.values())  # identical objects: compared in about a microsecond
        if values == self._values:
            return False
        self._values = values
        self._templates.clear()
        return True

    def make(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """A new dictionary of the builtins and `names`."""
        made = self._template(names).copy()
        made.update(names)
        return made

    def remake(self, made: dict[str, Any], names: Mapping[str, Any]) -> None:
        """Make a dictionary that functions have already been given into one of the builtins and `names`."""
        template = self._template(names)
        made.clear()
        made.update(template)  # into an empty one: it becomes a copy, number and all
        made.update(names)

    def _template(self, names: Mapping[str, Any]) -> dict[str, Any]:
        self.refresh()
        key = frozenset(names)
        template = self._templates.get(key)
        if template is None:
            while len(self._templates) >= self._limit:
                del self._templates[next(iter(self._templates))]
            # Twice: a dictionary that has grown keeps room to grow, and its copies get other numbers.
            template = {**PLAIN_BUILTINS, **dict.fromkeys(key)}
            template = dict(template)
            FunctionType(_look_up.__code__.replace(), {"__builtins__": template})()
            self._templates[key] = template
        return template

    def merge(self, first: Overlay, second: Overlay) -> Overlay:
        """Both together; where both have a name, `first` counts."""
        if first is second or not (second.names or second.withheld or second.guests):
            return first
        if not (first.names or first.withheld or first.guests):
            return second
        names = {**second.names, **first.names}
        withheld = {**second.withheld, **first.withheld}
        made = self.make(names) if names else PLAIN_BUILTINS
        stays, guests = first.stays or second.stays, first.guests + second.guests
        return Overlay(names, made, withheld, stays=stays, guests=guests)
