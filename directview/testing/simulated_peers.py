"""Engines, clients and supervisors of a simulated cluster: the real state machines in shells of virtual time.

Each peer does what its real shell does: it collects what arrives, feeds its machine, flushes at the end of
the turn, and after a lost connection shakes hands again and resumes. An engine that is deep in a plain
function reads nothing, and notices no lost connection, until the function returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgpack
import numpy as np

from directview._client_calls import Answered, Ended, Gone, Printed, Sent
from directview._client_calls import Call as ClientCall
from directview._client_state import ClientState
from directview.engine._state import Call, EngineState
from directview.testing.simulated_memory import SimulatedMemory
from directview.testing.simulated_wire import Connection
from directview.wire.messages import (
    ABORTED,
    CHUNK_BYTES,
    DETACHED,
    FAILED,
    OK,
    PROTOCOL_VERSION,
    Answer,
    Engines,
    Exited,
    Goodbye,
    Hello,
    Interrupt,
    Launch,
    Message,
    Output,
    Refused,
    Signal,
    Stop,
    Welcome,
    decode,
    output_size,
)
from directview.wire.parcels import Packed, Parcel, Unpacked, pack

if TYPE_CHECKING:
    from directview.testing.simulation import SimulatedCluster

__all__ = ["Outcome", "Peer", "SimulatedClient", "SimulatedEngine", "SimulatedSupervisor", "Work", "pattern"]

_TURN: Final = 0.001
"""Most seconds from a message's arrival to the turn in which it is read, together with what came by then."""
_RETRY: Final = 0.1


class Work(NamedTuple):
    """What a call does when it runs."""

    seconds: float = 0.0
    """How long it takes."""
    coroutine: bool = False
    """It leaves the engine free meanwhile."""
    fails: bool = False
    argument_bytes: int = 0
    """Beside the call itself."""
    result_bytes: int = 0
    printed: int = 0
    """Characters, at its beginning."""


class Outcome(NamedTuple):
    """How a call ended for its client on one engine."""

    how: str
    """``result``, ``error``, ``aborted``, ``gone`` (it never ran, or nobody knows), or ``unreadable``."""
    started: bool
    """For ``gone``: it may have run."""
    right: bool
    """For ``result``: every byte is what it should be."""


def pattern(key: int, nbytes: int) -> np.ndarray[Any, Any]:
    """Bytes that are different for different keys and places."""
    return ((np.arange(nbytes, dtype=np.uint32) + key) * 2_654_435_761 >> 7).astype(np.uint8)


