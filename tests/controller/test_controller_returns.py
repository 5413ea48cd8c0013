"""Peers that come back, to the same controller or to one that takes over."""

from __future__ import annotations

from directview.controller._effects import Persist
from directview.wire.messages import (
    UNKNOWN,
    Ack,
    Engines,
    Exited,
    Forget,
    Goodbye,
    Lost,
    Resume,
    ResumeItem,
    Welcome,
)
from tests.controller.handmade_house import LEASE, House, calls, house, question, results, seqs, uuid

# --- peers that come back -----------------------------------------------------------------------------


def test_an_engine_that_comes_back_tells_what_it_holds_before_it_gets_anything() -> None:
    here = house(window_calls=2)
    here.hear("c", calls(1, 2, 3))
    here.lose("e0")
    here.heard("e0")
    here.join("engine", "e0", "again", resuming=True, wanted_id=0)
    here.hear("c", Ack(uuid("c"), 1, ((0, (9,)),)))
    (welcome,) = here.heard("again")
    assert isinstance(welcome, Welcome)
    assert welcome.id == 0
    assert here.heard("c") == []
    here.hear("again", Resume(uuid("c"), (ResumeItem(2, 0, uuid("e0")),), False))
    here.hear("again", Resume(b"", (), True))
    assert [type(message) for message in here.heard("c")] == [Engines]
    here.hear("c", question(1, 2, 3))
    here.hear("c", calls(1, 3))
    asked, submit = here.heard("again")
    assert asked == question(1, 2, 3)
    assert seqs([submit]) == [1]


def test_what_was_submitted_before_an_engine_came_back_is_left_to_the_clients_question() -> None:
    """It would overtake what was lost; the client, which asks first, sends everything again in order."""
    here = house()
    here.lose("e0")
    here.hear("c", calls(1))
    here.join("engine", "e0", "again", resuming=True, wanted_id=0)
    here.hear("c", calls(2))
    here.hear("again", Resume(b"", (), True))
    here.hear("c", calls(3))
    assert seqs(here.heard("again")) == []
    here.hear("c", question(1, 2, 3))
    here.hear("c", calls(1, 2, 3))
    assert seqs(here.heard("again")) == [1, 2, 3]


def test_a_client_that_comes_back_has_its_waiting_calls_dropped_and_asks() -> None:
    here = house(window_calls=1)
    here.hear("c", calls(1, 2))
    here.lose("c")
    here.heard("e0")
    here.join("client", "c", "again", resuming=True)
    here.hear("again", question(1, 2))
    assert here.heard("e0") == [question(1, 2)]
    (welcome,) = here.heard("again")
    assert isinstance(welcome, Welcome)
    here.hear("e0", results(1))
    here.hear("again", question(last=True))
    here.hear("e0", results(2, status=UNKNOWN))
    assert here.heard("again") == [results(1), results(2, status=UNKNOWN)]


def test_a_question_about_an_engine_that_is_gone_is_answered_in_its_place() -> None:
    here = house()
    here.join("engine", "new")
    here.heard("c")
    here.hear("c", question(1, 2, engine=7))
    here.hear("c", question(3, engine=1, name="old"))
    assert [(m.engine, m.uuid, m.started) for m in here.heard("c") if isinstance(m, Lost)] == [
        (7, uuid("e7"), (1, 2)),
        (1, uuid("old"), (3,)),
    ]


def test_a_client_that_left_in_order_is_forgotten_at_once() -> None:
    here = house(2, window_calls=1)
    here.hear("c", calls(1, 2))
    here.heard("e0")
    here.hear("c", Goodbye(""))
    assert here.heard("e0") == [Forget(uuid("c"))]
    assert here.heard("e1") == []
    assert here.others[-1] == Persist({uuid("e0"): 0, uuid("e1"): 1})


def test_a_client_that_was_cut_off_is_forgotten_after_its_lease() -> None:
    here = house()
    here.hear("c", calls(1))
    here.heard("e0")
    here.lose("c")
    here.hear("e0", results(1))
    here.wait(LEASE / 2)
    assert here.heard("e0") == []
    here.wait(LEASE)
    assert here.heard("e0") == [Forget(uuid("c"))]


