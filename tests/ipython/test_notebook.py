"""A real notebook, run by nbclient with IPython's kernel: what appears below which cell."""

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

CELLS = {
    "start": (
        "from directview import Cluster\n"
        "rc = Cluster(n=2).start_and_connect_sync()\n"
        "rc.block = True\n"
        "rc[:].scatter('n', range(2), flatten=True)\n"
        "%pxconfig --progress-after -1"  # which of these cells take two seconds is the machine's affair
    ),
    "figures": (
        "%%px\n"
        "import matplotlib.pyplot as plt\n"
        "figure = plt.figure(figsize=(4, 3), dpi=50)\n"
        "axes = figure.add_axes([0, 0, 1, 1])\n"
        "axes.axis('off')\n"
        "axes.imshow([[[(1., 0., 0.), (0., 0., 1.)][n]]], aspect='auto');"
    ),
    "html": "%%px\nfrom IPython.display import HTML\nHTML(f'<b>engine {n}</b>')",
    "values": "%px 6 * 7",
    "prints": "%%px\nimport time\nprint('first')\ntime.sleep(0.3)\nprint('second')",
    "fails": "%%px\nplt.plot([n])\nprint('before')\n1 / 0",
    "autopx on": "%autopx",
    "autopx": "import asyncio\nawait asyncio.sleep(0, n + 10)",
    "autopx off": "%autopx",
    "later": "later = rc[:].apply_async(lambda: n)\nawait later",
    "table": "later",
    "time": "import time",
    "bar": "rc[:].map_async(lambda x: time.sleep(0.2), range(4)).wait_interactive()",
    "px bar": "%%px --progress-after 0.2\nprint('begun')\ntime.sleep(1)",
    "syntax": "%%px --targets 0\n!echo from a shell\nwords = !echo a b\n%timeit -n1 -r1 pass\nwords",
    "no wait": "%%px --noblock --name drawn -o drawn\nplt.plot([n])\nprint('said', n)",
    "shown": "drawn.display_outputs()",
    "updated": "%%px\nshown = display(HTML('<i>0</i>'), display_id=True)\nshown.update(HTML('<i>1</i>'))",
    "stop": "rc.close()\nrc.cluster.stop_cluster_sync()",
}


@pytest.fixture(scope="module")
def outputs() -> Iterator[dict[str, list[Any]]]:
    """What each cell has below it when the notebook has been run."""
    import nbformat
    from nbclient import NotebookClient

    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    notebook: Any = nbformat.v4.new_notebook()
    for name, source in CELLS.items():
        cell: Any = nbformat.v4.new_code_cell(source, id=name.replace(" ", "-"))
        if name == "fails":
            cell.metadata["tags"] = ["raises-exception"]
        notebook.cells.append(cell)
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in {"HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state"}.items():
            (base / folder).mkdir(mode=0o700, exist_ok=True)
            patch.setenv(variable, str(base / folder))
        patch.setenv("IPYTHONDIR", str(base / "ipython"))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.delenv("MPLBACKEND", raising=False)
        NotebookClient(notebook, timeout=60, kernel_name="python3", startup_timeout=60).execute()
    yield {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}
    shutil.rmtree(base, ignore_errors=True)


def text_of(outputs: list[Any], stream: str = "stdout") -> str:
    return "".join([output.text for output in outputs if output.get("name") == stream])


def bundles(outputs: list[Any]) -> list[Any]:
    return [output.data for output in outputs if "data" in output]


def test_each_engines_figure_is_a_picture_below_the_cell(outputs: dict[str, list[Any]]) -> None:
    """One for each engine, of the size and the colour that it drew, with its label before it."""
    from matplotlib.image import imread

    shown = bundles(outputs["figures"])
    assert [data.get("text/plain") for data in shown if "image/png" not in data] == [
        "[output:0]",
        "[output:1]",
    ]
    assert ["image/png" in data for data in shown] == [False, True, False, True]
    for engine, colour in ((0, (1, 0, 0)), (1, (0, 0, 1))):
        picture = imread(io.BytesIO(base64.b64decode(shown[2 * engine + 1]["image/png"])))
        height, width = picture.shape[:2]
        assert 150 <= height <= 180  # 3 inches of 50 dots, and a margin
        assert 200 <= width <= 230
        middle = picture[20:-20, 20:-20, :3]
        assert abs(middle - colour).max() < 0.01


