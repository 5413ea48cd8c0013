"""What only real sockets can get wrong: hostile bytes, half-open connections, copies, lost wake-ups."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from directview.wire.link import Link
from directview.wire.messages import MAX_FRAME_BYTES, MAX_FRAMES
from directview.wire.pump import sendable
from directview.wire.router import RouterLink
from directview.wire.sockets import SMALL_FRAME, Heartbeat, shared_context

DEADLINE = 40.0


class Echo:
    """A controller that admits those who say hello, and sends back what it gets."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.path = str(folder / "c.sock")
        self.changed = asyncio.Event()
        self.headers: list[bytes] = []
        self.routes: list[bytes] = []
        self.lost: dict[bytes, str] = {}
        self.frames: Callable[[Sequence[Any]], object] = lambda frames: None
        self.when_lost: Callable[[bytes], object] = lambda route: None
        self.router = RouterLink(on_message=self._message, on_lost=self._lost, **options)
        self.router.bind_ipc(self.path)
        self.port = self.router.bind_tcp("127.0.0.1", 0, None)

    def _message(self, route: bytes, header: bytes, frames: list[Any]) -> None:
        self.headers.append(header)
        self.changed.set()
        if header.startswith(b"hello"):
            self.routes.append(route)
            self.router.admit(route)
        self.frames(frames)
        self.router.send(route, header, frames)

    def _lost(self, route: bytes, reason: str) -> None:
        assert route not in self.lost
        self.lost[route] = reason
        self.changed.set()
        self.when_lost(route)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def link(self, hello: bytes = b"hello", **options: Any) -> Listener:
        listener = Listener()
        await listener.link.connect(f"ipc://{self.path}", timeout=DEADLINE, **options)
        listener.link.send(hello)
        await listener.until(lambda: listener.headers)
        return listener


class Listener:
    """A link that keeps what it hears."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.headers: list[bytes] = []
        self.frames: list[Sequence[Any]] = []
        self.lost: list[str] = []
        self.link = Link(on_message=self._message, on_lost=self._lost)

    def _message(self, header: bytes, frames: list[Any]) -> None:
        self.headers.append(header)
        self.frames.append(frames)
        self.changed.set()

    def _lost(self, reason: str) -> None:
        self.lost.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def answers(self) -> None:
        """Fails unless a message goes there and back."""
        probe = secrets.token_bytes(8)
        self.link.send(probe)
        await self.until(lambda: probe in self.headers)


@pytest.fixture
async def echo(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Echo]:
    heartbeat = getattr(request, "param", Heartbeat(0.3, 0.6))
    echo = Echo(tmp_path, hello_timeout=1.0, half_open_limit=20, heartbeat=heartbeat)
    yield echo
    assert echo.router.statistics()["watchdog_rescues"] == 0
    echo.router.close()


@pytest.fixture
async def good(echo: Echo) -> AsyncIterator[Listener]:
    """A peer that must not be harmed by whatever happens to another."""
    good = await echo.link(b"hello good")
    yield good
    await good.answers()
    assert good.lost == []
    assert good.link.statistics()["watchdog_rescues"] == 0
    good.link.close()


def raw_socket(echo: Echo, kind: str) -> socket.socket:
    if kind == "ipc":
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(echo.path)
    else:
        raw = socket.create_connection(("127.0.0.1", echo.port))
    raw.setblocking(False)
    return raw


async def closed_by_the_other_side(raw: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        try:
            while await loop.sock_recv(raw, 65_536):
                pass
        except ConnectionError:
            pass


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    """A plain context for peers that don't play by our rules."""
    context: zmq.Context[Any] = zmq.Context()
    context.linger = 0
    yield context
    context.term()


# --- peers that misbehave --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
async def test_garbage_bytes_cost_their_sender_its_connection(echo: Echo, good: Listener, kind: str) -> None:
    with raw_socket(echo, kind) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" + bytes(range(256)))
        await closed_by_the_other_side(raw)
    assert echo.headers == [b"hello good"]


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
async def test_a_connection_that_never_speaks_is_dropped(echo: Echo, good: Listener, kind: str) -> None:
    with raw_socket(echo, kind) as raw:
        await closed_by_the_other_side(raw)
    assert echo.router.statistics()["overdue"] == 1


async def test_many_silent_connections_make_room_for_a_good_one(echo: Echo, good: Listener) -> None:
    silent = [raw_socket(echo, "ipc") for _ in range(60)]
    for raw in silent[:40]:
        await closed_by_the_other_side(raw)
    newcomer = await echo.link(b"hello newcomer")
    await newcomer.answers()
    newcomer.link.close()
    for raw in silent:
        raw.close()


