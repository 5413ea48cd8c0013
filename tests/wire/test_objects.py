"""What goes in comes out, large buffers uncopied; and what can't travel is named."""

from __future__ import annotations

import asyncio
import collections
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
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.errors import SerializationError
from directview.wire import by_value, objects
from directview.wire.by_value import GLOBAL_BYTES, size_of
from directview.wire.function_cache import FunctionCache, take_snapshot
from directview.wire.objects import OUT_OF_BAND_BYTES, dump_arguments, dump_function, dumps, loads
from directview.wire.unpicklable import MAX_DEPTH

ROOT = Path(__file__).resolve().parents[2]


def received(packed: objects.Packed) -> Any:
    """Rebuilt on buffers as they arrive: writable, and other memory."""
    return loads(packed.data, [memoryview(bytearray(buffer)) for buffer in packed.buffers])


def there_and_back(obj: Any) -> Any:
    return received(dumps(obj))


def same(first: Any, second: Any) -> bool:
    """Equal, of the same types, all the way down; NaN equals NaN."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and (first.flags.c_contiguous or first.flags.f_contiguous == second.flags.f_contiguous)
            and same(first.tolist(), second.tolist())
        )
    if isinstance(first, dict):
        return list(first) == list(second) and same(list(first.values()), list(second.values()))
    if isinstance(first, list | tuple | collections.deque):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float | complex) and first != first:
        return bool(second != second)
    return bool(first == second)


FIELDS: Any = [("x", "f4"), ("y", "M8[D]"), ("z", "i2", (2,))]


def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(st.lists(st.integers(0, 12), max_size=3).map(tuple) | st.tuples(st.integers(1000, 3000)))
    dtype = draw(
        st.sampled_from(
            ["?", "i1", ">i4", "u8", "f2", "f8", "c16", "S5", "U3", "M8[ns]", "m8[s]", "O", FIELDS]
        )
    )
    size = math.prod(shape)
    made: np.ndarray[Any, Any] = np.zeros(size, dtype)
    if made.dtype.names is None:
        made = (np.arange(size) % 5).astype("i8").astype(dtype)
    else:
        made["x"] = np.arange(size)
        made["y"] = np.datetime64("2020-01-01") + np.arange(size)
    made = made.reshape(shape, order="F" if draw(st.booleans()) else "C")
    if draw(st.booleans()) and made.ndim:
        made = made[::2]
    return made


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(bytearray, st.binary(max_size=20))
    | st.dates()
    | st.fractions()
    | st.sampled_from([int, len, math.sin, np.float64, np.sum, np.add, Ellipsis, NotImplemented, math])
    | st.integers(-5, 5).map(np.int16)
)
keys = st.text(max_size=5) | st.integers() | st.tuples(st.integers(), st.text(max_size=3))
anything = st.recursive(
    plain | st.composite(arrays)(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.frozensets(keys, max_size=4)
        | st.lists(inner, max_size=3).map(collections.deque)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(anything)
def test_what_goes_in_comes_out(obj: Any) -> None:
    assert same(there_and_back(obj), obj)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=6))
def test_exactly_the_large_buffers_travel_beside(sizes: list[int]) -> None:
    packed = dumps([np.zeros(size, "u1") for size in sizes])
    assert [len(buffer) for buffer in packed.buffers] == [n for n in sizes if n >= OUT_OF_BAND_BYTES]
    in_band = sum(n for n in sizes if n < OUT_OF_BAND_BYTES)
    assert in_band <= len(packed.data) < in_band + 300 + 100 * len(sizes)


# --- buffers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_not_copied(order: Any) -> None:
    array = np.asarray(np.arange(40_000.0).reshape(200, 200), order=order)
    packed = dumps({"array": array})
    (buffer,) = packed.buffers
    assert (buffer.format, buffer.ndim, buffer.contiguous) == ("B", 1, True)
    assert np.shares_memory(np.frombuffer(buffer, "u1"), array)
    again = received(packed)["array"]
    assert same(again, array)
    again[0, 0] = 7  # writable
    assert array[0, 0] == 0


def test_small_arrays_arrive_writable_too() -> None:
    array = there_and_back(np.arange(3))
    array[0] = 5
    assert array.tolist() == [5, 1, 2]


def test_arrays_that_are_not_contiguous_arrive_whole() -> None:
    array = np.arange(90_000).reshape(300, 300)
    for view in (array[::2], array[:, ::3], array[::-1], np.broadcast_to(array[0], (50, 300))):
        assert np.array_equal(there_and_back(view), view)


@pytest.mark.parametrize("dtype", ["M8[ns]", "m8[s]", ">i4", "U20", "c16", [("x", "f4"), ("y", "M8[D]")]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_no_kind_of_large_array_is_copied_or_changed(dtype: Any, order: Any) -> None:
    array = np.zeros((100, 200), dtype, order=order)
    packed = dumps(array)
    (buffer,) = packed.buffers
    assert np.shares_memory(np.frombuffer(buffer, "u1"), array)
    again = received(packed)
    assert same(again, array)
    assert again.flags.writeable


@pytest.mark.parametrize("dtype", [">i4", ">M8[ns]", ">U3", [("x", ">f8")]])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4)])
def test_byte_order_is_kept(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    assert same(there_and_back(array), array)
    assert there_and_back(array).flags.writeable


def test_what_is_not_contiguous_is_copied_once_and_travels_beside() -> None:
    packed = dumps(np.zeros((200, 400))[:, ::2])
    assert [len(buffer) for buffer in packed.buffers] == [200 * 200 * 8]


def test_scalars_and_empty_arrays_keep_shape_and_type() -> None:
    for array in (np.array(3.5), np.array("2020-01-02", "M8[ms]"), np.empty((0, 4), "f4"), np.empty((3, 0))):
        assert same(there_and_back(array), array)


def test_string_arrays() -> None:
    if hasattr(np.dtypes, "StringDType"):
        array = np.array(["a", "long" * 5000, ""], dtype=np.dtypes.StringDType())
        again = there_and_back(array)
        assert again.dtype == array.dtype
        assert again.tolist() == array.tolist()


def test_an_array_sent_twice_is_one_array_there() -> None:
    array = np.zeros(5000)
    packed = dumps([array, array, {"again": array}])
    assert len(packed.buffers) == 1
    first, second, names = received(packed)
    assert first is second is names["again"]


def test_buffers_of_other_kinds() -> None:
    large = bytes(range(256)) * 200
    assert there_and_back(memoryview(large)) == large
    assert len(dumps(memoryview(large)).buffers) == 1
    assert there_and_back(memoryview(large)[::2]) == large[::2]
    assert there_and_back(memoryview(b"small")) == b"small"
    assert there_and_back(pickle.PickleBuffer(large)) == large


class Strided:
    """Pickles itself around a buffer that has holes."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(memoryview(bytes(100_000))[::2]),)