def test_html_and_its_label(outputs: dict[str, list[Any]]) -> None:
    shown = bundles(outputs["html"])
    assert [data.get("text/html") for data in shown] == [None, "<b>engine 0</b>", None, "<b>engine 1</b>"]
    assert [data["text/plain"] for data in shown[::2]] == ["[output:0]", "[output:1]"]


def test_values_and_their_places(outputs: dict[str, list[Any]]) -> None:
    assert text_of(outputs["values"]) == "Parallel execution on engines: [0, 1]\n"
    assert [data["text/plain"] for data in bundles(outputs["values"])] == ["Out[0:3]: 42", "Out[1:3]: 42"]


def test_what_is_printed_stands_below_the_cell_that_printed_it(outputs: dict[str, list[Any]]) -> None:
    lines = text_of(outputs["prints"]).splitlines()
    assert sorted(lines[1:3]) == ["[stdout:0] first", "[stdout:1] first"]
    assert sorted(lines[3:]) == ["[stdout:0] second", "[stdout:1] second"]
    assert outputs["start"] == []


def test_what_came_before_an_error_is_shown_too(outputs: dict[str, list[Any]]) -> None:
    assert text_of(outputs["fails"]).count("] before\n") == 2
    assert len([data for data in bundles(outputs["fails"]) if "image/png" in data]) == 2
    error = outputs["fails"][-1]
    assert (error.output_type, error.ename) == ("error", "CompositeError")
    assert "[1:apply]: ZeroDivisionError: division by zero" in error.evalue


def test_autopx_sends_cells_that_await_too(outputs: dict[str, list[Any]]) -> None:
    assert (
        text_of(outputs["autopx on"]) == "%autopx enabled\nAuto Parallel Enabled\nType %autopx to disable\n"
    )
    assert [data["text/plain"].partition(" ")[2] for data in bundles(outputs["autopx"])] == ["10", "11"]
    assert text_of(outputs["autopx off"]) == "%autopx disabled\nAuto Parallel Disabled\n"


def test_a_result_is_shown_as_a_table(outputs: dict[str, list[Any]]) -> None:
    (data,) = bundles(outputs["table"])
    assert data["text/plain"] == "<AsyncResult(<lambda>): finished>"
    assert re.findall(r"<td>(\d)</td><td>(\w+)</td>", data["text/html"]) == [("0", "ok"), ("1", "ok")]


@pytest.mark.parametrize("cell", ["bar", "px bar"])
def test_a_progress_bar_is_one_output_that_is_at_its_end(outputs: dict[str, list[Any]], cell: str) -> None:
    (data,) = bundles(outputs[cell])
    assert ("4/4" if cell == "bar" else "2/2") in re.sub(r"<[^>]*>", "", data["text/html"])
    assert text_of(outputs[cell], "stderr") == ""
    if cell == "px bar":
        assert text_of(outputs[cell]).count("] begun\n") == 2


def test_ipythons_syntax_on_an_engine(outputs: dict[str, list[Any]]) -> None:
    said = text_of(outputs["syntax"])
    assert "from a shell" in said
    assert "per loop" in said
    assert bundles(outputs["syntax"])[-1]["text/plain"].endswith("]: ['a b']")


def test_what_was_not_waited_for_can_be_shown_later(outputs: dict[str, list[Any]]) -> None:
    (data,) = bundles(outputs["no wait"])
    assert data["text/plain"].startswith("<AsyncResult(")
    assert text_of(outputs["shown"]).splitlines() == ["[stdout:0] said 0", "[stdout:1] said 1"]
    assert len([data for data in bundles(outputs["shown"]) if "image/png" in data]) == 2


def test_what_is_updated_is_shown_once_for_each_engine(outputs: dict[str, list[Any]]) -> None:
    shown = [data["text/html"] for data in bundles(outputs["updated"]) if "text/html" in data]
    assert shown == ["<i>1</i>"] * 2


def test_results_can_be_awaited_in_a_cell(outputs: dict[str, list[Any]]) -> None:
    assert bundles(outputs["later"])[0]["text/plain"] == "[0, 1]"
