"""What views run on engines, on a bound namespace and without any engine."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import linecache
import pickle
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from directview import operations
from directview.errors import RemoteError
from directview.operations import (
    clear,
    execute,
    gather_part,
    import_modules,
    map_chunk,
    map_chunk_return_exceptions,
    namespace,
    pull,
    push,
    run_file,
    scatter_part,
)
from directview.reply import ExecuteReply


@pytest.fixture
def names() -> dict[str, Any]:
    """A bound namespace, as on an engine that has just started."""
    bound: dict[str, Any] = {"__name__": "__main__"}
    operations.bind(bound, engine_id=3, engine_uuid="ab")
    return bound


def run_in_new_context(f: Callable[[], Any]) -> Any:
    return contextvars.Context().run(f)


def test_outside_an_engine_operations_say_where_they_run() -> None:
    with pytest.raises(RuntimeError, match="no engine's namespace here: operations run on engines"):
        run_in_new_context(namespace)


def test_engines_in_one_process_have_their_own_namespaces() -> None:
    def engine(value: int) -> int:
        operations.bind({})
        push({"a": value})
        found = pull("a")
        assert isinstance(found, int)
        return found

    assert [run_in_new_context(partial(engine, value)) for value in (1, 2)] == [1, 2]


def test_every_operation_travels_by_name() -> None:
    for name in operations.__all__:
        operation = getattr(operations, name)
        assert pickle.loads(pickle.dumps(operation)) is operation
        assert len(pickle.dumps(operation)) < 100


def test_push_then_pull(names: dict[str, Any]) -> None:
    push({"a": 1.5, "b": [1, 2]})
    assert names["a"] == 1.5
    assert pull("a") == 1.5
    assert pull("b") is names["b"]


def test_pull_of_several_names_is_a_list(names: dict[str, Any]) -> None:
    push({"a": 1, "b": 2})
    assert pull(("a", "b")) == [1, 2]
    assert pull(["b"]) == [2]
    assert pull(()) == []


def test_pull_takes_expressions(names: dict[str, Any]) -> None:
    push({"x": [{"y": 5}], "text": "abc"})
    assert pull("x[0]['y']") == 5
    assert pull("text.upper()") == "ABC"
    assert pull(" text ") == "abc"


def test_a_missing_name_is_named(names: dict[str, Any]) -> None:
    with pytest.raises(NameError, match="name 'nope' is not defined on this engine") as caught:
        pull("nope")
    assert caught.value.name == "nope"
    with pytest.raises(NameError, match="'nope'"):
        pull("nope.x")
    push({"a": 1})
    with pytest.raises(NameError, match="'nope'"):
        pull(("a", "nope"))


def test_a_builtin_is_not_a_name_of_the_namespace(names: dict[str, Any]) -> None:
    with pytest.raises(NameError, match="'len'"):
        pull("len")


def test_push_sets_attributes_of_what_is_there(names: dict[str, Any]) -> None:
    execute("class A: pass\na = A()\na.b = A()")
    push({"a.x": 1, "a.b.y": 2, "z": 3})
    assert pull(("a.x", "a.b.y", "z")) == [1, 2, 3]
    with pytest.raises(NameError, match="'nowhere'"):
        push({"nowhere.x": 1})


def test_bad_names_are_refused_and_nothing_is_set(names: dict[str, Any]) -> None:
    before = dict(names)
    with pytest.raises(TypeError, match="must be a str, got int 7"):
        push({"a": 1, 7: 2})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"'a\.1' is not a name"):
        push({"x": 1, "a.1": 1})
    with pytest.raises(ValueError, match=r"'a\.' is not a name"):
        push({"x": 1, "a.": 1})
    with pytest.raises(ValueError, match="'class' is not a name"):
        push({"class": 1})
    with pytest.raises(TypeError, match="a name to pull must be a str, got int 7"):
        pull(7)  # type: ignore[arg-type]
    with pytest.raises(SyntaxError, match="<pull a b>"):
        pull("a b")
    with pytest.raises(TypeError, match="one name at a time"):
        gather_part(("a", "b"))  # type: ignore[arg-type]
    assert names == before


def test_execute_runs_in_the_namespace(names: dict[str, Any]) -> None:
    push({"a": 5, "b": 10})
    reply = execute("c = a + b\ndef f():\n    return c * 2")
    assert isinstance(reply, ExecuteReply)
    assert reply.status == "ok"
    assert names["c"] == 15
    assert names["f"]() == 30
    assert names["f"].__module__ == "__main__"


def test_execute_inherits_none_of_this_packages_future(names: dict[str, Any]) -> None:
    execute("def f(x: int): pass")
    assert names["f"].__annotations__ == {"x": int}


def test_a_traceback_through_executed_source_shows_its_line(names: dict[str, Any]) -> None:
    execute("def divide(x):\n    return x / 0  # here")
    with pytest.raises(ZeroDivisionError) as caught:
        execute("y = 1\ndivide(y)  # there")
    text = "".join(traceback.format_exception(caught.value))
    assert "return x / 0  # here" in text
    assert "divide(y)  # there" in text


def test_the_same_source_has_the_same_filename(names: dict[str, Any]) -> None:
    files = []
    for _ in range(2):
        execute("def f(): pass")
        files.append(names["f"].__code__.co_filename)
    assert files[0] == files[1]
    execute("def f(): return 1")
    assert names["f"].__code__.co_filename != files[0]


def test_kept_sources_are_bounded(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sources = operations._Sources()
    for i in range(operations.KEPT_SOURCES + 10):
        sources.keep(f"<kept {i}>", "x\n")
    assert "<kept 9>" not in linecache.cache
    assert linecache.getline(f"<kept {operations.KEPT_SOURCES}>", 1) == "x\n"
    sources.keep("<large>", "x" * (operations.KEPT_CHARACTERS + 1))
    kept = [name for name in linecache.cache if name.startswith("<kept")]
    assert kept == []
    assert "<large>" in linecache.cache
    sources.keep("<small>", "x")
    assert "<large>" not in linecache.cache


async def test_execute_awaits_at_the_top_level(names: dict[str, Any]) -> None:
    reply = execute("import asyncio\nx = await asyncio.sleep(0, 7)")
    assert inspect.iscoroutine(reply)
    assert isinstance(await reply, ExecuteReply)
    assert names["x"] == 7


def test_execute_takes_source_only(names: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="got function; use apply"):
        execute(lambda: 1)  # type: ignore[arg-type]
    with pytest.raises(SyntaxError):
        execute("a = = 1")


def test_a_file_is_run_under_its_own_name_in_its_own_encoding(names: dict[str, Any]) -> None:
    run_file("# coding: latin-1\ns = 'é'\ndef f(): return 1 / 0 # é".encode("latin-1"), "/nowhere/script.py")
    assert names["s"] == "é"
    with pytest.raises(ZeroDivisionError) as caught:
        names["f"]()
    text = "".join(traceback.format_exception(caught.value))
    assert 'File "/nowhere/script.py", line 3' in text
    assert "return 1 / 0 # é" in text
    run_file("t = 1", "/nowhere/other.py")
    assert names["t"] == 1


def test_clear_leaves_what_was_there_at_the_start(names: dict[str, Any]) -> None:
    execute("a = 1\n__name__ = 'changed'")
    builtins = names["__builtins__"]
    clear()
    assert names == {"__name__": "__main__", "__builtins__": builtins}
    execute("a = len('ab')")
    assert pull("a") == 2


def test_scattered_parts_are_kept_or_flattened(names: dict[str, Any]) -> None:
    scatter_part("a", [5])
    assert gather_part("a") == [5]
    for part, item in (([5], 5), (np.array([[1, 2]]), [1, 2]), (pd.Series([7], index=["x"]), 7), ("q", "q")):
        scatter_part("a", part, flatten=True)
        assert np.array_equal(gather_part("a"), item)
    scatter_part("a", [5, 6], flatten=True)
    assert gather_part("a") == [5, 6]
    scatter_part("a", [], flatten=True)
    assert gather_part("a") == []


def test_import_modules_binds_as_the_statement_does(names: dict[str, Any]) -> None:
    import_modules("xml.dom.minidom", "json")
    assert names["xml"].dom.minidom.parseString("<a/>").documentElement.tagName == "a"
    assert names["json"].loads("1") == 1
    with pytest.raises(ImportError, match="no_such_module"):
        import_modules("no_such_module")


def test_map_chunk_is_map(names: dict[str, Any]) -> None:
    assert map_chunk(pow, [2, 3], [5, 2]) == [32, 9]
    assert map_chunk(pow, [2, 3], [5]) == [32]
    assert map_chunk(abs, []) == []
    with pytest.raises(ZeroDivisionError):
        map_chunk(lambda x: 1 / x, [1, 0])


async def test_coroutines_of_a_chunk_run_at_once(names: dict[str, Any]) -> None:
    """Each waits until all have started, which one after the other would never end."""
    started = 0
    all_started = asyncio.Event()

    async def f(x: int) -> int:
        nonlocal started
        started += 1
        if started == 3:
            all_started.set()
        await all_started.wait()
        return x * x

    assert await map_chunk(f, [1, 2, 3]) == [1, 4, 9]


async def test_the_first_error_of_a_chunk_cancels_its_other_coroutines(names: dict[str, Any]) -> None:
    ended: list[str] = []

    async def f(x: int) -> None:
        if x == 0:
            raise KeyError("zero")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(KeyError, match="zero"):
        await map_chunk(f, [1, 0, 2])
    assert ended == ["cancelled"] * 2


def sent(results: Any) -> list[Any]:
    received = pickle.loads(pickle.dumps(results))
    assert isinstance(received, list)
    return received


def test_exceptions_stand_in_their_items_places(names: dict[str, Any]) -> None:
    results = sent(map_chunk_return_exceptions(lambda x: 6 // x, [1, 0, 3]))
    assert results[::2] == [6, 2]
    assert isinstance(results[1], ZeroDivisionError)
    assert isinstance(results[1], RemoteError)
    assert results[1].engine_info["engine_id"] == 3


async def test_exceptions_of_coroutines_too(names: dict[str, Any]) -> None:
    async def f(x: int) -> float:
        await asyncio.sleep(0)
        return 6 / x

    pending: Awaitable[Any] = map_chunk_return_exceptions(f, [1, 0])
    results = sent(await pending)
    assert results[0] == 6.0
    assert isinstance(results[1], ZeroDivisionError)


def test_a_reply_is_brief_and_travels() -> None:
    reply = ExecuteReply(stdout="x" * 1000)
    assert pickle.loads(pickle.dumps(reply)) == reply
    assert repr(ExecuteReply()) == "<ExecuteReply ok>"
    assert repr(reply).startswith("<ExecuteReply ok, stdout 'xxx")
    assert len(repr(reply)) < 100
    assert repr(ExecuteReply(result="6")) == "<ExecuteReply ok: 6>"