def test_a_buffer_with_holes_is_refused_in_words() -> None:
    with pytest.raises(SerializationError, match="contiguous"):
        dumps(Strided())


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


# --- what can't travel ----------------------------------------------------------------------------------


class Locked:
    def __init__(self) -> None:
        self.fine = list(range(100))
        self.lock = threading.Lock()


class Stateful(Locked):
    """Leaves its lock at home, but not another."""

    def __init__(self) -> None:
        super().__init__()
        self.other = threading.Lock()

    def __getstate__(self) -> Any:
        return {"other": self.other}


@dataclasses.dataclass(slots=True)
class Slotted:
    x: int
    lock: Any


class Refuses:
    def __reduce__(self) -> Any:
        raise ValueError("not this one")


class KeyWithLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "Key()"


LOCK = "cannot pickle '_thread.lock' object"


def cycle() -> Any:
    items: list[Any] = [1]
    items.append(items)
    items.append({"back": items, "lock": threading.Lock()})
    return items


def closing_over_lock() -> Any:
    lock = threading.Lock()
    return lambda: lock


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (threading.Lock, LOCK),
    (Locked, f"attribute 'lock' of Locked: {LOCK}"),
    (lambda: [0, 1, 2, {"k": Locked()}], f"[3]['k'].lock (attribute 'lock' of Locked): {LOCK}"),
    (lambda: [1] * 1000 + [threading.Lock()] + [2] * 500, f"[1000]: {LOCK}"),
    (lambda: ({"a": (1, [threading.Lock()])},), f"[0]['a'][1][0]: {LOCK}"),
    (Stateful, f"attribute 'other' of Stateful: {LOCK}"),
    (lambda: Slotted(1, threading.Lock()), f"attribute 'lock' of Slotted: {LOCK}"),
    (lambda: {KeyWithLock(): 1}, f".keys()[Key()].lock (attribute 'lock' of KeyWithLock): {LOCK}"),
    (lambda: {KeyWithLock()}, f"{{Key()}}.lock (attribute 'lock' of KeyWithLock): {LOCK}"),
    (closing_over_lock, f"closure variable 'lock' of <lambda>: {LOCK}"),
    (lambda: in_main("f = lambda: lock", lock=threading.Lock())["f"], f"global 'lock' of <lambda>: {LOCK}"),
    (lambda: in_main("def f(x, y=lock): pass", lock=threading.Lock())["f"], f"default of 'y' of f: {LOCK}"),
    (lambda: in_main("def f(*, y=lock): pass", lock=threading.Lock())["f"], f"default of 'y' of f: {LOCK}"),
    (lambda: in_main("class C: lock = l", l=threading.Lock())["C"], f"attribute 'lock' of C: {LOCK}"),
    (lambda: functools.partial(max, threading.Lock()), f".args[0]: {LOCK}"),
    (lambda: Locked().__init__, f".__self__.lock (attribute 'lock' of Locked): {LOCK}"),  # type: ignore[misc]
    (lambda: [Refuses()], "[0]: ValueError: not this one"),
    (lambda: KeyError(threading.Lock()), f".args[0]: {LOCK}"),
    (cycle, f"[2]['lock']: {LOCK}"),
]


