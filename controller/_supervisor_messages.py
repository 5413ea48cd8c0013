"""Pure: what the controller does with each kind of message that a supervisor may send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from directview.controller._registry import Supervisor
from directview.wire.messages import Alive, Answer, Exited, Goodbye, ProtocolError

if TYPE_CHECKING:
    from directview.controller._state import Controller

__all__ = ["HANDLERS"]


def _exited(
    controller: Controller,
    supervisor: Supervisor,
    message: Exited,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    engine = controller.registry.engine_of(message.uuid)
    if engine is None:
        # One that was given up before, and whose death is known; or one that never came as far as here.
        id = message.postmortem.id
        if id >= 0 and id not in controller.registry.engines and message.uuid not in controller.deaths:
            known = (message.exit_code, message.reason, message.postmortem)
            controller.tell_death(id, message.uuid, *known, now)
        return
    # Of an engine that has not come back since the controller was restarted, the supervisor is not known.
    if engine.supervisor != supervisor.uuid and engine.info is not None:
        raise ProtocolError("an exit report about another supervisor's engine")
    engine.postmortem = message.postmortem
    controller.ends(engine, message.exit_code, message.reason, now)


def _alive(
    controller: Controller,
    supervisor: Supervisor,
    message: Alive,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    """Which of its engines live.

    One that is deep in a function can't come back, but has not gone either: its place is kept. One whose
    connection is lost and that is not named is frozen, for its host can be reached: it is given up at once.
    """
    for uuid in message.uuids:
        engine = controller.registry.engine_of(uuid)
        if engine is None or engine.route is not None or engine.ended:
            continue
        if engine.info is None:
            engine.supervisor = supervisor.uuid
        elif engine.supervisor != supervisor.uuid:
            raise ProtocolError("word of another supervisor's engine")
        controller.give_up_later(engine, now + controller.settings.engine_grace)
    for engine in list(controller.registry.engines.values()):
        if engine.supervisor != supervisor.uuid or engine.info is None or engine.route is not None:
            continue
        if not engine.ended and engine.uuid not in message.uuids:
            engine.lost_reason = "its process is stopped (SIGSTOP, or a debugger)"
            controller.bury(engine, now)


def _answer(
    controller: Controller,
    supervisor: Supervisor,
    message: Answer,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    passed = controller.passed_on.get(message.number)
    if passed is not None:
        if passed[2] != supervisor.uuid:
            raise ProtocolError("an answer to another supervisor's question")
        controller.answer_passed_on(message.number, message.ok, message.value)


def _goodbye(
    controller: Controller,
    supervisor: Supervisor,
    message: Goodbye,
    header: bytes,
    frames: Sequence[Any],
    now: float,
) -> None:
    """Its engines' exit reports have said everything."""


HANDLERS: Final[dict[type[Any], Callable[..., None]]] = {
    Exited: _exited,
    Alive: _alive,
    Answer: _answer,
    Goodbye: _goodbye,
}
