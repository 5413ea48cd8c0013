"""The work of the demo, as plain functions. Engines and the serial run call the very same ones.

Run as a module it computes spectral radii, one a line, in a process whose BLAS has the threads that an
engine's has: ``python -m directview._demo_tasks COUNT SIZE``.
"""

from __future__ import annotations

import ast
import io
import keyword
import sys
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

__all__ = ["SIGNAL_LENGTH", "Survey", "merge", "print_radii", "running_median", "spectral_radius", "survey"]

SIGNAL_LENGTH = 1000
"""Samples in a row of the array that is filtered."""
WINDOW = 15
"""Samples of which a running median takes the middle one."""


class Survey(NamedTuple):
    """What is in one or more Python sources."""

    files: int
    lines: int
    identifiers: Counter[str]
    functions: int
    classes: int
    depth: int
    """Of the deepest syntax tree."""
    unparsed: int
    """Files that are no Python, as some of the standard library's own tests are on purpose."""


def survey(source: bytes) -> Survey:
    """Count the identifiers of a source, and what its syntax tree holds. Never raises."""
    identifiers: Counter[str] = Counter()
    functions = classes = depth = unparsed = 0
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                identifiers[token.string] += 1
        with warnings.catch_warnings(action="ignore"):  # of the sources: invalid escapes, `is` with a literal
            tree = ast.parse(source)
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
        unparsed = 1
    else:
        level: list[ast.AST] = [tree]
        while level:
            depth += 1
            functions += sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in level)
            classes += sum(isinstance(node, ast.ClassDef) for node in level)
            level = [child for node in level for child in ast.iter_child_nodes(node)]
    return Survey(1, source.count(b"\n"), identifiers, functions, classes, depth, unparsed)


def merge(surveys: Iterable[Survey]) -> Survey:
    """Add surveys up."""
    files = lines = functions = classes = depth = unparsed = 0
    identifiers: Counter[str] = Counter()
    for one in surveys:
        files += one.files
        lines += one.lines
        identifiers.update(one.identifiers)
        functions += one.functions
        classes += one.classes
        depth = max(depth, one.depth)
        unparsed += one.unparsed
    return Survey(files, lines, identifiers, functions, classes, depth, unparsed)


def running_median(rows: np.ndarray) -> np.ndarray:
    """Put in place of each sample the median of those around it in its row, which takes spikes out."""
    half = WINDOW // 2
    padded = np.pad(rows, ((0, 0), (half, half)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)
    return np.sort(windows, axis=2)[:, :, half]


def spectral_radius(seed: int, size: int) -> float:
    """The largest absolute eigenvalue of a random matrix.

    Args:
        seed: which matrix.
        size: its rows and columns; the radius is near the root of it.
    """
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def print_radii(count: int, size: int) -> None:
    """Say that all is loaded; then print the radius of each seed's matrix as it is found."""
    print("ready", flush=True)
    for seed in range(count):
        print(repr(spectral_radius(seed, size)), flush=True)


if __name__ == "__main__":
    print_radii(int(sys.argv[1]), int(sys.argv[2]))
