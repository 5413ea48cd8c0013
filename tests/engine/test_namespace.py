"""Which names a function finds that a client has sent; each kind that people send, and both known limits."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from directview.engine._namespace import PLAIN, Namespace
from directview.engine._overlay import Layouts
from directview.wire import objects
from tests.engine.functions_of_a_client import ROOT, Engine, Packed, h

RIGHT: dict[str, Any] = {
    "simple": h(4),
    "through_lambda": h(4),
    "comprehension": h(3),
    "generator_expression": sum(map(h, range(4))),
    "nested": h(4) + 3,
    "class_inside": h(4) + h(1),
    "imports": h(4) + 2,
    "stores_global": h(4),
    "defines_global": h(1) + 4,
    "factorial": 24,
    "ping": 4,
    "pong": 4,
    "helper_of_helper": h(4) + 10,
    "generator": [h(i) for i in range(4)],
    "coroutine": h(h(3)),
    "async_generator": [h(i) for i in range(4)],
    "in_thread": h(4),
    "in_default": h(4),
    "in_keyword_default": h(4),
    "maps": h(3),
    "sorts": 3,
    "looks_at_globals": (False, True),
    "undefined": "name 'undefined_name' is not defined",
    "uses_builtins": 4,
    "decorated": h(4) + 3,
    "partial": h(4) + 3,
    "bound_method": h(4) + 7 + 5,
    "static_method": h(4),
    "class_method": h(4) + 7,
    "dataclass_method": h(4),
    "closure": h(4) + 100,
    "lambda": h(4),
    "enum_method": h(1),
}

WITHOUT_ARGUMENT = {"partial", "dataclass_method", "enum_method"}


@pytest.mark.parametrize("kind", RIGHT)
def test_each_kind_of_function_sees_the_engines_names_then_its_own(
    kind: str, packed: Packed, engine: Engine
) -> None:
    before = set(engine.namespace.names)
    args = () if kind in WITHOUT_ARGUMENT else (4,)
    for _ in range(3):  # unpickled, and cast from its mould
        assert engine.call(packed[kind], *args) == RIGHT[kind]
    assert set(engine.namespace.names) - before <= {"stored", "defined"}
    assert engine.namespace.names["__builtins__"] is builtins or kind == "defines_global"


def test_functions_inside_arguments_see_them_too(packed: Packed, engine: Engine) -> None:
    (args, kwargs), overlay = engine.namespace.load(*packed["in_arguments"])
    assert kwargs == {}
    assert [engine.run(overlay, f, 4) for f in args[0]] == [h(4), h(4)]


def test_a_function_made_on_the_engine_takes_its_names_home(packed: Packed, engine: Engine) -> None:
    made = engine.call(packed["returns_function"], 4)
    data, buffers = engine.namespace.dumps(made)
    assert objects.loads(data, buffers)(4) == h(4) + 4


@pytest.mark.parametrize("kind", ["name_in_eval", "name_in_exec"])
def test_known_limit_a_name_that_stands_only_in_a_string_does_not_travel(
    kind: str, packed: Packed, engine: Engine
) -> None:
    with pytest.raises(NameError, match="scaled"):
        engine.call(packed[kind], 4)
    engine.namespace.names["scaled"] = lambda x: -x
    assert engine.call(packed[kind], 4) == -4


def test_every_kind_is_accounted_for() -> None:
    assert len(RIGHT) + 2 + 2 == 37  # with those in arguments and going home, and both limits


# --- what a call leaves behind ------------------------------------------------------------------------


def test_global_statements_write_to_the_namespace(packed: Packed, engine: Engine) -> None:
    engine.call(packed["stores_global"], 4)
    assert engine.namespace.names["stored"] == h(4)


def test_a_function_that_stays_finds_its_names_in_later_calls(packed: Packed, engine: Engine) -> None:
    engine.call(packed["defines_global"], 4)
    engine.execute("later = defined(2)")
    assert engine.namespace.names["later"] == h(2) + 4

    (args, _), overlay = engine.namespace.load(*packed["pushed"])
    engine.run(overlay, engine.namespace.names.update, *args)
    engine.execute("pushed = f(4); method = Derived().method(4)")
    assert engine.namespace.names["pushed"] == sum(map(h, range(4)))
    assert engine.namespace.names["method"] == h(4) + 7 + 5
    # Also from another call, with names of its own.
    made = engine.call(packed["returns_function"], 4)
    engine.namespace.names["g"] = made
    engine.execute("both = g(1), f(2)")
    assert engine.namespace.names["both"] == (h(1) + 4, h(0) + h(1))


def test_what_came_with_a_function_goes_when_the_function_goes(packed: Packed, engine: Engine) -> None:
    (args, _), overlay = engine.namespace.load(*packed["pushed"])
    engine.run(overlay, engine.namespace.names.update, *args)
    engine.execute("scaled")  # under everything else
    engine.execute("del f, Derived")
    with pytest.raises(NameError):
        engine.execute("scaled")
    assert engine.namespace.names["__builtins__"] is builtins


def test_helpers_are_no_names_of_the_namespace(packed: Packed, engine: Engine) -> None:
    engine.call(packed["helper_of_helper"], 4)
    assert "scaled" not in engine.namespace.names
    with pytest.raises(NameError):
        engine.execute("scaled")


# --- nothing passes from one call to another ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["counts_on_itself", "counts_on_helper", "counting", "hit"])
def test_state_does_not_pass_from_one_call_to_the_next(kind: str, packed: Packed, engine: Engine) -> None:
    assert [engine.call(packed[kind]) for _ in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["appends", "appends_to_global"])
def test_mutable_defaults_and_globals_arrive_fresh(kind: str, packed: Packed, engine: Engine) -> None:
    assert [engine.call(packed[kind], 1) for _ in range(4)] == [1, 1, 1, 1]


def test_calls_that_were_loaded_together_share_nothing(packed: Packed, engine: Engine) -> None:
    loaded = [engine.namespace.load(*packed["counts_on_helper"]) for _ in range(4)]
    assert [engine.run(overlay, function) for function, overlay in loaded] == [1, 1, 1, 1]
    counters = [engine.namespace.load(*packed["counting"]) for _ in range(4)]
    assert [engine.run(overlay, function) for function, overlay in counters] == [1, 1, 1, 1]


def test_a_cast_function_is_like_an_unpickled_one(packed: Packed, engine: Engine) -> None:
    first, _ = engine.namespace.load(*packed["annotated"])
    second, _ = engine.namespace.load(*packed["annotated"])
    assert second is not first
    assert second.__code__ is first.__code__  # it was cast
    for field in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__kwdefaults__"):
        assert getattr(second, field) == getattr(first, field)
    second.__annotations__["x"] = second.__kwdefaults__["y"] = None
    third, _ = engine.namespace.load(*packed["annotated"])
    assert third.__annotations__["x"] is int
    assert third.__kwdefaults__ == {"y": 2.0}
    assert vars(third) == {}


@pytest.mark.parametrize("kind", ["trivial", "simple", "closure", "decorated", "counts_on_helper"])
def test_a_burst_of_the_same_function_is_not_unpickled_again(
    kind: str, packed: Packed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = engine.namespace.load(*packed[kind])
    monkeypatch.setattr(Namespace, "_load", None)
    again, _ = engine.namespace.load(*packed[kind])
    assert again is not first
    assert again.__code__ is first.__code__


@pytest.mark.parametrize("exceptions", [False, True])
@pytest.mark.parametrize("kind", ["trivial", "simple", "closure", "decorated"])
def test_what_a_map_sends_is_unpickled_once(
    kind: str, exceptions: bool, packed: Packed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = packed[f"map_{kind}_{exceptions}"]
    expected = [engine.call(packed[kind], x) for x in (1, 2)]
    assert engine.call(mapped, [1, 2]) == expected
    monkeypatch.setattr(Namespace, "_load", None)
    first, _ = engine.namespace.load(*mapped)
    second, _ = engine.namespace.load(*mapped)
    assert first.args[0] is not second.args[0]
    assert engine.call(mapped, [1, 2]) == expected


@pytest.mark.parametrize("exceptions", [False, True])
def test_state_does_not_pass_from_one_chunk_of_a_map_to_the_next(
    exceptions: bool, packed: Packed, engine: Engine
) -> None:
    for kind in ("counts_on_helper", "counting", "hit"):
        for _ in range(3):
            function, overlay = engine.namespace.load(*packed[f"map_{kind}_{exceptions}"])
            assert engine.run(overlay, function, []) == []
            assert [engine.run(overlay, function.args[0]) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("exceptions", [False, True])
def test_a_map_may_store_a_global(exceptions: bool, packed: Packed, engine: Engine) -> None:
    for x in (1, 2, 3):
        assert engine.call(packed[f"map_stores_global_{exceptions}"], [x]) == [h(x)]
        assert engine.namespace.names["stored"] == h(x)


def test_moulds_are_bounded(packed: Packed, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("directview.engine._namespace._MOULDS", 3)
    for kind in RIGHT:
        engine.namespace.load(*packed[kind])
    assert len(engine.namespace._moulds) <= 3


# --- names too large to travel ------------------------------------------------------------------------


def test_a_large_global_does_not_travel(packed: Packed) -> None:
    assert len(packed["needs_big"][0]) < 2000
    assert packed["needs_big"][1] == []


@pytest.mark.parametrize("kind", ["needs_big", "needs_big_inside"])
def test_its_name_error_says_that_the_client_has_it(kind: str, packed: Packed, engine: Engine) -> None:
    for told in (True, False):
        function, overlay = engine.namespace.load(*packed[kind])
        with pytest.raises(NameError) as caught:
            engine.run(overlay, function)
        engine.namespace.explain(caught.value, overlay if told else None)
        engine.namespace.explain(caught.value)
        (note,) = caught.value.__notes__
        assert "'big' (16 MB)" in note
        assert "view.push({'big': big})" in note


def test_another_name_error_is_left_alone(packed: Packed, engine: Engine) -> None:
    engine.namespace.load(*packed["needs_big"])
    with pytest.raises(NameError) as caught:
        engine.execute("nowhere")
    engine.namespace.explain(caught.value)
    assert not hasattr(caught.value, "__notes__")


def test_the_explanation_reaches_into_causes_and_groups(packed: Packed, engine: Engine) -> None:
    engine.namespace.load(*packed["needs_big"])
    inner = NameError("name 'big' is not defined", name="big")
    outer = ValueError("outer")
    outer.__cause__ = inner
    engine.namespace.explain(ExceptionGroup("both", [KeyError(), outer]))
    assert "16 MB" in inner.__notes__[0]


def test_once_pushed_it_is_found(packed: Packed, engine: Engine) -> None:
    engine.namespace.names["big"] = b"12"
    assert engine.call(packed["needs_big"]) == 2


# --- overlays -----------------------------------------------------------------------------------------


def test_what_nothing_came_with_runs_with_plain_builtins(packed: Packed, engine: Engine) -> None:
    function, overlay = engine.namespace.load(*packed["trivial"])
    assert overlay is PLAIN
    assert function.__builtins__ is vars(builtins)
    assert engine.namespace.load(pickle.dumps(((1,), {}))) == (((1,), {}), PLAIN)


def test_function_and_arguments_each_keep_their_names_in_one_call(packed: Packed, engine: Engine) -> None:
    function, first = engine.namespace.load(*packed["factorial"])
    (args, _), second = engine.namespace.load(*packed["in_arguments"])
    together = engine.namespace.merge(first, second)
    assert set(together.names) >= {"factorial", "scaled", "FACTOR"}
    assert engine.run(together, args[0][1], 4) == h(4)
    assert engine.run(together, function, 4) == 24
    assert engine.namespace.merge(PLAIN, second) is second
    assert engine.namespace.merge(first, PLAIN) is first
    assert engine.namespace.merge(first, first) is first


def test_a_changed_builtin_is_seen(packed: Packed, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed["class_inside"]
    assert engine.call(data, 4) == RIGHT["class_inside"]
    monkeypatch.setattr(builtins, "range", lambda n: [10], raising=True)
    assert engine.call(packed["comprehension"], 4) == h(10)
    assert engine.call(packed["comprehension"], 4) == h(10)
    monkeypatch.undo()
    assert engine.call(packed["comprehension"], 4) == h(3)


MANY_OVERLAYS = """
import builtins
from dis import get_instructions
from directview.engine._mould import make_function
from directview.engine._overlay import Layouts

