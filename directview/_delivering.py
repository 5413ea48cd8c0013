"""From what has happened to calls to what their results say: values, errors, metadata."""

from __future__ import annotations

import time
from typing import Any, Final

from directview._balancing_tasks import Task
from directview._client_calls import Call, Ended, Gone
from directview._dispatching import Dispatching
from directview._engine_error import engine_error
from directview._memory import Memory
from directview._metadata import CallMetadata
from directview.errors import (
    ClientClosed,
    ControllerLost,
    RemoteError,
    SerializationError,
    TaskAborted,
)
from directview.reply import ExecuteReply
from directview.result import AsyncResult
from directview.wire.exceptions import rebuild
from directview.wire.messages import ABORTED, OK, EngineInfo
from directview.wire.objects import loads

__all__ = ["Deliveries", "place"]

_STREAMS: Final = ("stdout", "stderr")
_STATUS: Final = {OK: "ok", ABORTED: "aborted"}


class Deliveries:
    """The part of a client's core that fills the slots of results. On the client's loop."""

    memory: Memory
    balanced: Dispatching
    engines: dict[int, EngineInfo]
    """The engines there are; replaced, never changed in place, so any thread may read it."""
    returning: frozenset[int]
    """ids of engines that have died and in whose place others are being started."""
    _closed: bool
    _stopped: str
    _uuids: tuple[dict[int, EngineInfo], dict[int, str]] = ({}, {})
    """Engines' uuids in hex, and which `engines` that was."""

    def _deliver(self, event: Ended) -> None:
        result, index = place(event.call, event.engine)
        item = event.item
        metadata = self._metadata(event)
        if event.problem is not None:
            error: Exception = SerializationError(f"the result can't be read: {event.problem}")
            result._deliver_error(index, metadata, error)
        elif item.status == OK and event.parcel is not None:
            ((data, buffers),) = event.parcel.objects()
            result._size += item.nbytes + event.parcel.size
            try:
                value = loads(data, buffers)
            except Exception as error:  # noqa: BLE001 - whatever the value's own code raises
                result._deliver_error(index, metadata, _unreadable(error, event))
            else:
                if type(value) is ExecuteReply:
                    # Output travels by itself, while the source runs; all of it is here before the reply.
                    value.stdout, value.stderr = (result._of_slot(index, name) for name in _STREAMS)
                result._deliver(index, metadata, value)
        elif item.status == ABORTED:
            result._deliver_error(index, metadata, TaskAborted(f"{event.call.name} was cancelled"))
        else:
            result._deliver_error(index, metadata, self._remote_error(event))
        self.delivered(result, index)

    def delivered(self, result: AsyncResult[Any], index: int) -> None:
        """A slot of `result` has been answered."""
        if not result._missing:
            self._settled(result)
        if self.balanced.gated:
            self.balanced.note(result, index)

    def _remote_error(self, event: Ended) -> Exception:
        if event.parcel is None:
            return RemoteError("RemoteError", "the engine reported a failure without saying which")
        ((data, _),) = event.parcel.objects()
        try:
            return rebuild(event.parcel.options, data or None)
        except Exception as error:  # noqa: BLE001
            return _unreadable(error, event)

    def _metadata(self, event: Ended) -> CallMetadata:
        item = event.item
        ran = item.started > 0.0
        return CallMetadata(
            event.engine,
            self._uuid_of(event.engine),
            item.started if ran else None,
            item.completed if ran else None,
            time.time(),
            _STATUS.get(item.status, "error"),
        )

    def _uuid_of(self, id: int) -> str:
        engines, uuids = self._uuids
        if engines is not self.engines:
            uuids = {id: info.uuid.hex() for id, info in self.engines.items()}
            self._uuids = self.engines, uuids
        return uuids.get(id, "")

    def _deliver_gone(self, event: Gone) -> None:
        if event.uuid:
            # Whoever learns of the death from this call finds the engine gone, or knows that one is to come.
            if event.postmortem.returns:
                self.returning |= {event.engine}
            self.engines = {id: info for id, info in self.engines.items() if info.uuid != event.uuid}
        task = event.call.context if type(event.call.context) is Task else None
        ended, reason = (True, event.reason) if task is None else self.balanced.gone(event)
        result, index = place(event.call, event.engine)
        error: Exception
        if self._stopped:
            error = (ClientClosed if self._closed else ControllerLost)(self._stopped)
        else:
            error = engine_error(event, reason)
        if task is not None and not ended:
            task.context.error = error
            return
        metadata = CallMetadata(event.engine, event.uuid.hex(), None, None, time.time(), "error")
        result._deliver_error(index, metadata, error)
        self.delivered(result, index)

    def _settled(self, result: AsyncResult[Any]) -> None:
        """Its last slot has been answered."""
        if result._timer is not None:
            result._timer.cancel()
            result._timer = None
        self.memory.ended(result)


def place(call: Call, engine: int) -> tuple[AsyncResult[Any], int]:
    """The result that a call on this engine belongs to, and its slot there."""
    if type(call.context) is Task:
        return call.context.context.result, call.context.context.index
    result = call.context
    return result, 0 if result._indexes is None else result._indexes[call.seq, engine]


def _unreadable(error: Exception, event: Ended) -> SerializationError:
    trouble = SerializationError(
        f"the result of {event.call.name} from engine {event.engine} can't be loaded here: "
        f"{type(error).__name__}: {error}"
    )
    trouble.__cause__ = error
    return trouble
