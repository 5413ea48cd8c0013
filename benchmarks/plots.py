"""Reports as pictures: throughput over size, and bars for calls. matplotlib, of the extra ``bench``.

Each participant has one colour in all pictures. Limit programs are grey and dashed: what nobody can exceed
who does the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import UNITS, Figure
from benchmarks.rendering import quantity
from benchmarks.report import SUBJECT, Participant, Report
from benchmarks.works import SIZES, WORKS, size_name

__all__ = ["CURVES", "PlottingMissing", "bars", "curve", "draw"]

CURVES = ("scatter", "gather", "push", "pull", "apply")
_TITLES = {
    "scatter": "scatter: a quarter to each of 4 engines",
    "gather": "gather: a quarter from each of 4",
    "push": "push: the whole to each of 4, delivered",
    "pull": "pull: the whole from each of 4",
    "apply": "a call with an array as argument",
}
_COLOURS: Mapping[str, str] = {
    SUBJECT: "#c1121f",
    "directview-sockets": "#e5737b",
    "directview-curve": "#f0a8ad",
    "ipyparallel": "#2a6f97",
    "dask": "#e09f3e",
    "ray": "#3a7d44",
    "mpi": "#6d597a",
    "futures": "#6c757d",
}
_LIMIT_COLOURS = ("#222222", "#888888", "#bbbbbb")

_LATENCIES = {
    "noop-1-sync": "1 engine",
    "noop-4-sync": "4 engines",
    "noop-16-sync": "16 engines",
}
_RATES = {
    "burst-1-sync-5000": "burst, 1 engine",
    "burst-4-sync-5000": "burst, 4 engines",
    "awaits-10000": "10 000 awaits",
    "balanced-10000": "load-balanced map",
}
_STARTS = {
    "start-4": "4 engines",
    "start-16": "16 engines",
    "start-64": "64 engines",
}
_AMOUNTS = {work.name: work.amount for work in WORKS}


class PlottingMissing(Exception):
    """matplotlib isn't there; the text says how to get it."""


def curve(report: Report, operation: str, peer: str) -> list[tuple[int, float]]:
    """Size and bytes per second, for each size that was measured."""
    points = []
    for size in SIZES:
        work = f"{operation}-{size_name(size).replace(' ', '')}"
        throughput = report.figure(work, "throughput", peer)
        seconds = report.figure(work, "seconds", peer)
        if throughput is not None:
            points.append((size, throughput.value))
        elif seconds is not None and seconds.value:
            points.append((size, _AMOUNTS[work] / seconds.value))
    return points


def bars(report: Report, works: Iterable[str], what: str, peer: str) -> list[float | None]:
    """A figure of each work, None where there is none."""
    figures: list[Figure | None] = [report.figure(work, what, peer) for work in works]
    return [None if figure is None else figure.value for figure in figures]


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw all pictures for which there are figures.

    Args:
        report: what was measured.
        folder: where the SVG files go; made if it isn't there.

    Returns:
        The files that were written.

    Raises:
        PlottingMissing: there is no matplotlib.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
        figure_class = importlib.import_module("matplotlib.figure").Figure
    except ImportError:
        raise PlottingMissing("no pictures: matplotlib is missing; `pip install directview[bench]`") from None
    folder.mkdir(parents=True, exist_ok=True)
    pictures: Mapping[str, Callable[[Report, Any], bool]] = {
        "throughput": _draw_curves,
        "latency": _draw_latencies,
        "rates": _draw_rates,
        "starts": _draw_starts,
    }
    written = []
    # The same figures give the same file: no date, and ids that don't depend on chance.
    with matplotlib.rc_context({"svg.hashsalt": "directview", "font.size": 8, "svg.fonttype": "none"}):
        for name, make in pictures.items():
            figure = figure_class(layout="constrained")
            if make(report, figure):
                path = folder / f"{name}.svg"
                figure.savefig(path, format="svg", metadata={"Date": None})
                written.append(path)
    return written


def _style(participant: Participant, limits: Sequence[str]) -> dict[str, Any]:
    if participant.role == "limit":
        colour = _LIMIT_COLOURS[limits.index(participant.name) % len(_LIMIT_COLOURS)]
        return {"color": colour, "linestyle": "--", "linewidth": 1.0}
    colour = _COLOURS.get(participant.name, "#000000")
    wide = participant.name == SUBJECT
    return {"color": colour, "linewidth": 2.2 if wide else 1.2, "marker": "o", "markersize": 4 if wide else 3}


def _draw_curves(report: Report, figure: Any) -> bool:
    figure.set_size_inches(9, 7.5)
    axes = figure.subplots(3, 2).flatten()
    limits = [limit.name for limit in report.having("limit")]
    drawn: dict[str, Any] = {}
    for axis, operation in zip(axes, CURVES, strict=False):
        for participant in report.participants.values():
            points = curve(report, operation, participant.name)
            if points:
                xs, ys = zip(*points, strict=True)
                (line,) = axis.plot(xs, [y / 1e9 for y in ys], **_style(participant, limits))
                drawn.setdefault(participant.title, line)
        axis.set(xscale="log", yscale="log", title=_TITLES[operation], ylabel="GB/s")
        axis.set_xticks(SIZES, [size_name(size) for size in SIZES])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[-1].axis("off")
    axes[-1].legend(drawn.values(), drawn.keys(), loc="center", frameon=False, ncols=2)
    return bool(drawn)


def _draw_latencies(report: Report, figure: Any) -> bool:
    return _draw_bars(report, figure, _LATENCIES, "p50", "a no-op call, blocking: median (s)")


def _draw_rates(report: Report, figure: Any) -> bool:
    return _draw_bars(report, figure, _RATES, "rate", "many no-op calls at a time (1/s)")


def _draw_starts(report: Report, figure: Any) -> bool:
    return _draw_bars(report, figure, _STARTS, "seconds", "start, until every engine has answered (s)")


def _draw_bars(report: Report, figure: Any, works: Mapping[str, str], what: str, title: str) -> bool:
    figure.set_size_inches(9, 3.2)
    axis = figure.subplots()
    limits = [limit.name for limit in report.having("limit")]
    shown = [
        (participant, bars(report, works, what, participant.name))
        for participant in report.participants.values()
    ]
    shown = [(participant, values) for participant, values in shown if any(values)]
    if not shown:
        return False
    width = 0.85 / len(shown)
    for place, (participant, values) in enumerate(shown):
        at = [group + (place - (len(shown) - 1) / 2) * width for group in range(len(values))]
        heights = [value or 0.0 for value in values]
        colour = _style(participant, limits)["color"]
        hatch = "///" if participant.role == "limit" else None
        drawn = axis.bar(at, heights, width, color=colour, hatch=hatch, label=participant.title)
        labels = [quantity(height, UNITS[what]) if height else "" for height in heights]
        axis.bar_label(drawn, labels, fontsize=6, rotation=90, padding=2)
    axis.set(yscale="log", title=title)
    axis.set_xticks(range(len(works)), works.values())
    axis.minorticks_off()
    axis.set_ylim(top=axis.get_ylim()[1] * 4)  # room for the labels
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return True
