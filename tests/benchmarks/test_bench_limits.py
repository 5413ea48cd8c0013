"""Limit programs do the work that they bound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.limits.arena import TwoCopies
from benchmarks.limits.maps import Pickling, Serial, bound
from benchmarks.limits.unix import UnixSocket


@pytest.mark.parametrize(
    ("client", "engines", "cores", "seconds"),
    [
        (1.0, 3.0, 2, 2.0),  # two cores share all of it
        (3.0, 1.0, 2, 3.0),  # the client can't be helped
        (1.0, 3.0, 1, 4.0),
    ],
)
def test_no_map_is_faster_than_its_client_or_than_all_cores(
    client: float, engines: float, cores: int, seconds: float
) -> None:
    assert bound(client, engines, cores) == seconds


def test_pickling_maps_and_counts_as_its_bound() -> None:
    peer = Pickling()
    peer.start(4)
    assert peer.map(lambda item: item + 1, list(range(1001))) == list(range(1, 1002))
    assert 0 < peer.counted(1e9) < 60


def test_one_process_counts_as_what_it_took() -> None:
    peer = Serial()
    assert peer.map(abs, [-1, 2]) == [1, 2]
    assert peer.counted(7.0) == 7.0


@pytest.mark.process
class TestProcesses:
    """Those that consist of several."""

    @pytest.fixture
    def two_copies(self) -> Iterator[TwoCopies]:
        peer = TwoCopies()
        peer.start(4)
        yield peer
        peer.stop()

    @pytest.mark.parametrize("size", [8, 1_000, 1_300_001])
    def test_what_is_gathered_is_what_was_scattered(self, two_copies: TwoCopies, size: int) -> None:
        array = np.random.default_rng(0).random(size)
        for _ in range(2):
            two_copies.scatter("a", array)
            assert sum(two_copies.stored("a")) == array.nbytes
            assert np.array_equal(two_copies.gather("a"), array)

    def test_a_call_over_a_bare_socket_is_answered(self) -> None:
        peer = UnixSocket()
        peer.start(1)
        try:
            call = peer.caller(lambda: None, 0)
            for _ in range(3):
                call()
        finally:
            peer.stop()
