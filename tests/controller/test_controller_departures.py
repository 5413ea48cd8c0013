"""Engines that leave, for good or for a while: who is told, and what becomes of their calls."""

from __future__ import annotations

from typing import Any

from directview.controller._effects import Persist
from directview.controller._state import EXIT_DRAIN
from directview.wire.messages import (
    Accept,
    Alive,
    Engines,
    Exited,
    Goodbye,
    Lost,
    Query,
    Resume,
    ResumeItem,
    Stop,
    Welcome,
)
from directview.wire.postmortem import Postmortem
from tests.controller.handmade_house import GRACE, LEASE, House, calls, house, results, uuid


def test_a_client_that_missed_an_engines_death_is_told_of_it_when_it_asks() -> None:
    """Else it would go on calling an engine that is not there: also when it had no calls there."""
    here = house(engines=2)
    here.lose("c")
    here.hear("s", Exited(uuid("e0"), -9, "killed"))
    here.lose("e0")
    here.wait(GRACE)
    here.join("client", "c", resuming=True)
    here.heard("c")
    here.hear("c", Resume(uuid("c"), (ResumeItem(1 << 62, 0, uuid("e0")),), True))
    lost, engines = here.heard("c")
    assert isinstance(lost, Lost)
    assert isinstance(engines, Engines)
    assert [(id, name) for id, name, _, _ in engines.left] == [(0, uuid("e0"))]


def waiting_house(**settings: Any) -> House:
    """One that waits long for who was lost: e0 is lost, with a call that it had begun."""
    here = house(2, policy="wait", lease=30.0, engine_grace=30.0, **settings)
    here.hear("c", calls(1))
    here.heard("c")
    here.heard("s")
    here.lose("e0")
    return here


def test_a_cluster_that_waits_asks_the_supervisor_of_a_lost_engine_whether_it_lives() -> None:
    here = waiting_house()
    assert here.heard("s") == [Engines((), ((0, uuid("e0"), None, "cut"),))]
    plain = house(2)
    plain.lose("e0")
    assert plain.heard("s") == []


def test_an_engine_that_its_supervisor_does_not_name_among_the_living_is_frozen() -> None:
    """It is given up at once: whoever can tell is not cut off, so it isn't either."""
    here = waiting_house()
    here.heard("s")
    here.hear("s", Alive((uuid("e1"),)))
    lost, engines = here.heard("c")
    assert isinstance(lost, Lost)
    assert lost.started == (1,)
    assert "its process is stopped" in lost.reason
    assert isinstance(engines, Engines)
    assert here.heard("s") == [Stop(uuid("e0"), lost.reason, True)]
    assert list(here.machine.registry.engines) == [1]


def test_an_engine_that_its_supervisor_names_has_all_its_time_to_come_back() -> None:
    here = waiting_house()
    here.wait(25.0)
    here.hear("s", Alive((uuid("e0"), uuid("e1"))))
    here.wait(29.0)
    assert here.heard("c") == []
    here.wait(1.0)
    assert isinstance(here.heard("c")[0], Lost)


def test_an_engine_that_is_cut_off_with_its_supervisor_has_all_its_time_to_come_back() -> None:
    """Nobody answers for it; nor does another supervisor's word count."""
    here = waiting_house()
    here.lose("s")
    here.join("supervisor", "another")
    here.hear("another", Alive(()))
    here.wait(29.0)
    assert here.heard("c") == []
    here.join("supervisor", "s")
    here.hear("s", Alive((uuid("e0"),)))
    here.wait(29.0)
    assert here.heard("c") == []


def test_what_a_supervisor_leaves_out_harms_no_engine_that_is_connected_or_not_yet_back() -> None:
    here = waiting_house()
    here.hear("s", Alive((uuid("e0"),)))
    assert list(here.machine.registry.engines) == [0, 1]
    later = House({uuid("e0"): 0}, policy="wait", lease=30.0, engine_grace=30.0)
    later.join("supervisor", "s")
    later.hear("s", Alive(()))
    assert list(later.machine.registry.engines) == [0]


