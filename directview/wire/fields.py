"""Pure: checks of single fields, of which the messages' own checks are made.

Each takes a decoded value and returns it, or raises `ProtocolError`: what is not exactly right is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = [
    "Check",
    "ProtocolError",
    "binary",
    "boolean",
    "fail",
    "integer",
    "many",
    "one_of",
    "optional",
    "params",
    "plain",
    "real",
    "record",
    "text",
    "tree",
    "uuid",
    "uuid_or_empty",
]


class ProtocolError(ValueError):
    """What a peer sent is not a message of this protocol. Its connection is to be closed."""


Check = Callable[[Any], Any]


def fail(what: str, value: object) -> NoReturn:
    """Refuse `value`, which should have been `what`.

    Only scalars are shown: the text of a hostile array could be long, and nested too deeply to be made.
    """
    shown = ""
    if isinstance(value, str | bytes):
        shown = f" {value[:60]!r}"
    elif value is None or isinstance(value, bool | int | float):
        shown = f" {value!r}"
    raise ProtocolError(f"expected {what}, got {type(value).__name__}{shown}")


def integer(low: int, high: int) -> Check:
    """Integers from `low` to `high`."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            fail(f"an integer from {low} to {high}", value)
        return value

    return check


def text(limit: int) -> Check:
    """Text of at most `limit` characters."""

    def check(value: Any) -> str:
        if type(value) is not str or len(value) > limit:
            fail(f"text of at most {limit} characters", value)
        return value

    return check


def binary(limit: int) -> Check:
    """At most `limit` bytes."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > limit:
            fail(f"at most {limit} bytes", value)
        return value

    return check


def uuid(value: Any) -> bytes:
    """A uuid: 16 bytes."""
    if type(value) is not bytes or len(value) != 16:
        fail("a uuid of 16 bytes", value)
    return value


def uuid_or_empty(value: Any) -> bytes:
    """A uuid, or no bytes at all."""
    return value if value == b"" and type(value) is bytes else uuid(value)


def boolean(value: Any) -> bool:
    """True or False."""
    if type(value) is not bool:
        fail("a boolean", value)
    return value


def real(value: Any) -> float:
    """A finite float."""
    if type(value) is not float or value != value or abs(value) > 1e18:
        fail("a finite float", value)
    return value


def optional(inner: Check) -> Check:
    """What `inner` takes, or None."""
    return lambda value: None if value is None else inner(value)


def one_of(*values: str) -> Check:
    """One of these texts."""

    def check(value: Any) -> str:
        if type(value) is not str or value not in values:
            fail(f"one of {', '.join(values)}", value)
        return value

    return check


def many(inner: Check, limit: int = 65_536) -> Check:
    """An array of what `inner` takes, of at most `limit` items."""

    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple or len(value) > limit:
            fail(f"an array of at most {limit}", value)
        return tuple([inner(item) for item in value])

    return check


def record(make: Callable[..., Any], *checks: Check) -> Check:
    """An array with one field for each of `checks`, made into `make(*fields)`."""

    def check(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(checks):
            fail(f"an array of {len(checks)}", value)
        return make(*[inner(item) for inner, item in zip(checks, value, strict=True)])

    return check


def plain(*values: Any) -> tuple[Any, ...]:
    """The fields themselves, in a tuple."""
    return values


def tree(value: Any, depth: int = 0) -> Any:
    """Plain data for queries: None, bool, int, float, str, bytes, arrays and maps with text keys."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if depth > 16:
        raise ProtocolError("nested too deeply")
    if type(value) is tuple:
        return [tree(item, depth + 1) for item in value]
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                fail("a text key", key)
        return {key: tree(item, depth + 1) for key, item in value.items()}
    fail("plain data", value)


def params(value: Any) -> dict[str, Any]:
    """A map of plain data with text keys."""
    if type(value) is not dict:
        fail("a map", value)
    return tree(value)  # type: ignore[no-any-return]
