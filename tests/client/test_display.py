"""What is shown of a result: progress bars, labelled output, a table."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from directview import _display, _progress
from directview._metadata import CallMetadata
from directview._progress import progress_bar
from directview.errors import RemoteError
from directview.reply import ExecuteReply
from directview.result import AsyncMapResult, AsyncResult


class Owner:
    """A client whose calls never end by themselves."""

    client_uuid = "c"

    def check_may_block(self, what: str, instead: str) -> None:
        pass

    def check_running(self) -> None:
        pass

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        pass


def meta(engine: int = 0) -> CallMetadata:
    return CallMetadata(engine, f"uuid{engine}", 100.0, 102.5, 2e9, "ok")


def many(n: int = 2, **options: Any) -> AsyncResult[Any]:
    return AsyncResult(Owner(), tuple((7, engine) for engine in range(n)), name="f", **options)


def one() -> AsyncResult[Any]:
    return AsyncResult(Owner(), ((7, 3),), single=True, name="f")


def soon(*acts: Callable[[], object]) -> None:
    threading.Thread(target=lambda: [act() for act in acts]).start()


# --- progress -------------------------------------------------------------------------------------------


class Bars:
    """In the place of the bar: what it was told."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, str, bool | None]] = []
        self.seen: list[int] = []

    def __call__(self, total: int, what: str, *, widget: bool | None = None) -> Any:
        self.opened.append((total, what, widget))
        return self

    def __enter__(self) -> Callable[[int], None]:
        return self.seen.append

    def __exit__(self, *_: object) -> None:
        self.seen.append(-1)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    made = Bars()
    monkeypatch.setattr(_display, "progress_bar", made)
    return made


def test_wait_interactive_shows_how_many_have_ended(bars: Bars) -> None:
    ar = many(3)
    ar._deliver(2, meta(2), None)
    soon(
        lambda: ar._deliver_error(1, meta(1), RemoteError("ValueError", "")),
        lambda: ar._deliver(0, meta(0), None),
    )
    ar.wait_interactive(0.001, widget=False)
    assert ar.done()
    assert bars.opened == [(3, "f", False)]
    assert bars.seen[0] >= 1
    assert bars.seen[-2:] == [3, -1]
    assert bars.seen == [*sorted(bars.seen[:-1]), -1]


def test_the_bar_is_at_its_end_also_when_that_comes_while_it_is_drawn(
    bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    ar = many(2)

    def draw(done: int) -> None:
        bars.seen.append(done)
        if not done:
            for engine in range(2):
                ar._deliver(engine, meta(engine), None)

    monkeypatch.setattr(Bars, "__enter__", lambda self: draw)
    ar.wait_interactive()
    assert bars.seen == [0, 2, -1]


def test_wait_interactive_ends_with_its_timeout_or_at_the_first(bars: Bars) -> None:
    ar = many(2)
    ar.wait_interactive(timeout=0)
    ar.wait_interactive(0.001, 0.01)
    ar._deliver(0, meta(), None)
    ar.wait_interactive(60, return_when="FIRST_COMPLETED")
    assert not ar.done()
    with pytest.raises(ValueError, match="SOMETIME"):
        ar.wait_interactive(return_when="SOMETIME")


def test_progress_of_a_map_counts_items(bars: Bars) -> None:
    ar: AsyncMapResult[int] = AsyncMapResult(Owner(), ((1, 0), (2, 1)), [2, 3])
    assert (ar.progress, len(ar)) == (0, 5)
    ar._deliver(1, meta(1), [1, 2, 3])
    assert ar.progress == 3
    ar._deliver(0, meta(0), [1, 2])
    assert ar.progress == 5
    ar.wait_interactive()
    assert bars.opened[0][:2] == (5, "map")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_printed_while_a_bar_is_drawn_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels in brackets too, at the end of a line and within one."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(2, "f", widget=False) as update:
        update(1)
        printer = _display.Printer(labelled=True)
        printer.write(0, "stdout", "whole :smile:\n")
        printer.write(1, "stdout", "in [red]part")
        update(2)
    assert "[stdout:0] whole :smile:" in terminal.getvalue()
    assert "[stdout:1] in [red]part" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


async def test_wait_interactive_can_be_awaited(bars: Bars) -> None:
    ar = many(2)
    waiting = asyncio.create_task(ar.wait_interactive_async())
    await asyncio.sleep(0)
    for engine in range(2):
        ar._deliver(engine, meta(engine), None)
        await asyncio.sleep(0)
    await asyncio.wait_for(waiting, 30)
    assert bars.seen[0] == 0
    assert bars.seen[-2:] == [2, -1]
    abandoned = many(2)
    waiting = asyncio.create_task(abandoned.wait_interactive_async())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not abandoned.done()


def test_a_bar_in_a_terminal_moves_in_place() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, force_jupyter=False)
    with progress_bar(4, "f[bold]", console=console) as update:
        update(1)
        update(4)
    drawn = file.getvalue()
    assert "f[bold]" in drawn
    assert "1/4" in drawn
    assert "4/4" in drawn
    assert drawn.count("\n") == 1


