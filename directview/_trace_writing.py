"""Where each call is, hop by hop, written down by every process that it passes; only if tracing is on.

It is on for a cluster whose folder holds a folder ``trace``, which the controller makes (``--trace``): so
clients and engines of that machine know without a word in the protocol. Each process appends to a file of its
own there, one line for each call and hop; nothing is sent, so it works for a process that is blocked or dead,
and `directview._trace_reading` puts the story together. Where tracing is off, a message costs one look at an
attribute, and a call nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TextIO

from directview.wire.messages import (
    Abort,
    Accept,
    Ack,
    Lost,
    Message,
    Output,
    Result,
    ResultItem,
    Submit,
)

__all__ = ["TRACE_FOLDER", "Tracer", "tracer_of"]

TRACE_FOLDER: Final = "trace"
FILE_BYTES: Final = 16 << 20
"""Of one file; the one before it is kept too."""

_SAYS: Final = {
    ("client", "out", Submit): "sent",
    ("client", "in", Accept): "told that the engine has it",
    ("client", "in", Output): "output received",
    ("client", "in", Result): "received",
    ("client", "out", Abort): "cancelled",
    ("client", "in", Lost): "told that it is lost",
    ("controller", "in", Submit): "queued",
    ("controller", "out", Submit): "dispatched",
    ("controller", "in", Accept): "accepted",
    ("controller", "in", Output): "output passed on",
    ("controller", "in", Result): "result passed on",
    ("controller", "in", Abort): "cancelled",
    ("engine", "in", Submit): "arrived",
    ("engine", "out", Accept): "accepted",
    ("engine", "out", Output): "printed",
    ("engine", "out", Result): "answered",
    ("engine", "in", Abort): "told to end it",
}
"""What it means for a call that a process sees a message about it."""

Line = tuple[int, int, str, float]
"""seq, engine, what, and when."""


def tracer_of(role: str, folder: Path | None, stem: str) -> Tracer | None:
    """The tracer of a client or engine; None where its cluster isn't traced, or isn't on this machine.

    Args:
        role: ``client`` or ``engine``.
        folder: the cluster's; None: it is not on this machine.
        stem: of its file's name.
    """
    if folder is None or not (folder / TRACE_FOLDER).is_dir():
        return None
    return Tracer(role, folder / TRACE_FOLDER / f"{stem}.trace")


class Tracer:
    """Writes what one process sees.

    Args:
        role: ``client``, ``controller`` or ``engine``.
        path: of its file.
    """

    def __init__(self, role: str, path: Path) -> None:
        self._role = role
        self._path = path
        self._file: TextIO | None = None
        self._size = 0
        self._watermarks: dict[bytes, int] = {}
        self.process = role
        """What it is called in the story."""
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags, 0o600)
            self._size = os.fstat(fd).st_size
            self._file = os.fdopen(fd, "a", encoding="ascii")
        except OSError:
            self._file = None  # The folder has gone with the cluster.

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def saw(self, way: str, message: Message, engines: Iterable[int] = ()) -> None:
        """A message came or goes.

        Args:
            way: ``in`` or ``out``.
            message: it.
            engines: the engines that it goes to, where it does not say so.
        """
        if isinstance(message, Submit | Ack):
            self._watermark(message.client, message.watermark)
        what = _SAYS.get((self._role, way, type(message)))
        if what is not None:
            client: bytes = message.client  # type: ignore[union-attr]
            self._write(client, _calls_of(message, what, tuple(engines)))

    def given(self, client: bytes, task: int, call: int, engine: int) -> None:
        """A load-balanced task is given to an engine, as a call of another number."""
        self._write(
            client, [(task, -1, f"given as {call}", time.time()), (call, engine, "made", time.time())]
        )

    def _watermark(self, client: bytes, watermark: int) -> None:
        if self._watermarks.get(client) != watermark:
            self._watermarks[client] = watermark
            self._write(client, [(watermark, -1, "watermark", time.time())])

    def _write(self, client: bytes, lines: Iterable[Line]) -> None:
        file = self._file
        if file is None:
            return
        name, process = client.hex(), self.process
        text = "".join([f"{when:.6f} {name}_{seq} {id} {process} {what}\n" for seq, id, what, when in lines])
        try:
            file.write(text)
            file.flush()
        except OSError:
            return  # The disk is full: the story has a gap.
        self._size += len(text)
        if self._size > FILE_BYTES:
            self.close()
            try:
                self._path.rename(self._path.with_name(f"{self._path.name}.1"))
            except OSError:
                return
            self._open()


def _calls_of(message: Message, what: str, engines: tuple[int, ...]) -> Iterator[Line]:
    """What is to be written of each call that a message is about."""
    now = time.time()
    match message:
        case Submit(_, _, calls):
            for call in calls:
                for id in engines or call.targets:
                    yield call.seq, id, what, now
        case Accept(_, id, started, held):
            for seq in started:
                yield seq, id, f"{what}, it runs as a coroutine", now
            for seq in held:
                yield seq, id, what, now
        case Result(_, id, items):
            for item in items:
                yield from _of_result(item, id, what, now)
        case Output(_, id, seq, number):
            yield seq, id, f"{what}, piece {number}", now
        case Abort(_, seqs):
            for id, some in seqs:
                for seq in some:
                    yield seq, id, what, now
        case Lost(client=_, engine=id, started=started, queued=queued):
            for seq in (*started, *queued):
                yield seq, id, what, now
        case _:
            pass


def _of_result(item: ResultItem, id: int, what: str, now: float) -> Iterator[Line]:
    if what == "answered" and item.started:
        yield item.seq, id, "started", item.started
    if what == "answered" and item.completed:
        yield item.seq, id, "completed", item.completed
    yield item.seq, id, what, now
