"""Pure: how the objects of one call or result travel: in the header, as frames, or as chunks.

A *parcel* is a list of objects (a call has two: function and arguments; a result has one), each a
pickle stream and its out-of-band buffers. Packing gives every stream and buffer one of three places:

- **inline**, in the body, when small: one frame for a whole batch of small calls is what makes tens of
  thousands of calls a second possible;
- **a frame** of the same message, while the parcel stays below `CHUNK_BYTES` in all;
- **chunked**: sent afterwards in `Chunk` messages as the receiver grants them. Only these still refer to
  the sender's memory once packing is over; everything else has been copied.

A parcel with chunks tells of its sender's arena (`directview.wire.arena`): a receiver that can read it finds
the bytes of chunks there, and copies them from there to where they belong, or maps all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import msgpack
import numpy as np

from directview.wire import blocks
from directview.wire.arena import Reader, SharedMemory, is_sheet, is_window
from directview.wire.messages import CHUNK_BYTES, MAX_FRAMES, MAX_HEADER_BYTES, Chunk, ProtocolError
from directview.wire.transfers import APART, SEEN, SHARED, spread

__all__ = ["INLINE_BYTES", "Packed", "Parcel", "Unpacked", "pack", "pack_small", "unpack"]

INLINE_BYTES: Final = 16 << 10
"""A stream or buffer up to this size is copied into the body. Above it a frame of its own is cheaper."""
_INLINE_TOTAL: Final = 256 << 10
_MAX_PARTS: Final = 1 << 17
"""Streams and buffers of one parcel. Their places take at most five bytes each for buffers below 4 GiB,
so that the body still fits into a header."""
_MAX_BODY: Final = MAX_HEADER_BYTES * 3 // 4
"""The rest of the header is for everything else that a message says about a call."""
_BYTES: Final = frozenset([bytes])
_FRAME = True
"""Descriptor of a buffer that is the next frame of the message."""

Buffer = bytes | bytearray | memoryview


class Packed(NamedTuple):
    """One object, pickled: see `directview.wire.objects`."""

    data: bytes
    buffers: Sequence[memoryview]


class Parcel(NamedTuple):
    """A packed call or result, ready to send."""

    body: bytes
    frames: Sequence[Buffer]
    chunks: Sequence[memoryview]
    """Buffers that are sent as chunks, in order. They refer to the sender's memory."""
    nbytes: int
    """Bytes of body and frames: what the parcel occupies on the way until it is taken."""
    keeps: tuple[object, ...] = ()
    """What must live until the call has ended everywhere: shared objects that it refers to."""


