"""Data of all kinds, to two real engines and back: by push and pull, as arguments and results, in parts."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import importlib.util
import ipaddress
import pickle
import re
import threading
import time
import types
import uuid
import zoneinfo
from array import array
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from directview import Client, Cluster, DirectView, Many, RemoteError, SerializationError
from directview.partition import join, split

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

LARGE = 3 << 20
"""Bytes of what travels in chunks."""


@pytest.fixture(scope="module", autouse=True)
def threads_of_libraries() -> None:
    """Some libraries start threads when they are first used, and keep them: before leaks are looked for."""
    used = {
        "pandas": ["pandas frame"],
        "pyarrow": ["arrow table", "arrow chunks"],
        "polars": ["polars frame"],
    }
    for library, kinds in used.items():
        if importlib.util.find_spec(library) is not None:
            for value in [KINDS[kind]() for kind in kinds]:
                assert value.equals(join(split(value, 2, "r"), "r"))
                assert value.equals(pickle.loads(pickle.dumps(value)))
    if importlib.util.find_spec("torch") is not None:
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(1)  # or it keeps some for each thread that works on a large tensor


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Two engines for the module."""
    with Cluster(n=2) as client:
        yield client


@pytest.fixture
def v(rc: Client) -> Iterator[DirectView[Many]]:
    """A view of both, with empty namespaces."""
    view = rc[:]
    yield view
    view.clear(block=True)


def same(first: Any, second: Any) -> bool:
    """Equal, of the same types, all the way down; NaN equals NaN."""
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray | np.generic):
        alike = first.dtype == second.dtype and first.shape == second.shape
        return alike and (
            same(first.tolist(), second.tolist())
            if first.dtype.hasobject
            else first.tobytes() == second.tobytes()
        )
    if isinstance(first, dict):
        return list(first) == list(second) and all(map(same, first.values(), second.values()))
    if isinstance(first, list | tuple | deque):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second or (first != first and second != second))


def everywhere(v: DirectView[Many], value: Any) -> list[Any]:
    """What comes back of `value` by each of the ways that it can go, from both engines."""
    v.push_sync({"value": value})
    held = v.pull_sync("value")
    returned = v.apply_sync(lambda x: x, value)
    within: Any = lambda *, x: {"inside": [x]}
    named = v.apply_sync(within, x=value)
    return [*held, *returned, *[one["inside"][0] for one in named]]


# --- Python's own ---------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


def own_kinds() -> dict[str, Any]:
    """Values of classes that engines cannot import."""

    class Shade(enum.Flag):
        DARK = 1
        DEEP = 2

    @dataclasses.dataclass(frozen=True, slots=True)
    class Place:
        x: int
        near: tuple[Any, ...] = ()

    pair = namedtuple("pair", "one two")
    return {
        "flag": Shade.DARK | Shade.DEEP,
        "dataclass": Place(1, (Place(2),)),
        "namedtuple": pair(1, [pair(2, 3)]),
    }


