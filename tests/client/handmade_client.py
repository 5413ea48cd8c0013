"""A client's bookkeeping, with what a controller and engines would say to it made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from directview._client_state import Call, ClientState
from directview.wire.messages import (
    OK,
    UNKNOWN,
    EngineInfo,
    Message,
    Result,
    ResultItem,
    Resume,
    Submit,
    Welcome,
)
from directview.wire.parcels import Packed, Parcel, pack
from directview.wire.transfers import Pace

ME = b"c" * 16

PACE = Pace(chunk=10, ahead=40)

MARK = 1 << 62


def info(id: int, generation: int = 0) -> EngineInfo:
    return EngineInfo(id, bytes([id % 256, id >> 8, generation, 1]) * 4, 1, "h", "3", b"")


def welcome(*ids: int, incarnation: int = 1, credit: tuple[int, int] = (100, 1 << 20)) -> Welcome:
    return Welcome(1, incarnation, -1, "wait", 1.0, *credit, tuple([info(id) for id in ids]))


def client(*ids: int, credit: tuple[int, int] = (100, 1 << 20)) -> ClientState:
    """A client that has just been welcomed, with these engines there."""
    state = ClientState(ME, PACE)
    state.welcome(welcome(*ids, credit=credit))
    said(state)
    state.events()
    return state


def payload(size: int = 0) -> Parcel:
    return pack((Packed(b"f", ()), Packed(b"", [memoryview(bytes(size))] if size else [])), chunk_bytes=8)


def call(state: ClientState, *targets: int, size: int = 0) -> Call:
    made = Call(state.next_seq, f"call{state.next_seq}", targets, payload(size), None)
    state.submit(made)
    return made


def said(state: ClientState) -> list[Message]:
    return [message for message, _ in state.flush()]


def submitted(messages: Sequence[Message]) -> list[tuple[int, tuple[int, ...]]]:
    """(seq, targets) of all calls sent."""
    return [(item.seq, item.targets) for m in messages if isinstance(m, Submit) for item in m.calls]


def result(seq: int, status: int = OK, size: int = 0) -> ResultItem:
    parcel = pack((Packed(b"v", [memoryview(bytes(size))] if size else []),), chunk_bytes=8)
    return ResultItem(seq, status, 1.0, 2.0, parcel.nbytes, 0, parcel.body)


def unknown(*seqs: int, engine: int = 0) -> Result:
    return Result(ME, engine, tuple([ResultItem(seq, UNKNOWN, 0.0, 0.0, 0, 0, b"") for seq in seqs]))


def hear(state: ClientState, message: Message, frames: Sequence[Any] = (), now: float = 0.0) -> list[Any]:
    """Let a message come in; what happened through it."""
    state.events()
    state.receive(message, frames, now)
    return state.events()


def back(state: ClientState, *ids: int, incarnation: int = 1) -> list[Message]:
    """Lose the connection and get another one; what is said then."""
    state.link_lost()
    state.welcome(welcome(*ids, incarnation=incarnation))
    return said(state)


def asked(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """(seq, engine) of all calls asked about, without marks."""
    items = [item for m in messages if isinstance(m, Resume) for item in m.items]
    return [(item.seq, item.engine) for item in items if item.seq < MARK]


def mark(messages: Sequence[Message], engine: int = 0) -> int:
    """The mark in the question to this engine."""
    (found,) = [
        item.seq
        for m in messages
        if isinstance(m, Resume)
        for item in m.items
        if item.seq >= MARK and item.engine == engine
    ]
    return found
