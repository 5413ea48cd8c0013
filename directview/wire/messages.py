"""The protocol: every kind of message, its fields and its limits. Pure: no sockets, no clock.

A message is ``[header: msgpack] [frame]*``. The header is a msgpack array ``[kind, field, ...]``; each
kind has one class below whose fields are in wire order. `encode` packs one, `decode` checks every field
of what arrived and raises `ProtocolError` for anything that is not exactly right.

======== ===== ============================== ==================================================
kind     code  way                            meaning
======== ===== ============================== ==================================================
Hello       1  peer → controller              who I am, what I saw last; first on a connection
Welcome     2  controller → peer              accepted: your id, my incarnation, policy, limits
Refused     3  controller → peer              not accepted: the reason and the remedy
Resume      4  peer → controller (→ engine)   calls I still wait for, or still hold
Submit      5  client → controller → engine   calls, several at once, each for one or more engines
Accept      6  engine → controller → client   the engine has these calls whole; started or held
Result      7  engine → controller → client   how calls ended; kept by the engine until Ack
Ack         8  client → controller → engine   results received; the engine may forget them
Chunk       9  sender → controller → receiver a piece of a large buffer: a frame, or its place in an arena
Grant      10  receiver → controller → sender send that transfer up to this many bytes
Abort      11  client → controller → engine   end these calls: drop, cancel or interrupt them
Output     12  engine → controller → client   what a call printed
Lost       13  controller → client            calls that can't be answered any more, and why
Engines    14  controller → client            engines that joined, left or were lost; to their supervisors too
Credit     15  controller → client            how much may be submitted to one engine ahead of Accept
Query      16  client → controller            a question or request beside the calls
Answer     17  controller → client            its answer
Exited     18  supervisor → controller        an engine's process ended: exit code or signal
Interrupt  19  controller → supervisor        interrupt this call in that engine
Launch     20  controller → supervisor        start more engines
Stop       21  controller → peer              end: yourself, or (to a supervisor) this engine
Goodbye    22  peer → controller              I end in order; nothing of mine is outstanding
Forget     23  controller → engine            this client is gone: drop what is queued and kept for it
Release    24  receiver → controller → sender a reference to shared memory is needed no longer (reserved)
Item       25  engine → controller → client   items of a stream (reserved)
Demand     26  client → controller → engine   ask for more items of a stream, or end it (reserved)
Signal     27  controller → supervisor        send an operating-system signal to this engine
Alive      28  supervisor → controller        these engines' processes live, connected or not
Paused     29  engine → controller            it begins no calls of this client for now, or does again
Taken      30  client → controller → engine   so much of what its calls printed has been received
Kept       31  engine ↔ controller            results of detached calls: are they kept? They are
======== ===== ============================== ==================================================

A call is named by (client uuid, seq, engine id), made by the client. Submit, Accept, Result, Ack, Chunk,
Grant, Abort and Output carry the full name, so that the controller forwards them untouched.
"""

from __future__ import annotations

import operator
from typing import Any, Final, NamedTuple

import msgpack

from directview.wire.fields import (
    Check,
    ProtocolError,
    binary,
    boolean,
    fail,
    integer,
    many,
    one_of,
    optional,
    params,
    plain,
    real,
    record,
    text,
    tree,
    uuid,
    uuid_or_empty,
)
from directview.wire.postmortem import NOTHING_KNOWN, Postmortem, postmortem

__all__ = [
    "ARGUMENT", "CHUNK_BYTES", "MAX_FRAME_BYTES", "MAX_HEADER_BYTES", "PROTOCOL_VERSION", "RESULT", "Abort",
    "Accept", "Ack", "Alive", "Answer", "CallItem", "Chunk", "Credit", "Demand", "EngineInfo", "Engines",
    "Exited", "Forget", "Goodbye", "Grant", "Hello", "Interrupt", "Item", "Kept", "Launch", "Lost", "Message",
    "Output", "ProtocolError", "Query", "Refused", "Release", "Result", "ResultItem", "Resume", "ResumeItem",
    "Paused", "Signal", "Stop", "Submit", "Taken", "Welcome", "decode", "encode", "output_size",
]  # fmt: skip

