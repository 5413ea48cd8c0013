"""Pure: what waits for one engine, and how much of it the engine may have at a time.

Calls wait here, not in the engine, so that they can be aborted, counted and reported while the engine is
deep in a function. The engine is given a window of them, bounded by count and bytes, refilled as calls
end (or, for coroutine functions, start). Clients take turns, so that one client's flood delays another's
call by one round, not by the flood.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from directview.wire.messages import CHUNK_BYTES, CallItem

__all__ = ["WINDOW_BYTES", "WINDOW_CALLS", "EngineQueue", "Entry"]

WINDOW_CALLS: Final = 256
"""Calls that an engine may have and not have started. Enough to keep it busy for the time of a round
trip (0.5 ms) at 100,000 calls/s and more."""
WINDOW_BYTES: Final = 16 << 20
_ROUND: Final = 16
"""Calls of one client in a row before the next client's turn."""


class Entry(NamedTuple):
    """One call that waits, as it came: fan-out shares it between the queues of all its targets."""

    client: bytes
    item: CallItem
    frames: Sequence[Any]


Key = tuple[bytes, int]
"""(client uuid, seq)"""


class EngineQueue:
    """The queue and the dispatch window of one engine."""

    __slots__ = ("_clients", "_window_bytes", "_window_calls", "running", "waiting", "window")

    def __init__(self, window_calls: int = WINDOW_CALLS, window_bytes: int = WINDOW_BYTES) -> None:
        self._clients: OrderedDict[bytes, OrderedDict[int, Entry]] = OrderedDict()
        self._window_calls = window_calls
        self._window_bytes = window_bytes
        self.waiting = 0
        """Calls that have not been dispatched."""
        self.window: dict[Key, int] = {}
        """Calls that the engine has and has not started as far as we know, in order: bytes of each."""
        self.running: dict[Key, None] = {}
        """Coroutine calls that the engine has reported as started."""

    def __len__(self) -> int:
        return self.waiting + len(self.window) + len(self.running)

    def put(self, entry: Entry) -> None:
        """Add a call at the end of its client's line. One that waits already is replaced in place."""
        line = self._clients.get(entry.client)
        if line is None:
            line = self._clients[entry.client] = OrderedDict()
        if entry.item.seq not in line:
            self.waiting += 1
        line[entry.item.seq] = entry

    def length(self, client: bytes) -> int:
        """How many calls of `client` wait."""
        line = self._clients.get(client)
        return len(line) if line is not None else 0

    def withdraw(self, client: bytes, seq: int) -> bool:
        """Take back a call that waits; False if it does not wait here."""
        line = self._clients.get(client)
        if line is None or line.pop(seq, None) is None:
            return False
        self.waiting -= 1
        if not line:
            del self._clients[client]
        return True

    def take(self) -> list[Entry]:
        """Calls to dispatch now: as many as the window has room for. They are in the window then."""
        taken: list[Entry] = []
        room = self._window_calls - len(self.window)
        if room <= 0 or not self.waiting:
            return taken
        occupied = sum(self.window.values())
        while self._clients and room > 0:
            client, line = next(iter(self._clients.items()))
            for _ in range(min(_ROUND, room, len(line))):
                entry = next(iter(line.values()))
                if self.window and occupied + entry.item.nbytes > self._window_bytes:
                    return taken
                line.popitem(last=False)
                self.waiting -= 1
                room -= 1
                occupied += entry.item.nbytes
                key = (client, entry.item.seq)
                if key not in self.running:
                    self.window[key] = entry.item.nbytes
                taken.append(entry)
            if line:
                self._clients.move_to_end(client)
            else:
                del self._clients[client]
        return taken

    def dispatched(self, key: Key) -> bool:
        """Whether the engine has been given this call and has not ended it."""
        return key in self.window or key in self.running

    def adopt(self, key: Key) -> None:
        """A resumed client says that the engine has this call."""
        if not self.dispatched(key):
            self.window[key] = 0

    def started(self, key: Key) -> None:
        """The engine runs this coroutine call beside others: it no longer fills the window."""
        if self.window.pop(key, None) is not None:
            self.running[key] = None

    def ended(self, key: Key) -> bool:
        """The call has ended; False if it was not here."""
        if self.window.pop(key, None) is not None:
            return True
        return self.running.pop(key, self) is None

    def forget(self, client: bytes) -> None:
        """`client` is gone: drop what waits for it and what was given to the engine for it."""
        line = self._clients.pop(client, None)
        if line is not None:
            self.waiting -= len(line)
        for calls in (self.window, self.running):
            for key in [key for key in calls if key[0] == client]:
                del calls[key]  # type: ignore[attr-defined]

    def drain(self) -> tuple[dict[bytes, list[int]], dict[bytes, list[int]]]:
        """The engine is dead: (dispatched, waiting) seqs by client, in order. The queue is empty then."""
        dispatched: dict[bytes, list[int]] = {}
        for client, seq in (*self.running, *self.window):
            dispatched.setdefault(client, []).append(seq)
        waiting = {client: list(line) for client, line in self._clients.items()}
        self._clients.clear()
        self.window.clear()
        self.running.clear()
        self.waiting = 0
        return dispatched, waiting

    def entries(self) -> Iterator[Entry]:
        """What waits, in no particular order across clients."""
        for line in self._clients.values():
            yield from line.values()


def batches(entries: Sequence[Entry]) -> Iterator[tuple[bytes, list[Entry]]]:
    """Group what was taken into messages: one client each, at most about `CHUNK_BYTES`."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (entry.client != batch[0].client or size + entry.item.nbytes > CHUNK_BYTES):
            yield batch[0].client, batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.item.nbytes
    if batch:
        yield batch[0].client, batch
