"""The client's bookkeeping of calls, message by message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview._client_acks import ACK_BYTES, ACK_COUNT, ACK_DELAY
from directview._client_state import (
    Answered,
    Call,
    ClientState,
    Ended,
    EnginesChanged,
    Gone,
    Printed,
    Sent,
)
from directview.testing.invariants import check_client
from directview.testing.strategies import any_message
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    CHUNK_BYTES,
    OK,
    RESULT,
    UNKNOWN,
    Abort,
    Accept,
    Ack,
    Answer,
    Chunk,
    Credit,
    EngineInfo,
    Engines,
    Grant,
    Lost,
    Message,
    Output,
    ProtocolError,
    Query,
    Result,
    ResultItem,
    Resume,
    Submit,
    Taken,
    Welcome,
    encode,
)
from directview.wire.parcels import Packed, Parcel, pack
from directview.wire.transfers import Pace

ME = b"c" * 16
PACE = Pace(chunk=10, ahead=40)
MARK = 1 << 62


def info(id: int, generation: int = 0) -> EngineInfo:
    return EngineInfo(id, bytes([id % 256, id >> 8, generation, 1]) * 4, 1, "h", "3", b"")


def welcome(*ids: int, incarnation: int = 1, credit: tuple[int, int] = (100, 1 << 20)) -> Welcome:
    return Welcome(1, incarnation, -1, "wait", 1.0, *credit, tuple([info(id) for id in ids]))


def client(*ids: int, credit: tuple[int, int] = (100, 1 << 20)) -> ClientState:
    """A client that has just been welcomed, with these engines there."""
    state = ClientState(ME, PACE)
    state.welcome(welcome(*ids, credit=credit))
    said(state)
    state.events()
    return state


def payload(size: int = 0) -> Parcel:
    return pack((Packed(b"f", ()), Packed(b"", [memoryview(bytes(size))] if size else [])), chunk_bytes=8)


def call(state: ClientState, *targets: int, size: int = 0) -> Call:
    made = Call(state.next_seq, f"call{state.next_seq}", targets, payload(size), None)
    state.submit(made)
    return made


def said(state: ClientState) -> list[Message]:
    return [message for message, _ in state.flush()]


def submitted(messages: Sequence[Message]) -> list[tuple[int, tuple[int, ...]]]:
    """(seq, targets) of all calls sent."""
    return [(item.seq, item.targets) for m in messages if isinstance(m, Submit) for item in m.calls]


def result(seq: int, status: int = OK, size: int = 0) -> ResultItem:
    parcel = pack((Packed(b"v", [memoryview(bytes(size))] if size else []),), chunk_bytes=8)
    return ResultItem(seq, status, 1.0, 2.0, parcel.nbytes, 0, parcel.body)


def unknown(*seqs: int, engine: int = 0) -> Result:
    return Result(ME, engine, tuple([ResultItem(seq, UNKNOWN, 0.0, 0.0, 0, 0, b"") for seq in seqs]))


def hear(state: ClientState, message: Message, frames: Sequence[Any] = (), now: float = 0.0) -> list[Any]:
    """Let a message come in; what happened through it."""
    state.events()
    state.receive(message, frames, now)
    return state.events()


def back(state: ClientState, *ids: int, incarnation: int = 1) -> list[Message]:
    """Lose the connection and get another one; what is said then."""
    state.link_lost()
    state.welcome(welcome(*ids, incarnation=incarnation))
    return said(state)


def asked(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """(seq, engine) of all calls asked about, without marks."""
    items = [item for m in messages if isinstance(m, Resume) for item in m.items]
    return [(item.seq, item.engine) for item in items if item.seq < MARK]


def mark(messages: Sequence[Message], engine: int = 0) -> int:
    """The mark in the question to this engine."""
    (found,) = [
        item.seq
        for m in messages
        if isinstance(m, Resume)
        for item in m.items
        if item.seq >= MARK and item.engine == engine
    ]
    return found


# --- sending --------------------------------------------------------------------------------------------


def test_calls_of_one_turn_travel_together_and_in_order() -> None:
    state = client(0, 1)
    for _ in range(3):
        call(state, 0, 1)
    call(state, 1)
    messages = said(state)
    assert len(messages) == 1
    assert submitted(messages) == [(1, (0, 1)), (2, (0, 1)), (3, (0, 1)), (4, (1,))]
    assert said(state) == []


def test_a_call_on_an_engine_that_is_not_there_ends_at_once() -> None:
    state = client(0)
    made = call(state, 0, 7)
    assert submitted(said(state)) == [(1, (0,))]
    (event,) = state.events()
    assert isinstance(event, Gone)
    assert (event.call, event.engine, event.started) == (made, 7, False)


def test_credit_is_for_each_engine_by_count() -> None:
    state = client(0, 1, credit=(2, 1 << 20))
    for _ in range(3):
        call(state, 0)
    call(state, 1)
    assert submitted(said(state)) == [(1, (0,)), (2, (0,)), (4, (1,))]
    hear(state, Accept(ME, 0, (), (1,)))
    assert submitted(said(state)) == [(3, (0,))]


def test_credit_is_for_each_engine_by_bytes_and_one_call_always_goes() -> None:
    size = payload(100).nbytes
    state = client(0, credit=(100, size + 5))
    small = Call(1, "small", [0], pack((Packed(b"x" * 200, ()), Packed(b"", ()))), None)
    state.submit(small)
    call(state, 0)
    assert submitted(said(state)) == [(1, (0,))]
    hear(state, Result(ME, 0, (result(1),)))
    assert submitted(said(state)) == [(2, (0,))]


def test_credit_may_change() -> None:
    state = client(0, credit=(1, 1 << 20))
    for _ in range(3):
        call(state, 0)
    said(state)
    hear(state, Credit(0, 2, 1 << 20))
    assert submitted(said(state)) == [(2, (0,))]


def test_the_watermark_is_the_lowest_outstanding_seq() -> None:
    state = client(0)
    for _ in range(4):
        call(state, 0)
    assert state.watermark == 1
    said(state)
    hear(state, Result(ME, 0, (result(1), result(3))))
    assert state.watermark == 2
    hear(state, Result(ME, 0, (result(2),)))
    assert state.watermark == 4
    hear(state, Result(ME, 0, (result(4),)))
    assert state.watermark == 5


def test_no_message_is_larger_than_the_wire_takes() -> None:
    """Many small calls to very many engines: the targets count, too."""
    state = client(*range(300), credit=(10_000, 1 << 30))
    for _ in range(1200):
        call(state, *range(300))
    messages = said(state)
    assert len(submitted(messages)) == 1200
    assert max(len(encode(message)) for message in messages) <= 2 * CHUNK_BYTES


# --- payloads ---------------------------------------------------------------------------------------------


def test_the_payload_is_free_when_all_engines_have_the_call() -> None:
    state = client(0, 1, 2)
    made = call(state, 0, 1, 2)
    said(state)
    assert hear(state, Accept(ME, 0, (), (1,))) == []
    (ended,) = hear(state, Result(ME, 1, (result(1),)))
    assert isinstance(ended, Ended)
    assert made.parcel is not None
    assert hear(state, Accept(ME, 2, (1,), ())) == [Sent(made)]
    assert made.parcel is None


def test_chunks_go_out_as_they_are_granted_and_once_for_all_at_one_place() -> None:
    state = client(0, 1)
    call(state, 0, 1, size=25)
    assert len(said(state)) == 1
    for id in (0, 1):
        hear(state, Grant(ME, 1, id, ARGUMENT, 25))
    assert said(state) == [Chunk(ME, 1, (0, 1), ARGUMENT, offset) for offset in (0, 10, 20)]
    assert said(state) == []


def test_an_engine_that_leaves_frees_those_that_waited_for_it() -> None:
    state = client(0, 1)
    call(state, 0, 1, size=100)
    said(state)
    hear(state, Grant(ME, 1, 0, ARGUMENT, 40))
    hear(state, Grant(ME, 1, 1, ARGUMENT, 40))
    said(state)
    hear(state, Grant(ME, 1, 0, ARGUMENT, 50))
    assert said(state) == []
    hear(state, Engines((), ((1, info(1).uuid, -9, "killed"),)))
    assert said(state) == [Chunk(ME, 1, (0,), ARGUMENT, 40)]


# --- results ------------------------------------------------------------------------------------------------


def test_a_result_ends_the_call_once() -> None:
    state = client(0)
    made = call(state, 0)
    said(state)
    events = hear(state, Result(ME, 0, (result(1), result(1))))
    assert [type(event) for event in events] == [Sent, Ended]
    assert (events[1].call, events[1].engine, events[1].item.status) == (made, 0, OK)
    assert events[1].parcel.objects()[0].data == b"v"
    assert state.calls == {}


def test_a_large_result_ends_the_call_when_it_is_whole() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    assert [type(event) for event in hear(state, Result(ME, 0, (result(1, size=25),)))] == [Sent]
    assert said(state) == [Grant(ME, 1, 0, RESULT, 25)]
    for offset, size in ((0, 10), (10, 10)):
        assert hear(state, Chunk(ME, 1, (0,), RESULT, offset), [bytes(size)]) == []
    (event,) = hear(state, Chunk(ME, 1, (0,), RESULT, 20), [bytes(5)])
    assert len(event.parcel.objects()[0].buffers[0]) == 25


def test_a_large_result_of_an_aborted_call_is_not_received_to_its_end() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    hear(state, Result(ME, 0, (result(1, size=5_000_000),)))
    said(state)
    state.abort([(1, 0)])
    (event,) = state.events()
    assert isinstance(event, Ended)
    assert (event.item.status, event.parcel) == (ABORTED, None)
    assert said(state) == [Ack(ME, 2, ((0, ()),))]
    assert hear(state, Chunk(ME, 1, (0,), RESULT, 0), [bytes(10)]) == []
    assert state.calls == {}


def test_two_large_results_of_an_engine_are_received_at_a_time() -> None:
    state = client(0)
    for _ in range(3):
        call(state, 0)
    said(state)
    hear(state, Result(ME, 0, tuple([result(seq, size=20) for seq in (1, 2, 3)])))
    assert [m.seq for m in said(state) if isinstance(m, Grant)] == [1, 2]
    for offset in (0, 10):
        hear(state, Chunk(ME, 1, (0,), RESULT, offset), [bytes(10)])
    assert [m.seq for m in said(state) if isinstance(m, Grant)] == [3]


@pytest.mark.parametrize("body", [b"rubbish", pack((Packed(b"", ()), Packed(b"", ()))).body])
def test_a_result_that_cannot_be_read_ends_the_call_with_the_reason(body: bytes) -> None:
    state = client(0)
    call(state, 0)
    said(state)
    *_, event = hear(state, Result(ME, 0, (ResultItem(1, OK, 1.0, 2.0, len(body), 0, body),)))
    assert isinstance(event, Ended)
    assert event.parcel is None
    assert isinstance(event.problem, ProtocolError)


def test_a_chunk_that_does_not_fit_ends_the_call_with_the_reason() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    hear(state, Result(ME, 0, (result(1, size=20),)))
    (event,) = hear(state, Chunk(ME, 1, (0,), RESULT, 0), [bytes(21)])
    assert isinstance(event.problem, ProtocolError)


def test_output_belongs_to_its_call() -> None:
    state = client(0, 1)
    made = call(state, 0)
    said(state)
    assert hear(state, Output(ME, 0, 1, 0, "stdout", "hello")) == [Printed(made, 0, "stdout", "hello")]
    assert hear(state, Output(ME, 1, 1, 0, "stdout", "not its engine")) == []


# --- acknowledging ------------------------------------------------------------------------------------------


def test_results_are_acknowledged_in_words_soon() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    hear(state, Result(ME, 0, (result(1),)), now=5.0)
    assert said(state) == []
    assert state.next_deadline() == 5.0 + ACK_DELAY
    state.tick(5.0 + ACK_DELAY)
    assert said(state) == [Ack(ME, 2, ((0, ()),))]
    assert state.next_deadline() is None


def test_a_batch_for_the_engine_says_it_too() -> None:
    state = client(0, 1)
    call(state, 0)
    call(state, 1)
    said(state)
    hear(state, Result(ME, 0, (result(1),)))
    hear(state, Result(ME, 1, (result(2),)))
    call(state, 0)
    said(state)
    state.tick(100.0)
    assert said(state) == [Ack(ME, 3, ((1, ()),))]


def test_a_batch_says_nothing_about_results_above_its_watermark() -> None:
    state = client(0)
    call(state, 0)
    call(state, 0)
    said(state)
    hear(state, Result(ME, 0, (result(2),)))
    call(state, 0)
    said(state)
    state.tick(100.0)
    assert said(state) == [Ack(ME, 1, ((0, (2,)),))]


def test_a_call_that_the_credit_holds_back_tells_no_engine_anything() -> None:
    """So results below the watermark need words of their own."""
    state = client(0, credit=(1, 1000))
    call(state, 0)
    said(state)
    hear(state, Accept(ME, 0, (1,), ()))
    call(state, 0)
    said(state)
    call(state, 0)
    hear(state, Result(ME, 0, (result(1),)))
    assert said(state) == []
    state.tick(100.0)
    assert said(state) == [Ack(ME, 2, ((0, ()),))]


def test_many_results_and_large_ones_are_acknowledged_at_once() -> None:
    state = client(0, credit=(1000, 1 << 30))
    for _ in range(ACK_COUNT):
        call(state, 0)
    said(state)
    hear(state, Result(ME, 0, tuple([result(seq + 1) for seq in range(ACK_COUNT)])))
    assert [type(message) for message in said(state)] == [Ack]
    call(state, 0)
    said(state)
    hear(state, Result(ME, 0, (result(ACK_COUNT + 1)._replace(nbytes=ACK_BYTES),)))
    assert [type(message) for message in said(state)] == [Ack]


def test_results_that_nobody_waits_for_are_acknowledged_all_the_same() -> None:
    state = client(0)
    hear(state, Result(ME, 0, (result(9),)))
    state.tick(100.0)
    assert said(state) == [Ack(ME, 1, ((0, (9,)),))]


def test_a_question_ends_with_a_word_that_makes_up_for_lost_ones() -> None:
    """What it doesn't ask about, this client has."""
    state = client(0)
    call(state, 0)
    call(state, 0)
    said(state)
    hear(state, Result(ME, 0, (result(2),)))
    state.tick(100.0)
    said(state)
    messages = back(state, 0)
    asked = [message for message in messages if isinstance(message, Resume) and message.items]
    assert [item.seq for message in asked for item in message.items][1:] == [1]
    assert messages[messages.index(asked[-1]) + 1] == Ack(ME, 1, ((0, ()),))


