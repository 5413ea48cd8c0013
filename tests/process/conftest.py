"""For tests with real clusters: folders of their own, and nothing may be left behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import zmq

from directview import Cluster
from directview.testing.leaks import no_leaks
from directview.wire.arena import arena
from directview.wire.host import proof
from directview.wire.sockets import shared_context

MARK = "DIRECTVIEW_TEST_RUN"


@pytest.fixture(scope="module")
def own_folders() -> Iterator[Path]:
    """Runtime and state folders for this module alone; all processes that it starts are marked.

    The path is short, because sockets lie below it.
    """
    base = Path(tempfile.mkdtemp(prefix="dv-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(base / "run"))
        patch.setenv("XDG_STATE_HOME", str(base / "state"))
        patch.setenv(MARK, secrets.token_hex(8))
        (base / "run").mkdir(mode=0o700)
        # What a process keeps for as long as it lives: zmq's own threads, the token that proves its host, and
        # its memory to share.
        shared_context().socket(zmq.DEALER).close(0)
        proof()
        arena()
        try:
            with no_leaks(base / "run", (MARK, os.environ[MARK])):
                yield base
        finally:
            shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(own_folders: Path) -> Iterator[Cluster]:
    """Two engines, for all tests of a module."""
    with Cluster(n=2) as rc:
        assert rc.cluster is not None
        yield rc.cluster


@pytest.fixture
def in_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test ends within a minute (a slow one: ten), wherever it may hang."""

    def too_long(signum: int, frame: FrameType | None) -> None:
        raise AssertionError("the test's time is up")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(600 if request.node.get_closest_marker("slow") else 60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def nothing_left(own_folders: Path, in_time: None) -> Iterator[None]:
    """The test leaves no process, thread, descriptor, socket or file behind, beyond what was there before."""
    with no_leaks(own_folders / "run", (MARK, os.environ[MARK])):
        yield