PROTOCOL_VERSION: Final = 2

CHUNK_BYTES: Final = 1 << 20
"""Largest frame that is ever sent. Only a complete frame feeds libzmq's heartbeat timer: one 200 MB
frame over a 40 MB/s link cut its own connection, 1 MiB frames never did."""
MAX_FRAME_BYTES: Final = 2 << 20
"""Largest frame that is accepted (ZMQ_MAXMSGSIZE on every socket)."""
MAX_HEADER_BYTES: Final = 2 << 20
WINDOW_CHUNKS: Final = 16
"""Chunks of one transfer that may be on their way ahead of the receiver's Grant."""

MAX_FRAMES: Final = 4096
MAX_CALLS: Final = 65_536
MAX_TARGETS: Final = 65_536
MAX_ID: Final = (1 << 31) - 1
MAX_COUNT: Final = (1 << 63) - 1

ARGUMENT: Final = 0
"""`Chunk.way`: part of a call's arguments, client → engine."""
RESULT: Final = 1
"""`Chunk.way`: part of a call's result, engine → client."""

OK: Final = 0
FAILED: Final = 1
ABORTED: Final = 2
UNKNOWN: Final = 3
FORGOTTEN: Final = 4
"""`ResultItem.status`: returned, raised, cancelled; or, when asked about: never begun here; or begun perhaps,
and its client has been forgotten since."""

DETACHED: Final = 1
"""`CallItem.flags`: the call goes on when its client is gone, and its result is kept: see `Forget`."""

BALANCED: Final = -1
"""A target: whichever engine the controller chooses."""


class CallItem(NamedTuple):
    """One call of a `Submit`: (client, seq) on each of `targets`."""

    seq: int
    targets: tuple[int, ...]
    """Engine ids. Of a call with several, each engine sees ``(BALANCED,)``: it is one that was chosen."""
    name: str
    """What the caller calls it; shown in errors and status, never interpreted."""
    flags: int
    nbytes: int
    """Bytes it occupies in the controller until it is dispatched: body and frames, not chunks."""
    nframes: int
    body: bytes
    """A packed `directview.wire.parcels` call; opaque to the controller."""


class ResultItem(NamedTuple):
    """How one call ended on one engine."""

    seq: int
    status: int
    started: float
    completed: float
    nbytes: int
    nframes: int
    body: bytes


class ResumeItem(NamedTuple):
    """One call that a resuming peer still waits for (client) or still holds (engine)."""

    seq: int
    engine: int
    uuid: bytes
    """Of the engine that the call was given to: an engine that came back under its id is another."""


class EngineInfo(NamedTuple):
    """What the controller tells clients about an engine."""

    id: int
    uuid: bytes
    pid: int
    hostname: str
    python: str
    host: bytes
    """Host proof, see `directview.wire.host`."""


class Hello(NamedTuple):
    version: int
    role: str
    uuid: bytes
    cluster: str
    """The cluster id of the connection file; another cluster's controller refuses."""
    incarnation: int
    """The highest controller incarnation seen so far; a lower controller is out of date."""
    wanted_id: int
    """For an engine that had an id, that id; otherwise -1."""
    supervisor: bytes
    """For an engine, the uuid of the supervisor that watches it; or empty."""
    resuming: bool
    """`Resume` messages follow, up to one with `last` set; an engine is given no calls before."""
    pid: int
    hostname: str
    python: str
    host: bytes


class Welcome(NamedTuple):
    version: int
    incarnation: int
    id: int
    """For an engine, its id; otherwise -1."""
    policy: str
    """What peers do when the controller is gone: ``stop`` or ``wait`` (and reconnect)."""
    lease: float
    """Seconds for which the controller keeps the place of a peer that it lost."""
    credit_calls: int
    credit_bytes: int
    engines: tuple[EngineInfo, ...]


class Refused(NamedTuple):
    reason: str
    remedy: str


class Resume(NamedTuple):
    """Calls to ask about.

    A client's first item for each engine is a mark (its seq is 2**62 or more), which is answered as unknown:
    what the engine said before that answer does not count.
    """

    client: bytes
    items: tuple[ResumeItem, ...]
    last: bool


