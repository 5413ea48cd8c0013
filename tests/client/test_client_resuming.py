"""A client that loses its connection, and calls that end without a result."""

from __future__ import annotations

from directview._client_state import Answered, Ended, EnginesChanged, Gone, Sent
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    RESULT,
    Abort,
    Accept,
    Answer,
    Chunk,
    Engines,
    Grant,
    Lost,
    Query,
    Result,
    Resume,
)
from tests.client.handmade_client import (
    ME,
    asked,
    back,
    call,
    client,
    hear,
    info,
    mark,
    result,
    said,
    submitted,
    unknown,
    welcome,
)

# --- losing connections -------------------------------------------------------------------------------


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


# --- ending calls -------------------------------------------------------------------------------------


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
