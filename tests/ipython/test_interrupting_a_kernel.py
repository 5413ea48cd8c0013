"""The stop button of a notebook: a real kernel is interrupted while a cell runs on engines."""

from __future__ import annotations

import os
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipykernel", reason="needs ipykernel: the extra directview[test]")

pytestmark = [
    pytest.mark.process,
    # Of the kernel's client.
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning"),
]

DEADLINE = 60.0


class Kernel:
    """A notebook's kernel, and what it says."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.client = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE)

    def begin(self, source: str) -> str:
        """Run a cell; returns its id."""
        return str(self.client.execute(source))

    def messages(self, cell: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Kind and content of what comes below the cell, until it has ended."""
        ends = time.monotonic() + DEADLINE
        while time.monotonic() < ends:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message["msg_type"], message["content"]
        raise AssertionError("the cell has not ended")

    def run(self, source: str) -> list[tuple[str, dict[str, Any]]]:
        """Run a cell to its end."""
        return list(self.messages(self.begin(source)))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A kernel with a cluster of two engines, in folders of its own."""
    from jupyter_client.manager import KernelManager

    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    for variable, folder in {"HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state"}.items():
        (base / folder).mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv(variable, str(base / folder))
    monkeypatch.setenv("IPYTHONDIR", str(base / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    manager: Any = KernelManager(kernel_name="python3")
    manager.start_kernel()
    made = Kernel(manager)
    said = made.run(
        "from directview import Cluster\nrc = Cluster(n=2).start_and_connect_sync()\nrc.block = True"
    )
    assert [kind for kind, _ in said if kind == "error"] == []
    yield made
    made.run("cluster = rc.cluster\nrc.close()\ncluster.stop_cluster_sync()")
    made.client.stop_channels()
    manager.shutdown_kernel(now=True)
    shutil.rmtree(base, ignore_errors=True)


def interrupt_when_begun(kernel: Kernel, source: str) -> list[tuple[str, dict[str, Any]]]:
    """What comes below a cell that is interrupted when both engines have said that they have begun."""
    cell = kernel.begin(source)
    came = []
    begun = 0
    for kind, content in kernel.messages(cell):
        came.append((kind, content))
        if kind == "stream" and begun < 2:
            begun += content["text"].count("begun")
            if begun == 2:
                kernel.manager.interrupt_kernel()
    return came


@pytest.mark.parametrize(
    "busy", ["time.sleep(60)", "while True: pass", "await asyncio.sleep(60)"], ids=["sleep", "loop", "await"]
)
def test_the_stop_button_ends_the_cell_on_the_engines_and_here(kernel: Kernel, busy: str) -> None:
    started = time.monotonic()
    came = interrupt_when_begun(kernel, f"%%px\nimport asyncio, time\nkept = 1\nprint('begun')\n{busy}")
    assert [content["ename"] for kind, content in came if kind == "error"] == ["KeyboardInterrupt"]
    trace = "\n".join([line for kind, content in came if kind == "error" for line in content["traceback"]])
    assert "threading.py" not in trace  # where we waited is nobody's business
    printed = "".join([content["text"] for kind, content in came if kind == "stream"])
    assert "Received Keyboard Interrupt. Sending signal SIGINT to engines..." in printed
    came = kernel.run("%px kept + 1")
    shown = [content["data"]["text/plain"] for kind, content in came if "data" in content]
    assert [text.partition(" ")[2] for text in shown] == ["2", "2"]
    assert time.monotonic() - started < 55  # long before the cell would have ended by itself


def test_the_engines_go_on_if_no_signal_is_wanted(kernel: Kernel) -> None:
    came = interrupt_when_begun(
        kernel,
        "%%px --signal-on-interrupt 0\nimport time\nprint('begun')\ntime.sleep(2)\ndone = True",
    )
    assert [content["ename"] for kind, content in came if kind == "error"] == ["KeyboardInterrupt"]
    came = kernel.run("%px done")
    shown = [content["data"]["text/plain"] for kind, content in came if "data" in content]
    assert [text.partition(" ")[2] for text in shown] == ["True", "True"]
