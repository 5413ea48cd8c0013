"""Which engines a view means, its flags, and how it submits calls: what all its operations stand on."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, SupportsFloat, TypeAlias, TypeVar

from directview import _checking, sharing
from directview._memory import CALLS
from directview.result import AsyncMapResult, AsyncResult
from directview.wire.arena import arena
from directview.wire.objects import NO_ARGUMENTS, dump_arguments, dump_function
from directview.wire.parcels import INLINE_BYTES, Packed, Parcel, pack, pack_small

if TYPE_CHECKING:
    from directview._core import Request
    from directview.client import Client

__all__ = ["K", "Many", "One", "Targeted", "Targets", "checked_limit", "name_of"]

Targets: TypeAlias = int | slice | Sequence[int] | Literal["all"]
"""One engine by id (negative: from the end), or several: a list of ids, a slice of them, or all."""


class One:
    """Type argument of a view of one engine: results are scalars."""


class Many:
    """Type argument of a view of several engines: results are lists."""


K = TypeVar("K", One, Many)


class Targeted(Generic[K]):
    """Some engines of a client, and flags. Arguments as for `DirectView`."""

    def __init__(
        self,
        client: Client,
        targets: int | Sequence[int] | Literal["all"],
        *,
        block: bool | None = None,
        track: bool = False,
        label: str | None = None,
        time_limit: float | None = None,
        detached: bool = False,
    ) -> None:
        self.client = client
        self._targets: int | Sequence[int] | Literal["all"] = targets
        self.block = block
        self.track = track
        self.label = label
        self.time_limit = time_limit
        self.detached = detached
        self._made: deque[Sequence[tuple[int, int]]] = deque(maxlen=CALLS)
        """The calls that were made through it."""

    # --- what it is -----------------------------------------------------------------------------------

    @property
    def targets(self) -> int | list[int]:
        """The engines' ids: an int for a view of one, otherwise a list.

        Assign an id, a list of ids, a slice of the client's ids, or ``'all'``.
        """
        return self._ids(None)[0] if isinstance(self._targets, int) else list(self._ids(None))

    @targets.setter
    def targets(self, targets: Targets) -> None:
        self._targets = self._chosen(targets)

    @property
    def block(self) -> bool:
        """Whether bare operations wait for their results; the client's, unless assigned here."""
        return self.client.block if self._block is None else self._block

    @block.setter
    def block(self, block: bool | None) -> None:
        _checking.flag(block, "block")
        self._block = block

    @property
    def label(self) -> str | None:
        """The user's name for the calls of this view: see `AsyncResult.label`."""
        return self._label

    @label.setter
    def label(self, label: str | None) -> None:
        _checking.text(label, "label")
        self._label = label

    @property
    def time_limit(self) -> float | None:
        """Seconds that a call may take, from its submission to its end; None: any number.

        At the limit the call is ended, as by `AsyncResult.cancel`, and who waits for it gets `TaskTimeout`.
        """
        return self._time_limit

    @time_limit.setter
    def time_limit(self, seconds: float | None) -> None:
        self._time_limit = checked_limit(seconds)

    @property
    def detached(self) -> bool:
        """Whether calls go on when this client is gone, and their results are kept for `Client.get_result`.

        A time limit is the client's to keep: it ends with it.
        """
        return self._detached

    @detached.setter
    def detached(self, detached: bool) -> None:
        _checking.flag(detached, "detached")
        self._detached = bool(detached)

    def set_flags(self, **flags: Any) -> None:
        """Assign several flags at once, for all who use this view.

        Args:
            flags: of `targets`, `block`, `track`, `label`, `time_limit`, `detached`.

        Raises:
            TypeError: there is no such flag.
        """
        _checking.flags(flags)
        for name, value in flags.items():
            setattr(self, name, value)

    @contextmanager
    def temp_flags(self, **flags: Any) -> Iterator[None]:
        """`set_flags` for the time of a ``with`` block. Not for concurrent tasks: see `options`."""
        before = {
            "_targets": self._targets, "_block": self._block, "track": self.track, "_label": self._label,
            "_time_limit": self._time_limit, "_detached": self._detached,
        }  # fmt: skip
        try:
            self.set_flags(**flags)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def __len__(self) -> int:
        return len(self._ids(None))

    def __repr__(self) -> str:
        shown = "all" if self._targets == "all" else self._targets
        return f"<{type(self).__name__} {shown}>"

    # --- how it is done -------------------------------------------------------------------------------

    def _chosen(self, targets: Targets) -> int | Sequence[int] | Literal["all"]:
        return "all" if targets == "all" else self.client._choose(targets)

    def _ids(self, targets: Targets | None) -> tuple[int, ...]:
        chosen = self._targets if targets is None else self._chosen(targets)
        if chosen == "all":
            return self.client._all_ids()
        return (chosen,) if isinstance(chosen, int) else tuple(chosen)

    def _call(
        self,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        name: str | None = None,
        targets: Targets | None = None,
        join: Callable[[list[Any]], Any] | None = None,
    ) -> AsyncResult[Any]:
        _checking.function(f, "apply")
        ids = self._ids(targets)
        name = name_of(f) if name is None else name
        parcel = self._parcel(dump_function(f), args, kwargs, name)
        return self._submit([(ids, parcel)], name, targets, join)

    def _submit(
        self,
        requests: Sequence[Request],
        name: str,
        targets: Targets | None = None,
        join: Callable[[list[Any]], Any] | None = None,
    ) -> AsyncResult[Any]:
        result = self.client._submit(
            requests, name, self.label, single=self._is_one(targets), join=join, time_limit=self.time_limit,
            detached=self._detached,
        )  # fmt: skip
        self._made.append(result._calls)
        return result

    def _submit_map(
        self, requests: Sequence[Request], sizes: Sequence[int], name: str
    ) -> AsyncMapResult[Any]:
        result = self.client._submit_map(
            requests, sizes, name, self.label, single=self._is_one(None), time_limit=self.time_limit,
            detached=self._detached,
        )  # fmt: skip
        self._made.append(result._calls)
        return result

    def _is_one(self, targets: Targets | None) -> bool:
        """Whether one engine is meant by its bare id."""
        return _checking.is_index(self._targets if targets is None else targets)

    def _parcel(self, function: Packed, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Parcel:
        arguments = dump_arguments(args, kwargs, call=name)
        parcel = _bare(function) if arguments is NO_ARGUMENTS else None
        if parcel is None:
            objects = (function, arguments)
            parcel = pack_small(objects) or pack(objects, arena=arena().reference)
        kept = sharing.taken()
        if type(function) is sharing.Holding:
            kept += function.keeps
        return parcel._replace(keeps=kept) if kept else parcel

    def _blocks(self, block: bool | None) -> bool:
        return self.block if block is None else block

    def _finish(self, submit: Callable[[], AsyncResult[Any]], name: str, block: bool | None = None) -> Any:
        return self._wait_for(submit, name) if self._blocks(block) else submit()

    def _wait_for(self, submit: Callable[[], AsyncResult[Any]], name: str) -> Any:
        """Submit and wait; where waiting is not possible, nothing is submitted."""
        self.client.check_may_block(f"{name}_sync", f"`await view.{name}_async(...)`")
        return submit().get()

    def _checked(
        self, submit: Callable[[], AsyncResult[Any]], block: bool | None, name: str
    ) -> AsyncResult[Any]:
        if not self._blocks(block):
            return submit()
        self.client.check_may_block(f"{name}_sync", f"`await view.{name}_async(...)`")
        result = submit()
        result.get()
        return result


def _bare(function: Packed) -> Parcel | None:
    """The parcel of a call without arguments, if it is small. Nothing changes a parcel, so calls share it."""
    data, buffers = function[:2]
    return _packed_bare(data) if not buffers and len(data) <= INLINE_BYTES and type(data) is bytes else None


@functools.lru_cache(64)
def _packed_bare(function: bytes) -> Parcel | None:
    return pack_small((Packed(function, ()), NO_ARGUMENTS))


def checked_limit(seconds: Any) -> float | None:
    """A time limit as a user gives it; None where there is none.

    Raises:
        TypeError: it is no number.
        ValueError: it is not above 0.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, SupportsFloat):
        raise TypeError(f"time_limit: expected a number of seconds, or None, got {seconds!r:.60}")
    limit = float(seconds)
    if not limit > 0:
        raise ValueError(f"time_limit: expected seconds above 0, or None for no limit, got {seconds!r:.60}")
    return None if limit == math.inf else limit


def name_of(f: Callable[..., Any]) -> str:
    """What errors and status call `f`."""
    while isinstance(f, functools.partial):
        f = f.func
    return str(getattr(f, "__name__", type(f).__name__))[:200]