async def test_a_frame_beyond_the_limit_costs_its_sender_the_connection(
    echo: Echo, good: Listener, context: zmq.Context[Any]
) -> None:
    with context.socket(zmq.DEALER) as bad:
        bad.connect(f"ipc://{echo.path}")
        bad.send(b"hello bad")
        await echo.until(lambda: b"hello bad" in echo.headers)
        bad.send_multipart([b"big", bytes(MAX_FRAME_BYTES + 1)])
        await echo.until(lambda: echo.lost)
        assert list(echo.lost) == [echo.routes[1]]
        assert b"big" not in echo.headers


async def test_a_message_of_too_many_frames_costs_its_sender_the_connection(
    echo: Echo, good: Listener, context: zmq.Context[Any]
) -> None:
    with context.socket(zmq.DEALER) as bad:
        bad.connect(f"ipc://{echo.path}")
        bad.send_multipart([b"hello bad"] + [b""] * MAX_FRAMES)
        await echo.until(lambda: b"hello bad" in echo.headers)
        bad.send_multipart([b"many"] + [b""] * (MAX_FRAMES + 1))
        await echo.until(lambda: echo.lost)
        assert "frames" in echo.lost[echo.routes[1]]
        assert b"many" not in echo.headers


async def test_a_peer_that_names_itself_is_expelled(
    echo: Echo, good: Listener, context: zmq.Context[Any]
) -> None:
    with context.socket(zmq.DEALER) as bad:
        bad.set(zmq.ROUTING_ID, b"I am somebody else")
        bad.connect(f"ipc://{echo.path}")
        bad.send(b"hello bad")
        await echo.until(lambda: echo.router.statistics()["expelled"] == 1)
        await echo.until(lambda: echo.lost)
        assert echo.headers[0] == b"hello good"


# --- frames and memory -----------------------------------------------------------------------------


async def test_a_large_frame_is_a_view_of_zmq_memory_and_is_sent_on_by_reference(echo: Echo) -> None:
    kept: list[Any] = []
    echo.frames = kept.extend
    listener = await echo.link()
    listener.link.send(b"big", [bytes(SMALL_FRAME * 4)])
    await listener.until(lambda: b"big" in listener.headers)
    (view,) = kept
    assert isinstance(view.obj, zmq.Frame)
    assert sendable(view) is view.obj
    assert sendable(view[1:]) is not view.obj
    listener.link.close()


async def test_sending_takes_a_copy_so_that_the_buffer_is_free_at_once(echo: Echo) -> None:
    listener = await echo.link()
    buffer = bytearray(b"a" * SMALL_FRAME * 4)
    listener.link.send(b"big", [buffer])
    buffer[:] = b"b" * len(buffer)
    await listener.until(lambda: b"big" in listener.headers)
    assert bytes(listener.frames[-1][0]) == b"a" * len(buffer)
    listener.link.close()


async def test_a_message_sent_amid_another_one_by_the_same_thread_follows_it(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer that prints can run between any two parts of a message."""
    listener = await echo.link()
    pump: Any = listener.link._pump
    send = pump._send

    def send_and_finalize(part: bytes, flags: int) -> None:
        send(part, flags)
        if part == b"outer":
            listener.link.send(b"inner", [b"printed"])

    monkeypatch.setattr(pump, "_send", send_and_finalize)
    listener.link.send(b"outer", [b"1", b"2"])
    await listener.until(lambda: len(listener.headers) == 3)
    assert listener.headers == [b"hello", b"outer", b"inner"]
    assert [list(frames) for frames in listener.frames] == [[], [b"1", b"2"], [b"printed"]]
    listener.link.close()


async def test_links_leave_no_descriptor_behind(echo: Echo) -> None:
    async def come_and_go() -> None:
        listener = await echo.link()
        listener.link.close()
        deaths = len(echo.lost)
        await echo.until(lambda: len(echo.lost) > deaths)

    await come_and_go()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await come_and_go()
    # libzmq closes what is left of a socket in a thread of its own: one or two may still be on their way.
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_forked_child_gets_a_context_of_its_own() -> None:
    code = (
        "import os\n"
        "from directview.wire.sockets import shared_context\n"
        "mine = shared_context()\n"
        "assert shared_context() is mine\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(7 if shared_context() is not mine else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE)


# --- arrivals before a loss ------------------------------------------------------------------------


def blocking_process(*args: str) -> subprocess.Popen[bytes]:
    """A child whose output is read without the loop's help: reading it blocks."""
    return subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE)


