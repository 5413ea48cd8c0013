"""A client's bookkeeping: what is sent when, what is free when, and what a result ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview._client_state import Call, Ended, Gone, Printed, Sent
from directview.testing.invariants import check_client
from directview.testing.strategies import any_message
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    CHUNK_BYTES,
    DETACHED,
    OK,
    RESULT,
    Accept,
    Ack,
    Chunk,
    Credit,
    Engines,
    Grant,
    Message,
    Output,
    ProtocolError,
    Query,
    Result,
    ResultItem,
    Resume,
    Submit,
    encode,
)
from directview.wire.parcels import Packed, pack
from tests.client.handmade_client import (
    ME,
    back,
    call,
    client,
    hear,
    info,
    payload,
    result,
    said,
    submitted,
    welcome,
)

# --- sending ------------------------------------------------------------------------------------------


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


# --- payloads -----------------------------------------------------------------------------------------


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


# --- results ------------------------------------------------------------------------------------------


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


# --- whatever comes --------------------------------------------------------------------------------------


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


def test_which_calls_are_detached_is_said_before_they_are_asked_about_and_each_time() -> None:
    """An engine that does not have one says so at once: then nobody is to believe that it goes on."""
    state = client(0, 1)
    state.submit(Call(1, "kept", [0, 1], payload(), None, DETACHED))
    call(state, 0)
    said(state)
    hear(state, Result(ME, 1, (result(1),)))
    for _ in range(2):
        state.link_lost()
        state.welcome(welcome(0, 1))
        messages = said(state)
        assert messages[0] == Query(0, "mark_detached", {"calls": [[1, 0]]})
        assert any(isinstance(message, Resume) for message in messages[1:])
