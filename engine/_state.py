"""Pure: the engine's bookkeeping of calls. What to run next, what to tell whom.

A call's life here:

=========== ============================== ========================================================
state       until                          then
=========== ============================== ========================================================
RECEIVING   its last chunk has come        QUEUED
QUEUED      its turn (arrival order)       RUNNING
RUNNING     the function returns           DONE, or SUSPENDED if it returned a coroutine
SUSPENDED   the coroutine ends             DONE
DONE        the client's Ack               forgotten
=========== ============================== ========================================================

The result is kept until the *client* has acknowledged it: only then can no crash of anything in between
lose it. A call that arrives twice runs once: ids from the client's watermark up are remembered as long
as the call is, lower ones are answered for good.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    CHUNK_BYTES,
    RESULT,
    UNKNOWN,
    Abort,
    Accept,
    Ack,
    CallItem,
    Chunk,
    Forget,
    Grant,
    Message,
    ProtocolError,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
    Submit,
)
from directview.wire.parcels import Parcel, Unpacked, unpack
from directview.wire.transfers import Outgoing, due_grant

__all__ = ["Call", "EngineState", "Stage"]

_RECEIVE_AT_ONCE: Final = 2
"""Transfers that are granted at a time: the next one to run, and the one after it on its way."""

Outbound = tuple[Message, Sequence[Any]]


class Stage(enum.Enum):
    """Where in its life a call is; the table is in the module's docstring."""

    RECEIVING = enum.auto()
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    SUSPENDED = enum.auto()
    DONE = enum.auto()


class Call:
    """One call, from its arrival to its acknowledgement."""

    __slots__ = ("client", "granted", "item", "name", "outgoing", "parcel", "problem", "result", "seq", "stage")

    def __init__(self, client: bytes, item: CallItem) -> None:
        self.client = client
        self.seq = item.seq
        self.name = item.name
        self.item = item
        self.stage = Stage.QUEUED
        self.parcel: Unpacked | None = None
        self.problem: Exception | None = None
        """Why the payload can't be used."""
        self.granted = 0
        self.result: tuple[ResultItem, Parcel | None] | None = None
        self.outgoing: Outgoing | None = None

    @property
    def key(self) -> tuple[bytes, int]:
        """(client uuid, seq)"""
        return self.client, self.seq


class _Client:
    __slots__ = ("calls", "gone", "watermark")

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.watermark = 0
        self.gone = False


