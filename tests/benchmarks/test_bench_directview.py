"""directview as it is measured: over TCP, with simulated engines, and while it makes a great many calls."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peer import ALL, Unsupported
from benchmarks.peers.directview import DirectviewPeer
from benchmarks.peers.directview_curve import DirectviewCurvePeer

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its own, of short names: those of unix sockets must be."""
    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    monkeypatch.setenv("XDG_STATE_HOME", str(base))
    yield
    shutil.rmtree(base, ignore_errors=True)


def nothing() -> None:
    """What the smallest call calls."""


def test_over_tcp_neither_client_nor_engines_are_told_of_the_unix_socket() -> None:
    peer = DirectviewCurvePeer()
    peer.start(2)
    try:
        for role in ("client", "engine"):
            info = peer._connection.load(Path(peer._file).with_name(f"{role}.json"))
            assert [address[:6] for address in info.addresses] == ["tcp://"]
        assert peer.caller(lambda: 7, ALL)() == [7, 7]
        peer.push("a", np.arange(4.0), ALL)
        assert peer.stored("a") == [32, 32]
    finally:
        peer.stop()


def test_simulated_engines_answer_like_real_ones() -> None:
    measured = DirectviewPeer().simulated(nothing, 6, 3)
    assert measured.register > 0
    assert len(measured.calls) == 3


def test_growth_is_told_for_each_kind_of_process() -> None:
    peer = DirectviewPeer()
    peer.start(1)
    try:
        grown = peer.growth(nothing, 300, 100)
        assert all([isinstance(each, int) for each in (grown.client, grown.controller, grown.engine)])
        if not hasattr(peer._client, "share"):
            with pytest.raises(Unsupported, match="missing"):
                peer.share("a", np.arange(4.0))
        else:
            peer.share("a", np.arange(4.0))
            assert peer.stored("a") == [32]
    finally:
        peer.stop()
