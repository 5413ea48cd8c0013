"""The faults of the network in memory, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directview.testing import MemoryLink, MemoryRouter, Network, run
from directview.wire.sockets import Heartbeat


class Pair:
    """A router and a link on it, and what each heard and when."""

    def __init__(self, seed: int, delay: tuple[float, float]) -> None:
        self.loop = asyncio.get_running_loop()
        self.network = Network(seed=seed, delay=delay)
        self.heard: list[tuple[float, bytes]] = []
        self.answered: list[tuple[float, bytes]] = []
        self.router_lost: list[tuple[float, str]] = []
        self.link_lost: list[tuple[float, str]] = []
        self.router = MemoryRouter(
            network=self.network,
            on_message=self._heard,
            on_lost=lambda route, reason: self.router_lost.append((self.loop.time(), reason)),
            heartbeat=Heartbeat(1.0, 3.0),
        )
        self.router.bind_ipc("/c")
        self.link = MemoryLink(
            network=self.network,
            on_message=lambda header, frames: self.answered.append((self.loop.time(), header)),
            on_lost=lambda reason: self.link_lost.append((self.loop.time(), reason)),
        )

    def _heard(self, route: bytes, header: bytes, frames: object) -> None:
        self.router.admit(route)
        self.heard.append((self.loop.time(), header))
        self.router.send(route, header)

    @property
    def headers(self) -> list[bytes]:
        return [header for _, header in self.heard]

    @property
    def answers(self) -> list[bytes]:
        return [header for _, header in self.answered]


def paired(
    body: Callable[[Pair], Awaitable[None]], *, seed: int = 0, delay: tuple[float, float] = (0.0, 0.0)
) -> Pair:
    """Run `body` on a connected pair, then let everything settle."""

    async def main() -> Pair:
        pair = Pair(seed, delay)
        await pair.link.connect("ipc:///c", heartbeat=Heartbeat(30.0, 30.0), timeout=60.0)
        pair.link.send(b"hello")
        await asyncio.sleep(2 * delay[1] + 0.001)
        await body(pair)
        await asyncio.sleep(1000.0)
        return pair

    return run(main())


@given(seed=st.integers(0, 1000), low=st.sampled_from([0.0, 0.01]), spread=st.sampled_from([0.0, 0.5]))
def test_delays_never_reorder(seed: int, low: float, spread: float) -> None:
    numbers = [b"%d" % number for number in range(50)]

    async def body(pair: Pair) -> None:
        for number in numbers:
            pair.link.send(number)

    pair = paired(body, seed=seed, delay=(low, low + spread))
    assert pair.headers == pair.answers == [b"hello", *numbers]


def test_the_same_seed_gives_the_same_run() -> None:
    async def body(pair: Pair) -> None:
        for number in range(50):
            pair.link.send(b"%d" % number)
            await asyncio.sleep(0.01)

    runs = [paired(body, seed=seed, delay=(0.0, 0.3)) for seed in (1, 1, 2)]
    assert runs[0].answered == runs[1].answered
    assert runs[0].answered != runs[2].answered


def test_hold_delays_everything_and_nobody_notices() -> None:
    async def body(pair: Pair) -> None:
        with pair.network.hold(pair.link):
            pair.link.send(b"held")
            await asyncio.sleep(100)
            assert b"held" not in pair.headers
            pair.link.send(b"also held")

    pair = paired(body)
    assert pair.answers == [b"hello", b"held", b"also held"]
    assert pair.router_lost == pair.link_lost == []


def test_a_short_freeze_is_not_noticed() -> None:
    async def body(pair: Pair) -> None:
        with pair.network.freeze(pair.link):
            pair.link.send(b"from the ice")
            await asyncio.sleep(3.9)
            assert b"from the ice" not in pair.headers

    pair = paired(body)
    assert pair.answers == [b"hello", b"from the ice"]
    assert pair.router_lost == pair.link_lost == []


def test_a_long_freeze_is_taken_for_death_and_the_peer_learns_it_when_it_wakes() -> None:
    async def body(pair: Pair) -> None:
        started = pair.loop.time()
        with pair.network.freeze(pair.link):
            await asyncio.sleep(10)
            assert [when - started for when, _ in pair.router_lost] == [pytest.approx(4.0)]
            assert pair.link_lost == []
        await asyncio.sleep(0.1)
        assert len(pair.link_lost) == 1

    pair = paired(body)
    assert len(pair.router_lost) == len(pair.link_lost) == 1


def test_cut_loses_what_was_under_way_and_both_sides_notice_at_once() -> None:
    async def body(pair: Pair) -> None:
        pair.link.send(b"under way")
        pair.network.cut(pair.link)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(pair.router_lost) == len(pair.link_lost) == 1

    pair = paired(body, delay=(0.1, 0.1))
    assert pair.headers == [b"hello"]
    assert len(pair.router_lost) == len(pair.link_lost) == 1


def test_drop_is_noticed_by_each_sides_own_heartbeat() -> None:
    async def body(pair: Pair) -> None:
        pair.network.drop(pair.link)
        pair.link.send(b"into the void")
        started = pair.loop.time()
        await asyncio.sleep(200)
        assert [when - started for when, _ in pair.router_lost] == [pytest.approx(4.0)]
        assert [when - started for when, _ in pair.link_lost] == [pytest.approx(60.0)]

    pair = paired(body)
    assert pair.headers == [b"hello"]


def test_a_new_link_can_take_the_place_of_a_lost_one() -> None:
    async def body(pair: Pair) -> None:
        pair.network.cut(pair.link)
        again: list[bytes] = []
        link = MemoryLink(
            network=pair.network, on_message=lambda header, _: again.append(header), on_lost=lambda _: None
        )
        await link.connect("ipc:///c", timeout=1.0)
        link.send(b"me again")
        await asyncio.sleep(1.0)
        assert again == [b"me again"]

    paired(body)
