"""The error of a call whose engine is gone, from what the client's state machine says of that."""

from __future__ import annotations

from directview._client_calls import Gone
from directview.errors import EngineError

__all__ = ["engine_error"]


def engine_error(event: Gone, reason: str) -> EngineError:
    """The error. `reason`: in place of the event's own."""
    known = event.postmortem
    return EngineError(
        event.engine,
        engine_uuid=event.uuid.hex(),
        exit_code=event.exit_code,
        reason=reason,
        running=event.running,
        method=event.call.name,
        started=event.started,
        memory=known.memory,
        peak_memory=known.peak,
        last_words=known.said,
        outlook=known.outlook,
    )
