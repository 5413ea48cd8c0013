"""What an engine does about a client that does not take its results, or what its calls print."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from directview.engine._state import FIRST_MARK, Call, EngineState
from directview.engine._untaken import MOST_UNTAKEN, most_untaken
from directview.testing.invariants import check_engine
from directview.wire.messages import (
    ABORTED,
    DETACHED,
    FORGOTTEN,
    OK,
    UNKNOWN,
    Abort,
    Accept,
    Ack,
    CallItem,
    Forget,
    Kept,
    Message,
    Paused,
    Result,
    Resume,
    ResumeItem,
    Submit,
    Taken,
)
from directview.wire.parcels import Packed, pack

A, B = b"a" * 16, b"b" * 16
KB = 1000
MOST = 100 * KB


def engine(most: int = MOST) -> EngineState:
    state = EngineState(most_untaken=most)
    state.id, state.uuid = 3, b"e" * 16
    return state


def submit(*seqs: int, client: bytes = A, watermark: int = 1, flags: int = 0) -> Submit:
    parcel = pack((Packed(b"f", ()), Packed(b"", ())))
    items = [CallItem(seq, (3,), "f", flags, parcel.nbytes, 0, parcel.body) for seq in seqs]
    return Submit(client, watermark, tuple(items))


def question(*seqs: int) -> Resume:
    return Resume(A, tuple([ResumeItem(seq, 3, b"e" * 16) for seq in (FIRST_MARK, *seqs)]), False)


def end(state: EngineState, call: Call, nbytes: int) -> None:
    state.finished(call, OK, 1.0, 2.0, pack((Packed(bytes(nbytes), ()),)))


def run(state: EngineState, nbytes: int = 0) -> list[tuple[bytes, int]]:
    """Run what may run; results have that size."""
    ran = []
    while (call := state.next_call()) is not None:
        ran.append(call.key)
        end(state, call, nbytes)
        check_engine(state)
    return ran


def said(state: EngineState) -> list[Message]:
    check_engine(state)
    return [message for message, _ in state.flush()]


def ends(messages: Sequence[Message]) -> list[tuple[int, int]]:
    results = [message for message in messages if isinstance(message, Result)]
    return [(item.seq, item.status) for message in results for item in message.items]


def test_no_more_calls_of_a_client_are_begun_that_leaves_too_much_here() -> None:
    """Others' go on; the controller is told; and when half is taken the calls go on in order."""
    state = engine()
    state.receive(submit(1, 2, 3, 4, 5), ())
    state.receive(submit(1, 2, client=B), ())
    assert run(state, 40 * KB) == [(A, 1), (A, 2), (A, 3), (B, 1), (B, 2)]
    assert Paused(A, 3, True) in said(state)
    state.receive(Ack(A, 1, ((3, (1,)),)), ())
    assert run(state) == []
    state.receive(Ack(A, 1, ((3, (2,)),)), ())
    assert Paused(A, 3, False) in said(state)
    assert run(state) == [(A, 4), (A, 5)]


def test_one_result_that_is_larger_than_all_that_may_be_left_is_sent() -> None:
    state = engine()
    state.receive(submit(1, 2), ())
    assert run(state, 300 * KB) == [(A, 1)]
    assert ends(said(state)) == [(1, OK)]
    state.receive(Ack(A, 2, ()), ())
    assert run(state, 300 * KB) == [(A, 2)]
    assert ends(said(state)) == [(2, OK)]


def test_results_are_sent_half_of_that_ahead_and_the_others_as_those_are_taken() -> None:
    """Calls whose results wait have been accepted: neither controller nor client wait for their end."""
    state = engine()
    state.receive(submit(1, 2, 3, 4, 5), ())
    assert run(state, 19 * KB) == [(A, seq) for seq in (1, 2, 3, 4, 5)]
    messages = said(state)
    assert ends(messages) == [(1, OK), (2, OK)]
    assert Accept(A, 3, (3, 4, 5), ()) in messages
    assert said(state) == []
    state.receive(Ack(A, 1, ((3, (2,)),)), ())
    assert ends(said(state)) == [(3, OK)]
    state.receive(Submit(A, 4, ()), ())
    assert ends(said(state)) == [(4, OK), (5, OK)]
    state.receive(Ack(A, 6, ()), ())
    assert (said(state), state.behind) == ([], {})


