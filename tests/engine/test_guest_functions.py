"""Functions that travel by value from a module other than ``__main__``: lambdas and nested functions here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from directview.engine._namespace import Namespace
from directview.engine._steps import Steps
from directview.wire.objects import dump_arguments, dump_function

SCALE = 3


def call(names: dict[str, Any], f: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, Any]]:
    """The result of `f` on an engine whose namespace holds `names`, and what is there afterwards."""
    namespace = Namespace()
    namespace.names.update(names)
    before = set(namespace.names)
    value, _ = Steps(namespace).run_loaded(
        (b"c" * 16, 1), namespace, dump_function(f), dump_arguments(args, {})
    )
    left = {name: value for name, value in namespace.names.items() if name not in before or name in names}
    return value, left


def test_finds_what_its_own_module_lacks_in_the_namespace() -> None:
    value, left = call({"a": 5, "b": 10}, lambda x: a + b + x, 27)  # type: ignore[name-defined]
    assert value == 42
    assert left == {"a": 5, "b": 10}


def test_prefers_what_travelled_with_it_to_the_namespace() -> None:
    value, _ = call({"SCALE": 100}, lambda x: x * SCALE, 2)
    assert value == 6


def test_functions_made_while_it_runs_see_the_same() -> None:
    def outer(x: int) -> Any:
        def inner(y: int) -> Any:
            return [a * SCALE + z for z in range(y)]  # type: ignore[name-defined]

        return (lambda: inner(x))()

    assert call({"a": 1}, outer, 2)[0] == [3, 4]


def test_builtins_come_last_and_can_be_shadowed_by_the_namespace() -> None:
    assert call({}, lambda: len("abc"))[0] == 3
    assert call({"len": lambda s: 7}, lambda: len("abc"))[0] == 7


def test_a_name_that_is_nowhere_is_an_ordinary_name_error() -> None:
    def missing() -> str:
        try:
            return str(nowhere)  # type: ignore[name-defined]
        except NameError as error:
            return str(error)

    assert call({}, missing)[0] == "name 'nowhere' is not defined"


def test_global_statements_write_to_the_namespace_and_leave_nothing_else() -> None:
    def setting(x: int) -> int:
        global made_there
        made_there = x * SCALE  # type: ignore[name-defined]
        return made_there  # type: ignore[name-defined,no-any-return]

    value, left = call({}, setting, 2)
    assert (value, left) == (6, {"made_there": 6})


def test_counts_up_what_is_in_the_namespace() -> None:
    def count() -> int:
        global counter
        counter = counter + 1  # type: ignore[name-defined]
        return counter  # type: ignore[name-defined,no-any-return]

    value, left = call({"counter": 4}, count)
    assert (value, left) == (5, {"counter": 5})
