"""Pure: the client's bookkeeping of calls: what may be sent, what is still owed, what is to be said.

A call is (this client's uuid, seq, engine id). For each engine that it is for, it goes through:

======== ================================== ================================================
state    until                              then
======== ================================== ================================================
HELD     the engine's credit allows it      SENT
SENT     the engine has it whole (Accept)   ACCEPTED: the payload is needed no longer
SENT     the result comes at once           ended
ACCEPTED the result comes                   ended
any      Lost, or the engine has left       ended
======== ================================== ================================================

What is not ACCEPTED can be sent again after a lost connection, so its payload is kept until then. The
lowest outstanding seq (the watermark) travels with every batch; results are acknowledged through it when
calls go on, and in words soon after they stop.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from directview.wire.messages import (
    ARGUMENT,
    CHUNK_BYTES,
    MAX_FRAMES,
    RESULT,
    UNKNOWN,
    Abort,
    Accept,
    Ack,
    Answer,
    CallItem,
    Chunk,
    Credit,
    EngineInfo,
    Engines,
    Goodbye,
    Grant,
    Lost,
    Message,
    Output,
    ProtocolError,
    Query,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
    Submit,
    Welcome,
)
from directview.wire.parcels import Parcel, Unpacked, unpack
from directview.wire.transfers import Outgoing, due_grant

__all__ = ["Answered", "Call", "ClientState", "Ended", "EnginesChanged", "Gone", "Printed", "Sent"]

ACK_COUNT: Final = 256
ACK_BYTES: Final = 1 << 20
ACK_DELAY: Final = 0.05
"""Results are acknowledged at this many, this many bytes, or after this many seconds."""
_BATCH_CALLS: Final = 512
_RECEIVE_AT_ONCE: Final = 2

Outbound = tuple[Message, Sequence[Any]]


class Stage(enum.Enum):
    """Where a call is, for one of its engines; the table is in the module's docstring."""

    HELD = enum.auto()
    SENT = enum.auto()
    ACCEPTED = enum.auto()


class Call:
    """One call, for one or more engines, until it has ended on all of them."""

    __slots__ = ("context", "flags", "name", "outgoing", "parcel", "pending", "seq")

    def __init__(
        self, seq: int, name: str, targets: Iterable[int], parcel: Parcel, context: Any, flags: int = 0
    ) -> None:
        self.seq = seq
        self.name = name
        self.parcel: Parcel | None = parcel
        self.pending = dict.fromkeys(targets, Stage.HELD)
        """Engines on which it has not ended, and where it is there."""
        self.outgoing = Outgoing(parcel.chunks, self.pending) if parcel.chunks else None
        self.context = context
        """Whatever the submitter wants to find again in the events."""
        self.flags = flags

    @property
    def targets(self) -> tuple[int, ...]:
        """Engines on which it has not ended."""
        return tuple(self.pending)


class Ended(NamedTuple):
    """The call ended on this engine, with a result or an error from there."""

    call: Call
    engine: int
    item: ResultItem
    parcel: Unpacked | None
    """None when `problem` says why it can't be read."""
    problem: Exception | None = None


class Gone(NamedTuple):
    """The call can't be answered any more on this engine."""

    call: Call
    engine: int
    uuid: bytes
    exit_code: int | None
    reason: str
    started: bool
    """It was running, or may have been."""
    running: str
    """Name of the call that was running there, if it was one of ours."""


class Sent(NamedTuple):
    """All engines have the call whole: its buffers may be changed."""

    call: Call


class Printed(NamedTuple):
    """The call printed something."""

    call: Call
    engine: int
    stream: str
    text: str


class EnginesChanged(NamedTuple):
    """Engines joined, came back or left."""

    message: Engines


class Answered(NamedTuple):
    """A query was answered."""

    message: Answer


Event = Ended | Gone | Sent | Printed | EnginesChanged | Answered


class _Engine:
    """What the client knows of one engine, and has on its way to it and from it."""

    __slots__ = ("bytes", "calls", "credit_bytes", "credit_calls", "held", "info", "receiving", "unacked")

    def __init__(self, info: EngineInfo, credit_calls: int, credit_bytes: int) -> None:
        self.info = info
        self.credit_calls = credit_calls
        self.credit_bytes = credit_bytes
        self.calls = 0
        self.bytes = 0
        self.held: deque[Call] = deque()
        self.unacked: list[int] = []
        self.receiving: dict[int, _Receiving] = {}

    def may_send(self, nbytes: int) -> bool:
        """Whether the credit allows one more call; the first one always goes, however large."""
        if not self.calls:
            return True
        return self.calls < self.credit_calls and self.bytes + nbytes <= self.credit_bytes


