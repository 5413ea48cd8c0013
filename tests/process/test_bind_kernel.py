"""A kernel inside of an engine, with a real frontend."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import directview
from directview import Client, Cluster

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

pytestmark += [pytest.mark.skipif(importlib.util.find_spec("ipykernel") is None, reason="needs ipykernel")]

DEADLINE = 30.0


@pytest.fixture
def rc(own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    with Cluster(n=2) as client:
        yield client


FRONTEND = """
import json, sys
from jupyter_client import BlockingKernelClient

frontend = BlockingKernelClient(connection_file=sys.argv[1])
frontend.load_connection_file()
frontend.start_channels()
frontend.wait_for_ready(timeout=20)
for line in sys.stdin:
    said = []

    def hear(message):
        content = message["content"]
        said.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

    reply = frontend.execute_interactive(json.loads(line), timeout=20, output_hook=hear)
    print(json.dumps([reply["content"]["status"], "".join(said)]), flush=True)
"""
"""Runs the cells that it is given; tells how each ended, and what it printed and returned. A process of its
own, because it leaves a loop behind."""


def ask(frontend: subprocess.Popen[str], code: str) -> tuple[str, str]:
    assert frontend.stdin is not None
    assert frontend.stdout is not None
    frontend.stdin.write(json.dumps(code) + "\n")
    frontend.stdin.flush()
    status, said = json.loads(frontend.stdout.readline())
    return status, said


def test_a_frontend_looks_into_an_engine(rc: Client, tmp_path: Path) -> None:
    """Also while the engine is busy; and calls and cells of the engine go on as before."""
    rc[:].scatter("rank", [10, 20], flatten=True, block=True)
    rc[0].execute_sync("%time 1", silent=False)  # it has a shell of IPython's already
    files = rc[:].apply_sync(directview.bind_kernel)
    assert [Path(file).parent for file in files] == [tmp_path / "jupyter"] * 2
    assert rc[:].apply_sync(directview.bind_kernel) == files
    command = [sys.executable, "-c", FRONTEND, files[1]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as frontend:
        assert ask(frontend, "print(rank); left = 'here'; rank + 1") == ("ok", "20\n21")
        busy = rc[1].apply_async(time.sleep, 1.0)
        assert ask(frontend, "rank") == ("ok", "20")
        assert not busy.done()
        busy.get(DEADLINE)
        assert ask(frontend, "1/0")[0] == "error"
    assert rc[1]["left"] == "here"
    printed = rc[1].execute("print('still', rank)", silent=False)
    assert printed.get(DEADLINE)
    assert printed.stdout == "still 20\n"
    for engine in rc:
        engine.execute("%time x = 1", silent=False).get(DEADLINE)
    rc.shutdown_sync()
    deadline = time.monotonic() + DEADLINE
    while any(Path(file).exists() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_ipykernel_it_says_what_to_install(rc: Client) -> None:
    def hide() -> None:
        sys.modules["ipykernel"] = None  # type: ignore[assignment]
        sys.modules["ipykernel.displayhook"] = None  # type: ignore[assignment]

    rc[0].apply_sync(hide)
    with pytest.raises(ImportError, match="needs the package ipykernel on the engine: pip install ipykernel"):
        rc[0].apply_sync(directview.bind_kernel)


def test_it_is_for_engines_only() -> None:
    with pytest.raises(RuntimeError, match=r"to be called on engines: view.apply\(bind_kernel\)"):
        directview.bind_kernel()
