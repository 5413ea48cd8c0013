"""Every code block in the README and the docs runs, and says what the page says it says.

Blocks by their language: ``python`` is run (also with ``await`` at its top level, as in a notebook), and
prints what a remark behind a print says; ``pycon`` is a session whose output is compared; ``console`` are
shell commands that are run and whose output is compared; ``sh`` are commands that are only checked to
exist, with the options that they use.

A document's blocks share a namespace, and a cluster of four engines that the default profile finds.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Document, Example
from sybil.evaluators.doctest import DocTestEvaluator
from sybil.parsers.abstract.doctest import DocTestStringParser
from sybil.parsers.myst import CodeBlockParser
from sybil.region import Region

from directview import Cluster
from directview.cli import main as command_line

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {
    "python",
    "pycon",
    "console",
    "sh",
    "text",
    "json",
    "{toctree}",
    "{eval-rst}",
    "{note}",
    "{warning}",
}
DOCTEST = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

pytestmark = pytest.mark.process


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, so that the default profile is the test's own.

    The runtime folder is a short one beside it: in one too deep for a socket's path, directview would go to
    the folder that all of the user's clusters share.
    """
    runtime = Path(tempfile.mkdtemp(prefix="dv-docs-", dir="/tmp"))
    for variable, value in {
        "HOME": tmp_path,
        "XDG_RUNTIME_DIR": runtime,
        "XDG_STATE_HOME": tmp_path / "state",
        "XDG_CONFIG_HOME": tmp_path / "config",
        "XDG_CACHE_HOME": tmp_path / "cache",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": 100,
    }.items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    # What a page that failed half-way has left running in the background, in this home only.
    command = [sys.executable, "-m", "directview", "stop", "--all"]
    subprocess.run(command, capture_output=True, timeout=60, check=False)
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all of a document's awaits, as a notebook has."""
    with asyncio.Runner() as runner:
        yield runner


def run_python(example: Example, loop: asyncio.Runner) -> None:
    source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
    code = compile(source, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)

    async def cell() -> None:
        await eval(code, example.namespace)

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if code.co_flags & inspect.CO_COROUTINE:
            loop.run(cell())
        else:
            exec(code, example.namespace)
    for expected in re.findall(r"print\(.*\)  # ([\[\d].*)", example.parsed):
        assert expected.removesuffix("...") in printed.getvalue(), f"{example.path} says it prints {expected}"


def sessions(document: Document) -> Iterator[Region]:
    """The single prompts of ``pycon`` blocks."""
    prompts = DocTestStringParser(DocTestEvaluator(DOCTEST))
    for block in CodeBlockParser("pycon", lambda example: None)(document):
        for prompt in prompts(block.parsed, document.path):
            prompt.adjust(block, block.parsed)
            yield prompt


def run_console(example: Example) -> None:
    """Run the ``$`` lines of a block; what follows each one is its output."""
    for part in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
        )
        shown = done.stdout + done.stderr
        assert done.returncode == 0, f"$ {command}\n{shown}"
        assert (
            doctest.OutputChecker().check_output(
                expected or "", shown, DOCTEST if expected.strip() else doctest.ELLIPSIS
            )
            or not expected.strip()
        ), f"$ {command}\nexpected:\n{expected}\ngot:\n{shown}"


def check_commands(example: Example) -> None:
    """Look at each command of a block: ours exist and know the options, make's targets exist."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["directview"]:
            name = words[1]
            assert name in command_line.commands, f"directview has no command {name!r}"
            known = {
                option
                for parameter in command_line.commands[name].params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            used = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
            assert used <= known, f"directview {name} has no option {used - known}"
        elif words[:1] == ["make"]:
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()


def parsed(page: Path, loop: asyncio.Runner) -> Document:
    return Document.parse(
        str(page),
        CodeBlockParser("python", lambda example: run_python(example, loop)),
        sessions,
        CodeBlockParser("console", run_console),
        CodeBlockParser("sh", check_commands),
    )


def needs_cluster(text: str) -> bool:
    """Whether a page connects to the default profile; one that starts its own has that to itself."""
    return "Client()" in text and "$ directview start" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page: Path, home: Path, loop: asyncio.Runner) -> None:
    document = parsed(page, loop)
    document.namespace["__name__"] = "__main__"
    text = page.read_text()
    if needs_cluster(text):
        with Cluster(n=4, profile="default"):
            run_all(document)
    else:
        run_all(document)


def run_all(document: Document) -> None:
    with warnings.catch_warnings():
        # A page may leave its client open at its end, as a reader does who ends the session.
        warnings.filterwarnings("ignore", category=ResourceWarning)
        for example in document:
            example.evaluate()
        client = document.namespace.get("rc")
        if client is not None and hasattr(client, "close"):
            client.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_has_a_language_that_is_checked(page: Path) -> None:
    fences = re.findall(r"^(?:```|:::)(.+)$", page.read_text(), re.MULTILINE)
    assert {fence.split()[0] for fence in fences} <= LANGUAGES


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