def test_output_is_acknowledged_a_megabyte_at_a_time() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    output = Output(ME, 0, 1, 0, "stdout", "x" * (1 << 16))
    for _ in range(15):
        hear(state, output)
    assert said(state) == []
    hear(state, output._replace(seq=77))  # Of a call that has ended here: it came all the same.
    assert said(state) == [Taken(ME, 0, 16 * ((1 << 16) + 64))]


# --- losing connections ----------------------------------------------------------------------------------


def test_after_a_lost_connection_the_client_asks_first_and_sends_again_what_is_unknown() -> None:
    state = client(0)
    for _ in range(4):
        call(state, 0)
    said(state)
    hear(state, Accept(ME, 0, (), (1,)))
    messages = back(state, 0)
    assert asked(messages) == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert submitted(messages) == []
    assert messages[-1] == Resume(ME, (), True)
    new = call(state, 0)
    assert submitted(said(state)) == []
    hear(state, unknown(mark(messages), 2, 4))
    assert submitted(said(state)) == []
    hear(state, Accept(ME, 0, (), (1, 3)))
    assert submitted(said(state)) == [(2, (0,)), (4, (0,)), (new.seq, (0,))]


def test_what_an_engine_said_before_it_heard_the_question_does_not_count() -> None:
    """An answer to an older question, or a grant of a transfer's first life, would be taken for a new one."""
    state = client(0)
    call(state, 0, size=100)
    said(state)
    back(state, 0)
    messages = back(state, 0)
    hear(state, unknown(mark(messages) - 1, 1))
    hear(state, Grant(ME, 1, 0, ARGUMENT, 40))
    hear(state, Result(ME, 0, (result(1),)))
    assert said(state) == []
    assert list(state.calls) == [1]
    hear(state, unknown(mark(messages), 1))
    assert submitted(said(state)) == [(1, (0,))]
    assert said(state) == []
    hear(state, Grant(ME, 1, 0, ARGUMENT, 40))
    assert [m.offset for m in said(state) if isinstance(m, Chunk)] == [0, 10, 20, 30]


