"""Pure: what the controller does with each kind of message that a client may send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from directview.controller import _status
from directview.controller._effects import Lookup, Rotate
from directview.controller._history import pages
from directview.controller._queues import Entry
from directview.controller._registry import Client, Engine, PendingAbort
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    BALANCED,
    DETACHED,
    RESULT,
    Abort,
    Ack,
    Answer,
    CallItem,
    Chunk,
    Engines,
    Goodbye,
    Grant,
    Interrupt,
    Launch,
    ProtocolError,
    Query,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
    Signal,
    Stop,
    Submit,
    Taken,
    encode,
)

if TYPE_CHECKING:
    from directview.controller._state import Controller

__all__ = ["HANDLERS"]

ABORT_FIRST: Final = 0.05
"""Seconds that an engine has to end an aborted call by itself, before it is interrupted."""
ABORT_AGAIN: Final = 0.2
ABORT_TRIES: Final = 50
_OVERHEAD: Final = 64
"""Bytes that a call takes in a header beside its name and body, at most."""
_CHOSEN: Final = (BALANCED,)
"""The targets of a call with several, as its engines see it: each of them is one that was chosen."""


def _own(uuid: bytes, client: Client) -> None:
    if uuid != client.uuid:
        raise ProtocolError("a message in another client's name")


def _submit(
    controller: Controller,
    client: Client,
    message: Submit,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    _own(message.client, client)
    if message.watermark > client.watermark:
        _raise_watermark(controller, client, message.watermark)
    engines, dirty = controller.registry.engines, controller.dirty
    settings = controller.settings
    refused: dict[int, list[int]] = {}
    position = 0
    for item in message.calls:
        part: Sequence[Any] = ()
        if item.nframes:
            part = frames[position : position + item.nframes]
            position += item.nframes
        entry = _entry(client, item, part)
        for id in item.targets:
            engine = engines.get(id)
            if engine is None:
                if id < 0:
                    raise ProtocolError("a call for no engine in particular")
                refused.setdefault(id, []).append(item.seq)
                continue
            if engine.unasked and client.route in engine.unasked:
                continue
            calls, nbytes = engine.queue.put(entry)
            dirty[id] = engine
            client.engines.add(id)
            if item.flags & DETACHED:
                controller.heirs.box.submitted(client.uuid, item, id)
            if calls > 1 and (calls > 2 * settings.credit_calls or nbytes > 2 * settings.credit_bytes):
                raise ProtocolError("more submitted to one engine than there was credit for")
    controller.calls += len(message.calls)
    controller.history.submitted(client.uuid, message.calls, now)
    for id, seqs in refused.items():
        controller.send_lost(client, id, "there is no such engine", (), seqs, now)


def _raise_watermark(controller: Controller, client: Client, watermark: int) -> None:
    """Note it, and tell engines that it would not reach with the calls, which wait here."""
    client.watermark = watermark
    controller.heirs.taken(client, ())
    for id in list(client.paused):
        engine = controller.registry.engines.get(id)
        if engine is None or not engine.queue.is_paused(client.uuid):
            client.paused.discard(id)
        elif engine.ready:
            controller.send(engine.route, Submit(client.uuid, client.watermark, ()))


def _entry(client: Client, item: CallItem, frames: Sequence[Any]) -> Entry:
    nbytes = len(item.body)
    if frames:
        nbytes += sum([len(frame) for frame in frames])
    if nbytes != item.nbytes:
        raise ProtocolError(f"a call of {nbytes} bytes that says {item.nbytes}")
    cost = nbytes + 4 * len(item.name) + _OVERHEAD
    if len(item.targets) > 1:
        item = item._replace(targets=_CHOSEN)
    return Entry(client.uuid, item, frames, cost)


def _resume(
    controller: Controller,
    client: Client,
    message: Resume,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    """Calls that the client still waits for, engine by engine.

    An engine that is not there now is announced when it is, and asked again then.
    """
    _own(message.client, client)
    asked: dict[int, list[ResumeItem]] = {}
    gone: dict[tuple[int, bytes], list[int]] = {}
    for item in message.items:
        engine = controller.registry.engines.get(item.engine)
        if engine is None or engine.uuid != item.uuid:
            gone.setdefault((item.engine, item.uuid), []).append(item.seq)
        elif engine.ready:
            asked.setdefault(item.engine, []).append(item)
    for id, items in asked.items():
        engine = controller.registry.engines[id]
        engine.unasked.discard(client.route or b"")
        client.engines.add(id)
        controller.send(engine.route, Resume(client.uuid, tuple(items), False))
    for (id, uuid), seqs in gone.items():
        if id < 0:
            raise ProtocolError("a question to no engine in particular")
        exit_code, reason = controller.deaths.how(uuid)
        controller.send_lost(client, id, reason, seqs, (), now, uuid=uuid, exit_code=exit_code)
        if uuid:
            # It was told of that when it could not hear it, and would think the engine there for ever.
            controller.send(client.route, Engines((), ((id, uuid, exit_code, reason),)))


def _ack(
    controller: Controller, client: Client, message: Ack, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.client, client)
    if message.watermark > client.watermark:
        _raise_watermark(controller, client, message.watermark)
    controller.heirs.taken(client, message.seqs)
    if len(message.seqs) == 1:
        _forward(controller, (message.seqs[0][0],), header)
        return
    # Each engine gets its own part: a thousand that were sent all thousand parts would read a million.
    covered = []
    for id, seqs in message.seqs:
        if seqs:
            _forward(controller, (id,), encode(message._replace(seqs=((id, seqs),))))
        else:
            covered.append(id)
    if covered:
        _forward(controller, covered, encode(message._replace(seqs=())))


def _chunk(
    controller: Controller, client: Client, message: Chunk, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.client, client)
    if message.way != ARGUMENT:
        raise ProtocolError("a client sends no chunks of results")
    _forward(controller, message.engines, header, frames)


def _grant(
    controller: Controller, client: Client, message: Grant, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.client, client)
    if message.way != RESULT:
        raise ProtocolError("a client grants no arguments")
    _forward(controller, (message.engine,), header)


def _taken(
    controller: Controller, client: Client, message: Taken, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.client, client)
    _forward(controller, (message.engine,), header)


def _forward(controller: Controller, ids: Sequence[int], header: bytes, frames: Sequence[Any] = ()) -> None:
    engines = controller.registry.engines
    ready = [engine for id in ids if (engine := engines.get(id)) is not None and engine.ready]
    controller.forward([engine.route for engine in ready if engine.route is not None], header, frames)


def _abort(
    controller: Controller, client: Client, message: Abort, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.client, client)
    for id, seqs in message.seqs:
        _abort_calls(controller, client.uuid, client.route, id, seqs, now)


def _abort_calls(
    controller: Controller, client: bytes, route: bytes | None, id: int, seqs: Sequence[int], now: float
) -> None:
    """End calls of a client, which may be gone."""
    engine = controller.registry.engines.get(id)
    if engine is None:
        return
    dropped = []
    passed = []
    for seq in seqs:
        if engine.queue.withdraw(client, seq):
            dropped.append(ResultItem(seq, ABORTED, 0.0, 0.0, 0, 0, b""))
        elif engine.queue.dispatched(client, seq):
            passed.append(seq)
            if (client, seq) not in engine.aborts:
                abort = engine.aborts[client, seq] = PendingAbort(client, seq)
                _interrupt_later(controller, engine, abort, now + ABORT_FIRST)
    if dropped:
        controller.send(route, Result(client, id, tuple(dropped)))
        controller.history.ended(client, id, engine.uuid, dropped, now)
        controller.heirs.aborted(client, engine, [item.seq for item in dropped], now)
    if passed and engine.ready:
        controller.send(engine.route, Abort(client, ((id, tuple(passed)),)))


def _interrupt_later(controller: Controller, engine: Engine, abort: PendingAbort, when: float) -> None:
    """Have the supervisor interrupt the call, again and again until the engine reports its end."""

    def interrupt(now: float) -> None:
        if engine.aborts.get((abort.client, abort.seq)) is not abort:
            return
        if abort.tries >= ABORT_TRIES:
            abort.given_up = True
            if abort.client not in controller.registry.clients:
                del engine.aborts[abort.client, abort.seq]
            call = f"{abort.client.hex()}_{abort.seq}_{engine.id}"
            controller.note(f"cancelled, still running: call {call}, interrupted {abort.tries} times")
            return
        abort.tries += 1
        supervisor = controller.registry.supervisors.get(engine.supervisor)
        if supervisor is not None:
            controller.send(supervisor.route, Interrupt(engine.uuid, abort.client, abort.seq))
        _interrupt_later(controller, engine, abort, now + ABORT_AGAIN)

    controller.at(when, interrupt)


def _goodbye(
    controller: Controller,
    client: Client,
    message: Goodbye,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    controller.client_gone(client, now)


# --- queries ----------------------------------------------------------------------------------------


def _query(
    controller: Controller, client: Client, message: Query, header: bytes, frames: Sequence[Any], now: float
) -> None:
    what, params = message.what, message.params
    try:
        if what == "shutdown":
            controller.send(client.route, Answer(message.number, True, None))
            controller.shut_down(str(params.get("reason") or "it was shut down by a client"))
        elif what == "launch":
            _launch(controller, client, message)
        elif what in ("stop", "signal"):
            _end_or_signal(controller, message)
            controller.send(client.route, Answer(message.number, True, None))
        elif what == "rotate_keys":
            assert client.route is not None
            disconnect = message.params.get("disconnect") is True
            controller.rotate(Rotate(client.uuid, message.number, client.route, disconnect))
        elif what == "detached_result":
            controller.heirs.fetch(client, message, now)
        elif what in ("abort_detached", "mark_detached"):
            _about_detached(controller, client, message, now)
        elif what in ("db_query", "purge"):
            _about_history(controller, client, message)
        else:
            value = _status.answer(controller, what, params, now)
            controller.send(client.route, Answer(message.number, True, value))
    except _status.QueryError as error:
        controller.send(client.route, Answer(message.number, False, str(error)))


def _about_detached(controller: Controller, client: Client, message: Query, now: float) -> None:
    """Whoever may call may end a detached call: its own client is gone, perhaps."""
    if message.what == "mark_detached":
        controller.heirs.mark(client, message.params)
    else:
        key = controller.heirs.find(message.params)
        if key is not None:
            owner = controller.registry.clients.get(key[0])
            route = owner.route if owner is not None else None
            _abort_calls(controller, key[0], route, key[2], (key[1],), now)
    controller.send(client.route, Answer(message.number, True, None))


def _about_history(controller: Controller, client: Client, message: Query) -> None:
    """Where there is a store, that answers."""
    if message.what == "purge":
        condition, fields, after = _status.purge(controller, message.params), None, 0
        controller.heirs.purge(message.params)
    else:
        condition, fields, after = _status.wanted(message.params)
    if controller.settings.store:
        look = Lookup(client.uuid, message.number, condition.sql, condition.values, fields, after)
        controller.look_up(look)
        return
    found = None
    if fields is not None:
        rows = controller.history.rows(after)
        found = pages((row for row in rows if condition.test(row[1:])), fields)
    controller.send(client.route, Answer(message.number, True, found))


def _launch(controller: Controller, client: Client, message: Query) -> None:
    """More engines: that is a supervisor's business, and so is the answer."""
    n = _status.integer(message.params, "n", 1)
    supervisor = next(iter(controller.registry.supervisors.values()), None)
    if supervisor is None:
        raise _status.QueryError("no supervisor is connected: start engines with `directview engine`")
    number = controller.pass_on(client, message, supervisor)
    controller.send(supervisor.route, Launch(n, number))


def _end_or_signal(controller: Controller, message: Query) -> None:
    """Processes are ended and signalled by their supervisors; one without can be asked to end."""
    for engine in _status.engines_of(controller, message.params):
        supervisor = controller.registry.supervisors.get(engine.supervisor)
        if message.what == "signal":
            if supervisor is None:
                raise _status.QueryError(f"engine {engine.id} has no supervisor that could signal it")
            controller.send(supervisor.route, Signal(engine.uuid, _status.integer(message.params, "signal")))
        elif supervisor is not None:
            controller.send(supervisor.route, Stop(engine.uuid, "stopped by a client"))
        elif engine.route is not None:
            controller.send(engine.route, Stop(b"", "stopped by a client"))
        else:
            raise _status.QueryError(f"engine {engine.id} is not connected, and has no supervisor to end it")


HANDLERS: Final[dict[type[Any], Callable[..., None]]] = {
    Submit: _submit,
    Resume: _resume,
    Ack: _ack,
    Chunk: _chunk,
    Grant: _grant,
    Taken: _taken,
    Abort: _abort,
    Query: _query,
    Goodbye: _goodbye,
}
