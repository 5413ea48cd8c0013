"""Memory for large buffers: writable, whole, used again when nobody holds it, and never before."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from directview.wire import blocks, idle
from directview.wire.blocks import SMALLEST, BlockPool

MB = 1 << 20


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_writable_and_as_large_as_asked_for() -> None:
    pool = BlockPool()
    for size in (1, SMALLEST - 1, SMALLEST, 3 * MB + 1):
        block = pool.take(size)
        assert (block.shape, block.dtype, block.flags.writeable) == ((size,), np.uint8, True)
        block[:] = 7
        assert block.sum() == 7 * size


def test_a_block_is_taken_again_when_its_last_view_is_gone() -> None:
    pool = BlockPool()
    block = pool.take(4 * MB)
    where = address(block)
    view = np.frombuffer(block, np.float64)[5:].reshape(-1, 1)
    del block
    gc.collect()
    other = pool.take(4 * MB)
    assert address(other) != where, "a view still refers to it"
    del view
    gc.collect()
    assert address(pool.take(4 * MB - 100)) == where


def test_a_much_larger_block_is_not_wasted_on_a_small_one() -> None:
    pool = BlockPool()
    pool.take(64 * MB)
    gc.collect()
    assert pool.idle_bytes == 64 * MB
    pool.take(2 * MB)
    assert pool.idle_bytes >= 64 * MB


@pytest.mark.parametrize("size", [3 * MB, 20 * MB])
def test_what_is_kept_is_bounded(size: int) -> None:
    pool = BlockPool(idle_bytes=10 * MB)
    held = [pool.take(size) for _ in range(8)]
    del held
    gc.collect()
    assert pool.idle_bytes <= 10 * MB


def test_what_nobody_wants_goes() -> None:
    pool = BlockPool()
    pool.take(4 * MB)
    gc.collect()
    pool.trim(60.0)
    assert pool.idle_bytes == 4 * MB
    pool.trim(0.0)
    assert pool.idle_bytes == 0


def test_garbage_may_be_collected_while_a_block_is_looked_for() -> None:
    """The lock is held then: the block is let go of instead of kept, and nothing waits for anything."""
    pool = BlockPool()
    block = pool.take(4 * MB)
    with pool._lock:
        del block
        gc.collect()
    assert pool.idle_bytes == 0


def test_there_is_one_pool_for_all() -> None:
    assert blocks.take(SMALLEST).shape == (SMALLEST,)
    idle.trim(0.0)