def test_an_engine_that_does_not_come_back_in_time_is_dead() -> None:
    here = house(2, clients=("c", "d"), window_calls=2)
    here.hear("c", calls(1, 2, 3, 4))
    here.lose("e0")
    here.wait(GRACE / 2)
    assert here.heard("c") == []
    here.wait(GRACE)
    lost, more, left = here.heard("c")
    known = Postmortem(running="call1")
    assert lost == Lost(uuid("c"), 0, uuid("e0"), None, "cut", (1, 2), (), known)
    assert more == Lost(uuid("c"), 0, uuid("e0"), None, "cut", (), (3, 4), known)
    assert left == Engines((), ((0, uuid("e0"), None, "cut"),), (known,))
    assert here.heard("d") == [left]
    assert here.heard("s") == [Stop(uuid("e0"), "cut", given_up=True)]
    assert here.others[-1] == Persist({uuid("e1"): 1, uuid("c"): -1, uuid("d"): -1})


def test_an_engine_that_its_supervisor_vouches_for_keeps_its_place() -> None:
    """It is deep in a function, perhaps, and can't connect: for as long as it takes."""
    here = house()
    here.hear("c", calls(1))
    here.lose("e0")
    for _ in range(20):
        here.wait(GRACE / 2)
        here.hear("s", Alive((uuid("e0"), uuid("somebody"))))
    assert here.heard("c") == []
    here.join("engine", "e0", "again", supervisor=uuid("s"), resuming=True)
    here.hear("again", Resume(uuid("c"), (ResumeItem(1, 0, uuid("e0")),), False))
    here.hear("again", Resume(b"", (), True))
    here.wait(10 * GRACE)
    (back,) = here.heard("c")
    assert isinstance(back, Engines)
    here.lose("again")
    here.hear("s", Alive((uuid("e0"),)))
    here.hear("s", Exited(uuid("e0"), -9, "killed"))
    assert isinstance(here.heard("c")[-1], Engines)  # The last word counts.


def test_an_engine_from_before_a_takeover_is_vouched_for_as_well() -> None:
    here = House({uuid("e0"): 0}, lease=LEASE, engine_grace=LEASE)
    here.join("supervisor", "s")
    here.join("client", "c")
    here.heard("c")
    for _ in range(20):
        here.wait(LEASE / 2)
        here.hear("s", Alive((uuid("e0"),)))
    assert here.heard("c") == []
    here.wait(2 * LEASE)
    (left,) = here.heard("c")
    assert left == Engines((), ((0, uuid("e0"), None, "it did not come back"),))


def test_results_that_were_sent_before_the_end_still_count() -> None:
    """The exit report may overtake them: it comes over another connection."""
    here = house()
    here.hear("c", calls(1, 2))
    here.hear("s", Exited(uuid("e0"), -9, "killed", Postmortem(1000, 2000, "Bus error")))
    assert here.heard("c") == []
    here.hear("e0", results(1))
    here.wait(EXIT_DRAIN)
    result, lost, left = here.heard("c")
    assert result == results(1)
    known = Postmortem(1000, 2000, "Bus error", "call2")
    assert lost == Lost(uuid("c"), 0, uuid("e0"), -9, "killed", (2,), (), known)
    assert left == Engines((), ((0, uuid("e0"), -9, "killed"),), (known,))
    assert here.expelled() == ["e0"]
    assert here.heard("s") == []


def test_what_engines_were_running_is_told_of_every_client_that_had_calls_there() -> None:
    """Of each the first one that was given; and the status remembers the death, but no orderly end."""
    here = house(2, clients=("c", "d"))
    here.hear("c", calls(1, 2))
    here.hear("d", calls(7, client="d"))
    here.hear("s", Exited(uuid("e0"), -11, "killed by SIGSEGV", Postmortem(said="Fatal Python error")))
    here.hear("s", Exited(uuid("e1"), 0, ""))
    here.lose("e0")
    here.lose("e1")
    (event,) = [m for m in here.heard("d") if isinstance(m, Engines) and m.left[0][0] == 0]
    assert event.postmortems == (Postmortem(said="Fatal Python error", running="call1, call7"),)
    here.hear("c", Query(1, "status", {}))
    (death,) = here.heard("c")[-1].value["deaths"]  # type: ignore[union-attr]
    assert (death["id"], death["exit_code"], death["running"]) == (0, -11, "call1, call7")
    assert death["last_words"] == "Fatal Python error"