@pytest.mark.process
async def test_what_arrived_before_the_connection_was_lost_is_delivered_first(tmp_path: Path) -> None:
    """The other side sends and is killed while our loop is busy: libzmq has it all, and must not drop it."""
    path = tmp_path / "c.sock"
    code = (
        "import sys, time, zmq\n"
        "router = zmq.Context().socket(zmq.ROUTER); router.hwm = 0\n"
        "router.bind('ipc://' + sys.argv[1])\n"
        "print('listening', flush=True)\n"
        "route = router.recv_multipart()[0]\n"
        "for number in range(2000): router.send_multipart([route, b'%d' % number, b'frame'])\n"
        "print('sent', flush=True); time.sleep(60)\n"
    )
    process = blocking_process("-c", code, str(path))
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"listening\n"
        listener = Listener()
        await listener.link.connect(f"ipc://{path}", timeout=DEADLINE)
        listener.link.send(b"hello")
        assert process.stdout.readline() == b"sent\n"  # blocks the loop, on purpose
        time.sleep(0.2)  # noqa: ASYNC251 -- so does this, while libzmq's thread reads
        process.kill()
        process.wait(DEADLINE)
        await listener.until(lambda: listener.lost)
        assert listener.headers == [b"%d" % number for number in range(2000)]
        assert len(listener.lost) == 1
    finally:
        process.kill()
        process.wait(DEADLINE)
        process.stdout.close()


# --- peers that are processes ----------------------------------------------------------------------

PEER = """
import asyncio, ctypes, os, sys
from directview.wire.link import Link

async def main():
    said = asyncio.Event()
    link = Link(on_message=lambda header, frames: said.set(), on_lost=lambda reason: os._exit(3))
    await link.connect("ipc://" + sys.argv[1], timeout=10)
    link.send(b"hello peer")
    await said.wait()
    print("ready", flush=True)
    if sys.argv[2] == "hold":
        ctypes.PyDLL(None).usleep(2_500_000)  # in C, with the GIL: no Python runs in this process
        link.send(b"let go")
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def start_peer(echo: Echo, what: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PEER, echo.path, what, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        assert await process.stdout.readline() == b"ready\n"
    return process


async def end_peer(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


@pytest.mark.process
async def test_a_stopped_peer_is_noticed_by_heartbeat(echo: Echo, good: Listener) -> None:
    process = await start_peer(echo, "idle")
    try:
        started = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        await echo.until(lambda: echo.lost)
        assert list(echo.lost) == [echo.routes[1]]
        assert time.monotonic() - started > 0.5
    finally:
        await end_peer(process)


@pytest.mark.process
async def test_those_who_die_together_are_each_announced_once_though_they_are_sent_to_meanwhile(
    echo: Echo, good: Listener
) -> None:
    """Whoever hears that an engine is gone tells clients so, of which some may have gone as well."""
    peers = [await echo.link() for _ in range(8)]
    dying = set(echo.routes[1:])
    loop = asyncio.get_running_loop()
    upset: list[Any] = []
    loop.set_exception_handler(lambda loop, context: upset.append(context))
    echo.when_lost = lambda route: echo.router.send_many(sorted(dying), b"somebody has gone")
    for peer in peers:
        peer.link.close()
    await echo.until(lambda: dying <= set(echo.lost))
    await good.answers()
    assert upset == []
    assert set(echo.lost) == dying


@pytest.mark.parametrize("echo", [Heartbeat(300, 600)], indirect=True, ids=["far from a heartbeat"])
async def test_a_killed_peer_is_noticed_at_once(echo: Echo, good: Listener) -> None:
    process = await start_peer(echo, "idle")
    try:
        process.kill()
        await echo.until(lambda: echo.lost)
        assert list(echo.lost) == [echo.routes[1]]
    finally:
        await end_peer(process)


@pytest.mark.process
async def test_a_peer_that_holds_the_interpreter_is_alive(echo: Echo, good: Listener) -> None:
    """2.5 seconds in C are nearly three times what a stopped peer is given."""
    process = await start_peer(echo, "hold")
    try:
        await echo.until(lambda: b"let go" in echo.headers)
        assert echo.lost == {}
    finally:
        await end_peer(process)


RELAY = """
import asyncio, resource, sys
from directview.wire.router import RouterLink

