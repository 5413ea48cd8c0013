"""What waits for one engine, and the window of what it may have."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from directview.controller._queues import EngineQueue, Entry, batches
from directview.testing.invariants import check_queue
from directview.wire.messages import CHUNK_BYTES, MAX_FRAMES, CallItem

A, B = b"a" * 16, b"b" * 16


def entry(client: bytes, seq: int, nbytes: int = 10, nframes: int = 0, cost: int | None = None) -> Entry:
    item = CallItem(seq, (0,), "f", 0, nbytes, nframes, b"")
    return Entry(client, item, (), nbytes if cost is None else cost)


def keys(entries: Sequence[Entry]) -> list[tuple[bytes, int]]:
    return [(entry.client, entry.item.seq) for entry in entries]


def test_one_clients_calls_leave_in_order() -> None:
    queue = EngineQueue()
    for seq in range(1, 101):
        queue.put(entry(A, seq))
    assert keys(queue.take()) == [(A, seq) for seq in range(1, 101)]
    assert (queue.waiting, queue.window, queue.window_bytes) == (0, 100, 1000)


def test_clients_take_turns() -> None:
    """A flood of one delays another's call by one round."""
    queue = EngineQueue()
    for seq in range(1, 1001):
        queue.put(entry(A, seq))
    queue.put(entry(B, 1))
    assert (B, 1) in keys(queue.take())[:17]


def test_the_window_is_bounded_by_count() -> None:
    queue = EngineQueue(window_calls=3)
    for seq in range(1, 6):
        queue.put(entry(A, seq))
    assert keys(queue.take()) == [(A, 1), (A, 2), (A, 3)]
    assert queue.take() == []
    queue.ended(A, [2])
    assert keys(queue.take()) == [(A, 4)]


def test_the_window_is_bounded_by_bytes_but_one_call_always_goes() -> None:
    queue = EngineQueue(window_bytes=100)
    for seq, nbytes in ((1, 500), (2, 60), (3, 60)):
        queue.put(entry(A, seq, nbytes))
    assert keys(queue.take()) == [(A, 1)]
    queue.ended(A, [1])
    assert keys(queue.take()) == [(A, 2)]
    assert queue.take() == []
    queue.ended(A, [2])
    assert keys(queue.take()) == [(A, 3)]


def test_a_started_coroutine_fills_the_window_no_longer() -> None:
    queue = EngineQueue(window_calls=1)
    queue.put(entry(A, 1))
    queue.put(entry(A, 2))
    queue.take()
    queue.started(A, [1])
    queue.started(A, [1])
    assert (queue.window, queue.running) == (0, 1)
    assert keys(queue.take()) == [(A, 2)]
    queue.ended(A, [1, 2])
    assert len(queue) == 0


def test_a_paused_client_is_given_nothing_and_takes_nobodys_place() -> None:
    queue = EngineQueue(window_calls=2)
    for seq in (1, 2, 3):
        queue.put(entry(A, seq))
    queue.put(entry(B, 1))
    assert keys(queue.take()) == [(A, 1), (A, 2)]
    queue.pause(A)
    queue.pause(A)
    assert keys(queue.take()) == [(B, 1)]
    assert (queue.window, queue.paused, queue.waiting, len(queue)) == (1, 2, 1, 4)
    queue.ended(A, [1])
    queue.put(entry(A, 4))
    check_queue(queue)
    queue.go_on(A)
    assert (queue.window, queue.window_bytes, queue.paused) == (2, 20, 0)
    assert queue.take() == []
    queue.ended(B, [1])
    assert keys(queue.take()) == [(A, 3)]
    check_queue(queue)


def test_a_call_that_waits_can_be_taken_back() -> None:
    queue = EngineQueue()
    queue.put(entry(A, 1))
    queue.put(entry(A, 2))
    assert queue.withdraw(A, 1)
    assert not queue.withdraw(A, 1)
    assert keys(queue.take()) == [(A, 2)]
    assert not queue.withdraw(A, 2)
    assert queue.dispatched(A, 2)
    assert not queue.dispatched(A, 1)


