"""How the answers of a call come in, one slot for each engine, and become one result or one error.

The client's side of an `AsyncResult`: the client fills the slots, on its loop, as answers arrive; the last
one settles the result. What users ask of it is in `directview.result`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from directview._metadata import CallMetadata, Described
from directview._waiting import CallOwner, SharedFuture
from directview.errors import CompositeError, RemoteError, TaskAborted, TaskTimeout, TimeoutError

__all__ = ["Errors", "Keepsake", "Slots"]

T = TypeVar("T")

_MISSING: Final[Any] = object()


Listener: TypeAlias = Callable[[int, str, str], None]
"""Called with a slot, a stream and a text."""


def _hear(listener: Listener, here: int, there: int, index: int, stream: str, text: str) -> None:
    """Tell a listener to slot `here` of a result, which is slot `there` of another one."""
    if index == here:
        listener(there, stream, text)


class _Echo(NamedTuple):
    """Slot `there` of `result` is answered as slot `here` of this one is."""

    here: int
    result: Slots[Any]
    there: int


def _unknown(engine: int, now: float) -> CallMetadata:
    """Of a call that its engine did not end."""
    return CallMetadata(engine if engine >= 0 else None, "", None, None, now, "error")


class Errors(dict[int, Exception]):
    """The errors of slots. A result that has been made again has those of the first."""

    looked = False
    """Somebody has seen them."""


class Keepsake(NamedTuple):
    """What is kept of a result that has ended, to make one like it."""

    kind: type[Slots[Any]]
    calls: Sequence[tuple[int, int]]
    join: Callable[[list[Any]], Any] | None
    name: str
    single: bool
    targets: Sequence[int] | None
    label: str | None
    ends: list[int] | None
    created: float
    metadata: list[CallMetadata | None]
    values: list[Any]
    errors: Errors | None
    printed: dict[tuple[int, str], list[str]] | None
    cut_short: TaskAborted | TaskTimeout | None
    size: int
    """Bytes of the answers."""


class Slots(Described, SharedFuture[T]):
    """One slot for each call; its result or error when the last is in."""

    _values: list[Any] | None
    _errors: Errors | None = None
    _indexes: dict[tuple[int, int], int] | None = None
    """Where in `_calls` each of them is, if there are several."""
    _unsent: int
    """Its calls whose arguments' buffers a resend may need."""
    _item_ends: list[int] | None = None
    """Of a map: how many items there are up to the end of each slot."""
    _size: int
    """Bytes of the answers, as far as they have come."""
    _echoes: list[_Echo] | None = None
    """Slots of other results that are answered when slots of this one are: made by split and join."""
    _sources: Sequence[tuple[Slots[Any], int]] | None = None
    _listeners: tuple[Listener, ...] = ()
    _timer: asyncio.TimerHandle | None = None
    """Of its time limit, on the client's loop."""
    _flags = 0
    """Of its calls: `DETACHED`."""
    _remembered = True
    """Whether the client keeps it among its calls and results. Batches of a stream's items are not."""

    def __init__(
        self,
        owner: CallOwner,
        calls: Sequence[tuple[int, int]],
        *,
        join: Callable[[list[Any]], T] | None = None,
        name: str = "apply",
        single: bool = False,
        targets: Sequence[int] | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(owner)
        self._calls = calls
        self._join = join
        self._name = name
        self._single = single
        self._targets = targets
        self._label = label
        self._created = time.time()
        self._missing = len(calls)
        self._unsent = 1
        self._size = 0
        self._metadata = None
        self._values = None
        if not calls:
            self._finish()

    # --- what the client tells, on its loop ---

    def _deliver(self, index: int, metadata: CallMetadata | None, value: Any) -> None:
        """Slot `index` was answered with `value`."""
        self._answer(index, metadata, value, None)

    def _deliver_error(self, index: int, metadata: CallMetadata | None, error: Exception) -> None:
        """Slot `index` ended in `error`; without metadata where the engine said nothing."""
        self._answer(index, metadata, _MISSING, error)

    def _answer(self, index: int, metadata: CallMetadata | None, value: Any, error: Exception | None) -> None:
        if self._sources is None:
            filled = self._fill(index, metadata, value, error)
        else:  # echoes come from any thread
            with self._changing:
                filled = self._fill(index, metadata, value, error)
        if not filled:
            return
        if self._echoes is not None:
            self._echo(index, value, error)
        if self._missing == 0 and not self.done():
            self._finish()
        self._progressed()

    def _output(self, index: int, stream: str, text: str) -> None:
        """The call of slot `index` printed `text` to `stream`, ``stdout`` or ``stderr``."""
        with self._changing:  # with the look at who listens: see `_listen`
            if self._printed is None:
                self._printed = {}
            self._printed.setdefault((index, stream), []).append(text)
            listeners = self._listeners
        for listener in listeners:
            listener(index, stream, text)
        self._moved()

    def _mark_sent(self) -> None:
        """No resend can need the buffers of one of its calls any more."""
        self._unsent -= 1
        if self._watched or self._echoes is not None:
            self._moved()

    def _moved(self) -> None:
        """Tell those who wait that something has happened before the end."""
        self._progressed()
        if self._echoes is not None:
            with self._changing:
                others = {id(echo.result): echo.result for echo in self._echoes or ()}
            for other in others.values():
                other._moved()

    def _fill(self, index: int, metadata: CallMetadata | None, value: Any, error: Exception | None) -> bool:
        """Take the answer of a slot; False if it has been answered before."""
        known = self._metadata
        if known is None:
            known = list[CallMetadata | None]([None]) * len(self._calls)
            self._values = [_MISSING] * len(known)
            self._metadata = known
        if known[index] is not None:
            return False
        known[index] = metadata or _unknown(self._calls[index][1], time.time())
        if not self.done():
            assert self._values is not None
            self._values[index] = value
            if error is not None:
                if self._errors is None:
                    self._errors = Errors()
                self._errors[index] = error
        self._missing -= 1
        return True

    def _finish(self) -> None:
        """All slots are in: settle on the result or the error."""
        if self._errors:
            self._settle(None, self._error_of(sorted(self._errors)))
            return
        try:
            value = self._joined(self._values or [])
        except BaseException as error:  # noqa: BLE001 - users' types join in
            self._settle(None, error)
        else:
            self._settle(value, None)

    def _joined(self, values: list[Any]) -> T:
        if self._join is not None:
            return self._join(values)
        return values[0] if self._single else values  # type: ignore[return-value]

    def _error_of(self, indexes: Sequence[int]) -> Exception:
        """What to raise when the slots `indexes` failed."""
        assert self._errors is not None
        if self._single:
            return self._errors[indexes[0]]
        return CompositeError.from_call(self._name, [self._errors[index] for index in indexes])

    def _outstanding(self) -> Sequence[tuple[int, int]]:
        if self._metadata is None:
            return self._calls
        return [call for call, known in zip(self._calls, self._metadata, strict=True) if known is None]

    # --- ended here, whatever the engines say ---

    def _cut_short(self) -> TaskAborted | TaskTimeout | None:
        """Why it ended without the engines' answers: it was cancelled, or its time was up."""
        error = self._exception
        if isinstance(error, TaskAborted | TaskTimeout) and not isinstance(error, RemoteError):
            return error
        return None

    def _status_before_the_end(self) -> str | None:
        return None if self._cut_short() is None else "cancelled, still running"

    def _out_of_time(self, seconds: float) -> None:
        """Its time limit is up: who waits is told now, and the engines are to end it."""
        outstanding = self._outstanding()
        engines = ", ".join([str(engine) for _, engine in outstanding if engine >= 0])
        where = f" on engine{'s' if len(outstanding) > 1 else ''} {engines}" if engines else ""
        error = TaskTimeout(f"{self._name}{where} was ended at its time limit of {seconds:g} s")
        if self._settle(None, error):
            self._owner.cancel_calls(outstanding)
            for index in range(len(self._calls)):
                if self._metadata is None or self._metadata[index] is None:
                    self._echo(index, _MISSING, None)

    # --- kept, and made again ---

    def _keepsake(self) -> Keepsake:
        """What is needed to make it again; it has been answered in full."""
        cut_short = None if self._exception is None else self._cut_short()
        # Every call that ends comes by here: this takes half as long as calling Keepsake.
        return tuple.__new__(
            Keepsake,
            (
                type(self), self._calls, self._join, self._name, self._single, self._targets, self._label,
                self._item_ends, self._created, self._metadata, self._values, self._errors, self._printed,
                cut_short, self._size,
            ),
        )  # fmt: skip

    @staticmethod
    def _again(owner: CallOwner, kept: Keepsake) -> Slots[Any]:
        """A result like one that has ended."""
        options: dict[str, Any] = {
            "join": kept.join, "name": kept.name, "single": kept.single, "targets": kept.targets,
            "label": kept.label,
        }  # fmt: skip
        if kept.ends is not None:
            options["sizes"] = [end - start for start, end in pairwise([0, *kept.ends])]
        result = kept.kind(owner, kept.calls, **options)
        result._created, result._printed, result._unsent = kept.created, kept.printed, 0
        result._metadata, result._values, result._errors = kept.metadata, kept.values, kept.errors
        result._missing = 0
        result._looked = True  # or else somebody would have been told
        if kept.cut_short is not None:
            result._settle(None, kept.cut_short)
        else:
            result._finish()
        return result

    # --- parts of it, and more than it ---

    def _follow(self, sources: Sequence[tuple[Slots[Any], int]]) -> None:
        """Have each slot of this one, which is new, answered as a slot of another is."""
        self._sources = sources
        self._created = min([source._created for source, _ in sources], default=self._created)
        for there, (source, here) in enumerate(sources):
            source._send_echo(_Echo(here, self, there))

    def _send_echo(self, echo: _Echo) -> None:
        index = echo.here
        with self._changing:
            # First noted, then looked: what is answered in between is not missed.
            before = self._echoes
            self._echoes = [*(before or ()), echo]
            if not self._is_in(index):
                return
            self._echoes = before
        error = self._errors.get(index) if self._errors else None
        value = _MISSING if self._values is None else self._values[index]
        self._echo_one(echo, value, error)

    def _look(self) -> None:
        self._looked = True
        if self._errors is not None:
            self._errors.looked = True
        if self._sources is not None:
            for source, _ in self._sources:
                source._look()

    def _is_in(self, index: int) -> bool:
        """Whether all is known about a slot; of one that is being filled, not yet."""
        if isinstance(self._cut_short(), TaskTimeout):
            return True
        if self._metadata is None or self._metadata[index] is None:
            return False
        assert self._values is not None
        known = self._values[index] is not _MISSING or (self._errors is not None and index in self._errors)
        return known or self._cut_short() is not None

    def _echo(self, index: int, value: Any, error: Exception | None) -> None:
        with self._changing:
            echoes = self._echoes or []
            self._echoes = [echo for echo in echoes if echo.here != index] or None
        for echo in echoes:
            if echo.here == index:
                self._echo_one(echo, value, error)

    def _echo_one(self, echo: _Echo, value: Any, error: Exception | None) -> None:
        metadata = None if self._metadata is None else self._metadata[echo.here]
        if value is _MISSING and (error is None or isinstance(error, TaskAborted)):
            error = self._cut_short() or error or TaskAborted()
        echo.result._answer(echo.there, metadata, value, error)

    # --- what it prints ---

    def _listen(self, listener: Listener) -> tuple[Callable[[], None], list[tuple[int, str, str]]]:
        """Have `listener` called, on the client's loop, with each text that is printed from here on.

        Returns:
            What ends it, and the texts (slot, stream, text) that have been printed before.
        """
        if self._sources is None:
            with self._changing:
                self._listeners = (*self._listeners, listener)
                printed = (self._printed or {}).items()
                earlier = [(index, stream, "".join(texts)) for (index, stream), texts in printed]
            return partial(self._unlisten, listener), earlier
        ends, earlier = [], []
        for there, (source, here) in enumerate(self._sources):
            end, before = source._listen(partial(_hear, listener, here, there))
            ends.append(end)
            earlier += [(there, stream, text) for index, stream, text in before if index == here]

        def unlisten() -> None:
            for end in ends:
                end()

        return unlisten, earlier

    def _unlisten(self, listener: Listener) -> None:
        with self._changing:
            self._listeners = tuple([other for other in self._listeners if other is not listener])

    # --- what became of the slots ---

    def _has_begun_to_end(self) -> bool:
        return self.done() or self._missing < len(self._calls)

    def _has_failed(self) -> bool:
        return self.done() or bool(self._errors)

    def _is_sent(self) -> bool:
        if self._sources is not None:
            return all([source._is_sent() for source, _ in self._sources])
        return self._unsent <= 0 or self._missing == 0

    def _all_answered(self) -> bool:
        return self._missing == 0

    def _with_exceptions(self) -> Any:
        if not self._errors and self._cut_short() is None:
            return self._outcome()
        self._look()
        errors, values = self._errors or Errors(), self._values or [_MISSING] * len(self._calls)
        found: list[Any] = []
        for index, value in enumerate(values):
            if value is _MISSING:
                found += self._failed(index, errors.get(index, self._exception))
            else:
                found += self._items(index)
        return self._scalar_or_list(found)

    def _scalar_or_list(self, found: list[Any]) -> Any:
        return found[0] if self._single else found

    def _failed(self, index: int, error: object) -> Sequence[object]:
        """What stands in the place of a slot's items when it failed."""
        return (error,)

    @property
    def _joined_whole(self) -> bool:
        """Whether the slots mean something only together."""
        return self._join is not None

    def _item(self, index: int) -> Any:
        return self._slot(index)

    def _slot(self, index: int) -> Any:
        """The value of one slot, or its error raised; TimeoutError when it isn't in."""
        if self._errors and index in self._errors:
            self._look()
            raise self._error_of([index])
        if self._values is None or self._values[index] is _MISSING:
            if self.done():
                self._outcome()  # cancelled
            raise TimeoutError
        return self._values[index]

    def _has_value(self, index: int) -> bool:
        return self._values is not None and self._values[index] is not _MISSING

    def _said(self, index: int) -> Any:
        """The value of a slot that was answered, or its error; nothing is raised.

        Raises:
            KeyError: it has not been answered.
        """
        if self._errors and index in self._errors:
            self._look()
            return self._errors[index]
        if self._values is not None and self._values[index] is not _MISSING:
            return self._values[index]
        if self._missing == 0:
            return self._cut_short() or TaskAborted()
        raise KeyError(f"call {self._of_slot(index, 'msg_id')} has not ended")

    def _has_slot(self, index: int) -> bool:
        return self.done() or (self._metadata is not None and self._metadata[index] is not None)

    def _steps(self) -> Iterator[tuple[Callable[[], bool], Callable[[], Sequence[Any]]]]:
        """For an iteration: what to wait for, and then how to get the next items."""
        if self._joined_whole:
            yield self.done, partial(self._whole, 0)
            return
        for index in range(len(self._calls)):
            yield partial(self._has_slot, index), partial(self._items, index)

    def _whole(self, timeout: float | None) -> Any:
        return self.result(timeout)

    def _items(self, index: int) -> Sequence[Any]:
        return (self._slot(index),)
