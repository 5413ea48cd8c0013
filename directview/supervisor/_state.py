"""Pure: which engines there are, how each is doing, and what has to be done about it.

Events come in with the time, effects go out; `next_deadline` says when `tick` wants to be called. An engine:

======== ===================== ==========================================================
phase    goes on with          to
======== ===================== ==========================================================
STARTING Started               RUNNING
STARTING NotStarted            gone (reported as ended)
RUNNING  EndEngine, a stop     STOPPING: the signal is sent, a deadline set
STOPPING deadline              KILLED: its whole session is killed
any      Ended                 gone (reported, and its place taken by another if it restarts, or if engines
                               that die are to be followed by others: `directview.supervisor._restarts`)
======== ===================== ==========================================================

The supervisor as a whole stops in one way, whoever asked for it: first its own controller (which tells
every client), then the engines, then itself. A controller that ends by itself under the policy ``stop`` joins
that way in the middle. Under the policy ``wait`` it gets a successor instead, which takes over from it, and
the engines stay (`directview.supervisor._succession`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, assert_never

from directview.supervisor._restarts import Outlook, Place, Restarts
from directview.supervisor._succession import MOST_IN_A_ROW, START_LIMIT, Succession

__all__ = [
    "ControllerEnded",
    "ControllerReady",
    "DeliverInterrupt",
    "EndController",
    "EndEngine",
    "Ended",
    "Engine",
    "EngineRegistered",
    "ForkServerEnded",
    "GiveUpEngine",
    "InterruptCall",
    "KillSession",
    "Machine",
    "NotStarted",
    "Phase",
    "Replace",
    "ReplaceEngine",
    "Reply",
    "ReportExit",
    "RestartEngines",
    "SendSignal",
    "SignalEngine",
    "Spawn",
    "StartController",
    "StartEngines",
    "Started",
    "StopAll",
    "Finish",
]


class Phase(Enum):
    """What is known about an engine's process."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    KILLED = "killed"


@dataclass(slots=True)
class Engine:
    """One engine process that has not been reported as ended."""

    uuid: bytes
    wanted_id: int
    phase: Phase = Phase.STARTING
    pid: int = 0
    deadline: float | None = None
    stop_reason: str | None = None
    """Why it is being stopped; None while it isn't."""
    given_up: bool = False
    """That is because nobody hears of it any more, and not because somebody wants it gone."""
    successor: tuple[bytes, int] | None = None
    """(uuid, id) of the engine that is to take its place."""
    ticket: object = None
    """Who waits to hear that it started."""


# --- events ------------------------------------------------------------------------------------


class StartEngines(NamedTuple):
    """Somebody wants engines; `ticket` gets a Reply when each has started or failed."""

    uuids: tuple[bytes, ...]
    ticket: object


class RestartEngines(NamedTuple):
    """End each engine and start another in its place: (old uuid, new uuid, id to ask for)."""

    engines: tuple[tuple[bytes, bytes, int], ...]
    ticket: object


class Started(NamedTuple):
    """The fork server made the process."""

    uuid: bytes
    pid: int


class NotStarted(NamedTuple):
    """The fork server could not."""

    uuid: bytes
    reason: str


class Ended(NamedTuple):
    """The process ended; exit code as of `subprocess`, None when nobody could see it."""

    uuid: bytes
    exit_code: int | None


class EndEngine(NamedTuple):
    """Somebody wants this engine to end."""

    uuid: bytes
    reason: str


class GiveUpEngine(NamedTuple):
    """The controller hears nothing of this engine any more: it is to end, though nobody wants it gone."""

    uuid: bytes
    reason: str


class EngineRegistered(NamedTuple):
    """The controller knows this engine, under this id."""

    uuid: bytes
    id: int


class ReplaceEngine(NamedTuple):
    """The answer to `Replace`: the engine that takes the place."""

    uuid: bytes
    place: Place


class SignalEngine(NamedTuple):
    """Somebody sends this engine a signal."""

    uuid: bytes
    signum: int


class InterruptCall(NamedTuple):
    """The controller wants this call interrupted."""

    uuid: bytes
    client: bytes
    seq: int


class ControllerReady(NamedTuple):
    """Our own controller listens, and has written its files."""


