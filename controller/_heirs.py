"""Pure: what the controller does for detached calls: in the place of clients that are gone, and for who asks.

An heir does as its client did: it asks an engine that has come back about the calls, grants the chunks of
large results, and acknowledges what it has. What is kept, and for how long, is the box's affair.

An engine needs two words to drop the result of a detached call: its client's, that it has it, and ours, that
it is kept (`Kept`), since others may ask for it when its client and this controller have crashed. Where there
is a store, ours is said when that has written the result. An heir says both at once then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from directview.controller._detached import Box, Key, chunked_bytes, key_of, msg_id_of
from directview.controller._effects import Keep
from directview.controller._queues import Entry
from directview.controller._registry import Client, Engine
from directview.wire.messages import (
    ABORTED,
    FORGOTTEN,
    RESULT,
    UNKNOWN,
    Accept,
    Ack,
    Answer,
    Chunk,
    Forget,
    Grant,
    Kept,
    Query,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
)
from directview.wire.postmortem import Postmortem
from directview.wire.transfers import GRANT_AHEAD

if TYPE_CHECKING:
    from directview.controller._state import Controller

__all__ = ["Heirs"]

_NOT_SENT: Final = "its client ended before all of its arguments had been sent"
_MOST_GONE: Final = 65_536
_SETTLING: Final = 0.5
"""Seconds until the next look for a call that may turn up."""
_MOST_WAITING: Final = 10_000
"""Questions about calls that go on."""


class Heirs:
    """The heirs of all clients of one controller.

    Args:
        controller: whose they are.
        box: what is kept.
    """

    def __init__(self, controller: Controller, box: Box) -> None:
        self.box = box
        self._controller = controller
        self._waiting: dict[Key, list[tuple[bytes, int]]] = {}
        """Who is to be told when a call has ended: client and number of its query."""
        self._count = 0
        self.only_read_of = set(controller.registry.clients)
        """Clients that an earlier controller knew and that have not come to this one. Which of their calls
        are detached, engines say when such a client is given up."""
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        """Clients whose end this controller has seen: it knows which of their calls are detached."""
        self._aside: dict[bytes, list[Entry]] = {}
        """By engine that comes back: what waited for it of clients that are gone."""
        self._unsaid: dict[Key, None] = {}
        """Calls whose results are here, and whose engines have not been told that they are kept."""
        self._writing: dict[Key, int] = {}
        """How many times the store is writing something of these calls."""
        self._alone: set[Key] = set()
        """Calls of which the client takes no more of what still comes: the rest is asked for in its place."""

    def _has_heir(self, client: bytes) -> bool:
        return client not in self._controller.registry.clients

    def _when(self, now: float) -> float:
        return now + self._controller.settings.epoch

    # --- clients that go ------------------------------------------------------------------------------------

    def take_over(self, client: bytes, engine: Engine, now: float) -> set[int]:
        """A client is gone: the seqs of its calls that go on with this engine.

        An engine that is away is asked about them when it is back.
        """
        if client not in self.only_read_of:
            self._gone[client] = None
        if len(self._gone) > _MOST_GONE:
            self._gone.popitem(last=False)
        for entry in engine.queue.line_of(client):
            key = (client, entry.item.seq, engine.id)
            if self.box.goes_on(key) and chunked_bytes(entry.item.body):
                self._lost(key, engine, _NOT_SENT, False, now)
        kept = set(self.box.of(client, engine.id))
        there = {entry.item.seq for entry in engine.queue.line_of(client)}
        for seq in kept - there if engine.ready else ():
            key = (client, seq, engine.id)
            # Of one whose result had begun to come, the engine sends it again: for the heir.
            if not engine.queue.dispatched(client, seq) and not self.box.arrives(key):
                self._lost(key, engine, _NOT_SENT, False, now)
                kept.discard(seq)
        return kept

    def _lost(self, key: Key, engine: Engine, reason: str, started: bool, now: float) -> None:
        told = {"reason": reason, "started": started}
        self._alone.discard(key)
        self.box.lost(key, b"", told, self._when(now))

    # --- what engines say -----------------------------------------------------------------------------------

    def accepted(self, engine: Engine, message: Accept) -> None:
        """An engine goes on with calls of a client that is gone."""
        if self._has_heir(message.client):
            seqs = (*message.started, *message.held)
            self.box.adopted(message.client, seqs, engine.id)
            for seq in seqs:
                engine.queue.adopt(message.client, seq)

    def came(self, engine: Engine, message: Result, frames: Sequence[Any], now: float) -> None:
        """Results, some of them of detached calls perhaps."""
        client, box = message.client, self.box
        heir = self._has_heir(client)
        position = 0
        done = []
        known = []
        for item in message.items:
            part = frames[position : position + item.nframes]
            position += item.nframes
            key = (client, item.seq, engine.id)
            goes_on = box.goes_on(key)
            if key in self._unsaid:
                continue
            if item.status == UNKNOWN or item.status == FORGOTTEN:
                if heir and goes_on:
                    self._lost(key, engine, _NOT_SENT, item.status == FORGOTTEN, now)
                elif goes_on:
                    self._withdrawn(key, now)
            elif heir and not goes_on and (client in self._gone or box.has_result(key)):
                done.append(item.seq)  # It ran when its client went, and nobody wants it; or it is here.
            elif goes_on or heir:
                whole = box.result(key, engine.uuid, item, part, self._when(now))
                if whole:
                    self._unsaid[key] = None
                elif heir or self._has_taken(key):
                    self._alone.add(key)
                    self._grant(engine, key)
                else:
                    self._alone.discard(key)
            elif box.has_result(key):
                self._unsaid[key] = None
                known.append(key)
        self._say_kept(known)
        if heir:
            self._acknowledge(engine, client, done)

    def chunk_came(self, engine: Engine, message: Chunk, frames: Sequence[Any], now: float) -> None:
        """A piece of a result."""
        key = (message.client, message.seq, engine.id)
        whole = bool(frames) and self.box.chunk(key, message.offset, frames[0], self._when(now))
        if whole:
            self._unsaid[key] = None
            self._alone.discard(key)
        elif key in self._alone:
            self._grant(engine, key)

    def _has_taken(self, key: Key) -> bool:
        client = self._controller.registry.clients.get(key[0])
        return client is not None and key[1] < client.watermark

    def taken(self, client: Client, named: Sequence[tuple[int, Sequence[int]]]) -> None:
        """A client has these results, and those below its watermark, or wants no more of them.

        Of a large one that it had half of it asks for no more: we do, for others.
        """
        arriving = self.box.arriving()
        if not arriving:
            return
        keys = [(client.uuid, seq, id) for id, seqs in named for seq in seqs]
        done = [key for key in arriving if key[0] == client.uuid and self._has_taken(key)]
        for key in (*keys, *done):
            engine = self._controller.registry.engines.get(key[2])
            if engine is not None and key in arriving and key not in self._alone:
                self._alone.add(key)
                self._grant(engine, key)

    def held(self, engine: Engine, uuid: bytes, seqs: Sequence[int]) -> None:
        """An engine that has come back has these results: those that are not here will come once more.

        Their client may have gone before the engine was back, and nobody else knows that they are wanted.
        """
        client = self._controller.registry.clients.get(uuid)
        known = []
        for seq in seqs:
            key = (uuid, seq, engine.id)
            if self.box.has_result(key):
                self._unsaid[key] = None
                known.append(key)
            else:
                self.box.adopted(uuid, (seq,), engine.id)
                engine.queue.adopt(uuid, seq)
                if client is not None:
                    client.engines.add(engine.id)
        engine.queue.started(uuid, seqs)  # They take nobody's place, however late their client is.
        self._say_kept(known)

    def written(self, keys: Sequence[Key]) -> None:
        """The store has written what it was given of these calls."""
        for key in keys:
            self._writing[key] -= 1
            if not self._writing[key]:
                del self._writing[key]
        self._say_kept(keys)

    def _say_kept(self, keys: Sequence[Key]) -> None:
        """Tell engines which of these results are kept. One that is away asks when it is back."""
        parts: dict[tuple[bytes, int], list[int]] = {}
        for key in keys:
            if key in self._unsaid and key not in self._writing:
                del self._unsaid[key]
                parts.setdefault((key[0], key[2]), []).append(key[1])
        for (client, id), seqs in parts.items():
            engine = self._controller.registry.engines.get(id)
            if engine is None or not engine.ready:
                continue
            if self._has_heir(client):
                self._acknowledge(engine, client, seqs)
            else:
                self._controller.send(engine.route, Kept(client, id, tuple(seqs)))

    def _grant(self, engine: Engine, key: Key) -> None:
        due = self.box.due_grant(key, GRANT_AHEAD)
        if due is not None and engine.ready:
            self._controller.send(engine.route, Grant(key[0], key[1], engine.id, RESULT, *due))

    def _acknowledge(self, engine: Engine, client: bytes, seqs: Sequence[int]) -> None:
        """In the client's place. When nothing of it goes on there any more, the engine forgets it."""
        if not engine.ready:
            return
        if seqs:
            self._controller.send(engine.route, Kept(client, engine.id, tuple(seqs)))
            self._controller.send(engine.route, Ack(client, 0, ((engine.id, tuple(seqs)),)))
        if not seqs or self.box.of(client, engine.id):
            return
        if not any(key[0] == client and key[2] == engine.id for key in self._unsaid):
            self._controller.send(engine.route, Forget(client))

    # --- engines that come back, or don't -------------------------------------------------------------------

    def set_aside(self, engine: Engine) -> None:
        """It begins anew: what waited for it of clients that are gone, or will be by then, only we have."""
        waiting = [entry for client in self.box.clients() for entry in engine.queue.line_of(client)]
        entries = [entry for entry in waiting if self.box.goes_on((entry.client, entry.item.seq, engine.id))]
        if entries:
            self._aside.setdefault(engine.uuid, []).extend(entries)

    def engine_ready(self, engine: Engine) -> None:
        """It has said what it holds: give it what waited, and ask about the rest."""
        waited: dict[bytes, set[int]] = {}
        for entry in self._aside.pop(engine.uuid, ()):
            if self._has_heir(entry.client) and not chunked_bytes(entry.item.body):
                engine.queue.put(entry)
                waited.setdefault(entry.client, set()).add(entry.item.seq)
                self._controller.dirty[engine.id] = engine
        for client in list(self.box.clients()):
            asked = set(self.box.of(client, engine.id)) - waited.get(client, set())
            if asked and self._has_heir(client):
                items = tuple([ResumeItem(seq, engine.id, engine.uuid) for seq in sorted(asked)])
                self._controller.send(engine.route, Resume(client, items, False))

    def engine_died(
        self, engine: Engine, reason: str, waiting: dict[bytes, list[int]], known: Postmortem, now: float
    ) -> None:
        """Its calls can't be answered any more.

        `waiting`: seqs by client that it has not been given. Of others that is not sure: a controller that
        has taken over does not know what its engines have until they have come back.
        """
        aside = {(entry.client, entry.item.seq) for entry in self._aside.pop(engine.uuid, ())}
        for client in list(self.box.clients()):
            calls = self.box.of(client, engine.id)
            begun = {seq for seq in calls if (client, seq) not in aside} - set(waiting.get(client, ()))
            for seq in calls:
                told = {
                    "exit_code": engine.exit_code,
                    "reason": reason,
                    "started": seq in begun,
                    "running": known.running if seq in begun else "",
                    "memory": known.memory,
                    "peak_memory": known.peak,
                    "last_words": known.said,
                }
                self._alone.discard((client, seq, engine.id))
                self.box.lost((client, seq, engine.id), engine.uuid, told, self._when(now))

    def aborted(self, client: bytes, engine: Engine, seqs: Sequence[int], now: float) -> None:
        """Calls were taken back before they had begun."""
        for seq in seqs:
            if self.box.goes_on((client, seq, engine.id)):
                item = ResultItem(seq, ABORTED, 0.0, 0.0, 0, 0, b"")
                self.box.result((client, seq, engine.id), engine.uuid, item, (), self._when(now))

    # --- asked for ------------------------------------------------------------------------------------------

    def mark(self, client: Client, params: dict[str, Any]) -> None:
        """A client that has met another controller says which of its outstanding calls are detached."""
        for seq, id in params.get("calls", ()):
            engine = self._controller.registry.engines.get(id)
            if engine is not None and type(seq) is int and not self.box.has_result((client.uuid, seq, id)):
                self.box.adopted(client.uuid, (seq,), id)
                client.engines.add(id)

    def find(self, params: dict[str, Any]) -> Key | None:
        """The call that a question is about, if it is a detached one that goes on."""
        key = key_of(params.get("msg_id"))
        return key if key is not None and self.box.goes_on(key) else None

    def fetch(self, client: Client, query: Query, now: float, *, settled: bool = False) -> None:
        """Answer with (a piece of) a result; of a call that goes on, when it has ended.

        A controller that has taken over hears only from engines which calls are detached, and from those of a
        client that was lost with its predecessor not before that one's lease is over: until then what isn't
        known may still turn up. `settled`: it would have.
        """
        key = key_of(query.params.get("msg_id"))
        offset = query.params.get("offset", 0)
        kept = None if key is None else self.box.get(key, self._when(now))
        value: dict[str, Any] = {"state": "unknown"}
        if kept is not None:
            value = self.box.answer(kept, offset if type(offset) is int and offset >= 0 else 0)
        elif key is not None and self.box.goes_on(key):
            if query.params.get("wait") and self._count < _MOST_WAITING:
                self._waiting.setdefault(key, []).append((client.uuid, query.number))
                self._count += 1
                return
            value = {"state": "goes on"}
        elif key is not None and query.params.get("wait") and not settled and self._may_wait():
            self._fetch_later(client.uuid, query, not self._may_turn_up(key), now)
            return
        self._controller.send(client.route, Answer(query.number, True, value))

    def _may_wait(self) -> bool:
        return self._controller.settings.incarnation > 1 and self._count < _MOST_WAITING

    def _may_turn_up(self, key: Key) -> bool:
        """Whether somebody who would know of the call hasn't been heard yet."""
        registry = self._controller.registry
        engine, client = registry.engines.get(key[2]), registry.clients.get(key[0])
        if engine is not None and not engine.ready:
            return True
        return client is not None and client.uuid in self.only_read_of

    def _fetch_later(self, uuid: bytes, query: Query, settled: bool, now: float) -> None:
        def again(now: float) -> None:
            self._count -= 1
            client = self._controller.registry.clients.get(uuid)
            if client is not None:
                self.fetch(client, query, now, settled=settled)

        self._count += 1
        self._controller.at(now + _SETTLING, again)

    def _withdrawn(self, key: Key, now: float) -> None:
        """Its engine doesn't have it. Who waits does so a moment longer: its client may send it again."""
        self.box.withdrawn(key)
        for uuid, number in self._waiting.pop(key, ()):
            self._count -= 1
            query = Query(number, "detached_result", {"msg_id": msg_id_of(key), "wait": True})
            self._fetch_later(uuid, query, True, now)

    def purge(self, params: dict[str, Any]) -> None:
        """The records of these calls are forgotten, and so are their results."""
        msg_ids, targets = params.get("msg_ids"), params.get("targets")
        keys = self.box.keys()
        if msg_ids is not None or targets is not None:
            named = set(map(key_of, msg_ids or ()))
            keys = [key for key in keys if key in named or key[2] in (targets or ())]
        self.box.forget(keys)

    def flush(self) -> list[Keep]:
        """Answer who waited for calls that have ended; what the store is to keep."""
        for key in self.box.take_ended():
            for uuid, number in self._waiting.pop(key, ()):
                self._count -= 1
                client = self._controller.registry.clients.get(uuid)
                kept = self.box.get(key, 0.0)
                if client is not None and kept is not None:
                    self._controller.send(client.route, Answer(number, True, self.box.answer(kept, 0)))
        if not self.box.changed:
            return []
        changes = self.box.changes()
        if not self._controller.settings.store:
            self._say_kept([key for key, _ in changes])
            return []
        for key, _ in changes:
            self._writing[key] = self._writing.get(key, 0) + 1
        return [Keep(changes)]