@pytest.mark.parametrize(
    ("make", "text"), REFUSED, ids=[f"{i}: {text}" for i, (_, text) in enumerate(REFUSED)]
)
def test_the_part_that_cannot_travel_is_named(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        dumps(make(), part="the result of f")
    assert str(caught.value) == f"the result of f: {text}"
    assert caught.value.__cause__ is not None


@dataclasses.dataclass
class Holder:
    held: Any


@st.composite
def hidden(draw: st.DrawFn) -> tuple[Any, str]:
    """Something that can't travel, deep among things that can; and the way to it."""
    value: Any = threading.Lock()
    path = ""
    for _ in range(draw(st.integers(1, 6))):
        before = draw(st.lists(plain, max_size=3))
        match draw(st.sampled_from(["list", "tuple", "dict", "attribute", "items"])):
            case "list":
                value, path = [*before, value, *before], f"[{len(before)}]{path}"
            case "tuple":
                value, path = (*before, value), f"[{len(before)}]{path}"
            case "dict":
                key = draw(st.text(max_size=5) | st.integers(-99, 99))
                others = {f"other {i}": one for i, one in enumerate(before)}
                value, path = {**others, key: value}, f"[{key!r}]{path}"
            case "attribute":
                value, path = Holder(value), f".held{path}"
            case _:
                value, path = collections.deque([*before, value]), f"[{len(before)}]{path}"
    return value, path


@settings(deadline=None)
@given(hidden())
def test_the_way_to_what_cannot_travel_is_said_whatever_is_around_it(case: tuple[Any, str]) -> None:
    value, path = case
    with pytest.raises(SerializationError) as caught:
        dumps(value, part="x")
    said = str(caught.value)
    assert said.endswith(LOCK)
    if path == ".held":
        assert said == f"x: attribute 'held' of Holder: {LOCK}"
    else:
        assert said.startswith((f"x: {path}: ", f"x: {path} (attribute 'held' of Holder): "))


def test_arguments_are_named_by_position_or_keyword() -> None:
    with pytest.raises(SerializationError) as caught:
        dump_arguments((Locked(),), {}, call="apply")
    assert str(caught.value) == f"argument 1 of apply: attribute 'lock' of Locked: {LOCK}"
    with pytest.raises(SerializationError) as caught:
        dump_arguments((1, 2), {"x": 3, "y": [threading.Lock()]}, call="f")
    assert str(caught.value) == f"argument 'y' of f: [0]: {LOCK}"
    assert received(dump_arguments((1,), {"x": 2})) == ((1,), {"x": 2})


def test_functions_are_named() -> None:
    with pytest.raises(SerializationError) as caught:
        dump_function(closing_over_lock())
    assert str(caught.value) == f"function <lambda>: closure variable 'lock' of <lambda>: {LOCK}"
    with pytest.raises(SerializationError, match=r"^the function: "):
        dump_function(functools.partial(closing_over_lock()), part="the function")


def test_generators_and_coroutines_say_what_to_do() -> None:
    async def coroutine() -> None: ...

    async def items() -> Any:
        yield 1

    waiting = coroutine()
    for value, word in (((i for i in "a"), "view.stream"), (items(), "view.stream"), (waiting, "await")):
        with pytest.raises(SerializationError, match=word):
            dumps([value], part="the result")
    waiting.close()


def test_what_is_nested_too_deeply_says_so() -> None:
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match=r"nested too deeply|^object: "):
        dumps(deep)


def test_the_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("directview.wire.unpicklable.Sink.__init__.__defaults__", (100_000,))
    with pytest.raises(SerializationError, match=LOCK):
        dumps(["x" * 1000] * 50 + [[str(i) * 500 for i in range(1000)], threading.Lock()])
    chain: Any = threading.Lock()
    for _ in range(MAX_DEPTH * 2):
        chain = [chain]
    monkeypatch.undo()
    with pytest.raises(SerializationError, match=LOCK):
        dumps(chain)


def test_interrupts_and_exits_are_not_serialization_errors() -> None:
    class Interrupted:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dumps(Interrupted())


def test_whole_pickles_have_their_buffers_inside() -> None:
    array = np.arange(10_000)
    assert same(pickle.loads(objects.dumps_whole({"a": array})), {"a": array})
    with pytest.raises(SerializationError, match=LOCK):
        objects.dumps_whole(threading.Lock())


def test_a_future_is_refused_and_the_loop_lives() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(SerializationError):
            dumps([future])

    asyncio.run(main())