def test_put_says_how_much_waits_in_the_clients_line() -> None:
    queue = EngineQueue()
    queue.put(entry(B, 1, 1000))
    assert queue.put(entry(A, 1, 10)) == (1, 10)
    assert queue.put(entry(A, 2, 20)) == (2, 30)
    assert queue.put(entry(A, 2, 50)) == (2, 60)


def test_the_dead_engines_calls_are_told_apart() -> None:
    """Those that ran or may have come first, and the running one first of all; the others never ran."""
    queue = EngineQueue(window_calls=2)
    for seq in (1, 2, 3, 4):
        queue.put(entry(A, seq))
    queue.take()
    queue.started(A, [2])
    queue.take()
    assert queue.drain() == ({A: [2, 1, 3]}, {A: [4]})
    assert (len(queue), queue.window_bytes) == (0, 0)


def test_a_client_that_left_is_forgotten() -> None:
    queue = EngineQueue(window_calls=2)
    for seq in (1, 2, 3):
        queue.put(entry(A, seq))
    queue.take()
    queue.put(entry(B, 1))
    queue.forget(A)
    assert keys(queue.take()) == [(B, 1)]
    assert list(queue.given()) == [(B, 1)]


def test_what_an_engine_says_that_it_holds_fills_the_window() -> None:
    queue = EngineQueue(window_calls=1)
    queue.adopt(A, 7)
    queue.adopt(A, 7)
    queue.put(entry(A, 8))
    assert queue.take() == []
    queue.ended(A, [7])
    assert keys(queue.take()) == [(A, 8)]


def test_messages_are_of_one_client_and_of_bounded_size() -> None:
    entries = [entry(A, 1), entry(A, 2, cost=CHUNK_BYTES), entry(A, 3), entry(B, 1), entry(A, 4)]
    assert [(client, keys(batch)) for client, batch in batches(entries)] == [
        (A, [(A, 1)]),
        (A, [(A, 2)]),
        (A, [(A, 3)]),
        (B, [(B, 1)]),
        (A, [(A, 4)]),
    ]
    framed = [entry(A, seq, nframes=MAX_FRAMES // 2) for seq in range(5)]
    assert [len(batch) for _, batch in batches(framed)] == [2, 2, 1]
    assert list(batches([])) == []


class Queues(RuleBasedStateMachine):
    """Anything in any order: the counts stay right."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = EngineQueue(window_calls=3, window_bytes=50)

    clients = st.sampled_from([A, B])
    seqs = st.integers(1, 8)

    @rule(client=clients, seq=seqs, nbytes=st.integers(0, 60))
    def put(self, client: bytes, seq: int, nbytes: int) -> None:
        self.queue.put(entry(client, seq, nbytes))

    @rule()
    def take(self) -> None:
        taken = self.queue.take()
        assert all(self.queue.dispatched(*key) for key in keys(taken))

    @rule(client=clients, seq=seqs)
    def withdraw(self, client: bytes, seq: int) -> None:
        self.queue.withdraw(client, seq)

    @rule(client=clients, some=st.lists(seqs, max_size=3))
    def started(self, client: bytes, some: list[int]) -> None:
        self.queue.started(client, some)

    @rule(client=clients, some=st.lists(seqs, max_size=3))
    def ended(self, client: bytes, some: list[int]) -> None:
        self.queue.ended(client, some)

    @rule(client=clients, paused=st.booleans())
    def pause(self, client: bytes, paused: bool) -> None:
        (self.queue.pause if paused else self.queue.go_on)(client)

    @rule(client=clients)
    def forget(self, client: bytes) -> None:
        self.queue.forget(client)

    @rule(client=clients)
    def withdraw_all(self, client: bytes) -> None:
        self.queue.withdraw_all(client)

    @invariant()
    def counts_are_right(self) -> None:
        check_queue(self.queue)
        assert len(self.queue) == len(list(self.queue.entries())) + len(list(self.queue.given()))


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
