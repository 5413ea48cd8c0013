"""Detached calls, as a client sees them: handed over before it goes, and fetched by another by their msg_ids.

What is fetched comes in pieces, each asked for when the one before is here, and becomes a result as if it had
come from the engine: the controller has kept what the engine sent, and has read none of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from directview._client_calls import Call, Ended, Stage
from directview._metadata import CallMetadata, parse_msg_id
from directview.errors import EngineError, ResultUnavailable
from directview.result import AsyncResult
from directview.wire.messages import CHUNK_BYTES, DETACHED, ResultItem
from directview.wire.parcels import Parcel, Unpacked, unpack

if TYPE_CHECKING:
    from directview._client_state import ClientState
    from directview._core import Core
    from directview._waiting import CallOwner

__all__ = ["AnotherClient", "fetch_result", "hand_over", "parcel_of"]

_HAND_OVER: Final = 5.0
"""Seconds for which a client that is closed waits until its detached calls are on their way."""
_POLL: Final = 0.005
_AGAIN: Final = 0.2
"""Seconds until the next attempt, after a lost connection."""
_LOST: Final = -1


def _to_hand_over(state: ClientState) -> bool:
    """Whether a detached call, or a part of one, is here only."""
    return any(
        call.flags & DETACHED and (call.outgoing is not None or Stage.HELD in call.pending.values())
        for call in state.calls.values()
    )


async def hand_over(state: ClientState, connected: Callable[[], bool]) -> None:
    """Wait until the detached calls have left, for a few seconds at most."""
    until = time.monotonic() + _HAND_OVER
    while connected() and time.monotonic() < until and _to_hand_over(state):  # noqa: ASYNC110 - nobody sets one
        await asyncio.sleep(_POLL)


class AnotherClient:
    """Whose calls they are that this client fetches: a `CallOwner`.

    Args:
        client: the one that fetches.
        uuid: of the other, in hex.
    """

    def __init__(self, client: CallOwner, uuid: str) -> None:
        self._client = client
        self.client_uuid = uuid

    def check_may_block(self, what: str, instead: str) -> None:
        """As the client that fetches."""
        self._client.check_may_block(what, instead)

    def check_running(self) -> None:
        """As the client that fetches."""
        self._client.check_running()

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        """Not to wait any longer is not to end the call: `Client.abort` does that."""


def fetch_result(owner: AnotherClient, core: Core, msg_id: str) -> AsyncResult[Any]:
    """The result of another client's detached call, which is fetched now or when it has ended."""
    _, seq, engine = parse_msg_id(msg_id)
    result: AsyncResult[Any] = AsyncResult(owner, ((seq, engine),), name="a detached call", single=True)
    result._remembered = False
    result._unsent = 0
    asyncio.run_coroutine_threadsafe(_fetch(core, msg_id, result), core.loop)
    return result


async def _fetch(core: Core, msg_id: str, result: AsyncResult[Any]) -> None:
    (seq, engine) = result._calls[0]
    try:
        found, data = await _whole(core, msg_id)
        if found["status"] == _LOST:
            raise _error_of(found, engine)
        parcel = parcel_of(found["sizes"], data)
        item = ResultItem(seq, found["status"], found["started"], found["completed"], 0, 0, b"")
        call = Call(seq, result._name, (engine,), Parcel(b"", (), (), 0), result)
        core._deliver(Ended(call, engine, item, parcel))
    except Exception as error:  # noqa: BLE001 - whatever it is, who waits is to hear of it
        metadata = CallMetadata(engine, "", None, None, time.time(), "error")
        result._deliver_error(0, metadata, error)


def parcel_of(sizes: Sequence[int], data: memoryview) -> Unpacked | None:
    """What a controller has kept of a result, read; None for one that is of no value.

    Args:
        sizes: bytes of the body, of each frame, and of all chunks together.
        data: all of these.
    """
    body, frames, position = data[: sizes[0]], [], sizes[0]
    for size in sizes[1:-1]:
        frames.append(data[position : position + size])
        position += size
    parcel = unpack(bytes(body), frames, nobjects=1) if body else None
    while parcel is not None and parcel.missing:
        start = position + parcel.received
        parcel.receive(parcel.received, data[start : start + CHUNK_BYTES], parcel.size)
    return parcel


async def _whole(core: Core, msg_id: str) -> tuple[dict[str, Any], memoryview]:
    """All of it, piece by piece."""
    data = bytearray()
    found: dict[str, Any] = {}
    while not found or len(data) < sum(found["sizes"]):
        try:
            params = {"msg_id": msg_id, "offset": len(data), "wait": True}
            answer = await asyncio.wrap_future(core.query("detached_result", params))
        except ValueError:
            core.check_controller()  # The connection was lost: another one comes, or an error.
            await asyncio.sleep(_AGAIN)
            continue
        if answer["state"] != "kept" or answer["told"].get("dropped"):
            raise _unavailable(msg_id, answer)
        if found and answer["at"] != found["at"]:
            found = {}  # Another controller has it, from the engine again: from the beginning.
            data.clear()
            continue
        found = answer
        data += answer["data"]
    return found, memoryview(data)


def _unavailable(msg_id: str, answer: dict[str, Any]) -> ResultUnavailable:
    if answer["state"] == "kept":
        return ResultUnavailable(f"the result of {msg_id} is kept no longer: {answer['told']['dropped']}")
    return ResultUnavailable(
        f"the controller knows nothing of {msg_id}: no detached call (`view.options(detached=True)`) of that "
        "name has reached it, or it was too long ago"
    )


def _error_of(found: dict[str, Any], engine: int) -> EngineError:
    told = found["told"]
    return EngineError(
        engine,
        engine_uuid=found["uuid"].hex(),
        exit_code=told.get("exit_code"),
        reason=str(told.get("reason", "")),
        running=str(told.get("running", "")),
        method="a detached call",
        started=bool(told.get("started", True)),
        memory=int(told.get("memory", 0)),
        peak_memory=int(told.get("peak_memory", 0)),
        last_words=str(told.get("last_words", "")),
    )
