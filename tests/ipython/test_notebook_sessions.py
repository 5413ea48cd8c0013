"""The sessions of the how-to about notebooks, typed into a real IPython."""

from __future__ import annotations

import doctest
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("IPython", reason="needs IPython: the extra directview[ipython]")

from IPython.core.interactiveshell import InteractiveShell

from directview import magics

pytestmark = pytest.mark.process

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "notebooks.md"


def prompts() -> Iterator[tuple[int, str, str]]:
    """Number, source and output of each prompt on the page."""
    for block in re.findall(r"^```text\n(In .*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for entry in re.split(r"^(?=In \[)", block, flags=re.MULTILINE)[1:]:
            lines = entry.splitlines()
            number, _, first = lines[0].removeprefix("In [").partition("]: ")
            typed = [line for line in lines[1:] if line.startswith("   ...: ")]
            source = "\n".join([first, *(line.removeprefix("   ...: ") for line in typed)])
            yield int(number), source, "\n".join(lines[1 + len(typed) :]).strip()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An IPython that has just been started, and folders of its own."""
    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    for variable, folder in {"HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state"}.items():
        (base / folder).mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv(variable, str(base / folder))
    monkeypatch.setenv("IPYTHONDIR", str(base / "ipython"))
    made: Any = InteractiveShell.instance(colors="nocolor")
    yield made
    rc = made.user_ns.get("rc")
    if rc is not None:
        cluster = rc.cluster
        rc.close()
        cluster.stop_cluster_sync()
    magics.unload_ipython_extension(made)
    made.history_manager.end_session()
    if made.history_manager.save_thread is not None:
        made.history_manager.save_thread.stop()
    InteractiveShell.clear_instance()
    shutil.rmtree(base, ignore_errors=True)


def test_the_page_shows_what_ipython_shows(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Line by line; engines may print in any order."""
    seen = 0
    for number, source, expected in prompts():
        seen += 1
        assert number == seen == shell.execution_count
        capsys.readouterr()
        result = shell.run_cell(source, store_history=True)
        shown = capsys.readouterr().out.strip()
        assert result.success, f"In [{number}]: {source}\n{shown}"
        if "[stdout:" in expected:
            expected, shown = ("\n".join(sorted(text.splitlines())) for text in (expected, shown))
        same = doctest.OutputChecker().check_output(expected, shown, doctest.NORMALIZE_WHITESPACE)
        assert same, f"In [{number}]: {source}\nexpected:\n{expected}\nshown:\n{shown}"
    assert seen == 19
