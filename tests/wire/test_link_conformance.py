"""What every link and router keeps, over unix sockets, TCP, CURVE and in memory alike."""

from __future__ import annotations

import array
import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from directview.errors import ControllerUnreachable
from directview.testing import MemoryLink, MemoryRouter, Network
from directview.wire.curve import CurveKeys, ServerCurve, new_keys
from directview.wire.link import Link
from directview.wire.messages import MAX_FRAME_BYTES
from directview.wire.pump import TURN
from directview.wire.router import RouterLink
from directview.wire.sockets import SMALL_FRAME

KINDS = ["ipc", "tcp", "curve", "memory", "memory-curve"]
WITH_KEYS = ["curve", "memory-curve"]
DEADLINE = 40.0

AnyLink = Link | MemoryLink
AnyRouter = RouterLink | MemoryRouter


class Recorder:
    """Counts what callbacks tell, and lets a test wait for it."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; looks again whenever something was recorded."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Controller(Recorder):
    """A router that admits everyone, and does what the test's `answer` says with each message."""

    router: AnyRouter

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[bytes, bytes, Sequence[Any]]] = []
        self.lost: list[tuple[bytes, str]] = []
        self.turns: list[int] = []
        self.admits = True
        self.answer: Callable[[bytes, bytes, Sequence[Any]], object] = lambda route, header, frames: None

    def on_message(self, route: bytes, header: bytes, frames: Sequence[Any]) -> None:
        if self.admits:
            self.router.admit(route)
        self.messages.append((route, header, frames))
        self.changed()
        self.answer(route, header, frames)

    def on_lost(self, route: bytes, reason: str) -> None:
        self.lost.append((route, reason))
        self.changed()

    def on_turn(self) -> None:
        self.turns.append(len(self.messages))

    def headers_from(self, route: bytes) -> list[bytes]:
        return [header for sender, header, _ in self.messages if sender == route]


class Peer(Recorder):
    """A link and what it heard."""

    link: AnyLink

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[bytes, Sequence[Any]]] = []
        self.lost: list[str] = []
        self.turns: list[int] = []
        self.answer: Callable[[bytes, Sequence[Any]], object] = lambda header, frames: None

    def on_message(self, header: bytes, frames: Sequence[Any]) -> None:
        self.messages.append((header, frames))
        self.changed()
        self.answer(header, frames)

    def on_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self.changed()

    def on_turn(self) -> None:
        self.turns.append(len(self.messages))

    @property
    def headers(self) -> list[bytes]:
        return [header for header, _ in self.messages]


@dataclass
class House:
    """One controller at one address of the kind under test, and the peers that connect to it."""

    kind: str
    folder: Path
    network: Network
    curve: ServerCurve = field(default_factory=lambda: ServerCurve.new())
    controllers: list[Controller] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    address: str = ""

    @property
    def has_keys(self) -> bool:
        return self.kind in WITH_KEYS

    async def open(self, *, hello_timeout: float = 5.0, half_open_limit: int = 100) -> Controller:
        controller = Controller()
        options: dict[str, Any] = {"hello_timeout": hello_timeout, "half_open_limit": half_open_limit}
        if self.kind.startswith("memory"):
            options["network"] = self.network
        make: Callable[..., AnyRouter] = MemoryRouter if self.kind.startswith("memory") else RouterLink
        controller.router = make(
            on_message=controller.on_message,
            on_lost=controller.on_lost,
            on_turn=controller.on_turn,
            **options,
        )
        self.controllers.append(controller)
        if self.kind in {"ipc", "memory"}:
            path = self.folder / "c.sock"
            controller.router.bind_ipc(str(path))
            self.address = f"ipc://{path}"
        else:
            port = controller.router.bind_tcp("127.0.0.1", 0, self.curve if self.has_keys else None)
            self.address = f"tcp://127.0.0.1:{port}"
        return controller

    async def connect(self, *, keys: CurveKeys | None = None, with_keys: bool = True) -> Peer:
        if keys is None and with_keys and self.has_keys:
            keys = self.curve.keys_for("engine")
        peer = self.new_peer()
        await peer.link.connect(self.address, keys=keys, timeout=DEADLINE)
        return peer

    def new_peer(self) -> Peer:
        peer = Peer()
        if self.kind.startswith("memory"):
            peer.link = MemoryLink(
                network=self.network, on_message=peer.on_message, on_lost=peer.on_lost, on_turn=peer.on_turn
            )
        else:
            peer.link = Link(on_message=peer.on_message, on_lost=peer.on_lost, on_turn=peer.on_turn)
        self.peers.append(peer)
        return peer

    async def introduced(self, controller: Controller, name: bytes = b"hello") -> tuple[Peer, bytes]:
        """A peer that has said `name`, and its route."""
        peer = await self.connect()
        peer.link.send(name)
        await controller.until(lambda: name in [header for _, header, _ in controller.messages])
        (route,) = {route for route, header, _ in controller.messages if header == name}
        return peer, route


