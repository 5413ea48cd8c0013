"""What the demo found: how each piece of work went, as a table, a picture and plain words."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from directview._timeline import HEIGHTS, Cell, Span, busy_share, draw, share_columns

__all__ = ["STYLES", "Step", "Work", "counted", "remarks_of", "report", "table_of", "timeline_of"]

STYLES: Final = {
    "survey": ("cyan", "bright_cyan"),
    "filter": ("green", "bright_green"),
    "eigen": ("magenta", "bright_magenta"),
    "move": ("yellow", "bright_yellow"),
}


@dataclass
class Step:
    """One line of the table: a part of the parallel way."""

    name: str
    seconds: float
    nbytes: int | None = None


@dataclass
class Work:
    """One piece of work: how it went in parallel, how serially, and whether the answers agree."""

    kind: str
    title: str
    amount: str
    steps: list[Step] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    window: tuple[float, float] = (0.0, 0.0)
    serial: float = 0.0
    agrees: bool = False
    agreement: str = "identical"
    finding: str = ""

    @property
    def parallel(self) -> float:
        """Seconds from the first byte sent to the last answer merged."""
        return self.window[1] - self.window[0]

    @contextmanager
    def step(self, name: str, nbytes: int | None = None) -> Iterator[None]:
        """Time one step of the parallel way."""
        start = time.perf_counter()
        yield
        self.steps.append(Step(name, time.perf_counter() - start, nbytes))

    @contextmanager
    def on_engines(self) -> Iterator[None]:
        """Time the parallel way as a whole."""
        start = time.time()
        yield
        self.window = (start, time.time())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Time the serial way."""
        start = time.perf_counter()
        yield
        self.serial = time.perf_counter() - start


def rate(step: Step) -> str:
    """Throughput of a step that moved data."""
    if step.nbytes is None:
        return ""
    return f"{step.nbytes / step.seconds / 1e9:.2f} GB/s" if step.seconds else ""


def table_of(works: Sequence[Work], engines: int) -> Table:
    """Times, throughput and agreement of all work."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for name in ("one process", f"{engines} engines", "gain", "throughput"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("answers", no_wrap=True)
    for work in works:
        gain = work.serial / work.parallel
        table.add_row(
            Text(work.title, style=f"bold {STYLES[work.kind][0]}"),
            f"{work.serial:.2f} s",
            f"{work.parallel:.2f} s",
            Text(f"× {gain:.2f}", style="bold green" if gain > 1 else "bold yellow"),
            "",
            Text(f"✔ {work.agreement}", style="green") if work.agrees else Text("✘ differ", style="bold red"),
        )
        table.add_row(f"  {work.amount}", style="dim")
        for step in work.steps if len(work.steps) > 1 else ():
            table.add_row(f"  {step.name}", "", f"{step.seconds:.2f} s", "", rate(step), style="dim")
    return table


def timeline_of(works: Sequence[Work], width: int) -> Text:
    """Who did what when, the three stretches of parallel work side by side."""
    margin, tail = len("engine 000 │"), len("│ 100 % busy")
    columns = share_columns([work.parallel for work in works], max(0, width - margin - tail - len(works)))
    spans = [span for work in works for span in work.spans]
    shares = busy_share(spans, [work.window for work in works])
    pictures = [draw(work.spans, *work.window, column) for work, column in zip(works, columns, strict=True)]
    picture = Text(no_wrap=True)
    for engine, share in shares.items():
        picture.append(f"engine {engine:>3} │")
        for cells, column in zip(pictures, columns, strict=True):
            add_cells(picture, cells.get(engine, [Cell(0, "", 0)] * column))
            picture.append("│", style="dim")
        picture.append(f" {share:>4.0%} busy\n")
    picture.append(" " * margin)
    for work, column in zip(works, columns, strict=True):
        picture.append(f"{work.kind} {work.parallel:.1f} s".ljust(column + 1), STYLES[work.kind][0])
    return picture


def add_cells(picture: Text, cells: Sequence[Cell]) -> None:
    """Append one stretch of an engine's row."""
    for cell in cells:
        picture.append(HEIGHTS[cell.height], STYLES[cell.kind][cell.tone] if cell.kind else None)


def counted(number: int, thing: str) -> str:
    """Such as "1 core", "2 cores"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def remarks_of(works: Sequence[Work], engines: int, cores: int) -> Iterator[str]:
    """What a reader should know before taking the table for more than it says."""
    if cores < engines:
        yield f"{engines} engines share {counted(cores, 'core')}: × {cores} is the most there can be."
    for work in works:
        if work.parallel > work.serial:
            moved = sum(step.seconds for step in work.steps if step.nbytes is not None)
            why = (
                f"moving the data took {moved:.2f} s, more than dividing the work saved"
                if moved > work.parallel - work.serial
                else "the engines had to share what one process had for itself"
            )
            yield f"{work.title}: the cluster was slower than one process; {why}."


def report(console: Console, works: Sequence[Work], engines: int, cores: int) -> None:
    """Print table, timeline and remarks."""
    console.print(table_of(works, engines))
    console.print(
        Panel(
            Group(timeline_of(works, min(console.width, 120) - 4)),
            title="who did what when",
            title_align="left",
            expand=False,
        )
    )
    for remark in remarks_of(works, engines, cores):
        console.print(f"• {remark}", style="dim")
    wrong = [work.title for work in works if not work.agrees]
    if wrong:
        console.print(f"Answers differ from the serial ones: {', '.join(wrong)}.", style="bold red")
    else:
        console.print("All answers agree with the serial ones.", style="bold green")
