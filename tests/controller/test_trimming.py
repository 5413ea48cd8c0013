"""What a burst leaves behind is given back when it is over, and only then."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys

import pytest

from directview.controller._trimming import Trimming
from directview.testing import loop as virtual

MB = 1 << 20


class Passing:
    """A controller through which bytes pass, and how often its heap was trimmed."""

    def __init__(self) -> None:
        self.bytes = self.trims = 0
        self.trimming = Trimming(asyncio.get_running_loop(), lambda: self.bytes, self._trim)

    def _trim(self) -> None:
        self.trims += 1

    async def pass_on(self, nbytes: int, seconds: int) -> None:
        """So many bytes in each of so many seconds."""
        for _ in range(seconds):
            self.bytes += nbytes
            await asyncio.sleep(1.0)


def trims_of(*steps: tuple[int, int]) -> list[int]:
    """How often it was trimmed after each of these steps."""

    async def run() -> list[int]:
        passing, found = Passing(), []
        passing.trimming.look()
        await asyncio.sleep(0.5)
        for nbytes, seconds in steps:
            await passing.pass_on(nbytes, seconds)
            found.append(passing.trims)
        passing.trimming.close()
        return found

    return virtual.run(run())


def test_once_after_each_burst() -> None:
    assert trims_of((64 * MB, 5), (0, 60), (64 * MB, 2), (0, 60)) == [0, 1, 1, 2]


def test_never_while_it_lasts_nor_for_little() -> None:
    assert trims_of((64 * MB, 60)) == [0]
    assert trims_of((8 * MB, 1), (0, 60)) == [0, 0]


def test_much_little_by_little_is_a_burst_too() -> None:
    """Heartbeats and small calls: trimmed each time that they have come to so much, not each second."""
    (trims,) = trims_of((MB // 4, 600))
    assert 1 <= trims <= 600 // 4 // 32 + 1


HOLES = """
import threading
import psutil
from directview.controller._trimming import _malloc_trim, one_heap
one_heap()
blocks = []
def allocate():
    blocks.extend(bytes(65_536) for _ in range(2_000))
thread = threading.Thread(target=allocate)
thread.start()
thread.join()
del blocks[:-1]  # The last one keeps the heap from shrinking by itself.
before = psutil.Process().memory_info().rss
_malloc_trim()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim")
def test_what_is_free_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 64 * MB
