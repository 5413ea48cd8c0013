"""Pure: the large arguments that a client is sending, and how long it waits to send them to all at once.

A call to several engines is to cross the network to the controller once. So its chunks go out when all
engines at one place of the transfer have granted them, which idle engines do within a millisecond of one
another. A busy one may take hours: whoever has room then goes ahead, after a short while without progress.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from directview._client_batches import Outbound
from directview._client_calls import Call
from directview.wire.messages import ARGUMENT

__all__ = ["PATIENCE", "Sending"]

PATIENCE: Final = 0.02
"""Seconds for which engines that have room wait for those that have none. With a window of 16 MiB that still
makes 800 MB/s beside an engine that is stuck; without it, 100 MB for four engines went out as 400 MB."""


class Sending:
    """The transfers of one client's arguments.

    Args:
        uuid: the client's.
    """

    __slots__ = ("_held_back", "_moved", "_uuid", "deadline")

    def __init__(self, uuid: bytes) -> None:
        self._uuid = uuid
        self._moved: dict[int, Call] = {}
        """Calls whose chunks may perhaps be sent, by seq."""
        self._held_back: dict[int, Call] = {}
        """Calls of which somebody waits for the others."""
        self.deadline: float | None = None
        """When the waiting ends."""

    def moved(self, call: Call) -> None:
        """An engine has granted something, or is no longer among the receivers."""
        self._moved[call.seq] = call

    def forget(self, seq: int) -> None:
        """The call needs nothing more."""
        self._moved.pop(seq, None)
        self._held_back.pop(seq, None)

    def link_lost(self) -> None:
        """Nothing can be sent; each call says anew what it needs."""
        self._moved.clear()
        self._held_back.clear()
        self.deadline = None

    def __bool__(self) -> bool:
        """Something may be sent."""
        return bool(self._moved)

    def chunks(self, now: float) -> Iterator[Outbound]:
        """What is to be sent now."""
        # Those that wait first: there may be shared memory for them again.
        moved, self._moved = {**self._held_back, **self._moved}, {}
        line = deque(moved.values())
        while line:  # A piece of each in turn, so that no engine waits while another one gets all.
            call = line.popleft()
            if call.outgoing is None:
                continue
            piece = next(call.outgoing.ready(patient=True), None)
            if piece is not None:
                yield piece.message(self._uuid, call.seq, piece.receivers, ARGUMENT), piece.frames
                line.append(call)
            elif call.outgoing.held_back:
                self._held_back[call.seq] = call
            else:
                self._held_back.pop(call.seq, None)
        if not self._held_back:
            self.deadline = None
        elif self.deadline is None:
            self.deadline = now + PATIENCE

    def overdue(self, now: float) -> Iterator[Outbound]:
        """What is to be sent now because it has waited for long enough."""
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = None
        held_back, self._held_back = self._held_back, {}
        for call in held_back.values():
            if call.outgoing is not None:
                for piece in call.outgoing.ready(patient=False):
                    yield piece.message(self._uuid, call.seq, piece.receivers, ARGUMENT), piece.frames
