"""The controller's decisions, message by message: who joins, where calls go, how they are aborted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from directview.controller._client_messages import ABORT_AGAIN, ABORT_FIRST, ABORT_TRIES
from directview.controller._effects import Admit, Note, Persist, Send
from directview.controller._state import Controller, Settings
from directview.wire.curve import ROLES
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    BALANCED,
    OK,
    RESULT,
    UNKNOWN,
    Abort,
    Accept,
    Ack,
    Answer,
    CallItem,
    Chunk,
    Engines,
    Exited,
    Goodbye,
    Grant,
    Interrupt,
    Lost,
    Message,
    Output,
    Paused,
    Query,
    Refused,
    Result,
    ResultItem,
    Resume,
    Submit,
    Taken,
    Welcome,
    decode,
    encode,
)
from tests.controller.handmade_house import LEASE, House, calls, hello, house, results, seqs, uuid

# --- joining ------------------------------------------------------------------------------------------


def test_an_engine_is_written_down_before_it_is_told_its_id() -> None:
    machine = Controller(Settings("cluster"), 0.0)
    machine.greet(b"e", hello("engine", "e"), None, 0.0)
    persist, admit, welcome = machine.flush()
    assert persist == Persist({uuid("e"): 0})
    assert admit == Admit(b"e")
    assert isinstance(welcome, Send)
    message = decode(welcome.header)
    assert isinstance(message, Welcome)
    assert message.id == 0


def test_a_client_is_told_who_is_there_and_who_joins() -> None:
    here = house(1)
    here.join("client", "d")
    (welcome,) = here.heard("d")
    assert isinstance(welcome, Welcome)
    assert [info.id for info in welcome.engines] == [0]
    here.join("engine", "e1")
    for client in ("c", "d"):
        (joined,) = here.heard(client)
        assert isinstance(joined, Engines)
        assert [(info.id, info.uuid) for info in joined.joined] == [(1, uuid("e1"))]


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        ({"version": 9}, "version 9", "same version"),
        ({"cluster": "other"}, "'other'", "connection file"),
        ({"incarnation": 7}, "incarnation 7", "stop the older"),
    ],
)
def test_who_does_not_belong_here_is_told_why_and_what_to_do(
    changes: dict[str, Any], reason: str, remedy: str
) -> None:
    here = house()
    here.join("client", "x", **changes)
    (refused,) = here.heard("x")
    assert isinstance(refused, Refused)
    assert reason in refused.reason
    assert remedy in refused.remedy
    assert here.expelled() == ["x"]
    assert here.heard("c") == []


def test_a_key_is_good_for_its_role_only() -> None:
    here = house()
    for role, user in itertools.product(ROLES, ROLES):
        name = f"{role} with a key for {user}"
        here.machine.greet(name.encode(), hello(role, name[:8]), user, here.now)
        here.turn()
        (answer,) = [message for message in here.heard(name) if not isinstance(message, Engines)]
        assert isinstance(answer, Welcome if role == user else Refused), name
        assert (name in here.expelled()) == (role != user)


def test_a_newer_connection_of_a_peer_replaces_its_older_one() -> None:
    here = house()
    here.join("client", "c", "c2", resuming=True)
    assert here.expelled() == ["c"]
    here.hear("c", calls(1))
    assert here.heard("e0") == []
    here.lose("c")
    here.hear("c2", Query(1, "status", {}))
    assert isinstance(here.heard("c2")[-1], Answer)


def test_a_second_hello_on_one_connection_ends_it() -> None:
    here = house()
    here.join("client", "d", "c")
    assert here.expelled() == ["c"]
    assert here.heard("c") == []
    here.wait(LEASE)
    assert here.machine.registry.clients == {}


# --- calls --------------------------------------------------------------------------------------------


def test_calls_go_to_their_engine_and_results_come_back_untouched() -> None:
    here = house(2)
    here.hear("c", calls(1, 2, to=(1,)))
    (submit,) = here.heard("e1")
    assert submit == calls(1, 2, to=(1,))
    assert here.heard("e0") == []
    result = Result(uuid("c"), 1, (ResultItem(1, OK, 1.0, 2.0, 5, 1, b"x"),))
    here.hear("e1", result, [b"frame"])
    assert here.told == [("c", result, [b"frame"])]


def test_one_call_for_many_engines_is_one_message() -> None:
    here = house(5)
    item = CallItem(1, (0, 1, 2, 3, 4), "f", 0, 9, 1, b"body")
    here.machine.receive(
        b"c", message := Submit(uuid("c"), 1, (item,)), encode(message), [b"frame"], here.now
    )
    (send,) = here.machine.flush()
    assert isinstance(send, Send)
    assert [route.decode() for route in send.routes] == ["e0", "e1", "e2", "e3", "e4"]
    assert send.frames == [b"frame"]
    submit = decode(send.header)
    assert isinstance(submit, Submit)
    assert submit.calls[0].targets == (BALANCED,)


def test_an_engine_gets_a_window_of_calls_and_more_as_they_end() -> None:
    here = house(window_calls=2)
    here.hear("c", calls(1, 2, 3, 4, 5))
    assert seqs(here.heard("e0")) == [1, 2]
    here.hear("e0", Accept(uuid("c"), 0, (1,), (2,)))
    assert seqs(here.heard("e0")) == [3]
    here.hear("e0", results(2, 3))
    assert seqs(here.heard("e0")) == [4, 5]


def test_the_watermark_travels_with_what_is_dispatched() -> None:
    here = house(window_calls=1)
    here.hear("c", calls(1, 2))
    here.hear("c", Ack(uuid("c"), 2, ((0, (1,)),)))
    here.hear("e0", results(1))
    *_, submit = here.heard("e0")
    assert isinstance(submit, Submit)
    assert submit.watermark == 2


def test_what_an_engine_begins_no_calls_of_takes_no_place_from_others() -> None:
    """Nor does it get more of that client, whose watermark it is told without them."""
    here = house(clients=("c", "d"), window_calls=2)
    here.hear("c", calls(1, 2, 3))
    here.heard("e0")
    here.hear("e0", Paused(uuid("c"), 0, True))
    assert here.heard("e0") == [Submit(uuid("c"), 1, ())]
    here.hear("d", calls(1, 2, 3, client="d"))
    assert seqs(here.heard("e0")) == [1, 2]
    here.hear("c", calls(4, watermark=3))
    assert here.heard("e0") == [Submit(uuid("c"), 3, ())]
    here.hear("c", Ack(uuid("c"), 4, ((7, ()),)))  # For another engine; the batches that follow say no more.
    assert here.heard("e0") == [Submit(uuid("c"), 4, ())]
    here.hear("c", calls(5, watermark=4))
    assert here.heard("e0") == []
    here.hear("e0", results(1, 2, client="d"))
    here.hear("e0", results(3, client="d"))
    assert seqs(here.heard("e0")) == [3]
    here.hear("e0", Paused(uuid("c"), 0, False))
    assert here.heard("e0") == []
    here.hear("e0", results(1, 2))
    assert seqs(here.heard("e0")) == [3, 4]


def test_a_pause_ends_with_its_client_or_its_engine() -> None:
    here = house()
    here.hear("c", calls(1))
    here.hear("e0", Paused(uuid("c"), 0, True))
    here.hear("c", Goodbye(""))
    here.hear("e0", Paused(uuid("c"), 0, True))  # It had not heard of that.
    assert not here.machine.registry.engines[0].queue.is_paused(uuid("c"))
    here.join("client", "c", "again")
    here.hear("e0", Paused(uuid("c"), 0, True))
    here.join("engine", "e0", "anew", wanted_id=0)
    assert not here.machine.registry.engines[0].queue.is_paused(uuid("c"))
    here.hear("again", calls(2, watermark=2))
    assert here.machine.registry.clients[uuid("c")].paused == set()


def test_a_call_for_an_engine_that_is_not_there_never_ran() -> None:
    here = house()
    here.hear("c", calls(1, 2, to=(0, 7)))
    assert here.heard("c") == [Lost(uuid("c"), 7, b"", None, "there is no such engine", (), (1, 2))]
    assert seqs(here.heard("e0")) == [1, 2]


@pytest.mark.parametrize(
    "message",
    [
        Ack(uuid("c"), 1, ((0, (1,)),)),
        Grant(uuid("c"), 1, 0, RESULT, 100),
        Chunk(uuid("c"), 1, (0,), ARGUMENT, 0),
    ],
)
def test_what_clients_say_to_engines_is_passed_on_as_it_came(message: Message) -> None:
    here = house(2)
    here.hear("c", message, [b"frame"] if isinstance(message, Chunk) else ())
    assert here.heard("e0") == [message]
    assert here.heard("e1") == []


@pytest.mark.parametrize(
    "message",
    [
        Accept(uuid("c"), 0, (), (1,)),
        Grant(uuid("c"), 1, 0, ARGUMENT, 100),
        Chunk(uuid("c"), 1, (0,), RESULT, 0),
        Output(uuid("c"), 0, 1, 0, "stdout", "text"),
        results(1),
    ],
)
def test_what_engines_say_to_clients_is_passed_on_as_it_came(message: Message) -> None:
    here = house(1, clients=("c", "d"))
    here.hear("e0", message, [b"frame"] if isinstance(message, Chunk) else ())
    assert here.heard("c") == [message]
    assert here.heard("d") == []


def test_each_engine_reads_its_own_acknowledgements_only() -> None:
    """Else a thousand engines would read a million after each call on all of them."""
    here = house(4)
    here.hear("c", Ack(uuid("c"), 9, ((0, ()), (1, (10, 12)), (2, ()), (7, (11,)))))
    assert here.heard("e0") == here.heard("e2") == [Ack(uuid("c"), 9, ())]
    assert here.heard("e1") == [Ack(uuid("c"), 9, ((1, (10, 12)),))]
    assert here.heard("e3") == []


def test_more_than_there_was_credit_for_ends_the_connection() -> None:
    here = house(credit_calls=2, window_calls=1)
    here.hear("c", calls(1, 2, 3, 4))
    assert here.expelled() == []
    here.hear("c", calls(5, 6))
    assert here.expelled() == ["c"]


def test_bytes_count_as_well() -> None:
    here = house(credit_bytes=4, window_calls=1)
    here.hear("c", calls(1, 2, 3, 4))
    assert here.expelled() == ["c"]


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ("c", calls(1, client="d")),
        ("c", Ack(uuid("d"), 1, ())),
        ("c", Abort(uuid("d"), ())),
        ("c", Resume(uuid("d"), (), False)),
        ("c", Grant(uuid("d"), 1, 0, RESULT, 1)),
        ("c", Taken(uuid("d"), 0, 1)),
        ("e0", Paused(uuid("c"), 1, True)),
        ("c", Chunk(uuid("d"), 1, (0,), ARGUMENT, 0)),
        ("c", Grant(uuid("c"), 1, 0, ARGUMENT, 1)),
        ("c", Chunk(uuid("c"), 1, (0,), RESULT, 0)),
        ("c", calls(1, to=(BALANCED,))),
        ("c", Submit(uuid("c"), 1, (CallItem(1, (0,), "f", 0, 1, 0, b"body"),))),
        ("c", results(1)),
        ("c", Exited(uuid("e0"), 0, "")),
        ("e0", results(1, engine=1)),
        ("e0", Accept(uuid("c"), 1, (), ())),
        ("e0", Output(uuid("c"), 1, 1, 0, "stdout", "")),
        ("e0", Grant(uuid("c"), 1, 1, ARGUMENT, 1)),
        ("e0", Grant(uuid("c"), 1, 0, RESULT, 1)),
        ("e0", Chunk(uuid("c"), 1, (1,), RESULT, 0)),
        ("e0", Chunk(uuid("c"), 1, (0,), ARGUMENT, 0)),
        ("e0", Resume(b"", (), True)),
        ("e0", calls(1)),
        ("s", calls(1)),
        ("s", Exited(uuid("alone"), 0, "")),
    ],
)
def test_what_a_peer_may_not_say_ends_its_connection_and_concerns_nobody(who: str, message: Message) -> None:
    here = house(2, clients=("c", "d"))
    here.join("engine", "alone")
    here.told.clear()
    here.hear(who, message, [b"frame"] if isinstance(message, Chunk) else ())
    assert here.expelled() == [who]
    assert here.told == []
    here.hear("d", calls(1, client="d", to=(1,)))
    assert seqs(here.heard("e1")) == [1]


# --- aborting -----------------------------------------------------------------------------------------


def test_a_call_that_waits_is_aborted_here_and_one_that_was_dispatched_there() -> None:
    here = house(window_calls=1)
    here.hear("c", calls(1, 2, 3))
    here.heard("e0")
    here.hear("c", Abort(uuid("c"), ((0, (1, 3, 9)), (5, (1,)))))
    (answer,) = here.heard("c")
    assert isinstance(answer, Result)
    assert [(item.seq, item.status) for item in answer.items] == [(3, ABORTED)]
    assert here.heard("e0") == [Abort(uuid("c"), ((0, (1,)),))]
    here.hear("e0", results(1))
    assert seqs(here.heard("e0")) == [2]


def test_an_aborted_call_is_interrupted_until_it_ends() -> None:
    here = house()
    here.hear("c", calls(1))
    here.hear("c", Abort(uuid("c"), ((0, (1,)),)))
    here.hear("c", Abort(uuid("c"), ((0, (1,)),)))
    assert here.heard("s") == []
    here.wait(ABORT_FIRST)
    assert here.heard("s") == [Interrupt(uuid("e0"), uuid("c"), 1)]
    here.wait(3.5 * ABORT_AGAIN)
    assert len(here.heard("s")) == 3
    here.hear("e0", results(1, status=ABORTED))
    here.wait(10.0)
    assert here.heard("s") == []
    assert here.machine.next_deadline() is None


def test_an_aborted_call_is_interrupted_though_its_client_has_gone() -> None:
    """A program whose last act is to cancel a call does not leave it running."""
    here = house()
    here.hear("c", calls(1))
    here.hear("c", Abort(uuid("c"), ((0, (1,)),)))
    here.hear("c", Goodbye("closed"))
    here.wait(ABORT_FIRST)
    assert here.heard("s") == [Interrupt(uuid("e0"), uuid("c"), 1)]
    here.hear("e0", results(1, status=UNKNOWN))
    here.wait(1000.0)
    assert here.heard("s") == []
    assert here.machine.next_deadline() is None


def test_nobody_is_told_of_a_stubborn_call_whose_client_has_gone() -> None:
    here = house()
    here.hear("c", calls(1))
    here.hear("c", Abort(uuid("c"), ((0, (1,)),)))
    here.hear("c", Goodbye("closed"))
    here.wait(1000.0)
    assert len(here.heard("s")) == ABORT_TRIES
    assert here.machine.registry.engines[0].aborts == {}


def test_interrupting_ends_some_day() -> None:
    here = house()
    here.hear("c", calls(1))
    here.hear("c", Abort(uuid("c"), ((0, (1,)),)))
    here.wait(1000.0)
    assert len(here.heard("s")) == ABORT_TRIES
    call = f"{uuid('c').hex()}_1_0"
    assert here.others == [Note(f"cancelled, still running: call {call}, interrupted {ABORT_TRIES} times")]
    assert stubborn(here) == [call]
    here.hear("e0", results(1, status=ABORTED))
    assert stubborn(here) == []


def stubborn(here: House) -> list[str]:
    """What the status says was cancelled, and runs on."""
    here.heard("c")
    here.hear("c", Query(1, "status", {}))
    (answer,) = here.heard("c")
    assert isinstance(answer, Answer)
    found: list[str] = answer.value["engines"][0]["cancelled"]
    return found