class Peer:
    """What all peers have in common: a connection, turns, and coming back."""

    role: str
    memory: SimulatedMemory | None = None
    """What it shares with others of its host."""

    def __init__(self, cluster: SimulatedCluster, uuid: bytes) -> None:
        self.cluster = cluster
        self.uuid = uuid
        self.alive = True
        self.connection: Connection | None = None
        self.incarnation = 0
        self.frozen = False
        self.unreachable = False
        """It can't connect."""
        self._welcomed = False
        self._again = False
        self._inbox: list[tuple[bytes, list[bytes]] | None] = []
        self._turning = False
        self.connect()

    # --- the connection -----------------------------------------------------------------------------

    def connect(self) -> None:
        """Try to connect, until there is a controller that listens."""
        if not self.alive or self.connection is not None:
            return
        busy = self.unreachable or self.frozen or self._blocked()
        connection = None if busy else self.cluster.accept(self)
        if connection is None:
            self.cluster.clock.soon(_RETRY, self.connect)
            return
        self.connection = connection
        self._welcomed = False
        connection.send_up(self._hello())

    def _hello(self) -> Hello:
        return Hello(
            PROTOCOL_VERSION, self.role, self.uuid, "simulated", self.incarnation, self._wanted_id(),
            self._supervisor(), self._again, 1, "here", "3", b"",
        )  # fmt: skip

    def _wanted_id(self) -> int:
        return -1

    def _supervisor(self) -> bytes:
        return b""

    def send(self, message: Message, frames: Sequence[Any] = ()) -> None:
        """Send now, if there is a connection that has been welcomed."""
        if self.connection is not None and self._welcomed:
            self.connection.send_up(message, frames)

    def deliver(self, header: bytes, frames: list[bytes]) -> None:
        """A message has come in; it is read in the next turn."""
        self._inbox.append((header, frames))
        self.turn_soon()

    def ended(self) -> None:
        """The connection is gone; that is noticed in its turn, after all that came before."""
        self._inbox.append(None)
        self.turn_soon()

    def end(self) -> None:
        """This peer's process ends."""
        self.alive = False
        if self.connection is not None:
            self.connection.cut()

    # --- turns --------------------------------------------------------------------------------------

    def turn_soon(self) -> None:
        """Have a turn soon."""
        if not self._turning:
            self._turning = True
            self.cluster.clock.soon(_TURN, self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self.alive and not self.frozen and not self._blocked():
            self._read()
            if self.alive:
                self._work()

    def _blocked(self) -> bool:
        return False

    def _read(self) -> None:
        inbox, self._inbox = self._inbox, []
        for arrived in inbox:
            if not self.alive:
                return
            if arrived is None:
                self.connection = None
                if self._welcomed:
                    self._welcomed = False
                    self._lost()
                self.cluster.clock.soon(_RETRY, self.connect)
                continue
            header, frames = arrived
            message = decode(header)
            if isinstance(message, Welcome):
                assert message.incarnation >= self.incarnation
                self._welcomed, self.incarnation = True, message.incarnation
                self._welcome(message)
                self._again = True
            elif isinstance(message, Refused):
                self._refused(message.reason)
            else:
                self._receive(message, frames)

    def _welcome(self, message: Welcome) -> None:
        raise NotImplementedError

    def _refused(self, reason: str) -> None:
        self.end()

    def _receive(self, message: Message, frames: Sequence[Any]) -> None:
        raise NotImplementedError

    def _lost(self) -> None:
        raise NotImplementedError

    def _work(self) -> None:
        """The end of a turn."""


class SimulatedEngine(Peer):
    """One engine. `runs` and `starts` tell what it has run."""

    role = "engine"

    def __init__(
        self, cluster: SimulatedCluster, uuid: bytes, supervisor: SimulatedSupervisor | None
    ) -> None:
        self.memory = cluster.share_memory()
        self.state = EngineState(cluster.pace, self.memory, cluster.most_untaken)
        self.state.uuid = uuid
        self.supervisor = supervisor
        self.starts: list[tuple[bytes, int]] = []
        """Calls (client uuid, seq) in the order in which they started."""
        self.dropped = 0
        """Calls some of whose output was not sent."""
        self._running: Call | None = None
        self._ready: list[Callable[[], None]] = []
        self._tasks: dict[Call, Callable[[int], None]] = {}
        super().__init__(cluster, uuid)

    @property
    def id(self) -> int:
        """Its id, once it has been welcomed."""
        return self.state.id

    def _wanted_id(self) -> int:
        return self.state.id

    def _supervisor(self) -> bytes:
        return self.supervisor.uuid if self.supervisor is not None else b""

    def _welcome(self, message: Welcome) -> None:
        self.state.id = message.id
        if self._again:
            for resume in self.state.resume():
                self.send(resume)

    def _receive(self, message: Message, frames: Sequence[Any]) -> None:
        if isinstance(message, Stop):
            self.send(Goodbye(message.reason))
            self.cluster.kill_engine(self, exit_code=0)
        else:
            self.state.receive(message, frames)

    def _lost(self) -> None:
        self.state.link_lost()

    def _blocked(self) -> bool:
        return self._running is not None

    # --- running calls ------------------------------------------------------------------------------

    def _work(self) -> None:
        ready, self._ready = self._ready, []
        for action in ready:
            action()
        while self.alive and self._running is None:
            while self.state.to_cancel:
                self._cancel(self.state.to_cancel.pop())
            call = self.state.next_call()
            if call is None:
                break
            if self._start(call):
                self.turn_soon()
                break
        self._flush()

    def _flush(self) -> None:
        if self._welcomed:
            for message, frames in self.state.flush():
                self.send(message, frames)

    def _start(self, call: Call) -> bool:
        """Run a call, or begin to; True if the loop is to turn before the next one."""
        self.starts.append(call.key)
        work, right = self._load(call)
        self._print(call, work.printed)
        began = self.cluster.clock.now
        random = self.cluster.clock.random

        def end(status: int) -> None:
            if not self.alive:
                return
            self._tasks.pop(call, None)
            parcel = self._result(call, work) if status == OK else None
            if status == FAILED:
                parcel = pack((Packed(b"failed", ()),), {"right": right})
            self.state.finished(call, status, began + 1.0, self.cluster.clock.now + 1.0, parcel)

        status = FAILED if work.fails or not right else OK
        if work.coroutine:
            self.state.suspended(call)
            self._tasks[call] = end
            self.cluster.clock.after(work.seconds, lambda: self._on_loop(call, status))
            return True
        if not work.seconds:
            end(status)
            return random.random() < 0.2
        if random.random() < 0.7:
            self._flush()
        self._running = call

        def returned(status: int) -> None:
            if self._running is call:
                self._running = None
                end(status)
                self.turn_soon()

        self._tasks[call] = returned
        self.cluster.clock.after(work.seconds, lambda: returned(status))
        return False

    def _print(self, call: Call, size: int) -> None:
        for number, start in enumerate(range(0, size, CHUNK_BYTES)):
            if not self.state.may_print(call.client):
                self.dropped += 1
                return
            text = "x" * min(CHUNK_BYTES, size - start)
            self.state.printed(call.client, output_size(text))
            self.send(Output(call.client, self.id, call.seq, number, "stdout", text))

    def _on_loop(self, call: Call, status: int) -> None:
        """A task ends when the loop is free."""

        def go_on() -> None:
            if call in self._tasks:
                self._tasks[call](status)

        self._ready.append(go_on)
        self.turn_soon()

    def _cancel(self, call: Call) -> None:
        if call in self._tasks:
            self._on_loop(call, ABORTED)

    def interrupt(self, key: tuple[bytes, int]) -> None:
        """As by a signal: ends the plain function that runs, if it is this call's."""
        if self.alive and self._running is not None and self._running.key == key:
            self._tasks[self._running](ABORTED)

    def _load(self, call: Call) -> tuple[Work, bool]:
        """What the call is to do, and whether its arguments have come unharmed."""
        if call.parcel is None:
            return Work(fails=True), False
        _, (data, buffers) = call.parcel.objects()
        work = Work(*msgpack.unpackb(data))
        whole = b"".join(buffers)
        return work, whole == pattern(call.seq, work.argument_bytes).tobytes()

    def _result(self, call: Call, work: Work) -> Parcel:
        value = pattern(call.seq + self.id, work.result_bytes)
        packed = Packed(b"value", _halves(value))
        memory = None if call.detached else self.memory
        return pack((packed,), chunk_bytes=self.cluster.pace.chunk, arena=_reference(memory))


def _reference(memory: SimulatedMemory | None) -> bytes:
    return memory.reference if memory is not None else b""


def _halves(array: np.ndarray[Any, Any]) -> list[memoryview]:
    """Two buffers of different sizes, or none."""
    if not len(array):
        return []
    cut = len(array) // 3
    return [array[:cut].data, array[cut:].data]


class SimulatedClient(Peer):
    """One client. `outcomes` tells how its calls have ended."""

    role = "client"

    def __init__(self, cluster: SimulatedCluster, uuid: bytes) -> None:
        self.memory = cluster.share_memory()
        self.state = ClientState(uuid, cluster.pace, self.memory)
        self.outcomes: dict[tuple[int, int], list[Outcome]] = {}
        """By (seq, engine id), all that was ever reported: exactly one each, if all is well."""
        self.sent: set[int] = set()
        """Calls whose payload is needed no longer."""
        self.works: dict[int, Work] = {}
        self.detached: set[int] = set()
        """Calls that are to go on when it is gone."""
        self.printed: dict[tuple[int, int], int] = {}
        """Characters of output that have come, by (seq, engine id)."""
        self.answers: dict[int, Answer] = {}
        self._next_seq = 1
        self._timer_at: float | None = None
        super().__init__(cluster, uuid)

    # --- what users do ------------------------------------------------------------------------------

    def submit(
        self,
        targets: Iterable[int],
        work: Work = Work(),  # noqa: B008 - it is immutable
        *,
        detached: bool = False,
    ) -> int:
        """Call `work` on each of these engines; the call's seq. `detached`: also when this client is gone."""
        seq = self._next_seq
        self._next_seq += 1
        arguments = Packed(cast(bytes, msgpack.packb(work)), _halves(pattern(seq, work.argument_bytes)))
        objects = (Packed(b"function", ()), arguments)
        parcel = pack(objects, chunk_bytes=self.cluster.pace.chunk, arena=_reference(self.memory))
        self.works[seq] = work
        if detached:
            self.detached.add(seq)
        self.state.submit(ClientCall(seq, f"call{seq}", targets, parcel, None, DETACHED if detached else 0))
        self.turn_soon()
        return seq

    def abort(self, pairs: Iterable[tuple[int, int]]) -> None:
        """End these calls, (seq, engine id) each."""
        self.state.abort(pairs)
        self.turn_soon()

    def query(self, number: int, what: str, **params: Any) -> None:
        """Ask the controller; `answers` has the answer by and by."""
        self.state.query(number, what, params)
        self.turn_soon()

    def close(self) -> None:
        """End in order."""
        self.state.abandon("closed")
        self.state.goodbye()
        self._work()
        self.end()

    @property
    def engine_ids(self) -> list[int]:
        """Engines that it knows."""
        return list(self.state.engines)

    # --- its shell ----------------------------------------------------------------------------------

    def _welcome(self, message: Welcome) -> None:
        self.state.welcome(message)

    def _receive(self, message: Message, frames: Sequence[Any]) -> None:
        if isinstance(message, Stop):
            self.state.abandon(message.reason)
            self._work()
            self.end()
        else:
            self.state.receive(message, frames, self.cluster.clock.now)

    def _refused(self, reason: str) -> None:
        self.state.abandon(reason)
        self._work()
        self.end()

    def _lost(self) -> None:
        self.state.link_lost()

    def _work(self) -> None:
        self._note()
        for message, frames in self.state.flush():
            self.send(message, frames)
        self._note()
        deadline = self.state.next_deadline()
        if deadline is not None and self._timer_at is None:
            self._timer_at = deadline
            self.cluster.clock.after(max(0.0, deadline - self.cluster.clock.now), self._tick)

    def _tick(self) -> None:
        self._timer_at = None
        if self.alive:
            self.state.tick(self.cluster.clock.now)
            self.turn_soon()

    def _note(self) -> None:
        for event in self.state.events():
            match event:
                case Ended():
                    self._outcome(event.call.seq, event.engine, self._read_result(event))
                case Gone():
                    self._outcome(event.call.seq, event.engine, Outcome("gone", event.started, True))
                case Printed(call, engine, _, text):
                    self.printed[call.seq, engine] = self.printed.get((call.seq, engine), 0) + len(text)
                case Sent(call):
                    self.sent.add(call.seq)
                case Answered(message):
                    self.answers[message.number] = message

    def _outcome(self, seq: int, id: int, outcome: Outcome) -> None:
        self.outcomes.setdefault((seq, id), []).append(outcome)

    def _read_result(self, event: Ended) -> Outcome:
        if event.problem is not None:
            return Outcome("unreadable", True, False)
        return self.read(event.call.seq, event.engine, event.item.status, event.parcel)

    def read(self, seq: int, id: int, status: int, parcel: Unpacked | None) -> Outcome:
        """What came of one of its calls."""
        if status == ABORTED:
            return Outcome("aborted", True, True)
        assert parcel is not None
        ((data, buffers),) = parcel.objects()
        if status == FAILED:
            return Outcome("error", True, data == b"failed" and parcel.options["right"])
        expected = pattern(seq + id, self.works[seq].result_bytes).tobytes()
        return Outcome("result", True, data == b"value" and b"".join(buffers) == expected)


class SimulatedSupervisor(Peer):
    """The supervisor of some engines: reports their ends, obeys the controller."""

    role = "supervisor"

    def __init__(self, cluster: SimulatedCluster, uuid: bytes) -> None:
        self.unreported: list[Exited] = []
        super().__init__(cluster, uuid)

    def report(self, engine: SimulatedEngine, exit_code: int | None) -> None:
        """An engine of this supervisor has ended."""
        self.unreported.append(Exited(engine.uuid, exit_code, "it was ended by the simulation"))
        self.turn_soon()

    def _work(self) -> None:
        if self._welcomed:
            for exited in self.unreported:
                self.send(exited)
            self.unreported.clear()

    def _welcome(self, message: Welcome) -> None:
        """Nothing to resume."""

    def _lost(self) -> None:
        """What was on its way is lost; that an engine has ended is seen by its own connection, too."""

    def _receive(self, message: Message, frames: Sequence[Any]) -> None:
        match message:
            case Stop(uuid=b""):
                self.end()
            case Stop(uuid=uuid) | Signal(uuid=uuid):
                for engine in self.cluster.engines:
                    if engine.uuid == uuid and engine.alive:
                        self.cluster.kill_engine(engine, exit_code=-15)
            case Interrupt(uuid=uuid, client=client, seq=seq):
                for engine in self.cluster.engines:
                    if engine.uuid == uuid and not engine.frozen:
                        engine.interrupt((client, seq))
            case Launch(n=n, query=number):
                for _ in range(n):
                    self.cluster.add_engine(supervised=True)
                self.send(Answer(number, True, n))
            case Engines():
                pass  # Nobody is started in another's place here.
            case _:
                raise AssertionError(f"a supervisor was sent {message}")
