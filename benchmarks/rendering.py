"""Pure: reports and comparisons as tables, in the terminal and in Markdown.

Both are made from the same rows. Losses are shown as plainly as wins: a ratio below 1 is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.comparing import Comparison
from benchmarks.figures import Figure, FigureName
from benchmarks.noise import spread
from benchmarks.report import SUBJECT, Report
from benchmarks.targets import Target

__all__ = ["Sheet", "comparison_sheets", "quantity", "report_sheets", "to_markdown", "to_terminal"]


@dataclass(frozen=True)
class Sheet:
    """A table with a title, and lines of text below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def quantity(value: float, unit: str) -> str:
    """A figure in three digits: 1.24 ms, 6 450/s, 0.26 GB/s, 374 MB, 7.1×."""
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e-3, "ms")):
            if value >= factor:
                return f"{_digits(value / factor)} {name}"
        return f"{_digits(value / 1e-6)} µs"
    if unit == "1/s":
        return f"{_digits(value)}/s"
    if unit in ("B", "B/s"):
        for factor, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")):
            if value >= factor or factor == 1.0:
                return f"{_digits(value / factor)} {name}{unit[1:]}"
    return f"{_digits(value)}{unit}" if unit else f"{value:g}"


def _digits(value: float) -> str:
    if value >= 100 or value == 0:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# --- one run --------------------------------------------------------------------------------------------


def report_sheets(report: Report, targets: Iterable[Target]) -> list[Sheet]:
    """Figures beside the peers', figures beside the limits, targets, and who was missing."""
    sheets = [_peers(report)]
    limits = _limits(report)
    if limits.rows:
        sheets.append(limits)
    sheets.append(_targets(report, targets))
    sheets.append(_participants(report))
    refused = _refusals(report)
    if refused.rows:
        sheets.append(refused)
    return sheets


def _label(report: Report, name: FigureName) -> str:
    title = report.works.get(name.work, name.work)
    return f"{title}, {_WHAT[name.what]}" if name.what in _WHAT else title


# Figures that are what their work is about need no name: times, rates and throughputs show by their units.
_WHAT: Mapping[str, str] = {
    "p50": "median",
    "p99": "p99",
    "import": "import before it",
    "processes": "processes",
    "total": "all processes (PSS)",
    "client": "growth of the client (RSS)",
    "controller": "growth of the controller",
}


def _value(figure: Figure | None) -> str:
    return "–" if figure is None else quantity(figure.value, figure.unit)


def _peers(report: Report) -> Sheet:
    peers = report.having("peer")
    rows = []
    for name in report.names():
        shown = [report.figures.get((name, each)) for each in (SUBJECT, *[peer.name for peer in peers])]
        if not any(shown):
            continue
        ours = shown[0]
        row = [_label(report, name), _value(ours)]
        for peer, figure in zip(peers, shown[1:], strict=True):
            ratio = report.times_better(name, peer.name)
            row.append(_value(figure) + ("" if ratio is None else f" ({quantity(ratio, '×')})"))
        row.append("" if ours is None else f"{spread(list(ours.rounds.values())):.0%}")
        rows.append(row)
    titles = [f"{peer.title}{' (missing)' if peer.missing else ''}" for peer in peers]
    return Sheet(
        "Figures",
        ["", SUBJECT, *titles, "spread"],
        rows,
        [
            "Medians of the rounds. In brackets: how many times better directview is; below 1 it is worse.",
            "Spread: how far directview's rounds lie apart, in parts of their median.",
        ],
    )


def _limits(report: Report) -> Sheet:
    rows = []
    for name in report.names():
        for limit in report.having("limit"):
            bound = report.figures.get((name, limit.name))
            ratio = report.times_better(name, limit.name)
            if bound is not None and ratio is not None:
                ours = report.figures.get((name, SUBJECT))
                rows.append(
                    [_label(report, name), _value(ours), limit.title, _value(bound), quantity(ratio, "×")]
                )
    return Sheet(
        "Beside the limits of this machine",
        ["", SUBJECT, "limit program", "its figure", "part reached"],
        rows,
        [
            "Part reached: 1 is as good as the program that does nothing but this.",
            "More is possible where several calls travel in one message: the bare relay sends each alone.",
        ],
    )


