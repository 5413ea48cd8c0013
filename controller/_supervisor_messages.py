"""Pure: what the controller does with each kind of message that a supervisor may send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from directview.controller._registry import Supervisor
from directview.wire.messages import Answer, Exited, Goodbye, ProtocolError

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
        return
    # Of an engine that has not come back since the controller was restarted, the supervisor is not known.
    if engine.supervisor != supervisor.uuid and engine.info is not None:
        raise ProtocolError("an exit report about another supervisor's engine")
    controller.ends(engine, message.exit_code, message.reason, now)


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


HANDLERS: Final[dict[type[Any], Callable[..., None]]] = {Exited: _exited, Answer: _answer, Goodbye: _goodbye}