class Submit(NamedTuple):
    client: bytes
    watermark: int
    """The client's lowest outstanding seq: lower ones are answered, for good."""
    calls: tuple[CallItem, ...]


class Accept(NamedTuple):
    client: bytes
    engine: int
    started: tuple[int, ...]
    held: tuple[int, ...]


class Result(NamedTuple):
    client: bytes
    engine: int
    items: tuple[ResultItem, ...]


class Ack(NamedTuple):
    client: bytes
    watermark: int
    seqs: tuple[tuple[int, tuple[int, ...]], ...]
    """(engine id, seqs) for each engine; seqs, and all of it, may be empty: the watermark says enough."""


class Chunk(NamedTuple):
    client: bytes
    seq: int
    engines: tuple[int, ...]
    """The receivers, for an argument; the one sender, for a result."""
    way: int
    offset: int
    """In the transfer: all chunked buffers of the call, end to end."""
    place: int = -1
    """-1: the bytes are in the frame. Otherwise where they are in the sender's arena, or the sheet that the
    whole transfer is on, and there is no frame: see `directview.wire.arena`."""
    nbytes: int = 0
    """How many are there."""


class Grant(NamedTuple):
    client: bytes
    seq: int
    engine: int
    way: int
    upto: int
    """Absolute offset in the transfer up to which chunks may be sent."""
    received: int = 0
    """How far it has come: what lies before is needed no longer."""
    shared: int = 0
    """What the receiver can read: nothing (0), the arena that the call told of (1), what is shown too (2)."""


class Abort(NamedTuple):
    client: bytes
    seqs: tuple[tuple[int, tuple[int, ...]], ...]
    """(engine id, seqs) for each engine."""


class Output(NamedTuple):
    client: bytes
    engine: int
    seq: int
    number: int
    """Counts the outputs of this call from 0, so that a repeated one is seen."""
    stream: str
    text: str


def output_size(text: str) -> int:
    """What one `Output` takes on its way, about: a message of one character costs more than that."""
    return len(text) + 64


class Lost(NamedTuple):
    client: bytes
    engine: int
    uuid: bytes
    exit_code: int | None
    """As of `subprocess`: negative for a signal; None when nobody saw the end."""
    reason: str
    started: tuple[int, ...]
    """Seqs that were, or may have been, running."""
    queued: tuple[int, ...]
    """Seqs that never ran."""
    postmortem: Postmortem = NOTHING_KNOWN


class Engines(NamedTuple):
    joined: tuple[EngineInfo, ...]
    left: tuple[tuple[int, bytes, int | None, str], ...]
    """(id, uuid, exit code, reason); an empty reason means that it ended in order."""
    postmortems: tuple[Postmortem, ...] = ()
    """What else is known of each that left; empty if that is nothing."""


class Credit(NamedTuple):
    engine: int
    calls: int
    bytes: int


class Query(NamedTuple):
    number: int
    what: str
    params: dict[str, Any]


class Answer(NamedTuple):
    number: int
    ok: bool
    value: Any


class Exited(NamedTuple):
    uuid: bytes
    exit_code: int | None
    reason: str
    postmortem: Postmortem = NOTHING_KNOWN


class Interrupt(NamedTuple):
    uuid: bytes
    client: bytes
    seq: int


class Launch(NamedTuple):
    n: int
    query: int
    """Number under which the supervisor answers with `Answer`."""


class Stop(NamedTuple):
    uuid: bytes
    """The engine that a supervisor should end; empty: the receiver itself."""
    reason: str
    given_up: bool = False
    """Nobody wants it gone, but nobody hears of it either: another may take its place."""


class Goodbye(NamedTuple):
    reason: str


class Forget(NamedTuple):
    """Its detached calls go on: those that the engine has are accepted once more, and ended ones answered."""

    client: bytes


class Signal(NamedTuple):
    uuid: bytes
    signal: int


class Alive(NamedTuple):
    uuids: tuple[bytes, ...]


class Paused(NamedTuple):
    client: bytes
    engine: int
    paused: bool
    """It has left too much there that it has not taken."""


class Taken(NamedTuple):
    client: bytes
    engine: int
    size: int
    """As `output_size` counts it."""


