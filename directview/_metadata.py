"""What is known about a call beside its value: names, places, times, and what it printed.

One record for each engine that the call went to. Everything here is made when it is asked for: tens of
thousands of calls a second are made, and few are asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from directview._waiting import CallOwner

__all__ = ["METADATA_KEYS", "CallMetadata", "Described", "moment", "msg_id", "parse_msg_id"]

METADATA_KEYS = (
    "msg_id", "submitted", "started", "completed", "received", "engine_id", "engine_uuid", "status",
    "stdout", "stderr", "outputs", "label",
)  # fmt: skip
"""Keys of ``ar['key']`` and of the dicts in ``ar.metadata``."""


class CallMetadata(NamedTuple):
    """What the client knows when a call has ended on one engine. Times are seconds since the epoch."""

    engine_id: int | None
    engine_uuid: str
    """In hex."""
    started: float | None
    """By the engine's clock; None for a call that never started."""
    completed: float | None
    received: float
    """By the client's clock."""
    status: str
    """``ok``, ``error`` or ``aborted``."""

    def field(self, name: str) -> Any:
        """One field as users see it: times as datetimes."""
        value = getattr(self, name)
        return moment(value) if name in ("started", "completed", "received") else value


def moment(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as an aware datetime in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def msg_id(client_uuid: str, seq: int, engine_id: int) -> str:
    """The name of a call on one engine, as programs keep it: ``<client>_<seq>_<engine>``."""
    return f"{client_uuid}_{seq}_{engine_id}"


def parse_msg_id(text: str) -> tuple[str, int, int]:
    """The (client uuid, seq, engine id) that `msg_id` made `text` of.

    Raises:
        ValueError: it is no msg_id.
    """
    try:
        client_uuid, seq, engine_id = text.rsplit("_", 2)
        return client_uuid, int(seq), int(engine_id)
    except ValueError:
        raise ValueError(f"{text!r} is not a msg_id: those look like '<client>_<number>_<engine>'") from None


def _known(times: Iterable[datetime | None] | None, which: str) -> list[datetime]:
    if times is not None and not isinstance(times, Iterable):
        raise TypeError(f"the {which} is {times!r:.60}: expected a datetime, or one for each engine")
    found = [] if times is None else list(times)
    if not found or None in found:
        raise TypeError(f"the {which} is {times!r:.60}: that has not happened yet")
    return found  # type: ignore[return-value]


class Described:
    """The metadata of an AsyncResult: scalars for a single engine, otherwise lists in target order."""

    _owner: CallOwner
    _calls: Sequence[tuple[int, int]]
    _single: bool
    _targets: Sequence[int] | None
    _label: str | None
    _created: float
    _missing: int
    _metadata: list[CallMetadata | None] | None
    _printed: dict[tuple[int, str], list[str]] | None = None
    _sources: Sequence[tuple[Any, int]] | None = None
    """Of which result's which slot each slot is the image: made by split and join."""
    _places: dict[int, int] | None = None
    """Of balanced calls: the engine that each slot's call was given to last."""

    def _is_at(self, index: int, engine: int) -> None:
        """The balanced call of slot `index` is given to an engine."""
        if self._places is None:
            self._places = {}
        self._places[index] = engine

    def _of_slot(self, index: int, key: str) -> Any:
        if self._sources is not None:
            source, there = self._sources[index]
            return source._of_slot(there, key)
        seq, engine = self._calls[index]
        known = self._metadata[index] if self._metadata is not None else None
        match key:
            case "msg_id":
                return msg_id(self._owner.client_uuid, seq, engine)
            case "submitted":
                return moment(self._created)
            case "label":
                return self._label
            case "stdout" | "stderr":
                return "".join((self._printed or {}).get((index, key), ()))
            case "outputs":
                return self._displayed_by(index)
        if known is not None:
            return known.field(key)
        if key == "status":
            return self._status_before_the_end()
        if key != "engine_id":
            return None
        return engine if engine >= 0 else (self._places or {}).get(index)

    def _status_before_the_end(self) -> str | None:
        """The status of a call that its engine has not ended."""
        raise NotImplementedError

    def _displayed_by(self, index: int) -> list[dict[str, Any]]:
        """What source that was executed displayed on one engine, also if it failed then."""
        raise NotImplementedError

    def _per_slot(self, key: str) -> Any:
        if self._single:
            return self._of_slot(0, key)
        return [self._of_slot(index, key) for index in range(len(self._calls))]

    @property
    def metadata(self) -> Any:
        """A dict of everything known about the call; a list of them, one for each engine."""
        found = [
            {key: self._of_slot(index, key) for key in METADATA_KEYS} for index in range(len(self._calls))
        ]
        return found[0] if self._single else found

    @property
    def msg_ids(self) -> list[str]:
        """The names of the calls, for `Client.get_result`, `abort` and the like."""
        return [self._of_slot(index, "msg_id") for index in range(len(self._calls))]

    @property
    def targets(self) -> list[int]:
        """Ids of the engines that the call went to; of a balanced one as far as they are known yet."""
        if self._targets is not None:
            return list(self._targets)
        if all([engine >= 0 for _, engine in self._calls]):
            return [engine for _, engine in self._calls]
        found = [self._of_slot(index, "engine_id") for index in range(len(self._calls))]
        return [engine for engine in found if engine is not None]

    @property
    def label(self) -> Any:
        """The user's name for the call. A list for several engines."""
        return self._per_slot("label")

    @property
    def submitted(self) -> Any:
        """When the call was made, in UTC. A list for several engines."""
        return self._per_slot("submitted")

    @property
    def started(self) -> Any:
        """When it began to run (one datetime in UTC for each engine), by the engine's clock; or None."""
        return self._per_slot("started")

    @property
    def completed(self) -> Any:
        """When it ended (for each engine), by the engine's clock; or None."""
        return self._per_slot("completed")

    @property
    def received(self) -> Any:
        """When the answer arrived (of each engine); or None."""
        return self._per_slot("received")

    @property
    def engine_id(self) -> Any:
        """Which engine has the call; None while a balanced call has none. A list for several."""
        return self._per_slot("engine_id")

    @property
    def engine_uuid(self) -> Any:
        """Its uuid in hex, once it has answered. A list for several."""
        return self._per_slot("engine_uuid")

    @property
    def status(self) -> Any:
        """``ok``, ``error`` or ``aborted``; None while it goes on. A list for several.

        ``cancelled, still running``: it was cancelled here, and the engine has not said that it has ended.
        """
        return self._per_slot("status")

    @property
    def stdout(self) -> Any:
        """What the call has printed so far. A list for several engines."""
        return self._per_slot("stdout")

    @property
    def stderr(self) -> Any:
        """What the call has written to stderr so far. A list for several engines."""
        return self._per_slot("stderr")

    @property
    def outputs(self) -> Any:
        """What the call has displayed, beside text."""
        return self._per_slot("outputs")

    # --- times ---

    def timedelta(
        self,
        start: datetime | Iterable[datetime],
        end: datetime | Iterable[datetime],
        start_key: Callable[[Iterable[datetime]], datetime] = min,
        end_key: Callable[[Iterable[datetime]], datetime] = max,
    ) -> float:
        """Seconds between two times of the call: ``ar.timedelta(ar.submitted, ar.received)``.

        Args:
            start: one datetime, or one for each engine.
            end: likewise.
            start_key: picks one of several starts, by default the first.
            end_key: picks one of several ends, by default the last.

        Raises:
            TypeError: one of them is None: it has not happened yet.
        """
        first = start if isinstance(start, datetime) else start_key(_known(start, "start"))
        last = end if isinstance(end, datetime) else end_key(_known(end, "end"))
        return (last - first).total_seconds()

    @property
    def progress(self) -> int:
        """How many of the calls have ended."""
        return len(self._calls) - self._missing

    @property
    def elapsed(self) -> float:
        """Seconds since the call was made; until it ended, once it has."""
        return self.wall_time if self._missing == 0 else time.time() - self._created

    @property
    def wall_time(self) -> float:
        """Seconds from the submission to the last answer so far."""
        received = [known.received for known in self._metadata or () if known is not None]
        return max(received, default=self._created) - self._created

    @property
    def serial_time(self) -> float:
        """Seconds that the engines have spent on it, added up."""
        return sum(
            known.completed - known.started
            for known in self._metadata or ()
            if known is not None and known.started is not None and known.completed is not None
        )