class EngineState:
    """The engine's state machine.

    The shell feeds `receive`, runs what `next_call` gives it and reports back with `suspended` and
    `finished`; at the end of each turn it sends what `flush` returns, and cancels the tasks of the calls
    that it finds in `to_cancel`.
    """

    def __init__(self) -> None:
        self.id = -1
        self.uuid = b""
        self.to_cancel: list[Call] = []
        """Coroutine calls whose task is to be cancelled; emptied by the shell."""
        self._clients: dict[bytes, _Client] = {}
        self._queue: deque[Call] = deque()
        self._receiving: dict[tuple[bytes, int], Call] = {}
        self._fresh: list[Call] = []
        self._results: dict[Call, None] = {}
        self._sending: dict[tuple[bytes, int], Call] = {}
        self._answers: list[Outbound] = []

    # --- what arrives -------------------------------------------------------------------------------

    def receive(self, message: Message, frames: Sequence[Any]) -> None:
        """A message from the controller.

        Raises:
            ProtocolError: it is none that an engine takes.
        """
        match message:
            case Submit():
                self._submit(message, frames)
            case Chunk(way=way) if way == ARGUMENT:
                self._chunk(message, frames)
            case Ack():
                self._ack(message)
            case Grant(way=way) if way == RESULT:
                call = self._sending.get((message.client, message.seq))
                if call is not None and call.outgoing is not None:
                    call.outgoing.grant(0, message.upto)
            case Abort():
                self._abort(message)
            case Resume():
                self._resume(message)
            case Forget():
                self._forget(message.client)
            case _:
                raise ProtocolError(f"an engine takes no {type(message).__name__}")

    def _submit(self, message: Submit, frames: Sequence[Any]) -> None:
        client = self._clients.get(message.client)
        if client is None:
            client = self._clients[message.client] = _Client()
        client.gone = False
        self._advance(message.client, client, message.watermark)
        position = 0
        for item in message.calls:
            part: Sequence[Any] = ()
            if item.nframes:
                part = frames[position : position + item.nframes]
                position += item.nframes
            if item.seq < client.watermark or self.id not in item.targets:
                continue
            known = client.calls.get(item.seq)
            if known is None:
                call = client.calls[item.seq] = Call(message.client, item)
                self._queue.append(call)
                self._unpack(call, part)
            elif known.stage is Stage.RECEIVING:
                self._unpack(known, part)
            else:
                self._again(known)

    def _unpack(self, call: Call, frames: Sequence[Any]) -> None:
        try:
            call.parcel = unpack(call.item.body, frames, nobjects=2)
        except (ProtocolError, MemoryError) as error:
            call.parcel, call.problem = None, error
        if call.parcel is not None and call.parcel.missing:
            call.stage = Stage.RECEIVING
            call.granted = 0
            self._receiving[call.key] = call
        else:
            call.stage = Stage.QUEUED
            self._receiving.pop(call.key, None)
            self._fresh.append(call)

    def _again(self, call: Call) -> None:
        """The client sent or asked again: repeat what it has missed."""
        if call.stage is Stage.DONE:
            self._send_result(call)
        else:
            self._fresh.append(call)

    def _chunk(self, message: Chunk, frames: Sequence[Any]) -> None:
        call = self._receiving.get((message.client, message.seq))
        if call is None or call.parcel is None:
            return
        try:
            call.parcel.receive(message.offset, frames[0])
        except ProtocolError as error:
            call.parcel, call.problem = None, error
        if call.parcel is None or not call.parcel.missing:
            del self._receiving[call.key]
            call.stage = Stage.QUEUED
            self._fresh.append(call)

    def _ack(self, message: Ack) -> None:
        client = self._clients.get(message.client)
        if client is None:
            return
        for id, seqs in message.seqs:
            if id == self.id:
                for seq in seqs:
                    self._acknowledged(client, seq)
        self._advance(message.client, client, message.watermark)

    def _advance(self, uuid: bytes, client: _Client, watermark: int) -> None:
        """Everything below the client's watermark is answered and acknowledged."""
        if watermark > client.watermark:
            client.watermark = watermark
            for seq in [seq for seq in client.calls if seq < watermark]:
                self._acknowledged(client, seq)

    def _acknowledged(self, client: _Client, seq: int) -> None:
        call = client.calls.get(seq)
        if call is not None and call.stage is Stage.DONE:
            del client.calls[seq]
            self._sending.pop(call.key, None)

    def _abort(self, message: Abort) -> None:
        client = self._clients.get(message.client)
        if client is None:
            return
        for id, seqs in message.seqs:
            for seq in seqs if id == self.id else ():
                call = client.calls.get(seq)
                if call is None:
                    continue
                if call.stage in (Stage.QUEUED, Stage.RECEIVING):
                    self.finished(call, ABORTED, 0.0, 0.0, None)
                elif call.stage is Stage.SUSPENDED:
                    self.to_cancel.append(call)

    def _resume(self, message: Resume) -> None:
        client = self._clients.get(message.client)
        unknown = []
        for item in message.items:
            call = client.calls.get(item.seq) if client is not None else None
            if call is None or call.stage is Stage.RECEIVING:
                unknown.append(ResultItem(item.seq, UNKNOWN, 0.0, 0.0, 0, 0, b""))
            else:
                self._again(call)
        if unknown:
            self._answers.append((Result(message.client, self.id, tuple(unknown)), ()))

    def _forget(self, uuid: bytes) -> None:
        client = self._clients.pop(uuid, None)
        if client is None:
            return
        client.gone = True
        for call in client.calls.values():
            if call.stage in (Stage.QUEUED, Stage.RECEIVING):
                call.stage = Stage.DONE
            self._receiving.pop(call.key, None)
            self._sending.pop(call.key, None)
        client.calls.clear()

    # --- running ------------------------------------------------------------------------------------

    def next_call(self) -> Call | None:
        """The next call to run, in arrival order; None if there is none, or it is still arriving."""
        while self._queue:
            call = self._queue[0]
            if call.stage is Stage.RECEIVING:
                return None
            self._queue.popleft()
            if call.stage is Stage.QUEUED:
                call.stage = Stage.RUNNING
                return call
        return None

    def suspended(self, call: Call) -> None:
        """The call returned a coroutine, which runs from now on beside others."""
        call.stage = Stage.SUSPENDED
        self._fresh.append(call)

    def finished(
        self, call: Call, status: int, started: float, completed: float, parcel: Parcel | None
    ) -> None:
        """The call has ended; its result is sent with the next flush and kept until it is acknowledged."""
        self._receiving.pop(call.key, None)
        call.stage = Stage.DONE
        call.parcel = None
        if parcel is None:
            item = ResultItem(call.seq, status, started, completed, 0, 0, b"")
        else:
            body, frames, _, nbytes = parcel
            item = ResultItem(call.seq, status, started, completed, nbytes, len(frames), body)
        call.result = (item, parcel)
        client = self._clients.get(call.client)
        if client is not None and client.calls.get(call.seq) is call:
            self._send_result(call)

    def _send_result(self, call: Call) -> None:
        assert call.result is not None
        parcel = call.result[1]
        if parcel is not None and parcel.chunks:
            call.outgoing = Outgoing(parcel.chunks, (0,))
            self._sending[call.key] = call
        self._results[call] = None

    @property
    def idle(self) -> bool:
        """Nothing is queued."""
        return not self._queue

    @property
    def sending(self) -> bool:
        """Chunks of results wait for the receivers' grants."""
        return any([call.outgoing is not None and call.outgoing.receivers for call in self._sending.values()])

    # --- what goes out ------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """`flush` has something to send."""
        return bool(self._results or self._fresh or self._answers or self._receiving or self._sending)

    def flush(self) -> list[Outbound]:
        """What is to be sent now, in order."""
        out = self._answers
        self._answers = []
        if self._results:
            out.extend(self._result_messages())
        if self._fresh:
            out.extend(self._accepts())
        if self._receiving:
            out.extend(self._grants())
        if self._sending:
            out.extend(self._chunks())
        return out

    def _result_messages(self) -> Iterator[Outbound]:
        results = list(self._results)
        self._results.clear()
        batch: list[ResultItem] = []
        frames: list[Any] = []
        size = 0
        client = results[0].client
        for call in results:
            if call.result is None:
                continue
            item, parcel = call.result
            if batch and (call.client != client or size + item.nbytes > CHUNK_BYTES):
                yield Result(client, self.id, tuple(batch)), frames
                batch, frames, size = [], [], 0
            client = call.client
            batch.append(item)
            size += item.nbytes
            if parcel is not None and parcel.frames:
                frames.extend(parcel.frames)
        if batch:
            yield Result(client, self.id, tuple(batch)), frames

    def _accepts(self) -> Iterator[Outbound]:
        """Calls that did not end in the turn in which they came (or started) are accepted in words."""
        fresh, self._fresh = self._fresh, []
        news: dict[bytes, tuple[dict[int, None], dict[int, None]]] = {}
        for call in fresh:
            if call.stage is not Stage.DONE:
                started, held = news.setdefault(call.client, ({}, {}))
                (started if call.stage is Stage.SUSPENDED else held)[call.seq] = None
        for client, (started, held) in news.items():
            yield Accept(client, self.id, tuple(started), tuple(held)), ()

    def _grants(self) -> Iterator[Outbound]:
        for call in list(self._receiving.values())[:_RECEIVE_AT_ONCE]:
            assert call.parcel is not None
            upto = due_grant(call.parcel.received, call.granted, call.parcel.size)
            if upto is not None:
                call.granted = upto
                yield Grant(call.client, call.seq, self.id, ARGUMENT, upto), ()

    def _chunks(self) -> Iterator[Outbound]:
        for call in list(self._sending.values()):
            assert call.outgoing is not None
            for _, offset, chunk in call.outgoing.ready():
                yield Chunk(call.client, call.seq, (self.id,), RESULT, offset), (chunk,)
            if not call.outgoing.receivers:
                del self._sending[call.key]

    # --- losing and finding the controller --------------------------------------------------------------

    def link_lost(self) -> None:
        """What was half received is dropped: its sender begins again. Results wait for their clients."""
        for call in self._receiving.values():
            call.stage = Stage.DONE
            del self._clients[call.client].calls[call.seq]
        self._receiving.clear()
        self._fresh.clear()
        self._results.clear()
        self._answers.clear()
        self._sending.clear()

    def resume(self) -> list[Resume]:
        """What to tell a controller on a new connection: the calls that are held here, by client."""
        messages = [
            Resume(
                uuid,
                tuple([ResumeItem(seq, self.id, self.uuid) for seq in client.calls]),
                False,
            )
            for uuid, client in self._clients.items()
        ]
        return [*messages, Resume(b"", (), True)]
