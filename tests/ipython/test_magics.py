"""The magics, in a real IPython: the seed's session line by line, ipyparallel's options, and Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("IPython", reason="needs IPython: the extra directview[ipython]")

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from directview import Cluster, magics
from directview.client import Client

pytestmark = pytest.mark.process

BANNER = "Parallel execution on engines: [0, 1, 2, 3]\n"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Folders of this module's own."""
    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(base))
        patch.setenv("XDG_RUNTIME_DIR", str(base / "run"))
        patch.setenv("XDG_STATE_HOME", str(base / "state"))
        patch.setenv("IPYTHONDIR", str(base / "ipython"))
        (base / "run").mkdir(mode=0o700)
        yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    """Four engines."""
    with Cluster(n=4) as rc:
        assert rc.cluster is not None
        yield rc.cluster


class Session:
    """An IPython in which lines are typed."""

    def __init__(self, shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
        self.shell = shell
        self._capsys = capsys

    def enter(self, source: str) -> str:
        """What is printed and shown after `source` was entered."""
        self._capsys.readouterr()
        self.result = self.shell.run_cell(source, store_history=True)
        return self._capsys.readouterr().out

    def fails(self, source: str, kind: type[BaseException], said: str) -> None:
        """That `source` fails, with an error of this kind that says this."""
        self.enter(source)
        error = self.result.error_in_exec or self.result.error_before_exec
        assert isinstance(error, kind)
        assert said in str(error)

    def value(self, name: str) -> Any:
        """What a name stands for here."""
        return self.shell.user_ns[name]


@pytest.fixture
def bare(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Session]:
    """An IPython session in which nothing has been imported."""
    InteractiveShell.clear_instance()  # Another test may have left one.
    shell: Any = InteractiveShell.instance(colors="nocolor")
    yield Session(shell, capsys)
    if magics._active:
        magics.unload_ipython_extension(shell)
    shell.history_manager.end_session()
    if shell.history_manager.save_thread is not None:
        shell.history_manager.save_thread.stop()
    InteractiveShell.clear_instance()


@pytest.fixture
def session(bare: Session, cluster: Cluster) -> Iterator[Session]:
    """A session with a client `rc`, a view `dv`, and the magics active."""
    with cluster.connect_client_sync() as rc:
        dv = rc[:]
        dv.block = True
        bare.shell.user_ns.update(rc=rc, dv=dv)
        dv.activate()
        yield bare


# --- the seed's session -------------------------------------------------------------------------------------


def test_the_seeds_session(bare: Session, cluster: Cluster) -> None:
    """The page's section on magics, from its first line to its last."""
    with cluster.connect_client_sync() as rc:
        bare.shell.user_ns["rc"] = rc
        assert bare.enter("%load_ext directview") == ""
        bare.enter("dv = rc[:]")
        bare.enter("dv.activate()")
        bare.enter("dv.block = True")
        bare.enter("import numpy")
        assert bare.enter("%px import numpy") == BANNER
        assert bare.enter("%px a = numpy.random.rand(2,2)") == BANNER
        assert bare.enter("%px ev = numpy.linalg.eigvals(a)") == BANNER
        shown = bare.enter("dv['ev']")
        assert shown.startswith("Out[")
        assert shown.count("array(") == 4

        bare.enter("dv.block = False")
        assert bare.enter("%autopx") == ("%autopx enabled\nAuto Parallel Enabled\nType %autopx to disable\n")
        assert bare.enter("max_evals = []").startswith("<AsyncResult")
        assert bare.enter(
            "for i in range(100):\n"
            "    a = numpy.random.rand(10,10)\n"
            "    a = a+a.transpose()\n"
            "    evals = numpy.linalg.eigvals(a)\n"
            "    max_evals.append(evals[0].real)\n"
        ).startswith("<AsyncResult")
        assert bare.enter("%autopx") == "%autopx disabled\nAuto Parallel Disabled\n"
        assert "max_evals" not in bare.shell.user_ns

        bare.enter("dv.block = True")
        line = 'px ans= "Average max eigenvalue is: %f"%(sum(max_evals)/len(max_evals))'
        assert bare.enter(line) == BANNER
        shown = bare.enter("dv['ans']")
        assert len(re.findall(r"'Average max eigenvalue is: \d+\.\d+'", shown)) == 4


def test_a_parallel_list_comprehension(session: Session) -> None:
    """With scatter, %px and gather, as the page has it."""
    session.enter("dv.scatter('x', range(64))")
    assert session.enter("%px y = [i**10 for i in x]") == BANNER
    session.enter("y = dv.gather('y')")
    assert list(session.value("y")) == [i**10 for i in range(64)]


# --- %px --------------------------------------------------------------------------------------------------


def test_values_come_back_with_their_places(session: Session) -> None:
    shown = session.enter("%px 6 * 7")
    assert re.fullmatch(re.escape(BANNER) + r"(Out\[\d:\d+\]: 42\n){4}", shown)
    assert re.findall(r"Out\[(\d):", shown) == ["0", "1", "2", "3"]


def test_what_engines_print_is_labelled(session: Session) -> None:
    session.enter("dv.scatter('n', range(4), flatten=True)")
    shown = session.enter("%px print('I am', n)")
    assert sorted(shown.splitlines()[1:]) == [f"[stdout:{n}] I am {n}" for n in range(4)]


def test_braces_and_dollars_are_the_engines(session: Session) -> None:
    """They are not replaced by what this session has under these names."""
    session.enter("x = 'here'")
    session.enter("%px x = 'there'")
    assert session.enter("%%px -t 0\nf'{x}'").endswith("'there'\n")
    assert "'there'" in session.enter("%px f'{x}'")


def test_automagic(session: Session) -> None:
    assert session.enter("px 1 + 1").count(": 2\n") == 4


def test_ipythons_syntax_on_engines(session: Session) -> None:
    assert session.enter("%px !echo from a shell").count("from a shell") == 4
    assert session.enter("%px %time 5").count("Wall time") == 4
    session.enter("%px import asyncio")
    assert session.enter("%px await asyncio.sleep(0, 'waited')").count("'waited'") == 4
    assert "Prints the values" in session.enter("%px print?")
    assert session.enter("%px %matplotlib inline") == BANNER


def test_errors_are_shown_as_on_the_page_and_can_be_debugged(session: Session) -> None:
    shown = session.enter("%px 1/0")
    assert "CompositeError: one or more exceptions from call to method: _execute\n" in shown
    assert "[0:apply]: ZeroDivisionError: division by zero\n" in shown
    assert "[3:apply]: ZeroDivisionError: division by zero" in shown
    assert "directview/" not in shown  # our own doings
    assert type(sys.last_value).__name__ == "CompositeError"
    assert sys.last_traceback is not None


def test_an_error_of_one_engine_is_shown_with_what_it_was_there(session: Session) -> None:
    """Of this session's frames only the user's own."""
    session.enter("one = rc[2]; one.block = True; one.activate('_one')")
    for line in ("%px_one 1 / 0", "def f():\n    one.apply(lambda: 1 / 0)\nf()"):
        shown = session.enter(line)
        here = shown.rpartition("The above exception was the direct cause")[2]
        assert "ZeroDivisionError: division by zero" in here
        assert "directview/" not in here
        assert ("in f()" in here) == line.startswith("def")
        assert type(sys.last_value).__name__ == "ZeroDivisionError"


def test_what_engines_displayed_before_they_failed_is_shown(session: Session) -> None:
    shown = session.enter("%px display('first'); 1/0")
    assert shown.partition("Traceback")[0].count("'first'") == 4
    assert "[output:3]" in shown


def test_a_syntax_error_is_named_with_its_line(session: Session) -> None:
    assert "SyntaxError: '(' was never closed" in session.enter("%px x = (")


def test_without_a_view_it_is_said_what_to_do(bare: Session) -> None:
    bare.enter("%load_ext directview")
    bare.fails("%px 1", UsageError, "rc[:].activate()")
    bare.fails("%autopx", UsageError, "rc[:].activate()")
    bare.fails("%pxresult", UsageError, "there has been none")


# --- %%px ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [("0", [0]), ("1,3", [1, 3]), ("[2]", [2]), ("::2", [0, 2]), ("1:3", [1, 2]), ("-1", [3])],
)
def test_targets(session: Session, given: str, meant: list[int]) -> None:
    shown = session.enter(f"%%px --targets={given} --no-stream\nprint('.')")
    assert shown.startswith(f"Parallel execution on engines: {meant}\n")
    assert shown.count(".\n") == len(meant)
    assert session.value("dv").targets == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", ["a", "1:a", "''", "1.5"])
