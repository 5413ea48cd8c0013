"""Proving that two processes share a host."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from directview.wire import host


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has made no proof yet."""
    monkeypatch.setattr(host, "_proofs", {})


def run(code: str, *args: str) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", code, *args], check=True, capture_output=True, timeout=20
    ).stdout


def test_the_proof_is_small_and_stays_the_same() -> None:
    assert 0 < len(host.proof()) <= 256
    assert host.proof() == host.proof()


def test_another_process_on_this_host_accepts_the_proof() -> None:
    code = "import sys; from directview.wire.host import *; print(shares_host(bytes.fromhex(sys.argv[1])))"
    assert run(code, host.proof().hex()) == b"True\n"


def test_the_proof_of_a_process_that_ended_is_refused() -> None:
    theirs = run("from directview.wire.host import *; print(proof().hex(), end='')")
    assert not host.shares_host(bytes.fromhex(theirs.decode()))


def test_a_forked_child_makes_its_own(fresh: None) -> None:
    code = (
        "import os\n"
        "from directview.wire.host import *\n"
        "mine = proof()\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(7 if proof() != mine and shares_host(mine) else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
    )
    run(code)


def test_a_wrong_token_in_the_right_place_is_refused() -> None:
    pid, fd, token = msgpack.unpackb(host.proof(), use_list=False)
    assert host.shares_host(host._packed(pid, fd, token))
    assert not host.shares_host(host._packed(pid, fd, bytes(16)))


def test_another_file_of_a_process_is_no_proof(tmp_path: Path) -> None:
    """Only the token itself counts, not what a file happens to start with."""
    token = bytes(range(16))
    path = tmp_path / "f"
    path.write_bytes(token + b"more")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert not host.shares_host(host._packed(os.getpid(), fd, token))
    finally:
        os.close(fd)


def test_a_pipe_is_not_waited_for() -> None:
    reading, writing = os.pipe()
    try:
        assert not host.shares_host(host._packed(os.getpid(), reading, bytes(16)))
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        b"x" * 257,
        b"\xc1",
        b"\x05",
        host._packed(1, 2),
        host._packed(-1, 2, bytes(16)),
        host._packed(2**40, 2**40, bytes(16)),
        host._packed("../../etc/passwd", bytes(16)),
        host._packed("directview-host-../../etc/passwd", bytes(16)),
        host._packed("directview-host-nothing", bytes(16)),
    ],
)
def test_anything_else_is_refused_without_an_error(proof: bytes) -> None:
    assert not host.shares_host(proof)


@given(st.binary(max_size=300))
def test_no_bytes_raise(proof: bytes) -> None:
    assert not host.shares_host(proof)


def test_without_memory_files_an_ordinary_file_takes_their_place(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "_by_memory", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    proof = host.proof()
    assert host.shares_host(proof)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    host._remove(str(file), os.getpid())
    assert not host.shares_host(proof)


def test_where_neither_works_the_proof_is_empty_and_nothing_is_shared(
    fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "_by_memory", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert host.proof() == b""
    assert not host.shares_host(host.proof())
