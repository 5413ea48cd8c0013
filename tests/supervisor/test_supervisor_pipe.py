"""The pipe between supervisor and fork server: order, descriptors, and nobody waiting for ever."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directview.supervisor._pipe import Pipe, PipeClosed


@pytest.fixture
def pair() -> Iterator[tuple[Pipe, Pipe]]:
    first, second = map(Pipe, socket.socketpair())
    yield first, second
    first.close()
    second.close()


def marked(number: int) -> int:
    """A descriptor that can be told from others: the read end of a pipe that holds `number`."""
    read_end, write_end = os.pipe()
    os.write(write_end, str(number).encode())
    os.close(write_end)
    return read_end


def mark_of(fd: int) -> int:
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def test_messages_arrive_whole_with_their_descriptors(pair: tuple[Pipe, Pipe]) -> None:
    first, second = pair
    first.send({"number": 1}, (marked(1), marked(10)))
    first.send({"number": 2})
    first.send({"number": 3}, (marked(3),))
    found: list[Any] = []
    while len(found) < 3:
        found += second.receive()
    assert [message["number"] for message, _ in found] == [1, 2, 3]
    assert [[mark_of(fd) for fd in fds] for _, fds in found] == [[1, 10], [], [3]]


def test_received_descriptors_are_not_inherited_by_programs(pair: tuple[Pipe, Pipe]) -> None:
    first, second = pair
    first.send({}, (marked(1),))
    ((_, (fd,)),) = second.receive()
    assert not os.get_inheritable(fd)
    assert mark_of(fd) == 1


def test_posting_never_blocks_and_loses_nothing(pair: tuple[Pipe, Pipe]) -> None:
    """Far more than the kernel's buffers hold, while nobody reads."""
    first, second = pair
    count = 3000
    complete = True
    for number in range(count):
        fds: tuple[int, ...] = (marked(number),) if number % 10 == 0 else ()
        complete = first.post({"number": number, "padding": b"x" * 500}, fds)
    assert not complete
    found: list[Any] = []
    while len(found) < count:
        first.flush()
        found += second.receive()
    assert first.flush()
    assert [message["number"] for message, _ in found] == list(range(count))
    for number, (_, received) in enumerate(found):
        assert [mark_of(fd) for fd in received] == ([number] if number % 10 == 0 else [])


def test_descriptors_are_closed_when_they_are_sent_and_when_they_never_can_be(
    pair: tuple[Pipe, Pipe],
) -> None:
    first, second = pair
    fd = marked(1)
    first.send({}, (fd,))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    second.close()
    fd = marked(2)
    with pytest.raises(PipeClosed):
        first.post({}, (fd,))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_the_other_ends_close_is_told_after_all_that_it_sent(pair: tuple[Pipe, Pipe]) -> None:
    first, second = pair
    first.send({"last": True})
    first.close()
    assert second.receive() == [({"last": True}, ())]
    with pytest.raises(PipeClosed):
        second.receive()


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=20))
def test_any_contents_survive(bodies: list[bytes]) -> None:
    first, second = map(Pipe, socket.socketpair())
    try:
        found: list[Any] = []
        for body in bodies:
            first.post({"body": body})
        while len(found) < len(bodies):
            first.flush()
            found += second.receive()
        assert [message["body"] for message, _ in found] == bodies
    finally:
        first.close()
        second.close()