class ControllerEnded(NamedTuple):
    """Our own controller's process ended."""

    exit_code: int


class ForkServerEnded(NamedTuple):
    """The fork server ended, and with it, by the kernel's hand, every engine."""


class StopAll(NamedTuple):
    """Everything is to end: asked for, or the launcher is gone, or the controller's host is."""

    reason: str


Event = (
    StartEngines | RestartEngines | Started | NotStarted | Ended | EndEngine | GiveUpEngine
    | EngineRegistered | ReplaceEngine | SignalEngine | InterruptCall | ControllerReady | ControllerEnded
    | ForkServerEnded | StopAll
)  # fmt: skip


# --- effects -----------------------------------------------------------------------------------


class Spawn(NamedTuple):
    """Have the fork server start this engine."""

    uuid: bytes
    wanted_id: int


class SendSignal(NamedTuple):
    """Send a signal to this engine's own process."""

    uuid: bytes
    signum: int


class KillSession(NamedTuple):
    """SIGKILL to all processes of this engine's session."""

    uuid: bytes
    pid: int


class DeliverInterrupt(NamedTuple):
    """Write the call's id into the engine's pipe, then signal it."""

    uuid: bytes
    client: bytes
    seq: int


class ReportExit(NamedTuple):
    """Tell the controller and the launcher."""

    uuid: bytes
    exit_code: int | None
    reason: str
    outlook: Outlook = Outlook()


class Replace(NamedTuple):
    """An engine is to be started in the place of one that died: a `ReplaceEngine` with a uuid follows."""

    place: Place


class Reply(NamedTuple):
    """Answer whoever asked."""

    ticket: object
    ok: bool
    value: Any


class EndController(NamedTuple):
    """Signal our own controller."""

    signum: int


class StartController(NamedTuple):
    """Start a controller that takes over from the one that ended."""


class Finish(NamedTuple):
    """Nothing is left to do: end."""

    reason: str


Effect = (
    Spawn | SendSignal | KillSession | DeliverInterrupt | ReportExit | Replace | Reply | EndController
    | StartController | Finish
)  # fmt: skip


