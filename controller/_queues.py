"""Pure: what waits for one engine, and how much of it the engine may have at a time.

Calls wait here, not in the engine, so that they can be aborted, counted and reported while the engine is
deep in a function. The engine is given a window of them, bounded by count and bytes, refilled as calls
end (or, for coroutine functions, start). Clients take turns, so that one client's flood delays another's
call by one round, not by the flood.

A client that leaves too much of its results with the engine is paused there: its calls wait here, and what
the engine has of them, which it doesn't begin either, takes no place in the window from anybody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from directview.wire.messages import CHUNK_BYTES, MAX_FRAMES, CallItem

__all__ = ["WINDOW_BYTES", "WINDOW_CALLS", "EngineQueue", "Entry", "batches"]

WINDOW_CALLS: Final = 256
"""Calls that an engine may have and not have started. Enough to keep it busy for the time of a round
trip (0.5 ms) at 100,000 calls/s and more."""
WINDOW_BYTES: Final = 16 << 20
_ROUND: Final = 16
"""Calls of one client in a row before the next client's turn."""
_STARTED: Final = -1
"""In place of its bytes: the call runs beside others and fills the window no longer."""


class Entry(NamedTuple):
    """One call that waits, as it came: fan-out shares it between the queues of all its targets."""

    client: bytes
    item: CallItem
    frames: Sequence[Any]
    cost: int
    """Bytes that it takes in a message, the header included."""


class _Line:
    """What waits of one client, in order."""

    __slots__ = ("entries", "nbytes")

    def __init__(self) -> None:
        self.entries: OrderedDict[int, Entry] = OrderedDict()
        self.nbytes = 0


