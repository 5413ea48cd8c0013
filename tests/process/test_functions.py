"""Remote and parallel functions, and what calls ask of their engines: with real ones."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import (
    AsyncMapResult,
    AsyncResult,
    Client,
    Cluster,
    CompositeError,
    DirectView,
    Many,
    ParallelFunction,
    Reference,
    RemoteFunction,
    UnmetDependency,
    UnmetDependencyError,
    WouldBlockLoop,
    interactive,
    parallel,
    remote,
    require,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 30.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Four engines for the module."""
    with Cluster(n=4) as client:
        yield client


@pytest.fixture
def v(rc: Client) -> Iterator[DirectView[Many]]:
    """A view of all four, with empty namespaces."""
    view = rc[:]
    yield view
    view.clear(block=True)


# --- remote ---------------------------------------------------------------------------------------------


def test_a_remote_function_runs_on_the_engines(rc: Client, v: DirectView[Many]) -> None:
    @v.remote(block=True)
    def add(x: int, *, y: int = 1) -> int:
        """Adds."""
        return x + y

    assert add(1) == [2] * 4
    assert add(1, y=2) == [3] * 4
    assert rc[1].remote(block=True)(add.func)(1) == 2
    assert list(map(add, range(3))) == [[1] * 4, [2] * 4, [3] * 4]
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert inspect.signature(add) == inspect.signature(add.func)
    assert isinstance(add, RemoteFunction)
    assert repr(add) == "<RemoteFunction add on <DirectView [0, 1, 2, 3]>>"


def test_block_is_as_said_or_as_the_view_is_when_it_is_called(v: DirectView[Many]) -> None:
    pid = v.remote()(os.getpid)
    result = pid()
    assert isinstance(result, AsyncResult)
    v.block = True
    assert pid() == result.get(DEADLINE)
    assert isinstance(v.remote(block=False)(os.getpid)(), AsyncResult)
    assert remote(v, block=True, targets=[0, 2])(os.getpid)() == pid()[::2]
    assert remote(v, label="mine", block=False)(os.getpid)().label == ["mine"] * 4
    v.targets = 3
    assert pid() == result.get(DEADLINE)[3]


def test_unknown_flags_are_refused_at_once(v: DirectView[Many]) -> None:
    with pytest.raises(TypeError, match="colour"):
        v.remote(colour="red")(len)
    with pytest.raises(TypeError, match="made of a function, not of 7"):
        v.remote()(7)  # type: ignore[arg-type]


def test_on_an_engine_a_remote_function_is_the_function(v: DirectView[Many]) -> None:
    """So it may call itself and others by their names, and be an argument."""

    @interactive
    def fib(n: int) -> Any:
        return n if n < 2 else again(n - 1) + again(n - 2)

    again = v.remote(block=True)(fib)
    v.push({"again": again}, block=True)
    assert again(10) == [55] * 4
    there: Any = again
    assert v.apply_sync(lambda f: f(7), there) == [13] * 4
    assert v.map_sync(there, range(4)) == [0, 1, 1, 2]


# --- parallel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dist", ["b", "r"])
def test_a_parallel_function_works_element_by_element(v: DirectView[Many], dist: Any) -> None:
    """On arrays of any number of dimensions it gives what the function gives here."""

    @v.parallel(dist, block=True)
    def pmul(A: Any, B: Any) -> Any:  # noqa: N803
        """A times B."""
        return A * B

    for shape in (64, 48), (7,), (2, 3, 4), (0, 3), (1, 1):
        a = np.random.default_rng(0).random(shape)
        found = pmul(a, a)
        assert found.shape == shape
        assert found.dtype == a.dtype
        assert (found == a * a).all()
    assert pmul.__doc__ == "A times B."
    assert list(inspect.signature(pmul).parameters) == ["A", "B"]
    assert isinstance(pmul, ParallelFunction)


def test_parts_go_to_engines_and_keywords_go_whole(rc: Client, v: DirectView[Many]) -> None:
    v.scatter("rank", rc.ids, flatten=True, block=True)

    @v.parallel(block=True)
    @interactive
    def where(items: list[int], *, tag: str) -> list[tuple[int, int, str]]:
        return [(rank, item, tag) for item in items]  # type: ignore[name-defined]

    assert where([5, 6, 7, 8, 9], tag="t") == [
        (0, 5, "t"), (0, 6, "t"), (1, 7, "t"), (2, 8, "t"), (3, 9, "t"),
    ]  # fmt: skip
    assert where([], tag="t") == []
    assert parallel(rc[2], block=True)(where.func)([1, 2], tag="t") == [(2, 1, "t"), (2, 2, "t")]
    assert v.parallel(block=True)(len)(range(10)) == [3, 3, 2, 2]
    result = v.parallel(block=False)(sorted)([3, 1, 2])
    assert result.get(DEADLINE) == [3, 1, 2]