def test_supervisors_learn_under_which_ids_their_engines_go() -> None:
    """Of each engine when it joins, and of all when they join themselves."""
    here = house(0, clients=())
    here.join("engine", "e0", supervisor=uuid("s"))
    here.join("engine", "alone")
    (told,) = here.heard("s")
    assert isinstance(told, Engines)
    assert [(info.uuid, info.id) for info in told.joined] == [(uuid("e0"), 0)]
    here.lose("s")
    here.join("supervisor", "s")
    assert [type(message) for message in here.heard("s")] == [Welcome, Engines]


def test_an_engine_that_follows_another_has_its_id_though_the_first_ones_socket_still_stands() -> None:
    """A child may hold it. What is known is that the process has ended."""
    here = house()
    here.hear("c", calls(1))
    here.hear("s", Exited(uuid("e0"), -9, "killed", Postmortem(id=0, returns=True, outlook="again")))
    here.join("engine", "e9", supervisor=uuid("s"), wanted_id=0)
    lost, left, joined = here.heard("c")
    assert isinstance(lost, Lost)
    assert (lost.started, lost.postmortem.returns, lost.postmortem.outlook) == ((1,), True, "again")
    assert isinstance(left, Engines)
    assert isinstance(joined, Engines)
    assert (joined.joined[0].id, joined.joined[0].uuid) == (0, uuid("e9"))


def test_the_end_of_an_engine_that_never_came_is_told_once_its_place_is_known() -> None:
    """But not the end of one that was given up before, which has been told."""
    here = house()
    here.hear("s", Exited(uuid("e8"), 1, "exited with code 1", Postmortem(id=5, said="on_start failed")))
    assert here.heard("c") == [
        Engines((), ((5, uuid("e8"), 1, "exited with code 1"),), (Postmortem(id=5, said="on_start failed"),))
    ]
    here.hear("s", Exited(uuid("e7"), 1, "exited with code 1"))
    here.lose("e0")
    here.wait(GRACE)
    here.heard("c")
    here.hear("s", Exited(uuid("e0"), -9, "killed", Postmortem(id=0)))
    assert here.heard("c") == []


def test_whichever_comes_first_the_cut_or_the_report_the_engine_is_dead_at_once_after_both() -> None:
    for first, second in (("cut", "report"), ("report", "cut")):
        here = house()
        for event in (first, second):
            if event == "cut":
                here.lose("e0")
            else:
                here.hear("s", Exited(uuid("e0"), 1, "exit 1"))
        assert isinstance(here.heard("c")[-1], Engines)


def test_an_engine_that_says_goodbye_ended_in_order() -> None:
    here = house()
    here.hear("e0", Goodbye("stopped by a client"))
    here.hear("s", Exited(uuid("e0"), 0, "exit code 0"))
    here.lose("e0")
    assert here.heard("c") == [Engines((), ((0, uuid("e0"), 0, "stopped by a client"),))]


def test_very_many_lost_calls_are_told_in_several_messages() -> None:
    here = house(credit_calls=100_000)
    for first in range(1, 20_001, 200):
        here.feed("c", calls(*range(first, first + 200)))
        here.machine.flush()
        here.feed("e0", Accept(uuid("c"), 0, tuple(range(first, first + 200)), ()))
    here.turn()
    here.heard("c")
    here.lose("e0")
    here.wait(GRACE)
    lost = [message for message in here.heard("c") if isinstance(message, Lost)]
    assert len(lost) > 1
    assert sorted(seq for message in lost for seq in message.started) == list(range(1, 20_001))
