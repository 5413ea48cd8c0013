"""What people look at while a call runs and when it has ended: a progress bar, its output, a table.

Output that engines print carries a label at the start of each line, ``[stdout:3]``, unless a single engine
was asked by its bare id: then it reads as if it had been printed here.
"""

from __future__ import annotations

import html
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from directview._progress import in_ipython, progress_bar
from directview._slots import Errors, Slots
from directview.cells import OUTPUTS_OF_ERROR
from directview.reply import ExecuteReply

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Displayed", "GroupBy", "Printer"]

T = TypeVar("T")

GroupBy = Literal["type", "engine", "order"]

_GROUPINGS: Final = ("type", "engine", "order")
_ROWS: Final = 100
"""Engines that the HTML table shows."""


class Displayed(Slots[T]):
    """The methods of an `AsyncResult` that show something."""

    # --- progress -----------------------------------------------------------------------------------------

    def wait_interactive(
        self,
        interval: float = 0.1,
        timeout: float | None = None,
        widget: bool | None = None,
        return_when: str | None = None,
    ) -> None:
        """Block until the call has ended, with a progress bar, and raise nothing of its own.

        Args:
            interval: seconds between two updates of the bar, at most.
            timeout: seconds; None or negative: for ever.
            widget: whether this is a notebook; None: find out.
            return_when: as for `wait`.
        """
        ready = self._readiness(return_when)
        ends = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        with progress_bar(len(self), self._name, widget=widget) as update:
            update(self.progress)
            while not ready():
                left = None if ends is None else ends - time.monotonic()
                if left is not None and left <= 0:
                    break
                step = interval if left is None else min(interval, left)
                self._block(ready, step, "wait_interactive()", "`await ar.wait_interactive_async()`")
                update(self.progress)
            update(self.progress)  # it may have ended since

    async def wait_interactive_async(self, widget: bool | None = None) -> None:
        """`wait_interactive` for event loops. May be cancelled, which ends the waiting only."""
        with progress_bar(len(self), self._name, widget=widget) as update:
            seen = -1
            while seen < len(self) and not self.done():
                seen = self.progress
                update(seen)
                await self._step(lambda seen=seen: self.done() or self.progress > seen)  # type: ignore[misc]
            update(self.progress)

    def _readiness(self, return_when: str | None) -> Callable[[], bool]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    # --- output -------------------------------------------------------------------------------------------

    @contextmanager
    def stream_output(self) -> Iterator[None]:
        """Print what the call prints, as it arrives, for the time of a ``with`` block.

        What has arrived before the block comes first. ::

            with ar.stream_output():
                ar.wait()
        """
        printer = Printer(labelled=not self._single)
        with printer.lock:  # what arrives meanwhile waits until what has arrived is printed
            unlisten, earlier = self._listen(
                lambda index, stream, text: printer.write(self._engine(index), stream, text)
            )
            for index, stream, text in earlier:
                printer.write(self._engine(index), stream, text)
        try:
            yield
        finally:
            unlisten()
            printer.end_line()

    def wait_for_output(self, timeout: float | None = None) -> bool:
        """Block until all that the call prints is here: it comes before the result, so this is `wait`.

        Args:
            timeout: seconds; None or negative: for ever.

        Returns:
            Whether it is.
        """
        self._block(self.done, timeout, "wait_for_output()", "`await` on the result")
        return self.done()

    def display_outputs(self, groupby: GroupBy = "type", result_only: bool = False) -> None:
        """Show what the call has printed and displayed, when it has ended.

        Args:
            groupby: ``'type'``: what all engines printed, then their errors, then what they displayed;
                ``'engine'``: everything of one engine, then of the next; ``'order'``: as by type, but the
                first picture of all engines before the second of any.
            result_only: only the values of last expressions; what was printed has been shown already.

        Raises:
            ValueError: `groupby` is none of these.
        """
        self._check_grouping(groupby)
        self.wait_for_output()
        if result_only:
            self._show_values(range(len(self._calls)))
        else:
            self._show_outputs(groupby)

    @staticmethod
    def _check_grouping(groupby: str) -> None:
        if groupby not in _GROUPINGS:
            raise ValueError(f"groupby is {groupby!r}; it can be {', '.join(_GROUPINGS)}")

    def _show_outputs(self, groupby: GroupBy = "type", *, printed: bool = True) -> None:
        """Show what there is by now.

        Args:
            groupby: as for `display_outputs`.
            printed: whether what was printed is shown too; it may have been shown as it came.
        """
        slots = range(len(self._calls))
        for group in [[index] for index in slots] if groupby == "engine" else [slots]:
            if printed:
                self._show_printed(group)
            self._show_displayed(group, in_turn=groupby == "order")
            self._show_values(group)

    def _show_printed(self, slots: Sequence[int]) -> None:
        printer = Printer(labelled=not self._single)
        for stream in ("stdout", "stderr"):
            for index in slots:
                printer.write(self._engine(index), stream, self._of_slot(index, stream))
                printer.end_line()

    def _show_displayed(self, slots: Sequence[int], *, in_turn: bool) -> None:
        if not in_ipython():  # pictures mean nothing elsewhere
            return
        shown = [(index, place) for index in slots for place in range(len(self._outputs_of(index)))]
        if in_turn:
            shown.sort(key=lambda pair: pair[1])
        labelled: int | None = None
        for index, place in shown:
            if index != labelled and not self._single:
                _label(self._engine(index))
                labelled = index
            _publish(self._outputs_of(index)[place], self._engine(index))

    def _show_values(self, slots: Sequence[int]) -> None:
        if not in_ipython():
            return
        for index in slots:
            reply = self._value_of(index)
            if isinstance(reply, ExecuteReply) and reply.result is not None:
                if len(reply.data) > 1 and not self._single:  # a picture hides its text
                    _label(self._engine(index))
                _display(reply)

    def _outputs_of(self, index: int) -> Sequence[dict[str, Any]]:
        return self._of_slot(index, "outputs") or ()

    def _displayed_by(self, index: int) -> list[dict[str, Any]]:
        reply = self._value_of(index)
        if isinstance(reply, ExecuteReply):
            return reply.outputs
        error = (self._errors or Errors()).get(index)
        return getattr(error, OUTPUTS_OF_ERROR, None) or []

    def _value_of(self, index: int) -> Any:
        """The value of a slot; None if it has none."""
        return self._values[index] if self._has_value(index) and self._values is not None else None

    def _engine(self, index: int) -> Any:
        return self._of_slot(index, "engine_id")

    # --- as a table ---------------------------------------------------------------------------------------

    def _repr_html_(self) -> str:
        """A table for notebooks: what became of the call on each engine, and how long it took."""
        rows = []
        for index in range(min(len(self._calls), _ROWS)):
            started, completed = self._of_slot(index, "started"), self._of_slot(index, "completed")
            status = self._of_slot(index, "status") or "pending"
            cells = [self._engine(index), status, _seconds(started, completed), self._error_text(index)]
            rows.append("".join([f"<td>{html.escape(str(cell))}</td>" for cell in cells]))
        more = len(self._calls) - _ROWS
        if more > 0:
            rows.append(f"<td colspan='4'>and {more} more</td>")
        head = "".join([f"<th>{title}</th>" for title in ("engine", "status", "seconds", "error")])
        body = "".join([f"<tr>{row}</tr>" for row in rows])
        said = html.escape(repr(self))
        return f"<div><code>{said}</code><table><tr>{head}</tr>{body}</table></div>"

    def _error_text(self, index: int) -> str:
        error = (self._errors or Errors()).get(index)
        return "" if error is None else f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _seconds(started: datetime | None, completed: datetime | None) -> str:
    return f"{(completed - started).total_seconds():.3g}" if started and completed else ""


