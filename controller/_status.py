"""Pure: the controller's answers to questions about itself. Plain data only: they travel as msgpack."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from directview.controller._query import Condition, QueryError, chosen, parse
from directview.controller._registry import Engine, PendingAbort

if TYPE_CHECKING:
    from directview.controller._state import Controller

__all__ = ["QueryError", "answer", "engines_of", "integer", "purge", "wanted"]

_KNOWN: Final = (
    "status",
    "queue_status",
    "db_query",
    "purge",
    "launch",
    "stop",
    "signal",
    "rotate_keys",
    "shutdown",
)
_MOST_LISTED: Final = 20_000
"""Calls that one answer may list: it travels in one header."""
_MOST_STUBBORN: Final = 20
"""Of one engine: whoever asks wants to know which engines are stuck."""


def answer(controller: Controller, what: str, params: dict[str, Any], now: float) -> Any:
    """Answer a query.

    Raises:
        QueryError: the question is unknown, or names an engine that is not there.
    """
    if what == "status":
        return _status(controller, now)
    if what == "queue_status":
        return _queue_status(controller, params)
    raise QueryError(f"unknown query {what!r}; known: {', '.join(_KNOWN)}")


def engines_of(controller: Controller, params: dict[str, Any]) -> list[Engine]:
    """The engines named in `params["targets"]`: a list of ids, or None for all."""
    targets = params.get("targets")
    engines = controller.registry.engines
    if targets is None:
        return [engine for _, engine in sorted(engines.items())]
    if not isinstance(targets, list):
        raise QueryError(f"targets: expected a list of engine ids, got {targets!r:.60}")
    missing = [id for id in targets if type(id) is not int or id not in engines]
    if missing:
        raise QueryError(f"no engine {missing[0]!r}; there are {sorted(engines)}")
    return [engines[id] for id in targets]


def integer(params: dict[str, Any], name: str, default: int | None = None) -> int:
    """The integer `params[name]`."""
    value = params.get(name, default)
    if type(value) is not int or not 1 <= value <= 65_536:
        raise QueryError(f"{name}: expected a positive integer, got {value!r:.60}")
    return value


def _status(controller: Controller, now: float) -> dict[str, Any]:
    registry = controller.registry
    return {
        "cluster": controller.settings.cluster,
        "incarnation": controller.settings.incarnation,
        "policy": controller.settings.policy,
        "uptime": now - controller.started,
        "calls": controller.calls,
        "results": controller.results,
        "meter": controller.meter.contents(),
        "clients": [
            {"pid": client.pid, "hostname": client.hostname, "connected": client.route is not None}
            for client in registry.clients.values()
        ],
        "supervisors": [
            {"pid": supervisor.pid, "hostname": supervisor.hostname}
            for supervisor in registry.supervisors.values()
        ],
        "engines": [_engine(engine) for _, engine in sorted(registry.engines.items())],
        "deaths": controller.deaths.told(),
    }


def _engine(engine: Engine) -> dict[str, Any]:
    info = engine.info
    return {
        "id": engine.id,
        "uuid": engine.uuid.hex(),
        "pid": info.pid if info else None,
        "hostname": info.hostname if info else None,
        "python": info.python if info else None,
        "connected": engine.ready,
        "supervised": bool(engine.supervisor),
        "cancelled": [
            f"{abort.client.hex()}_{abort.seq}_{engine.id}"
            for abort in islice(_stubborn(engine), _MOST_STUBBORN)
        ],
        **_counts(engine),
    }


def _stubborn(engine: Engine) -> Iterator[PendingAbort]:
    """Calls that were cancelled, and run on whatever is done."""
    return (abort for abort in engine.aborts.values() if abort.given_up)


def _counts(engine: Engine) -> dict[str, int]:
    """Calls that wait here, and calls that the engine has been given."""
    return {
        "queue": engine.queue.waiting,
        "tasks": engine.queue.window + engine.queue.running + engine.queue.paused,
        "completed": engine.completed,
    }


def _queue_status(controller: Controller, params: dict[str, Any]) -> dict[str, Any]:
    """As ipyparallel's: for each engine, how many calls wait, how many it has been given and has ended."""
    engines = engines_of(controller, params)
    if not params.get("verbose"):
        counts = {str(engine.id): _counts(engine) for engine in engines}
        return {"unassigned": 0, **counts}
    total = sum([len(engine.queue) for engine in engines])
    if total > _MOST_LISTED:
        raise QueryError(
            f"{total} calls are too many to list (of {_MOST_LISTED}): ask for fewer engines, or for counts"
        )
    lists = {
        str(engine.id): {
            "queue": [
                f"{entry.client.hex()}_{entry.item.seq}_{engine.id}" for entry in engine.queue.entries()
            ],
            "tasks": [f"{client.hex()}_{seq}_{engine.id}" for client, seq in engine.queue.given()],
            "completed": controller.history.completed_on(engine.id, _MOST_LISTED - total),
        }
        for engine in engines
    }
    return {"unassigned": 0, **lists}


# --- the history ------------------------------------------------------------------------------------


def wanted(params: dict[str, Any]) -> tuple[Condition, tuple[str, ...], int]:
    """What a query asks of the history: which records, which of their fields, and after which number.

    Raises:
        QueryError: it is not well put.
    """
    after = params.get("after", 0)
    if type(after) is not int or after < 0:
        raise QueryError(f"after: expected the number of a record, got {after!r:.60}")
    return parse(params.get("query")), chosen(params.get("keys")), after


def purge(controller: Controller, params: dict[str, Any]) -> Condition:
    """Forget calls that have ended, and say which they were.

    They are those of ``msg_ids`` and those on the engines ``targets``; all, where neither is given.

    Raises:
        QueryError: one that is named has not ended.
    """
    msg_ids, targets = params.get("msg_ids"), params.get("targets")
    named = []
    if msg_ids is not None:
        named.append({"msg_id": {"$in": msg_ids}})
    if targets is not None:
        named.append({"engine_id": {"$in": targets}})
    condition = parse({"$or": named} if named else {})
    pending = controller.history.pending_among(msg_ids or ())
    if pending is not None:
        raise QueryError(f"call {pending} has not ended: its record can't be forgotten")
    controller.history.purge(lambda row: condition.test(row[1:]))
    return condition
