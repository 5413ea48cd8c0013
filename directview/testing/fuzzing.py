"""Targets for fuzzers: bytes in, and nothing may come out but the one error that bytes may cause.

Each target takes any bytes and returns None. What it lets out (another exception than `ProtocolError`, an
invariant that doesn't hold afterwards) is a defect. `TARGETS` names them; `seeds` gives inputs from which a
fuzzer gets somewhere: what peers of a simulated cluster really say to each other.

``make fuzz`` runs them under atheris, which follows the branches that an input takes; the tests run them
under Hypothesis.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, cast

import msgpack

from directview._client_calls import Call
from directview._client_state import ClientState
from directview.connection import ConnectionInfo
from directview.controller._detached import LOST, STANDARD, Box, Kept, kept_of_row, msg_id_of, pack_known
from directview.controller._state import Controller, Settings
from directview.engine._state import EngineState
from directview.errors import DirectViewError
from directview.supervisor._requests import Stop, parse
from directview.testing.invariants import check_client, check_controller, check_engine
from directview.testing.simulation import SMALL_STEPS, SimulatedCluster, Work
from directview.wire.exceptions import rebuild
from directview.wire.messages import (
    OK,
    PROTOCOL_VERSION,
    Answer,
    Credit,
    EngineInfo,
    Hello,
    Message,
    ProtocolError,
    Result,
    Submit,
    Welcome,
    decode,
    encode,
    frames_of,
)
from directview.wire.parcels import Packed, pack, unpack

__all__ = ["TARGETS", "joined", "seeds"]

_MOST_FRAMES: Final = 64
_MOST_CHUNKED: Final = 1 << 20
_FRAME: Final = b"frame"
_ME: Final = (4).to_bytes(16, "big")
"""The first of a simulated cluster's clients, of which the seeds tell."""
_ENGINES: Final = tuple([number.to_bytes(16, "big") for number in (2, 3)])
_SUPERVISOR: Final = (1).to_bytes(16, "big")


def joined(parts: Sequence[tuple[int, bytes]]) -> bytes:
    """Several messages as one input: who says it (0 to 255), and the header."""
    return b"".join([bytes([who]) + len(header).to_bytes(2, "big") + header for who, header in parts])


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 3 <= len(data):
        size = int.from_bytes(data[position + 1 : position + 3], "big")
        yield data[position], data[position + 3 : position + 3 + size]
        position += 3 + size


def _messages(data: bytes) -> Iterator[tuple[int, Message, list[bytes]]]:
    """What can be decoded of an input, with as many frames as it announces."""
    for who, header in _split(data):
        try:
            message = decode(header)
        except ProtocolError:
            continue
        count = frames_of(message)
        if count > _MOST_FRAMES:
            continue
        if isinstance(message, Submit):  # Or none would get past the first look at it.
            calls = [
                call._replace(nbytes=len(call.body) + call.nframes * len(_FRAME)) for call in message.calls
            ]
            message = message._replace(calls=tuple(calls))
        yield who, message, [_FRAME] * count


# --- decoders ---------------------------------------------------------------------------------------------


def header(data: bytes) -> None:
    """The header of a message: what is accepted is what would be sent."""
    try:
        message = decode(data)
        frames_of(message)
    except ProtocolError:
        return
    if decode(encode(message)) != message:
        raise AssertionError(f"{message} isn't what comes of its own encoding")


def parcel(data: bytes) -> None:
    """The body of a call or a result, and chunks for it."""
    if len(data) < 2:
        return
    nobjects, nframes = 1 + data[0] % 2, data[1] % 4
    try:
        unpacked = unpack(data[2:], [_FRAME] * nframes, nobjects=nobjects)
        while 0 < unpacked.missing <= _MOST_CHUNKED:
            chunk = bytes(min(unpacked.missing, 1000))
            unpacked.receive(unpacked.received, chunk, unpacked.size)
    except ProtocolError:
        return
    if not unpacked.missing and len(unpacked.objects()) != nobjects:
        raise AssertionError("another number of objects than was asked for")


def connection_file(data: bytes) -> None:
    """The contents of a connection file: used, or refused with a reason."""
    try:
        info = ConnectionInfo.from_dict(json.loads(data))
    except (ValueError, RecursionError):
        return  # No JSON: `load` says so.
    except DirectViewError as error:
        if not str(error):
            raise AssertionError("refused without a reason") from error
        return
    if ConnectionInfo.from_dict(info.to_dict()) != info:
        raise AssertionError(f"{info} isn't what it writes")