def test_a_client_that_comes_after_its_lease_asks_as_any_other() -> None:
    """The engine was told to forget it, and says so."""
    here = house()
    here.hear("c", calls(1))
    here.lose("c")
    here.wait(2 * LEASE)
    here.heard("e0")
    here.join("client", "c", "late", resuming=True, incarnation=1)
    here.hear("late", question(1, last=True))
    assert here.heard("e0") == [question(1)]
    here.hear("late", calls(2))
    assert seqs(here.heard("e0")) == [2]


def test_an_engine_lets_go_of_clients_that_nobody_knows() -> None:
    here = house()
    here.lose("e0")
    here.join("engine", "e0", "again", resuming=True, wanted_id=0)
    here.heard("again")
    here.hear("again", Resume(uuid("stranger"), (ResumeItem(1, 0, uuid("e0")),), False))
    assert here.heard("again") == [Forget(uuid("stranger"))]


# --- a controller that takes over ---------------------------------------------------------------------

KNOWN = {uuid("e0"): 0, uuid("e1"): 1, uuid("c"): -1}


def test_known_engines_keep_their_ids_for_a_lease() -> None:
    here = House(KNOWN, incarnation=2)
    here.join("client", "c", resuming=True, incarnation=1)
    here.hear("c", Resume(uuid("c"), (), True))
    (welcome,) = here.heard("c")
    assert isinstance(welcome, Welcome)
    assert welcome.engines == ()
    here.join("engine", "new", wanted_id=0)
    here.join("engine", "e0", resuming=True, wanted_id=0)
    here.hear("e0", Resume(uuid("c"), (ResumeItem(1, 0, uuid("e0")),), False))
    here.hear("e0", Resume(b"", (), True))
    assert sorted(here.machine.registry.engines) == [0, 1, 2]
    here.heard("c")
    here.wait(LEASE)
    assert here.heard("c") == [Engines((), ((1, uuid("e1"), None, "it did not come back"),))]


def test_calls_for_a_known_engine_wait_for_it() -> None:
    here = House(KNOWN, incarnation=2)
    here.join("client", "c", resuming=True, incarnation=1)
    here.hear("c", question(1, engine=1))
    here.hear("c", question(last=True))
    assert [type(message) for message in here.heard("c")] == [Welcome]
    here.wait(2 * LEASE)
    assert [message for message in here.heard("c") if isinstance(message, Engines)] != []


def test_who_comes_back_asks_the_engines_known_or_not() -> None:
    """Whether the controller had given a client up, or has never heard of it, is the engine's to say."""
    here = House({uuid("e0"): 0, uuid("c"): -1}, incarnation=2)
    here.join("engine", "e0", wanted_id=0)
    for name in ("c", "given-up"):
        here.join("client", name, resuming=True, incarnation=1)
        here.hear(name, Resume(uuid(name), (ResumeItem(1, 0, uuid("e0")),), True))
        assert not any(isinstance(message, Lost) for message in here.heard(name))
    assert [m.client for m in here.heard("e0") if isinstance(m, Resume)] == [uuid("c"), uuid("given-up")]


def test_a_known_client_that_does_not_come_is_forgotten() -> None:
    here = House(KNOWN, incarnation=2)
    here.join("engine", "e0", resuming=True, wanted_id=0)
    here.hear("e0", Resume(uuid("c"), (ResumeItem(1, 0, uuid("e0")),), False))
    here.hear("e0", Resume(b"", (), True))
    here.heard("e0")
    here.wait(LEASE)
    assert here.heard("e0") == [Forget(uuid("c"))]


def test_an_exit_report_about_a_known_engine_ends_it() -> None:
    here = House(KNOWN, incarnation=2)
    here.join("client", "c", resuming=True, incarnation=1)
    here.join("supervisor", "s")
    here.heard("c")
    here.hear("s", Exited(uuid("e1"), -9, "killed"))
    assert here.heard("c") == [Engines((), ((1, uuid("e1"), -9, "killed"),))]
