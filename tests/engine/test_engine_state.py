"""The engine's bookkeeping of calls, message by message."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.engine._state import Call, EngineState, Stage
from directview.testing.invariants import check_engine
from directview.testing.simulated_memory import SimulatedMemory
from directview.testing.strategies import any_message
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    BALANCED,
    FORGOTTEN,
    OK,
    RESULT,
    UNKNOWN,
    Abort,
    Accept,
    Ack,
    CallItem,
    Chunk,
    Forget,
    Grant,
    Message,
    ProtocolError,
    Result,
    Resume,
    ResumeItem,
    Submit,
    Welcome,
)
from directview.wire.parcels import Packed, pack
from directview.wire.transfers import SEEN, SHARED, Pace

A, B = b"a" * 16, b"b" * 16
PACE = Pace(chunk=10, ahead=40)


def engine() -> EngineState:
    state = EngineState(PACE)
    state.id, state.uuid = 3, b"e" * 16
    return state


def submit(
    seq: int,
    *more: int,
    client: bytes = A,
    watermark: int = 1,
    size: int = 0,
    targets: tuple[int, ...] = (3,),
) -> Submit:
    """Calls with arguments of `size` bytes: as chunks, if there are any."""
    parcel = pack((Packed(b"f", ()), Packed(b"", [memoryview(bytes(size))] if size else [])), chunk_bytes=8)
    calls = [CallItem(n, targets, f"call{n}", 0, parcel.nbytes, 0, parcel.body) for n in (seq, *more)]
    return Submit(client, watermark, tuple(calls))


def chunks(seq: int, size: int, client: bytes = A) -> list[tuple[Chunk, list[bytes]]]:
    return [
        (Chunk(client, seq, (3,), ARGUMENT, offset), [bytes(min(10, size - offset))])
        for offset in range(0, size, 10)
    ]


def question(*seqs: int, client: bytes = A) -> Resume:
    return Resume(client, tuple([ResumeItem(seq, 3, b"e" * 16) for seq in seqs]), False)


def said(state: EngineState) -> list[Message]:
    return [message for message, _ in state.flush()]


def run_all(state: EngineState) -> list[int]:
    """Run what may run, each to its end; their seqs in order."""
    seqs = []
    while (call := state.next_call()) is not None:
        seqs.append(call.seq)
        state.finished(call, OK, 1.0, 2.0, pack((Packed(b"value", ()),)))
    return seqs


def started(state: EngineState) -> Call:
    call = state.next_call()
    assert call is not None
    return call


def ends(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """(seq, status) of all results."""
    return [
        (item.seq, item.status)
        for message in messages
        if isinstance(message, Result)
        for item in message.items
    ]


def test_calls_run_in_the_order_in_which_they_come() -> None:
    state = engine()
    state.receive(submit(1, 2, 3), ())
    state.receive(submit(1, client=B), ())
    order = []
    while (call := state.next_call()) is not None:
        order.append(call.key)
    assert order == [(A, 1), (A, 2), (A, 3), (B, 1)]
    assert state.idle


def test_a_call_that_ends_in_its_turn_is_answered_by_its_result_alone() -> None:
    state = engine()
    state.receive(submit(1), ())
    run_all(state)
    assert ends(said(state)) == [(1, OK)]
    assert said(state) == []


def test_what_waits_or_runs_is_accepted_and_what_is_suspended_as_started() -> None:
    state = engine()
    state.receive(submit(1, 2, 3), ())
    state.suspended(started(state))
    started(state)
    assert said(state) == [Accept(A, 3, (1,), (2, 3))]
    assert not state.has_news


def test_the_same_call_runs_once_however_often_it_comes() -> None:
    state = engine()
    state.receive(submit(1), ())
    state.receive(submit(1), ())
    assert run_all(state) == [1]
    assert ends(said(state)) == [(1, OK)]
    state.receive(submit(1), ())
    assert run_all(state) == []
    assert ends(said(state)) == [(1, OK)]


def test_a_call_for_others_is_none_of_ours() -> None:
    state = engine()
    state.receive(submit(1, targets=(1, 2)), ())
    state.receive(submit(2, targets=(BALANCED,)), ())
    assert run_all(state) == [2]


def test_the_result_is_kept_until_the_client_has_it() -> None:
    state = engine()
    state.receive(submit(1, 2), ())
    run_all(state)
    said(state)
    state.receive(question(1, 2), ())
    assert ends(said(state)) == [(1, OK), (2, OK)]
    state.receive(Ack(A, 1, ((9, (1,)), (3, (2,)))), ())
    state.receive(question(1, 2), ())
    assert sorted(ends(said(state))) == [(1, OK), (2, UNKNOWN)]


def test_the_watermark_acknowledges_what_is_below() -> None:
    state = engine()
    state.receive(submit(1, 2, 3), ())
    run_all(state)
    said(state)
    state.receive(submit(4, watermark=3), ())
    state.receive(submit(5, watermark=1), ())
    state.receive(question(1, 2, 3), ())
    assert sorted(ends(said(state))) == [(1, UNKNOWN), (2, UNKNOWN), (3, OK)]


def test_a_call_below_the_watermark_never_runs_and_its_sender_hears_so() -> None:
    state = engine()
    state.receive(submit(5, watermark=5), ())
    state.receive(submit(4, watermark=5), ())
    assert run_all(state) == [5]
    assert sorted(ends(said(state))) == [(4, UNKNOWN), (5, OK)]


def test_a_result_that_nobody_waits_for_any_more_is_not_kept() -> None:
    state = engine()
    state.receive(submit(1), ())
    call = started(state)
    state.receive(Ack(A, 2, ()), ())
    state.finished(call, OK, 1.0, 2.0, pack((Packed(b"value", ()),)))
    assert ends(said(state)) == [(1, UNKNOWN)]
    state.receive(question(1), ())
    assert ends(said(state)) == [(1, UNKNOWN)]


# --- large arguments ------------------------------------------------------------------------------------


def test_a_large_call_runs_when_it_is_whole() -> None:
    state = engine()
    state.receive(submit(1, size=25), ())
    assert state.next_call() is None
    assert said(state) == [Grant(A, 1, 3, ARGUMENT, 25)]
    for message, frames in chunks(1, 25):
        assert state.next_call() is None
        state.receive(message, frames)
    call = started(state)
    assert call.parcel is not None
    assert bytes(call.parcel.objects()[1].buffers[0]) == bytes(25)


def test_a_clients_later_calls_wait_for_its_large_one_and_are_not_accepted_before() -> None:
    """If it has to be sent again, so have they: or they would overtake it."""
    state = engine()
    state.receive(submit(1, size=25), ())
    state.receive(submit(2), ())
    state.receive(submit(1, client=B), ())
    assert run_all(state) == [1]
    assert [message for message in said(state) if isinstance(message, Accept)] == []
    for message, frames in chunks(1, 25):
        state.receive(message, frames)
    assert said(state) == [Accept(A, 3, (), (1, 2))]
    assert run_all(state) == [1, 2]


def test_two_large_payloads_are_received_ahead_and_no_more() -> None:
    """Also when they are whole: memory is for the next to run, and the one after it."""
    state = engine()
    state.receive(submit(1, 2, 3, 4, size=20), ())
    assert [message.seq for message in said(state) if isinstance(message, Grant)] == [1, 2]
    for seq in (1, 2):
        for message, frames in chunks(seq, 20):
            state.receive(message, frames)
    assert [message for message in said(state) if isinstance(message, Grant)] == []
    started(state)
    assert [message.seq for message in said(state) if isinstance(message, Grant)] == [3]


def test_grants_follow_what_was_received() -> None:
    state = engine()
    state.receive(submit(1, size=100), ())
    assert said(state) == [Grant(A, 1, 3, ARGUMENT, 40)]
    (first, _), *_ = chunks(1, 100)
    state.receive(first, [bytes(10)])
    assert said(state) == [Grant(A, 1, 3, ARGUMENT, 50, received=10)]
    state.receive(first, [bytes(10)])
    assert said(state) == []


def test_a_chunk_that_does_not_fit_spoils_its_own_call_only() -> None:
    state = engine()
    state.receive(submit(1, size=20), ())
    state.receive(submit(2), ())
    state.receive(Chunk(A, 1, (3,), ARGUMENT, 0), [bytes(21)])
    call = started(state)
    assert isinstance(call.problem, ProtocolError)
    assert started(state).problem is None


def test_a_payload_that_is_no_parcel_spoils_its_own_call_only() -> None:
    state = engine()
    state.receive(Submit(A, 1, (CallItem(1, (3,), "f", 0, 0, 0, b"rubbish"),)), ())
    assert isinstance(started(state).problem, ProtocolError)


# --- large results ----------------------------------------------------------------------------------------


def test_a_large_result_goes_out_as_it_is_granted() -> None:
    state = engine()
    state.receive(submit(1), ())
    parcel = pack((Packed(b"", [memoryview(bytes(range(25)))]),), chunk_bytes=8)
    state.finished(started(state), OK, 1.0, 2.0, parcel)
    assert ends(said(state)) == [(1, OK)]
    assert not state.has_news
    state.receive(Grant(A, 1, 3, RESULT, 15), ())
    assert said(state) == [Chunk(A, 1, (3,), RESULT, 0), Chunk(A, 1, (3,), RESULT, 10)]
    state.receive(Grant(A, 1, 3, RESULT, 25), ())
    ((last, frames),) = state.flush()
    assert last == Chunk(A, 1, (3,), RESULT, 20)
    assert bytes(frames[0]) == bytes(range(20, 25))
    assert state.lent, "whoever has it may have to ask again"


def test_a_large_result_that_is_asked_for_again_begins_again() -> None:
    state = engine()
    state.receive(submit(1), ())
    state.finished(started(state), OK, 1.0, 2.0, pack((Packed(b"", [memoryview(bytes(20))]),), chunk_bytes=8))
    state.receive(Grant(A, 1, 3, RESULT, 20), ())
    said(state)
    state.receive(question(1), ())
    assert ends(said(state)) == [(1, OK)]
    state.receive(Grant(A, 1, 3, RESULT, 20), ())
    assert [message.offset for message in said(state) if isinstance(message, Chunk)] == [0, 10]
    state.receive(Ack(A, 1, ((3, (1,)),)), ())
    assert not state.lent


def test_a_large_result_that_is_kept_is_what_it_was() -> None:
    """Its buffers are the user's: before other code runs, what is still to be sent is copied."""
    state = engine()
    memory = np.arange(25, dtype=np.uint8)
    state.receive(submit(1), ())
    parcel = pack((Packed(b"", [memory.data]),), chunk_bytes=8)
    state.finished(started(state), OK, 1.0, 2.0, parcel)
    state.receive(Grant(A, 1, 3, RESULT, 10), ())
    said(state)
    assert state.lent
    state.keep_lent()
    assert not state.lent
    memory[:] = 0
    state.receive(Grant(A, 1, 3, RESULT, 25), ())
    assert b"".join([bytes(frames[0]) for _, frames in state.flush()]) == bytes(range(10, 25))
    state.receive(question(1), ())
    state.receive(Grant(A, 1, 3, RESULT, 25), ())
    chunks = [bytes(frames[0]) for message, frames in state.flush() if isinstance(message, Chunk)]
    assert b"".join(chunks) == bytes(range(25)), "also when it is asked for again"


