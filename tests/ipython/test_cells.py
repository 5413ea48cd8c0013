"""Cells: source run on an engine as a notebook runs it, with and without IPython there."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import directview
from directview import Cluster, cells, operations
from directview.errors import RemoteError
from directview.reply import ExecuteReply


class _NoIPython:
    """Refuses to find IPython, as where it isn't installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "IPython":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> contextvars.Context:
    """The context of an engine that has no IPython."""
    monkeypatch.setattr(sys, "meta_path", [_NoIPython(), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "IPython"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "directview._cells_ipython", raising=False)
    monkeypatch.delattr(directview, "_cells_ipython", raising=False)
    context = contextvars.copy_context()
    names: dict[str, Any] = {"__builtins__": builtins, "__name__": "__main__"}
    context.run(operations.bind, names, engine_id=3, engine_uuid=f"{id(names):x}")
    return context


def run(engine: contextvars.Context, code: str) -> ExecuteReply:
    """One cell, run to its end."""
    reply = engine.run(cells.run_cell, code)
    if isinstance(reply, ExecuteReply):
        return reply
    with asyncio.Runner() as runner:
        return runner.run(reply, context=engine)


def test_the_last_expression_comes_back_as_text_with_its_place(engine: contextvars.Context) -> None:
    reply = run(engine, "a = 6\na * 7")
    assert (reply.result, reply.execution_count, reply.engine_id) == ("42", 1, 3)
    assert reply.labelled() == "Out[3:1]: 42"
    assert reply.execute_result == {"data": {"text/plain": "42"}, "metadata": {}, "execution_count": 1}
    assert run(engine, "'two\\nlines'").labelled() == "Out[3:2]: 'two\\nlines'"


def test_a_text_of_several_lines_begins_on_its_own(engine: contextvars.Context) -> None:
    run(engine, "class Tall:\n    def __repr__(self): return 'a\\nb'")
    assert run(engine, "Tall()").labelled() == "Out[3:2]: \na\nb"


@pytest.mark.parametrize(
    "code", ["a = 1", "1;", "1; # said", "None", "", "# nothing", "def f(): pass", "print"]
)
def test_only_an_expression_with_a_value_and_without_a_semicolon_is_displayed(
    engine: contextvars.Context, code: str
) -> None:
    reply = run(engine, code)
    assert (reply.result is None) == (code != "print")
    assert (reply.labelled() == "") == (code != "print")


def test_a_semicolon_within_a_text_does_not_count(engine: contextvars.Context) -> None:
    assert run(engine, "'a;'").result == "'a;'"


def test_the_value_shown_last_is_kept_as_underscore(engine: contextvars.Context) -> None:
    run(engine, "6 * 7")
    run(engine, "None")
    assert run(engine, "_ + 1").result == "43"


def test_await_works_in_the_statements_and_in_the_last_expression(engine: contextvars.Context) -> None:
    assert run(engine, "import asyncio\nx = await asyncio.sleep(0, 41)\nx + 1").result == "42"
    assert run(engine, "await asyncio.sleep(0, 'late')").result == "'late'"


def test_an_error_is_raised_with_the_cells_own_lines(engine: contextvars.Context) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(engine, "a = 1\na / 0")
    text = "".join(__import__("traceback").format_exception(caught.value))
    assert "line 2" in text
    assert "a / 0" in text


def test_ipythons_syntax_is_a_syntax_error_without_ipython(engine: contextvars.Context) -> None:
    for way in (cells.run_cell, operations.execute):
        with pytest.raises(SyntaxError):
            engine.run(way, "%who")


def test_a_reply_is_a_bundle_of_mime_types_for_notebooks() -> None:
    reply = ExecuteReply(
        result="<b>", engine_id=1, execution_count=2,
        execute_result={"data": {"text/plain": "<b>", "text/html": "<b>bold</b>"}, "metadata": {"a": 1}},
    )  # fmt: skip
    assert reply._repr_mimebundle_() == (
        {"text/plain": "Out[1:2]: <b>", "text/html": "<b>bold</b>"},
        {"a": 1},
    )
    assert ExecuteReply()._repr_mimebundle_() == ({"text/plain": "<ExecuteReply ok>"}, {})


def test_a_cell_that_is_no_text_is_refused(engine: contextvars.Context) -> None:
    with pytest.raises(TypeError, match="use apply for a function"):
        engine.run(cells.run_cell, print)  # type: ignore[arg-type]


@pytest.mark.process
def test_engines_import_ipython_for_their_first_cell_and_not_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    with Cluster(n=2) as rc:
        view = rc[:]
        view.execute_sync("import sys\na = 6")
        assert view.pull("'IPython' in sys.modules", block=True) == [False, False]
        replies = view.execute_sync("a * 7", silent=False).get()
        assert [reply.labelled() for reply in replies] == ["Out[0:1]: 42", "Out[1:1]: 42"]
        assert view.execute_sync("a * 7").get()[0].result is None
        installed = importlib.util.find_spec("IPython") is not None
        assert view.pull("'IPython' in sys.modules", block=True) == [installed, installed]
        with pytest.raises(RemoteError) as caught:
            view.execute_sync("a / 0", silent=False)
        assert "a / 0" in "\n".join(caught.value.render_traceback())


@pytest.mark.process
def test_engines_without_ipython_run_cells_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything but IPython's own syntax; real engines, which can't import it."""
    missing = "raise ModuleNotFoundError('No module named IPython', name='IPython')"
    (tmp_path / "IPython.py").write_text(missing)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))  # engines are given this process's path
    with Cluster(n=2) as rc:
        view = rc[:]
        replies = view.execute_sync("import asyncio\nprint('said')\nawait asyncio.sleep(0, 42)", silent=False)
        assert [reply.labelled() for reply in replies.get()] == ["Out[0:1]: 42", "Out[1:1]: 42"]
        assert replies.stdout == ["said\n"] * 2
        view.execute_sync("import sys")
        assert view.pull("'IPython' in sys.modules", block=True) == [False, False]
        with pytest.raises(SyntaxError):
            rc[0].execute_sync("!echo", silent=False)