class Kept(NamedTuple):
    """Results of detached calls: an engine that comes back has these; or the controller keeps them."""

    client: bytes
    engine: int
    seqs: tuple[int, ...]


class Release(NamedTuple):
    client: bytes
    engine: int
    way: int
    references: tuple[bytes, ...]


class Item(NamedTuple):
    client: bytes
    engine: int
    seq: int
    number: int
    ends: bool
    nframes: int
    body: bytes


class Demand(NamedTuple):
    client: bytes
    engine: int
    seq: int
    upto: int
    """Items that may have been sent in all; -1 ends the stream."""


Message = (
    Hello | Welcome | Refused | Resume | Submit | Accept | Result | Ack | Chunk | Grant | Abort
    | Output | Lost | Engines | Credit | Query | Answer | Exited | Interrupt | Launch | Stop
    | Goodbye | Forget | Release | Item | Demand | Signal | Alive | Paused | Taken | Kept
)  # fmt: skip


# --- the fields of each kind, checked --------------------------------------------------------------

_id = integer(0, MAX_ID)
_id_or_none = integer(-1, MAX_ID)
_count = integer(0, MAX_COUNT)
_seqs = many(_count)
_name = text(1024)
_prose = text(65_536)
_per_engine = many(record(plain, _id, _seqs), MAX_TARGETS)
_way = integer(ARGUMENT, RESULT)
_engine_info = record(EngineInfo, _id, uuid, _count, _name, _name, binary(256))


def _calls(value: Any) -> tuple[CallItem, ...]:
    """`Submit.calls`, checked by hand: this runs once for every call that is made."""
    if type(value) is not tuple or len(value) > MAX_CALLS:
        fail(f"an array of at most {MAX_CALLS}", value)
    items = []
    for item in value:
        if type(item) is not tuple or len(item) != 7:
            fail("an array of 7", item)
        seq, targets, name, flags, nbytes, nframes, body = item
        if (
            type(seq) is not int
            or type(targets) is not tuple
            or type(name) is not str
            or type(flags) is not int
            or type(nbytes) is not int
            or type(nframes) is not int
            or type(body) is not bytes
            or not 0 <= seq <= MAX_COUNT
            or not 0 <= flags <= 0xFFFF
            or not 0 <= nbytes <= MAX_COUNT
            or not 0 <= nframes <= MAX_FRAMES
            or not 0 < len(targets) <= MAX_TARGETS
            or len(name) > 1024
        ):
            fail("a call", item)
        for target in targets:
            if type(target) is not int or not -1 <= target <= MAX_ID:
                fail("an engine id", target)
        if len(targets) > 1 and len(set(targets)) != len(targets):
            fail("different targets", targets)
        items.append(tuple.__new__(CallItem, item))
    return tuple(items)


def _results(value: Any) -> tuple[ResultItem, ...]:
    """`Result.items`, checked by hand for the same reason."""
    if type(value) is not tuple or len(value) > MAX_CALLS:
        fail(f"an array of at most {MAX_CALLS}", value)
    items = []
    for item in value:
        if type(item) is not tuple or len(item) != 7:
            fail("an array of 7", item)
        seq, status, started, completed, nbytes, nframes, body = item
        if (
            type(seq) is not int
            or type(status) is not int
            or type(started) is not float
            or type(completed) is not float
            or type(nbytes) is not int
            or type(nframes) is not int
            or type(body) is not bytes
            or not 0 <= seq <= MAX_COUNT
            or not OK <= status <= FORGOTTEN
            or not 0.0 <= started < 1e18
            or not 0.0 <= completed < 1e18
            or not 0 <= nbytes <= MAX_COUNT
            or not 0 <= nframes <= MAX_FRAMES
        ):
            fail("a result", item)
        items.append(tuple.__new__(ResultItem, item))
    return tuple(items)