def failure(data: bytes) -> None:
    """What an engine says of an exception: always one error, whatever it says. Pickles are left out."""
    try:
        summary = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return
    if isinstance(summary, dict):
        str(rebuild(summary, None))


def stored_result(data: bytes) -> None:
    """A row of the store for results of detached calls: as it was written, or left out."""
    try:
        row = msgpack.unpackb(data, use_list=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return
    if type(row) is not tuple or len(row) != 4:
        return
    found = kept_of_row(*row)
    if found is None:
        return
    key, kept = found
    box = Box(STANDARD, [found])
    fetched = 0
    while fetched < sum(kept.sizes):  # As who fetches it does.
        piece = box.answer(kept, fetched)["data"]
        if not piece:
            raise AssertionError(f"{len(kept.data)} bytes are there of {sum(kept.sizes)}")
        fetched += len(piece)
    encode(Answer(1, True, box.answer(kept, 0)))
    if kept_of_row(msg_id_of(key), kept.at, pack_known(kept), kept.data) != found:
        raise AssertionError(f"{found} isn't what it writes")


def request(data: bytes) -> None:
    """A line on a supervisor's control socket: a request, or refused with a reason."""
    try:
        asked = parse(data)
    except ValueError as error:
        if not str(error):
            raise AssertionError("refused without a reason") from error
        return
    if isinstance(asked, Stop):
        asked.reason.encode()  # It is sent on, and written into a file.


# --- machines ---------------------------------------------------------------------------------------------


def _hello(role: str, uuid: bytes, supervisor: bytes = b"") -> Hello:
    return Hello(
        PROTOCOL_VERSION, role, uuid, "simulated", 0, -1, supervisor, False, 1, "host", "3.11", b""
    )  # fmt: skip


def controller(data: bytes) -> None:
    """Anything, from two engines, a client and a supervisor, to a controller; with time between."""
    machine = Controller(Settings("simulated"), 0.0)
    peers = [("supervisor", _SUPERVISOR), ("engine", _ENGINES[0]), ("engine", _ENGINES[1]), ("client", _ME)]
    routes = [b"%d" % number for number in range(len(peers))]
    for route, (role, uuid) in zip(routes, peers, strict=True):
        machine.greet(route, _hello(role, uuid, _SUPERVISOR if role == "engine" else b""), None, 0.0)
    list(machine.flush())
    now = 0.0
    for who, message, frames in _messages(data):
        route = routes[who % len(routes)]
        now += 0.01
        if who >= 250:
            now += 10.0
        elif who >= 240:
            machine.lost(route, "cut", now)
        elif isinstance(message, Hello):
            machine.greet(route, message, None, now)
        else:
            machine.receive(route, message, encode(message), frames, now)
        if (deadline := machine.next_deadline()) is not None and deadline <= now:
            machine.tick(now)
        list(machine.flush())
        check_controller(machine)


def engine(data: bytes) -> None:
    """Anything to an engine, which runs what it is given."""
    state = EngineState(SMALL_STEPS)
    state.id, state.uuid = 0, _ENGINES[0]
    for who, message, frames in _messages(data):
        if who >= 250:
            state.link_lost()
        elif who >= 240:
            state.resume()
        else:
            try:
                state.receive(message, frames)
            except ProtocolError:
                pass
        if who % 2 and (call := state.next_call()) is not None:
            state.finished(call, OK, 1.0, 2.0, None)
        check_engine(state)
        list(state.flush())


def client(data: bytes) -> None:
    """Anything to a client, which goes on making calls."""
    state = ClientState(_ME, SMALL_STEPS)
    infos = tuple([EngineInfo(id, uuid, 1, "host", "3.11", b"") for id, uuid in enumerate(_ENGINES)])
    state.welcome(Welcome(PROTOCOL_VERSION, 1, -1, "stop", 1.0, 8, 4096, infos))
    within_credit = True
    for who, message, frames in _messages(data):
        if who % 3 == 0:
            payload = [memoryview(bytes(2000))] if who % 2 else []
            made = pack((Packed(b"f", ()), Packed(b"", payload)), chunk_bytes=SMALL_STEPS.chunk)
            state.submit(Call(state.next_seq, "call", tuple(state.engines) or (0,), made, None))
        if who >= 250:
            state.link_lost()
            state.welcome(Welcome(PROTOCOL_VERSION, 1, -1, "stop", 1.0, 8, 4096, infos))
        elif who >= 240:
            state.abort([(seq, 0) for seq in list(state.calls)])
        elif not isinstance(message, Welcome):
            within_credit = within_credit and not isinstance(message, Credit)
            try:
                state.receive(message, frames, 0.0)
            except ProtocolError:
                pass
        list(state.flush())
        check_client(state, within_credit=within_credit)
        for _ in state.events():
            pass


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    function.__name__: function
    for function in (
        header,
        parcel,
        connection_file,
        failure,
        stored_result,
        request,
        controller,
        engine,
        client,
    )
}
"""All targets by name."""


