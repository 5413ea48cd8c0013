"""What a controller leaves for the next one: whole whenever it dies, and written though the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from directview.controller.takeover import Registered, remove_takeover
from directview.errors import LaunchError
from directview.folders import TAKEOVER_FILES

FILES = TAKEOVER_FILES[1:]


def peers(n: int, generation: int) -> Registered:
    return Registered(1, {number.to_bytes(16, "big"): number - 1 for number in range(n)}, generation)


def test_the_newest_that_was_written_is_read(tmp_path: Path) -> None:
    assert Registered.read(tmp_path) is None
    for generation in range(1, 6):
        peers(generation, generation).write(tmp_path)
        assert Registered.read(tmp_path) == peers(generation, generation)
        assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in FILES} == {0o600}
    remove_takeover(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_peers_that_come_later_take_no_room(tmp_path: Path) -> None:
    """From the beginning there is some for them."""
    peers(0, 1).write(tmp_path)
    before = [(tmp_path / name).stat() for name in FILES]
    for generation in range(2, 100):
        peers(generation, generation).write(tmp_path)
    after = [(tmp_path / name).stat() for name in FILES]
    assert [(each.st_ino, each.st_size) for each in after] == [(each.st_ino, each.st_size) for each in before]


@pytest.mark.parametrize("kept", range(0, 16_384, 1000))
def test_one_that_was_not_written_to_its_end_does_not_count(tmp_path: Path, kept: int) -> None:
    """The controller was killed in the middle of it: the one before is there."""
    for generation in range(1, 4):
        peers(200 + generation, generation).write(tmp_path)
    path = tmp_path / FILES[0]
    before = path.read_bytes()
    peers(300, 4).write(tmp_path)
    written = path.read_bytes()
    path.write_bytes(written[:kept] + before[kept:])
    whole = written.rstrip()
    expected = peers(300, 4) if kept >= len(whole) else peers(203, 3)
    assert Registered.read(tmp_path) == expected


def test_more_than_fits_on_the_disk_costs_nothing_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is tried again; and when there is room, it is written."""
    for generation in range(1, 4):
        peers(3, generation).write(tmp_path)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if os.lseek(fd, 0, os.SEEK_CUR) >= 16_384:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:16_384])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                peers(1000, 4).write(tmp_path)
            assert Registered.read(tmp_path) == peers(3, 3)
    peers(1000, 4).write(tmp_path)
    assert Registered.read(tmp_path) == peers(1000, 4)


def test_damaged_ones_are_named(tmp_path: Path) -> None:
    peers(3, 1).write(tmp_path)
    for name in FILES:
        (tmp_path / name).write_text("{}")
    with pytest.raises(LaunchError, match=r"engines\.json, by which this controller .* is damaged .* remove"):
        Registered.read(tmp_path)
