"""Pure: the controller's decisions. Messages and losses come in with the time, effects go out.

What flows through here, one row per kind of message:

========== ================== ==================================================================
from       kind               what happens
========== ================== ==================================================================
anyone     Hello              registered and welcomed, or refused (`greet`)
client     Submit             each call is queued for each of its engines
client     Resume             asked of the engine that has the calls, once it is there
client     Ack Grant          forwarded as they came
client     Chunk              forwarded as it came, to all engines that it names
client     Abort              a waiting call ends here; one that was dispatched ends on the engine
client     Query              answered (`directview.controller._status`) or passed to a supervisor
engine     Accept Result      booked, and forwarded as they came
engine     Chunk Grant Output forwarded as they came
supervisor Exited Answer      an engine's death notice; the answer to a query that was passed on
========== ================== ==================================================================

The engine is the truth about its calls. This machine keeps no result and, once a call is dispatched, no
payload: after a lost connection clients ask (`Resume`) and send again what was not accepted, engines tell
repeated calls by their ids.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from directview.controller import _status
from directview.controller._effects import Admit, Effect, Expel, Finish, Persist, Send
from directview.controller._queues import Entry, batches
from directview.controller._registry import Client, Engine, Peer, Registry, Supervisor
from directview.wire.messages import (
    ABORTED,
    PROTOCOL_VERSION,
    RESULT,
    Abort,
    Accept,
    Ack,
    Answer,
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
    ProtocolError,
    Query,
    Refused,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
    Signal,
    Stop,
    Submit,
    Welcome,
    encode,
)

__all__ = ["Controller", "Settings"]

EXIT_DRAIN: Final = 0.1
"""Seconds from a supervisor's exit report to acting on it, while the engine's connection still stands:
results that it sent before it died may be on their way."""
ABORT_FIRST: Final = 0.05
"""Seconds that an engine has to end an aborted call by itself, before it is interrupted."""
ABORT_AGAIN: Final = 0.2
ABORT_TRIES: Final = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """What a controller is told at its start."""

    cluster: str
    incarnation: int = 1
    policy: str = "stop"
    engine_grace: float = 1.0
    """Seconds that an engine which lost its connection has to come back or be reported as ended."""
    lease: float = 2.0
    """Seconds for which a lost client's calls are kept."""
    credit_calls: int = 1024
    credit_bytes: int = 4 << 20