def test_who_asks_has_received_what_it_does_not_ask_about() -> None:
    """Its words about that were lost, and it can't say so again; calls behind it would wait for ever."""
    state = engine()
    state.receive(submit(1, 2, 3, 4, 5, 6), ())
    assert run(state, 40 * KB) == [(A, 1), (A, 2), (A, 3)]
    said(state)
    state.receive(question(3, 4, 5), ())
    state.receive(Resume(A, (ResumeItem(6, 3, b"e" * 16),), False), ())
    messages = said(state)
    assert ends(messages) == [(FIRST_MARK, UNKNOWN), (3, OK)]
    assert Paused(A, 3, False) not in messages
    assert run(state) == []
    state.receive(Ack(A, 3, ((3, ()),)), ())
    messages = said(state)
    assert ends(messages) == [(1, UNKNOWN), (2, UNKNOWN)]  # The controller may have believed that they run.
    assert Paused(A, 3, False) in messages
    assert run(state) == [(A, 4), (A, 5), (A, 6)]


def test_a_watermark_in_the_middle_of_a_question_does_not_end_it() -> None:
    state = engine()
    state.receive(submit(1, 2), ())
    run(state)
    said(state)
    state.receive(question(), ())
    state.receive(Submit(A, 1, ()), ())
    state.receive(Resume(A, (ResumeItem(2, 3, b"e" * 16),), False), ())
    assert ends(said(state)) == [(FIRST_MARK, UNKNOWN), (2, OK)]


def test_a_lost_connection_leaves_nothing_under_way() -> None:
    """What waits for the next one is asked for, and sent in the same steps; pauses are told again."""
    state = engine()
    state.receive(submit(1, 2, 3, 4, 5, 6), ())
    run(state, 24 * KB)
    said(state)
    state.link_lost()
    assert said(state) == []
    assert state.resume() == [
        Resume(A, (ResumeItem(5, 3, b"e" * 16), ResumeItem(6, 3, b"e" * 16)), False),
        Resume(b"", (), True),
        Paused(A, 3, True),
    ]
    state.receive(question(1, 2, 3, 4, 5, 6), ())
    messages = said(state)
    assert ends(messages) == [(FIRST_MARK, UNKNOWN), (1, OK), (2, OK)]
    assert Accept(A, 3, (3, 4), (5, 6)) in messages


def test_a_call_that_is_not_begun_can_be_cancelled() -> None:
    state = engine()
    state.receive(submit(1, 2, 3, 4), ())
    assert run(state, 110 * KB) == [(A, 1)]
    state.receive(Abort(A, ((3, (3,)),)), ())
    state.receive(Ack(A, 2, ()), ())
    assert ends(said(state)) == [(3, ABORTED)]
    assert run(state) == [(A, 2), (A, 4)]


def test_nothing_is_left_of_a_client_that_goes() -> None:
    """And the controller hears that its calls are paused no longer, if it had heard that they were."""
    state = engine()
    state.receive(submit(1, 2, 3, 4), ())
    run(state, 40 * KB)
    said(state)
    state.receive(Forget(A), ())
    messages = said(state)
    assert Paused(A, 3, False) in messages
    assert ends(messages)[0][0] == 2
    assert (run(state), state.behind, state._clients) == ([], {}, {})


def test_detached_calls_of_a_client_that_goes_go_on() -> None:
    """The controller takes the results, as fast as it can; what is printed does not count."""
    state = engine()
    state.receive(submit(1, 2, 3, 4, flags=DETACHED), ())
    assert run(state, 40 * KB) == [(A, 1), (A, 2), (A, 3)]
    said(state)
    state.receive(Forget(A), ())
    messages = said(state)
    assert [message.paused for message in messages if isinstance(message, Paused)] == [False, True]
    assert ends(messages) == [(1, OK)]
    state.receive(Kept(A, 3, (1, 2, 3)), ())
    state.receive(Ack(A, 0, ((3, (1,)),)), ())
    state.receive(Ack(A, 0, ((3, (2, 3)),)), ())
    said(state)
    assert run(state) == [(A, 4)]
    state.printed(A, 1 << 30)
    assert state.may_print(A)


