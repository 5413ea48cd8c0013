"""When a client tells engines that it has their results, and how little it says for it."""

from __future__ import annotations

from directview._client_acks import ACK_BYTES, ACK_COUNT, ACK_DELAY
from directview.wire.messages import Accept, Ack, Output, Result, Resume, Taken
from tests.client.handmade_client import ME, back, call, client, hear, result, said


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