_KINDS: Final[dict[int, tuple[type[Any], tuple[Check, ...]]]] = {
    1: (Hello, (integer(0, 65_535), one_of("client", "engine", "supervisor"), uuid, _name, _count,
                _id_or_none, uuid_or_empty, boolean, _count, _name, _name, binary(256))),
    2: (Welcome, (integer(0, 65_535), _count, _id_or_none, one_of("stop", "wait"), real, _count,
                  _count, many(_engine_info))),
    3: (Refused, (_prose, _prose)),
    4: (Resume, (uuid_or_empty, many(record(ResumeItem, _count, _id_or_none, uuid_or_empty)),
                 boolean)),
    5: (Submit, (uuid, _count, _calls)),
    6: (Accept, (uuid, _id, _seqs, _seqs)),
    7: (Result, (uuid, _id, _results)),
    8: (Ack, (uuid, _count, _per_engine)),
    9: (Chunk, (uuid, _count, many(_id, MAX_TARGETS), _way, _count, integer(-1, MAX_COUNT), _count)),
    10: (Grant, (uuid, _count, _id, _way, _count, _count, integer(0, 2))),
    11: (Abort, (uuid, _per_engine)),
    12: (Output, (uuid, _id, _count, _count, one_of("stdout", "stderr"), text(CHUNK_BYTES))),
    13: (Lost, (uuid, _id, uuid_or_empty, optional(integer(-256, 1 << 32)), _prose, _seqs, _seqs,
                postmortem)),
    14: (Engines, (many(_engine_info),
                   many(record(plain, _id, uuid, optional(integer(-256, 1 << 32)), _prose)),
                   many(postmortem))),
    15: (Credit, (_id, _count, _count)),
    16: (Query, (_count, _name, params)),
    17: (Answer, (_count, boolean, tree)),
    18: (Exited, (uuid, optional(integer(-256, 1 << 32)), _prose, postmortem)),
    19: (Interrupt, (uuid, uuid, _count)),
    20: (Launch, (integer(1, 65_536), _count)),
    21: (Stop, (uuid_or_empty, _prose, boolean)),
    22: (Goodbye, (_prose,)),
    23: (Forget, (uuid,)),
    24: (Release, (uuid, _id, _way, many(binary(256)))),
    25: (Item, (uuid, _id, _count, _count, boolean, integer(0, MAX_FRAMES), binary(MAX_HEADER_BYTES))),
    26: (Demand, (uuid, _id, _count, integer(-1, MAX_COUNT))),
    27: (Signal, (uuid, integer(1, 64))),
    28: (Alive, (many(uuid, MAX_TARGETS),)),
    29: (Paused, (uuid, _id, boolean)),
    30: (Taken, (uuid, _id, _count)),
    31: (Kept, (uuid, _id, _seqs)),
}  # fmt: skip

_CODES: Final = {make: code for code, (make, _) in _KINDS.items()}

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def encode(message: Message) -> bytes:
    """The header of `message`, packed."""
    return _packer.pack((_CODES[type(message)], *message))  # type: ignore[no-any-return]


def decode(header: bytes | memoryview) -> Message:
    """Unpack and check a header.

    Raises:
        ProtocolError: not msgpack, an unknown kind, or a field that is missing, of the wrong type or
            beyond its limit. Nothing has been changed by then.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"header of {len(header)} bytes; at most {MAX_HEADER_BYTES}")
    try:
        fields = msgpack.unpackb(header, use_list=False, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not msgpack: {error}") from None
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        fail("an array that starts with a kind", fields)
    kind = _KINDS.get(fields[0])
    if kind is None:
        raise ProtocolError(f"unknown kind {fields[0]}")
    make, checks = kind
    if len(fields) != len(checks) + 1:
        raise ProtocolError(f"{make.__name__} has {len(checks)} fields, got {len(fields) - 1}")
    try:
        # Without a frame of Python's own for the list and for the tuple's `__new__`: every message comes by.
        return tuple.__new__(make, map(operator.call, checks, fields[1:]))  # type: ignore[no-any-return]
    except ProtocolError as error:
        raise ProtocolError(f"{make.__name__}: {error}") from None


def frames_of(message: Message) -> int:
    """How many frames belong to `message` after its header."""
    if isinstance(message, Submit):
        return sum([call.nframes for call in message.calls])
    if isinstance(message, Result):
        return sum([item.nframes for item in message.items])
    if isinstance(message, Chunk):
        return 1 if message.place < 0 else 0
    if isinstance(message, Item):
        return message.nframes
    return 0