def test_map_calls_it_on_items(v: DirectView[Many]) -> None:
    square = v.parallel(block=True)(lambda x: x * x)
    assert square.map(range(10)) == [x * x for x in range(10)]
    assert v.parallel(block=True)(pow).map([2, 3, 4], [3, 2]) == [8, 9]
    result = v.parallel()(lambda x: x + 1).map(range(5))
    assert isinstance(result, AsyncMapResult)
    assert list(result) == [1, 2, 3, 4, 5]


def test_unequal_or_uncuttable_arguments_are_refused_here(v: DirectView[Many]) -> None:
    pmul = v.parallel()(lambda a, b: a * b)
    with pytest.raises(ValueError, match="equal length: argument 1 has 6, argument 2 has 5 items"):
        pmul(np.ones(6), range(5))
    with pytest.raises(
        TypeError, match=r"argument 2 of <lambda>.*keyword arguments go to every engine whole"
    ):
        pmul(np.ones(6), 3)
    with pytest.raises(TypeError, match="at least one sequence"):
        v.parallel()(lambda: 1)()
    with pytest.raises(ValueError, match="unknown dist 'x'"):
        v.parallel("x")(len)  # type: ignore[call-overload]


# --- dependencies ---------------------------------------------------------------------------------------


def test_references_are_resolved_when_the_call_starts(rc: Client, v: DirectView[Many]) -> None:
    v.scatter("rank", rc.ids, flatten=True)
    v.execute("class A: pass\na = A(); a.b = [10, 20]\ndef g(x): return x * rank")
    assert v.apply_sync(lambda x: x, {"k": [Reference("rank"), (Reference("a.b[1]"),)]}) == [
        {"k": [rank, (20,)]} for rank in rc.ids
    ]
    assert v.apply_sync(lambda x=0, **more: (x, more), x=Reference("rank"), y=[Reference("len")]) == [
        (rank, {"y": [len]}) for rank in rc.ids
    ]
    assert v.apply_sync(Reference("g"), 5) == [5 * rank for rank in rc.ids]
    assert v.map_sync(Reference("g"), [1, 1, 1, 1]) == rc.ids
    assert v.map_sync(lambda x: x * 2, [Reference("rank")] * 4) == [2 * rank for rank in rc.ids]
    v["a.b"] = 0
    v.push({"alias": Reference("a")}, block=True)
    assert v.pull("alias.b", block=True) == [0] * 4


def test_a_reference_in_the_function_is_looked_up_anew_in_each_call(rc: Client) -> None:
    there = Reference("a")

    def f(x: int, y: Any = there) -> Any:
        return x + y

    rc[0]["a"] = 1
    assert rc[0].apply_sync(interactive(f), 1) == 2
    rc[0]["a"] = 100
    assert rc[0].apply_sync(interactive(f), 1) == 101


def test_a_reference_to_nothing_fails_the_call_only(v: DirectView[Many]) -> None:
    with pytest.raises(CompositeError) as caught:
        v.apply_sync(lambda x: x, Reference("elvis_has_left"))
    assert caught.group_contains(NameError)
    assert "Reference('elvis_has_left')" in "".join(caught.value.render_traceback())
    assert v.apply_sync(abs, -1) == [1] * 4


def test_require_as_the_tutorial_has_it(rc: Client, v: DirectView[Many]) -> None:
    @require("re")
    @interactive
    def findall(pat: str, x: str) -> Any:
        return re.findall(pat, x)  # type: ignore[name-defined]

    @require(time)
    @interactive
    def wait(t: float) -> float:
        time.sleep(t)
        return t

    assert v.apply_sync(findall, "a+", "caaat") == [["aaa"]] * 4
    assert v.map_sync(findall, ["a", "b"], ["cat", "bob"]) == [["a"], ["b", "b"]]
    assert v.apply_sync(wait, 0.001) == [0.001] * 4
    assert v.pull("re.__name__", block=True) == ["re"] * 4


