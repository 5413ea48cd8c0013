"""What user code prints, on its way to the client.

`sys.stdout` and `sys.stderr` of an engine give each write to the call that made it: the call that the step
driver has put into the context, also in threads and tasks that inherit it; a thread that inherits nothing
counts for the plain call that is running. What belongs to no call, and what C code writes to the
descriptors 1 and 2, goes to the engine's log.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

__all__ = ["CallStream", "capture"]


class CallStream(io.TextIOBase):
    """A text stream whose writes go to the call that is running.

    Args:
        name: ``stdout`` or ``stderr``.
        fallback: where text of no call goes: the stream that this one replaces.
        owner: the call that is running in this context, or None.
        printed: takes (call, name, text).
        flushed: takes the call: what it has printed is to go now.
    """

    def __init__(
        self,
        name: str,
        fallback: TextIO,
        owner: Callable[[], Any],
        printed: Callable[[Any, str, str], None],
        flushed: Callable[[Any], None],
    ) -> None:
        self._name = name
        self._fallback = fallback
        self._owner = owner
        self._printed = printed
        self._flushed = flushed
        self._pid = os.getpid()
        self.buffer = _BytesStream(self)

    @property
    def name(self) -> str:
        """As of an ordinary standard stream."""
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Nothing is refused."""
        return "backslashreplace"

    def write(self, text: str) -> int:
        """Give `text` to the running call's client, while the call runs."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        owner = self._owner() if os.getpid() == self._pid else None
        if owner is None:
            return self._fallback.write(text)
        if text:
            self._printed(owner, self._name, text)
        return len(text)

    def writelines(self, lines: Iterable[Any], /) -> None:
        """Write each of `lines`, together."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Send now what would be sent soon by itself."""
        owner = self._owner() if os.getpid() == self._pid else None
        if owner is None:
            self._fallback.flush()
        else:
            self._flushed(owner)

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """There is no terminal."""
        return False

    def fileno(self) -> int:
        """The log's descriptor, for child processes that are given this stream."""
        return self._fallback.fileno()


class _BytesStream(io.RawIOBase):
    """`sys.stdout.buffer`: bytes that are text in UTF-8."""

    def __init__(self, stream: CallStream) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._stream.write(self._decode(bytes(data)))
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


def capture(
    owner: Callable[[], Any], printed: Callable[[Any, str, str], None], flushed: Callable[[Any], None]
) -> None:
    """Put call streams in the place of this process's standard streams."""
    sys.stdout = CallStream("stdout", sys.stdout, owner, printed, flushed)
    sys.stderr = CallStream("stderr", sys.stderr, owner, printed, flushed)