def test_targets_that_are_none(session: Session, wrong: str) -> None:
    session.fails(f"%%px --targets {wrong}\n1", UsageError, "--targets")


def test_an_engine_that_is_not_there(session: Session) -> None:
    session.fails("%%px -t 17\n1", IndexError, "there is no engine 17")


def test_noblock_and_out(session: Session) -> None:
    shown = session.enter("%%px --noblock -o later\nprint('printed')\n'value'")
    assert shown.startswith("Async parallel execution on engines: [0, 1, 2, 3]\n")
    assert [reply.result for reply in session.value("later").get()] == ["'value'"] * 4
    shown = session.enter("%pxresult")
    assert shown.count("] printed\n") == 4
    assert shown.count("'value'") == 4


def test_no_verbose(session: Session) -> None:
    assert session.enter("%%px --no-verbose\na = 1") == ""
    session.enter("%pxconfig --no-verbose")
    assert session.enter("%px a = 1") == ""
    assert session.enter("%%px --verbose\na = 1") == BANNER


def test_local_runs_here_too(session: Session) -> None:
    session.enter("%%px --local\nwhere = 'everywhere'")
    assert session.value("where") == "everywhere"
    assert session.value("dv")["where"] == ["everywhere"] * 4


@pytest.mark.parametrize(
    ("groupby", "order"),
    [("type", "00 01 10 11 v0 v1"), ("order", "00 10 01 11 v0 v1"), ("engine", "00 01 v0 10 11 v1")],
)
def test_group_outputs(session: Session, groupby: str, order: str) -> None:
    session.enter("dv.scatter('n', range(4), flatten=True)")
    shown = session.enter(
        f"%%px -t 0,1 --group-outputs={groupby}\ndisplay(f'{{n}}0')\ndisplay(f'{{n}}1')\nf'v{{n}}'"
    )
    assert re.findall(r"'(\w\w)'", shown) == order.split()


