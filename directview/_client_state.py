"""Pure: the client's bookkeeping of calls: what may be sent, what is still owed, what is to be said.

A call is (this client's uuid, seq, engine id). For each engine that it is for, it goes through:

======== ================================== ================================================
state    until                              then
======== ================================== ================================================
HELD     the engine's credit allows it      SENT
SENT     the engine has it whole (Accept)   ACCEPTED: the payload is needed no longer
SENT     the connection, or the engine's,   ASKED (`Resume`): does the engine have it?
         was lost and stands again
ASKED    yes                                ACCEPTED
ASKED    no                                 HELD, to be sent again
ACCEPTED the result comes                   ended
any      Result, Lost, the engine has left  ended
======== ================================== ================================================

What is not ACCEPTED can be sent again after a lost connection, so its payload is kept until then. Nothing
is sent again, and nothing new is sent, before the engine has answered all questions: calls arrive there
once, and in order. The lowest outstanding seq (the watermark) travels with every batch; results are
acknowledged through it when calls go on, and in words soon after they stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from directview._client_acks import Acknowledgements
from directview._client_batches import Outbound, aborts, marks, questions, submits
from directview._client_calls import (
    Answered,
    Call,
    Death,
    Ended,
    EnginesChanged,
    Event,
    Gone,
    Printed,
    Sent,
    Stage,
    earlier,
)
from directview._client_engine import KnownEngine
from directview._client_receiving import Results
from directview._client_sending import Sending
from directview.wire.arena import SharedMemory
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    FORGOTTEN,
    RESULT,
    UNKNOWN,
    Accept,
    Answer,
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
    Welcome,
    output_size,
)
from directview.wire.parcels import Unpacked, unpack
from directview.wire.postmortem import deaths
from directview.wire.transfers import STANDARD, Outgoing, Pace

__all__ = [
    "Answered", "Call", "ClientState", "Ended", "EnginesChanged", "Event", "Gone", "Printed", "Sent", "Stage",
]  # fmt: skip

_GIVEN_UP: Final = "this client had lost its connection for longer than its calls are kept"
_FIRST_MARK: Final = 1 << 62  # marks of questions are numbers that no call has


class ClientState:
    """The client's state machine.

    `submit`, `abort` and `query` put things up for sending, `receive` takes messages; `flush` returns what
    is to be sent, `events` what has happened. Feed `tick` at `next_deadline()`.

    Args:
        uuid: the client's.
        pace: in which steps large buffers travel.
        memory: for engines of this host.
    """

    def __init__(self, uuid: bytes, pace: Pace = STANDARD, memory: SharedMemory | None = None) -> None:
        self.uuid = uuid
        self.calls: dict[int, Call] = {}
        """Outstanding calls by seq, in order."""
        self.next_seq = 1
        self.incarnation = 0
        """Of the controller that welcomed last."""
        self._pace = pace
        self._memory = memory
        self._connected = False
        self._engines: dict[int, KnownEngine] = {}
        self._credit = (1, 1)
        self._lowest = 1
        self._mark = _FIRST_MARK
        self._new: list[Call] = []
        self._freed: dict[int, None] = {}
        """Engines to which calls may perhaps be sent."""
        self._sending = Sending(uuid)
        self._incoming = Results(uuid, self._engines, pace)
        self._queries: dict[int, Query | None] = {}
        """Those without an answer; None in place of one that has been sent."""
        self._now = 0.0
        """When the last grant came."""
        self._acks = Acknowledgements(uuid)
        self._out: list[Outbound] = []
        self._events: list[Event] = []

    # --- what the user does ---------------------------------------------------------------------------

    @property
    def engines(self) -> dict[int, EngineInfo]:
        """The engines there are, by id. Who learns of a death from a call that ended finds it gone."""
        return {id: self._engines[id].info for id in sorted(self._engines) if not self._engines[id].dead}

    @property
    def watermark(self) -> int:
        """The lowest outstanding seq."""
        calls, lowest = self.calls, self._lowest
        while lowest < self.next_seq and lowest not in calls:
            lowest += 1
        self._lowest = lowest
        return lowest

    def submit(self, call: Call) -> None:
        """Put a new call up for sending. Calls must come in the order of their seqs."""
        if call.parcel is not None and call.parcel.chunks:
            call.outgoing = Outgoing(call.parcel.chunks, call.pending, self._pace, self._memory)
        self.calls[call.seq] = call
        self.next_seq = call.seq + 1
        self._new.append(call)

    def abort(self, pairs: Iterable[tuple[int, int]]) -> None:
        """End these calls, (seq, engine id) each: those that were not sent, or have ended there, end here."""
        self._admit_new()
        by_engine: dict[int, list[int]] = {}
        for seq, id in pairs:
            call = self.calls.get(seq)
            if call is None or id not in call.pending:
                continue
            receiving = self._engines[id].receiving.get(seq) if id in self._engines else None
            if call.pending[id] is Stage.HELD:
                self._aborted(call, id)
            elif receiving is not None:
                self._aborted(call, id)
                self._acks.owe(id, seq, receiving.item.nbytes + receiving.parcel.size, self._now)
            else:
                call.aborting |= {id}
                by_engine.setdefault(id, []).append(seq)
        for message in aborts(self.uuid, by_engine):
            self._say(message)

    def _aborted(self, call: Call, id: int) -> None:
        """It ends here: the engine doesn't have it, or is done with it."""
        self._end(call, id)
        item = ResultItem(call.seq, ABORTED, 0.0, 0.0, 0, 0, b"")
        self._events.append(Ended(call, id, item, None))

    def query(self, number: int, what: str, params: dict[str, Any]) -> None:
        """Ask the controller something. `Answered` follows, unless no controller comes back: see `abandon`.

        It is asked once: what was under way when a connection was lost may have been done.
        """
        query = Query(number, what, params)
        self._queries[number] = None if self._connected else query
        if self._connected:  # the answer counts the calls that were made before
            self._admit_new()
            self._out += [*self._submits(), (query, ())]

    def goodbye(self) -> None:
        """The client ends in order."""
        self._say(Goodbye("closed"))

    def _say(self, message: Message) -> None:
        """To be sent with the next flush, if there is anybody to hear it."""
        if self._connected:
            self._out.append((message, ()))

    # --- what arrives ---------------------------------------------------------------------------------

    def welcome(self, message: Welcome) -> None:
        """The (new) connection stands: take the engines, and ask about what is outstanding.

        An engine that the controller doesn't list may still come back; if it is gone for good, the controller
        says so in place of an answer.
        """
        self._admit_new()
        self._connected = True
        self._credit = (message.credit_calls, message.credit_bytes)
        again, self.incarnation = self.incarnation > 0, message.incarnation
        for info in message.engines:
            self._engine_joined(info)
        if again:
            for mark in marks(self.calls.values()):  # First: engines that don't have them say so in between.
                self._say(mark)
            self._ask(list(self._engines))
        self._say(Resume(self.uuid, (), True))
        queries, self._queries = self._queries, {}
        for number, query in queries.items():
            if query is None:
                reason = "the connection to the controller was lost before it answered"
                self._events.append(Answered(Answer(number, False, reason)))
            else:
                self.query(*query)

    def receive(self, message: Message, frames: Sequence[Any], now: float) -> None:
        """A message from the controller.

        Raises:
            ProtocolError: it is none that a client takes.
        """
        match message:
            case Result():
                self._result(message, frames, now)
            case Accept():
                self._accept(message)
            case Chunk(way=way) if way == RESULT:
                self._chunk(message, frames, now)
            case Grant(way=way) if way == ARGUMENT:
                self._grant(message, now)
            case Output():
                taken = self._acks.printed(message.engine, output_size(message.text))
                if taken is not None:
                    self._say(taken)
                call = self.calls.get(message.seq)
                if call is not None and message.engine in call.pending:
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
                if message.number in self._queries:
                    del self._queries[message.number]
                    self._events.append(Answered(message))
            case _:
                raise ProtocolError(f"a client takes no {type(message).__name__}")

    def _accept(self, message: Accept) -> None:
        id = message.engine
        engine = self._engines.get(id)
        if engine is None or engine.awaiting:
            return
        for seqs in (message.started, message.held):
            for seq in seqs:
                call = engine.given.get(seq)
                if call is None or call.pending[id] is Stage.ACCEPTED:
                    continue
                self._leave_stage(call, engine)
                call.pending[id] = Stage.ACCEPTED
                self._payload_taken(call, id)

    def _leave_stage(self, call: Call, engine: KnownEngine) -> None:
        """The call is HELD, SENT or ASKED no longer: settle what that means to the engine's other calls."""
        id = engine.info.id
        match call.pending[id]:
            case Stage.HELD:
                engine.held.pop(call.seq, None)
                engine.unknown.pop(call.seq, None)
            case Stage.SENT:
                engine.calls -= 1
                if call.parcel is not None:
                    engine.bytes -= call.parcel.nbytes
                if engine.held:
                    self._freed[id] = None
            case Stage.ASKED:
                engine.asked -= 1
                self._answered(engine)

    def _answered(self, engine: KnownEngine) -> None:
        """If the engine has answered all that it was asked, calls go on."""
        if engine.open:
            engine.hold_again()
            self._freed[engine.info.id] = None

    def _payload_taken(self, call: Call, id: int) -> None:
        """This engine needs the payload no longer; perhaps nobody does."""
        call.unaccepted -= 1
        if call.outgoing is not None:
            call.outgoing.drop(id)
            self._sending.moved(call)
        if not call.unaccepted:
            call.parcel = call.outgoing = None
            self._sending.forget(call.seq)
            self._events.append(Sent(call))

    def _result(self, message: Result, frames: Sequence[Any], now: float) -> None:
        engine = self._engines.get(message.engine)
        if engine is None:
            return
        position = 0
        for item in message.items:
            part: Sequence[Any] = ()
            if item.nframes:
                part = frames[position : position + item.nframes]
                position += item.nframes
            call = engine.given.get(item.seq)
            if engine.awaiting:
                if item.seq == engine.awaiting:
                    engine.awaiting = 0
                    self._answered(engine)
            elif item.status == UNKNOWN:
                if call is not None:
                    self._unknown(call, engine)
            elif item.status == FORGOTTEN:
                if call is not None:
                    self._gone(call, message.engine, Death(reason=_GIVEN_UP), started=True)
            elif call is None:
                self._acks.owe(message.engine, item.seq, item.nbytes, now)
            else:
                self._take(call, engine, item, part, now)

    def _unknown(self, call: Call, engine: KnownEngine) -> None:
        """The engine doesn't have the call."""
        id = engine.info.id
        match call.pending[id]:
            case Stage.ACCEPTED:
                self._gone(call, id, Death(reason="it does not know the call any more"), started=True)
            case Stage.ASKED if id in call.aborting:
                self._aborted(call, id)
            case Stage.ASKED:
                del engine.given[call.seq]
                engine.unknown[call.seq] = call
                if call.outgoing is not None:
                    call.outgoing.restart(id)
                self._leave_stage(call, engine)
                call.pending[id] = Stage.HELD

    def _take(
        self, call: Call, engine: KnownEngine, item: ResultItem, frames: Sequence[Any], now: float
    ) -> None:
        """The call's result, or its beginning."""
        parcel, problem = None, None
        if item.body:
            try:
                parcel = unpack(item.body, frames, nobjects=1, memory=self._memory)
            except ProtocolError as error:
                problem = error
        if parcel is None or not parcel.missing:
            self._ended(call, engine, item, parcel, problem, now)
            return
        id = engine.info.id
        if call.pending[id] is not Stage.ACCEPTED:
            self._leave_stage(call, engine)
            call.pending[id] = Stage.ACCEPTED
            self._payload_taken(call, id)
        self._incoming.begins(engine, call, item, parcel, now)

    def _ended(
        self,
        call: Call,
        engine: KnownEngine,
        item: ResultItem,
        parcel: Unpacked | None,
        problem: Exception | None,
        now: float,
    ) -> None:
        id = engine.info.id
        self._end(call, id)
        chunked = parcel.size if parcel is not None else 0
        self._acks.owe(id, item.seq, item.nbytes + chunked, now)
        self._events.append(Ended(call, id, item, parcel, problem))

    def _end(self, call: Call, id: int) -> None:
        """The call is over on this engine: settle credit, payload and outstanding."""
        engine = self._engines.get(id)
        if engine is not None:
            engine.given.pop(call.seq, None)
            self._leave_stage(call, engine)
        self._incoming.ended(engine, call, id)
        stage = call.pending.pop(id)
        if stage is not Stage.ACCEPTED:
            self._payload_taken(call, id)
        if not call.pending:
            del self.calls[call.seq]

    def _chunk(self, message: Chunk, frames: Sequence[Any], now: float) -> None:
        for id in message.engines:
            engine = self._engines.get(id)
            receiving = engine.receiving.get(message.seq) if engine is not None else None
            if engine is None or receiving is None or engine.awaiting:
                continue
            parcel: Unpacked | None = receiving.parcel
            problem = None
            try:
                self._incoming.came(engine, receiving, message, frames)
            except (ProtocolError, MemoryError) as error:
                parcel, problem = None, error
            if problem is not None or not receiving.parcel.missing:
                self._ended(receiving.call, engine, receiving.item, parcel, problem, now)

    def _grant(self, message: Grant, now: float) -> None:
        engine = self._engines.get(message.engine)
        call = engine.given.get(message.seq) if engine is not None and not engine.awaiting else None
        if call is not None and call.outgoing is not None and call.pending[message.engine] is Stage.SENT:
            call.outgoing.grant(message.engine, message.upto, message.received, message.shared)
            self._sending.moved(call)
            self._now = now

    # --- engines that leave and join --------------------------------------------------------------------

    def _lost(self, message: Lost) -> None:
        engine = self._engines.get(message.engine)
        death = Death(message.uuid, message.exit_code, message.reason, "", message.postmortem)
        if engine is not None and engine.info.uuid == message.uuid:
            engine.dead = True
            if message.started and message.started[0] in self.calls:
                engine.running = self.calls[message.started[0]].name
            engine.running = engine.running or message.postmortem.running
            death = death._replace(running=engine.running)
        for seqs, started in ((message.started, True), (message.queued, False)):
            for seq in seqs:
                if engine is not None and seq == engine.awaiting:
                    engine.awaiting = 0
                    self._answered(engine)
                call = self.calls.get(seq)
                if call is not None and message.engine in call.pending:
                    self._gone(call, message.engine, death, started=started)

    def _gone(self, call: Call, id: int, death: Death, *, started: bool) -> None:
        self._end(call, id)
        uuid, exit_code, reason, running, known = death
        self._events.append(Gone(call, id, uuid, exit_code, reason, started, running, known))

    def _engines_changed(self, message: Engines) -> None:
        self._admit_new()
        for info in message.joined:
            self._engine_joined(info)
        self._ask([info.id for info in message.joined])
        for (id, uuid, exit_code, reason), known in deaths(message.left, message.postmortems):
            engine = self._engines.get(id)
            if engine is not None and engine.info.uuid == uuid:
                self._engine_left(engine, Death(uuid, exit_code, reason, engine.running, known))
        self._events.append(EnginesChanged(message))

    def _engine_left(self, engine: KnownEngine, death: Death) -> None:
        """The engine is gone, and every call on it."""
        id = engine.info.id
        del self._engines[id]
        for calls, started in ((engine.given, True), (engine.unknown, False), (engine.held, False)):
            for call in calls.values():
                self._gone(call, id, death, started=started)
        self._acks.forget(id)

    def _engine_joined(self, info: EngineInfo) -> None:
        """Take note of an engine, which may be one that is known."""
        engine = self._engines.get(info.id)
        if engine is not None and engine.info.uuid != info.uuid:
            replaced = Death(engine.info.uuid, reason="another engine has taken its place")
            self._engine_left(engine, replaced)
            engine = None
        if engine is None:
            self._engines[info.id] = KnownEngine(info, self._credit)
        else:
            engine.info = info
            engine.credit_calls, engine.credit_bytes = self._credit

    # --- losing and finding the connection --------------------------------------------------------------

    def link_lost(self) -> None:
        """The connection is gone: what was half received or half said is begun again on the next one."""
        self._connected = False
        self._sending.link_lost()
        self._out.clear()
        for engine in self._engines.values():
            engine.receiving.clear()
        self._incoming.link_lost()

    def abandon(self, reason: str) -> None:
        """No controller will come back: every call ends. Queries have no answer, and there is no event."""
        self._admit_new()
        for call in list(self.calls.values()):
            for id, stage in list(call.pending.items()):
                self._gone(call, id, Death(reason=reason), started=stage is not Stage.HELD)
        self._queries.clear()

    def _ask(self, ids: Sequence[int]) -> None:
        """Ask these engines about all calls that they may have.

        The mark goes first: no engine has such a call, so it is answered, and tells the answers to this
        question from whatever the engine said before. When it has heard all, it knows what we have of what it
        keeps: that is what we did not ask about.
        """
        items: list[ResumeItem] = []
        aborting: dict[int, list[int]] = {}
        for id in ids:
            engine = self._engines[id]
            self._mark += 1
            engine.begin_to_ask(self._mark)
            self._acks.asks(id)
            items += [ResumeItem(seq, id, engine.info.uuid) for seq in (self._mark, *sorted(engine.given))]
            for seq, call in engine.given.items():
                if id in call.aborting:
                    aborting.setdefault(id, []).append(seq)
                if call.pending[id] is Stage.SENT:
                    call.pending[id] = Stage.ASKED
                    engine.asked += 1
                    if call.outgoing is not None:
                        call.outgoing.drop(id)
                        self._sending.moved(call)
        asked = questions(self.uuid, items, self.watermark if self.next_seq > 1 else 0)
        for message in (*asked, *aborts(self.uuid, aborting)):
            self._say(message)

    # --- what goes out ------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What has happened since the last time, in order."""
        events, self._events = self._events, []
        return events

    def flush(self) -> Iterable[Outbound]:
        """What is to be sent now, in order; nothing while there is no connection.

        Send each one before taking the next: a piece of a large buffer is put into shared memory when it is
        taken, and the engine reads it while the next one is put there.
        """
        if self._new:
            self._admit_new()
        if not self._connected:
            return []
        out, self._out = self._out, []
        if self._acks.urgent:
            out.extend(self._acks.say(self.watermark))
        if self._freed:
            out.extend(self._submits())
        if self._incoming:
            out.extend(self._incoming.grants())
        return chain(out, self._sending.chunks(self._now)) if self._sending else out

    def _admit_new(self) -> None:
        """Put new calls in their engines' lines."""
        new, self._new = self._new, []
        engines, freed = self._engines, self._freed
        for call in new:
            for id in [id for id in call.pending if id not in engines]:
                self._gone(call, id, Death(reason="there is no such engine"), started=False)
            for id in call.pending:
                engines[id].held[call.seq] = call
                freed[id] = None

    def _submits(self) -> Iterator[Outbound]:
        """Calls that the credit allows now; a call goes to all its engines that can take it at once."""
        watermark = self.watermark
        ready: dict[int, tuple[Call, list[int]]] = {}
        for id in self._freed:
            engine = self._engines.get(id)
            if engine is None or not engine.held or not engine.open:
                continue
            taken = engine.take()
            for call in taken:
                call.pending[id] = Stage.SENT
                entry = ready.get(call.seq)
                if entry is None:
                    ready[call.seq] = (call, [id])
                else:
                    entry[1].append(id)
            if taken:
                self._acks.covered(id, watermark)
        self._freed.clear()
        if ready:
            yield from submits(self.uuid, watermark, [ready[seq] for seq in sorted(ready)])

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return earlier(earlier(self._acks.deadline, self._sending.deadline), self._incoming.deadline)

    def tick(self, now: float) -> None:
        """Do what has become due."""
        self._incoming.overdue(now)
        if self._acks.deadline is not None and now >= self._acks.deadline:
            self._acks.deadline = None
            if self._connected:
                self._out.extend(self._acks.say(self.watermark))
        if self._connected:
            self._out.extend(self._sending.overdue(now))
