"""The bare relay: client, ROUTER, engine and back, by the same hops and with messages of the same sizes.

Nothing is decoded, no call is known, no error handled: what is left is what asyncio, pyzmq, libzmq and the
kernel take. Relay and engines read through `add_reader` and drain without blocking; the client blocks in
``recv`` where a call blocks, and reads through `add_reader` where it is awaited. Every call is a message of
its own, so a burst can be beaten: by sending several in one.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import zmq

from benchmarks.limits.processes import Processes
from benchmarks.peer import AwaitCall, Peer, Target
from directview.wire.messages import OK, CallItem, Result, ResultItem, Submit, encode
from directview.wire.objects import dump_arguments, dump_function, dumps
from directview.wire.parcels import pack

__all__ = ["BareRelay", "message_sizes"]

_ALL = 255
_HEAD = struct.Struct("<BQ")
"""The engine (or all), and the call's number, which comes back with the answer."""


def _socket(kind: int, address: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.linger = 0
    if kind == zmq.ROUTER:
        socket.bind(address)
    else:
        socket.connect(address)
    return socket


def _serve(socket: zmq.Socket[bytes], on_message: Callable[[list[bytes]], None]) -> None:
    """Hand over what arrives, for ever."""

    def drain() -> None:
        while True:
            try:
                message = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            on_message(message)
        # A send in between may have quieted the descriptor.
        if int(socket.get(zmq.EVENTS)) & int(zmq.POLLIN):
            loop.call_soon(drain)

    async def run() -> None:
        loop.add_reader(socket.fileno(), drain)
        loop.call_soon(drain)
        await loop.create_future()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        runner.run(run())


def _relay(address: str, n: int) -> None:
    router = _socket(zmq.ROUTER, address)
    send = router.send_multipart
    engines: list[bytes] = [b""] * n
    known: set[bytes] = set()
    client = b""

    def on_message(message: list[bytes]) -> None:
        nonlocal client
        route, payload = message
        if route in known:
            send((client, payload))
        elif len(payload) == 1:
            engines[payload[0]] = route
            known.add(route)
            if len(known) == n and client:
                send((client, b"ready"))
        elif not payload:
            client = route
            if len(known) == n:
                send((client, b"ready"))
        elif payload[0] == _ALL:
            for engine in engines:
                send((engine, payload))
        else:
            send((engines[payload[0]], payload))

    _serve(router, on_message)


def _engine(address: str, number: int, result_bytes: int) -> None:
    socket = _socket(zmq.DEALER, address)
    rest = os.urandom(result_bytes - _HEAD.size)
    socket.send(bytes([number]))
    _serve(socket, lambda message: socket.send(message[0][: _HEAD.size] + rest))


def message_sizes() -> tuple[int, int]:
    """Bytes of the messages that carry the smallest call and its result."""
    uuid = os.urandom(16)
    call = pack((dump_function(_nothing), dump_arguments((), {})))
    submit = Submit(uuid, 1000, (CallItem(1000, (0,), _nothing.__name__, 0, call.nbytes, 0, call.body),))
    value = pack((dumps(None),))
    result = Result(uuid, 0, (ResultItem(1000, OK, 1e9, 1e9, value.nbytes, 0, value.body),))
    return len(encode(submit)), len(encode(result))


def _nothing() -> None:
    """Stands for the smallest call; as large as a script's own, since it is packed as one."""


_nothing.__module__ = "__main__"


class BareRelay(Peer):
    """The floor under small calls."""

    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "only small messages go through it",
        **dict.fromkeys(
            ("apply", "map", "scatter", "gather", "push", "pull", "stored"), "it carries small calls only"
        ),
    }
    distributions = ("pyzmq",)

    def __init__(self) -> None:
        self._processes: Processes | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._n = 0
        call_bytes, self._result_bytes = message_sizes()
        self._rest = os.urandom(call_bytes - _HEAD.size)

    def start(self, n: int) -> None:
        self._processes = Processes()
        self._n = n
        address = self._processes.address
        self._processes.fork(_relay, address, n)
        for number in range(n):
            self._processes.fork(_engine, address, number, self._result_bytes)
        self._socket = _socket(zmq.DEALER, address)
        self._socket.send(b"")
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

    def _open(self) -> zmq.Socket[bytes]:
        assert self._socket is not None
        return self._socket

    def _message(self, target: Target, number: int = 0) -> bytes:
        return _HEAD.pack(_ALL if target is None else target, number) + self._rest

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        socket, message = self._open(), self._message(target)
        answers = range(self._n if target is None else 1)

        def call() -> None:
            socket.send(message)
            for _ in answers:
                socket.recv()

        return call

    def burst(self, f: Callable[[], Any], count: int, engines: int) -> None:
        socket = self._open()
        messages = [self._message(engine) for engine in range(engines)]
        for number in range(count):
            socket.send(messages[number % engines])
        for _ in range(count):
            socket.recv()

    @asynccontextmanager
    async def awaiting(self) -> AsyncIterator[AwaitCall]:
        waiting = _Waiting(self._open(), self._n, self._message)
        try:
            yield waiting.call
        finally:
            waiting.close()


class _Waiting:
    """Calls that are awaited: one future each, found by the number that comes back."""

    def __init__(self, socket: zmq.Socket[bytes], n: int, message: Callable[[Target, int], bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._n = n
        self._message = message
        self._number = 0
        self._futures: dict[int, tuple[asyncio.Future[None], int]] = {}
        self._fd = socket.fileno()
        self._scheduled = False
        self._loop.add_reader(self._fd, self._drain)

    def call(self, f: Callable[[], Any], target: Target) -> Awaitable[None]:
        """Send one; its answer, or answers, resolve the future."""
        self._number += 1
        future: asyncio.Future[None] = self._loop.create_future()
        self._futures[self._number] = future, (self._n if target is None else 1)
        self._socket.send(self._message(target, self._number))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)
        return future

    def _drain(self) -> None:
        self._scheduled = False
        for _ in range(64):
            try:
                answer = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            number = _HEAD.unpack_from(answer)[1]
            future, missing = self._futures[number]
            if missing > 1:
                self._futures[number] = future, missing - 1
            else:
                del self._futures[number]
                future.set_result(None)
        self._scheduled = True
        self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Leave the loop."""
        self._loop.remove_reader(self._fd)