def made() -> dict[str, Any]:
    """Values by what they are."""
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    return {
        **own_kinds(),
        "bytes": bytes(range(256)),
        "bytearray": bytearray(b"ab"),
        "memoryview": memoryview(b"abc"),
        "large bytes": b"x" * LARGE,
        "large bytearray": bytearray(b"x") * LARGE,
        "large memoryview": memoryview(bytearray(LARGE)).cast("d", (3, LARGE // 24)),
        "large str": "é" * (LARGE // 2),
        "lone surrogates": "\ud800" * 100_000,
        "array": array("d", [1.5, 2]),
        "large array": array("q", range(LARGE // 8)),
        "deque": deque([1, [2]], maxlen=5),
        "decimal": decimal.Decimal("1.10"),
        "fraction": fractions.Fraction(1, 3),
        "path": PurePosixPath("/a/b"),
        "uuid": uuid.UUID(int=5),
        "datetime": datetime.datetime(2020, 10, 25, 2, 30, tzinfo=berlin, fold=1),
        "date and time": [datetime.date(2020, 2, 29), datetime.timedelta(1, 2, 3), datetime.UTC],
        "pattern": re.compile("a+", re.IGNORECASE),
        "range": range(5, 50, 7),
        "slice": slice(1, None, 2),
        "sets": [{1, "a"}, frozenset({(1, 2)}), set()],
        "dicts": [OrderedDict(b=1, a=2), defaultdict(list, a=[1]), Counter("aab"), ChainMap({1: 2}, {3: 4})],
        "numbers": [1 << 500, -0.0, float("nan"), 1e400, 2 - 3j, True],
        "constants": [None, ..., NotImplemented],
        "namespace": types.SimpleNamespace(a=[1]),
        "address": ipaddress.ip_address("::1"),
        "error": [ValueError("a", 1).args],
        "types": [int, list[int], int | None, types.SimpleNamespace, np.float64, np.dtype("M8[ns]")],
        "functions": [len, np.sum, str.upper],
    }


@pytest.mark.parametrize("name", made())
def test_pythons_own_kinds(v: DirectView[Many], name: str) -> None:
    value = made()[name]
    if name in own_kinds():
        value = own_kinds()[name]
    for again in everywhere(v, value):
        assert same(again, value)
        if isinstance(value, deque):
            assert again.maxlen == value.maxlen
        if isinstance(value, datetime.datetime):
            assert (again.tzinfo, again.fold, again.utcoffset()) == (value.tzinfo, 1, value.utcoffset())


def test_what_refers_to_itself(v: DirectView[Many]) -> None:
    loop: Any = {"list": [1]}
    loop["list"].append(loop)
    loop["array"] = np.array([loop, None], object)
    for again in everywhere(v, loop):
        assert again["list"][1] is again
        assert again["array"][0] is again
    assert v.pull_sync("value['list'][1] is value") == [True, True]


def test_what_is_one_object_here_is_one_object_there(v: DirectView[Many]) -> None:
    table, text = np.zeros(LARGE // 8), b"x" * LARGE
    v.push_sync({"first": table, "second": [table, text], "third": text})
    assert v.pull_sync("first is second[0], third is second[1]") == [(True, True)] * 2


def test_a_bytearray_may_grow_once_it_has_been_sent(v: DirectView[Many]) -> None:
    value = bytearray(LARGE)
    for i in range(10):
        v.push_sync({"value": value})
        value.append(i)
    assert v.pull_sync("len(value)") == [LARGE + 9] * 2


# --- numpy ----------------------------------------------------------------------------------------------


def of_dtype(dtype: Any, n: int) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = np.zeros((n, 2), dtype)
    values.reshape(-1).view("u1")[:] = 1
    return values


DTYPES = ["?", "i1", ">i4", "u8", "f2", "f8", ">f4", "g", "c16", "G", "S5", "U3", "V6", "M8[ns]", ">m8[s]"]
RECORD: Any = [("x", "f4"), ("when", "M8[D]"), ("inner", [("y", ">i2", (2,))])]


@pytest.mark.parametrize("n", [0, 3, 200_000])
@pytest.mark.parametrize("dtype", [*DTYPES, RECORD], ids=str)
def test_every_dtype(v: DirectView[Many], dtype: Any, n: int) -> None:
    value = of_dtype(dtype, n)
    v.push_sync({"a": value, "b": value[::2], "c": np.asfortranarray(value)})
    for a, b, c in v.pull_sync(["a", "b", "c"]):
        assert same(a, value)
        assert same(b, value[::2])
        assert same(c, value)
        assert c.flags.f_contiguous
        assert a.flags.writeable
        assert b.flags.writeable
        assert c.flags.writeable


FIELDS: Any = [("a", "i4"), ("b", "f8")]
STRINGS: Any = np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else "U"
ARRAYS: dict[str, Callable[[Path], Any]] = {
    "no dimensions": lambda _: np.array(5.0),
    "objects": lambda _: np.array([[None, "a"], [{}, 1]], object),
    "large bytes in objects": lambda _: np.array([b"x" * LARGE, None], object),
    "strings": lambda _: np.array(["a", "b" * 100], STRINGS),
    "records": lambda _: np.rec.array([(1, 2.0)] * 5, dtype=FIELDS),
    "matrix": lambda _: np.ones((300, 300)).view(np.matrix),
    "masked": lambda _: np.ma.MaskedArray(np.arange(5.0), mask=[True, False] * 2 + [False], fill_value=9),
    "large masked": lambda _: np.ma.MaskedArray(np.arange(1e6), mask=np.arange(1e6) % 2 == 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_kinds_of_arrays(v: DirectView[Many], name: str, tmp_path: Path) -> None:
    value = ARRAYS[name](tmp_path)
    for again in everywhere(v, value):
        assert same(again, value)
        assert again.flags.writeable
        if isinstance(value, np.ma.MaskedArray):
            assert same(again.mask, value.mask)
            assert again.fill_value == value.fill_value


@pytest.mark.parametrize("n", [10, 200_000])
def test_what_arrives_is_writable_on_engines_and_here(v: DirectView[Many], n: int, tmp_path: Path) -> None:
    np.zeros(n).tofile(tmp_path / "zeros")
    sources = {
        "mapped": np.memmap(tmp_path / "zeros", "f8", "r"),
        "repeated": np.broadcast_to(0.0, (n,)),
        "frozen": np.frombuffer(bytes(8 * n)),
    }
    v.push_sync(sources)
    v.execute_sync("for array in mapped, repeated, frozen: array[1] = 5")
    v.execute_sync("frozen.flags.writeable = False")
    for arrays in v.pull_sync(list(sources)):
        for again in arrays:
            assert type(again) is np.ndarray
            again[0] = 6
            assert again[:3].tolist() == [6, 5, 0]
    assert sources["mapped"].sum() == sources["frozen"].sum() == 0


def test_a_subclass_with_attributes(v: DirectView[Many]) -> None:
    class Measured(np.ndarray[Any, Any]):
        unit: Any = None

        def __array_finalize__(self, obj: Any) -> None:
            self.unit = getattr(obj, "unit", None)

    value: Any = np.arange(500_000).view(Measured)
    value.unit = "m"
    for again in everywhere(v, value):
        assert type(again) is Measured
        assert again.unit == "m"
        assert again.tobytes() == value.tobytes()


# --- other libraries ------------------------------------------------------------------------------------


def frame() -> Any:
    pandas: Any = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame(
        {
            "number": np.arange(100_000.0),
            "text": ["x" * (i % 7) for i in range(100_000)],
            "kind": pandas.Categorical(["a", "b"] * 50_000),
            "when": pandas.date_range("2020-03-29", periods=100_000, freq="s", tz="Europe/Berlin"),
        }
    )


def arrow(name: str) -> Any:
    pyarrow: Any = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = pyarrow.table({"text": ["é" * (i % 7) for i in range(100_000)], "number": range(100_000)})
    return {
        "table": table,
        "batch": table.to_batches()[0],
        "chunks": table["text"],
        "array": table["number"].chunk(0),
    }[name]


def polars(name: str) -> Any:
    module: Any = pytest.importorskip("polars", reason="polars is not installed")
    made = module.DataFrame({"text": ["é" * (i % 7) for i in range(100_000)], "number": range(100_000)})
    return made if name == "frame" else made[name]


KINDS: dict[str, Callable[[], Any]] = {
    "pandas frame": frame,
    "pandas series": lambda: frame()["text"],
    "pandas index": lambda: frame().set_index("when").index,
    "pandas categories": lambda: frame()["kind"],
    "arrow table": lambda: arrow("table"),
    "arrow batch": lambda: arrow("batch"),
    "arrow chunks": lambda: arrow("chunks"),
    "arrow array": lambda: arrow("array"),
    "polars frame": lambda: polars("frame"),
    "polars series": lambda: polars("text"),
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_and_columns(v: DirectView[Many], name: str) -> None:
    value = KINDS[name]()
    for again in everywhere(v, value):
        assert type(again) is type(value)
        assert again.equals(value)
    for dist in ("b", "r"):
        v.scatter("part", value, dist=dist, block=True)
        parts = v.pull_sync("part")
        assert [type(part) for part in parts] == [type(value)] * 2
        whole = v.gather("part", dist=dist, block=True)
        assert type(whole) is type(value)
        assert whole.equals(value)


@pytest.mark.parametrize("form", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_sparse_ones(v: DirectView[Many], kind: str, form: str) -> None:
    sparse: Any = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    dense = np.diag(np.arange(1.0, 201)) + np.diag(np.ones(199), 1)
    value = getattr(sparse, f"csr_{kind}")(dense).asformat(form)
    for again in everywhere(v, value):
        assert type(again) is type(value)
        assert np.array_equal(again.toarray(), dense)
    v.scatter("rows", value, block=True)
    assert v.pull_sync("rows.shape") == [(100, 200)] * 2
    whole = v.gather("rows", block=True)
    assert type(whole) is type(value)
    assert np.array_equal(whole.toarray(), dense)


def test_tensors(v: DirectView[Many]) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed; it takes 5 GB")
    value = torch.arange(1_000_000.0).reshape(1000, 1000)
    for again in everywhere(v, value.T):
        assert torch.equal(again, value.T)
        again[0, 0] = 5
    v.scatter("rows", value, block=True)
    assert torch.equal(v.gather("rows", block=True), value)


# --- cut into parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, RECORD], ids=str)
def test_arrays_in_parts(v: DirectView[Many], dtype: Any) -> None:
    for value in (of_dtype(dtype, 1001), np.asfortranarray(of_dtype(dtype, 1001)), of_dtype(dtype, 1)):
        for dist in ("b", "r"):
            v.scatter("part", value, dist=dist, block=True)
            v.execute_sync("part[:] = part")  # writable
            assert same(v.gather("part", dist=dist, block=True), value)


@pytest.mark.parametrize("name", ["objects", "strings", "records", "matrix", "masked", "large masked"])
def test_kinds_of_arrays_in_parts(v: DirectView[Many], name: str, tmp_path: Path) -> None:
    value = ARRAYS[name](tmp_path)
    v.scatter("part", value, block=True)
    whole = v.gather("part", block=True)
    assert same(whole, value)
    if isinstance(value, np.ma.MaskedArray):
        assert same(whole.mask, value.mask)


@pytest.mark.parametrize(
    "value", [b"abcde" * LARGE, "é" * LARGE, tuple("abc"), array("d", [1, 2, 3])], ids=type
)
def test_sequences_in_parts(v: DirectView[Many], value: Any) -> None:
    v.scatter("part", value, block=True)
    assert same(v.gather("part", block=True), value)


# --- anything, and what can't travel --------------------------------------------------------------------

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.builds(bytearray, st.binary(max_size=9))
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sampled_from([b"x" * LARGE, "é" * LARGE, np.zeros(LARGE, "u1"), range(5), slice(1, 2)])
    | hnp.arrays(hnp.scalar_dtypes() | hnp.nested_dtypes(), hnp.array_shapes(min_dims=0, min_side=0))
)
names = st.text(max_size=4) | st.integers(-9, 99)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(names, inner, max_size=4)
        | st.frozensets(names, max_size=4)
        | st.lists(inner, max_size=3).map(deque)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=anything)
def test_what_goes_in_comes_out(v: DirectView[Many], value: Any) -> None:
    for again in everywhere(v, value):
        assert same(again, value)


def test_what_cannot_travel_is_named_on_the_way_there_and_back(v: DirectView[Many]) -> None:
    class Holder:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    value = {"a": [1, b"x" * LARGE, Holder()]}
    said = r"\['a'\]\[2\]\.lock \(attribute 'lock' of Holder\): cannot pickle '_thread.lock' object"
    with pytest.raises(SerializationError, match=rf"argument 1 of <lambda>: {said}"):
        v.apply_sync(lambda x: x, value)
    with pytest.raises(SerializationError, match=r"'value'.*" + said):
        v.push_sync({"value": value})
    v.push_sync({"Holder": Holder})
    with pytest.raises(RemoteError, match=f"the result of <lambda>: {said}"):
        v.client[0].apply_sync(lambda: {"a": [1, b"x", Holder()]})


# --- what is on its way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", ["plain", "coroutine"])
def test_a_large_result_is_what_it_was_when_the_call_ended(v: DirectView[Many], changes: str) -> None:
    """Whoever is slow to take it does not get what later calls have made of it."""
    client = v.client
    v.execute("import numpy as np; slow = np.zeros(40 << 17)", block=True)
    core = client._binding.core()
    taken = v.pull_async("slow")
    core.loop.call_soon_threadsafe(time.sleep, 1.5)  # This client reads nothing meanwhile.
    if changes == "plain":
        changed = v.execute("slow += 1", block=False)
    else:

        async def change() -> None:
            slow = globals()["slow"]
            slow += 1

        changed = v.apply_async(change)
    values = taken.get(60)
    changed.get(60)
    assert [set(value) for value in values] == [{0.0}] * 2
    assert [set(value) for value in v["slow"]] == [{1.0}] * 2