@dataclass(slots=True)
class _Ticket:
    waiting: int
    started: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Machine:
    """The supervisor's mind.

    Args:
        policy: ``stop`` or ``wait``: what the end of the controller means.
        owns_controller: whether the controller is a child of this supervisor.
        grace: seconds from SIGTERM to SIGKILL.
        restart_engines: whether engines that die are to be followed by others.
    """

    def __init__(
        self, policy: str, owns_controller: bool, grace: float, restart_engines: bool = False
    ) -> None:
        self.engines: dict[bytes, Engine] = {}
        self.stopping: str | None = None
        """Why everything ends; None while it doesn't."""
        self._policy = policy
        self._controller = owns_controller
        self._controller_deadline: float | None = None
        self._succession = Succession()
        self._successor_at: float | None = None
        self._restarts = Restarts(restart_engines)
        self._grace = grace
        self._tickets: dict[object, _Ticket] = {}
        self._finished = False

    @property
    def has_begun(self) -> bool:
        """A controller of ours has been ready once."""
        return self._succession.begun

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at the time `now`; returns what is to be done, in order."""
        effects: list[Effect] = []
        match event:
            case StartEngines(uuids, ticket):
                self._start([(uuid, -1) for uuid in uuids], ticket, effects)
            case RestartEngines(engines, ticket):
                self._restart(engines, ticket, now, effects)
            case Started(uuid, pid):
                self._started(uuid, pid, now, effects)
            case NotStarted(uuid, reason):
                self._gone(uuid, None, reason, now, effects)
            case Ended(uuid, exit_code):
                self._gone(uuid, exit_code, None, now, effects)
            case EndEngine(uuid, reason):
                engine = self.engines.get(uuid)
                if engine is not None:
                    engine.successor = None
                    self._end(engine, reason, now, effects)
            case GiveUpEngine(uuid, reason):
                engine = self.engines.get(uuid)
                if engine is not None:
                    engine.given_up = engine.stop_reason is None
                    self._end(engine, reason, now, effects)
            case EngineRegistered(uuid, id):
                self._restarts.registered(uuid, id, now)
            case ReplaceEngine(uuid, place):
                if self.stopping is None:
                    self._spawn(uuid, place, None, effects)
            case SignalEngine(uuid, signum):
                engine = self.engines.get(uuid)
                if engine is not None and engine.pid:
                    effects.append(SendSignal(uuid, signum))
            case InterruptCall(uuid, client, seq):
                engine = self.engines.get(uuid)
                if engine is not None and engine.phase is Phase.RUNNING:
                    effects.append(DeliverInterrupt(uuid, client, seq))
            case ControllerReady():
                self._succession.ready(now)
                if self.stopping is None:
                    self._controller_deadline = None
            case ControllerEnded(exit_code):
                self._controller_ended(exit_code, now, effects)
            case ForkServerEnded():
                self._fork_server_ended(now, effects)
            case StopAll(reason):
                self._stop(reason, now, effects)
            case _ as unreachable:
                assert_never(unreachable)
        self._finish_if_done(effects)
        return effects

    def next_deadline(self) -> float | None:
        """When `tick` is to be called at the latest, if at all."""
        deadlines = [engine.deadline for engine in self.engines.values() if engine.deadline is not None]
        others = (self._controller_deadline, self._successor_at, self._restarts.next_deadline())
        deadlines += [at for at in others if at is not None]
        return min(deadlines, default=None)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due: who was asked to end and has not, is killed."""
        effects: list[Effect] = []
        if self._controller_deadline is not None and now >= self._controller_deadline:
            self._controller_deadline = None
            effects.append(EndController(signal.SIGKILL))
        if self._successor_at is not None and now >= self._successor_at:
            self._successor_at = None
            self._controller = True
            self._controller_deadline = now + START_LIMIT
            effects.append(StartController())
        for engine in self.engines.values():
            if engine.deadline is not None and now >= engine.deadline:
                engine.deadline = None
                engine.phase = Phase.KILLED
                effects.append(KillSession(engine.uuid, engine.pid))
        effects += [Replace(place) for place in self._restarts.due(now)]
        return effects

    # --- engines -------------------------------------------------------------------------------

    def _start(self, engines: Iterable[tuple[bytes, int]], ticket: object, effects: list[Effect]) -> None:
        if self.stopping is not None:
            effects.append(Reply(ticket, False, f"the cluster is stopping: {self.stopping}"))
            return
        count = 0
        for uuid, wanted_id in engines:
            self._spawn(uuid, Place(wanted_id, 0), ticket, effects)
            count += 1
        self._open_ticket(ticket, count, effects)

    def _spawn(self, uuid: bytes, place: Place, ticket: object, effects: list[Effect]) -> None:
        self.engines[uuid] = Engine(uuid, place.id, ticket=ticket)
        self._restarts.begun(uuid, place)
        effects.append(Spawn(uuid, place.id))

    def cancel_restarts(self) -> None:
        """Engines are not wanted any more, those that have died included."""
        self._restarts.cancel()

    def _restart(
        self,
        engines: tuple[tuple[bytes, bytes, int], ...],
        ticket: object,
        now: float,
        effects: list[Effect],
    ) -> None:
        unknown = [old.hex() for old, _, _ in engines if old not in self.engines]
        if self.stopping is not None or unknown:
            why = (
                f"no engine {', '.join(unknown)} here"
                if unknown
                else f"the cluster is stopping: {self.stopping}"
            )
            effects.append(Reply(ticket, False, why))
            return
        self._open_ticket(ticket, len(engines), effects)
        for old, new, wanted_id in engines:
            engine = self.engines[old]
            self._settle(engine, False, "it was restarted", effects)
            engine.successor = (new, wanted_id)
            engine.ticket = ticket
            self._end(engine, "restarted", now, effects)

    def _open_ticket(self, ticket: object, count: int, effects: list[Effect]) -> None:
        if count:
            self._tickets[ticket] = _Ticket(count)
        else:
            effects.append(Reply(ticket, True, []))

    def _started(self, uuid: bytes, pid: int, now: float, effects: list[Effect]) -> None:
        engine = self.engines.get(uuid)
        if engine is None:
            return
        engine.pid = pid
        if engine.stop_reason is None:
            engine.phase = Phase.RUNNING
            self._settle(engine, True, "", effects)
        else:
            # Asked to end while it was being made: now there is something to signal.
            self._end(engine, engine.stop_reason, now, effects)

    def _end(self, engine: Engine, reason: str, now: float, effects: list[Effect]) -> None:
        if engine.stop_reason is None:
            engine.stop_reason = reason
        if engine.pid and engine.phase in (Phase.STARTING, Phase.RUNNING):
            engine.phase = Phase.STOPPING
            engine.deadline = now + self._grace
            effects.append(SendSignal(engine.uuid, signal.SIGTERM))

    def _gone(
        self, uuid: bytes, exit_code: int | None, failure: str | None, now: float, effects: list[Effect]
    ) -> None:
        engine = self.engines.pop(uuid, None)
        if engine is None:
            return
        reason = failure if failure is not None else describe_exit(exit_code)
        if engine.stop_reason is not None and failure is None:
            reason = engine.stop_reason
        asked_for = engine.stop_reason is not None and not engine.given_up
        outlook = self._restarts.ended(uuid, asked_for or self.stopping is not None, now)
        effects.append(ReportExit(uuid, exit_code, reason, outlook))
        if engine.successor is not None and self.stopping is None:
            new, wanted_id = engine.successor
            self._spawn(new, Place(wanted_id, 0), engine.ticket, effects)
        else:
            self._settle(engine, False, reason, effects)

    def _settle(self, engine: Engine, ok: bool, failure: str, effects: list[Effect]) -> None:
        """Count this engine off its ticket, and answer when it was the last."""
        ticket = self._tickets.get(engine.ticket)
        if ticket is None:
            return
        key, engine.ticket = engine.ticket, None
        ticket.waiting -= 1
        if ok:
            ticket.started.append(engine.uuid.hex())
        else:
            ticket.failures.append(failure)
        if ticket.waiting == 0:
            del self._tickets[key]
            failures = "; ".join(sorted(set(ticket.failures)))
            effects.append(Reply(key, not failures, failures or ticket.started))

    # --- the end of everything -----------------------------------------------------------------

    def _stop(self, reason: str, now: float, effects: list[Effect]) -> None:
        if self.stopping is not None:
            return
        self.stopping = reason
        self._successor_at = None
        self._restarts.stop()
        if self._controller:
            self._controller_deadline = now + self._grace
            effects.append(EndController(signal.SIGTERM))
        else:
            self._stop_engines(now, effects)

    def _controller_ended(self, exit_code: int, now: float, effects: list[Effect]) -> None:
        self._controller = False
        self._controller_deadline = None
        if self.stopping is None:
            how = describe_exit(exit_code) or "in order"
            # One that ended in order was told to, by a client or by a signal.
            again = self._policy == "wait" and exit_code != 0
            pause = self._succession.ended(now) if again else None
            if pause is not None:
                self._successor_at = now + pause
            elif self._succession.in_a_row > MOST_IN_A_ROW:
                self.stopping = f"{MOST_IN_A_ROW + 1} controllers ended in a row, the last one: {how}"
            else:
                self.stopping = f"the controller ended ({how})"
        if self.stopping is not None:
            self._restarts.stop()
            self._stop_engines(now, effects)

    def _stop_engines(self, now: float, effects: list[Effect]) -> None:
        for engine in list(self.engines.values()):
            self._end(engine, self.stopping or "", now, effects)

    def _fork_server_ended(self, now: float, effects: list[Effect]) -> None:
        self._restarts.stop()
        for engine in list(self.engines.values()):
            # The kernel killed the engine itself; what it had started is left to us.
            engine.successor = None
            if engine.pid:
                effects.append(KillSession(engine.uuid, engine.pid))
            self._gone(engine.uuid, -signal.SIGKILL if engine.pid else None, None, now, effects)
        self._stop("the fork server ended, and its engines with it", now, effects)

    def _finish_if_done(self, effects: list[Effect]) -> None:
        if self.stopping is not None and not self._controller and not self.engines and not self._finished:
            self._finished = True
            effects.append(Finish(self.stopping))


def describe_exit(exit_code: int | None) -> str:
    """An exit code in words; empty when it ended in order."""
    if exit_code is None:
        return "its process ended; nobody saw how"
    if exit_code == 0:
        return ""
    if exit_code > 0:
        return f"exited with code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
