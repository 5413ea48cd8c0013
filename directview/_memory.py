"""What a client remembers of the calls that it made: which are outstanding, their names, the last results.

It is bounded. Names are small: the last ten thousand calls are remembered. Results are as large as users make
them: as many of the last thousand are kept as fit into 64 MiB together, so that the result of a call whose
`AsyncResult` was dropped, or never seen (a blocking call), can still be asked for, and memory does not grow
with the number of calls. So that a call can be made again, what the last ones were made of is kept too, 16
MiB of it; what is so large that it travels in pieces lies in the user's own arrays, and is not kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from directview.wire.messages import CHUNK_BYTES
from directview.wire.parcels import Buffer, Parcel

if TYPE_CHECKING:
    from directview._core import Request
    from directview._slots import Keepsake, Slots

__all__ = ["CALLS", "KEPT_BYTES", "KEPT_RESULTS", "REQUESTS_BYTES", "REQUEST_BYTES", "Calls", "Memory"]

CALLS: Final = 10_000
KEPT_RESULTS: Final = 1000
KEPT_BYTES: Final = 64 << 20
REQUESTS_BYTES: Final = 16 << 20
"""Of functions and arguments."""
REQUEST_BYTES: Final = CHUNK_BYTES
"""Those of one call, at most: beyond that they travel in pieces."""
_OVERHEAD: Final = 512
"""Bytes that a call takes beside its function and arguments, about."""

Calls: TypeAlias = tuple[tuple[int, int], ...]
"""The (seq, engine id) of each slot of a result."""
_Plain: TypeAlias = tuple[tuple[int, ...], bytes, tuple[Buffer, ...], int]
"""A request without chunks: targets, body, frames and bytes. The garbage collector lets go of tuples of plain
values. At parcels, which are tuples of a kind of their own, it would look again and again."""


class Memory:
    """The memory of one client. All of it may be called from any thread.

    Args:
        calls: how many calls to remember by name.
        results: how many results to keep.
        nbytes: bytes of the results that are kept.
        request_bytes: bytes of what the calls were made of.
    """

    def __init__(
        self,
        *,
        calls: int = CALLS,
        results: int = KEPT_RESULTS,
        nbytes: int = KEPT_BYTES,
        request_bytes: int = REQUESTS_BYTES,
    ) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Calls] = deque(maxlen=calls)
        self._open: dict[int, Slots[Any]] = {}
        self._kept: dict[int, Keepsake] = {}
        self._order: deque[Keepsake] = deque()
        self._most_results = results
        self._most_bytes = nbytes
        self._bytes = 0
        self._requests: deque[tuple[int, tuple[_Plain, ...], int]] = deque()
        """The first seq of each call, what it was made of, and its size."""
        self._request_bytes = 0
        self._most_request_bytes = request_bytes
        self._last = 0

    # --- what happens -----------------------------------------------------------------------------------

    def made(self, calls: Calls, result: Slots[Any], requests: Sequence[Request] = ()) -> None:
        """A call was made. One without slots has ended already. Not by two threads at once."""
        if calls and result._remembered:  # no lock: whoever reads these does so in one step
            self._calls.append(calls)
            self._open[calls[0][0]] = result
            self._last = calls[-1][0]
            size = _OVERHEAD
            plain: list[_Plain] = []
            for targets, (body, frames, chunks, nbytes, keeps) in requests:
                if chunks or keeps:
                    return
                size += nbytes
                plain.append((targets, body, tuple(frames), nbytes))
            if plain:
                self._requests.append((calls[0][0], tuple(plain), size))
                self._request_bytes = total = self._request_bytes + size
                if total > self._most_request_bytes:
                    self._forget_requests()

    def _forget_requests(self) -> None:
        while self._request_bytes > self._most_request_bytes:
            self._request_bytes -= self._requests.popleft()[2]

    def ended(self, result: Slots[Any]) -> None:
        """The last slot of a call was answered."""
        if not result._remembered:
            return
        with self._lock:
            self._open.pop(result._calls[0][0], None)
            if result._size > self._most_bytes:
                return
            keepsake = result._keepsake()
            self._order.append(keepsake)
            self._bytes += keepsake.size
            for seq, _ in keepsake.calls:
                self._kept[seq] = keepsake
            while len(self._order) > self._most_results or self._bytes > self._most_bytes:
                self._drop(self._order.popleft())

    def forget(self, keepsake: Keepsake) -> None:
        """Drop a result."""
        with self._lock:
            if any([kept is keepsake for kept in self._order]):
                self._order = deque([kept for kept in self._order if kept is not keepsake])
                self._drop(keepsake)

    def forget_all(self) -> None:
        """Drop all results, and the names of the calls that have ended."""
        with self._lock:
            self._kept, self._order, self._bytes = {}, deque(), 0
            self._requests = deque([kept for kept in self._requests.copy() if kept[0] in self._open])
            self._request_bytes = sum([nbytes for _, _, nbytes in self._requests])
            still = {id(result._calls) for result in self._open.copy().values()}
            for calls in self._calls.copy():
                if id(calls) not in still:
                    self._calls.remove(calls)

    def _drop(self, keepsake: Keepsake) -> None:
        self._bytes -= keepsake.size
        for seq, _ in keepsake.calls:
            self._kept.pop(seq, None)

    # --- what is known ----------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The highest seq of all calls that were made."""
        return self._last

    def outstanding(self) -> list[Slots[Any]]:
        """The results that are waited for, oldest first."""
        return [result for result in self._open.copy().values() if result._missing]

    def kept(self) -> list[Keepsake]:
        """The results that are kept, oldest first."""
        with self._lock:
            return list(self._order)

    def find(self, seq: int) -> Slots[Any] | Keepsake | None:
        """The result to which a call belongs, if it is outstanding or kept."""
        found = self._open.get(seq) or self._kept.get(seq)
        if found is not None:
            return found
        for result in self._open.copy().values():  # of a result with several calls, perhaps
            if any([number == seq for number, _ in result._calls]):
                return result
        return self._kept.get(seq)  # it may have ended meanwhile

    def request(self, seq: int) -> Request | None:
        """What a call was made of, if it is kept."""
        for first, requests, _ in reversed(self._requests.copy()):
            if first <= seq:
                if seq - first >= len(requests):
                    return None
                targets, body, frames, nbytes = requests[seq - first]
                return targets, Parcel(body, frames, (), nbytes)
        return None

    def calls(self) -> list[Calls]:
        """The calls that are remembered by name, oldest first."""
        return list(self._calls.copy())
