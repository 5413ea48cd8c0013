"""Pure: what the controller does for detached calls: in the place of clients that are gone, and for who asks.

An heir does as its client did: it asks an engine that has come back about the calls, grants the chunks of
large results, and acknowledges what it has. What is kept, and for how long, is the box's affair.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from directview.controller._detached import Box, Key, chunked_bytes, key_of
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

    def _has_heir(self, client: bytes) -> bool:
        return client not in self._controller.registry.clients

    def _when(self, now: float) -> float:
        return now + self._controller.settings.epoch

    # --- clients that go ------------------------------------------------------------------------------------

    def take_over(self, client: bytes, engine: Engine, now: float) -> set[int]:
        """A client is gone: the seqs of its calls that go on with this engine."""
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
        for seq in kept - there:
            key = (client, seq, engine.id)
            # Of one whose result had begun to come, the engine sends it again: for the heir.
            if not engine.queue.dispatched(client, seq) and not self.box.arrives(key):
                self._lost(key, engine, _NOT_SENT, False, now)
                kept.discard(seq)
        return kept

    def _lost(self, key: Key, engine: Engine, reason: str, started: bool, now: float) -> None:
        told = {"reason": reason, "started": started}
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
        for item in message.items:
            part = frames[position : position + item.nframes]
            position += item.nframes
            key = (client, item.seq, engine.id)
            goes_on = box.goes_on(key)
            if item.status == UNKNOWN or item.status == FORGOTTEN:
                if heir and goes_on:
                    self._lost(key, engine, _NOT_SENT, item.status == FORGOTTEN, now)
            elif heir and not goes_on and client in self._gone:
                done.append(item.seq)  # It was running when its client went, and nobody wants it.
            elif goes_on or heir:
                whole = box.result(key, engine.uuid, item, part, self._when(now))
                if whole:
                    done.append(item.seq)
                elif heir:
                    self._grant(engine, key)
        if heir:
            self._acknowledge(engine, client, done)

    def chunk_came(self, engine: Engine, message: Chunk, frames: Sequence[Any], now: float) -> None:
        """A piece of a result."""
        key = (message.client, message.seq, engine.id)
        whole = bool(frames) and self.box.chunk(key, message.offset, frames[0], self._when(now))
        if self._has_heir(message.client):
            if whole:
                self._acknowledge(engine, message.client, [message.seq])
            else:
                self._grant(engine, key)

    def _grant(self, engine: Engine, key: Key) -> None:
        due = self.box.due_grant(key, GRANT_AHEAD)
        if due is not None and engine.ready:
            self._controller.send(engine.route, Grant(key[0], key[1], engine.id, RESULT, *due))

    def _acknowledge(self, engine: Engine, client: bytes, seqs: Sequence[int]) -> None:
        """In the client's place. When nothing of it goes on there any more, the engine forgets it."""
        if not engine.ready:
            return
        if seqs:
            self._controller.send(engine.route, Ack(client, 0, ((engine.id, tuple(seqs)),)))
        if not self.box.of(client, engine.id) and seqs:
            self._controller.send(engine.route, Forget(client))

    # --- engines that come back, or don't -------------------------------------------------------------------

    def set_aside(self, engine: Engine) -> None:
        """It begins anew: what waited for it of clients that are gone, only this controller has."""
        gone = [client for client in self.box.clients() if self._has_heir(client)]
        entries = [entry for client in gone for entry in engine.queue.line_of(client)]
        if entries:
            self._aside.setdefault(engine.uuid, []).extend(entries)

    def engine_ready(self, engine: Engine) -> None:
        """It has said what it holds: give it what waited, and ask about the rest."""
        waited: dict[bytes, set[int]] = {}
        for entry in self._aside.pop(engine.uuid, ()):
            if self._has_heir(entry.client):
                engine.queue.put(entry)
                waited.setdefault(entry.client, set()).add(entry.item.seq)
                self._controller.dirty[engine.id] = engine
        for client in list(self.box.clients()):
            asked = set(self.box.of(client, engine.id)) - waited.get(client, set())
            if asked and self._has_heir(client):
                items = tuple([ResumeItem(seq, engine.id, engine.uuid) for seq in sorted(asked)])
                self._controller.send(engine.route, Resume(client, items, False))

    def engine_died(
        self, engine: Engine, reason: str, given: dict[bytes, list[int]], known: Postmortem, now: float
    ) -> None:
        """Its calls can't be answered any more. `given`: seqs by client that it may have begun."""
        self._aside.pop(engine.uuid, None)
        for client in list(self.box.clients()):
            begun = set(given.get(client, ()))
            for seq in self.box.of(client, engine.id):
                told = {
                    "exit_code": engine.exit_code,
                    "reason": reason,
                    "started": seq in begun,
                    "running": known.running if seq in begun else "",
                    "memory": known.memory,
                    "peak_memory": known.peak,
                    "last_words": known.said,
                }
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
            if engine is not None and type(seq) is int:
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
        return [Keep(changes)] if self._controller.settings.store else []