async def main():
    done = asyncio.Event()
    routes = []

    def on_message(route, header, frames):
        if header == b"hello":
            routes.append(route)
            router.admit(route)
            router.send(route, b"hello")
        elif header == b"end":
            done.set()
        else:
            router.send(routes[1 - routes.index(route)], header, frames)

    router = RouterLink(on_message=on_message, on_lost=lambda route, reason: None)
    router.bind_ipc(sys.argv[1])
    print("ready", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    await done.wait()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    router.close()

asyncio.run(main())
"""


@pytest.mark.process
async def test_relaying_chunks_with_a_window_takes_next_to_no_memory(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sock")
    relay = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RELAY, path, stdout=asyncio.subprocess.PIPE
    )
    assert relay.stdout is not None
    try:
        _, before = (await relay.stdout.readline()).split()
        sender, receiver = Listener(), Listener()
        for listener in (sender, receiver):
            await listener.link.connect(f"ipc://{path}", timeout=DEADLINE)
            listener.link.send(b"hello")
            await listener.until(lambda listener=listener: listener.headers)  # type: ignore[misc]
        chunk, chunks = bytes(1 << 20), 400
        for number in range(chunks):
            await receiver.until(lambda number=number: number - len(receiver.headers) < 16)  # type: ignore[misc]
            sender.link.send(b"chunk", [chunk])
            receiver.frames.clear()
        await receiver.until(lambda: len(receiver.headers) == chunks + 1)
        sender.link.send(b"end")
        grown = int(await relay.stdout.readline()) - int(before)
        assert grown < 60_000, f"{chunks} MiB passed, and the relay grew by {grown} kB"
        for listener in (sender, receiver):
            listener.link.close()
    finally:
        await end_peer(relay)


# --- churn -----------------------------------------------------------------------------------------

CHURN = """
import random, sys, time, zmq

address, peers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
context = zmq.Context()
context.set(zmq.MAX_SOCKETS, 4000)
dice = random.Random(1)
alive, closed, names = {}, {}, iter(range(10**9))

def come():
    name = next(names)
    dealer = context.socket(zmq.DEALER)
    dealer.reconnect_ivl = -1
    dealer.linger = 0
    dealer.connect(address)
    dealer.send(b"hello %d" % name)
    alive[name] = dealer

for _ in range(peers):
    come()
end = time.monotonic() + seconds
while time.monotonic() < end:
    name = dice.choice(list(alive))
    if dice.random() < 0.45:
        dealer = alive.pop(name)
        for _ in range(dice.randrange(4)):
            dealer.send(b"last %d" % name)
        if dice.random() < 0.5:
            time.sleep(0.0005)  # sometimes the last messages get out
        closed[name] = time.monotonic()
        dealer.close(0)
        come()
    else:
        alive[name].send(b"more %d" % name)
        while alive[name].poll(0):
            alive[name].recv_multipart()
    time.sleep(dice.random() * 0.004)
time.sleep(0.5)
for name, when in closed.items():
    print(name, when)
print("alive", *alive, flush=True)
sys.stdin.read()
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ipc", "tcp"])
async def test_under_churn_no_living_peer_is_given_up_and_no_death_is_missed(
    tmp_path: Path, kind: str
) -> None:
    said_hello: dict[bytes, bytes] = {}
    died: dict[bytes, float] = {}
    after_death: list[bytes] = []
    dice = secrets.SystemRandom()

    def on_message(route: bytes, header: bytes, frames: list[Any]) -> None:
        if route in died:
            after_death.append(header)
        if header.startswith(b"hello"):
            said_hello[route] = header.split()[1]
            router.admit(route)
        if dice.random() < 0.01:
            time.sleep(0.005)  # a busy moment, so that events and messages pile up

    def on_lost(route: bytes, reason: str) -> None:
        assert route not in died
        died[route] = time.monotonic()
        somebody_died.set()

    somebody_died = asyncio.Event()
    router = RouterLink(on_message=on_message, on_lost=on_lost)
    router.bind_ipc(tmp_path / "c.sock")
    port = router.bind_tcp("127.0.0.1", 0, None)
    address = f"ipc://{tmp_path}/c.sock" if kind == "ipc" else f"tcp://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHURN, address, "300", "6",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        closed: dict[bytes, float] = {}
        async with asyncio.timeout(60):
            while not (line := await process.stdout.readline()).startswith(b"alive"):
                name, when = line.split()
                closed[name] = float(when)
        heard = set(said_hello.values())
        expected = closed.keys() & heard
        async with asyncio.timeout(DEADLINE):
            while len(died) < len(expected):
                somebody_died.clear()
                await somebody_died.wait()
        names = {said_hello[route]: when for route, when in died.items()}
        assert names.keys() == expected
        assert all(when >= closed[name] for name, when in names.items())
        assert set(line.split()[1:]) & names.keys() == set()
        assert after_death == []
        assert len(expected) > 200
        assert router.statistics()["watchdog_rescues"] == 0
    finally:
        await end_peer(process)
        router.close()


def test_the_shared_context_is_not_the_global_one() -> None:
    assert shared_context() is not zmq.Context.instance()