class _Receiving:
    """A result whose chunks are on their way."""

    __slots__ = ("call", "granted", "item", "parcel")

    def __init__(self, call: Call, item: ResultItem, parcel: Unpacked) -> None:
        self.call = call
        self.item = item
        self.parcel = parcel
        self.granted = 0


class ClientState:
    """The client's state machine.

    `submit`, `abort` and `query` put things up for sending, `receive` takes messages; `flush` returns what
    is to be sent, `events` what has happened. Feed `tick` at `next_deadline()`.
    """

    def __init__(self, uuid: bytes) -> None:
        self.uuid = uuid
        self.calls: dict[int, Call] = {}
        """Outstanding calls by seq, in order."""
        self.next_seq = 1
        self._engines: dict[int, _Engine] = {}
        self._credit = (1, 1)
        self.incarnation = 0
        """Of the controller that welcomed last."""
        self._new: list[Call] = []
        self._freed: dict[int, None] = {}
        self._sending: dict[int, Call] = {}
        self._out: list[Outbound] = []
        self._events: list[Event] = []
        self._unacked = 0
        self._unacked_bytes = 0
        self._ack_at: float | None = None

    # --- what the user does ---------------------------------------------------------------------------

    @property
    def engines(self) -> dict[int, EngineInfo]:
        """The engines there are, by id."""
        return {id: self._engines[id].info for id in sorted(self._engines)}

    @property
    def watermark(self) -> int:
        """The lowest outstanding seq."""
        return next(iter(self.calls), self.next_seq)

    def submit(self, call: Call) -> None:
        """Put a new call up for sending. Calls must come in the order of their seqs."""
        self.calls[call.seq] = call
        self.next_seq = call.seq + 1
        self._new.append(call)

    def abort(self, pairs: Iterable[tuple[int, int]]) -> None:
        """End these calls, (seq, engine id) each: those that were not sent end here."""
        by_engine: dict[int, list[int]] = {}
        self._admit_new()
        for seq, id in pairs:
            call = self.calls.get(seq)
            if call is None or id not in call.pending:
                continue
            if call.pending[id] is Stage.HELD:
                self._engines[id].held.remove(call)
                self._gone(call, id, "it was cancelled before it was sent", started=False)
            else:
                by_engine.setdefault(id, []).append(seq)
        if by_engine:
            seqs = tuple([(id, tuple(seqs)) for id, seqs in by_engine.items()])
            self._out.append((Abort(self.uuid, seqs), ()))

    def query(self, number: int, what: str, params: dict[str, Any]) -> None:
        """Ask the controller something."""
        self._out.append((Query(number, what, params), ()))

    def goodbye(self) -> None:
        """The client ends in order."""
        self._out.append((Goodbye("closed"), ()))

    # --- what arrives ---------------------------------------------------------------------------------

    def welcome(self, message: Welcome) -> None:
        """The (new) connection stands: take the engines, and resume what is outstanding."""
        self._admit_new()
        self._credit = (message.credit_calls, message.credit_bytes)
        if message.incarnation == self.incarnation:
            # The same controller: an engine that it doesn't list has died in the meantime. A restarted one
            # may not have heard of all engines yet, and tells of those that don't come back.
            listed = {info.uuid for info in message.engines}
            for engine in list(self._engines.values()):
                if engine.info.uuid not in listed:
                    self._engine_left(engine, None, "it ended while the connection was lost")
        self.incarnation = message.incarnation
        for info in message.engines:
            self._engine_joined(info)
        self._resume(list(self._engines))
        self._out.append((Resume(self.uuid, (), True), ()))

    def receive(self, message: Message, frames: Sequence[Any], now: float) -> None:
        """A message from the controller.

        Raises:
            ProtocolError: it is none that a client takes.
        """
        match message:
            case Result():
                self._result(message, frames, now)
            case Accept():
                for seq in (*message.started, *message.held):
                    self._accepted(seq, message.engine)
            case Chunk(way=way) if way == RESULT:
                self._chunk(message, frames, now)
            case Grant(way=way) if way == ARGUMENT:
                call = self._sending.get(message.seq)
                if call is not None and call.outgoing is not None:
                    call.outgoing.grant(message.engine, message.upto)
            case Output():
                call = self.calls.get(message.seq)
                if call is not None:
                    self._events.append(Printed(call, message.engine, message.stream, message.text))
            case Lost():
                self._lost(message)
            case Engines():
                self._engines_changed(message)
            case Credit():
                engine = self._engines.get(message.engine)
                if engine is not None:
                    engine.credit_calls, engine.credit_bytes = message.calls, message.bytes
                    self._freed[message.engine] = None
            case Answer():
                self._events.append(Answered(message))
            case _:
                raise ProtocolError(f"a client takes no {type(message).__name__}")

    def _accepted(self, seq: int, id: int) -> None:
        call = self.calls.get(seq)
        if call is None or call.pending.get(id) is not Stage.SENT:
            return
        call.pending[id] = Stage.ACCEPTED
        self._credit_back(id, call)
        self._payload_taken(call, id)

    def _credit_back(self, id: int, call: Call) -> None:
        engine = self._engines.get(id)
        if engine is not None:
            engine.calls -= 1
            if call.parcel is not None:
                engine.bytes -= call.parcel.nbytes
            if engine.held:
                self._freed[id] = None

    def _payload_taken(self, call: Call, id: int) -> None:
        """This engine needs the payload no longer; perhaps nobody does."""
        if call.outgoing is not None:
            call.outgoing.drop(id)
        if call.parcel is not None and all([s is Stage.ACCEPTED for s in call.pending.values()]):
            call.parcel = None
            self._sending.pop(call.seq, None)
            self._events.append(Sent(call))

    def _result(self, message: Result, frames: Sequence[Any], now: float) -> None:
        id = message.engine
        engine = self._engines.get(id)
        position = 0
        for item in message.items:
            part: Sequence[Any] = ()
            if item.nframes:
                part = frames[position : position + item.nframes]
                position += item.nframes
            call = self.calls.get(item.seq)
            if call is None or id not in call.pending:
                if item.status != UNKNOWN:
                    self._to_ack(id, item, 0, now)
                continue
            if item.status == UNKNOWN:
                if call.pending[id] is Stage.ACCEPTED:
                    self._gone(call, id, "it no longer knows the call, which may have run", started=True)
                continue
            parcel, problem = None, None
            if item.body:
                try:
                    parcel = unpack(item.body, part, nobjects=1)
                except (ProtocolError, MemoryError) as error:
                    problem = error
            if parcel is not None and parcel.missing and engine is not None:
                self._accepted(item.seq, id)
                engine.receiving[item.seq] = _Receiving(call, item, parcel)
            else:
                self._ended(call, id, item, parcel, problem, now)

    def _ended(
        self,
        call: Call,
        id: int,
        item: ResultItem,
        parcel: Unpacked | None,
        problem: Exception | None,
        now: float,
    ) -> None:
        self._end(call, id)
        self._to_ack(id, item, parcel.size if parcel is not None else 0, now)
        self._events.append(Ended(call, id, item, parcel, problem))

    def _end(self, call: Call, id: int) -> None:
        """The call is over on this engine: settle credit, payload and outstanding."""
        stage = call.pending.pop(id)
        if stage is Stage.SENT:
            self._credit_back(id, call)
        if not call.pending:
            del self.calls[call.seq]
            self._sending.pop(call.seq, None)
            if call.parcel is not None:
                call.parcel = None
                self._events.append(Sent(call))
        elif stage is not Stage.ACCEPTED:
            self._payload_taken(call, id)

    def _chunk(self, message: Chunk, frames: Sequence[Any], now: float) -> None:
        (id,) = message.engines
        engine = self._engines.get(id)
        receiving = engine.receiving.get(message.seq) if engine is not None else None
        if engine is None or receiving is None:
            return
        problem = None
        try:
            receiving.parcel.receive(message.offset, frames[0])
        except ProtocolError as error:
            problem = error
        if problem is not None or not receiving.parcel.missing:
            del engine.receiving[message.seq]
            parcel = None if problem is not None else receiving.parcel
            self._ended(receiving.call, id, receiving.item, parcel, problem, now)

    def _lost(self, message: Lost) -> None:
        running = self.calls.get(message.started[0]) if message.started else None
        name = running.name if running is not None else ""
        for seqs, started in ((message.started, True), (message.queued, False)):
            for seq in seqs:
                call = self.calls.get(seq)
                if call is not None and message.engine in call.pending:
                    self._gone(
                        call, message.engine, message.reason, started=started, uuid=message.uuid,
                        exit_code=message.exit_code, running=name,
                    )  # fmt: skip
        engine = self._engines.get(message.engine)
        if engine is not None and engine.info.uuid == message.uuid:
            self._engine_left(engine, message.exit_code, message.reason)

    def _gone(
        self,
        call: Call,
        id: int,
        reason: str,
        *,
        started: bool,
        uuid: bytes = b"",
        exit_code: int | None = None,
        running: str = "",
    ) -> None:
        engine = self._engines.get(id)
        if engine is not None:
            engine.receiving.pop(call.seq, None)
        self._end(call, id)
        self._events.append(Gone(call, id, uuid, exit_code, reason, started, running))

    def _engines_changed(self, message: Engines) -> None:
        self._admit_new()
        for info in message.joined:
            if self._engine_joined(info):
                self._resume([info.id])
        for id, uuid, exit_code, reason in message.left:
            engine = self._engines.get(id)
            if engine is not None and engine.info.uuid == uuid:
                self._engine_left(engine, exit_code, reason)
        self._events.append(EnginesChanged(message))

    def _engine_left(self, engine: _Engine, exit_code: int | None, reason: str) -> None:
        """The engine is gone, and every call on it."""
        id, uuid = engine.info.id, engine.info.uuid
        for call in [call for call in self.calls.values() if id in call.pending]:
            started = call.pending[id] is not Stage.HELD
            self._gone(call, id, reason, started=started, uuid=uuid, exit_code=exit_code)
        if self._engines.get(id) is engine:
            del self._engines[id]

    def _engine_joined(self, info: EngineInfo) -> bool:
        """Take note of an engine; True if it is one that was known and has come back."""
        engine = self._engines.get(info.id)
        if engine is not None and engine.info.uuid == info.uuid:
            engine.info = info
            engine.credit_calls, engine.credit_bytes = self._credit
            return True
        if engine is not None:
            self._engine_left(engine, None, "another engine has taken its place")
        self._engines[info.id] = _Engine(info, *self._credit)
        return False

    # --- losing and finding the connection --------------------------------------------------------------

    def link_lost(self) -> None:
        """The connection is gone: what was half received or half said is begun again on the next one."""
        self._out.clear()
        for engine in self._engines.values():
            engine.receiving.clear()

    def abandon(self, reason: str) -> None:
        """No controller will come back: every call ends."""
        self._admit_new()
        for call in list(self.calls.values()):
            for id, stage in list(call.pending.items()):
                self._gone(call, id, reason, started=stage is not Stage.HELD)

    def _resume(self, ids: Sequence[int]) -> None:
        """Ask these engines about the calls they may have; send again what they may not have."""
        self._admit_new()
        items: list[ResumeItem] = []
        again: dict[int, list[Call]] = {}
        wanted = set(ids)
        for call in self.calls.values():
            for id in wanted.intersection(call.pending):
                stage = call.pending[id]
                if stage is not Stage.HELD:
                    items.append(ResumeItem(call.seq, id, self._engines[id].info.uuid))
                if stage is Stage.SENT:
                    call.pending[id] = Stage.HELD
                    again.setdefault(id, []).append(call)
                    if call.outgoing is not None:
                        call.outgoing.restart(id)
        for start in range(0, len(items), 4096):
            self._out.append((Resume(self.uuid, tuple(items[start : start + 4096]), False), ()))
        for id in wanted:
            engine = self._engines[id]
            engine.calls = engine.bytes = 0
            engine.receiving.clear()
            engine.held.extendleft(reversed(again.get(id, ())))
            self._freed[id] = None

    # --- what goes out ------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What has happened since the last time, in order."""
        events, self._events = self._events, []
        return events

    def flush(self) -> list[Outbound]:
        """What is to be sent now, in order."""
        out, self._out = self._out, []
        ready = self._sendable()
        if ready:
            out.extend(self._submits(ready))
        if self._ack_due():
            out.extend(self._acks())
        for id, engine in self._engines.items():
            if engine.receiving:
                out.extend(self._grants(id, engine))
        for call in list(self._sending.values()):
            assert call.outgoing is not None
            for receivers, offset, chunk in call.outgoing.ready():
                out.append((Chunk(self.uuid, call.seq, receivers, ARGUMENT, offset), (chunk,)))
        return out

    def _admit_new(self) -> None:
        """Put new calls in their engines' lines."""
        new, self._new = self._new, []
        for call in new:
            for id in list(call.pending):
                engine = self._engines.get(id)
                if engine is None:
                    self._gone(call, id, "there is no such engine", started=False)
                else:
                    engine.held.append(call)
                    self._freed[id] = None

    def _sendable(self) -> list[tuple[Call, list[int]]]:
        """Calls that the credit allows now, with the engines that they may go to; sent by then."""
        if self._new:
            self._admit_new()
        if not self._freed:
            return []
        ready: dict[int, tuple[Call, list[int]]] = {}
        for id in self._freed:
            engine = self._engines.get(id)
            if engine is None:
                continue
            held = engine.held
            while held:
                call = held[0]
                if call.pending.get(id) is not Stage.HELD or call.parcel is None:
                    held.popleft()
                    continue
                nbytes = call.parcel.nbytes
                if not engine.may_send(nbytes):
                    break
                held.popleft()
                engine.calls += 1
                engine.bytes += nbytes
                call.pending[id] = Stage.SENT
                entry = ready.get(call.seq)
                if entry is None:
                    ready[call.seq] = (call, [id])
                else:
                    entry[1].append(id)
        self._freed.clear()
        if len(ready) > 1:
            return [ready[seq] for seq in sorted(ready)]
        return list(ready.values())

    def _submits(self, ready: list[tuple[Call, list[int]]]) -> Iterator[Outbound]:
        watermark = self.watermark
        items: list[CallItem] = []
        frames: list[Any] = []
        size = 0
        for call, ids in ready:
            parcel = call.parcel
            assert parcel is not None
            if items and (
                size + parcel.nbytes > CHUNK_BYTES
                or len(items) >= _BATCH_CALLS
                or len(frames) + len(parcel.frames) > MAX_FRAMES
            ):
                yield Submit(self.uuid, watermark, tuple(items)), frames
                items, frames, size = [], [], 0
            items.append(
                CallItem(
                    call.seq, tuple(ids), call.name, call.flags, parcel.nbytes, len(parcel.frames), parcel.body
                )
            )
            frames.extend(parcel.frames)
            size += parcel.nbytes
            if call.outgoing is not None:
                self._sending[call.seq] = call
            for id in ids:
                engine = self._engines[id]
                if engine.unacked:
                    self._acknowledged_below(engine, watermark)
        yield Submit(self.uuid, watermark, tuple(items)), frames

    def _acknowledged_below(self, engine: _Engine, watermark: int) -> None:
        """A batch for this engine carries the watermark: results below it need no other word."""
        kept = [seq for seq in engine.unacked if seq >= watermark]
        self._unacked -= len(engine.unacked) - len(kept)
        engine.unacked = kept

    def _to_ack(self, id: int, item: ResultItem, chunked: int, now: float) -> None:
        engine = self._engines.get(id)
        if engine is not None:
            engine.unacked.append(item.seq)
            self._unacked += 1
            self._unacked_bytes += item.nbytes + chunked
            if self._ack_at is None:
                self._ack_at = now + ACK_DELAY

    def _ack_due(self) -> bool:
        return self._unacked >= ACK_COUNT or self._unacked_bytes >= ACK_BYTES

    def _acks(self) -> Iterator[Outbound]:
        seqs = []
        for id, engine in self._engines.items():
            if engine.unacked:
                seqs.append((id, tuple(engine.unacked)))
                engine.unacked = []
        self._unacked = self._unacked_bytes = 0
        self._ack_at = None
        if seqs:
            yield Ack(self.uuid, self.watermark, tuple(seqs)), ()

    def _grants(self, id: int, engine: _Engine) -> Iterator[Outbound]:
        for seq, receiving in list(engine.receiving.items())[:_RECEIVE_AT_ONCE]:
            upto = due_grant(receiving.parcel.received, receiving.granted, receiving.parcel.size)
            if upto is not None:
                receiving.granted = upto
                yield Grant(self.uuid, seq, id, RESULT, upto), ()

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self._ack_at

    def tick(self, now: float) -> None:
        """Do what has become due."""
        if self._ack_at is not None and now >= self._ack_at:
            self._ack_at = None
            self._out.extend(self._acks())