class Controller:
    """The controller's state machine.

    Call `greet`, `receive`, `lost` and `tick` as things happen; call `flush` at the end of each turn and
    perform the effects that it returns, in order; wake it with `tick` at `next_deadline()`.
    """

    def __init__(self, settings: Settings, now: float, known: dict[bytes, int] | None = None) -> None:
        """`known`: engines of an earlier incarnation, uuid → id: their ids stay theirs for a lease."""
        self.settings = settings
        self.registry = Registry(known)
        self.started = now
        self.calls = 0
        self.results = 0
        self._effects: list[Effect] = []
        self._dirty: dict[int, Engine] = {}
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._timer_number = 0
        self._aborts: dict[tuple[bytes, int, int], int] = {}
        self._passed_on: dict[int, tuple[bytes, int, bytes]] = {}
        self._query_number = 0
        for engine in self.registry.engines.values():
            self._give_up_later(engine, now + settings.lease)

    # --- time -----------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, or None."""
        return self._timers[0][0] if self._timers else None

    def tick(self, now: float) -> None:
        """Do what has become due."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)

    def _at(self, when: float, action: Callable[[float], None]) -> None:
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._timer_number, action))

    # --- effects --------------------------------------------------------------------------------

    def flush(self) -> list[Effect]:
        """Dispatch what has room; return all effects since the last flush, in order."""
        if self._dirty:
            self._dispatch()
        effects, self._effects = self._effects, []
        return effects

    def _send(self, route: bytes | None, message: Message) -> None:
        if route is not None:
            self._effects.append(Send((route,), encode(message)))

    def _tell_clients(self, message: Message) -> None:
        routes = [client.route for client in self.registry.clients.values() if client.route is not None]
        if routes:
            self._effects.append(Send(routes, encode(message)))

    def _dispatch(self) -> None:
        """One message for all engines that get the same calls: a fan-out is encoded once."""
        groups: dict[tuple[int, ...], tuple[bytes, list[Entry], list[bytes]]] = {}
        for engine in self._dirty.values():
            if engine.route is None or engine.ended:
                continue
            for client, batch in batches(engine.queue.take()):
                same = groups.setdefault(tuple([id(entry) for entry in batch]), (client, batch, []))
                same[2].append(engine.route)
        self._dirty.clear()
        for client, batch, routes in groups.values():
            known = self.registry.clients.get(client)
            watermark = known.watermark if known is not None else 0
            header = encode(Submit(client, watermark, tuple([entry.item for entry in batch])))
            frames = [frame for entry in batch for frame in entry.frames]
            self._effects.append(Send(routes, header, frames))

    # --- joining and leaving ----------------------------------------------------------------------

    def greet(self, route: bytes, hello: Hello, user: str | None, now: float) -> None:
        """The first message on a connection. `user`: the role that its key is for, None without keys."""
        refusal = self._refusal(hello, user)
        if refusal is not None:
            self._send(route, refusal)
            self._effects.append(Expel(route, refusal.reason))
            return
        self._effects.append(Admit(route))
        if hello.role == "engine":
            self._greet_engine(route, hello)
        elif hello.role == "client":
            client = self.registry.join_client(hello, route)
            self._welcome(route, -1)
            if not hello.resuming:
                client.refused.clear()
        else:
            self.registry.join_supervisor(hello, route)
            self._welcome(route, -1)

    def _refusal(self, hello: Hello, user: str | None) -> Refused | None:
        settings = self.settings
        if hello.version != PROTOCOL_VERSION:
            return Refused(
                f"protocol version {hello.version}; this controller speaks {PROTOCOL_VERSION}",
                "install the same version of directview on both sides",
            )
        if hello.cluster != settings.cluster:
            return Refused(
                f"cluster id {hello.cluster!r}; this controller runs {settings.cluster!r}",
                "the connection file is of another or an earlier cluster: use the current one",
            )
        if hello.incarnation > settings.incarnation:
            return Refused(
                f"a newer controller (incarnation {hello.incarnation}) has taken over from this one "
                f"(incarnation {settings.incarnation})",
                "stop the older controller",
            )
        if user is not None and user != ("client" if hello.role == "client" else "engine"):
            return Refused(
                f"the key presented is for role {user!r}, not {hello.role!r}",
                "engines need the engine connection file, clients the client connection file",
            )
        return None

    def _welcome(self, route: bytes, id: int) -> None:
        settings = self.settings
        infos = self.registry.infos() if id < 0 else ()
        self._send(
            route,
            Welcome(
                PROTOCOL_VERSION,
                settings.incarnation,
                id,
                settings.policy,
                float(settings.lease),
                settings.credit_calls,
                settings.credit_bytes,
                infos,
            ),
        )

    def _greet_engine(self, route: bytes, hello: Hello) -> None:
        engine = self.registry.join_engine(hello, route)
        self._welcome(route, engine.id)
        assert engine.info is not None
        self._tell_clients(Engines((engine.info,), ()))
        self._effects.append(Persist(self.registry.ids()))
        parked: dict[bytes, list[ResumeItem]] = {}
        for client, item in engine.parked:
            parked.setdefault(client, []).append(item)
        engine.parked.clear()
        for client, items in parked.items():
            self._ask(engine, client, items)
        self._dirty[engine.id] = engine

    def lost(self, route: bytes, reason: str, now: float) -> None:
        """A connection is gone, and everything that came over it has been received."""
        peer = self.registry.routes.pop(route, None)
        if peer is None:
            return
        peer_lost: dict[type[Any], Callable[[Any, str, float], None]] = {
            Engine: self._engine_lost,
            Client: self._client_lost,
            Supervisor: self._supervisor_lost,
        }
        peer_lost[type(peer)](peer, reason, now)

    def _engine_lost(self, engine: Engine, reason: str, now: float) -> None:
        engine.route = None
        engine.lost_reason = reason or "its connection was lost"
        if engine.ended:
            self._bury(engine)
        else:
            self._give_up_later(engine, now + self.settings.engine_grace)

    def _client_lost(self, client: Client, reason: str, now: float) -> None:
        client.route = None
        deadline = client.deadline = now + self.settings.lease

        def expire(now: float) -> None:
            if client.deadline == deadline:
                self._client_gone(client)

        self._at(deadline, expire)

    def _supervisor_lost(self, supervisor: Supervisor, reason: str, now: float) -> None:
        self.registry.supervisors.pop(supervisor.uuid, None)
        for number, (_, _, passed_to) in list(self._passed_on.items()):
            if passed_to == supervisor.uuid:
                self._answer_passed_on(number, False, "the supervisor is gone")

    def _client_gone(self, client: Client) -> None:
        self.registry.remove_client(client)
        routes = []
        for engine in self.registry.engines.values():
            engine.queue.forget(client.uuid)
            engine.parked = [item for item in engine.parked if item[0] != client.uuid]
            self._dirty[engine.id] = engine
            if engine.route is not None:
                routes.append(engine.route)
        self._aborts = {key: tries for key, tries in self._aborts.items() if key[0] != client.uuid}
        if routes:
            self._effects.append(Send(routes, encode(Forget(client.uuid))))

    def _give_up_later(self, engine: Engine, deadline: float) -> None:
        engine.deadline = deadline

        def expire(now: float) -> None:
            if engine.deadline == deadline:
                self._bury(engine)

        self._at(deadline, expire)

    def _bury(self, engine: Engine) -> None:
        """The engine is dead: every call that it has or that waits for it ends now."""
        engine.deadline = None
        self._dirty.pop(engine.id, None)
        self._aborts = {key: tries for key, tries in self._aborts.items() if key[2] != engine.id}
        reason = engine.exit_reason or engine.lost_reason or "it did not come back"
        if engine.route is not None:
            self._effects.append(Expel(engine.route, "its process has ended"))
        dispatched, waiting = engine.queue.drain()
        for client, item in engine.parked:
            dispatched.setdefault(client, []).append(item.seq)
        supervisor = self.registry.supervisors.get(engine.supervisor)
        if not engine.ended and supervisor is not None:
            self._send(supervisor.route, Stop(engine.uuid, reason))
        self.registry.remove_engine(engine)
        for client in {**dispatched, **waiting}:
            known = self.registry.clients.get(client)
            if known is not None:
                lost = Lost(
                    client,
                    engine.id,
                    engine.uuid,
                    engine.exit_code,
                    reason,
                    tuple(dispatched.get(client, ())),
                    tuple(waiting.get(client, ())),
                )
                self._send(known.route, lost)
        self._tell_clients(Engines((), ((engine.id, engine.uuid, engine.exit_code, reason),)))
        self._effects.append(Persist(self.registry.ids()))

    # --- messages ---------------------------------------------------------------------------------

    def receive(
        self, route: bytes, message: Message, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        """A message from a peer that has been welcomed. One that it may not send costs it its connection."""
        peer = self.registry.routes.get(route)
        if peer is None:
            return
        handler = _HANDLERS.get((type(peer), type(message)))
        try:
            if handler is None:
                raise ProtocolError(f"{type(message).__name__} from {_role(peer)}")
            handler(self, peer, message, header, frames, now)
        except ProtocolError as error:
            self._effects.append(Expel(route, str(error)))

    # from clients

    def _submit(
        self, client: Client, message: Submit, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own(message.client, client)
        client.watermark = max(client.watermark, message.watermark)
        if client.refused:
            client.refused = {pair for pair in client.refused if pair[0] >= client.watermark}
        engines, dirty = self.registry.engines, self._dirty
        refused: dict[int, list[int]] = {}
        position = 0
        for item in message.calls:
            part: Sequence[Any] = ()
            if item.nframes:
                part = frames[position : position + item.nframes]
                position += item.nframes
            entry = Entry(client.uuid, item, part)
            for id in item.targets:
                engine = engines.get(id)
                if engine is None or (client.refused and (item.seq, id) in client.refused):
                    refused.setdefault(id, []).append(item.seq)
                    continue
                engine.queue.put(entry)
                dirty[id] = engine
                if engine.queue.length(client.uuid) > 2 * self.settings.credit_calls:
                    raise ProtocolError("more calls submitted than there was credit for")
        self.calls += len(message.calls)
        for id, seqs in refused.items():
            self._send(
                client.route, Lost(client.uuid, id, b"", None, "there is no such engine", (), tuple(seqs))
            )

    def _resume(
        self, client: Client, message: Resume, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own(message.client, client)
        asked: dict[int, list[ResumeItem]] = {}
        gone: dict[tuple[int, bytes], list[int]] = {}
        for item in message.items:
            engine = self.registry.engines.get(item.engine)
            if engine is None or engine.uuid != item.uuid:
                gone.setdefault((item.engine, item.uuid), []).append(item.seq)
                client.refused.add((item.seq, item.engine))
            elif engine.route is None:
                engine.parked.append((client.uuid, item))
            else:
                asked.setdefault(item.engine, []).append(item)
        for id, items in asked.items():
            self._ask(self.registry.engines[id], client.uuid, items)
        for (id, uuid), seqs in gone.items():
            reason = "it ended while the connection was lost; the call may have run"
            self._send(client.route, Lost(client.uuid, id, uuid, None, reason, tuple(seqs), ()))

    def _ask(self, engine: Engine, client: bytes, items: Sequence[ResumeItem]) -> None:
        """Ask the engine about calls that the client still waits for; it answers each of them."""
        assert engine.route is not None
        for item in items:
            if not engine.queue.withdraw(client, item.seq):
                engine.queue.adopt((client, item.seq))
        self._send(engine.route, Resume(client, tuple(items), True))

    def _ack(self, client: Client, message: Ack, header: bytes, frames: Sequence[Any], now: float) -> None:
        _own(message.client, client)
        client.watermark = max(client.watermark, message.watermark)
        self._forward_to([id for id, _ in message.seqs], header)

    def _argument_chunk(
        self, client: Client, message: Chunk, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own(message.client, client)
        self._forward_to(message.engines, header, frames)

    def _result_grant(
        self, client: Client, message: Grant, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own(message.client, client)
        self._forward_to((message.engine,), header)

    def _forward_to(self, ids: Sequence[int], header: bytes, frames: Sequence[Any] = ()) -> None:
        engines = self.registry.engines
        routes = [route for id in ids if (e := engines.get(id)) is not None and (route := e.route) is not None]
        if routes:
            self._effects.append(Send(routes, header, frames))

    def _abort(
        self, client: Client, message: Abort, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own(message.client, client)
        for id, seqs in message.seqs:
            engine = self.registry.engines.get(id)
            if engine is None:
                continue
            dropped = []
            passed = []
            for seq in seqs:
                if engine.queue.withdraw(client.uuid, seq):
                    dropped.append(ResultItem(seq, ABORTED, 0.0, 0.0, 0, 0, b""))
                elif engine.queue.dispatched((client.uuid, seq)):
                    passed.append(seq)
                    self._interrupt_later(client.uuid, seq, engine, now + ABORT_FIRST)
            if dropped:
                self._send(client.route, Result(client.uuid, id, tuple(dropped)))
            if passed:
                self._send(engine.route, Abort(client.uuid, ((id, tuple(passed)),)))

    def _interrupt_later(self, client: bytes, seq: int, engine: Engine, when: float) -> None:
        """Have the supervisor interrupt the call, again and again until the engine reports its end."""
        key = (client, seq, engine.id)
        if self._aborts.setdefault(key, 0) >= ABORT_TRIES:
            return

        def interrupt(now: float) -> None:
            if key not in self._aborts:
                return
            self._aborts[key] += 1
            supervisor = self.registry.supervisors.get(engine.supervisor)
            if supervisor is not None:
                self._send(supervisor.route, Interrupt(engine.uuid, client, seq))
            self._interrupt_later(client, seq, engine, now + ABORT_AGAIN)

        self._at(when, interrupt)

    def _client_goodbye(
        self, client: Client, message: Goodbye, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        self._client_gone(client)

    def _query(
        self, client: Client, message: Query, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        what, params = message.what, message.params
        try:
            if what == "shutdown":
                self._send(client.route, Answer(message.number, True, None))
                self.shut_down(str(params.get("reason") or "it was shut down by a client"))
            elif what in ("launch", "stop", "signal"):
                self._supervise(client, message)
            else:
                value = _status.answer(self, what, params, now)
                self._send(client.route, Answer(message.number, True, value))
        except _status.QueryError as error:
            self._send(client.route, Answer(message.number, False, str(error)))

    def _supervise(self, client: Client, message: Query) -> None:
        """Requests about processes: those are the supervisors' business."""
        params = message.params
        if message.what == "launch":
            supervisor = next(iter(self.registry.supervisors.values()), None)
            if supervisor is None:
                raise _status.QueryError("no supervisor is connected: start engines with `directview engine`")
            self._query_number += 1
            self._passed_on[self._query_number] = (client.uuid, message.number, supervisor.uuid)
            self._send(supervisor.route, Launch(_status.integer(params, "n", 1), self._query_number))
            return
        for engine in _status.engines_of(self, params):
            supervisor = self.registry.supervisors.get(engine.supervisor)
            if message.what == "stop":
                if supervisor is not None:
                    self._send(supervisor.route, Stop(engine.uuid, "stopped by a client"))
                else:
                    self._send(engine.route, Stop(b"", "stopped by a client"))
            elif supervisor is None:
                raise _status.QueryError(f"engine {engine.id} has no supervisor that could signal it")
            else:
                self._send(supervisor.route, Signal(engine.uuid, _status.integer(params, "signal")))
        self._send(client.route, Answer(message.number, True, None))

    def shut_down(self, reason: str) -> None:
        """End the cluster: supervisors and engines stop, clients learn why, then the controller ends."""
        routes = [
            route
            for peer in (
                *self.registry.supervisors.values(),
                *self.registry.engines.values(),
                *self.registry.clients.values(),
            )
            if (route := peer.route) is not None
        ]
        if routes:
            self._effects.append(Send(routes, encode(Stop(b"", reason))))
        self._effects.append(Finish(reason))

    # from engines

    def _accept(
        self, engine: Engine, message: Accept, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own_engine(message.engine, engine)
        for seq in message.started:
            engine.queue.started((message.client, seq))
        self._dirty[engine.id] = engine
        self._forward_back(message.client, header)

    def _result(
        self, engine: Engine, message: Result, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own_engine(message.engine, engine)
        client = message.client
        ended = engine.queue.ended
        for item in message.items:
            ended((client, item.seq))
        if self._aborts:
            for item in message.items:
                self._aborts.pop((client, item.seq, engine.id), None)
        self.results += len(message.items)
        if engine.queue.waiting:
            self._dirty[engine.id] = engine
        self._forward_back(client, header, frames)

    def _result_chunk(
        self, engine: Engine, message: Chunk, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        if message.engines != (engine.id,) or message.way != RESULT:
            raise ProtocolError("a chunk in another engine's name")
        self._forward_back(message.client, header, frames)

    def _from_engine(
        self, engine: Engine, message: Grant | Output, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        _own_engine(message.engine, engine)
        self._forward_back(message.client, header)

    def _forward_back(self, client: bytes, header: bytes, frames: Sequence[Any] = ()) -> None:
        known = self.registry.clients.get(client)
        if known is not None and known.route is not None:
            self._effects.append(Send((known.route,), header, frames))

    def _engine_resume(
        self, engine: Engine, message: Resume, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        """What an engine still holds for a client. Of a client that is not there (any more): nothing."""
        if message.client and message.client not in self.registry.clients and self.settings.policy == "stop":
            self._send(engine.route, Forget(message.client))
        for item in message.items:
            engine.queue.adopt((message.client, item.seq))

    def _engine_goodbye(
        self, engine: Engine, message: Goodbye, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        engine.exit_reason = message.reason or "it was stopped"
        engine.ended = True
        self._give_up_later(engine, now + EXIT_DRAIN)

    # from supervisors

    def _exited(
        self, supervisor: Supervisor, message: Exited, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        engine = self.registry.engine_of(message.uuid)
        if engine is None:
            return
        engine.ended = True
        engine.exit_code = message.exit_code
        engine.exit_reason = engine.exit_reason or message.reason
        if engine.route is None:
            self._bury(engine)
        else:
            self._give_up_later(engine, now + EXIT_DRAIN)

    def _supervisor_answer(
        self, supervisor: Supervisor, message: Answer, header: bytes, frames: Sequence[Any], now: float
    ) -> None:
        self._answer_passed_on(message.number, message.ok, message.value)

    def _answer_passed_on(self, number: int, ok: bool, value: Any) -> None:
        passed = self._passed_on.pop(number, None)
        if passed is None:
            return
        client = self.registry.clients.get(passed[0])
        if client is not None:
            self._send(client.route, Answer(passed[1], ok, value))


def _role(peer: Peer) -> str:
    return type(peer).__name__.lower()


def _own(uuid: bytes, client: Client) -> None:
    if uuid != client.uuid:
        raise ProtocolError("a message in another client's name")


def _own_engine(id: int, engine: Engine) -> None:
    if id != engine.id:
        raise ProtocolError("a message in another engine's name")


_HANDLERS: Final[dict[tuple[type[Any], type[Any]], Callable[..., None]]] = {
    (Client, Submit): Controller._submit,
    (Client, Resume): Controller._resume,
    (Client, Ack): Controller._ack,
    (Client, Chunk): Controller._argument_chunk,
    (Client, Grant): Controller._result_grant,
    (Client, Abort): Controller._abort,
    (Client, Query): Controller._query,
    (Client, Goodbye): Controller._client_goodbye,
    (Engine, Accept): Controller._accept,
    (Engine, Result): Controller._result,
    (Engine, Chunk): Controller._result_chunk,
    (Engine, Grant): Controller._from_engine,
    (Engine, Output): Controller._from_engine,
    (Engine, Resume): Controller._engine_resume,
    (Engine, Goodbye): Controller._engine_goodbye,
    (Supervisor, Exited): Controller._exited,
    (Supervisor, Answer): Controller._supervisor_answer,
    (Supervisor, Goodbye): lambda *_: None,
}
