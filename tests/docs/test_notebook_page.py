"""The notebook of the documentation: run anew, it shows what it says it shows."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for _needed in ("nbclient", "ipykernel", "matplotlib"):
    pytest.importorskip(_needed, reason=f"needs {_needed}: the extra directview[test]")

pytestmark = [
    pytest.mark.process,
    # Of the kernel's client, when its event loop is made anew.
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning"),
]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "notebook.ipynb"


@pytest.fixture(scope="module")
def run() -> Iterator[tuple[Any, Any]]:
    """The notebook as it is kept, and as it is when it has just been run."""
    import nbformat
    from nbclient import NotebookClient

    kept: Any = nbformat.read(PAGE, as_version=4)
    fresh: Any = nbformat.read(PAGE, as_version=4)
    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in {"HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state"}.items():
            (base / folder).mkdir(mode=0o700, exist_ok=True)
            patch.setenv(variable, str(base / folder))
        patch.setenv("IPYTHONDIR", str(base / "ipython"))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.delenv("MPLBACKEND", raising=False)
        NotebookClient(fresh, timeout=60, kernel_name="python3", startup_timeout=60).execute()
    yield kept, fresh
    shutil.rmtree(base, ignore_errors=True)


def is_bar(output: Any) -> bool:
    return "━" in str(output.get("data", {}).get("text/html", ""))


def shown(cell: Any) -> list[str]:
    """What stands below a cell, as text; without what differs from run to run."""
    said = []
    for output in cell.get("outputs", []):
        if is_bar(output):  # of a cell that took long, or that waits with one
            continue
        if output.output_type == "stream":
            said.append(output.text)
        elif output.output_type == "error":
            said.append(f"{output.ename}: {output.evalue}")
        else:
            kinds = sorted(output.data)
            # Which engine has run how many cells depends on nothing; how a number is shown may.
            said.append(f"{kinds} {output.data['text/plain']}")
    return said


def test_what_the_notebook_shows_is_what_comes(run: tuple[Any, Any]) -> None:
    kept, fresh = run
    assert [cell.id for cell in kept.cells] == [cell.id for cell in fresh.cells]
    for before, after in zip(kept.cells, fresh.cells, strict=True):
        assert shown(after) == shown(before), before.id


def test_each_engine_draws_its_own_rows(run: tuple[Any, Any]) -> None:
    """Laid under each other, their pictures are the one that was drawn of the whole."""
    import numpy as np
    from matplotlib.image import imread

    for notebook in run:
        cells = {cell.id: cell for cell in notebook.cells}
        parts, (whole,) = (
            [
                imread(io.BytesIO(base64.b64decode(output.data["image/png"])))[..., :3]
                for output in cells[id].outputs
                if "image/png" in output.get("data", {})
            ]
            for id in ("draw", "gather")
        )
        assert len(parts) == 4
        assert {part.shape for part in parts} == {parts[0].shape}
        assert not np.array_equal(parts[0], parts[1])
        margin = (parts[0].shape[0] - 36) // 2
        strips = [part[margin : margin + 36, margin:-margin] for part in parts]
        frame = whole[margin : margin + 144, margin:-margin]
        assert abs(np.concatenate(strips) - frame).mean() < 0.03


def test_the_progress_bar_is_at_its_end(run: tuple[Any, Any]) -> None:
    for notebook in run:
        (cell,) = [cell for cell in notebook.cells if cell.id == "progress"]
        (output,) = cell.outputs
        assert "240/240" in re.sub(r"<[^>]*>", "", output.data["text/html"])