layouts = Layouts()
source = "def f(n):\\n  for i in range(n): len; first\\n"
namespace = {"__builtins__": builtins}
exec(source, namespace)
code = namespace["f"].__code__
for number in range(35_000):
    remade = dict(vars(builtins))
    layouts.remake(remade, {"first": number})
    for made in (layouts.make({"first": number}), remade):
        assert made["first"] == number
        make_function(namespace, made, code.replace())(20)
fresh = {"first": 1}
exec(source, fresh)
fresh["f"](200)
for instruction in get_instructions(fresh["f"], adaptive=True):
    if instruction.argval in ("len", "first"):
        print(instruction.opname)
print(len(layouts))
"""


def test_any_number_of_overlays_leaves_global_look_ups_fast() -> None:
    """CPython has 65,535 numbers for the key sets of such dictionaries, and takes none back."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", MANY_OVERLAYS], capture_output=True, env=environment, check=False, text=True
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["LOAD_GLOBAL_BUILTIN", "LOAD_GLOBAL_MODULE", "1"]


def test_layouts_are_bounded() -> None:
    layouts = Layouts(limit=4)
    for number in range(20):
        assert layouts.make({f"name{number}": number})[f"name{number}"] == number
    assert len(layouts) == 4


# --- the module ---------------------------------------------------------------------------------------