def test_an_engine_that_joins_or_comes_back_is_asked_too() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    (event,) = hear(state, Engines((info(0), info(1)), ()))
    assert isinstance(event, EnginesChanged)
    messages = said(state)
    assert asked(messages) == [(1, 0)]
    assert mark(messages, 0) != mark(messages, 1)
    call(state, 1)
    assert said(state) == []
    hear(state, unknown(mark(messages, 1), engine=1))
    assert submitted(said(state)) == [(2, (1,))]


def test_an_accepted_call_that_the_engine_no_longer_knows_may_have_run() -> None:
    state = client(0)
    made = call(state, 0)
    said(state)
    hear(state, Accept(ME, 0, (1,), ()))
    (event,) = hear(state, unknown(mark(back(state, 0)), 1))
    assert (event.call, event.started) == (made, True)
    assert state.calls == {}


def test_a_result_that_was_lost_half_way_begins_again() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    hear(state, Result(ME, 0, (result(1, size=20),)))
    said(state)
    hear(state, Chunk(ME, 1, (0,), RESULT, 0), [bytes(10)])
    messages = back(state, 0)
    hear(state, unknown(mark(messages)))
    assert hear(state, Chunk(ME, 1, (0,), RESULT, 10), [bytes(10)]) == []
    hear(state, Result(ME, 0, (result(1, size=20),)))
    assert said(state) == [Grant(ME, 1, 0, RESULT, 20)]
    hear(state, Chunk(ME, 1, (0,), RESULT, 0), [bytes(10)])
    (event,) = hear(state, Chunk(ME, 1, (0,), RESULT, 10), [bytes(10)])
    assert isinstance(event, Ended)
    assert event.problem is None


