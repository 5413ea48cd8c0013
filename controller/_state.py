"""Pure: the controller's decisions. Messages and losses come in with the time, effects go out.

What flows through here, one row per kind of message:

========== ================== ==================================================================
from       kind               what happens
========== ================== ==================================================================
anyone     Hello              registered and welcomed, or refused (`greet`)
client     Submit             each call is queued for each of its engines
client     Resume             asked of the engine that has the calls, if it is there
client     Ack Grant Taken    forwarded as they came
client     Chunk              forwarded as it came, to all engines that it names
client     Abort              a waiting call ends here; one that was dispatched ends on the engine
client     Query              answered (`directview.controller._status`) or passed to a supervisor
engine     Resume             what it holds, first on a new connection; then clients are told of it
engine     Accept Result      booked, and forwarded as they came
engine     Chunk Grant Output forwarded as they came
engine     Paused             this client's calls wait here, and others' go on
engine     Kept               told that they are, or they are kept when they come (`Heirs`)
supervisor Exited Answer      an engine's death notice; the answer to a query that was passed on
supervisor Alive              the places of engines that can't come back yet are kept
========== ================== ==================================================================

Here is what they have in common: joining, leaving, dying, time and effects. The handlers of messages are in
`_client_messages`, `_engine_messages` and `_supervisor_messages`.

The engine is the truth about its calls. This machine keeps no result and, once a call is dispatched, no
payload: after a lost connection clients ask (`Resume`) and send again what has not arrived. They are told of
every engine that joins, or comes back, and ask it then. A question that meets no engine needs no answer, nor
does what waits for an engine that begins anew: both come again.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, assert_never

from directview.controller import _client_messages, _engine_messages, _supervisor_messages
from directview.controller._deaths import Deaths, names_running
from directview.controller._detached import STANDARD, Box, Limits
from directview.controller._effects import (
    Admit,
    Effect,
    Expel,
    Finish,
    Keep,
    Lookup,
    Note,
    Persist,
    Rotate,
    Send,
)
from directview.controller._heirs import Heirs
from directview.controller._history import MOST_CALLS, History
from directview.controller._meter import Meter
from directview.controller._queues import WINDOW_BYTES, WINDOW_CALLS, Entry, batches
from directview.controller._registry import Client, Engine, Peer, Registry, Supervisor
from directview.wire.messages import (
    PROTOCOL_VERSION,
    Answer,
    Engines,
    Forget,
    Hello,
    Lost,
    Message,
    ProtocolError,
    Query,
    Refused,
    Stop,
    Submit,
    Welcome,
    encode,
)
from directview.wire.postmortem import NOTHING_KNOWN, Postmortem

__all__ = ["Controller", "Settings"]

EXIT_DRAIN: Final = 0.1
"""Seconds from an engine's farewell, or its supervisor's exit report, to acting on it, while its connection
still stands: results that it sent before it ended may be on their way."""
_MOST_SEQS: Final = 16_384
"""Calls that one message names, where it could be any number: a header has its limit."""
_DIARY: Final = 1000


@dataclass(frozen=True, slots=True)
class Settings:
    """What a controller is told at its start."""

    cluster: str
    incarnation: int = 1
    policy: str = "stop"
    engine_grace: float = 1.0
    """Seconds that an engine which lost its connection has to come back or be reported as ended."""
    lease: float = 2.0
    """Seconds for which a lost client's calls are kept, and a restarted controller waits for its peers."""
    credit_calls: int = 1024
    credit_bytes: int = 4 << 20
    """What a client may submit to one engine ahead of its accepting it."""
    window_calls: int = WINDOW_CALLS
    window_bytes: int = WINDOW_BYTES
    """What an engine may have of calls that it has not started."""
    epoch: float = 0.0
    """Seconds since the epoch at time 0."""
    history: int = MOST_CALLS
    """Calls that are remembered, also when they have ended."""
    detached: Limits = STANDARD
    """What is kept of detached calls."""
    store: bool = False
    """Whether there is a store for the history: see `Record` and `Lookup`."""
    stored: int = 0
    """The highest number of a record in it."""


