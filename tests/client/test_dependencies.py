"""What a call asks of its engine: references, requirements, conditions. On a bound namespace, engine-less."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import math
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from directview import operations
from directview.dependencies import Reference, depend, dependent, interactive, require
from directview.errors import UnmetDependency
from directview.wire.objects import dumps, loads


@pytest.fixture
def names() -> dict[str, Any]:
    """A bound namespace, as on an engine."""
    bound: dict[str, Any] = {"__name__": "__main__"}
    operations.bind(bound, engine_id=3)
    return bound


def on_the_client(f: Callable[[], Any]) -> Any:
    return contextvars.Context().run(f)


def arrived(obj: object) -> Any:
    """What arrives on the engine when the client sends `obj`."""
    packed = dumps(obj)
    return loads(packed.data, packed.buffers)


# --- references -----------------------------------------------------------------------------------------


def test_a_reference_arrives_as_what_it_stands_for_at_any_depth(names: dict[str, Any]) -> None:
    names["a"] = [1, 2]
    sent = {"x": [Reference("a"), (Reference("a[1]"), {"y": Reference(" len(a) ")})]}
    found = arrived(sent)
    assert found == {"x": [[1, 2], (2, {"y": 2})]}
    assert found["x"][0] is names["a"]
    names["a"] = None
    assert arrived(sent[("x")][0]) is None


def test_a_reference_stays_one_where_there_is_no_engine(names: dict[str, Any]) -> None:
    there = Reference("a.b")
    back = on_the_client(lambda: pickle.loads(pickle.dumps(there)))
    assert (type(back), back.name) == (Reference, "a.b")
    assert back == there
    assert hash(back) == hash(there)
    assert there != Reference("a")
    assert there != "a.b"
    assert copy.copy(there) is copy.deepcopy([there])[0] is there
    assert repr(there) == "<Reference: 'a.b'>"


def test_a_reference_to_nothing_says_which_it_was(names: dict[str, Any]) -> None:
    for expression, error in ("nope", NameError), ("names.x", AttributeError):
        names["names"] = 1
        with pytest.raises(error) as caught:
            arrived(Reference(expression))
        assert f"by Reference({expression!r})" in caught.value.__notes__[0]


def test_a_reference_is_made_of_an_expression() -> None:
    with pytest.raises(TypeError, match="not 7"):
        Reference(7)  # type: ignore[arg-type]
    with pytest.raises(SyntaxError):
        Reference("a b")
    with pytest.raises(SyntaxError):
        Reference("a = 1")


# --- require --------------------------------------------------------------------------------------------


def test_required_modules_are_imported_into_the_namespace(names: dict[str, Any]) -> None:
    @require("json", math, "os.path", "os.path as p")
    def f() -> str:
        return "ran"

    assert arrived(f)() == "ran"
    import json
    import os

    assert (names["json"], names["math"], names["os"], names["p"]) == (json, math, os, os.path)


def test_required_objects_are_set_in_the_namespace(names: dict[str, Any]) -> None:
    def helper() -> int:
        return 2

    f = require(helper, dict, k=[1])(lambda: 1)
    assert arrived(f)() == 1
    assert names["helper"]() == 2
    assert names["k"] == [1]
    assert names["dict"] is dict


def test_names_are_there_in_a_function_that_was_imported(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its globals are its module's; what the module has by that name stays."""
    (tmp_path / "dv_module_with_f.py").write_text(
        "math = 'mine'\ndef f():\n    return re.findall('a', 'ba'), math\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import dv_module_with_f as module  # type: ignore[import-not-found]

    assert arrived(require("re", "math")(module.f))() == (["a"], "mine")
    assert arrived(functools.partial(require("re")(functools.partial(module.f))))() == (["a"], "mine")


def test_what_cannot_be_imported_keeps_the_function_from_running(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the import raises."""
    ran = []

    def f() -> None:
        ran.append(1)

    with pytest.raises(UnmetDependency, match=r"f was not run: it requires 'dv_no_such.*ModuleNotFoundError"):
        require("math", "dv_no_such_module")(f)()
    (tmp_path / "dv_broken_module.py").write_text("1/0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnmetDependency, match="ZeroDivisionError") as caught:
        require("dv_broken_module")(f)()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert ran == []
    assert "math" not in names


def test_modules_travel_by_name() -> None:
    assert b"findall" not in dumps(require("re", math)(len)).data


def test_require_takes_modules_and_named_things() -> None:
    with pytest.raises(TypeError, match=r"pass a list by keyword.*require\(name=\[1\]\)"):
        require([1])
    with pytest.raises(TypeError, match="pass a function by keyword"):
        require(lambda: 1)
    for text in ("", "a b", "a.", "numpy as", "a as b.c"):
        with pytest.raises(ValueError, match="is not the name of a module"):
            require(text)
    with pytest.raises(TypeError, match="needs functions, not int"):
        require("re")(7)  # type: ignore[arg-type]


# --- depend ---------------------------------------------------------------------------------------------


def test_a_condition_decides_on_the_engine(names: dict[str, Any]) -> None:
    def above(limit: int, *, name: str) -> bool:
        return bool(operations.pull(name) > limit)

    f = depend(above, 3, name="a")(lambda x: x + 1)
    names["a"] = 4
    assert arrived(f)(1) == 2
    names["a"] = 3
    with pytest.raises(UnmetDependency, match="above said no"):
        arrived(f)(1)


def test_a_condition_may_say_why_or_nothing(names: dict[str, Any]) -> None:
    def refuse() -> None:
        raise UnmetDependency("not here")

    with pytest.raises(UnmetDependency, match="not here"):
        depend(refuse)(len)("a")
    assert depend(lambda: None)(len)("a") == 1


def test_a_condition_is_a_plain_function(names: dict[str, Any]) -> None:
    async def condition() -> bool:
        return True

    with pytest.raises(TypeError, match="condition, a condition, must be a plain function"):
        depend(condition)(len)("a")


def test_on_the_client_it_is_the_plain_function() -> None:
    f = depend(lambda: False)(lambda x: x + 1)
    assert on_the_client(lambda: f(1)) == 2
    with pytest.raises(UnmetDependency):
        on_the_client(f.check_dependency)


def test_it_looks_like_the_function() -> None:
    def f(x: int, *, y: str = "") -> list[int]:
        """Of x."""
        return [x]

    for made in (require("re")(f), depend(bool, 1)(f), arrived(require("re")(f))):
        assert (made.__name__, made.__doc__) == ("f", "Of x.")
        assert list(inspect.signature(made).parameters) == ["x", "y"]
        assert isinstance(made, dependent)
        assert repr(made) == "<dependent f>"


def test_coroutine_functions_stay_awaitable(names: dict[str, Any]) -> None:
    async def f(x: int) -> int:
        return x + 1

    async def main() -> int:
        return int(await arrived(require("math")(f))(1))

    operations_context = contextvars.copy_context()
    assert operations_context.run(asyncio.run, main()) == 2


def test_a_function_may_call_itself_by_its_decorated_name(names: dict[str, Any]) -> None:
    module = types.ModuleType("__main__")
    source = "@require('math')\ndef down(n):\n    return 0 if n == 0 else down(n - 1)\n"
    vars(module)["require"] = require
    exec(source, vars(module))
    found = arrived(vars(module)["down"])
    assert found(3) == 0


# --- interactive ----------------------------------------------------------------------------------------


def test_an_interactive_function_belongs_to_main() -> None:
    bound = 3

    def f(x: int, *, y: int = 1) -> int:
        """Doc."""
        return x + y + bound + here  # type: ignore[name-defined,no-any-return]

    made = interactive(f)
    assert made is not f
    assert made.__globals__ is vars(sys.modules["__main__"])
    assert (made.__name__, made.__doc__, made.__module__) == ("f", "Doc.", "__main__")
    assert f.__module__ == __name__
    assert inspect.signature(made) == inspect.signature(f)
    vars(sys.modules["__main__"])["here"] = 10
    try:
        assert made(1, y=2) == 16
    finally:
        del vars(sys.modules["__main__"])["here"]


def test_what_is_no_function_is_marked() -> None:
    @interactive
    class A:
        pass

    assert A.__module__ == "__main__"