@pytest.fixture
def installed(engine: Engine) -> Iterator[Engine]:
    main = sys.modules["__main__"]
    engine.namespace.install()
    yield engine
    sys.modules["__main__"] = main


def test_classes_made_by_executed_code_travel_by_value(installed: Engine) -> None:
    installed.execute(
        "class Point:\n  def __init__(self, x): self.x = x\n  def twice(self): return 2 * self.x"
    )
    installed.execute("import __main__; found = __main__.Point is Point; p = Point(4)")
    assert installed.namespace.names["found"] is True
    data, buffers = installed.namespace.dumps(installed.namespace.names["p"])
    here = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).twice())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", here], input=data, capture_output=True, env=environment, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (b"8", b"")
    assert buffers == []


def test_what_is_missing_here_is_said_with_the_remedy(engine: Engine) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        engine.namespace.load(b"cnosuchmodule_anywhere\nf\n.")
    assert "register_pickle_by_value" in caught.value.__notes__[0]


def test_builtins_deleted_by_the_user_come_back(packed: Packed, engine: Engine) -> None:
    engine.execute("del __builtins__")
    assert engine.call(packed["simple"], 4) == h(4)
    engine.namespace.names.pop("__builtins__")
    assert engine.call(packed["simple"], 4) == h(4)