def test_a_bar_in_a_file_is_its_last_state_only() -> None:
    file = io.StringIO()
    with progress_bar(4, "f", console=Console(file=file, width=80, force_jupyter=False)) as update:
        for done in range(5):
            update(done)
    assert "4/4" in file.getvalue()
    assert "1/4" not in file.getvalue()


class Notebook:
    """In the place of IPython: what a notebook would show."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.updates = 0

    def display(self, obj: object, display_id: bool = False) -> Notebook:
        self.shown.append(obj)
        return self

    def publish_display_data(self, *, data: Any, metadata: Any) -> None:
        self.shown.append((data, metadata))

    def update(self, obj: Any) -> None:
        assert obj is self.shown[-1]
        self.updates += 1
        assert "text/html" in obj._repr_mimebundle_((), ())


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    top: Any = types.ModuleType("IPython")
    top.get_ipython = lambda: made
    inner: Any = types.ModuleType("IPython.display")
    inner.display, inner.publish_display_data = made.display, made.publish_display_data
    monkeypatch.setitem(sys.modules, "IPython", top)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    return made


def test_a_bar_in_a_notebook_is_one_output_that_is_updated(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(4, "f", widget=True) as update:
        update(1)
        update(4)
    assert len(notebook.shown) == 1
    assert notebook.updates == 2
    assert capsys.readouterr() == ("", "")


def test_ipython_is_not_imported_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not _progress.in_ipython()
    assert "IPython" not in sys.modules


# --- output ---------------------------------------------------------------------------------------------


def test_streamed_output_is_labelled_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What came before comes first; a line that another engine interrupts is ended."""
    ar = many(2)
    ar._output(0, "stdout", "before\nand ")
    with ar.stream_output():
        assert capsys.readouterr().out == "[stdout:0] before\n[stdout:0] and "
        ar._output(0, "stdout", "after\n")
        ar._output(0, "stdout", "half")
        ar._output(1, "stdout", "other\n")
        ar._output(0, "stdout", " line\n")
        ar._output(1, "stderr", "trouble")
    out, err = capsys.readouterr()
    assert out == "after\n[stdout:0] half\n[stdout:1] other\n[stdout:0]  line\n"
    assert err == "[stderr:1] trouble\n"
    ar._output(0, "stdout", "too late\n")
    assert capsys.readouterr() == ("", "")


def test_output_of_a_single_engine_reads_as_if_printed_here(capsys: pytest.CaptureFixture[str]) -> None:
    ar = one()
    with ar.stream_output():
        ar._output(0, "stdout", "a\nb")
        ar._output(0, "stderr", "c\n")
    assert capsys.readouterr() == ("a\nb", "c\n")