def test_an_unmet_requirement_keeps_the_function_from_running(rc: Client, v: DirectView[Many]) -> None:
    @require("dv_no_such_module")
    @interactive
    def never() -> None:
        global ran
        ran = True  # type: ignore[name-defined]

    with pytest.raises(UnmetDependencyError, match="dv_no_such_module"):
        rc[0].apply_sync(never)
    with pytest.raises(CompositeError) as caught:
        v.apply_sync(never)
    assert caught.group_contains(UnmetDependency)
    assert v.pull("'ran' in globals()", block=True) == [False] * 4


def test_functions_that_are_required_go_on_to_find_their_names(v: DirectView[Many]) -> None:
    """They stay in the namespace, with what came with them."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def inner(x): return x * 2\ndef helper(x): return [inner(x) for _ in 'a']", names)

    @require(names["helper"], k=3)
    @interactive
    def uses(x: int) -> Any:
        return helper(x), k  # type: ignore[name-defined]

    assert v.apply_sync(uses, 4) == [([8], 3)] * 4
    assert v.apply_sync(interactive(lambda: helper(5))) == [[10]] * 4  # type: ignore[name-defined]


async def test_awaited_in_an_async_program(rc: Client) -> None:
    """On a bound client nothing blocks, and everything can be awaited."""

    async def slowly(x: int) -> int:
        await asyncio.sleep(0.001)
        return x + 1

    async with Client(rc.cluster.connection_file) as bound:  # type: ignore[union-attr]
        view = bound[:]
        assert await view.remote()(slowly)(1) == [2] * 4
        assert await view.remote(block=False)(require("math")(slowly))(1) == [2] * 4
        doubled = await view.parallel(block=False)(lambda a: a * 2)(np.arange(5))
        assert doubled.tolist() == [0, 2, 4, 6, 8]
        assert [item async for item in view.parallel()(slowly).map(range(3))] == [1, 2, 3]


# --- imports --------------------------------------------------------------------------------------------


def test_imports_in_a_block_are_done_on_the_engines_too(
    v: DirectView[Many], capsys: pytest.CaptureFixture[str]
) -> None:
    with v.sync_imports():
        import math as m
        from fractions import Fraction
    assert capsys.readouterr().out == (
        "importing math on engine(s)\nimporting Fraction from fractions on engine(s)\n"
    )
    assert v.pull("m.floor(2.5) + Fraction(1, 2)", block=True) == [m.floor(2.5) + Fraction(1, 2)] * 4
    with v.sync_imports(quiet=True), v.importer:
        import base64
    assert capsys.readouterr().out == "importing base64 on engine(s)\n"
    assert v.apply_sync(interactive(lambda: base64.b64encode(b"a"))) == [b"YQ=="] * 4


def test_without_local_only_the_engines_import(own_folders: Path, v: DirectView[Many]) -> None:
    (own_folders / "dv_there_only.py").write_text("value = 5\n")
    v.execute(f"import sys; sys.path.insert(0, {str(own_folders)!r})")
    names: dict[str, Any] = {"v": v}
    source = "with v.sync_imports(local=False, quiet=True):\n    import dv_there_only as there\n"
    exec(source + "    sent = v.apply_sync(lambda: there.value)", names)
    assert names["sent"] == [5] * 4
    assert "there" not in names


def test_an_import_that_fails_on_some_engines_says_on_which(own_folders: Path, v: DirectView[Many]) -> None:
    folder = own_folders / "some"
    folder.mkdir()
    (folder / "dv_on_some.py").write_text("")
    v.execute(f"import sys; sys.path.insert(0, {str(folder)!r})", targets=[0, 2]).get(DEADLINE)
    with pytest.raises(CompositeError) as caught, v.sync_imports(local=False, quiet=True):
        import dv_on_some  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports] # noqa: F401
    assert "[1:apply]: ModuleNotFoundError: No module named 'dv_on_some'" in str(caught.value)
    assert [info["engine_id"] for _, _, _, info in caught.value.elist] == [1, 3]


async def test_async_with_for_a_bound_client(rc: Client) -> None:
    async with Client(rc.cluster.connection_file) as bound:  # type: ignore[union-attr]
        async with bound[:].sync_imports(quiet=True):
            import textwrap
        assert await bound[:].pull_async("textwrap.__name__") == [textwrap.__name__] * 4
        with pytest.raises(WouldBlockLoop, match=r"async with view\.sync_imports"), bound[:].sync_imports():
            pass