@pytest.fixture(params=KINDS)
async def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """Closes everything at the end, and holds the watchdogs to 0."""
    house = House(request.param, tmp_path_factory.mktemp("h"), Network(seed=1, delay=(0.0, 0.002)))
    yield house
    rescues = [peer.link.statistics()["watchdog_rescues"] for peer in house.peers]
    rescues += [controller.router.statistics()["watchdog_rescues"] for controller in house.controllers]
    for peer in house.peers:
        peer.link.close()
    for controller in house.controllers:
        controller.router.close()
    assert set(rescues) <= {0}


only_with_keys = pytest.mark.parametrize("house", WITH_KEYS, indirect=True)


# --- messages --------------------------------------------------------------------------------------


async def test_header_and_frames_arrive_as_they_were_sent(house: House) -> None:
    controller = await house.open()
    peer = await house.connect()
    sizes = (0, 1, 1000, SMALL_FRAME - 1, SMALL_FRAME, MAX_FRAME_BYTES // 2)
    sent = [bytes([number]) * size for number, size in enumerate(sizes)]
    peer.link.send(b"header", sent)
    await controller.until(lambda: controller.messages)
    _, header, frames = controller.messages[0]
    assert header == b"header"
    assert type(header) is bytes
    assert [bytes(frame) for frame in frames] == sent
    assert [type(frame) for frame in frames] == [bytes] * 4 + [memoryview] * 2


async def test_any_contiguous_buffer_can_be_a_frame(house: House) -> None:
    controller = await house.open()
    peer = await house.connect()
    numbers = array.array("d", [1.0, 2.0])
    peer.link.send(b"h", [bytearray(b"abc"), memoryview(numbers), numbers])
    await controller.until(lambda: controller.messages)
    assert [bytes(frame) for frame in controller.messages[0][2]] == [
        b"abc",
        numbers.tobytes(),
        numbers.tobytes(),
    ]


async def test_a_frame_that_cannot_travel_is_refused_and_harms_no_other_message(house: House) -> None:
    controller = await house.open()
    peer = await house.connect()
    not_a_buffer: Any = "text"
    for frame, error in (
        (not_a_buffer, TypeError),
        (memoryview(b"abcdef")[::2], TypeError),
        (bytes(MAX_FRAME_BYTES + 1), ValueError),
    ):
        with pytest.raises(error):
            peer.link.send(b"bad", [b"good", frame])
    peer.link.send(b"next", [b"frame"])
    await controller.until(lambda: controller.messages)
    assert [(header, list(frames)) for _, header, frames in controller.messages] == [(b"next", [b"frame"])]


async def test_thousands_of_messages_both_ways_keep_their_order(house: House) -> None:
    controller = await house.open()
    controller.answer = lambda route, header, frames: controller.router.send(route, header, frames)
    peer = await house.connect()
    expected = [b"%d" % number for number in range(3000)]
    for number, header in enumerate(expected):
        peer.link.send(header, [bytes(number % 500)] if number % 3 else [])
    await peer.until(lambda: len(peer.messages) == len(expected))
    assert peer.headers == expected
    assert [len(frames) for _, frames in peer.messages] == [min(number % 3, 1) for number in range(3000)]


async def test_each_peer_has_a_route_of_its_own(house: House) -> None:
    controller = await house.open()
    controller.answer = lambda route, header, frames: controller.router.send(route, b"for " + header)
    peers = [await house.connect() for _ in range(5)]
    for number, peer in enumerate(peers):
        peer.link.send(b"%d" % number)
    for number, peer in enumerate(peers):
        await peer.until(lambda peer=peer: peer.messages)  # type: ignore[misc]
        assert peer.headers == [b"for %d" % number]
    assert len({route for route, _, _ in controller.messages}) == 5


async def test_one_message_goes_to_many_and_those_that_are_gone_are_named(house: House) -> None:
    controller = await house.open()
    pairs = [await house.introduced(controller, b"peer %d" % number) for number in range(3)]
    (gone_peer, gone), *rest = pairs
    gone_peer.link.close()
    await controller.until(lambda: controller.lost)
    frames = [b"small", bytes(5000), bytes(SMALL_FRAME * 2)]
    assert controller.router.send_many([route for _, route in pairs], b"all", frames) == [gone]
    for peer, _ in rest:
        await peer.until(lambda peer=peer: peer.messages)  # type: ignore[misc]
        assert [(header, [bytes(f) for f in got]) for header, got in peer.messages] == [(b"all", frames)]


async def test_a_large_frame_can_be_sent_on_as_it_came(house: House) -> None:
    controller = await house.open()
    controller.answer = lambda route, header, frames: controller.router.send(route, header, frames)
    peer = await house.connect()
    contents = bytes(range(256)) * 1024
    peer.link.send(b"h", [contents])
    await peer.until(lambda: peer.messages)
    assert bytes(peer.messages[0][1][0]) == contents


async def test_threads_send_whole_messages(house: House) -> None:
    """Each thread's messages keep their order; none is torn, none is lost."""
    controller = await house.open()
    peer = await house.connect()

    def talk(name: int) -> None:
        for number in range(200):
            peer.link.send(b"%d %d" % (name, number), [b"%d" % name] * 3)

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    await controller.until(lambda: len(controller.messages) == 800)
    for thread in threads:
        thread.join()
    for name in range(4):
        numbers = [h.split()[1] for _, h, _ in controller.messages if h.startswith(b"%d " % name)]
        assert numbers == [b"%d" % number for number in range(200)]
    assert all(set(frames) == {header.split()[0]} for _, header, frames in controller.messages)


async def test_a_turn_is_bounded_and_ends_with_on_turn(house: House) -> None:
    controller = await house.open()
    peer, _ = await house.introduced(controller)
    for number in range(1000):
        peer.link.send(b"%d" % number)
    await controller.until(lambda: controller.turns and controller.turns[-1] == 1001)
    sizes = [after - before for before, after in zip([0, *controller.turns], controller.turns, strict=False)]
    assert max(sizes) <= TURN
    assert min(sizes) >= 1


async def test_poll_delivers_what_has_arrived_while_the_loop_is_busy(house: House) -> None:
    controller = await house.open()
    peer, route = await house.introduced(controller)
    house.network.delay = (0.0, 0.0)
    controller.router.send(route, b"abort")
    give_up = time.monotonic() + DEADLINE
    while not peer.messages and time.monotonic() < give_up:  # nothing is awaited: the loop stands still
        peer.link.poll()
    assert peer.headers == [b"abort"]


async def test_an_error_in_a_handler_is_reported_and_the_next_messages_come(house: House) -> None:
    controller = await house.open()
    peer = await house.connect()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def answer(route: bytes, header: bytes, frames: Sequence[Any]) -> None:
        if header == b"bad":
            raise ZeroDivisionError

    controller.answer = answer
    for header in (b"good", b"bad", b"next"):
        peer.link.send(header)
    await controller.until(lambda: len(controller.messages) == 3)
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


# --- ends ------------------------------------------------------------------------------------------


async def test_connecting_to_nobody_fails_at_once_and_names_the_address(house: House) -> None:
    await house.open()
    house.controllers.pop().router.close()
    peer = house.new_peer()
    with pytest.raises(ControllerUnreachable, match="controller isn't running") as caught:
        await peer.link.connect(house.address, timeout=DEADLINE)
    assert house.address.removeprefix("ipc://") in str(caught.value)
    assert peer.lost == []


async def test_a_closed_link_is_noticed_once_after_all_it_sent(house: House) -> None:
    controller = await house.open()
    peer, route = await house.introduced(controller)
    other, _ = await house.introduced(controller, b"other")
    for number in range(500):
        peer.link.send(b"%d" % number)
    at_loss: list[int] = []
    controller.lost = _Noting(lambda: at_loss.append(len(controller.headers_from(route))))
    peer.link.close(linger=DEADLINE)
    await controller.until(lambda: controller.lost)
    assert [lost for lost, _ in controller.lost] == [route]
    assert at_loss == [501]
    assert not controller.router.send(route, b"too late")
    other.link.send(b"still here")
    await controller.until(lambda: b"still here" in [header for _, header, _ in controller.messages])
    assert peer.lost == []


class _Noting(list[Any]):
    """A list that calls back when something is appended."""

    def __init__(self, note: Callable[[], object]) -> None:
        super().__init__()
        self._note = note

    def append(self, value: Any) -> None:
        self._note()
        super().append(value)


async def test_a_closed_controller_is_noticed_once_after_all_it_sent(house: House) -> None:
    controller = await house.open()
    peer, route = await house.introduced(controller)
    for number in range(500):
        controller.router.send(route, b"%d" % number)
    at_loss: list[int] = []
    peer.lost = _Noting(lambda: at_loss.append(len(peer.messages)))
    controller.router.close(linger=DEADLINE)
    await peer.until(lambda: peer.lost)
    assert at_loss == [500]
    assert len(peer.lost) == 1
    peer.link.send(b"into the void")
    assert peer.link.statistics()["unsent"] == 1


async def test_nothing_is_told_after_close(house: House) -> None:
    controller = await house.open()
    peer, route = await house.introduced(controller)
    other, _ = await house.introduced(controller, b"other")
    for _ in range(100):
        controller.router.send(route, b"more")
    peer.link.close()
    peer.link.close()
    controller.router.expel(route, "no reason")
    other.link.send(b"one more")
    await controller.until(lambda: b"one more" in [header for _, header, _ in controller.messages])
    assert peer.messages == []
    assert peer.lost == []


async def test_a_link_may_close_itself_while_it_handles_a_message(house: House) -> None:
    controller = await house.open()
    peer, route = await house.introduced(controller)
    peer.answer = lambda header, frames: peer.link.close()
    for _ in range(100):
        controller.router.send(route, b"goodbye")
    await controller.until(lambda: controller.lost)
    assert len(peer.messages) == 1


async def test_an_expelled_peer_hears_why_and_is_lost_alone(house: House) -> None:
    controller = await house.open()
    bad, bad_route = await house.introduced(controller, b"bad")
    good, good_route = await house.introduced(controller, b"good")
    controller.router.send(bad_route, b"refused: bad manners")
    controller.router.expel(bad_route, "bad manners")
    bad.link.send(b"ignored")
    await bad.until(lambda: bad.lost)
    await controller.until(lambda: controller.lost)
    assert bad.headers == [b"refused: bad manners"]
    assert controller.lost == [(bad_route, "bad manners")]
    assert controller.headers_from(bad_route) == [b"bad"]
    assert controller.router.send(good_route, b"welcome")
    await good.until(lambda: good.messages)
    assert controller.router.statistics()["expelled"] == 1


async def test_a_peer_that_is_not_admitted_in_time_is_cut_off_alone(house: House) -> None:
    controller = await house.open(hello_timeout=0.3)
    good, good_route = await house.introduced(controller)
    controller.admits = False
    silent = await house.connect()
    rude, rude_route = await house.introduced(controller, b"not a hello")
    await silent.until(lambda: silent.lost)
    await rude.until(lambda: rude.lost)
    await controller.until(lambda: controller.lost)
    assert controller.lost == [(rude_route, "no hello within 0.3 s")]
    assert controller.router.statistics()["overdue"] == 2
    assert controller.router.send(good_route, b"welcome")
    await good.until(lambda: good.messages)


async def test_only_so_many_connections_may_be_half_open(house: House) -> None:
    controller = await house.open(half_open_limit=3)
    good, good_route = await house.introduced(controller)
    silent = [await house.connect() for _ in range(5)]
    for peer in silent[:2]:
        await peer.until(lambda peer=peer: peer.lost)  # type: ignore[misc]
    assert [peer.lost for peer in silent[2:]] == [[], [], []]
    assert controller.router.statistics()["half_open"] == 3
    assert controller.router.send(good_route, b"welcome")
    await good.until(lambda: good.messages)


async def test_a_link_connects_once_and_sends_after_that(house: House) -> None:
    await house.open()
    peer = house.new_peer()
    with pytest.raises(RuntimeError, match="before sending"):
        peer.link.send(b"x")
    await peer.link.connect(house.address, timeout=DEADLINE)
    with pytest.raises(RuntimeError, match="once"):
        await peer.link.connect(house.address, timeout=DEADLINE)


# --- keys ------------------------------------------------------------------------------------------


async def test_the_role_of_a_peer_is_that_of_its_key(house: House) -> None:
    controller = await house.open()
    _, engine = await house.introduced(controller, b"engine")
    assert controller.router.user_of(engine) == ("engine" if house.has_keys else None)
    client = await house.connect(keys=house.curve.keys_for("client") if house.has_keys else None)
    client.link.send(b"client")
    await controller.until(lambda: len(controller.messages) == 2)
    if house.has_keys:
        assert controller.router.user_of(controller.messages[1][0]) == "client"


@only_with_keys
async def test_a_key_that_is_not_allowed_is_refused_with_a_reason(house: House) -> None:
    controller = await house.open()
    stranger = new_keys()
    peer = await house.connect(keys=CurveKeys(house.curve.server.public, stranger.public, stranger.secret))
    peer.link.send(b"hello")
    await peer.until(lambda: peer.lost)
    assert "refuses this key" in peer.lost[0]
    assert controller.messages == []
    assert controller.router.statistics()["refused"] == 1


@only_with_keys
async def test_without_keys_nobody_gets_in(house: House) -> None:
    controller = await house.open()
    peer = await house.connect(with_keys=False)
    peer.link.send(b"hello")
    await peer.until(lambda: peer.lost)
    assert "security mechanism" in peer.lost[0]
    assert controller.messages == []


@only_with_keys
async def test_another_controllers_key_fails_the_handshake(house: House) -> None:
    controller = await house.open()
    engine = house.curve.engine
    peer = await house.connect(keys=CurveKeys(new_keys().public, engine.public, engine.secret))
    peer.link.send(b"hello")
    await peer.until(lambda: peer.lost)
    assert "this controller wrote" in peer.lost[0]
    assert controller.messages == []
