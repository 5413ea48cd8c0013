"""Pure: a picture, in characters, of which engine did what when.

A *span* is one call on one engine. A picture covers one stretch of time with a row of cells for each
engine; a cell's height says which share of its time the engine was busy, its kind and tone which call that
mostly was. Neighbouring calls differ in tone, so that they can be told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["HEIGHTS", "Cell", "Span", "busy_share", "draw", "share_columns", "spans_of"]

HEIGHTS: Final = " ▁▂▃▄▅▆▇█"


class Span(NamedTuple):
    """One call on one engine; times in seconds since the epoch."""

    engine: int
    start: float
    end: float
    kind: str


class Cell(NamedTuple):
    """What an engine did in one column of the picture."""

    height: int
    """Index into `HEIGHTS`: 0 for idle."""
    kind: str
    tone: int
    """0 or 1, in turn from call to call."""


def spans_of(result: Any, kind: str) -> list[Span]:
    """The spans of a finished AsyncResult, from its metadata: one for each engine that it ran on."""
    engines, started, completed = result.engine_id, result.started, result.completed
    if not isinstance(engines, list):
        engines, started, completed = [engines], [started], [completed]
    return [
        Span(engine, _seconds(start), _seconds(end), kind)
        for engine, start, end in zip(engines, started, completed, strict=True)
    ]


def _seconds(moment: datetime | float) -> float:
    return moment if isinstance(moment, int | float) else moment.timestamp()


def draw(spans: Iterable[Span], start: float, end: float, width: int) -> dict[int, list[Cell]]:
    """A row of `width` cells for each engine that has spans, for the time from `start` to `end`."""
    rows: dict[int, list[Cell]] = {}
    step = (end - start) / width if end > start else 1.0
    for engine, own in sorted(_by_engine(spans).items()):
        busy = [0.0] * width
        longest: list[tuple[float, int]] = [(0.0, -1)] * width
        for number, span in enumerate(own):
            first = max(0, int((span.start - start) / step))
            last = min(width - 1, int((span.end - start) / step))
            for column in range(first, last + 1):
                left = start + column * step
                covered = min(span.end, left + step) - max(span.start, left)
                if covered > 0:
                    busy[column] += covered
                    longest[column] = max(longest[column], (covered, number))
        rows[engine] = [
            Cell(0, "", 0) if number < 0 else Cell(_height(share / step), own[number].kind, number % 2)
            for share, (_, number) in zip(busy, longest, strict=True)
        ]
    return rows


def _height(share: float) -> int:
    """At least a trace for whatever happened."""
    top = len(HEIGHTS) - 1
    return max(1, min(top, round(share * top)))


def _by_engine(spans: Iterable[Span]) -> dict[int, list[Span]]:
    found: dict[int, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        found[span.engine].append(span)
    return found


def busy_share(spans: Iterable[Span], windows: Sequence[tuple[float, float]]) -> dict[int, float]:
    """For each engine, the share of `windows` in which it ran at least one call."""
    total = sum(end - start for start, end in windows)
    shares = {}
    for engine, own in sorted(_by_engine(spans).items()):
        busy = 0.0
        for start, end in windows:
            reached = start
            for span in own:
                left, right = max(span.start, reached), min(span.end, end)
                if right > left:
                    busy += right - left
                    reached = right
        shares[engine] = busy / total if total > 0 else 0.0
    return shares


def share_columns(durations: Sequence[float], width: int, least: int = 12) -> list[int]:
    """Columns for windows side by side, in proportion to their `durations`, but `least` for each.

    They add up to `width`, unless that is too narrow to give each its least.
    """
    if not durations:
        return []
    spare = max(0, width - least * len(durations))
    total = sum(durations) or 1.0
    columns = [least + int(spare * duration / total) for duration in durations]
    columns[durations.index(max(durations))] += max(0, width - sum(columns))
    return columns
