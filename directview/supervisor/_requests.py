"""Pure: what may be asked of a supervisor on its control socket: one line of JSON, checked field by field.

Whoever can connect is the supervisor's own user, and may stop it. But what is no request must not: an error
that nobody has thought of would end the supervisor, and with it the cluster.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

__all__ = [
    "MOST_ENGINES",
    "Detach",
    "Request",
    "RestartEngines",
    "SignalEngines",
    "StartEngines",
    "Status",
    "Stop",
    "StopEngines",
    "parse",
]

MOST_ENGINES: Final = 4096
"""That one request may start: more than any host has use for."""
_MOST_REASON: Final = 1000
_SIGNALS: Final = range(1, 65)
_MOST_ID: Final = 1 << 20


class Status(NamedTuple):
    """How are you?"""


class Stop(NamedTuple):
    """End the cluster."""

    reason: str


class Detach(NamedTuple):
    """Live on without the launcher."""


class StartEngines(NamedTuple):
    """Start that many."""

    n: int


class RestartEngines(NamedTuple):
    """Replace these: uuid, and the id to keep."""

    engines: tuple[tuple[bytes, int], ...]


class StopEngines(NamedTuple):
    """Stop these; None: all."""

    uuids: tuple[bytes, ...] | None


class SignalEngines(NamedTuple):
    """Send these a signal; None: all."""

    signum: int
    uuids: tuple[bytes, ...] | None


Request = Status | Stop | Detach | StartEngines | RestartEngines | StopEngines | SignalEngines


def parse(line: bytes) -> Request:
    """One request.

    Raises:
        ValueError: it is none; the text says what is wrong with it.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no line of JSON: {error}") from None
    match found:
        case {"do": "status"}:
            return Status()
        case {"do": "stop"}:
            return Stop(_text(found.get("reason", "it was asked to stop")))
        case {"do": "detach"}:
            return Detach()
        case {"do": "start"}:
            return StartEngines(_number(found.get("n"), "n", range(1, MOST_ENGINES + 1)))
        case {"do": "restart-engines", "engines": list(engines)}:
            return RestartEngines(tuple([_engine(pair) for pair in engines]))
        case {"do": "stop-engines"}:
            return StopEngines(_uuids(found.get("uuids")))
        case {"do": "signal"}:
            return SignalEngines(_number(found.get("signum"), "signum", _SIGNALS), _uuids(found.get("uuids")))
        case _:
            raise ValueError(f"the supervisor knows no request like {found!r:.200}")


def _number(value: Any, name: str, allowed: range) -> int:
    if type(value) is not int or value not in allowed:
        wanted = f"a whole number from {allowed[0]} to {allowed[-1]}"
        raise ValueError(f"{name} must be {wanted}, not {value!r:.40}")
    return value


def _text(value: Any) -> str:
    """Text that can be sent on: JSON may have halves of characters in it."""
    return str(value)[:_MOST_REASON].encode("utf-8", "replace").decode("utf-8")


def _engine(pair: Any) -> tuple[bytes, int]:
    if type(pair) is not list or len(pair) != 2:
        raise ValueError(f"engines must be pairs of uuid and id, not {pair!r:.100}")
    return _uuid(pair[0]), _number(pair[1], "the id", range(-1, _MOST_ID))


def _uuids(value: Any) -> tuple[bytes, ...] | None:
    if value is None:
        return None
    if type(value) is not list:
        raise ValueError(f"uuids must be a list, not {value!r:.100}")
    return tuple([_uuid(uuid) for uuid in value])


def _uuid(value: Any) -> bytes:
    try:
        uuid = bytes.fromhex(value)
    except (ValueError, TypeError):
        uuid = b""
    if len(uuid) != 16:
        raise ValueError(f"an engine's uuid is 32 hex digits, not {value!r:.60}")
    return uuid