def test_a_name_is_the_label_of_the_call(session: Session) -> None:
    session.enter("%%px --name mine -o named\n1")
    assert session.value("named").label == ["mine"] * 4


class Bars:
    """Progress bars that were drawn, and source for engines that takes until the next one is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.drawn: list[list[int]] = []
        self._folder = folder
        monkeypatch.setattr(magics, "progress_bar", self.draw)

    @contextmanager
    def draw(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        assert (total, what) == (4, "_execute")
        seen: list[int] = []
        (self._folder / str(len(self.drawn))).touch()
        self.drawn.append(seen)
        yield seen.append

    def slow(self) -> str:
        path = str(self._folder / str(len(self.drawn)))
        return f"[time.sleep(0.01) for _ in range(3000) if not os.path.exists({path!r})]; print('slept')"


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_a_progress_bar_appears_when_a_cell_takes_long(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stream: str
) -> None:
    bars = Bars(monkeypatch, tmp_path)
    session.enter("%px import os, time")
    shown = session.enter(f"%%px {stream} --progress-after=0.05\n{bars.slow()}")
    (seen,) = bars.drawn
    assert seen == sorted(seen)
    assert seen[-1] == 4
    assert shown.count("] slept\n") == 4
    session.enter(f"%%px {stream} --progress-after=-1\ntime.sleep(0.2)")
    session.enter("%%px --progress-after=60\n1")
    assert len(bars.drawn) == 1
    session.enter("%pxconfig --progress-after 0.05")
    session.enter(f"%px {bars.slow()}")
    assert len(bars.drawn) == 2
    session.enter(f"%%px --progress-after 0\n{bars.slow()}; 1 / 0")
    assert len(bars.drawn) == 3
    assert type(session.result.error_in_exec).__name__ == "CompositeError"


def test_pxresult_keeps_the_result_under_a_name(session: Session) -> None:
    session.enter("%%px --noblock\n5")
    assert session.enter("%pxresult -o kept").count(": 5\n") == 4
    assert [reply.result for reply in session.value("kept").get()] == ["5"] * 4


def test_what_is_displayed_again_takes_the_place_of_what_was(session: Session) -> None:
    shown = session.enter(
        "%%px -t 0,1\n"
        "from IPython.display import clear_output\n"
        "display('gone')\n"
        "clear_output()\n"
        "handle = display('first', display_id='bar')\n"
        "display('beside')\n"
        "for i in range(3): handle.update(f'at {i}')"
    )
    assert re.findall(r"'([\w ]+)'", shown) == ["at 2", "beside"] * 2
    shown = session.enter(
        "%%px -t 0\nfor i in range(3):\n    display(f'picture {i}')\n    clear_output(wait=True)"
    )
    assert re.findall(r"'([\w ]+)'", shown) == ["picture 2"]


def test_an_unknown_option_is_refused(session: Session) -> None:
    session.enter("%%px --nothing\n1")
    assert not session.result.success


# --- %result ------------------------------------------------------------------------------------------------


def test_result_gives_the_last_call_or_one_by_its_index(session: Session) -> None:
    """As the page has it: what was applied comes back as a value, what was executed is shown."""
    session.enter("%px ev = 5")
    session.enter("dv.apply_async(lambda: ev)")
    assert session.enter("%result").endswith(": [5, 5, 5, 5]\n")
    session.enter("dv.apply_async(lambda: ev + 1)")
    assert session.enter("%result -2").endswith(": [5, 5, 5, 5]\n")
    session.enter("%px ev * 2")
    assert session.enter("%result").count("]: 10\n") == 4
    session.enter("%result --out kept")
    assert [reply.result for reply in session.value("kept").get()] == ["10"] * 4


# --- %autopx, %pxconfig, several views ----------------------------------------------------------------------


def test_autopx_when_blocking_shows_values_errors_and_this_sessions_syntax_errors(session: Session) -> None:
    session.enter("%autopx")
    try:
        session.enter("b = 10")
        assert session.enter("b + 1").count(": 11\n") == 4
        assert "[2:apply]: ZeroDivisionError" in session.enter("b / 0")
        assert not session.result.success
        assert "SyntaxError" in session.enter("b = ")
        assert session.enter("await __import__('asyncio').sleep(0, 5)").count(": 5\n") == 4
    finally:
        session.enter("%autopx")
    session.fails("b", NameError, "'b'")


def test_pxconfig_sets_the_views_flags(session: Session) -> None:
    session.enter("%pxconfig --targets ::2 --noblock")
    assert session.value("dv").targets == [0, 2]
    assert session.value("dv").block is False
    assert session.enter("%px 1").startswith("Async parallel execution on engines: [0, 2]\n")
    assert session.enter("%pxresult").count(": 1\n") == 2


def test_each_suffix_is_a_view_of_its_own(session: Session) -> None:
    session.enter("one = rc[1]; one.block = True; one.activate('_one')")
    assert session.enter("%px_one 'I'").startswith("Parallel execution on engines: [1]\nOut[1:")
    assert session.enter("%px 1").startswith(BANNER)
    session.enter("%autopx_one")
    assert session.enter("'again'").count("'again'") == 1
    session.enter("%autopx_one")


def test_the_first_client_activates_its_engines(bare: Session, cluster: Cluster) -> None:
    with cluster.connect_client_sync() as first, cluster.connect_client_sync():
        first.block = True
        assert bare.enter("%px 1").startswith(BANNER)
        assert magics._active[""].view.client is first
    with cluster.connect_client_sync() as later:  # those before are closed
        assert magics._active[""].view.client is later


def test_activate_of_a_client_gives_the_view(session: Session) -> None:
    rc: Client = session.value("rc")
    rc.activate([1, 2]).block = True
    assert session.enter("%px 1").startswith("Parallel execution on engines: [1, 2]\n")


def test_unloading_takes_the_magics_away(session: Session) -> None:
    magics.unload_ipython_extension(session.shell)
    session.fails("%px 1", UsageError, "not found")


# --- Ctrl-C -----------------------------------------------------------------------------------------------


def test_ctrl_c_interrupts_the_engines(home: Path) -> None:
    """In a terminal: what engines print comes while they run, and Ctrl-C ends the cell there and here."""
    import pexpect

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "dumb"}
    child = pexpect.spawn(
        sys.executable, ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=nocolor"],
        env=environment, encoding="utf-8", timeout=30, cwd=str(home),
    )  # fmt: skip
    try:
        child.expect(r"In \[1\]: ")
        child.sendline("from directview import Cluster; rc = Cluster(n=2).start_and_connect_sync()")
        child.expect(r"In \[2\]: ")
        child.sendline("rc.block = True")
        child.expect(r"In \[3\]: ")
        child.sendline("%px import time; before = 1; print('begun'); time.sleep(60)")
        child.expect(r"\[stdout:\d\] begun")
        child.expect(r"\[stdout:\d\] begun")
        child.sendintr()
        child.expect("Received Keyboard Interrupt. Sending signal SIGINT to engines...")
        child.expect("KeyboardInterrupt")
        child.expect(r"In \[4\]: ")
        child.sendline("%px before + 1")
        child.expect(r"Out\[1:\d+\]: 2")
        child.sendline("rc.close(); rc.cluster.stop_cluster_sync()")
        child.expect(r"In \[5\]: ")
        child.sendline("exit")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
