"""A notebook in JupyterLab, in a browser: what its user sees.

`make browser` installs what this needs (JupyterLab, playwright, Chromium) and runs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

for _needed in ("playwright", "jupyterlab", "ipykernel", "matplotlib"):
    if importlib.util.find_spec(_needed) is None:
        pytest.skip(f"needs {_needed}: make browser", allow_module_level=True)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "only-for-this-test"
SECONDS = 60.0

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make browser"),
    # Of playwright's own process and loop.
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning"),
]

CELLS = {
    "start": (
        "from directview import Cluster\n"
        "rc = Cluster(n=2).start_and_connect_sync()\n"
        "rc.block = True\n"
        "rc[:].scatter('n', range(2), flatten=True)\n"
        "%pxconfig --progress-after -1"
    ),
    "figures": (
        "%%px\n"
        "import matplotlib.pyplot as plt\n"
        "axes = plt.figure(figsize=(3, 2), dpi=100).add_axes([0, 0, 1, 1])\n"
        "axes.axis('off')\n"
        "axes.imshow([[[(1., 0., 0.), (0., 0., 1.)][n]]], aspect='auto');"
    ),
    "prints": (
        "%%px\n"
        "import pathlib, time\n"
        "print('first')\n"
        "while not pathlib.Path({go!r}).exists():\n"
        "    time.sleep(0.01)\n"
        "print('second')"
    ),
    "bar": "rc[:].map_async(lambda x: x, range(6)).wait_interactive()",
    "table": "rc[:].apply_async(lambda: n)",
    "busy": "%%px\nprint('busy')\ntime.sleep(600)",
    "stop": "rc.close()\nrc.cluster.stop_cluster_sync()\nprint('stopped')",
}


def until(what: Callable[[], Any], why: str) -> Any:
    """What comes of `what` when that is true; looks again and again."""
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(why)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Home of everything that runs here."""
    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab that serves the notebook."""
    import nbformat

    notebook: Any = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, source in CELLS.items():
        text = source.replace("{go!r}", repr(str(folder / "go")))
        notebook.cells.append(nbformat.v4.new_code_cell(text, id=name))
    (folder / "work").mkdir()
    nbformat.write(notebook, folder / "work" / "notebook.ipynb")
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("MPLBACKEND", None)
    folders = {"XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "IPYTHONDIR": "ipython"}
    for variable, name in {**folders, "JUPYTER_RUNTIME_DIR": "jupyter"}.items():
        (folder / name).mkdir(mode=0o700)
        environment[variable] = str(folder / name)
    options = {
        "ip": "127.0.0.1",
        "port": 0,
        "IdentityProvider.token": TOKEN,
        "ServerApp.root_dir": folder / "work",
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        found = until(
            lambda: process.poll() is None and list((folder / "jupyter").glob("jpserver-*.json")),
            f"JupyterLab has not started: {(folder / 'log').read_text()}",
        )
        url = until(lambda: found[0].read_text(), "it has not said where")
        yield str(json.loads(url)["url"])
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Any]:
    """The notebook in a browser, its kernel ready."""
    sync_api: Any = importlib.import_module("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 3000})
        opened.set_default_timeout(SECONDS * 1000)
        opened.goto(f"{server}lab/tree/notebook.ipynb?token={TOKEN}")
        opened.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        run(opened, "start")
        yield opened
        run(opened, "stop")
        opened.get_by_text("stopped", exact=True).wait_for()
        browser.close()


def run(page: Any, name: str) -> Any:
    """Run a cell as a user does, and give the place below it."""
    place = list(CELLS).index(name)
    page.evaluate(
        """place => {
            const panel = window.jupyterapp.shell.currentWidget;
            panel.content.activeCellIndex = place;
            panel.content.deselectAll();
            void window.jupyterapp.commands.execute('notebook:run-cell');
        }""",
        place,
    )
    return page.locator(".jp-Notebook .jp-Cell").nth(place).locator(".jp-Cell-outputArea")


def test_each_engines_figure_is_seen_once_in_its_colour_and_size(page: Any) -> None:
    from matplotlib.image import imread

    below = run(page, "figures")
    pictures = below.locator("img")
    pictures.nth(1).wait_for()
    below.get_by_text("[output:1]").wait_for()
    assert pictures.count() == 2
    for place, colour in ((0, (1, 0, 0)), (1, (0, 0, 1))):
        picture = pictures.nth(place)
        until(lambda picture=picture: picture.evaluate("it => it.complete"), "it has not been drawn")  # type: ignore[misc]
        assert 300 <= picture.evaluate("it => it.naturalWidth") < 340  # 3 inches of 100 dots, and a margin
        seen = imread(io.BytesIO(picture.screenshot()))[20:-20, 20:-20, :3]
        assert min(seen.shape[:2]) > 100
        assert abs(seen - colour).max() < 0.05


def test_what_is_printed_is_seen_while_the_cell_runs(page: Any, folder: Path) -> None:
    below = run(page, "prints")
    for engine in range(2):
        below.get_by_text(f"[stdout:{engine}] first").wait_for()
    assert "second" not in below.inner_text()
    (folder / "go").touch()
    for engine in range(2):
        below.get_by_text(f"[stdout:{engine}] second").wait_for()


def test_a_progress_bar_and_a_table_are_seen(page: Any) -> None:
    run(page, "bar").get_by_text("6/6").wait_for()
    table = run(page, "table").locator("table")
    table.wait_for()
    assert [cell.inner_text() for cell in table.locator("th").all()] == [
        "engine",
        "status",
        "seconds",
        "error",
    ]


def test_the_stop_button_interrupts_the_engines(page: Any) -> None:
    below = run(page, "busy")
    for engine in range(2):
        below.get_by_text(f"[stdout:{engine}] busy").wait_for()
    page.locator("[data-command='notebook:interrupt-kernel']").first.click()
    below.get_by_text("KeyboardInterrupt").first.wait_for()
    assert "Sending signal SIGINT to engines" in below.inner_text()
    run(page, "bar").get_by_text("6/6").wait_for()  # they take the next call
