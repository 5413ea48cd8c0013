"""A pickle in pieces: large bytes, bytearrays and strings beside the stream instead of in it. Pure.

A pickler asks nobody about exact bytes, bytearrays and strings, so no reducer can put them out of band. With
a hook that is asked about everything (``persistent_id``) a list of numbers takes seven times as long. But the
pickler hands a payload of 64 KiB and more to its file uncopied and by itself, right behind its opcode and
length. Here these are replaced by opcodes that make the same object of the next out-of-band buffer.

What comes out is a plain pickle for any unpickler. The memo, and so sharing and recursion, is as it was: its
opcodes come behind the payload. 100 MB of bytes are taken apart in 20 µs instead of 44 ms.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, Final

from directview.wire.parcels import Packed

__all__ = ["PAYLOAD_BYTES", "Pieces", "assemble"]

PAYLOAD_BYTES: Final = 256 << 10
"""Smallest one that travels beside the stream. Pickles of functions are kept only if nothing does."""

_PROTO_BYTES: Final = 2
_FRAME_BYTES: Final = 9
_UNFRAMED_BYTES: Final = 3
"""What is shorter than four bytes gets no frame."""


def _call(name: str, *more: str) -> bytes:
    """Opcodes that call a builtin with the next buffer, and short strings behind it."""
    strings = [pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in more]
    tuple_of = (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)[len(more)]
    return (
        pickle.GLOBAL + f"builtins\n{name}\n".encode()
        + pickle.NEXT_BUFFER + b"".join(strings) + tuple_of + pickle.REDUCE
    )  # fmt: skip


_MAKES: Final = {
    **dict.fromkeys((pickle.BINBYTES, pickle.BINBYTES8), _call("bytes")),
    pickle.BYTEARRAY8: _call("bytearray"),
    # As a pickler encodes strings, lone surrogates too.
    **dict.fromkeys((pickle.BINUNICODE, pickle.BINUNICODE8), _call("str", "utf-8", "surrogatepass")),
}
"""What stands in the stream instead of each opcode, its length and its payload."""


class Pieces(list[Any]):
    """A pickler's file: a list of what is written to it. `assemble` wants the buffers in it too."""

    __slots__ = ()

    write = list.append


def assemble(pieces: Sequence[Any]) -> Packed:
    """The pickle that was written, and its buffers.

    Args:
        pieces: what a pickler of protocol 5 wrote, and between it, as memoryviews, the buffers that its
            callback took out of band.
    """
    stream: list[Any] = []
    buffers: list[memoryview] = []
    header = b""
    for piece in pieces:
        if type(piece) is memoryview:
            buffers.append(piece)
        elif header:
            if type(piece) is pickle.PickleBuffer:  # one that the callback left in band
                piece = piece.raw()
            if len(piece) >= PAYLOAD_BYTES:
                stream[-1] = stream[-1][: -len(header)] + _MAKES[header[:1]]
                buffers.append(memoryview(piece))
            else:
                stream.append(piece)
            header = b""
        else:
            header = _header(piece, first=not stream)
            stream.append(piece)
    return Packed(b"".join(stream), buffers)


def _header(piece: bytes, *, first: bool) -> bytes:
    """Opcode and length at the end of a piece that is followed by a payload; empty if it isn't.

    A piece is a whole frame, after which the pickler has written to its file, or what comes between two
    frames. Only the header of a payload can stand behind a frame, so data that look like one don't matter.
    """
    at = _PROTO_BYTES if first else 0
    if piece[at : at + 1] == pickle.FRAME:
        at += _FRAME_BYTES + int.from_bytes(piece[at + 1 : at + _FRAME_BYTES], "little")
    # At most three bytes without a frame, then an opcode, and a length of four bytes or of eight.
    rest = len(piece) - at
    size = 0 if rest < 5 else 5 if rest <= 5 + _UNFRAMED_BYTES else 9
    header = piece[len(piece) - size :] if size else b""
    return header if header[:1] in _MAKES else b""
