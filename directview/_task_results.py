"""Results of balanced calls that do more than others: items as they come, and word of their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from directview._metadata import CallMetadata
from directview.result import AsyncMapResult, AsyncResult

__all__ = ["ToldResult", "UnorderedMapResult"]

T = TypeVar("T")


class UnorderedMapResult(AsyncMapResult[T]):
    """The result of a map whose iteration yields items as they come. `get` gives them in order."""

    _came: list[int] | None = None
    """Slots in the order in which they were answered."""

    def _fill(self, index: int, metadata: CallMetadata | None, value: Any, error: Exception | None) -> bool:
        filled = super()._fill(index, metadata, value, error)
        if filled:
            if self._came is None:
                self._came = []
            self._came.append(index)
        return filled

    def _steps(self) -> Iterator[tuple[Callable[[], bool], Callable[[], Sequence[Any]]]]:
        for position in range(len(self._calls)):
            yield partial(self._has_come, position), partial(self._items_that_came, position)

    def _has_come(self, position: int) -> bool:
        return self.done() or (self._came is not None and position < len(self._came))

    def _items_that_came(self, position: int) -> Sequence[Any]:
        came = self._came or ()
        if position < len(came):
            return self._items(came[position])
        self._look()
        if self._cut_short() is not None:
            self._outcome()
        return self._items(position)  # made again from what was kept: in order


class ToldResult(AsyncResult[T]):
    """A result whose end somebody is told of, on the thread where it ends, without counting as a waiter."""

    _tell: Callable[[AsyncResult[Any]], object] | None = None

    def _invoke_callbacks(self) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(self)
        super()._invoke_callbacks()