def _targets(report: Report, targets: Iterable[Target]) -> Sheet:
    rows = []
    for verdict in report.verdicts(targets):
        value = "–" if verdict.value is None else quantity(verdict.value, verdict.unit)
        rows.append([verdict.title, value, verdict.state])
    return Sheet("Targets", ["target", "measured", ""], rows)


def _participants(report: Report) -> Sheet:
    rows = []
    for each in report.participants.values():
        state = f"MISSING: {each.missing}" if each.missing else ", ".join(
            [f"{name} {version}" for name, version in each.versions.items()]
        )  # fmt: skip
        if each.left_behind:
            state += f"; left {each.left_behind} processes behind"
        rows.append([each.title, state])
    return Sheet("Who took part", ["", "versions"], rows, [_machine(report)])


def _machine(report: Report) -> str:
    machine: Mapping[str, Any] = report.machine
    memory = quantity(machine.get("memory", 0), "B")
    return (
        f"{machine.get('processor')}, {machine.get('cores')} cores, {memory}, "
        f"{machine.get('system')}, {machine.get('python')}; load {machine.get('load')} at the start; "
        f"{report.started}, {report.depth}, {report.rounds} round{'' if report.rounds == 1 else 's'}"
    )


def _refusals(report: Report) -> Sheet:
    rows = []
    # One line for all work that a peer has no figure for, for the same reason.
    grouped: dict[tuple[str, str, bool], list[str]] = {}
    for refusal in report.refusals.values():
        grouped.setdefault((refusal.peer, refusal.reason, refusal.failed), []).append(refusal.work)
    for (peer, reason, failed), works in grouped.items():
        rows.append([peer, ", ".join(works), f"FAILED: {reason}" if failed else reason])
    return Sheet("Without a figure", ["who", "work", "why"], rows)


# --- two runs -------------------------------------------------------------------------------------------


def comparison_sheets(comparison: Comparison, report: Report) -> list[Sheet]:
    """What changed, regressions first.

    Args:
        comparison: of two runs.
        report: the later one, for its titles.
    """
    order = ("regression", "improvement", "drift")
    rows = [
        [
            change.finding,
            _label(report, change.name),
            quantity(change.before, change.unit),
            quantity(change.after, change.unit),
            f"{change.part:.0%}",
        ]
        for finding in order
        for change in comparison.changes
        if change.finding == finding
    ]
    same = sum([change.finding == "same" for change in comparison.changes])
    notes = [f"{same} of {len(comparison.changes)} figures are the same within noise."]
    notes += [f"Not measured any more: {name}" for name in comparison.only_before]
    notes += [f"Beware: {warning}" for warning in comparison.warnings]
    return [Sheet("What changed", ["", "figure", "before", "after", "by"], rows, notes)]


# --- out ------------------------------------------------------------------------------------------------

_COLOURS = {"reached": "green", "missed": "red", "regression": "red", "improvement": "green"}


def to_terminal(sheets: Iterable[Sheet]) -> RenderableType:
    """For `rich.console.Console.print`."""
    parts: list[RenderableType] = []
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left", title_style="bold")
        for index, column in enumerate(sheet.columns):
            table.add_column(Text(column), overflow="fold", justify="left" if index == 0 else None)  # type: ignore[arg-type]
        for row in sheet.rows:
            table.add_row(*[Text(cell, style=_COLOURS.get(cell, "")) for cell in row])
        parts += [table, *[Text(note, style="dim") for note in sheet.notes], Text("")]
    return Group(*parts)


def to_markdown(sheets: Iterable[Sheet], title: str) -> str:
    """One document."""
    lines = [f"# {title}", ""]
    for sheet in sheets:
        lines += [f"## {sheet.title}", ""]
        lines += [_markdown_row(sheet.columns), _markdown_row(["---"] * len(sheet.columns))]
        lines += [_markdown_row(row) for row in sheet.rows]
        lines += ["", *[f"{note}\n" for note in sheet.notes]]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"
