"""Pure: how the objects of one call or result travel: in the header, as frames, or as chunks.

A *parcel* is a list of objects (a call has two: function and arguments; a result has one), each a
pickle stream and its out-of-band buffers. Packing gives every stream and buffer one of three places:

- **inline**, in the body, when small: one frame for a whole batch of small calls is what makes tens of
  thousands of calls a second possible;
- **a frame** of the same message, while the parcel stays below `CHUNK_BYTES` in all;
- **chunked**: sent afterwards in `Chunk` messages as the receiver grants them. Only these still refer to
  the sender's memory once packing is over; everything else has been copied.

A fourth place, a shared-memory reference, is an array in the descriptor's position; a reader that does
not know the reference's kind refuses the parcel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import msgpack
import numpy as np

from directview.wire import blocks
from directview.wire.messages import CHUNK_BYTES, MAX_FRAMES, MAX_HEADER_BYTES, ProtocolError

__all__ = ["INLINE_BYTES", "Packed", "Parcel", "Unpacked", "pack", "unpack"]

INLINE_BYTES: Final = 16 << 10
"""A stream or buffer up to this size is copied into the body. Above it a frame of its own is cheaper."""
_INLINE_TOTAL: Final = 256 << 10
_MAX_PARTS: Final = 1 << 17
"""Streams and buffers of one parcel. Their places take at most five bytes each for buffers below 4 GiB,
so that the body still fits into a header."""
_MAX_BODY: Final = MAX_HEADER_BYTES * 3 // 4
"""The rest of the header is for everything else that a message says about a call."""
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


def pack(
    objects: Sequence[Packed], options: dict[str, Any] | None = None, *, chunk_bytes: int = CHUNK_BYTES
) -> Parcel:
    """Pack `objects`.

    Args:
        objects: streams and buffers.
        options: plain data that travel with the call.
        chunk_bytes: parcels beyond this size travel as chunks. Other than in tests it is what it is.

    Raises:
        ValueError: too many buffers, or options too large, to be described in one message.
    """
    if len(objects) <= 2 and not options:
        parcel = _pack_small(objects)
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
    body = cast(bytes, msgpack.packb((counts, descriptors, options or {})))
    if len(body) > _MAX_BODY:
        raise ValueError(f"the options of one call take {len(body)} bytes; at most {_MAX_BODY} travel in all")
    return Parcel(body, frames, chunks, len(body) + sum([len(frame) for frame in frames]))


def _pack_small(objects: Sequence[Packed]) -> Parcel | None:
    """The common case, without a loop per buffer: small streams and no buffers."""
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

    __slots__ = ("_counts", "_current", "_filled", "_parts", "_to_fill", "options", "received", "size")

    def __init__(
        self, counts: Sequence[int], parts: list[Any], to_fill: list[tuple[int, int]], options: dict[str, Any]
    ) -> None:
        self._counts = counts
        self._parts = parts
        self._to_fill = to_fill
        """(index in `_parts`, bytes) of each buffer that comes as chunks."""
        self._current = 0
        self._filled = 0
        self.options = options
        self.size = sum([size for _, size in to_fill]) if to_fill else 0
        """Bytes that come as chunks."""
        self.received = 0

    @property
    def missing(self) -> int:
        """Bytes of chunks that have not arrived yet."""
        return self.size - self.received

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
        if offset != self.received:
            return False
        rest = memoryview(chunk).cast("B")
        if not 0 < len(rest) <= min(granted, self.size) - offset:
            raise ProtocolError(
                f"chunk of {len(rest)} bytes at {offset}: {granted} of {self.size} are granted"
            )
        while rest:
            index, size = self._to_fill[self._current]
            if self._filled == 0:
                self._parts[index] = blocks.take(size)
            piece = rest[: size - self._filled]
            memoryview(self._parts[index])[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            self.received += len(piece)
            rest = rest[len(piece) :]
            if self._filled == size:
                self._current += 1
                self._filled = 0
        return True

    def objects(self) -> list[Packed]:
        """The objects: streams as bytes, buffers as writable memory. Only when nothing is missing."""
        if self.missing:
            raise RuntimeError(f"{self.missing} bytes are still missing")
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


def unpack(body: bytes, frames: Sequence[Any], *, nobjects: int) -> Unpacked:
    """Read a parcel's body.

    Raises:
        ProtocolError: it is not a parcel of `nobjects` objects that owns exactly these frames.
    """
    try:
        counts, descriptors, options = msgpack.unpackb(
            body, use_list=False, max_bin_len=MAX_HEADER_BYTES, strict_map_key=True
        )
        if not (type(counts) is type(descriptors) is tuple and type(options) is dict):
            raise ProtocolError("parcel: not (counts, descriptors, options)")
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
    return Unpacked(counts, parts, to_fill, options)
