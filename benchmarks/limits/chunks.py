"""The chunked relay: large buffers through one ROUTER, in chunks, a window of them on its way.

Everything blocks, nothing is known about calls; the relay passes frames on without looking at them. It is
what can be had from plain sockets with one hop in between and bounded memory.

A message after its route is ``[head, chunk?]``; the head says what, which engine, and a number:

====== ============================== =====================================
kind   way                            meaning
====== ============================== =====================================
HELLO  engine → relay; client → relay I am this engine; I am the client
SEND   client → engine                a buffer of so many bytes follows
CHUNK  either way                     the next piece
GRANT  receiver → sender              so many pieces have arrived
ASK    client → engine                send what you have
====== ============================== =====================================
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import zmq

from benchmarks.limits.processes import Processes
from benchmarks.peer import Array, Peer, Target
from directview.wire.messages import CHUNK_BYTES, WINDOW_CHUNKS

__all__ = ["ChunkedRelay"]

_HEAD = struct.Struct("<BBQ")
_HELLO, _SEND, _CHUNK, _GRANT, _ASK = range(5)
_CLIENT, _ALL = 254, 255
_GRANT_EVERY = WINDOW_CHUNKS // 4


def _socket(kind: int, address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.linger = 0
    if kind == zmq.ROUTER:
        socket.bind(address)
    else:
        socket.connect(address)
    return socket


def _relay(address: str, n: int) -> None:
    router = _socket(zmq.ROUTER, address)
    routes: dict[int, bytes] = {}
    engines: dict[bytes, int] = {}
    while True:
        route, *frames = router.recv_multipart(copy=False)
        kind, target, _ = _HEAD.unpack(frames[0].buffer)
        if kind == _HELLO:
            routes[target] = route.bytes
            if target != _CLIENT:
                engines[route.bytes] = target
            if len(routes) == n + 1:
                router.send_multipart((routes[_CLIENT], _HEAD.pack(_HELLO, 0, 0)))
        elif route.bytes in engines:
            router.send_multipart((routes[_CLIENT], *frames), copy=False)
        elif target == _ALL:
            for engine in engines:
                router.send_multipart((engine, *frames), copy=False)
        else:
            router.send_multipart((routes[target], *frames), copy=False)


def _engine(address: str, number: int) -> None:
    socket = _socket(zmq.DEALER, address)
    socket.send(_HEAD.pack(_HELLO, number, 0))
    memory: Any = np.empty(0, np.uint8)
    while True:
        kind, _, size = _HEAD.unpack(socket.recv())
        if kind == _SEND:
            memory = np.empty(size, np.uint8)
            _receive(socket, {number: memory}, number)
        elif kind == _ASK:
            _send(socket, {number: memoryview(memory)}, number)


def _pieces(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def _receive(socket: zmq.Socket[bytes], memory: dict[int, Any], me: int | None = None) -> None:
    """Fill each sender's memory, granting as it comes.

    Args:
        socket: where.
        memory: sender → where its bytes go.
        me: on an engine, its number: there is one sender, and grants are signed with it.
    """
    arrived = dict.fromkeys(memory, 0)
    open_senders = {sender for sender, target in memory.items() if len(target)}
    while open_senders:
        head, chunk = socket.recv_multipart(copy=False)
        _, sender, offset = _HEAD.unpack(head.buffer)
        sender = sender if me is None else me
        piece = chunk.buffer
        memory[sender][offset : offset + len(piece)] = np.frombuffer(piece, np.uint8)
        arrived[sender] += 1
        whole = arrived[sender] == _pieces(len(memory[sender]))
        if whole:
            open_senders.discard(sender)
        if whole or arrived[sender] % _GRANT_EVERY == 0:
            socket.send(_HEAD.pack(_GRANT, sender, arrived[sender]))


def _send(
    socket: zmq.Socket[bytes], parts: dict[int, memoryview], name: int | None = None, copies: int = 1
) -> None:
    """Send each receiver its part, a window ahead of what it has granted, until all have everything.

    Args:
        socket: where.
        parts: receiver → bytes.
        name: what is written into the heads, if not the receiver.
        copies: receivers behind each part: a piece counts as granted when all have granted it.
    """
    sent = dict.fromkeys(parts, 0)
    granted: dict[int, dict[int, int]] = {receiver: {} for receiver in parts}
    unfinished = {receiver for receiver, part in parts.items() if len(part)}

    def grants(receiver: int) -> int:
        known = granted[receiver]
        return min(known.values()) if len(known) == copies else 0

    while unfinished:
        progress = False
        for receiver in unfinished:
            part = parts[receiver]
            while sent[receiver] < min(_pieces(len(part)), grants(receiver) + WINDOW_CHUNKS):
                offset = sent[receiver] * CHUNK_BYTES
                head = _HEAD.pack(_CHUNK, receiver if name is None else name, offset)
                socket.send_multipart((head, part[offset : offset + CHUNK_BYTES]), copy=False)
                sent[receiver] += 1
                progress = True
                break
        if not progress:
            _, engine, upto = _HEAD.unpack(socket.recv())
            granted[engine if engine in granted else _ALL][engine] = upto
            unfinished = {r for r in unfinished if grants(r) < _pieces(len(parts[r]))}


class ChunkedRelay(Peer):
    """The floor under large arrays, without shared memory."""

    cannot: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("caller", "burst", "awaiting", "map"), "it carries large buffers only"
    )
    distributions = ("pyzmq", "numpy")

    def __init__(self) -> None:
        self._processes: Processes | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._n = 0
        self._relay = 0
        self._sizes: dict[str, list[int]] = {}

    def start(self, n: int) -> None:
        self._processes = Processes()
        self._n = n
        address = self._processes.address
        self._relay = self._processes.fork(_relay, address, n)
        for number in range(n):
            self._processes.fork(_engine, address, number)
        self._socket = _socket(zmq.DEALER, address)
        self._socket.send(_HEAD.pack(_HELLO, _CLIENT, 0))
        self._socket.recv()

    def stop(self) -> None:
        processes, self._processes = self._processes, None
        if processes is not None:
            processes.end()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            # The next start forks, and a context does not survive that.
            zmq.Context.instance().term()

    def controllers(self) -> Sequence[int]:
        return [self._relay]

    def _open(self) -> zmq.Socket[bytes]:
        assert self._socket is not None
        return self._socket

    def _deliver(self, parts: dict[int, memoryview], copies: int = 1) -> None:
        socket = self._open()
        for receiver, part in parts.items():
            socket.send(_HEAD.pack(_SEND, receiver, len(part)))
        _send(socket, parts, copies=copies)

    def _collect(self, sizes: Sequence[int], memory: Sequence[Any]) -> None:
        socket = self._open()
        for engine in range(len(sizes)):
            socket.send(_HEAD.pack(_ASK, engine, 0))
        _receive(socket, dict(enumerate(memory)))

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        self._deliver({0: memoryview(argument).cast("B")})
        return f(argument)

    def scatter(self, name: str, array: Array) -> None:
        flat = memoryview(array).cast("B")
        bounds = [len(flat) * part // self._n // 8 * 8 for part in range(self._n + 1)]
        parts = {part: flat[bounds[part] : bounds[part + 1]] for part in range(self._n)}
        self._deliver(parts)
        self._sizes[name] = [len(part) for part in parts.values()]

    def gather(self, name: str) -> Array:
        sizes = self._sizes[name]
        whole = np.empty(sum(sizes), np.uint8)
        ends = np.cumsum(sizes)
        parts = [whole[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        self._collect(sizes, parts)
        return whole.view(np.float64)

    def push(self, name: str, array: Array, target: Target) -> None:
        flat = memoryview(array).cast("B")
        if target is None:
            self._deliver({_ALL: flat}, copies=self._n)
        else:
            self._deliver({target: flat})
        self._sizes[name] = [
            len(flat) if target is None or target == engine else 0 for engine in range(self._n)
        ]

    def pull(self, name: str) -> Sequence[Array]:
        sizes = self._sizes[name]
        pulled = [np.empty(size, np.uint8) for size in sizes]
        self._collect(sizes, pulled)
        return [each.view(np.float64) for each in pulled]

    def stored(self, name: str) -> Sequence[int]:
        return self._sizes[name]