def test_parts_stream_what_is_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    ar = many(3)
    ar._output(2, "stdout", "early\n")
    with AsyncResult.join(*ar.split()[1:]).stream_output():
        for index in range(3):
            ar._output(index, "stdout", f"{index}\n")
    assert capsys.readouterr().out == "[stdout:2] early\n[stdout:1] 1\n[stdout:2] 2\n"


def test_no_output_is_missed_or_doubled_when_streaming_begins(capsys: pytest.CaptureFixture[str]) -> None:
    ar = many(1)
    lines = [f"{number}\n" for number in range(2000)]

    def printing() -> None:
        for line in lines:
            ar._output(0, "stdout", line)

    thread = threading.Thread(target=printing)
    thread.start()
    with ar.stream_output():
        thread.join()
    assert capsys.readouterr().out == "".join([f"[stdout:0] {line}" for line in lines])


def finished(*replies: object) -> AsyncResult[Any]:
    ar = many(len(replies))
    for index, reply in enumerate(replies):
        ar._output(index, "stdout", f"out{index}")
        ar._output(index, "stderr", f"err{index}\n")
        ar._deliver(index, meta(index), reply)
    return ar


def test_display_outputs_by_type_and_by_engine(capsys: pytest.CaptureFixture[str]) -> None:
    ar = finished(None, None)
    ar.display_outputs()
    out, err = capsys.readouterr()
    assert out == "[stdout:0] out0\n[stdout:1] out1\n"
    assert err == "[stderr:0] err0\n[stderr:1] err1\n"
    ar.display_outputs("engine")
    assert capsys.readouterr() == (out, err)
    ar.display_outputs(result_only=True)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="can be type, engine, order"):
        ar.display_outputs("colour")  # type: ignore[arg-type]
    single = one()
    single._output(0, "stdout", "x\n")
    single._deliver(0, meta(), None)
    single.display_outputs()
    assert capsys.readouterr().out == "x\n"


def picture(name: str) -> dict[str, Any]:
    return {"data": {"text/plain": name}, "metadata": {}}


@pytest.mark.parametrize(
    ("groupby", "order"),
    [
        ("type", "[output:0] 0a 0b [output:1] 1a 1b r0 r1"),
        ("order", "[output:0] 0a [output:1] 1a [output:0] 0b [output:1] 1b r0 r1"),
        ("engine", "[output:0] 0a 0b r0 [output:1] 1a 1b r1"),
    ],
)
def test_pictures_and_results_are_shown_in_a_notebook(notebook: Notebook, groupby: Any, order: str) -> None:
    replies = [
        ExecuteReply(outputs=[picture(f"{engine}a"), picture(f"{engine}b")], result=f"r{engine}")
        for engine in range(2)
    ]
    ar = finished(*replies)
    ar.display_outputs(groupby)
    shown = [
        str(item.result) if isinstance(item, ExecuteReply) else item[0]["text/plain"]
        for item in notebook.shown
    ]
    assert " ".join(shown) == order
    assert notebook.shown[0][1]["engine"] == 0
    notebook.shown.clear()
    ar.display_outputs(result_only=True)
    assert notebook.shown == replies


def test_wait_for_output_is_wait() -> None:
    ar = one()
    assert ar.wait_for_output(0) is False
    ar._deliver(0, meta(), None)
    assert ar.wait_for_output() is True


# --- as a table -----------------------------------------------------------------------------------------


def test_the_table_shows_each_engine() -> None:
    ar = many(3)
    ar._deliver(0, meta(0), None)
    ar._deliver_error(1, meta(1)._replace(status="error"), RemoteError("ValueError", "<b> & c"))
    table = ar._repr_html_()
    assert "<td>0</td><td>ok</td><td>2.5</td><td></td>" in table
    assert "<td>1</td><td>error</td>" in table
    assert "&lt;b&gt; &amp; c" in table
    assert "<td>2</td><td>pending</td><td></td><td></td>" in table
    assert "&lt;AsyncResult(f): pending&gt;" in table
    assert "and 20 more" in many(120)._repr_html_()
