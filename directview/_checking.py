"""Pure: arguments that can be of one kind only, checked where they are given: the error names the argument.

Without this, what is wrong would be found somewhere else, later, by somebody who has never heard of it.
"""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = [
    "FLAGS",
    "flag",
    "flags",
    "function",
    "is_index",
    "items",
    "name",
    "names",
    "nothing",
    "pairs",
    "seconds",
    "text",
    "unknown",
]

FLAGS: Final = ("targets", "block", "track", "label", "time_limit", "detached")
"""Of a view."""


def seconds(value: Any, what: str = "timeout") -> None:
    """Raise TypeError unless it is a number, or None."""
    if value is not None and (isinstance(value, bool | str) or not hasattr(value, "__float__")):
        raise TypeError(f"{what}: expected seconds as a number, or None, got {value!r:.60}")


def unknown(what: str, name: str, kind: type) -> TypeError:
    """The error for an argument that `kind` does not have: with the one that may have been meant, or all."""
    parameters = inspect.signature(kind).parameters.values()
    names = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    meant = difflib.get_close_matches(name.lower(), names, 1, 0.7)
    remedy = f"did you mean {meant[0]!r}?" if meant else f"there is {', '.join(names)}"
    return TypeError(f"{what} has no argument {name!r}: {remedy}")


def flag(value: Any, what: str) -> None:
    """Raise TypeError unless it is true or false as a bool is (numpy's count, and 0 and 1), or None."""
    if value is not None and (isinstance(value, str) or value not in (True, False)):
        raise TypeError(f"{what}: expected True or False, got {value!r:.60}")


def flags(given: Iterable[str]) -> None:
    """Raise TypeError if one is no flag of a view."""
    for each in given:
        if each not in FLAGS:
            raise TypeError(f"a view has no flag {each!r}: {', '.join(FLAGS)}")


def text(value: Any, what: str) -> None:
    """Raise TypeError unless it is text, or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{what}: expected text, got {type(value).__name__} {value!r:.60}")


def function(value: Any, of: str) -> None:
    """Raise TypeError unless it can be called; what engines put in its place may be."""
    if not callable(value) and type(value).__name__ not in ("Reference", "PrePickled"):
        raise TypeError(f"{of} calls a function, and {type(value).__name__} {value!r:.60} is none")


def items(sequences: Iterable[Any], of: str) -> None:
    """Raise TypeError unless each can be iterated over."""
    for place, sequence in enumerate(sequences, 1):
        if not isinstance(sequence, Iterable) and not hasattr(sequence, "__getitem__"):
            raise TypeError(
                f"{of} goes through sequences, and argument {place} after the function is "
                f"{type(sequence).__name__} {sequence!r:.60}; bind what is the same for each item: "
                "functools.partial(f, ...)"
            )


def name(value: Any, of: str) -> None:
    """Raise TypeError unless it is one name."""
    if not isinstance(value, str):
        raise TypeError(f"{of}: a name is a str, got {type(value).__name__} {value!r:.60}")


def names(value: Any, of: str) -> None:
    """Raise TypeError unless it is a name, or several."""
    if isinstance(value, str):
        return
    if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{of}: expected a name or a list of names, got {type(value).__name__} {value!r:.60}")


def pairs(value: Any, of: str) -> dict[Any, Any]:
    """A mapping, or what one can be made of, as a dict; raise TypeError otherwise."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{of} takes a dict of names and objects, got {type(value).__name__} {value!r:.60}")
    return dict(value)


def is_index(value: Any) -> bool:
    """Whether it is an int, or stands for one as numpy's do; arrays of several are none."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def nothing(targets: Any) -> bool:
    """Whether no engines are named: by an empty list, or None."""
    if targets is None:
        return True
    return not isinstance(targets, str | slice) and hasattr(targets, "__len__") and not len(targets)
