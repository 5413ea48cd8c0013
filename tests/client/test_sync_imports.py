"""What a sync_imports block has engines import: every form of import statement, and nothing else."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from directview import operations
from directview._import_statements import OnEngines
from directview._sync_imports import SyncImports
from directview.errors import WouldBlockLoop
from directview.result import AsyncResult
from directview.view import DirectView
from directview.wire.objects import dumps, loads


class Recorder:
    """In the place of a view: keeps the source that engines would execute, and answers at once."""

    def __init__(self, fails: str = "") -> None:
        self.sources: list[str] = []
        self.client = self
        self.client_uuid = "c"
        self.may_block = True
        self._fails = fails

    def block(self, *, local: bool = True, quiet: bool = True) -> SyncImports:
        return SyncImports(cast("DirectView[Any]", self), local=local, quiet=quiet)

    def check_may_block(self, what: str, instead: str) -> None:
        if not self.may_block:
            raise WouldBlockLoop(f"{what}: use {instead}")

    def check_running(self) -> None:
        pass

    def cancel_calls(self, calls: object) -> None:
        pass

    def _ids(self, targets: object) -> tuple[int, ...]:
        return (0,)

    def _call(self, f: object, args: tuple[str], kwargs: object, *, name: str) -> AsyncResult[Any]:
        assert f is operations.execute
        self.sources.append(args[0])
        result: AsyncResult[Any] = AsyncResult(self, ((1, 0),), name=name, single=True)
        if self._fails and self._fails in args[0]:
            result._deliver_error(0, None, ImportError(f"no {self._fails} here"))
        else:
            result._deliver(0, None, None)
        return result


@pytest.fixture(autouse=True)
def nothing_stays_replaced() -> Iterator[None]:
    before = builtins.__import__
    yield
    assert builtins.__import__ is before


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that nobody has imported, and that imports others."""
    folder = tmp_path / "dvpack"
    folder.mkdir()
    (folder / "__init__.py").write_text("import dvpack.sub.deep\nvalue = 1\nother = 2\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "__init__.py").write_text("x = 3\n")
    (folder / "sub" / "deep.py").write_text("import json\ny = 4\n")
    (folder / "lonely.py").write_text("z = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "dvpack"]:
        del sys.modules[name]


STATEMENTS = [
    "import dvpack",
    "import dvpack as p",
    "import dvpack as dvpack",
    "import dvpack.sub",
    "import dvpack.sub as s",
    "import dvpack.sub as dvpack",
    "import dvpack.sub.deep as d",
    "import dvpack, json as j, dvpack.sub.deep",
    "from dvpack import value",
    "from dvpack import value as v, other, sub as dvpack",
    "from dvpack.sub import x, deep",
    "from dvpack.sub.deep import y as z",
]


def single(statement: str) -> list[str]:
    """The statements that the engines get for one statement of the block."""
    if statement.startswith("import ") and "," in statement:
        return [f"import {part.strip()}" for part in statement.removeprefix("import ").split(",")]
    return [statement.replace("dvpack as dvpack", "dvpack")]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_each_form_is_made_again_as_it_was(package: None, statement: str) -> None:
    """At the top of a module, in a class, in a function, in a closure, by `global`; among many names."""
    many = "; ".join([f"n{i} = {i}" for i in range(600)])  # their numbers need EXTENDED_ARG
    view = Recorder()
    plain: dict[str, Any] = {}
    exec(statement, plain)
    for template in (
        "with view.block():\n    {0}\n    n = 1",
        many + "\nwith view.block():\n    {0}",
        "class A:\n    with view.block():\n        {0}",
        "def f():\n    with view.block():\n        {0}; n = 1\n    return locals()\nfound = f()",
        "def f():\n    with view.block():\n        {0}\n    return lambda: ({1})\nf()()",
        "def f():\n    global {1}\n    with view.block():\n        {0}\nf()",
    ):
        bound = ", ".join(name for name in plain if name != "__builtins__")
        names: dict[str, Any] = {"view": view}
        view.sources.clear()
        exec(template.format(statement, bound), names)
        assert view.sources == single(statement)
        there: dict[str, Any] = {}
        for source in view.sources:
            exec(source, there)
        assert there.keys() == plain.keys()
        if "def " not in template and "class" not in template:
            assert {name: names[name] for name in plain if name != "__builtins__"} == {
                name: value for name, value in plain.items() if name != "__builtins__"
            }


def test_star_and_relative_imports(package: None) -> None:
    view = Recorder()
    names: dict[str, Any] = {"view": view, "__package__": "dvpack.sub", "__name__": "dvpack.sub.extra"}
    source = "with view.block():\n    {}\n"
    for statement in (
        "from dvpack.sub import *",
        "from . import deep as d",
        "from .deep import y",
        "from .. import value",
    ):
        exec(source.format(statement), names)
    assert view.sources == [
        "from dvpack.sub import *",
        "from dvpack.sub import deep as d",
        "from dvpack.sub.deep import y",
        "from dvpack import value",
    ]
    assert (names["x"], names["y"], names["value"]) == (3, 4, 1)


def test_what_it_prints(package: None, capsys: pytest.CaptureFixture[str]) -> None:
    view = Recorder()
    exec(
        "with view.block(quiet=False):\n"
        "    import json\n"
        "    import os.path as p\n"
        "    from dvpack import other as o, value\n"
        "    from dvpack.sub import *\n",
        {"view": view},
    )
    assert capsys.readouterr().out == (
        "importing json on engine(s)\n"
        "importing os.path on engine(s)\n"
        "importing other,value from dvpack on engine(s)\n"
        "importing * from dvpack.sub on engine(s)\n"
    )


def test_only_the_blocks_own_imports_count(package: None) -> None:
    """Not those of modules, of functions, of other threads, nor by importlib."""
    view = Recorder()

    def elsewhere() -> None:
        import wave  # noqa: F401

    with view.block():
        import json  # noqa: F401

        elsewhere()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        importlib.import_module("dvpack")
        exec("import dvpack")
    assert view.sources == ["import json"]


def test_a_call_of_import_counts_by_its_module(package: None) -> None:
    view = Recorder()
    with view.block():
        __import__("dvpack.sub")
        __import__("dvpack.sub", None, None, ["x"])
    assert view.sources == ["import dvpack.sub", "from dvpack.sub import x"]


def test_blocks_may_overlap_in_any_order() -> None:
    """Of one frame, both count; when the first to be opened is closed first, nothing is left behind."""
    one, two = Recorder(), Recorder()
    first, second = one.block(), two.block()
    with first, second:
        import json  # noqa: F401
    assert one.sources == two.sources == ["import json"]
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    import json as j  # noqa: F401

    second.__exit__(None, None, None)
    assert (one.sources, two.sources[1:]) == (["import json"], ["import json as j"])


def test_threads_have_blocks_of_their_own() -> None:
    barrier = threading.Barrier(2)
    views = Recorder(), Recorder()

    def run(view: Recorder, statement: str) -> None:
        source = f"with view.block():\n    barrier.wait()\n    {statement}\n    barrier.wait()"
        exec(source, {"view": view, "barrier": barrier})

    threads = [
        threading.Thread(target=run, args=args)
        for args in zip(views, ["import json", "import math"], strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [view.sources for view in views] == [["import json"], ["import math"]]


def test_another_hook_on_top_is_left_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has replaced `__import__` during the block keeps what they did; ours passes on from then."""
    view = Recorder()
    before = builtins.__import__
    with view.block():
        import json

        below = builtins.__import__
        calls = []

        def other(name: str, *rest: Any) -> Any:
            calls.append(name)
            return below(name, *rest)

        builtins.__import__ = cast("Any", other)
        import math  # noqa: F401
    try:
        assert builtins.__import__ is other
        import json as j

        assert (j, calls) == (json, ["math", "json"])
        with view.block():
            import math as m  # noqa: F401
        assert builtins.__import__ is other
        assert view.sources == ["import json", "import math as m"]
    finally:
        builtins.__import__ = before


# --- errors ---------------------------------------------------------------------------------------------


def test_an_import_that_fails_here_is_not_done_there() -> None:
    view = Recorder()
    with pytest.raises(ImportError, match="dv_no_such"), view.block():  # noqa: PT012
        import json  # noqa: F401

        import dv_no_such_module  # type: ignore[import-not-found] # noqa: F401
    assert view.sources == ["import json"]


def test_an_import_that_fails_there_is_raised_at_the_end() -> None:
    view = Recorder(fails="json")
    seen = []
    with pytest.raises(Exception, match="no json here"), view.block():  # noqa: PT012
        import json
        import math

        seen += [json, math]
    assert len(seen) == 2
    assert view.sources == ["import json", "import math"]
    with pytest.raises(KeyError), view.block():  # noqa: PT012 - the block's own error is the one to see
        import json

        raise KeyError


def test_a_block_is_used_once_at_a_time() -> None:
    block = Recorder().block()
    with block, pytest.raises(RuntimeError, match="open already"), block:
        pass
    with block:
        import json  # noqa: F401
    view = Recorder()
    view.may_block = False
    with pytest.raises(WouldBlockLoop, match=r"async with view\.sync_imports"), view.block():
        pass


# --- async ----------------------------------------------------------------------------------------------


async def test_async_with_sees_the_same_statements() -> None:
    """Also around awaits, while other tasks import."""
    view = Recorder()
    view.may_block = False

    async def other() -> None:
        import math  # noqa: F401

    async with view.block():
        import json  # noqa: F401

        await asyncio.gather(other(), other())
        import os.path as p  # noqa: F401
    assert view.sources == ["import json", "import os.path as p"]
    with pytest.raises(Exception, match="no json here"):
        async with Recorder(fails="json").block():
            import json as j  # noqa: F401
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(view.block())
        import math as m  # noqa: F401
    assert view.sources[2:] == ["import math as m"]


def test_an_exit_stack_enters_for_its_user() -> None:
    view = Recorder()
    with contextlib.ExitStack() as stack:
        stack.enter_context(view.block())
        import json  # noqa: F401
    assert view.sources == ["import json"]


# --- local=False ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", [*STATEMENTS, "from dvpack import *", "import dvpack.no, no_such as n"])
def test_without_local_nothing_is_imported_here(package: None, statement: str) -> None:
    """And the names are what they were."""
    view = Recorder()
    names: dict[str, Any] = {"view": view, "dvpack": "mine"}
    exec(f"with view.block(local=False):\n    {statement}", names)
    assert view.sources == single(statement)
    assert [name for name in sys.modules if name.startswith("dvpack")] == []
    assert names.keys() - {"__builtins__", "j"} == {"view", "dvpack"}
    assert names["dvpack"] == "mine"


def test_without_local_what_is_here_is_bound_as_usual(package: None) -> None:
    view = Recorder()
    names: dict[str, Any] = {"view": view}
    dvpack = importlib.import_module("dvpack")
    exec("with view.block(local=False):\n    import dvpack as p\n    from dvpack import value", names)
    assert names["p"] is dvpack
    assert names["value"] == 1
    assert len(view.sources) == 2


def test_a_stand_in_says_what_it_is_and_travels_by_name(package: None) -> None:
    view = Recorder()

    names: dict[str, Any] = {"view": view}
    exec("def f():\n    with view.block(local=False):\n        import dvpack as p\n    return p", names)
    stand_in = names["f"]()
    assert type(stand_in) is OnEngines
    assert repr(stand_in) == "<dvpack, on the engines only>"
    with pytest.raises(AttributeError, match="dvpack has no 'value' here: it was imported on the engines"):
        stand_in.value
    with pytest.raises(TypeError, match="can't be called here"):
        stand_in()
    packed = dumps([stand_in])
    operations.bind({"p": ModuleType("there")})
    assert loads(packed.data, packed.buffers)[0].__name__ == "there"


def test_what_the_block_sets_itself_stays() -> None:
    view = Recorder()
    names: dict[str, Any] = {"view": view}
    exec("with view.block(local=False):\n    import dv_no_such\n    dv_no_such = 1", names)
    assert names["dv_no_such"] == 1
