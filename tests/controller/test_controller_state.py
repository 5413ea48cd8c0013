"""The controller's decisions, message by message."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from directview.controller._client_messages import ABORT_AGAIN, ABORT_FIRST, ABORT_TRIES
from directview.controller._effects import Admit, Effect, Expel, Finish, Lookup, Note, Persist, Record, Send
from directview.controller._state import EXIT_DRAIN, Controller, Settings
from directview.testing.invariants import check_controller
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
    Alive,
    Answer,
    CallItem,
    Chunk,
    Engines,
    Exited,
    Forget,
    Goodbye,
    Grant,
    Hello,
    Interrupt,
    Launch,
    Lost,
    Message,
    Output,
    Paused,
    Query,
    Refused,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
    Signal,
    Stop,
    Submit,
    Taken,
    Welcome,
    decode,
    encode,
)
from directview.wire.postmortem import Postmortem

LEASE, GRACE = 5.0, 1.0


def uuid(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def hello(role: str, name: str, **changes: Any) -> Hello:
    made = Hello(1, role, uuid(name), "cluster", 0, -1, b"", False, 42, "host", "3.11", b"")
    return made._replace(**changes)


class House:
    """A controller, and what it has told whom. Peers are named by their routes, such as ``c`` or ``e0``."""

    def __init__(self, known: dict[bytes, int] | None = None, **settings: Any) -> None:
        self.now = 100.0
        settings = {"lease": LEASE, "engine_grace": GRACE, **settings}
        self.machine = Controller(Settings("cluster", **settings), self.now, known)
        self.told: list[tuple[str, Message, Sequence[Any]]] = []
        self.others: list[Effect] = []

    def join(self, role: str, name: str, route: str | None = None, **changes: Any) -> None:
        """Connect a peer."""
        route = route or name
        self.machine.greet(route.encode(), hello(role, name, **changes), None, self.now)
        self.turn()

    def hear(self, route: str, message: Message, frames: Sequence[Any] = ()) -> None:
        """A message comes in, and the turn ends."""
        self.feed(route, message, frames)
        self.turn()

    def feed(self, route: str, message: Message, frames: Sequence[Any] = ()) -> None:
        self.machine.receive(route.encode(), message, encode(message), frames, self.now)

    def lose(self, route: str) -> None:
        """A connection is cut."""
        self.machine.lost(route.encode(), "cut", self.now)
        self.turn()

    def wait(self, seconds: float) -> None:
        """Let time pass, waking the machine whenever it asks for it."""
        until = self.now + seconds
        while (deadline := self.machine.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.machine.tick(self.now)
            self.turn()
        self.now = until

    def turn(self) -> None:
        for effect in self.machine.flush():
            if isinstance(effect, Send):
                for route in effect.routes:
                    self.told.append((route.decode(), decode(effect.header), effect.frames))
            else:
                self.others.append(effect)
        check_controller(self.machine)

    def heard(self, route: str) -> list[Message]:
        """What has been told to this peer since the last time."""
        found = [message for told, message, _ in self.told if told == route]
        self.told = [entry for entry in self.told if entry[0] != route]
        return found

    def expelled(self) -> list[str]:
        """Routes that were closed."""
        return [effect.route.decode() for effect in self.others if isinstance(effect, Expel)]


def house(engines: int = 1, clients: Sequence[str] = ("c",), **settings: Any) -> House:
    """Engines ``e0``, ``e1``, ..., watched by the supervisor ``s``, and clients."""
    made = House(**settings)
    made.join("supervisor", "s")
    for number in range(engines):
        made.join("engine", f"e{number}", supervisor=uuid("s"))
    for client in clients:
        made.join("client", client)
    made.told.clear()
    made.others.clear()
    return made


def calls(*seqs: int, client: str = "c", to: tuple[int, ...] = (0,), watermark: int = 1) -> Submit:
    return Submit(
        uuid(client), watermark, tuple([CallItem(seq, to, f"call{seq}", 0, 4, 0, b"body") for seq in seqs])
    )


def results(*seqs: int, engine: int = 0, client: str = "c", status: int = OK) -> Result:
    return Result(uuid(client), engine, tuple([ResultItem(seq, status, 1.0, 2.0, 0, 0, b"") for seq in seqs]))


def question(*seqs: int, engine: int = 0, name: str | None = None, last: bool = False) -> Resume:
    name = name or f"e{engine}"
    return Resume(uuid("c"), tuple([ResumeItem(seq, engine, uuid(name)) for seq in seqs]), last)


def seqs(messages: Sequence[Message]) -> list[int]:
    return [item.seq for message in messages if isinstance(message, Submit) for item in message.calls]


# --- joining --------------------------------------------------------------------------------------------


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


# --- calls ------------------------------------------------------------------------------------------------


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


# --- aborting -------------------------------------------------------------------------------------------


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


# --- engines that leave ---------------------------------------------------------------------------------


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


# --- peers that come back -------------------------------------------------------------------------------


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


# --- a controller that takes over ---------------------------------------------------------------------------

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


# --- queries ----------------------------------------------------------------------------------------------


def ask(here: House, what: str, *, route: str = "c", **params: Any) -> Answer | None:
    here.hear(route, Query(1, what, params))
    answers = [message for message in here.heard(route) if isinstance(message, Answer)]
    return answers[-1] if answers else None


def test_status_tells_who_is_there() -> None:
    here = house(2, window_calls=1)
    here.hear("c", calls(1, 2))
    here.wait(7.0)
    answer = ask(here, "status")
    assert answer is not None
    assert answer.ok
    value = answer.value
    assert (value["cluster"], value["uptime"], value["calls"]) == ("cluster", 7.0, 2)
    assert [(engine["id"], engine["queue"], engine["tasks"]) for engine in value["engines"]] == [
        (0, 1, 1),
        (1, 0, 0),
    ]
    assert (len(value["clients"]), len(value["supervisors"])) == (1, 1)


def test_queue_status_counts_or_lists() -> None:
    here = house(2, window_calls=1)
    here.hear("c", calls(1, 2))
    answer = ask(here, "queue_status", targets=[0])
    assert answer is not None
    assert answer.value == {"unassigned": 0, "0": {"queue": 1, "tasks": 1, "completed": 0}}
    verbose = ask(here, "queue_status", verbose=True)
    assert verbose is not None
    name = uuid("c").hex()
    assert verbose.value["0"] == {"queue": [f"{name}_2_0"], "tasks": [f"{name}_1_0"], "completed": []}


def test_a_list_that_no_message_could_hold_is_refused() -> None:
    here = house(credit_calls=100_000)
    for first in range(1, 30_001, 200):
        here.feed("c", calls(*range(first, first + 200)))
    answer = ask(here, "queue_status", verbose=True)
    assert answer is not None
    assert not answer.ok
    assert "too many to list" in answer.value


@pytest.mark.parametrize(
    ("what", "params", "text"),
    [
        ("nonsense", {}, "unknown query"),
        ("queue_status", {"targets": [5]}, "no engine 5"),
        ("queue_status", {"targets": 0}, "list of engine ids"),
        ("launch", {"n": 0}, "positive integer"),
        ("signal", {"targets": [0]}, "signal"),
        ("signal", {"targets": [1], "signal": 2}, "no supervisor"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_wrong(
    what: str, params: dict[str, Any], text: str
) -> None:
    here = house()
    here.join("engine", "alone")
    answer = ask(here, what, **params)
    assert answer is not None
    assert not answer.ok
    assert text in answer.value
    assert here.machine.passed_on == {}


def test_processes_are_the_supervisors_business() -> None:
    here = house()
    here.join("engine", "alone")
    here.told.clear()
    stopped = ask(here, "stop")
    assert stopped is not None
    assert stopped.ok
    assert here.heard("s") == [Stop(uuid("e0"), "stopped by a client")]
    assert here.heard("alone") == [Stop(b"", "stopped by a client")]
    ask(here, "signal", targets=[0], signal=2)
    assert here.heard("s") == [Signal(uuid("e0"), 2)]


def test_an_answer_from_a_supervisor_finds_its_way_back() -> None:
    here = house()
    assert ask(here, "launch", n=2) is None
    (launch,) = here.heard("s")
    assert isinstance(launch, Launch)
    here.hear("s", Answer(launch.query, True, "done"))
    assert here.heard("c") == [Answer(1, True, "done")]
    here.hear("s", Answer(launch.query, True, "again"))
    assert here.heard("c") == []


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_supervisor_that_is_gone_answers_nothing_so_the_controller_does(comes_back: bool) -> None:
    here = house()
    ask(here, "launch")
    if comes_back:
        here.join("supervisor", "s", "again")
    else:
        here.lose("s")
    (answer,) = here.heard("c")
    assert isinstance(answer, Answer)
    assert not answer.ok
    here.lose("s")
    if comes_back:
        assert ask(here, "launch") is None


def test_shutting_down_tells_everybody_and_ends() -> None:
    here = house(2)
    answer = ask(here, "shutdown", reason="enough")
    assert answer == Answer(1, True, None)
    for route in ("s", "e0", "e1"):
        assert here.heard(route) == [Stop(b"", "enough")]
    assert here.others == [Finish("enough")]


# --- the history ----------------------------------------------------------------------------------------


def found(here: House, **params: Any) -> list[list[Any]]:
    answer = ask(here, "db_query", query={}, **params)
    assert answer is not None
    assert answer.ok, answer.value
    rows: list[list[Any]] = answer.value["rows"]
    return rows


def test_every_end_of_a_call_is_remembered() -> None:
    """A result, an abort while it waited, an engine's death, an unknown engine, a client's end."""
    here = house(2, window_calls=1)
    here.hear("c", calls(1, 2, 3))
    here.hear("e0", results(1))
    here.hear("c", Abort(uuid("c"), ((0, (3,)),)))
    here.hear("c", calls(4, to=(9,)))
    here.hear("c", calls(5, to=(1,)))
    here.lose("e1")
    here.wait(GRACE)
    assert found(here, keys=["engine_id", "status"]) == [
        [f"{uuid('c').hex()}_{seq}_{id}", id, status]
        for seq, id, status in ((1, 0, "ok"), (2, 0, None), (3, 0, "aborted"), (4, 9, "lost"), (5, 1, "lost"))
    ]
    here.join("client", "other")
    here.hear("c", Goodbye("closed"))
    answer = ask(here, "db_query", route="other", query={"status": "dropped"}, keys="msg_id")
    assert answer is not None
    assert answer.value["rows"] == [[f"{uuid('c').hex()}_2_0"]]


def test_records_are_purged_but_not_of_what_goes_on() -> None:
    here = house()
    here.hear("c", calls(1, 2, 3))
    here.hear("e0", results(1, 2))
    names = [row[0] for row in found(here, keys="msg_id")]
    refused = ask(here, "purge", msg_ids=[names[0], names[2]])
    assert refused is not None
    assert f"call {names[2]} has not ended" in refused.value
    done = ask(here, "purge", msg_ids=names[:1])
    assert done is not None
    assert done.ok
    assert [row[0] for row in found(here, keys="msg_id")] == names[1:]
    ask(here, "purge", targets=[0])
    assert [row[0] for row in found(here, keys="msg_id")] == names[2:]


def test_with_a_store_that_is_asked_after_all_has_been_written() -> None:
    here = house(store=True)
    here.hear("c", calls(1))
    here.wait(1.0)
    (record,) = [effect for effect in here.others if isinstance(effect, Record)]
    assert len(record.made) == 1
    here.others.clear()
    here.hear("e0", results(1))
    assert ask(here, "db_query", query={"status": "ok"}, keys="name", after=3) is None
    write, lookup = here.others[-2:]
    assert isinstance(write, Record)
    assert len(write.ended) == 1
    assert isinstance(lookup, Lookup)
    assert (lookup.sql, lookup.values, lookup.fields, lookup.after) == (
        "status IS ?", ("ok",), ("msg_id", "name"), 3,
    )  # fmt: skip
    here.told.clear()
    here.machine.answered(lookup, True, {"rows": []})
    here.turn()
    assert here.told[-1][1] == Answer(lookup.number, True, {"rows": []})