def pack(
    objects: Sequence[Packed],
    options: dict[str, Any] | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    arena: bytes = b"",
) -> Parcel:
    """Pack `objects`.

    Args:
        objects: streams and buffers.
        options: plain data that travel with the call.
        chunk_bytes: parcels beyond this size travel as chunks. Other than in tests it is what it is.
        arena: reference to the sender's arena, for receivers of chunks.

    Raises:
        ValueError: too many buffers, or options too large, to be described in one message.
    """
    if len(objects) <= 2 and not options:
        parcel = pack_small(objects)
        if parcel is not None:
            return parcel
    parts: list[Buffer] = []
    counts = []
    for data, buffers in objects:
        counts.append(1 + len(buffers))
        parts.append(data)
        parts.extend(buffers)
    if len(parts) > _MAX_PARTS:
        raise ValueError(f"{len(parts)} separate buffers in one call; at most {_MAX_PARTS}")
    whole = sum([len(part) for part in parts]) <= chunk_bytes and len(parts) <= MAX_FRAMES
    inline_bytes = min(INLINE_BYTES, chunk_bytes // 4)
    frames: list[Buffer] = []
    chunks: list[memoryview] = []
    descriptors: list[Any] = []
    inline = 0
    for part in parts:
        size = len(part)
        if size <= inline_bytes and (inline + size <= _INLINE_TOTAL or size == 0):
            inline += size
            descriptors.append(bytes(part))
        elif whole:
            frames.append(bytes(part))
            descriptors.append(_FRAME)
        else:
            chunks.append(memoryview(part))
            descriptors.append(size)
    told = (arena,) if chunks and arena else ()
    body = cast(bytes, msgpack.packb((counts, descriptors, options or {}, *told)))
    if len(body) > _MAX_BODY:
        raise ValueError(f"the options of one call take {len(body)} bytes; at most {_MAX_BODY} travel in all")
    return Parcel(body, frames, chunks, len(body) + sum([len(frame) for frame in frames]))


def pack_small(objects: Sequence[Packed]) -> Parcel | None:
    """`pack` for small streams without buffers, which is nearly always, and quicker; None: it is not that."""
    descriptors = []
    counts = []
    for data, buffers in objects:
        if buffers or len(data) > INLINE_BYTES:
            return None
        descriptors.append(data)
        counts.append(1)
    body = cast(bytes, msgpack.packb((counts, descriptors, {})))
    return Parcel(body, (), (), len(body))


class Unpacked:
    """A parcel that has arrived, or (while `missing` is not 0) whose chunks are still on their way."""

    __slots__ = (
        "_counts", "_current", "_filled", "_parts", "_reserved", "_sheet", "_to_fill", "options", "received",
        "size", "source",
    )  # fmt: skip

    def __init__(
        self,
        counts: Sequence[int],
        parts: list[Any],
        to_fill: Sequence[tuple[int, int]],
        options: dict[str, Any],
        source: Reader | None = None,
    ) -> None:
        self._counts = counts
        self._parts = parts
        self._to_fill = to_fill
        """(index in `_parts`, bytes) of each buffer that comes as chunks."""
        self._current = 0
        self._filled = 0
        self._sheet = 0
        """The place of the sheet on which the buffers are, so far."""
        self.options = options
        self.size = sum([size for _, size in to_fill]) if to_fill else 0
        """Bytes that come as chunks."""
        self.received = 0
        self._reserved = source.reserve() if source is not None else None
        self.source = source if self._reserved is not None else None
        """Its sender's arena, if it can be read from here, whatever comes."""

    @property
    def missing(self) -> int:
        """Bytes of chunks that have not arrived yet."""
        return self.size - self.received

    @property
    def shared(self) -> int:
        """What of its sender's memory can be read from here."""
        return APART if self.source is None else SEEN if self.source.sees else SHARED

    @property
    def only_buffer(self) -> int:
        """Bytes of the one buffer that comes as chunks; 0 if there is none, or several."""
        return self.size if len(self._to_fill) == 1 else 0

    def receive_into(self, place: np.ndarray[Any, Any]) -> None:
        """Receive the only buffer in this place, which has its size, rather than in memory of its own."""
        self._parts[self._to_fill[0][0]] = place

    def receive_chunk(self, message: Chunk, frames: Sequence[Any], granted: int) -> bool:
        """Put one chunk in its place, from its frame or from the sender's arena: see `receive`."""
        if message.place < 0:
            return self.receive(message.offset, frames[0], granted)
        return self.receive_shared(message.offset, message.place, message.nbytes, granted)

    def receive(self, offset: int, chunk: Buffer, granted: int) -> bool:
        """Put one chunk in its place; False if it is not the next one (a repeated or stale chunk).

        Memory for a buffer is taken when its first bytes come: an announcement alone costs nothing.

        Args:
            offset: of the chunk's first byte in the transfer.
            chunk: its bytes.
            granted: how far the sender may go.

        Raises:
            ProtocolError: it goes farther.
            MemoryError: there is none for the buffer that begins in this chunk.
        """
        if not self._expects(offset, len(chunk), granted):
            return False
        self._leave_sheet()
        self._copy(memoryview(chunk).cast("B"))
        self._advance(len(chunk))
        return True

    def receive_shared(self, offset: int, place: int, nbytes: int, granted: int) -> bool:
        """Copy one chunk out of the sender's arena; False if it is not the next one, or not there any more.

        Args:
            offset: of the chunk's first byte in the transfer.
            place: where it is in the arena.
            nbytes: its size.
            granted: how far the sender may go.

        Raises:
            ProtocolError: it goes farther, or there is no such arena.
            MemoryError: there is none for the buffer that begins in this chunk.
        """
        if not self._expects(offset, nbytes, granted):
            return False
        if self.source is None:
            raise ProtocolError("a chunk in an arena that can't be read from here")
        if is_sheet(place):
            return self._map(self.source, place, nbytes)
        self._leave_sheet()
        try:
            if is_window(place):
                whole = self.source.look(place, self._space(nbytes))
            else:
                whole = self.source.read(place, nbytes, self._copy)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        if whole:
            self._advance(nbytes)
        return whole

    def _map(self, source: Reader, place: int, nbytes: int) -> bool:
        """More of a sheet has been filled. It is mapped at the beginning, and not read before the end."""
        if not self.received:
            sizes = [size for _, size in self._to_fill]
            starts, whole = spread(sizes)
            self._reserved = None
            sheet = source.borrow(place, whole)
            if sheet is None:
                return False
            self._sheet = place
            for (index, size), start in zip(self._to_fill, starts, strict=True):
                self._parts[index] = sheet[start : start + size]
        elif place != self._sheet:
            return False
        self._advance(nbytes)
        if not self.missing and source.crowded:
            self._leave_sheet()
        return True

    def _leave_sheet(self) -> None:
        """Copy what has come on a sheet: the rest comes another way, or the sheet is to be let go."""
        self._reserved = None
        if not self._sheet:
            return
        self._sheet = 0
        for n, (index, size) in enumerate(self._to_fill[: self._current + 1]):
            block = blocks.take(size)
            come = size if n < self._current else self._filled
            block[:come] = self._parts[index][:come]
            self._parts[index] = block
        for index, size in self._to_fill[self._current + 1 :]:
            self._parts[index] = size

    def _expects(self, offset: int, nbytes: int, granted: int) -> bool:
        if offset != self.received:
            return False
        if not 0 < nbytes <= min(granted, self.size) - offset:
            raise ProtocolError(f"chunk of {nbytes} bytes at {offset}: {granted} of {self.size} are granted")
        return True

    def _space(self, nbytes: int) -> np.ndarray[Any, Any]:
        """Where the next bytes belong, which are part of one buffer.

        Raises:
            ValueError: they can't be.
            MemoryError: there is none for the buffer.
        """
        index, size = self._to_fill[self._current]
        end = self._filled + nbytes
        if end > size:
            raise ValueError(
                f"a piece of {nbytes} bytes where {size - self._filled} of its buffer are missing"
            )
        if not isinstance(self._parts[index], np.ndarray):
            self._parts[index] = blocks.take(size)
        space: np.ndarray[Any, Any] = self._parts[index][self._filled : end]
        return space

    def _copy(self, rest: memoryview) -> None:
        """Put bytes where the next ones belong. They count when `_advance` says so."""
        current, filled = self._current, self._filled
        while rest:
            index, size = self._to_fill[current]
            if filled == 0 and not isinstance(self._parts[index], np.ndarray):
                self._parts[index] = blocks.take(size)
            piece = rest[: size - filled]
            self._parts[index][filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
            rest = rest[len(piece) :]
            if filled == size:
                current, filled = current + 1, 0

    def _advance(self, nbytes: int) -> None:
        self.received += nbytes
        self._filled += nbytes
        while self._current < len(self._to_fill) and self._filled >= self._to_fill[self._current][1]:
            self._filled -= self._to_fill[self._current][1]
            self._current += 1

    def objects(self) -> list[Packed]:
        """The objects: streams as bytes, buffers as writable memory. Only when nothing is missing."""
        if self.missing:
            raise RuntimeError(f"{self.missing} bytes are still missing")
        if len(self._parts) == len(self._counts):  # streams only
            return [Packed(bytes(stream), ()) for stream in self._parts]
        taken = []
        position = 0
        for count in self._counts:
            stream, *buffers = self._parts[position : position + count]
            views = [memoryview(_writable(buffer)) for buffer in buffers] if buffers else []
            taken.append(Packed(bytes(stream), views))
            position += count
        return taken


def _writable(buffer: Any) -> Any:
    """Ordinary writable memory with the bytes of `buffer`; frames arrive read-only and unaligned."""
    if isinstance(buffer, np.ndarray):
        return buffer
    copy = np.empty(len(buffer), np.uint8)
    copy[:] = np.frombuffer(buffer, np.uint8)
    return copy


def unpack(
    body: bytes, frames: Sequence[Any], *, nobjects: int, memory: SharedMemory | None = None
) -> Unpacked:
    """Read a parcel's body.

    Args:
        body: of the call or result.
        frames: those that belong to it.
        nobjects: how many objects there are in such a parcel.
        memory: to find the chunks of senders on this host in.

    Raises:
        ProtocolError: it is not a parcel of `nobjects` objects that owns exactly these frames.
    """
    try:
        counts, descriptors, options, *told = msgpack.unpackb(
            body, use_list=False, max_bin_len=MAX_HEADER_BYTES, strict_map_key=True
        )
        if not (type(counts) is type(descriptors) is tuple and type(options) is dict):
            raise ProtocolError("parcel: not (counts, descriptors, options)")
        if told and (len(told) > 1 or type(told[0]) is not bytes):
            raise ProtocolError("parcel: more than (counts, descriptors, options, arena)")
        if len(counts) != nobjects or sum(counts) != len(descriptors) or len(descriptors) > _MAX_PARTS:
            raise ProtocolError(f"parcel: expected {nobjects} objects, got {len(counts)}, or not their parts")
    except ProtocolError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"parcel: {error}") from None
    for count in counts:
        if type(count) is not int or count < 1:
            raise ProtocolError("parcel: an object without a stream")
    parts = list(descriptors)
    if not frames and not told and _BYTES.issuperset(map(type, parts)):  # all is here, as nearly always
        return Unpacked(counts, parts, (), options)
    to_fill: list[tuple[int, int]] = []
    position = 0
    for index, descriptor in enumerate(descriptors):
        if type(descriptor) is bytes:
            continue
        if descriptor is _FRAME:
            if position >= len(frames):
                raise ProtocolError("parcel: fewer frames than announced")
            parts[index] = frames[position]
            position += 1
        elif type(descriptor) is int and 0 < descriptor < 1 << 48:
            to_fill.append((index, descriptor))
        else:
            raise ProtocolError(f"parcel: unknown place ({type(descriptor).__name__})")
    if position != len(frames):
        raise ProtocolError(f"parcel: {len(frames)} frames, {position} announced")
    source = memory.open(told[0]) if told and memory is not None else None
    return Unpacked(counts, parts, to_fill, options, source)