def test_nothing_is_said_without_a_connection() -> None:
    state = client(0)
    call(state, 0)
    state.link_lost()
    state.abort([(1, 0)])
    state.goodbye()
    assert said(state) == []


def test_a_query_has_an_answer_or_a_failure() -> None:
    state = client(0)
    state.query(1, "status", {})
    state.query(2, "status", {})
    assert said(state) == [Query(1, "status", {}), Query(2, "status", {})]
    assert hear(state, Answer(1, True, "fine")) == [Answered(Answer(1, True, "fine"))]
    assert hear(state, Answer(1, True, "again")) == []
    state.link_lost()
    state.query(3, "status", {})
    assert state.events() == []
    state.welcome(welcome(0))
    (event,) = state.events()
    assert isinstance(event, Answered)
    assert (event.message.number, event.message.ok) == (2, False)
    assert [message for message in said(state) if isinstance(message, Query)] == [Query(3, "status", {})]


# --- ending calls -----------------------------------------------------------------------------------------


def test_a_call_that_was_not_sent_is_aborted_here() -> None:
    state = client(0, credit=(1, 1 << 20))
    call(state, 0)
    made = call(state, 0)
    said(state)
    state.abort([(2, 0), (2, 5), (99, 0)])
    sent, ended = state.events()
    assert sent == Sent(made)
    assert isinstance(ended, Ended)
    assert (ended.call, ended.item.status) == (made, ABORTED)
    assert said(state) == []