@pytest.mark.parametrize("reads", [SHARED, SEEN])
def test_a_large_result_through_shared_memory_frees_what_was_read(reads: int) -> None:
    memory = SimulatedMemory({}, slot_bytes=20, slots=2, random=Random(1))
    state = EngineState(PACE, memory)
    state.id = 3
    state.receive(submit(1), ())
    content = bytes(range(100))
    state.finished(started(state), OK, 1.0, 2.0, pack((Packed(b"", [memoryview(content)]),), chunk_bytes=8))
    said(state)
    came = bytearray()
    while len(came) < 100:
        upto = min(100, len(came) + 40)
        state.receive(Grant(A, 1, 3, RESULT, upto, received=len(came), shared=reads), ())
        for message, frames in state.flush():
            assert isinstance(message, Chunk)
            assert message.offset == len(came)
            if message.place < 0:
                came += bytes(frames[0])
            else:
                assert not frames
                if message.place in memory.shown:
                    piece = np.zeros(message.nbytes, np.uint8)
                    assert memory.look(message.place, piece)
                    came += piece.tobytes()
                else:
                    assert memory.read(message.place, message.nbytes, came.extend)
    assert bytes(came) == content
    assert (memory.seen if reads == SEEN else memory.read_places) >= 2
    state.receive(Ack(A, 1, ((3, (1,)),)), ())
    assert not memory.lent
    assert not memory.shown


