"""Time that is a number, and connections that are queues: what `directview.testing.simulation` is built on.

Everything that happens is an entry in one `Clock`. A `Connection` carries messages both ways in order, each
with a delay of its own; it encodes and decodes every one of them and holds them to the limits of the wire,
so that a machine which says too much at once fails here and not on a real socket.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from directview.wire.messages import (
    CHUNK_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    Message,
    decode,
    encode,
    frames_of,
)

__all__ = ["Clock", "Connection", "Deliver", "LimitExceeded"]

LATENCY: Final = 0.002
"""Most seconds that a message is on its way, unless the connection is slow."""


class LimitExceeded(AssertionError):
    """A machine made a message that the wire refuses."""


class Clock:
    """What is to happen, and when.

    Args:
        random: where all chance comes from: the same seed, the same run.
    """

    def __init__(self, random: Random) -> None:
        self.now = 0.0
        self.random = random
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have `action` called in that many seconds."""
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, action))

    def soon(self, most: float, action: Callable[[], None]) -> None:
        """Have `action` called after up to `most` seconds."""
        self.after(self.random.uniform(0.0, most), action)

    def step(self, until: float = float("inf")) -> bool:
        """Let the next thing happen, if it is due by then; False if there is none."""
        if not self._due or self._due[0][0] > until:
            return False
        self.now, _, action = heapq.heappop(self._due)
        action()
        return True


Deliver = Callable[[bytes, list[bytes]], None]
"""Takes header and frames of one message."""


class _Way:
    """One direction of a connection."""

    def __init__(self, clock: Clock, deliver: Deliver, ended: Callable[[], None]) -> None:
        self.clock = clock
        self.deliver = deliver
        self.ended = ended
        self.open = True
        self.latency = LATENCY
        self.last = 0.0
        self.waiting: deque[tuple[bytes, list[bytes]]] = deque()

    def send(self, header: bytes, frames: Sequence[Any]) -> None:
        if self.open:
            self.waiting.append((header, [bytes(frame) for frame in frames]))
            self._later(self._arrive)

    def _later(self, action: Callable[[], None]) -> None:
        arrival = max(self.last, self.clock.now + self.clock.random.uniform(0.0, self.latency))
        self.last = arrival
        self.clock.after(arrival - self.clock.now, action)

    def _arrive(self) -> None:
        if self.waiting:
            self.deliver(*self.waiting.popleft())

    def cut(self, notice: float) -> None:
        """Of what is on its way a part still arrives; then, some time later, the receiver notices."""
        if self.open:
            self.open = False
            for _ in range(self.clock.random.randint(0, len(self.waiting))):
                self.waiting.pop()
            self.last = max(self.last, self.clock.now + self.clock.random.uniform(0.0, notice))
            self._later(self.ended)


class Connection:
    """One connection between a peer and the controller.

    Args:
        clock: for delays and chance.
        route: the controller's name for it.
        peer: takes what the controller sends.
        controller: takes what the peer sends.
        peer_ended: called once when the peer notices that the connection is gone.
        controller_ended: likewise on the other side.
    """

    def __init__(
        self,
        clock: Clock,
        route: bytes,
        *,
        peer: Deliver,
        controller: Deliver,
        peer_ended: Callable[[], None],
        controller_ended: Callable[[], None],
    ) -> None:
        self.route = route
        self._up = _Way(clock, controller, controller_ended)
        self._down = _Way(clock, peer, peer_ended)

    def send_up(self, message: Message, frames: Sequence[Any] = ()) -> None:
        """From the peer to the controller."""
        self._up.send(_checked(encode(message), frames), frames)

    def send_down(self, header: bytes, frames: Sequence[Any] = ()) -> None:
        """From the controller to the peer."""
        self._down.send(_checked(header, frames), frames)

    def slow(self, seconds: float) -> None:
        """From now on messages take up to that long, both ways."""
        self._up.latency = self._down.latency = seconds

    def cut(self, notice: float = 0.05) -> None:
        """End it, both ways, each side noticing in its own time, up to `notice` seconds from now."""
        self._up.cut(notice)
        self._down.cut(notice)


def _checked(header: bytes, frames: Sequence[Any]) -> bytes:
    """Hold a message to the limits, and to decoding at all: no machine may send what none takes."""
    sizes = [len(frame) for frame in frames]
    if len(header) > MAX_HEADER_BYTES or len(frames) > MAX_FRAMES or max(sizes, default=0) > CHUNK_BYTES:
        raise LimitExceeded(f"header of {len(header)} bytes, {len(frames)} frames of {max(sizes, default=0)}")
    message = decode(header)
    if frames_of(message) != len(frames):
        raise LimitExceeded(f"{type(message).__name__} with {len(frames)} frames")
    return header