def test_a_call_that_was_sent_is_aborted_there_and_again_after_a_lost_connection() -> None:
    state = client(0)
    call(state, 0)
    call(state, 0)
    said(state)
    state.abort([(1, 0)])
    assert said(state) == [Abort(ME, ((0, (1,)),))]
    messages = back(state, 0)
    assert Abort(ME, ((0, (1,)),)) in messages
    events = hear(state, unknown(mark(messages), 1, 2))
    assert [(event.call.seq, event.item.status) for event in events if isinstance(event, Ended)] == [
        (1, ABORTED)
    ]
    assert submitted(said(state)) == [(2, (0,))]


def test_a_dead_engine_ends_its_calls_and_says_which_may_have_run() -> None:
    state = client(0, 1, credit=(3, 1 << 20))
    for _ in range(4):
        call(state, 0)
    call(state, 1)
    said(state)
    uuid = info(0).uuid
    events = hear(state, Lost(ME, 0, uuid, -9, "killed", (1, 2), ()))
    events += hear(state, Lost(ME, 0, uuid, -9, "killed", (), (3,)))
    events += hear(state, Engines((), ((0, uuid, -9, "killed"),)))
    gone = [(event.call.seq, event.started, event.exit_code) for event in events if isinstance(event, Gone)]
    assert gone == [(1, True, -9), (2, True, -9), (3, False, -9), (4, False, -9)]
    assert events[0].call.seq == 1 or isinstance(events[0], Sent)
    assert {event.running for event in events if isinstance(event, Gone)} == {"call1"}
    assert list(state.engines) == [1]
    assert list(state.calls) == [5]