# --- ending calls ---------------------------------------------------------------------------------------


def test_an_abort_ends_what_has_not_started() -> None:
    state = engine()
    state.receive(submit(1, 2), ())
    state.receive(submit(3, size=20), ())
    state.receive(submit(4), ())
    state.receive(Abort(A, ((3, (2, 3)), (9, (1,)))), ())
    assert run_all(state) == [1, 4]
    assert sorted(ends(said(state))) == [(1, OK), (2, ABORTED), (3, ABORTED), (4, OK)]


def test_an_abort_cancels_a_coroutine_once() -> None:
    state = engine()
    state.receive(submit(1), ())
    call = started(state)
    state.suspended(call)
    state.receive(Abort(A, ((3, (1, 7)),)), ())
    state.receive(Abort(A, ((3, (1,)),)), ())
    assert state.to_cancel == [call]
    state.to_cancel.clear()
    state.receive(Abort(A, ((3, (1,)),)), ())  # A client that has reconnected says it again.
    assert state.to_cancel == [], "it would be hit in the middle of cleaning up"


def test_an_abort_of_what_runs_or_has_ended_changes_nothing() -> None:
    state = engine()
    state.receive(submit(1, 2), ())
    call = started(state)
    state.receive(Abort(A, ((3, (1,)),)), ())
    assert call.stage is Stage.RUNNING
    state.finished(call, OK, 1.0, 2.0, None)
    state.receive(Abort(A, ((3, (1,)),)), ())
    state.receive(Abort(B, ((3, (1,)),)), ())
    assert ends(said(state)) == [(1, OK)]


