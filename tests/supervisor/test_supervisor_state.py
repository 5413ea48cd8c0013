"""The supervisor's state machine: every transition, and whole lives under Hypothesis."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from directview.supervisor._restarts import Outlook, Place
from directview.supervisor._state import (
    ControllerEnded,
    ControllerReady,
    DeliverInterrupt,
    Effect,
    EndController,
    Ended,
    EndEngine,
    EngineRegistered,
    Finish,
    ForkServerEnded,
    GiveUpEngine,
    InterruptCall,
    KillSession,
    Machine,
    NotStarted,
    Phase,
    Replace,
    ReplaceEngine,
    Reply,
    ReportExit,
    RestartEngines,
    SendSignal,
    SignalEngine,
    Spawn,
    StartController,
    Started,
    StartEngines,
    StopAll,
    describe_exit,
)
from directview.supervisor._succession import MOST_IN_A_ROW, SETTLED, START_LIMIT

GRACE = 2.0
A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def machine(policy: str = "stop", owns_controller: bool = True, **options: Any) -> Machine:
    return Machine(policy, owns_controller, GRACE, **options)


def running(*uuids: bytes, **options: Any) -> Machine:
    """A machine with these engines up; pids are 101, 102, ..."""
    found = machine(**options)
    found.handle(StartEngines(uuids, "first"), 0.0)
    for number, uuid in enumerate(uuids):
        found.handle(Started(uuid, 101 + number), 0.0)
    return found


def test_start_is_answered_when_all_have_started() -> None:
    m = machine()
    assert m.handle(StartEngines((A, B), "t"), 0.0) == [Spawn(A, -1), Spawn(B, -1)]
    assert m.handle(Started(A, 101), 0.1) == []
    assert m.handle(Started(B, 102), 0.2) == [Reply("t", True, [A.hex(), B.hex()])]


def test_start_says_which_failure_there_was() -> None:
    m = machine()
    m.handle(StartEngines((A, B), "t"), 0.0)
    m.handle(Started(A, 101), 0.1)
    assert m.handle(NotStarted(B, "can't fork: no memory"), 0.2) == [
        ReportExit(B, None, "can't fork: no memory"),
        Reply("t", False, "can't fork: no memory"),
    ]


def test_start_of_no_engines_is_answered_at_once() -> None:
    assert machine().handle(StartEngines((), "t"), 0.0) == [Reply("t", True, [])]


def test_start_while_stopping_is_refused() -> None:
    m = running(A)
    m.handle(StopAll("enough"), 1.0)
    assert m.handle(StartEngines((B,), "t"), 1.0) == [Reply("t", False, "the cluster is stopping: enough")]


def test_an_exit_is_reported_with_code_and_words() -> None:
    m = running(A)
    assert m.handle(Ended(A, -11), 1.0) == [ReportExit(A, -11, "killed by SIGSEGV")]
    assert m.engines == {}
    assert m.handle(Ended(A, -11), 1.0) == []


def test_an_engine_gets_the_grace_before_it_is_killed() -> None:
    m = running(A)
    assert m.handle(EndEngine(A, "enough"), 10.0) == [SendSignal(A, signal.SIGTERM)]
    assert m.handle(EndEngine(A, "again"), 11.0) == []
    assert m.next_deadline() == 12.0
    assert m.tick(11.9) == []
    assert m.tick(12.0) == [KillSession(A, 101)]
    assert m.next_deadline() is None
    assert m.handle(Ended(A, -9), 12.1) == [ReportExit(A, -9, "enough")]


def test_an_engine_that_is_still_being_made_ends_as_soon_as_it_is_there() -> None:
    m = machine()
    m.handle(StartEngines((A,), "t"), 0.0)
    assert m.handle(EndEngine(A, "enough"), 1.0) == []
    assert m.handle(Started(A, 101), 2.0) == [SendSignal(A, signal.SIGTERM)]
    assert m.next_deadline() == 4.0
    assert m.handle(Ended(A, -15), 3.0) == [ReportExit(A, -15, "enough"), Reply("t", False, "enough")]


def test_an_engine_that_dies_is_followed_by_another_under_its_id() -> None:
    """At once when it has lived for a while; its death says so."""
    m = running(A, restart_engines=True)
    m.handle(EngineRegistered(A, 3), 1.0)
    m.handle(EngineRegistered(A, 3), 50.0)
    (report,) = m.handle(Ended(A, -11), 100.0)
    assert isinstance(report, ReportExit)
    assert report.outlook == Outlook(3, True, "another is started in its place")
    assert m.next_deadline() == 100.0
    (replace,) = m.tick(100.0)
    assert isinstance(replace, Replace)
    assert m.handle(ReplaceEngine(B, replace.place), 100.0) == [Spawn(B, 3)]


def test_engines_that_die_one_after_the_other_are_followed_ever_more_slowly_and_then_no_more() -> None:
    """However they die: of an `on_start` that fails before they have registered, or soon after that."""
    m = running(A, restart_engines=True)
    m.handle(EngineRegistered(A, 3), 0.0)
    uuid, now, pauses = A, 1.0, []
    while True:
        (report,) = m.handle(Ended(uuid, 1), now)
        assert isinstance(report, ReportExit)
        if not report.outlook.returns:
            break
        due = m.next_deadline()
        assert due is not None
        pauses.append(due - now)
        now = due
        (replace,) = m.tick(now)
        assert isinstance(replace, Replace)
        uuid = bytes([10 + len(pauses)]) * 16
        m.handle(ReplaceEngine(uuid, replace.place), now)
        m.handle(Started(uuid, 200), now)
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert report.outlook.text == "no other is started in its place: 6 have died there one after the other"
    assert m.next_deadline() is None


@pytest.mark.parametrize("asked", [True, False])
def test_only_an_engine_that_nobody_wanted_gone_is_followed(asked: bool) -> None:
    """One that was stopped is not; one that was given up, because nobody heard of it any more, is."""
    m = running(A, restart_engines=True)
    m.handle(EngineRegistered(A, 0), 0.0)
    m.handle(EndEngine(A, "it was stopped") if asked else GiveUpEngine(A, "no heartbeat"), 1.0)
    (report,) = m.handle(Ended(A, -15), 1.1)
    assert isinstance(report, ReportExit)
    assert report.outlook.returns is not asked


def test_nobody_is_followed_who_never_registered_or_where_nobody_asked_for_it_or_all_ends() -> None:
    never = running(A, restart_engines=True)
    assert never.handle(Ended(A, 1), 1.0) == [ReportExit(A, 1, "exited with code 1")]
    unasked = running(A)
    unasked.handle(EngineRegistered(A, 0), 0.0)
    assert unasked.handle(Ended(A, 1), 1.0) == [ReportExit(A, 1, "exited with code 1", Outlook(0))]
    ending = running(A, B, restart_engines=True)
    ending.handle(EngineRegistered(A, 0), 0.0)
    ending.handle(Ended(A, 1), 1.0)
    ending.handle(StopAll("enough"), 1.0)
    assert ending.next_deadline() == 1.0 + GRACE
    assert ending.handle(ReplaceEngine(C, Place(0, 1)), 1.0) == []


def test_when_all_engines_are_stopped_those_that_wait_for_their_place_are_not_started() -> None:
    m = running(A, restart_engines=True)
    m.handle(EngineRegistered(A, 0), 0.0)
    m.handle(Ended(A, 1), 1.0)
    m.cancel_restarts()
    assert m.tick(5.0) == []


def test_signals_and_interrupts_reach_running_engines_only() -> None:
    m = running(A)
    m.handle(StartEngines((B,), "t"), 0.0)
    assert m.handle(SignalEngine(A, 10), 1.0) == [SendSignal(A, 10)]
    assert m.handle(SignalEngine(B, 10), 1.0) == []
    assert m.handle(SignalEngine(C, 10), 1.0) == []
    assert m.handle(InterruptCall(A, C, 7), 1.0) == [DeliverInterrupt(A, C, 7)]
    assert m.handle(InterruptCall(B, C, 7), 1.0) == []
    m.handle(EndEngine(A, "enough"), 1.0)
    assert m.handle(InterruptCall(A, C, 7), 1.0) == []


def test_a_restart_ends_one_and_starts_another_in_its_place() -> None:
    m = running(A)
    assert m.handle(RestartEngines(((A, B, 3),), "t"), 1.0) == [SendSignal(A, signal.SIGTERM)]
    assert m.handle(Ended(A, -15), 1.1) == [ReportExit(A, -15, "restarted"), Spawn(B, 3)]
    assert m.handle(Started(B, 102), 1.2) == [Reply("t", True, [B.hex()])]


def test_a_restart_of_an_unknown_engine_changes_nothing() -> None:
    m = running(A)
    assert m.handle(RestartEngines(((A, B, 0), (C, B, 1)), "t"), 1.0) == [
        Reply("t", False, f"no engine {C.hex()} here")
    ]
    assert m.engines[A].phase is Phase.RUNNING


def test_a_stop_cuts_a_restart_short_and_says_so() -> None:
    m = running(A)
    m.handle(RestartEngines(((A, B, 3),), "t"), 1.0)
    m.handle(StopAll("enough"), 1.0)
    assert m.handle(Ended(A, -15), 1.1) == [ReportExit(A, -15, "restarted"), Reply("t", False, "restarted")]


def test_stopping_goes_controller_engines_end() -> None:
    m = running(A, B)
    assert m.handle(StopAll("enough"), 1.0) == [EndController(signal.SIGTERM)]
    assert m.handle(StopAll("again"), 1.0) == []
    assert m.handle(ControllerEnded(0), 1.5) == [SendSignal(A, signal.SIGTERM), SendSignal(B, signal.SIGTERM)]
    assert m.handle(Ended(A, 0), 1.6) == [ReportExit(A, 0, "enough")]
    assert m.handle(Ended(B, 0), 1.7) == [ReportExit(B, 0, "enough"), Finish("enough")]


def test_a_deaf_controller_is_killed_after_the_grace() -> None:
    m = running(A)
    m.handle(StopAll("enough"), 1.0)
    assert m.tick(2.9) == []
    assert m.tick(3.0) == [EndController(signal.SIGKILL)]
    assert m.handle(ControllerEnded(-9), 3.1) == [SendSignal(A, signal.SIGTERM)]


def test_without_a_controller_of_its_own_it_stops_the_engines_at_once() -> None:
    m = running(A, owns_controller=False)
    assert m.handle(StopAll("enough"), 1.0) == [SendSignal(A, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("policy", "ready", "code", "why"),
    [
        ("stop", True, -9, "the controller ended (killed by SIGKILL)"),
        ("wait", False, 1, "the controller ended (exited with code 1)"),
        ("wait", True, 0, "the controller ended (in order)"),
    ],
    ids=["policy stop", "it was never ready", "it ended in order"],
)
def test_the_controllers_end_stops_the_engines(policy: str, ready: bool, code: int, why: str) -> None:
    m = running(A, policy=policy)
    if ready:
        m.handle(ControllerReady(), 0.5)
    assert m.handle(ControllerEnded(code), 1.0) == [SendSignal(A, signal.SIGTERM)]
    assert m.stopping == why


def test_under_policy_wait_the_controller_gets_a_successor_and_the_engines_stay() -> None:
    m = running(A, policy="wait")
    m.handle(ControllerReady(), 1.0)
    assert m.handle(ControllerEnded(-9), 100.0) == []
    assert m.next_deadline() == 100.0
    assert m.tick(100.0) == [StartController()]
    assert m.next_deadline() == 100.0 + START_LIMIT
    assert m.handle(ControllerReady(), 100.5) == []
    assert m.next_deadline() is None
    assert m.stopping is None
    assert m.handle(StopAll("enough"), 101.0) == [EndController(signal.SIGTERM)]


def test_a_successor_that_is_never_ready_is_killed_and_replaced() -> None:
    m = running(A, policy="wait")
    m.handle(ControllerReady(), 1.0)
    m.handle(ControllerEnded(-9), 100.0)
    m.tick(100.0)
    assert m.tick(100.0 + START_LIMIT) == [EndController(signal.SIGKILL)]
    m.handle(ControllerEnded(-9), 131.0)
    deadline = m.next_deadline()
    assert deadline is not None
    assert 131.0 < deadline < 132.0
    assert m.tick(deadline) == [StartController()]


def test_controllers_that_end_soon_are_replaced_ever_more_slowly_and_then_no_more() -> None:
    m = running(A, policy="wait")
    now = 1.0
    pauses = []
    m.handle(ControllerReady(), now)
    while True:
        now += 0.1
        effects = m.handle(ControllerEnded(1), now)
        deadline = m.next_deadline()
        if effects or deadline is None:
            break
        pauses.append(deadline - now)
        assert m.tick(deadline) == [StartController()]
        now = deadline
        m.handle(ControllerReady(), now)
    assert effects == [SendSignal(A, signal.SIGTERM)]
    assert m.stopping == f"{MOST_IN_A_ROW + 1} controllers ended in a row, the last one: exited with code 1"
    assert pauses == sorted(pauses)
    assert pauses[0] == 0
    assert pauses[-1] > 1


def test_a_controller_that_worked_for_a_while_counts_as_the_first_again() -> None:
    m = running(A, policy="wait")
    now = 0.0
    m.handle(ControllerReady(), now)
    for _ in range(5 * MOST_IN_A_ROW):
        now += SETTLED
        assert m.handle(ControllerEnded(-9), now) == []
        assert m.tick(now) == [StartController()]
        m.handle(ControllerReady(), now)


def test_who_stops_between_two_controllers_waits_for_none() -> None:
    m = running(A, policy="wait")
    m.handle(ControllerReady(), 0.0)
    m.handle(ControllerEnded(-9), 10.0)
    assert m.handle(StopAll("enough"), 10.0) == [SendSignal(A, signal.SIGTERM)]
    assert m.tick(10.0) == []
    assert m.handle(Ended(A, 0), 11.0) == [ReportExit(A, 0, "enough"), Finish("enough")]


def test_the_fork_servers_end_is_every_engines() -> None:
    m = running(A)
    m.handle(StartEngines((B,), "t"), 0.0)
    effects = m.handle(ForkServerEnded(), 1.0)
    assert KillSession(A, 101) in effects
    assert ReportExit(A, -9, "killed by SIGKILL") in effects
    assert any(isinstance(effect, ReportExit) and effect.uuid == B for effect in effects)
    assert any(isinstance(effect, Reply) and not effect.ok for effect in effects)
    assert effects[-1] == EndController(signal.SIGTERM)
    assert m.engines == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ""),
        (3, "exited with code 3"),
        (-9, "killed by SIGKILL"),
        (-200, "killed by signal 200"),
        (None, "its process ended; nobody saw how"),
    ],
)
def test_exit_codes_in_words(code: int | None, words: str) -> None:
    assert describe_exit(code) == words


class Lives(RuleBasedStateMachine):
    """Any order of events, with a world that does what the effects say, at its own pace."""

    @initialize(policy=st.sampled_from(["stop", "wait"]), owns=st.booleans())
    def begin(self, policy: str, owns: bool) -> None:
        self.now = 0.0
        self.machine = Machine(policy, owns, GRACE)
        self.controller = owns
        self.count = 0
        self.asked: list[bytes] = []
        self.alive: dict[bytes, bool] = {}
        """uuid → whether SIGKILL is on its way."""
        self.spawned: set[bytes] = set()
        self.reported: list[bytes] = []
        self.tickets: set[int] = set()
        self.answered: list[object] = []
        self.finished = 0

    def new(self) -> bytes:
        self.count += 1
        return self.count.to_bytes(16, "big")

    def feed(self, event: Any) -> None:
        self.take(self.machine.handle(event, self.now))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert not self.finished, f"{effect} after Finish"
            match effect:
                case Spawn(uuid, _):
                    assert self.machine.stopping is None
                    assert uuid not in self.spawned
                    self.spawned.add(uuid)
                    self.asked.append(uuid)
                case SendSignal(uuid, _):
                    assert uuid in self.alive
                case KillSession(uuid, _):
                    self.alive[uuid] = True
                case ReportExit(uuid, _, _):
                    assert uuid not in self.reported
                    self.reported.append(uuid)
                case Reply(ticket, _, _):
                    assert ticket not in self.answered
                    self.answered.append(ticket)
                case EndController():
                    assert self.controller
                case StartController():
                    assert not self.controller
                    assert self.machine.stopping is None
                    self.controller = True
                case Finish():
                    self.finished += 1

    @precondition(lambda self: not self.finished)
    @rule(n=st.integers(0, 3))
    def start(self, n: int) -> None:
        ticket = len(self.tickets)
        self.tickets.add(ticket)
        self.feed(StartEngines(tuple([self.new() for _ in range(n)]), ticket))

    @precondition(lambda self: self.alive and not self.finished)
    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        ticket = len(self.tickets)
        self.tickets.add(ticket)
        old = data.draw(st.sampled_from(sorted(self.alive)))
        self.feed(RestartEngines(((old, self.new(), 5),), ticket))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), works=st.booleans())
    def spawn(self, data: st.DataObject, works: bool) -> None:
        uuid = data.draw(st.sampled_from(self.asked))
        self.asked.remove(uuid)
        if works:
            self.alive[uuid] = False
            self.feed(Started(uuid, 1000 + len(self.spawned)))
        else:
            self.feed(NotStarted(uuid, "no memory"))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), code=st.sampled_from([0, 1, -9, -15]))
    def die(self, data: st.DataObject, code: int) -> None:
        uuid = data.draw(st.sampled_from(sorted(self.alive)))
        del self.alive[uuid]
        self.feed(Ended(uuid, code))

    @precondition(lambda self: self.alive and not self.finished)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        self.feed(EndEngine(data.draw(st.sampled_from(sorted(self.alive))), "enough"))

    @precondition(lambda self: not self.finished)
    @rule()
    def stop(self) -> None:
        self.feed(StopAll("enough"))

    @precondition(lambda self: self.controller)
    @rule()
    def controller_is_ready(self) -> None:
        self.feed(ControllerReady())

    @precondition(lambda self: self.controller)
    @rule(code=st.sampled_from([0, -9]))
    def controller_ends(self, code: int) -> None:
        self.controller = False
        self.feed(ControllerEnded(code))

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.machine.tick(self.now))
        deadline = self.machine.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def who_lives_is_known(self) -> None:
        if hasattr(self, "machine"):
            assert set(self.machine.engines) == set(self.alive) | set(self.asked)
            assert set(self.reported) == self.spawned - set(self.machine.engines)

    def teardown(self) -> None:
        """Let it all end: everyone is reported once, answered once, and it finishes once."""
        if not hasattr(self, "machine"):
            return
        if not self.finished:
            self.feed(StopAll("the end"))
        if self.controller:
            self.controller = False
            self.feed(ControllerEnded(0))
        while self.asked:
            uuid = self.asked.pop()
            self.alive[uuid] = False
            self.feed(Started(uuid, 1))
        self.now += 2 * GRACE
        self.take(self.machine.tick(self.now))
        assert all(self.alive.values()), "one is still waited for that nobody killed"
        for uuid in list(self.alive):
            del self.alive[uuid]
            self.feed(Ended(uuid, -9))
        assert self.finished == 1
        assert sorted(self.answered, key=str) == sorted(self.tickets, key=str)
        assert len(self.reported) == len(self.spawned)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(st.lists(st.floats(0, 5), max_size=5))
def test_ticking_early_or_often_does_nothing(times: list[float]) -> None:
    """A timer that fires early, late or twice changes nothing but the moment."""
    m = running(A)
    m.handle(EndEngine(A, "enough"), 0.0)
    killed = [effect for now in sorted(times) for effect in m.tick(now)]
    assert killed == ([KillSession(A, 101)] if any(now >= GRACE for now in times) else [])