@cache
def _conversation() -> dict[bytes, list[tuple[int, bytes]]]:
    """What each peer of a small simulated cluster has heard; under b"", what the controller has."""
    cluster = SimulatedCluster(1, engines=2, clients=1, supervised=True)
    heard: dict[bytes, list[tuple[int, bytes]]] = {b"": []}
    feed = cluster._feed

    def tapped(machine: Controller, route: bytes, head: bytes, frames: Sequence[bytes]) -> None:
        heard[b""].append((int(route.split()[1]) - 1, head))
        feed(machine, route, head, frames)

    cluster._feed = tapped  # type: ignore[method-assign, assignment]
    for peer in (*cluster.engines, *cluster.clients):
        _tap(peer, heard.setdefault(peer.uuid, []))
    cluster.run(0.3)
    one = cluster.clients[0]
    for work in (Work(), Work(fails=True), Work(0.05, True), Work(argument_bytes=3000, result_bytes=3000)):
        one.submit([0, 1], work)
    aborted = one.submit([0], Work(5.0))
    cluster.run(0.2)
    one.abort([(aborted, 0)])
    one.query(1, "status")
    cluster.cut(one)
    cluster.run(2.0)
    return heard


def _tap(peer: Any, heard: list[tuple[int, bytes]]) -> None:
    receive = peer._receive

    def tapped(message: Message, frames: Sequence[Any]) -> None:
        heard.append((0, encode(message)))
        receive(message, frames)

    peer._receive = tapped


def seeds(name: str) -> list[bytes]:
    """Inputs for the target of that name to start from."""
    heard = _conversation()
    if name == "header":
        return sorted({head for parts in heard.values() for _, head in parts})
    if name == "parcel":
        return sorted({bytes([1, 0]) + body for body in _bodies(heard)})
    if name == "connection_file":
        info = ConnectionInfo(
            cluster_id="c", role="client", pid=1, hostname="h", created=1.0, tcp="tcp://127.0.0.1:1"
        )
        return [json.dumps(info.to_dict()).encode()]
    if name == "failure":
        failure = {"ename": "ValueError", "evalue": "x", "traceback": "t", "engine_info": {}}
        return [cast(bytes, msgpack.packb(failure))]
    if name == "stored_result":
        kept = [
            Kept(1.0, OK, 1.0, 2.0, _ENGINES[0], (4, 3, 0), b"bodyone", {}),
            Kept(
                2.0,
                LOST,
                0.0,
                0.0,
                _ENGINES[1],
                (),
                b"",
                {"exit_code": -9, "reason": "killed", "started": True},
            ),
            Kept(3.0, LOST, 0.0, 0.0, b"", (), b"", {"dropped": "it was too old"}),
        ]
        rows = [(msg_id_of((_ME, n, 0)), one.at, pack_known(one), one.data) for n, one in enumerate(kept)]
        return [cast(bytes, msgpack.packb(row)) for row in rows]
    if name == "request":
        uuids = [uuid.hex() for uuid in _ENGINES]
        asked = [
            {"do": "status"},
            {"do": "stop", "reason": "enough"},
            {"do": "detach"},
            {"do": "start", "n": 2},
            {"do": "restart-engines", "engines": [[uuid, 0] for uuid in uuids]},
            {"do": "stop-engines", "uuids": uuids},
            {"do": "signal", "signum": 15, "uuids": None},
        ]
        return [json.dumps(each).encode() + b"\n" for each in asked]
    whose = {"controller": b"", "engine": _ENGINES[0], "client": _ME}[name]
    parts = heard[whose]
    return [joined(parts[start : start + 6]) for start in range(0, len(parts), 3)] + [joined(parts)]


def _bodies(heard: dict[bytes, list[tuple[int, bytes]]]) -> Iterator[bytes]:
    for parts in heard.values():
        for _, head in parts:
            message = decode(head)
            if isinstance(message, Submit):
                yield from [call.body for call in message.calls]
            elif isinstance(message, Result):
                yield from [item.body for item in message.items]