def test_a_forgotten_client_leaves_nothing_but_what_runs() -> None:
    state = engine()
    state.receive(submit(1, 2), ())
    state.receive(submit(3, size=20), ())
    call = started(state)
    state.receive(Forget(A), ())
    assert state.next_call() is None
    assert ends(said(state)) == [(2, UNKNOWN), (3, UNKNOWN)]
    state.finished(call, OK, 1.0, 2.0, pack((Packed(b"value", ()),)))
    assert ends(said(state)) == [(1, FORGOTTEN)], "whoever interrupts it can stop"
    assert state.resume() == [Resume(b"", (), True)]
    state.receive(Forget(A), ())


def test_what_a_forgotten_client_had_begun_never_begins_again() -> None:
    """It may come back to a controller that does not know that it was given up."""
    state = engine()
    state.receive(submit(1, 2, 3), ())
    state.finished(started(state), OK, 1.0, 2.0, None)
    started(state)
    state.receive(Forget(A), ())
    said(state)
    state.receive(question(1, 2, 3, 4, 1 << 62), ())
    assert ends(said(state)) == [
        (1, FORGOTTEN), (2, FORGOTTEN), (3, UNKNOWN), (4, UNKNOWN), (1 << 62, UNKNOWN),
    ]  # fmt: skip
    state.receive(submit(2, 3), ())
    assert ends(said(state)) == [(2, FORGOTTEN)]
    assert started(state).seq == 3
    state.receive(Forget(A), ())
    state.receive(question(1, 2, 3, 4), ())
    assert [status for _, status in ends(said(state))] == [FORGOTTEN, FORGOTTEN, FORGOTTEN, UNKNOWN]


# --- questions, and lost connections ----------------------------------------------------------------------