def test_output_that_nobody_takes_stops_calls_and_then_ends() -> None:
    state = engine()
    state.receive(submit(1, 2), ())
    first = state.next_call()
    assert first is not None
    state.suspended(first)
    said(state)
    state.printed(A, 17 << 20)
    assert said(state) == [Paused(A, 3, True)]
    assert run(state) == []
    assert state.may_print(A)
    state.printed(A, 63 << 20)
    assert not state.may_print(A)
    assert state.may_print(B)
    state.receive(Taken(A, 3, 70 << 20), ())
    assert state.may_print(A)
    state.receive(Taken(A, 3, 9 << 20), ())
    assert said(state) == [Paused(A, 3, False)]
    assert run(state) == [(A, 2)]


def test_output_that_was_lost_on_the_way_counts_no_longer() -> None:
    state = engine()
    state.receive(submit(1), ())
    state.printed(A, 90 << 20)
    state.receive(question(1), ())
    assert state.may_print(A)
    assert [message.paused for message in said(state) if isinstance(message, Paused)] == [True, False]


def test_very_many_empty_results_are_too_much_as_well() -> None:
    state = engine(64 << 10)
    state.receive(submit(*range(1, 101)), ())
    assert len(run(state)) < 100


def test_the_environment_says_how_much() -> None:
    assert most_untaken({}) == MOST_UNTAKEN
    assert most_untaken({"DIRECTVIEW_UNTAKEN": "8"}) == 8 << 20
    for wrong in ("much", "0", "-1", "1.5"):
        with pytest.raises(ValueError, match=rf"DIRECTVIEW_UNTAKEN='{wrong}'.*MiB"):
            most_untaken({"DIRECTVIEW_UNTAKEN": wrong})


# --- results that two wait for ---------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(Ack(A, 2, ()), Kept(A, 3, (1,))), (Kept(A, 3, (1,)), Ack(A, 2, ()))])
def test_a_detached_calls_result_stays_until_its_client_has_it_and_the_controller_keeps_it(
    words: tuple[Message, Message],
) -> None:
    state = engine()
    state.receive(submit(1, flags=DETACHED), ())
    run(state)
    said(state)
    state.receive(words[0], ())
    assert 1 in state._clients[A].retained
    state.receive(words[1], ())
    assert not state._clients[A].retained
    check_engine(state)


def test_what_its_client_has_and_no_controller_keeps_is_sent_again_for_one_that_has_taken_over() -> None:
    """The client does not ask about it; nobody would, if it went now."""
    state = engine()
    state.receive(submit(1, 2, flags=DETACHED), ())
    run(state)
    said(state)
    state.receive(Kept(A, 3, (2,)), ())
    state.link_lost()
    assert Kept(A, 3, (1,)) in state.resume()
    state.receive(question(), ())
    state.receive(Ack(A, 3, ((3, ()),)), ())
    messages = said(state)
    assert (1, OK) in ends(messages)
    assert (2, UNKNOWN) in ends(messages)
    state.receive(Kept(A, 3, (1,)), ())
    assert not state._clients[A].retained


def test_calls_go_on_that_came_after_the_word_that_their_client_is_gone() -> None:
    """They waited in the controller; the engine had nothing of that client when it was to forget it."""
    state = engine(most=1)
    state.receive(Forget(A), ())
    state.receive(submit(1, 2, flags=DETACHED), ())
    assert run(state) == [(A, 1)]
    state.receive(Kept(A, 3, (1,)), ())
    state.receive(Ack(A, 0, ((3, (1,)),)), ())
    assert run(state) == [(A, 2)]


def test_a_call_that_ran_for_an_heir_does_not_run_again_when_its_client_comes_back() -> None:
    """To another controller, which does not know that it was given up: it asks, and would send again."""
    state = engine()
    state.receive(submit(1, 2, flags=DETACHED), ())
    state.receive(Forget(A), ())
    assert run(state) == [(A, 1), (A, 2)]
    state.receive(Kept(A, 3, (1, 2)), ())
    state.receive(Ack(A, 0, ((3, (1, 2)),)), ())
    state.receive(Forget(A), ())
    said(state)
    state.receive(question(1, 2), ())
    assert ends(said(state))[1:] == [(1, FORGOTTEN), (2, FORGOTTEN)]
    state.receive(submit(1, 2, flags=DETACHED), ())
    assert run(state) == []