class Controller:
    """The controller's state machine.

    Call `greet`, `receive`, `lost` and `tick` as things happen; call `flush` at the end of each turn and
    perform the effects that it returns, in order; wake it with `tick` at `next_deadline()`.
    """

    def __init__(
        self, settings: Settings, now: float, known: dict[bytes, int] | None = None, box: Box | None = None
    ) -> None:
        """`known`: peers of an earlier incarnation, as it had them written down: see `Persist`.

        They have a lease to come back: engines to their ids, clients to their calls.
        """
        self.settings = settings
        self.registry = Registry(
            known, window_calls=settings.window_calls, window_bytes=settings.window_bytes
        )
        self.started = now
        self.calls = 0
        self.results = 0
        self.history = History(settings.epoch, settings.history, stored=settings.store, last=settings.stored)
        self.deaths = Deaths()
        self.heirs = Heirs(self, box or Box(settings.detached))
        self.dirty: dict[int, Engine] = {}
        """Engines to which calls may be dispatched with the next flush."""
        self.passed_on: dict[int, tuple[bytes, int, bytes]] = {}
        """Queries that supervisors are to answer: number → (client, its number, supervisor)."""
        self.meter = Meter()
        self.diary: deque[str] = deque(maxlen=_DIARY)
        """What the log is to say; the shell takes it out."""
        self._effects: list[Effect] = []
        self._known_changed = False
        self._query_number = 0
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._timer_number = 0
        for engine in self.registry.engines.values():
            self.give_up_later(engine, now + settings.lease)
        for client in self.registry.clients.values():
            self._client_lost(client, now)

    # --- time -----------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do, or None."""
        due = self.history.due
        if not self._timers:
            return due
        return self._timers[0][0] if due is None else min(due, self._timers[0][0])

    def tick(self, now: float) -> None:
        """Do what has become due."""
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        due = self.history.due
        if due is not None and due <= now:
            self.write_history()

    def at(self, when: float, action: Callable[[float], None]) -> None:
        """Have `action` called by `tick` at that time."""
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._timer_number, action))

    # --- effects --------------------------------------------------------------------------------

    def flush(self) -> list[Effect]:
        """Dispatch what has room; return all effects since the last flush, in order.

        Who is there is written down before anybody is told: a controller that takes over has to know.
        """
        kept = self.heirs.flush() if self.heirs.box.changed else []
        if self.dirty:
            self._dispatch()
        self._effects += kept
        effects, self._effects = self._effects, []
        if self._known_changed:
            self._known_changed = False
            effects.insert(0, Persist(self.registry.known()))
        return effects

    def send(self, route: bytes | None, message: Message) -> None:
        """Send a message of our own; to nobody, if there is no route."""
        if route is not None:
            self._effects.append(Send((route,), encode(message)))

    def write_history(self) -> None:
        """Have what is new in the history written to the store, if there is one."""
        record = self.history.unwritten() if self.settings.store else None
        if record is not None:
            self._effects.append(record)

    def look_up(self, lookup: Lookup) -> None:
        """Have the store answer a query, about all that has happened so far."""
        self.write_history()
        self._effects.append(lookup)

    def rotate(self, rotate: Rotate) -> None:
        """Have the keys replaced."""
        self._effects.append(rotate)

    def answered(self, asked: Lookup | Rotate, ok: bool, value: Any) -> None:
        """What came of it; or, not `ok`, why nothing did."""
        client = self.registry.clients.get(asked.client)
        if client is not None:
            self.send(client.route, Answer(asked.number, ok, value))

    def forward(self, routes: Sequence[bytes], header: bytes, frames: Sequence[Any] = ()) -> None:
        """Pass a message on as it came."""
        if routes:
            self._effects.append(Send(routes, header, frames))

    def kept(self, keep: Keep) -> None:
        """The store has what it was to keep, as far as it can: no crash of this controller loses that now."""
        self.heirs.written([key for key, _ in keep.changes])

    def _tell_clients(self, message: Message) -> list[bytes]:
        routes = [client.route for client in self.registry.clients.values() if client.route is not None]
        if routes:
            self._effects.append(Send(routes, encode(message)))
        return routes

    def _dispatch(self) -> None:
        """One message for all engines that get the same calls: a fan-out is encoded once."""
        groups: dict[tuple[int, ...], tuple[bytes, list[Entry], list[bytes]]] = {}
        for engine in self.dirty.values():
            if engine.route is None or not engine.ready:
                continue
            for client, batch in batches(engine.queue.take()):
                key = tuple([id(entry) for entry in batch])
                group = groups.get(key)
                if group is None:
                    groups[key] = (client, batch, [engine.route])
                else:
                    group[2].append(engine.route)
        self.dirty.clear()
        for client, batch, routes in groups.values():
            known = self.registry.clients.get(client)
            watermark = 0 if known is None else known.watermark
            header = encode(Submit(client, watermark, tuple([entry.item for entry in batch])))
            frames = [frame for entry in batch for frame in entry.frames]
            self._effects.append(Send(routes, header, frames))

    def note(self, text: str) -> None:
        """Write `text` into the log."""
        self._effects.append(Note(text))

    def tell(self, text: str) -> None:
        """Have `text` written into the log: nothing is wrong, but somebody may want to know."""
        self.diary.append(text)

    def expel(self, route: bytes, reason: str, now: float) -> None:
        """Close this connection and count it as lost."""
        self._effects.append(Expel(route, reason))
        self.lost(route, reason, now)

    # --- joining ----------------------------------------------------------------------------------

    def greet(self, route: bytes, hello: Hello, user: str | None, now: float) -> None:
        """The first message on a connection. `user`: the role that its key is for, None without keys."""
        if route in self.registry.routes:
            self.expel(route, "a second hello on one connection", now)
            return
        refusal = self._refusal(hello, user)
        if refusal is not None:
            self.send(route, refusal)
            self._effects.append(Expel(route, refusal.reason))
            return
        self._effects.append(Admit(route))
        back = " is back" if hello.resuming else " came"
        self.tell(f"{hello.role} {hello.uuid.hex()[:12]}{back}: process {hello.pid} on {hello.hostname}")
        replaced = {
            "engine": self._greet_engine,
            "client": self._greet_client,
            "supervisor": self._greet_supervisor,
        }[hello.role](route, hello, now)
        if replaced is not None:
            self._effects.append(Expel(replaced, "the same peer has a newer connection"))

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
        if user is not None and user != hello.role:
            return Refused(
                f"the key presented is for role {user!r}, not {hello.role!r}",
                "engines and supervisors need the engine connection file, clients the client connection file",
            )
        return None

    def _welcome(self, route: bytes, id: int) -> None:
        settings = self.settings
        infos = self.registry.infos() if id < 0 else ()
        self.send(
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

    def _greet_engine(self, route: bytes, hello: Hello, now: float) -> bytes | None:
        """It begins anew: what it has is what it says that it holds."""
        holder = self.registry.engines.get(hello.wanted_id)
        if holder is not None and holder.ended and holder.uuid != hello.uuid:
            self.bury(holder, now)  # What it has sent would have come by now: its follower is here.
        engine, replaced = self.registry.join_engine(hello, route)
        self.tell(f"engine {hello.uuid.hex()[:12]} is engine {engine.id}")
        self.heirs.set_aside(engine)
        engine.queue.drain()
        engine.aborts.clear()
        self._known_changed = True
        self._welcome(route, engine.id)
        self._tell_supervisor(engine)
        if not engine.resuming:
            self.engine_ready(engine)
        return replaced

    def engine_ready(self, engine: Engine) -> None:
        """Tell the clients of it: they ask it about the calls that it may have, and send again the others."""
        assert engine.info is not None
        engine.queue.clear_waiting()
        self.heirs.engine_ready(engine)
        engine.unasked = set(self._tell_clients(Engines((engine.info,), ())))

    def _greet_client(self, route: bytes, hello: Hello, now: float) -> bytes | None:
        client, replaced = self.registry.join_client(hello, route)
        self.heirs.only_read_of.discard(client.uuid)
        self._known_changed = True
        for id in client.engines:
            engine = self.registry.engines.get(id)
            if engine is not None:
                engine.queue.withdraw_all(client.uuid)
        self._welcome(route, -1)
        return replaced

    def _greet_supervisor(self, route: bytes, hello: Hello, now: float) -> bytes | None:
        supervisor, replaced = self.registry.join_supervisor(hello, route)
        self._fail_passed_on(supervisor, "the connection to the supervisor was lost before it answered")
        self._welcome(route, -1)
        for engine in self.registry.engines.values():
            if engine.supervisor == supervisor.uuid:
                self._tell_supervisor(engine)
        return replaced

    def _tell_supervisor(self, engine: Engine) -> None:
        """Under which id its engine goes: another that takes its place is to have the same."""
        supervisor = self.registry.supervisors.get(engine.supervisor)
        if supervisor is not None and engine.info is not None:
            self.send(supervisor.route, Engines((engine.info,), ()))

    # --- leaving ----------------------------------------------------------------------------------

    def lost(self, route: bytes, reason: str, now: float) -> None:
        """A connection is gone, and everything that came over it has been received."""
        peer = self.registry.routes.pop(route, None)
        if peer is not None:
            self.tell(f"the connection of {_role(peer)} {peer.uuid.hex()[:12]} is gone: {reason}")
        match peer:
            case None:
                pass
            case Engine():
                peer.route = None
                self._engine_lost(peer, reason, now)
            case Client():
                peer.route = None
                self._client_lost(peer, now)
            case Supervisor():
                del self.registry.supervisors[peer.uuid]
                self._fail_passed_on(peer, "the supervisor is gone")
            case _:
                assert_never(peer)

    def _engine_lost(self, engine: Engine, reason: str, now: float) -> None:
        engine.lost_reason = reason or "its connection was lost"
        if engine.ended:
            self.bury(engine, now)
        else:
            self.give_up_later(engine, now + self.settings.engine_grace)
            if self.settings.policy == "wait":
                self._ask_supervisor(engine)

    def _ask_supervisor(self, engine: Engine) -> None:
        """Whether it lives. Where it was cut off, so is its supervisor, and it has its time to come back."""
        supervisor = self.registry.supervisors.get(engine.supervisor)
        if supervisor is not None:
            left = (engine.id, engine.uuid, None, engine.lost_reason)
            self.send(supervisor.route, Engines((), (left,)))

    def _client_lost(self, client: Client, now: float) -> None:
        deadline = client.deadline = now + self.settings.lease

        def expire(now: float) -> None:
            if client.deadline == deadline:
                self.client_gone(client, now)

        self.at(deadline, expire)

    def client_gone(self, client: Client, now: float) -> None:
        """It said goodbye, or its lease has run out: nothing of it is kept, but for its calls' records.

        What it has aborted is interrupted still: to close a client is not to let a cancelled call run on.
        """
        self.tell(f"client {client.uuid.hex()[:12]} is gone: process {client.pid} on {client.hostname}")
        self.registry.remove_client(client)
        self._known_changed = True
        client.deadline = None
        routes = []
        for engine in [self.registry.engines[id] for id in client.engines if id in self.registry.engines]:
            engine.queue.forget(client.uuid, self.heirs.take_over(client.uuid, engine, now))
            self.dirty[engine.id] = engine
            if engine.route is not None:
                routes.append(engine.route)
        if routes:
            self._effects.append(Send(routes, encode(Forget(client.uuid))))
        self.history.client_gone(client.uuid, now, self.heirs.box.open_of(client.uuid))

    def ends(self, engine: Engine, exit_code: int | None, reason: str, now: float) -> None:
        """The engine says that it ends, or its supervisor that it has ended."""
        engine.ended = True
        if exit_code is not None:
            engine.exit_code = exit_code
        engine.exit_reason = engine.exit_reason or reason
        if engine.route is None:
            self.bury(engine, now)
        else:
            self.give_up_later(engine, now + EXIT_DRAIN)

    def give_up_later(self, engine: Engine, deadline: float) -> None:
        """Count the engine as dead at that time, unless it comes back."""
        engine.deadline = deadline

        def expire(now: float) -> None:
            if engine.deadline == deadline:
                self.bury(engine, now)

        self.at(deadline, expire)

    def bury(self, engine: Engine, now: float) -> None:
        """The engine is dead: every call that it has or that waits for it ends now."""
        engine.deadline = None
        reason = engine.exit_reason or engine.lost_reason or "it did not come back"
        if engine.route is not None:
            self._effects.append(Expel(engine.route, "its process has ended"))
        supervisor = self.registry.supervisors.get(engine.supervisor)
        if not engine.ended and supervisor is not None:
            self.send(supervisor.route, Stop(engine.uuid, reason, True))
        self.registry.remove_engine(engine)
        self.tell(f"engine {engine.id} is gone: {reason}")
        engine.aborts.clear()
        self._known_changed = True
        dispatched, waiting = engine.queue.drain()
        known = engine.postmortem
        if dispatched:
            known = known._replace(running=names_running(self.history, dispatched))
        self.heirs.engine_died(engine, reason, waiting, known, now)
        for uuid in {**dispatched, **waiting}:
            client = self.registry.clients.get(uuid)
            if client is not None:
                self.send_lost(
                    client, engine.id, reason, dispatched.get(uuid, ()), waiting.get(uuid, ()),
                    now, uuid=engine.uuid, exit_code=engine.exit_code, known=known,
                )  # fmt: skip
        self.tell_death(engine.id, engine.uuid, engine.exit_code, reason, known, now)

    def tell_death(
        self, id: int, uuid: bytes, exit_code: int | None, reason: str, known: Postmortem, now: float
    ) -> None:
        """Tell every client that this engine is no more."""
        self.deaths.note(id, uuid, exit_code, reason, known, now + self.settings.epoch)
        left = (id, uuid, exit_code, reason)
        self._tell_clients(Engines((), (left,), (known,) if known != NOTHING_KNOWN else ()))

    def send_lost(
        self,
        client: Client,
        id: int,
        reason: str,
        started: Iterable[int],
        queued: Iterable[int],
        now: float,
        *,
        uuid: bytes = b"",
        exit_code: int | None = None,
        known: Postmortem = NOTHING_KNOWN,
    ) -> None:
        """Tell a client that calls can't be answered any more, in messages of bounded size."""
        for seqs, begun in ((iter(started), True), (iter(queued), False)):
            while part := tuple(islice(seqs, _MOST_SEQS)):
                ran, never = (part, ()) if begun else ((), part)
                self.history.lost(client.uuid, id, uuid, part, now)
                self.send(client.route, Lost(client.uuid, id, uuid, exit_code, reason, ran, never, known))

    def pass_on(self, client: Client, query: Query, supervisor: Supervisor) -> int:
        """Note that `supervisor` is to answer `query`; the number under which it will."""
        self._query_number += 1
        self.passed_on[self._query_number] = (client.uuid, query.number, supervisor.uuid)
        return self._query_number

    def _fail_passed_on(self, supervisor: Supervisor, reason: str) -> None:
        for number, (_, _, passed_to) in list(self.passed_on.items()):
            if passed_to == supervisor.uuid:
                self.answer_passed_on(number, False, reason)

    def answer_passed_on(self, number: int, ok: bool, value: Any) -> None:
        """A query that was passed to a supervisor has its answer."""
        uuid, their_number, _ = self.passed_on.pop(number)
        client = self.registry.clients.get(uuid)
        if client is not None:
            self.send(client.route, Answer(their_number, ok, value))

    def shut_down(self, reason: str) -> None:
        """End the cluster: supervisors and engines stop, clients learn why, then the controller ends."""
        registry = self.registry
        routes = [
            peer.route
            for peers in (registry.supervisors, registry.engines, registry.clients)
            for peer in peers.values()
            if peer.route is not None
        ]
        if routes:
            self._effects.append(Send(routes, encode(Stop(b"", reason))))
        self._effects.append(Finish(reason))

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
            self.expel(route, str(error), now)


def _role(peer: Peer) -> str:
    return type(peer).__name__.lower()


_HANDLERS: Final[dict[tuple[type[Any], type[Any]], Callable[..., None]]] = {
    **{(Client, kind): handler for kind, handler in _client_messages.HANDLERS.items()},
    **{(Engine, kind): handler for kind, handler in _engine_messages.HANDLERS.items()},
    **{(Supervisor, kind): handler for kind, handler in _supervisor_messages.HANDLERS.items()},
}