def test_each_call_asked_about_is_answered() -> None:
    state = engine()
    state.receive(submit(1, 2, 3), ())
    state.finished(started(state), OK, 1.0, 2.0, None)
    state.suspended(started(state))
    said(state)
    state.receive(question(1, 2, 3, 4, 1 << 62), ())
    messages = said(state)
    assert ends(messages) == [(4, UNKNOWN), (1 << 62, UNKNOWN), (1, OK)]
    assert Accept(A, 3, (2,), (3,)) in messages


def test_what_is_still_arriving_is_forgotten_when_its_client_asks() -> None:
    """It sends it again, from the start and in order; another client's calls are not concerned."""
    state = engine()
    state.receive(submit(1, size=25), ())
    state.receive(submit(2), ())
    state.receive(submit(1, size=25, client=B), ())
    said(state)
    state.receive(*chunks(1, 25)[0])
    said(state)
    state.receive(question(1, 2), ())
    assert ends(said(state)) == [(1, UNKNOWN), (2, UNKNOWN)]
    state.receive(submit(1, size=25), ())
    assert Grant(A, 1, 3, ARGUMENT, 25) in said(state)
    for message, frames in (*chunks(1, 25), *chunks(1, 25, B)):
        state.receive(message, frames)
    assert run_all(state) == [1, 1]


def test_a_lost_connection_drops_what_is_half_here_and_keeps_the_rest() -> None:
    state = engine()
    state.receive(submit(1, 2, 3), ())
    state.receive(submit(4, size=25), ())
    state.suspended(started(state))
    running = started(state)
    state.link_lost()
    assert said(state) == []
    state.finished(running, OK, 1.0, 2.0, None)
    assert said(state) == []
    assert state.resume() == [
        Resume(A, (ResumeItem(1, 3, b"e" * 16), ResumeItem(3, 3, b"e" * 16)), False),
        Resume(b"", (), True),
    ]
    assert said(state) == [Accept(A, 3, (1,), ())]
    state.receive(question(1, 2, 3, 4), ())
    assert sorted(ends(said(state))) == [(2, OK), (4, UNKNOWN)]


def test_what_is_held_is_told_in_messages_of_bounded_size() -> None:
    state = engine()
    for first in range(1, 10_001, 500):
        state.receive(submit(*range(first, first + 500)), ())
    state.link_lost()
    messages = state.resume()
    assert [len(m.items) for m in messages if isinstance(m, Resume)] == [4096, 4096, 1808, 0]
    state.receive(question(*range(1, 10_001)), ())
    assert [len(m.held) for m in said(state) if isinstance(m, Accept)] == [4096, 4096, 1808]


@pytest.mark.parametrize(
    "message",
    [
        Welcome(1, 1, 0, "stop", 1.0, 1, 1, ()),
        Chunk(A, 1, (3,), RESULT, 0),
        Grant(A, 1, 3, ARGUMENT, 1),
        Result(A, 3, ()),
    ],
)
def test_what_no_engine_takes_is_refused(message: Message) -> None:
    with pytest.raises(ProtocolError, match="an engine takes no"):
        engine().receive(message, [b""])


UUIDS = st.sampled_from([A, B])


@given(
    steps=st.lists(
        any_message(UUIDS) | st.sampled_from(["run", "suspend", "end", "lost", "resume"]), max_size=30
    )
)
@settings(max_examples=100, deadline=None)
def test_no_message_in_any_order_upsets_it(steps: list[Any]) -> None:
    """Valid ones, from whoever controls the controller: refused, or taken without harm to the bookkeeping."""
    state = engine()
    state.id = 0
    running: list[Call] = []
    for step in steps:
        if step == "run":
            call = state.next_call()
            running += [call] if call is not None else []
        elif step == "suspend" and running:
            state.suspended(running[-1])
        elif step == "end" and running:
            state.finished(running.pop(), OK, 1.0, 2.0, None)
        elif step == "lost":
            state.link_lost()
        elif step == "resume":
            state.resume()
        elif not isinstance(step, str):
            try:
                state.receive(step, [b"frame"] * 50)
            except ProtocolError:
                pass
        check_engine(state)
        list(state.flush())
    check_engine(state)