class EngineQueue:
    """The queue and the dispatch window of one engine."""

    __slots__ = (
        "_given", "_lines", "_most_bytes", "_most_calls", "_paused", "_turns", "paused", "running", "waiting",
        "window", "window_bytes",
    )  # fmt: skip

    def __init__(self, window_calls: int = WINDOW_CALLS, window_bytes: int = WINDOW_BYTES) -> None:
        self._most_calls = window_calls
        self._most_bytes = window_bytes
        self._lines: dict[bytes, _Line] = {}
        self._turns: OrderedDict[bytes, None] = OrderedDict()
        """Clients with a line that are not paused, in the order of their turns."""
        self._paused: set[bytes] = set()
        self._given: dict[bytes, dict[int, int]] = {}
        """Calls that the engine has, by client and seq: bytes in the window, or `_STARTED`."""
        self.waiting = 0
        """Calls that have not been dispatched."""
        self.window = 0
        """Calls that the engine has and has not started as far as we know."""
        self.window_bytes = 0
        self.running = 0
        """Coroutine calls that the engine has reported as started."""
        self.paused = 0
        """Calls that the engine has and does not begin, because their clients are paused."""

    def __len__(self) -> int:
        return self.waiting + self.window + self.running + self.paused

    # --- what waits ---------------------------------------------------------------------------------

    def put(self, entry: Entry) -> tuple[int, int]:
        """Add a call at the end of its client's line; how many calls and bytes wait in that line now.

        A call that waits already is replaced in place.
        """
        line = self._lines.get(entry.client)
        if line is None:
            line = self._lines[entry.client] = _Line()
            if entry.client not in self._paused:
                self._turns[entry.client] = None
        seq = entry.item.seq
        known = line.entries.get(seq)
        if known is None:
            self.waiting += 1
        else:
            line.nbytes -= known.item.nbytes
        line.entries[seq] = entry
        line.nbytes += entry.item.nbytes
        return len(line.entries), line.nbytes

    def withdraw(self, client: bytes, seq: int) -> bool:
        """Take back a call that waits; False if it does not wait here."""
        line = self._lines.get(client)
        entry = line.entries.pop(seq, None) if line is not None else None
        if line is None or entry is None:
            return False
        self.waiting -= 1
        line.nbytes -= entry.item.nbytes
        if not line.entries:
            self._drop_line(client)
        return True

    def _drop_line(self, client: bytes) -> _Line | None:
        self._turns.pop(client, None)
        return self._lines.pop(client, None)

    def clear_waiting(self) -> None:
        """Take back whatever waits."""
        self._lines.clear()
        self._turns.clear()
        self.waiting = 0

    def withdraw_all(self, client: bytes) -> None:
        """Take back whatever waits of this client."""
        line = self._drop_line(client)
        if line is not None:
            self.waiting -= len(line.entries)

    def entries(self) -> Iterator[Entry]:
        """What waits, in no particular order across clients."""
        for line in self._lines.values():
            yield from line.entries.values()

    # --- what the engine has ------------------------------------------------------------------------

    def take(self) -> list[Entry]:
        """Calls to dispatch now: as many as the window has room for. They are in the window then."""
        taken: list[Entry] = []
        turns = self._turns
        while turns and self.window < self._most_calls:
            client = next(iter(turns))
            line = self._lines[client]
            given = self._given.setdefault(client, {})
            for _ in range(min(_ROUND, self._most_calls - self.window, len(line.entries))):
                seq, entry = line.entries.popitem(last=False)
                nbytes = entry.item.nbytes
                if self.window and self.window_bytes + nbytes > self._most_bytes:
                    line.entries[seq] = entry
                    line.entries.move_to_end(seq, last=False)
                    if not given:
                        del self._given[client]
                    return taken
                self.waiting -= 1
                line.nbytes -= nbytes
                if seq not in given:
                    given[seq] = nbytes
                    self.window += 1
                    self.window_bytes += nbytes
                taken.append(entry)
            if line.entries:
                turns.move_to_end(client)
            else:
                self._drop_line(client)
        return taken

    def given(self) -> Iterator[tuple[bytes, int]]:
        """(client, seq) of the calls that the engine has."""
        for client, seqs in self._given.items():
            for seq in seqs:
                yield client, seq

    def dispatched(self, client: bytes, seq: int) -> bool:
        """Whether the engine has been given this call and has not ended it."""
        given = self._given.get(client)
        return given is not None and seq in given

    def has(self, client: bytes) -> bool:
        """Whether anything of this client waits here, or is with the engine."""
        return client in self._given or client in self._lines

    def adopt(self, client: bytes, seq: int) -> None:
        """The engine says that it has this call."""
        given = self._given.setdefault(client, {})
        if seq not in given:
            given[seq] = 0
            self._count(client, 1, 0)

    def _count(self, client: bytes, calls: int, nbytes: int) -> None:
        """So many more calls of this client, which the engine has not started."""
        if client in self._paused:
            self.paused += calls
        else:
            self.window += calls
            self.window_bytes += nbytes

    def pause(self, client: bytes) -> None:
        """The engine begins no call of this client until `go_on`: give it none."""
        if client not in self._paused:
            self._move(client, -1)
            self._paused.add(client)
            self._turns.pop(client, None)

    def is_paused(self, client: bytes) -> bool:
        """Whether the engine is given none of its calls."""
        return client in self._paused

    def go_on(self, client: bytes) -> None:
        """The engine begins calls of this client again.

        Those that it has count again: the window may be more than full then, and is given nothing until
        they have ended.
        """
        if client in self._paused:
            self._paused.discard(client)
            self._move(client, 1)
            if client in self._lines:
                self._turns[client] = None

    def _move(self, client: bytes, sign: int) -> None:
        """Calls that the engine has of this client, into the window or out of it."""
        sizes = [nbytes for nbytes in self._given.get(client, {}).values() if nbytes != _STARTED]
        self.window += sign * len(sizes)
        self.window_bytes += sign * sum(sizes)
        self.paused -= sign * len(sizes)

    def started(self, client: bytes, seqs: Iterable[int]) -> None:
        """The engine runs these coroutine calls beside others: they fill the window no longer."""
        given = self._given.get(client)
        if given is None:
            return
        for seq in seqs:
            nbytes = given.get(seq, _STARTED)
            if nbytes != _STARTED:
                given[seq] = _STARTED
                self._count(client, -1, -nbytes)
                self.running += 1

    def ended(self, client: bytes, seqs: Iterable[int]) -> None:
        """These calls have ended."""
        given = self._given.get(client)
        if given is None:
            return
        calls = size = 0
        for seq in seqs:
            nbytes = given.pop(seq, None)
            if nbytes is None:
                continue
            if nbytes == _STARTED:
                self.running -= 1
            else:
                calls += 1
                size += nbytes
        self._count(client, -calls, -size)
        if not given:
            del self._given[client]

    # --- leaving ------------------------------------------------------------------------------------

    def forget(self, client: bytes, kept: Collection[int] = ()) -> None:
        """`client` is gone: drop what waits, and what was given to the engine, for it, but for `kept`."""
        line = self._lines.get(client)
        if line is not None:
            for seq in [seq for seq in line.entries if seq not in kept]:
                self.withdraw(client, seq)
        self.ended(client, [seq for seq in self._given.get(client, ()) if seq not in kept])
        self.go_on(client)

    def line_of(self, client: bytes) -> list[Entry]:
        """What waits of this client, in order."""
        line = self._lines.get(client)
        return [] if line is None else list(line.entries.values())

    def drain(self) -> tuple[dict[bytes, list[int]], dict[bytes, list[int]]]:
        """The engine is gone, or begins anew: (dispatched, waiting) seqs by client. It is empty then.

        Dispatched calls are in order, those that run come first.
        """
        dispatched = {
            client: sorted(given, key=lambda seq: (given[seq] != _STARTED, seq))
            for client, given in self._given.items()
        }
        waiting = {client: list(line.entries) for client, line in self._lines.items()}
        self._lines.clear()
        self._turns.clear()
        self._given.clear()
        self._paused.clear()
        self.waiting = self.window = self.window_bytes = self.running = self.paused = 0
        return dispatched, waiting


def batches(entries: Sequence[Entry]) -> Iterator[tuple[bytes, list[Entry]]]:
    """Group what was taken into messages: one client each, at most about `CHUNK_BYTES`."""
    batch: list[Entry] = []
    size = frames = 0
    for entry in entries:
        if batch and (
            entry.client != batch[0].client
            or size + entry.cost > CHUNK_BYTES
            or frames + entry.item.nframes > MAX_FRAMES
        ):
            yield batch[0].client, batch
            batch, size, frames = [], 0, 0
        batch.append(entry)
        size += entry.cost
        frames += entry.item.nframes
    if batch:
        yield batch[0].client, batch
