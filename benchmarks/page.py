"""The documentation's page of figures, from a report: ``python -m benchmarks page REPORT.json``.

What stands between the two marks of the page is made from the report and replaced; the rest of the page is
written by hand. Pictures and the report itself go into a folder beside the page.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import plots, rendering
from benchmarks.report import Report
from benchmarks.targets import TARGETS

__all__ = ["BEGIN", "END", "PAGE", "PageError", "filled", "write"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "performance.md"
BEGIN = "<!-- made by `python -m benchmarks page`: begin -->"
END = "<!-- made by `python -m benchmarks page`: end -->"

_ALT = {
    "throughput": "Bytes per second over the size of what is moved, for five operations and all peers",
    "latency": "Median time of a call that does nothing, on 1, 4 and 16 engines",
    "rates": "Calls per second, many at a time",
    "starts": "Seconds from the start of 4, 16 and 64 engines until each has answered a call",
}


class PageError(ValueError):
    """The page can't be filled; the text says why."""


def filled(page: str, made: str) -> str:
    """The page with what is between its marks replaced.

    Raises:
        PageError: it has no marks, or has them more than once.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise PageError(f"the page must hold the lines {BEGIN!r} and {END!r} once, in this order")
    return f"{before}{BEGIN}\n\n{made.strip()}\n\n{END}{after}"


def made_from(report: Report, pictures: list[Path], folder: str) -> str:
    """What stands on the page: pictures first, then the tables."""
    lines = []
    for picture in pictures:
        lines += [f"![{_ALT[picture.stem]}]({folder}/{picture.name})", ""]
    sheets = rendering.report_sheets(report, TARGETS)
    return "\n".join([*lines, *rendering.markdown_lines(sheets)])


def write(report: Report, page: Path = PAGE) -> list[Path]:
    """Fill the page, and write its pictures and the report itself beside it.

    Returns:
        What was written.

    Raises:
        PageError: the page isn't there or has no marks.
        PlottingMissing: there is no matplotlib.
    """
    try:
        text = page.read_text()
    except OSError as error:
        raise PageError(f"{page}: {error.strerror}") from None
    filled(text, "")  # whether it can be, before anything is written
    folder = page.with_suffix("")
    pictures = plots.draw(report, folder)
    page.write_text(filled(text, made_from(report, pictures, folder.name)))
    kept = folder / "report.json"
    kept.write_text(json.dumps(report.to_json(TARGETS), separators=(",", ":")) + "\n")
    return [page, *pictures, kept]
