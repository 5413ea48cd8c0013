"""Pure: what the controller does with each kind of message that an engine may send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from directview.controller._registry import Engine
from directview.wire.messages import (
    ARGUMENT,
    RESULT,
    UNKNOWN,
    Accept,
    Chunk,
    Forget,
    Goodbye,
    Grant,
    Kept,
    Output,
    Paused,
    ProtocolError,
    Result,
    Resume,
    Submit,
)

if TYPE_CHECKING:
    from directview.controller._state import Controller

__all__ = ["HANDLERS"]


def _own(id: int, engine: Engine) -> None:
    if id != engine.id:
        raise ProtocolError("a message in another engine's name")


def _accept(
    controller: Controller, engine: Engine, message: Accept, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.engine, engine)
    if message.started:
        engine.queue.started(message.client, message.started)
        _refill(controller, engine)
    if message.client not in controller.registry.clients:
        controller.heirs.accepted(engine, message)
    _forward(controller, message.client, header)


def _result(
    controller: Controller, engine: Engine, message: Result, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.engine, engine)
    client = message.client
    engine.queue.ended(client, [item.seq for item in message.items])
    if engine.aborts:
        for item in message.items:
            engine.aborts.pop((client, item.seq), None)
    if message.items and message.items[0].status != UNKNOWN:
        controller.results += len(message.items)
        engine.completed += len(message.items)
        controller.history.ended(client, engine.id, engine.uuid, message.items, now)
    if controller.heirs.box.clients() or client not in controller.registry.clients:
        controller.heirs.came(engine, message, frames, now)
    _refill(controller, engine)
    _forward(controller, client, header, frames)


def _refill(controller: Controller, engine: Engine) -> None:
    """There may be room in its window."""
    if engine.queue.waiting:
        controller.dirty[engine.id] = engine


def _chunk(
    controller: Controller, engine: Engine, message: Chunk, header: bytes, frames: Sequence[Any], now: float
) -> None:
    if message.engines != (engine.id,):
        raise ProtocolError("a chunk in another engine's name")
    if message.way != RESULT:
        raise ProtocolError("an engine sends no chunks of arguments")
    if controller.heirs.box.clients() or message.client not in controller.registry.clients:
        controller.heirs.chunk_came(engine, message, frames, now)
    _forward(controller, message.client, header, frames)


def _grant(
    controller: Controller, engine: Engine, message: Grant, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.engine, engine)
    if message.way != ARGUMENT:
        raise ProtocolError("an engine grants no results")
    _forward(controller, message.client, header)


def _output(
    controller: Controller, engine: Engine, message: Output, header: bytes, frames: Sequence[Any], now: float
) -> None:
    _own(message.engine, engine)
    _forward(controller, message.client, header)


def _forward(controller: Controller, client: bytes, header: bytes, frames: Sequence[Any] = ()) -> None:
    known = controller.registry.clients.get(client)
    if known is not None and known.route is not None:
        controller.forward((known.route,), header, frames)


def _paused(
    controller: Controller, engine: Engine, message: Paused, header: bytes, frames: Sequence[Any], now: float
) -> None:
    """It begins no calls of this client for now: nor does it get any, and others' take their place.

    What it says of a client that is gone it takes back when it hears of that. Batches that wait here can't
    tell it the client's watermark any more, which perhaps is all that it waits for.
    """
    _own(message.engine, engine)
    client = controller.registry.clients.get(message.client)
    if not message.paused:
        engine.queue.go_on(message.client)
        if client is not None:
            client.paused.discard(engine.id)
        _refill(controller, engine)
    elif client is not None or engine.queue.has(message.client):
        engine.queue.pause(message.client)
        _refill(controller, engine)
        if client is not None:
            client.paused.add(engine.id)
            controller.send(engine.route, Submit(client.uuid, client.watermark, ()))


def _resume(
    controller: Controller, engine: Engine, message: Resume, header: bytes, frames: Sequence[Any], now: float
) -> None:
    """What an engine still holds for a client. Of a client that is not there any more: nothing."""
    if not engine.resuming:
        raise ProtocolError("an engine tells what it holds once, when it connects")
    if message.client:
        client = controller.registry.clients.get(message.client)
        if client is None:
            controller.send(engine.route, Forget(message.client))
        else:
            client.engines.add(engine.id)
            for item in message.items:
                engine.queue.adopt(client.uuid, item.seq)
    if message.last:
        engine.resuming = False
        controller.engine_ready(engine)


def _kept(
    controller: Controller, engine: Engine, message: Kept, header: bytes, frames: Sequence[Any], now: float
) -> None:
    """Results of detached calls that it has."""
    _own(message.engine, engine)
    controller.heirs.held(engine, message.client, message.seqs)


def _goodbye(
    controller: Controller,
    engine: Engine,
    message: Goodbye,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    controller.ends(engine, None, message.reason or "it was stopped", now)


HANDLERS: Final[dict[type[Any], Callable[..., None]]] = {
    Accept: _accept,
    Result: _result,
    Chunk: _chunk,
    Grant: _grant,
    Output: _output,
    Paused: _paused,
    Kept: _kept,
    Resume: _resume,
    Goodbye: _goodbye,
}