class Printer:
    """Writes what several engines print, so that each line says whose it is."""

    def __init__(self, *, labelled: bool) -> None:
        self.lock = threading.RLock()
        self._labelled = labelled
        self._open: tuple[Any, str] | None = None
        """Whose line is not at its end yet."""

    def write(self, engine: Any, stream: str, text: str) -> None:
        if not text:
            return
        with self.lock:
            if self._open is not None and self._open != (engine, stream):
                self.end_line()
            label = f"[{stream}:{engine}] " if self._labelled else ""
            lines = text.splitlines(keepends=True)
            first = "" if self._open is not None else label
            file = getattr(sys, stream)
            file.write(first + label.join(lines))
            file.flush()
            self._open = None if text.endswith("\n") else (engine, stream)

    def end_line(self) -> None:
        """End a line that is not at its end, unless it is the only engine's own business."""
        with self.lock:
            if self._open is not None and self._labelled:
                file = getattr(sys, self._open[1])
                file.write("\n")
                file.flush()
            self._open = None


def _label(engine: Any) -> None:
    importlib.import_module("IPython.display").publish_display_data(
        data={"text/plain": f"[output:{engine}]"}, metadata={"engine": engine}
    )


def _publish(output: dict[str, Any], engine: Any) -> None:
    metadata = {**(output.get("metadata") or {}), "engine": engine}
    importlib.import_module("IPython.display").publish_display_data(data=output["data"], metadata=metadata)


def _display(reply: ExecuteReply) -> None:
    importlib.import_module("IPython.display").display(reply)
