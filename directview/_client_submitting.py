"""Making calls: they get their numbers and their result in one step, and are on their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar

from directview._client_records import Records
from directview._dispatching import ANYWHERE, Wishes
from directview._task_results import ToldResult
from directview.result import AsyncMapResult, AsyncResult
from directview.wire.messages import DETACHED

if TYPE_CHECKING:
    from directview._core import Request
    from directview.lazy import Tell
    from directview.wire.parcels import Parcel

__all__ = ["Submits"]

R = TypeVar("R", bound=AsyncResult[Any])


class Submits(Records):
    """The part of a `Client` that makes calls, for its views."""

    def _submit(
        self,
        requests: Sequence[Request],
        name: str,
        label: str | None,
        *,
        single: bool,
        join: Callable[[list[Any]], Any] | None = None,
        time_limit: float | None = None,
        detached: bool = False,
    ) -> AsyncResult[Any]:
        core = self._binding.core()
        with core.lock:
            slots = core.number(requests)
            result = AsyncResult(self, slots, join=join, name=name, single=single, label=label)
            if detached:
                result._flags = DETACHED
            core.submit(requests, slots, name, result, time_limit)
        return result

    def _submit_map(
        self,
        requests: Sequence[Request],
        sizes: Sequence[int],
        name: str,
        label: str | None,
        *,
        single: bool,
        time_limit: float | None = None,
        detached: bool = False,
    ) -> AsyncMapResult[Any]:
        core = self._binding.core()
        with core.lock:
            slots = core.number(requests)
            result: AsyncMapResult[Any] = AsyncMapResult(
                self, slots, sizes, name=name, single=single, label=label
            )
            if detached:
                result._flags = DETACHED
            core.submit(requests, slots, name, result, time_limit)
        return result

    def _submit_told(
        self,
        requests: Sequence[Request],
        name: str,
        label: str | None,
        tell: Tell | None,
        time_limit: float | None,
    ) -> AsyncResult[Any]:
        """A call on one engine, of whose end somebody is told."""
        core = self._binding.core()
        with core.lock:
            slots = core.number(requests)
            result: ToldResult[Any] = ToldResult(self, slots, name=name, single=True, label=label)
            result._tell = tell
            core.submit(requests, slots, name, result, time_limit)
        return result

    def _submit_tasks(
        self,
        parcels: Sequence[Parcel],
        name: str,
        wishes: Wishes,
        made: Callable[[Sequence[tuple[int, int]]], R],
        time_limit: float | None,
        detached: Sequence[int] = (),
    ) -> R:
        """Balanced calls; or, where engines are given, calls that these get in turn, to be detached."""
        core = self._binding.core()
        if detached:
            dealt = [((engine,), parcel) for engine, parcel in zip(cycle(detached), parcels, strict=False)]
            with core.lock:
                slots = core.number(dealt)
                result = made(slots)
                result._flags = DETACHED
                core.submit(dealt, slots, name, result, time_limit)
            return result
        requests = [((ANYWHERE,), parcel) for parcel in parcels]
        with core.lock:
            slots = core.number(requests)
            result = made(slots)
            core.submit_tasks(parcels, slots, name, result, wishes, time_limit)
        return result
