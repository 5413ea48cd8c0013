"""Pure: what the controller remembers of the last calls: who made them, when, and how they ended.

Tens of thousands of calls a second may go by, and few are ever asked for. So what goes by is only noted, one
tuple for each call and each result, and what is too old is dropped; the notes are put in order when somebody
asks (`settle`), which for every call would cost several times as much. Everything here is in the headers that
the controller reads anyway. A controller that has been given a store also has all that is new written there,
in batches.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from directview.controller._effects import Record
from directview.controller._query import FIELDS
from directview.wire.messages import ABORTED, BALANCED, FAILED, OK, CallItem, ResultItem

__all__ = ["MOST_CALLS", "History", "Row", "pages"]

MOST_CALLS: Final = 10_000
"""Calls that are remembered: one on four engines counts four times."""
_MOST_GONE: Final = 1000
"""Clients that are gone and whose calls wait to be closed."""
WRITING: Final = 0.5
"""Seconds from a note to its being written to the store, at most."""
_PAGE_BYTES: Final = 1 << 20
"""Of records that one answer holds: it travels in one header."""

_ASKED: Final = operator.itemgetter(0, 1, 2, 4)
"""seq, targets, name, nbytes of a `CallItem`."""
_ENDED: Final = operator.itemgetter(0, 1, 2, 3, 4)
"""seq, status, started, completed, nbytes of a `ResultItem`."""
_STATUS: Final = {OK: "ok", FAILED: "error", ABORTED: "aborted"}

Row = tuple[Any, ...]
"""The number of a record, then its `FIELDS`. Numbers grow in the order in which calls were submitted."""
_Outcome = tuple[int | None, str | None, float | None, float | None, float | None, str, int]
"""engine_id, engine_uuid, started, completed, received, status, result_nbytes."""


class _Call:
    """One call, on all its engines."""

    __slots__ = ("client", "name", "nbytes", "number", "outcomes", "purged", "seq", "submitted", "targets")

    def __init__(
        self,
        number: int,
        client: bytes,
        seq: int,
        targets: tuple[int, ...],
        name: str,
        nbytes: int,
        submitted: float,
    ) -> None:
        self.number = number
        self.client = client
        self.seq = seq
        self.targets = targets
        self.name = name
        self.nbytes = nbytes
        self.submitted = submitted
        self.outcomes: dict[int, _Outcome] = {}
        """By target."""
        self.purged: frozenset[int] = frozenset()
        """Targets of which nothing is to be said any more."""

    def msg_id(self, target: int) -> str:
        return f"{self.client.hex()}_{self.seq}_{target}"

    def rows(self) -> Iterator[Row]:
        """A record for each target."""
        for place, target in enumerate(self.targets):
            if target in self.purged:
                continue
            pending = (None if target == BALANCED else target, None, None, None, None, None, None)
            id, uuid, started, completed, received, status, nbytes = self.outcomes.get(target, pending)
            yield (
                self.number + place, self.msg_id(target), self.client.hex(), id, uuid, self.name,
                self.submitted, started, completed, received, status, self.nbytes, nbytes,
            )  # fmt: skip


class History:
    """The calls of all clients.

    Args:
        epoch: seconds since the epoch at the controller's time 0.
        most: calls to remember.
        stored: whether there is a store: what is new is then gathered for it.
        last: the highest number of a record in the store.
    """

    def __init__(self, epoch: float, most: int = MOST_CALLS, *, stored: bool = False, last: int = 0) -> None:
        self._epoch = epoch
        self._most = most
        self._stored = stored
        self._number = last + 1
        self._notes: deque[tuple[int, tuple[Any, ...]]] = deque()
        """What has gone by and is not in order yet: how many calls were made, and all about it."""
        self._asked = 0
        """Calls that were made, in the notes."""
        self._noted = 0
        """Calls and outcomes in the notes."""
        self._gone: dict[bytes, frozenset[int]] = {}
        """Clients that are gone, and whose calls have not been closed yet; with those that go on."""
        self._calls: dict[tuple[Any, ...], _Call] = {}
        """By (client, seq). A call that was sent to one engine after the other, because they could not take
        it at the same time, is also there by (client, seq, engine) for each later one."""
        self._size = 0
        self._made: list[_Call] = []
        self._ended: list[tuple[Any, ...]] = []
        self._dropped: list[tuple[str, list[str]]] = []
        self.due: float | None = None
        """When what is new is to be written to the store."""

    # --- as it happens: cheap ---------------------------------------------------------------------------

    def submitted(self, client: bytes, calls: Sequence[CallItem], now: float) -> None:
        """A client has made calls."""
        count = len(calls)
        self._asked += count
        self._note((now, client, list(map(_ASKED, calls))), count, now)
        # When `most` have been made since, nothing older matters any more, whatever became of it.
        while self._notes and self._asked - self._notes[0][0] >= self._most:
            if self._stored:
                self.settle()
                break
            asked, note = self._notes.popleft()
            self._asked -= asked
            self._noted -= len(note[-1])
            if self._calls:
                self._calls.clear()
                self._size = 0

    def ended(self, client: bytes, engine: int, uuid: bytes, items: Sequence[ResultItem], now: float) -> None:
        """An engine has reported the end of calls, or they have been taken back from its queue."""
        self._note((now, client, engine, uuid, list(map(_ENDED, items))), 0, now)

    def lost(self, client: bytes, engine: int, uuid: bytes, seqs: Iterable[int], now: float) -> None:
        """Calls can't be answered any more."""
        self._note((now, client, engine, uuid, [(seq, None, 0.0, 0.0, 0) for seq in seqs]), 0, now)

    def client_gone(self, client: bytes, now: float, kept: frozenset[int] = frozenset()) -> None:
        """Nobody waits any more for what this client's calls return, but for `kept`, which go on."""
        self._gone[client] = kept
        if len(self._gone) >= _MOST_GONE:
            self.settle()
        elif self._stored and self.due is None:
            self.due = now + WRITING

    def _note(self, note: tuple[Any, ...], asked: int, now: float) -> None:
        self._notes.append((asked, note))
        self._noted += len(note[-1])
        if self._noted > 4 * self._most:
            self.settle()
        if self._stored and self.due is None:
            self.due = now + WRITING

    # --- put in order -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Put in order what has been noted."""
        notes, self._notes = self._notes, deque()
        self._asked = self._noted = 0
        for _, note in notes:
            if len(note) == 3:
                self._take_calls(*note)
            else:
                self._take_outcomes(*note)
        if self._gone:
            self._drop()
        if self._size > self._most:
            self._forget()

    def _take_calls(self, now: float, client: bytes, calls: list[tuple[Any, ...]]) -> None:
        known, number, when = self._calls, self._number, now + self._epoch
        for seq, targets, name, nbytes in calls:
            key = (client, seq)
            before = known.get(key)
            parts: list[tuple[tuple[Any, ...], tuple[int, ...]]]
            if before is None:
                parts = [(key, targets)]
            else:  # it was sent again, or to further engines
                further = [target for target in targets if target not in before.targets]
                parts = [((*key, target), (target,)) for target in further if (*key, target) not in known]
            for name_of_part, some in parts:
                call = known[name_of_part] = _Call(number, client, seq, some, name, nbytes, when)
                number += len(some)
                if self._stored:
                    self._made.append(call)
        self._size += number - self._number
        self._number = number

    def _take_outcomes(
        self, now: float, client: bytes, engine: int, uuid: bytes, outcomes: list[tuple[Any, ...]]
    ) -> None:
        known, when, name = self._calls, now + self._epoch, uuid.hex() or None
        for seq, code, started, completed, nbytes in outcomes:
            status = "lost" if code is None else _STATUS.get(code)
            if status is None:  # the answer to a question, and no end
                continue
            outcome = (engine, name, started or None, completed or None, when, status, nbytes)
            call = known.get((client, seq, engine)) or known.get((client, seq))
            if call is not None:
                targets = call.targets
                call.outcomes.setdefault(targets[0] if len(targets) == 1 else engine, outcome)
            if self._stored:
                self._ended.append((client, seq, outcome))

    def _drop(self) -> None:
        gone, self._gone = self._gone, {}
        for call in self._calls.values():
            if call.client in gone and call.seq not in gone[call.client]:
                for target in call.targets:
                    id = None if target == BALANCED else target
                    call.outcomes.setdefault(target, (id, None, None, None, None, "dropped", 0))
        if self._stored:
            self._dropped += [
                (client.hex(), [name for seq in kept for name in self._names(client, seq)])
                for client, kept in gone.items()
            ]

    def _names(self, client: bytes, seq: int) -> list[str]:
        call = self._calls.get((client, seq))
        return [] if call is None else [call.msg_id(target) for target in call.targets]

    def _forget(self) -> None:
        """Drop the oldest, ended or not."""
        old: list[tuple[bytes, int]] = []
        for key, call in self._calls.items():
            if self._size <= self._most:
                break
            self._size -= len(call.targets)
            old.append(key)
        for key in old:
            del self._calls[key]

    # --- for the store ------------------------------------------------------------------------------------

    def unwritten(self) -> Record | None:
        """What is new since the last time, for the store."""
        self.due = None
        self.settle()
        if not (self._made or self._ended or self._dropped):
            return None
        made = [row for call in self._made for row in call.rows()]
        ended = [
            (*outcome, f"{client.hex()}_{seq}_{outcome[0]}", f"{client.hex()}_{seq}_{BALANCED}")
            for client, seq, outcome in self._ended
        ]
        record = Record(made, ended, self._dropped)
        self._made, self._ended, self._dropped = [], [], []
        return record

    # --- asked for ----------------------------------------------------------------------------------------

    def rows(self, after: int = 0) -> Iterator[Row]:
        """The records whose numbers are greater than `after`, in order."""
        self.settle()
        for call in self._calls.values():
            if call.number + len(call.targets) > after:
                for row in call.rows():
                    if row[0] > after:
                        yield row

    def completed_on(self, engine: int, most: int) -> list[str]:
        """The msg_ids of calls that have ended on this engine, oldest first."""
        found = (row[1] for row in self.rows() if row[3] == engine and row[10] is not None)
        return list(islice(found, most))

    def names(self, calls: Iterable[tuple[bytes, int]]) -> list[str]:
        """The names of calls, (client, seq) each, as far as they are remembered."""
        self.settle()
        return [self._calls[call].name for call in calls if call in self._calls]

    def pending_among(self, msg_ids: Iterable[str]) -> str | None:
        """One of these calls that has not ended."""
        wanted = frozenset(msg_ids)
        return next((row[1] for row in self.rows() if row[1] in wanted and row[10] is None), None)

    def purge(self, doomed: Callable[[Row], bool]) -> None:
        """Forget calls that have ended, those for which `doomed` says so."""
        self.settle()
        for key, call in list(self._calls.items()):
            left = [target for target in call.targets if target not in call.purged]
            rows = zip(left, call.rows(), strict=True)
            purged = [target for target, row in rows if row[10] is not None and doomed(row)]
            if not purged:
                continue
            call.purged |= frozenset(purged)
            if len(call.purged) == len(call.targets):
                del self._calls[key]
                self._size -= len(call.targets)


def pages(rows: Iterator[Row], fields: Sequence[str]) -> dict[str, Any]:
    """As many records as one answer may hold: ``fields``, ``rows``, and the ``next`` number to ask after.

    Args:
        rows: records; those of an iterator that are left over are not taken.
        fields: which of the `FIELDS` are wanted.
    """
    places = [FIELDS.index(field) + 1 for field in fields]
    found: list[list[Any]] = []
    size = 0
    for row in rows:
        found.append([row[place] for place in places])
        size += sum([_bytes_of(value) for value in found[-1]])
        if size > _PAGE_BYTES:
            return {"fields": list(fields), "rows": found, "next": row[0]}
    return {"fields": list(fields), "rows": found, "next": None}


def _bytes_of(value: Any) -> int:
    """What a field takes in a header, at most."""
    if not isinstance(value, str):
        return 9
    return 3 + (len(value) if value.isascii() else 4 * len(value))