def test_a_dead_engine_is_sent_nothing_more() -> None:
    """What the credit had held back has not run, and says so."""
    state = client(0, credit=(1, 1 << 20))
    for _ in range(3):
        call(state, 0)
    said(state)
    uuid = info(0).uuid
    hear(state, Lost(ME, 0, uuid, -9, "killed", (1,), ()))
    call(state, 0)
    assert submitted(said(state)) == []
    events = hear(state, Engines((), ((0, uuid, -9, "killed"),)))
    gone = [(event.call.seq, event.started) for event in events if isinstance(event, Gone)]
    assert gone == [(2, False), (3, False), (4, False)]


def test_another_engine_under_the_same_id_gets_none_of_the_old_calls() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    events = hear(state, Engines((info(0, 1),), ()))
    assert [event.call.seq for event in events if isinstance(event, Gone)] == [1]
    assert asked(said(state)) == []


def test_a_controller_that_has_given_the_client_up_answers_in_the_engines_place() -> None:
    state = client(0)
    call(state, 0)
    said(state)
    messages = back(state, 0)
    events = hear(state, Lost(ME, 0, b"", None, "too late", (mark(messages), 1), ()))
    assert [event.call.seq for event in events if isinstance(event, Gone)] == [1]
    call(state, 0)
    assert submitted(said(state)) == [(2, (0,))]


def test_without_any_controller_every_call_ends() -> None:
    state = client(0, credit=(1, 1 << 20))
    for _ in range(3):
        call(state, 0)
    said(state)
    state.link_lost()
    state.abandon("it is gone")
    gone = [(event.call.seq, event.started) for event in state.events() if isinstance(event, Gone)]
    assert gone == [(1, True), (2, False), (3, False)]
    assert state.calls == {}


@pytest.mark.parametrize(
    "message", [welcome(0), Chunk(ME, 1, (0,), ARGUMENT, 0), Grant(ME, 1, 0, RESULT, 1), Submit(ME, 1, ())]
)
def test_what_no_client_takes_is_refused(message: Message) -> None:
    with pytest.raises(ProtocolError, match="a client takes no"):
        client(0).receive(message, [b""], 0.0)


@given(
    steps=st.lists(
        any_message(st.sampled_from([ME, info(0).uuid, info(1).uuid])).filter(
            lambda message: not isinstance(message, Credit)
        )
        | st.sampled_from(["call", "large", "abort", "back", "tick"]),
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_no_message_in_any_order_upsets_it(steps: list[Any]) -> None:
    """Valid ones, from whoever controls the controller: refused, or taken without harm to the bookkeeping."""
    state = client(0, 1, credit=(2, 300))
    ended: set[tuple[int, int]] = set()
    for step in steps:
        if step in ("call", "large"):
            call(state, *(state.engines or [0]), size=50 if step == "large" else 0)
        elif step == "abort":
            state.abort([(seq, 0) for seq in list(state.calls)])
        elif step == "back":
            back(state, 0, 1)
        elif step == "tick":
            state.tick(1e9)
        else:
            try:
                state.receive(step, [b"frame"] * 50, 0.0)
            except ProtocolError:
                pass
        list(state.flush())
        check_client(state)
        for event in state.events():
            if isinstance(event, Ended | Gone):
                assert (event.call.seq, event.engine) not in ended
                ended.add((event.call.seq, event.engine))


def test_a_question_follows_the_calls_that_were_made_before_it() -> None:
    """So that the answer counts them."""
    state = client(0)
    list(state.flush())
    call(state, 0)
    state.query(1, "status", {})
    call(state, 0)
    assert [type(message) for message in said(state)] == [Submit, Query, Submit]
