"""The reference has every public name; every public method has a docstring that names its arguments."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import directview

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
DIRECTIVE = re.compile(
    r"^\.\. auto(module|class|function|data|decorator):: ([\w.]+)((?:\n   :.*)*)", re.MULTILINE
)


def documented() -> Iterator[str]:
    """Full names of all that the reference's directives describe."""
    for page in PAGES:
        for kind, name, options in DIRECTIVE.findall(page.read_text()):
            if kind != "module":
                yield name
                continue
            left_out = re.search(r":exclude-members: (.*)", options)
            excluded = set(left_out[1].replace(" ", "").split(",")) if left_out else set()
            for member in importlib.import_module(name).__all__:
                if member not in excluded:
                    yield f"{name}.{member}"


def objects() -> dict[int, str]:
    """What is documented, by identity."""
    found = {}
    for name in documented():
        module, _, member = name.rpartition(".")
        found[id(getattr(importlib.import_module(module), member))] = name
    return found


PLAIN = {"ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "version_info", "error", "errors"}
"""Those of `concurrent.futures`, and modules, of which the members are documented."""


@pytest.mark.parametrize("name", sorted(set(directview.__all__) - PLAIN))
def test_a_public_name_is_in_the_reference(name: str) -> None:
    assert id(getattr(directview, name)) in objects(), f"{name}: name it on a page of docs/reference"


def classes() -> list[type]:
    found = []
    for name in sorted(set(directview.__all__) - PLAIN):
        value = getattr(directview, name)
        if isinstance(value, type) and not issubclass(value, BaseException) and value not in found:
            found.append(value)
    return found


def callables() -> dict[str, Any]:
    """Public functions, and the public methods of public classes that are defined in this package."""
    found: dict[str, Any] = {}
    for name in sorted(set(directview.__all__) - PLAIN):
        value = getattr(directview, name)
        if inspect.isfunction(value):
            found[name] = value
    for each in classes():
        for name, member in inspect.getmembers(each):
            if name.startswith("_"):
                continue
            function = member.fget if isinstance(member, property) else inspect.unwrap(member)
            if inspect.isfunction(function) and function.__module__.startswith("directview"):
                found[f"{each.__name__}.{name}"] = member
    return found


CALLABLES = callables()
TWIN = re.compile(r"\A(`[\w.]+`|The same as|As `|``%)|as for `|The same as awaiting `")
"""What a docstring says that leaves the arguments to another one."""


@pytest.mark.parametrize("name", CALLABLES)
def test_a_docstring_says_what_it_takes_and_raises(name: str) -> None:
    """In sections that are spelled right; or it says which other one it is like."""
    member = CALLABLES[name]
    text = inspect.cleandoc(inspect.getdoc(member) or "")
    assert text, f"{name} has no docstring"
    assert text.partition("\n")[0].rstrip().endswith((".", ":", "!", "?", ")")), (
        f"{name}: {text.partition(chr(10))[0]}"
    )
    sections = re.findall(r"^([A-Z]\w+):$", text, re.MULTILINE)
    assert set(sections) <= {"Args", "Returns", "Raises", "Yields"}, sections
    if isinstance(member, property) or TWIN.search(text):
        return
    for parameter in inspect.signature(member).parameters.values():
        named = rf"(?<!\w){parameter.name}(?!\w)"
        assert parameter.name in ("self", "cls") or re.search(named, text), (
            f"{name}: {parameter.name} is not named"
        )


def test_help_shows_signatures_and_docstrings() -> None:
    """Of methods that are made of others, too."""
    assert "timeout" in str(inspect.signature(directview.Cluster.connect_client_sync))
    assert "blocks until it is done" in (directview.Cluster.start_cluster_sync.__doc__ or "")
    assert directview.Cluster.start_cluster_sync.__qualname__ == "Cluster.start_cluster_sync"
