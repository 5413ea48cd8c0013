"""Functions and classes travel whole: what goes along, and which pickle is kept for the next call."""

from __future__ import annotations

import dataclasses
import enum
import functools
import gc
import math
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest

from directview.wire import by_value, objects
from directview.wire.by_value import GLOBAL_BYTES, size_of
from directview.wire.function_cache import FunctionCache, take_snapshot
from directview.wire.objects import dump_function, dumps, loads

ROOT = Path(__file__).resolve().parents[2]


def received(packed: objects.Packed) -> Any:
    """Rebuilt on buffers as they arrive: writable, and other memory."""
    return loads(packed.data, [memoryview(bytearray(buffer)) for buffer in packed.buffers])


def there_and_back(obj: Any) -> Any:
    return received(dumps(obj))


# --- functions and classes ------------------------------------------------------------------------------


def in_main(source: str, **names: Any) -> dict[str, Any]:
    """Globals of a ``__main__`` in which `source` has run."""
    found: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, found)
    return found


def test_functions_and_classes_of_main_never_travel_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = in_main("def f(x): return x + 1\nclass C:\n  def m(self): return f(1)\n")
    for name in ("f", "C"):
        monkeypatch.setattr(sys.modules["__main__"], name, names[name], raising=False)
        assert pickle.loads(pickle.dumps(names[name])) is names[name]  # plain pickle is content with the name
    packed = dumps([names["f"], names["C"](), [names["C"]]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = "import pickle, sys; f, c, (C,) = pickle.load(sys.stdin.buffer); print(f(1), c.m(), C().m())"
    done = subprocess.run(
        [sys.executable, "-c", program], input=packed.data, capture_output=True, env=environment, check=False
    )
    assert (done.stdout.split(), done.stderr) == ([b"2", b"2", b"2"], b"")


def test_lambdas_closures_methods_and_partials() -> None:
    k = 3

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

        def method(self) -> int:
            return self.x * k

    f, g, method, part = there_and_back(
        [lambda x: x + k, math.sin, Local(2).method, functools.partial(lambda x, y: x - y, 10)]
    )
    assert (f(1), method(), part(3)) == (4, 6, 7)
    assert g is math.sin


def test_recursion_and_functions_with_the_same_globals() -> None:
    names = in_main(
        "def even(n): return True if n == 0 else odd(n - 1)\n"
        "def odd(n): return False if n == 0 else even(n - 1)\n"
    )
    even, odd = there_and_back((names["even"], names["odd"]))
    assert even(10)
    assert not odd(10)
    assert even.__globals__ is odd.__globals__
    assert even.__globals__["odd"] is odd


def test_fields_of_a_function_arrive() -> None:
    names = in_main('def f(a, b=[1], *, c={2: 3}) -> int:\n  "Documented."\n  return a\nf.mark = 5\n')
    f, again = names["f"], there_and_back(names["f"])
    assert again is not f
    for field in ("__name__", "__qualname__", "__doc__", "__defaults__", "__kwdefaults__", "__annotations__"):
        assert getattr(again, field) == getattr(f, field)
    assert again.mark == 5


def test_a_closure_that_is_not_filled_yet() -> None:
    def outer() -> Callable[[], int]:
        def inner() -> int:
            return later

        sent: Callable[[], int] = there_and_back(inner)
        later = 1
        assert inner() == 1
        return sent

    with pytest.raises(NameError):
        outer()()


def test_submodules_that_a_function_uses_are_imported_there() -> None:
    names = in_main("import xml\nimport xml.dom.minidom\ndef f(): return xml.dom.minidom.__name__\n")
    packed = dumps(names["f"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer)())"
    done = subprocess.run(
        [sys.executable, "-c", program], input=packed.data, capture_output=True, env=environment, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (b"xml.dom.minidom", b"")


@pytest.fixture
def by_value_module() -> Iterator[ModuleType]:
    module = ModuleType("registered_for_tests")
    exec("table = list(range(50000))\ndef f(): return len(table)\nclass C: pass\n", module.__dict__)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def test_registered_modules_travel_by_value(by_value_module: ModuleType) -> None:
    by_name = dump_function(by_value_module.f)
    assert len(by_name.data) < 100
    cloudpickle.register_pickle_by_value(by_value_module)
    try:
        packed = dump_function(by_value_module.f)
        parts = dumps([by_value_module.f, by_value_module.C])
        del sys.modules[by_value_module.__name__]
        # Its globals are its own, and come whole: there is no namespace to find them in.
        assert received(packed)() == 50_000
        f, cls = received(parts)
        assert f() == 50_000
        assert cls.__name__ == "C"
    finally:
        sys.modules[by_value_module.__name__] = by_value_module
        cloudpickle.unregister_pickle_by_value(by_value_module)
    assert dump_function(by_value_module.f) == by_name


def test_a_class_that_comes_home_is_left_as_it_is() -> None:
    names = in_main("step = 1\nclass C:\n  count = 0\n  def m(self): return step\n")
    cls = names["C"]
    method = cls.m
    sent = dumps(cls())
    cls.count = 5
    home = received(sent)
    assert type(home) is cls
    assert cls.count == 5
    assert cls.m is method
    names["step"] = 2
    assert home.m() == 2


class Colour(enum.Enum):
    RED = 1


def test_enums_by_name_and_by_value() -> None:
    assert there_and_back(Colour.RED) is Colour.RED
    names = in_main("import enum\nclass E(enum.Enum):\n  A = 1\n  def go(self): return self.value\n")
    assert there_and_back(names["E"].A).go() == 1


# --- globals --------------------------------------------------------------------------------------------


def test_small_globals_travel_and_large_ones_do_not() -> None:
    names = in_main(
        "def f(): return small, large, text, items, module, function, cls, helper\n"
        "def helper(): pass\n"
        "class cls: table = bytes(200_000)\n",
        small=np.zeros(100),
        large=np.zeros(2_000_000),
        text="x" * 70_000,
        items=[list(range(1000))] * 200,
        module=np,
        function=np.sum,
    )
    travelling, withheld = by_value.travelling_names(names["f"])
    assert set(travelling) == {"small", "module", "function", "cls", "helper"}
    assert withheld["large"] == 16_000_000
    assert withheld["text"] == pytest.approx(70_000, rel=0.01)
    assert withheld["items"] > GLOBAL_BYTES
    packed = dumps(names["f"])
    assert packed.buffers == []
    with pytest.raises(NameError, match="large"):
        received(packed)()


def test_a_functions_closure_defaults_and_module_globals_travel_whatever_their_size() -> None:
    table = np.arange(50_000)

    def closes_over(i: int, other: Any = table[:20_000]) -> Any:
        return table[i] + other[i]

    packed = dumps(closes_over)
    assert [len(buffer) for buffer in packed.buffers] == [160_000, 400_000]
    assert received(packed)(5) == 10
    elsewhere = in_main("f = lambda: len(big)", __name__="a_module", big=bytes(100_000))
    assert there_and_back(elsewhere["f"])() == 100_000


def test_names_to_be_taken_along() -> None:
    names = in_main("def f(): return a, b\n", a=1)
    again = received(dumps(names["f"], taken={"a": 10, "b": 20, "c": 30}))
    assert again() == (1, 20)
    assert "c" not in again.__globals__


def test_names_that_a_function_finds_among_its_builtins_go_with_it() -> None:
    names = in_main("def f(): return helper(len('ab'))\n")
    names["__builtins__"] = {**by_value.PLAIN_BUILTINS, "helper": lambda x: x * 10, "unused": 1}
    f = FunctionType(names["f"].__code__, names)
    again = there_and_back(f)
    assert again() == 20
    assert "unused" not in again.__globals__


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (np.zeros((100, 100)), 80_000),
        (b"x" * 1000, 1000),
        ("x" * 1000, 1000),
        (list(range(100_000)), 300_000),
        (dict.fromkeys(range(10_000), "x" * 10), 150_000),
        ([b"x" * 1000] * 1000, 1_000_000),
        ({"a": [np.zeros(1000)] * 3}, 24_000),
        (set(range(10_000)), 35_000),
    ],
)
def test_sizes_are_about_right(value: Any, size: int) -> None:
    assert size / 2 < size_of(value) < size * 2


def test_sizes_of_anything_are_found_quickly_and_without_errors() -> None:
    @dataclasses.dataclass
    class Holder:
        table: Any

    class Rude:
        def __sizeof__(self) -> int:
            raise RuntimeError

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError

    assert size_of(Holder(np.zeros(100_000))) >= 800_000
    assert 0 < size_of(Rude()) < 1000
    cycle: list[Any] = []
    cycle += [cycle] * 50
    assert size_of(cycle) > 0
    deep: Any = None
    for _ in range(10_000):
        deep = [deep]
    assert size_of(deep) > 0
    assert size_of(len) == size_of(np) == size_of(Holder) == 0


# --- kept pickles ---------------------------------------------------------------------------------------


def kept(function: Any) -> bool:
    """Whether its next pickle is the one made before."""
    return dump_function(function) is dump_function(function)


def test_the_pickle_of_a_function_is_kept() -> None:
    names = in_main(
        "import math\n"
        "n = 3\n"
        "def helper(x): return math.sin(x) * n\n"
        "def f(x, y=(1, 'two'), z=None): return helper(x), missing, big\n"
        "def closing():\n"
        "  k = 5\n"
        "  def inner(x: int) -> list[int]: return helper(k)\n"
        "  return inner\n"
        "inner = closing()\n",
        big=np.zeros(100_000),
    )
    assert kept(lambda x: x)
    assert kept(names["f"])
    assert kept(names["inner"])
    assert kept(os.path.join)


class Unseen:
    pass


@pytest.mark.parametrize(
    "value",
    [[1], {}, np.zeros(3), Unseen(), ([],), bytearray(b"x"), threading.current_thread, [].append],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("where", ["global", "default", "keyword default", "closure", "attribute", "helper"])
def test_nothing_is_kept_that_could_change_unseen(where: str, value: Any) -> None:
    if value is threading.current_thread:
        value = type("Local", (), {})  # a class by value
    names = in_main(
        "def uses(): return value\n"
        "def helped(): return uses()\n"
        "def closing(v):\n"
        "  def inner(): return v\n"
        "  return inner\n"
        "def trivial(): pass\n",
        value=value,
    )
    function = {"global": names["uses"], "helper": names["helped"], "closure": names["closing"](value)}.get(
        where, names["trivial"]
    )
    if where == "default":
        function.__defaults__ = (value,)
    elif where == "keyword default":
        function.__kwdefaults__ = {"v": value}
    elif where == "attribute":
        function.mark = value
    assert take_snapshot(function) is None


def set_global(names: dict[str, Any]) -> None:
    names["n"] = 4


def set_global_to_an_equal_one(names: dict[str, Any]) -> None:
    names["n"] = 3.0


def delete_global(names: dict[str, Any]) -> None:
    del names["n"]


def set_missing(names: dict[str, Any]) -> None:
    names["missing"] = 1


def set_missing_to_none(names: dict[str, Any]) -> None:
    names["missing"] = None


def replace_helper(names: dict[str, Any]) -> None:
    exec("def helper(x): return -x", names)


def change_code_of_helper(names: dict[str, Any]) -> None:
    names["helper"].__code__ = (lambda x: -x).__code__


def set_attribute(names: dict[str, Any]) -> None:
    names["f"].mark = 1


def set_attribute_of_helper(names: dict[str, Any]) -> None:
    names["helper"].mark = 1


def set_defaults(names: dict[str, Any]) -> None:
    names["f"].__defaults__ = (2,)


def set_keyword_defaults(names: dict[str, Any]) -> None:
    names["f"].__kwdefaults__ = {"z": 2}


def set_annotation(names: dict[str, Any]) -> None:
    names["f"].__annotations__["x"] = int


def rename(names: dict[str, Any]) -> None:
    names["f"].__name__ = "g"


def set_closure(names: dict[str, Any]) -> None:
    names["set_k"](6)


def shrink_large(names: dict[str, Any]) -> None:
    names["big"] = b"small"


def import_module(names: dict[str, Any]) -> None:
    sys.modules["package_for_tests.submodule"] = ModuleType("package_for_tests.submodule")


@pytest.mark.parametrize(
    "change",
    [
        set_global, set_global_to_an_equal_one, delete_global, set_missing, set_missing_to_none,
        replace_helper, change_code_of_helper, set_attribute, set_attribute_of_helper, set_defaults,
        set_keyword_defaults, set_annotation, rename, set_closure, shrink_large, import_module,
    ],
)  # fmt: skip
def test_what_was_kept_is_dropped_when_something_changes(
    change: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("package_for_tests")
    package.__package__ = "package_for_tests"
    monkeypatch.setitem(sys.modules, "package_for_tests", package)
    monkeypatch.setitem(sys.modules, "package_for_tests.submodule", package)
    del sys.modules["package_for_tests.submodule"]  # and whatever is there is taken out at the end
    names = in_main(
        "n = 3\n"
        "def helper(x): return x * n\n"
        "def closing():\n"
        "  k = 5\n"
        "  def f(x, y=1): return helper(x) + k + missing + len(big), package.submodule\n"
        "  def set_k(v):\n"
        "    nonlocal k\n"
        "    k = v\n"
        "  return f, set_k\n"
        "f, set_k = closing()\n",
        big=bytes(100_000),
        package=package,
    )
    before = dump_function(names["f"])
    assert dump_function(names["f"]) is before
    change(names)
    after = dump_function(names["f"])
    assert after is not before
    assert after == dumps(names["f"])


def test_keeping_a_pickle_keeps_no_function_alive() -> None:
    def make() -> list[weakref.ref[Any]]:
        names = in_main("def helper(): return f\ndef f(): return helper()\n")
        dump_function(names["f"])
        return [weakref.ref(names["f"]), weakref.ref(names["helper"])]

    references = make()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_the_cache_is_bounded_and_forgets_the_dead() -> None:
    cache = FunctionCache(limit=10, max_bytes=1000)
    functions: list[Any] = [eval(f"lambda: {i}", {}) for i in range(30)]
    for i in range(len(functions)):
        snapshot = take_snapshot(functions[i])
        assert snapshot is not None
        cache.put(functions[i], snapshot, dumps(functions[i]))
    assert len(cache) == 10
    assert cache.get(functions[0]) is None
    assert cache.get(functions[-1]) is not None
    long = eval(f"lambda: {'x' * 5000!r}", {})
    snapshot = take_snapshot(long)
    assert snapshot is not None
    cache.put(long, snapshot, dumps(long))
    assert cache.get(long) is None
    del functions
    gc.collect()
    assert len(cache) == 0


def test_what_is_no_function_is_pickled_each_time() -> None:
    for callable_ in (len, functools.partial(max, 1), "".join, Unseen):
        assert received(dump_function(callable_)) is not None
