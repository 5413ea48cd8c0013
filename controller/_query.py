"""Pure: conditions on records of calls, as users write them: ``{"status": "error", "nbytes": {"$gt": 9}}``.

A condition is a map of fields to values, or to operators and values; all of them must hold. It is checked
once, field by field, so that a record is then only ever compared with a value of its own kind; and it can be
asked of a record here (`test`), or of an SQL database (`sql`), to the same effect: None is equal to None
only, and neither less nor greater than anything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["FIELDS", "Condition", "QueryError", "chosen", "parse"]

FIELDS: Final = (
    "msg_id", "client_uuid", "engine_id", "engine_uuid", "name", "submitted", "started", "completed",
    "received", "status", "nbytes", "result_nbytes",
)  # fmt: skip
"""What a record has, in this order."""
_TEXTS: Final = frozenset({"msg_id", "client_uuid", "engine_uuid", "name", "status"})
_INTEGERS: Final = frozenset({"engine_id", "nbytes", "result_nbytes"})
_MOST_VALUES: Final = 30_000
"""Values in one condition: as many as SQLite takes."""

_COMPARISONS: Final[dict[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "$lt": (operator.lt, "<"),
    "$lte": (operator.le, "<="),
    "$gt": (operator.gt, ">"),
    "$gte": (operator.ge, ">="),
}
_OPERATORS: Final = (*_COMPARISONS, "$eq", "$ne", "$in", "$nin", "$mod", "$exists")
_JUNCTIONS: Final = ("$and", "$or")

Test = Callable[[Sequence[Any]], bool]


class QueryError(ValueError):
    """The question can't be answered; the text says why and what to do."""


class Condition(NamedTuple):
    """Something that a record is, or is not."""

    test: Test
    sql: str
    values: tuple[Any, ...]
    """What stands for the question marks in `sql`."""


def parse(query: object) -> Condition:
    """The condition that a user's query means.

    Raises:
        QueryError: it means none; the text says what is wrong with it.
    """
    condition = _parse(query)
    if len(condition.values) > _MOST_VALUES:
        raise QueryError(f"a query with {len(condition.values)} values; at most {_MOST_VALUES}")
    return condition


def _parse(query: object) -> Condition:
    if not isinstance(query, Mapping):
        raise QueryError(f"a query is a dict of fields and what they are to be, not {query!r:.60}")
    parts = []
    for name, wanted in query.items():
        if name in _JUNCTIONS:
            if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not wanted:
                raise QueryError(f"{name} takes a list of queries, not {wanted!r:.60}")
            parts.append(_joined([_parse(part) for part in wanted], "AND" if name == "$and" else "OR"))
        elif name in FIELDS:
            parts.append(_of_field(name, wanted))
        else:
            raise QueryError(f"a record has no field {name!r:.60}; there is {', '.join(FIELDS)}")
    return _joined(parts, "AND")


def _joined(parts: Sequence[Condition], word: str) -> Condition:
    if not parts:
        return Condition(lambda record: True, "1", ())
    if len(parts) == 1:
        return parts[0]
    tests = [part.test for part in parts]
    every = all if word == "AND" else any
    return Condition(
        lambda record: every(test(record) for test in tests),
        f"({f' {word} '.join([part.sql for part in parts])})",
        tuple([value for part in parts for value in part.values]),
    )


def _of_field(name: str, wanted: object) -> Condition:
    if not isinstance(wanted, Mapping):
        return _equal(name, wanted)
    if not wanted:
        raise QueryError(f"{name}: no operator; there is {', '.join(_OPERATORS)}")
    return _joined([_operated(name, sign, value) for sign, value in wanted.items()], "AND")


def _operated(name: str, sign: object, value: Any) -> Condition:
    place = FIELDS.index(name)
    match sign:
        case "$eq":
            return _equal(name, value)
        case "$ne":
            return _not(_equal(name, value))
        case "$in":
            return _among(name, value)
        case "$nin":
            return _not(_among(name, value))
        case "$exists":
            there = Condition(lambda record: record[place] is not None, f"{name} IS NOT NULL", ())
            return there if value else _not(there)
        case "$mod":
            return _remains(name, value)
        case str() if sign in _COMPARISONS:
            _check(name, value)
            if value is None:
                raise QueryError(f"{name}: nothing is {sign} None; ask for {{'$exists': True}}")
            compare, symbol = _COMPARISONS[sign]
            return Condition(
                lambda record: record[place] is not None and compare(record[place], value),
                f"coalesce({name} {symbol} ?, 0)",
                (value,),
            )
        case _:
            raise QueryError(f"{name}: no operator {sign!r:.60}; there is {', '.join(_OPERATORS)}")


def _equal(name: str, value: Any) -> Condition:
    place = FIELDS.index(name)
    _check(name, value)
    return Condition(lambda record: record[place] == value, f"{name} IS ?", (value,))


def _among(name: str, values: Any) -> Condition:
    place = FIELDS.index(name)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise QueryError(f"{name}: $in and $nin take a list of values, not {values!r:.60}")
    for value in values:
        _check(name, value)
    known = frozenset(values)
    asked = [value for value in values if value is not None]
    inside = f"{name} IN ({', '.join('?' * len(asked))})"
    if name != "msg_id":  # never NULL, and found by its index as it stands
        inside = f"coalesce({inside}, 0)"
    if None in known:
        inside += f" OR {name} IS NULL"
    return Condition(lambda record: record[place] in known, f"({inside})", tuple(asked))


def _remains(name: str, value: Any) -> Condition:
    place = FIELDS.index(name)
    if name not in _INTEGERS:
        raise QueryError(f"{name}: $mod is for {', '.join(sorted(_INTEGERS))}")
    numbers = list(value) if isinstance(value, Sequence) else []
    if [type(number) for number in numbers] != [int, int] or numbers[0] < 1:
        raise QueryError(f"{name}: $mod takes [divisor, remainder], not {value!r:.60}")
    divisor, remainder = numbers
    return Condition(
        lambda record: record[place] is not None and record[place] % divisor == remainder,
        f"coalesce({name} % ? = ?, 0)",
        (divisor, remainder),
    )


def _not(condition: Condition) -> Condition:
    test = condition.test
    return Condition(lambda record: not test(record), f"NOT {condition.sql}", condition.values)


def _check(name: str, value: Any) -> None:
    """A field is compared with its own kind."""
    kinds: tuple[type, ...] = (float, int)
    kind = "a number, or a datetime"
    if name in _TEXTS:
        kinds, kind = (str,), "text"
    elif name in _INTEGERS:
        kinds, kind = (int,), "an integer"
    if value is None:
        return
    if not isinstance(value, kinds) or isinstance(value, bool) or (type(value) is int and value >> 63):
        raise QueryError(f"{name} is {kind}: it can't be compared with {value!r:.60}")


def chosen(keys: object) -> tuple[str, ...]:
    """The fields that a user wants of each record: all, if it is None; and always its msg_id.

    Raises:
        QueryError: there is no such field.
    """
    if keys is None:
        return FIELDS
    named = [keys] if isinstance(keys, str) else keys
    if not isinstance(named, Sequence):
        raise QueryError(f"keys: expected a list of fields, not {keys!r:.60}")
    for key in named:
        if key not in FIELDS:
            raise QueryError(f"a record has no field {key!r:.60}; there is {', '.join(FIELDS)}")
    return tuple([field for field in FIELDS if field in named or field == "msg_id"])
