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

__all__ = [
    "Sheet",
    "comparison_sheets",
    "quantity",
    "markdown_lines",
    "report_sheets",
    "to_markdown",
    "to_terminal",
]


@dataclass(frozen=True)
class Sheet:
    """A table with a title, and lines of text below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def quantity(value: float, unit: str) -> str:
    """A figure in three digits: 1.24 ms, 6 450/s, 0.26 GB/s, 374 MB, -12.0 MB, 7.1×."""
    if value < 0:
        return f"-{quantity(-value, unit)}"
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
    """Targets, losses, figures beside the peers', variants and limits, and who was missing."""
    some = [_losses(report), _peers(report), _variants(report), _limits(report)]
    return [
        _targets(report, targets),
        *[sheet for sheet in some if sheet.rows],
        _participants(report),
        *[sheet for sheet in [_refusals(report)] if sheet.rows],
    ]


def _label(report: Report, name: FigureName) -> str:
    title = report.works.get(name.work, name.work)
    return f"{title}, {_WHAT[name.what]}" if name.what in _WHAT else title


# Figures that are what their work is about need no name: times, rates and throughputs show by their units.
_WHAT: Mapping[str, str] = {
    "p50": "median",
    "p99": "p99",
    "import": "import before it",
    "register": "registration",
    "each": "a call, for each engine",
    "processes": "processes",
    "total": "all processes (PSS)",
    "client": "growth of the client (RSS)",
    "controller": "growth of the controller",
    "engine": "growth of an engine",
    "further": "each further engine (PSS)",
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
        rounds = [] if ours is None else list(ours.rounds.values())
        row.append(f"{spread(rounds):.0%}" if len(rounds) > 1 else "")
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


def _losses(report: Report) -> Sheet:
    losses = []
    for name in report.names():
        for peer in report.having("peer"):
            ratio = report.times_better(name, peer.name)
            if ratio is not None and ratio < 1:
                ours, theirs = report.figures[name, SUBJECT], report.figures[name, peer.name]
                losses.append((ratio, [_label(report, name), _value(ours), peer.title, _value(theirs)]))
    losses.sort(key=lambda loss: loss[0])
    return Sheet(
        "Where directview loses",
        ["", SUBJECT, "who is better", "its figure", "directview's part of it"],
        [[*row, quantity(ratio, "×")] for ratio, row in losses],
        ["Every figure in which a peer is better, the worst loss first."],
    )


def _variants(report: Report) -> Sheet:
    variants = report.having("variant")
    rows = []
    for name in report.names():
        shown = [report.figures.get((name, variant.name)) for variant in variants]
        if any(shown):
            ours = report.figures.get((name, SUBJECT))
            rows.append([_label(report, name), _value(ours), *[_value(figure) for figure in shown]])
    return Sheet(
        "directview otherwise",
        ["", SUBJECT, *[variant.title for variant in variants]],
        rows,
        ["The same work without memory that processes share, and over TCP with CURVE as between machines."],
    )


_VARIANTS_LIMIT = "chunked-relay"
"""The limit program that does what directview does without shared memory."""


def _limits(report: Report) -> Sheet:
    rows = []
    for name in report.names():
        for limit in report.having("limit"):
            bound = report.figures.get((name, limit.name))
            for who in report.having("subject", "variant"):
                if name.what == "p99" or (who.role == "variant" and limit.name != _VARIANTS_LIMIT):
                    continue
                ratio = report.times_better(name, limit.name, who.name)
                if bound is not None and ratio is not None:
                    row = [_label(report, name), limit.title, _value(bound), who.title]
                    ours = _value(report.figures.get((name, who.name)))
                    rows.append([*row, ours, quantity(ratio, "×")])
    return Sheet(
        "Beside the limits of this machine",
        ["", "limit program", "its figure", "who", "theirs", "part reached"],
        rows,
        [
            "Part reached: 1 is as good as the program that does nothing but this.",
            "More is possible where several calls travel in one message: the bare relay sends each alone;",
            "and where shared memory takes the place of a relay.",
        ],
    )


def _targets(report: Report, targets: Iterable[Target]) -> Sheet:
    rows = []
    counts: dict[str, int] = {}
    for verdict in report.verdicts(targets):
        counts[verdict.state] = counts.get(verdict.state, 0) + 1
        rows.append([verdict.title, "", "", verdict.state])
        for finding in verdict.findings:
            value = "–" if finding.value is None else quantity(finding.value, finding.unit)
            beside = [quantity(each, finding.beside_unit) for each in finding.beside]
            if len(beside) == 2:
                value += f" ({beside[0]}, {beside[1]})"
            elif beside:
                value += f" (p99 {beside[0]})"
            state = f"{finding.state}: {finding.why}" if finding.why else finding.state
            rows.append(["", finding.text, value, state])
    said = ", ".join([f"{counts[state]} {state}" for state in _STATES if state in counts])
    return Sheet(
        "Targets", ["target", "must be", "measured", ""], rows, [f"{said}; {_HOW_JUDGED}", *_warnings(report)]
    )


def _warnings(report: Report) -> list[str]:
    load, cores = report.machine.get("load", 0), report.machine.get("cores", 1)
    if load <= _BUSY * cores:
        return []
    said = (
        f"Beware: the machine was busy with other things (load {load} on {cores} cores) when this run began."
    )
    return [f"{said} Its figures say little, and its ratios not much more."]


_BUSY = 0.5
"""Load for each core from which on figures say little."""
_HOW_JUDGED = (
    "computed from this run. A ratio (×) says how many times better directview is, beside the figures that "
    "it is made of: directview's, and the other's."
)
_STATES = ("reached", "missed", "not measured")


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
    memory, shared = [quantity(machine.get(key, 0), "B") for key in ("memory", "shared_memory")]
    return (
        f"{machine.get('processor')}, {machine.get('cores')} cores, {memory} ({shared} of it may be shared), "
        f"{machine.get('system')}, {machine.get('python')}; load {machine.get('load')} at the start; "
        f"{report.started}, {report.depth}, {report.rounds} round{'' if report.rounds == 1 else 's'}"
        f" in {report.seconds / 60:.1f} min"
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
    unclear = sum([change.finding == "unclear" for change in comparison.changes])
    notes = [f"{same} of {len(comparison.changes)} figures are the same within noise."]
    if unclear:
        notes.append(f"{unclear} figures have too few rounds to tell a change from noise.")
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
    return "\n".join([f"# {title}", "", *markdown_lines(sheets)])


def markdown_lines(sheets: Iterable[Sheet]) -> list[str]:
    """A section for each."""
    lines = []
    for sheet in sheets:
        lines += [f"## {sheet.title}", ""]
        lines += [_markdown_row(sheet.columns), _markdown_row(["---"] * len(sheet.columns))]
        lines += [_markdown_row(row) for row in sheet.rows]
        lines += ["", *[f"{note}\n" for note in sheet.notes]]
    return lines


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"
