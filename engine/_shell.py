"""The engine's shell: the loop, the session and the signals around state machine and runner.

Calls start in arrival order. Before each start, what has arrived in the meantime is read, so that an abort
is not stuck behind the calls that it was to prevent; after a few milliseconds of calls in a row the loop
gets its turn, so that coroutines and timers are not starved by a flood of plain calls.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from directview import _stream_calls, connection, operations
from directview._log_writing import ProcessLog
from directview._loop_watch import LoopWatch
from directview._trace_writing import tracer_of
from directview.engine import _forked, _output
from directview.engine._interrupt import STACK_SIGNAL, Interrupts
from directview.engine._namespace import Namespace
from directview.engine._on_start import ON_START, run_on_start
from directview.engine._outbox import Outbox
from directview.engine._runner import Runner
from directview.engine._stacks import Stacks, ignore_stack_signal
from directview.engine._state import EngineState
from directview.engine._steps import Steps
from directview.engine._streams import Streams
from directview.engine._untaken import most_untaken
from directview.engine.options import EngineOptions
from directview.folders import folder_of_file
from directview.wire.arena import arena
from directview.wire.curve import CurveKeys
from directview.wire.host import proof
from directview.wire.link import Heartbeat
from directview.wire.messages import PROTOCOL_VERSION, Chunk, Goodbye, Hello, Message, Stop, Welcome
from directview.wire.session import Session

__all__ = ["EngineShell"]

log: Final = logging.getLogger("directview.engine")

_LOOK: Final = 0.0001
"""Seconds from one look for messages to the next, while quick calls wait: each look takes a system call."""
_SLICE: Final = 0.002
"""Seconds of plain calls in a row before the loop gets its turn."""
_SEND_PATIENCE: Final = 0.5
"""Seconds for which the next call waits while large results are being taken by their clients."""
_FAREWELL: Final = 0.5


class EngineShell:
    """One engine process.

    Args:
        options: what it was told at its start.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._state = EngineState(memory=arena(), most_untaken=most_untaken(os.environ))
        self._state.uuid = options.uuid_bytes
        self._namespace = Namespace()
        self._steps = Steps(self._namespace, self._state.lent, self._keep_lent)
        self._interrupts = Interrupts(self._steps, options.interrupt_fd)
        self._outbox = Outbox(self._state, self._interrupts.shield)
        self._context = contextvars.copy_context()
        """In which all calls run, whatever woke the loop: operations find the namespace in it."""
        self._incarnation = 0
        self._working = False
        self._yielding = False
        self._heard = 0
        """Messages so far."""
        self._held_since: float | None = None
        self._waited_for: dict[bytes, float] = {}
        """Clients some of whose results wait until others have been taken, and since when."""
        self._reason = ""
        self._log: ProcessLog | None = None
        self._stacks: Stacks | None = None
        folder = Path(options.folder) if options.folder else folder_of_file(options.connection)
        self._tracer = tracer_of("engine", folder, f"engine-{options.uuid[:12]}")
        self._watch = LoopWatch(
            log, "the engine's loop", lambda: self._working or self._steps.plain, signals=(STACK_SIGNAL,)
        )
        self._open_files(folder)

    def _open_files(self, folder: Path | None) -> None:
        """Our own log, apart from the user's logging, and what else lies in the cluster's folder.

        An engine that is far from that folder has none.
        """
        if folder is not None:
            options = self._options
            name = f"engine-{options.uuid[:12]}"
            log.propagate = False
            self._log = ProcessLog("engine", folder / f"{name}.jsonl", options.log_level, log.name)
            self._stacks = Stacks(folder / f"{name}.stack", self._name_of)

    def _name_of(self, call: tuple[bytes, int]) -> str:
        return f"call {call[0].hex()}_{call[1]}_{self._state.id}"

    async def run(self) -> str:
        """Register, and run calls until told to end.

        Returns:
            Why it ended.

        Raises:
            ControllerUnreachable, ConnectionRejected: it could not register.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._runner = Runner(
            self._state, self._namespace, self._steps, self._interrupts, self._outbox, self._turn
        )
        self._streams = Streams(
            self._steps, self._namespace, self._outbox, self._interrupts.shield, self._runner,
            lambda: bool(self._state.lent),
        )  # fmt: skip
        self._context.run(_stream_calls.bind, self._streams)
        self._prepare(loop)
        info = connection.load(self._options.connection)
        keys = None
        if info.server_public and info.public and info.secret:
            keys = CurveKeys(info.server_public, info.public, info.secret)
        self._session = Session(
            addresses=info.addresses,
            where=info.where,
            keys=keys,
            hello=lambda again: self._hello(info.cluster_id, again),
            on_welcome=self._welcomed,
            on_message=self._arrived,
            on_turn=self._turn,
            on_lost=self._lost,
            on_gone=self._end,
            heartbeat=Heartbeat(self._options.heartbeat_interval, self._options.heartbeat_timeout),
            reconnect_timeout=self._options.reconnect_timeout,
            awaited=info.is_current,
        )
        if self._tracer is not None:
            self._session.tap = self._tracer.saw
        self._outbox.attach(self._session)
        if self._log is not None:
            self._watch.start()
        try:
            if self._options.on_start:
                await self._context.run(self._start, loop)
            await self._session.open(self._options.connect_timeout, patient=info.resilient)
            while not self._ended.is_set():
                try:
                    await self._ended.wait()
                except asyncio.CancelledError:
                    pass  # By a call that cancels whatever task it finds: the engine is not its to end.
            self._session.send(Goodbye(self._reason))
        finally:
            self._outbox.close()
            self._session.close(_FAREWELL)
            self._watch.close()
            if self._tracer is not None:
                self._tracer.close()
            if self._stacks is not None:
                self._stacks.close()
            if self._log is not None:
                self._log.close()
        return self._reason

    def _start(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """What the user wants done first, where operations find the namespace, too."""
        operations.bind(
            self._namespace.names, engine_id=self._options.wanted_id, engine_uuid=self._options.uuid
        )
        return loop.create_task(run_on_start(self._options.on_start, self._steps, self._namespace))

    def _owner(self) -> object | None:
        """Whose a print is: what is done first is nobody's."""
        owner = self._steps.owner()
        return None if owner is ON_START else owner

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the process an engine: namespace, output, signals."""
        self._namespace.install()
        self._steps.install_task_factory(loop)
        self._interrupts.install()
        _output.capture(self._owner, self._outbox.printed, self._outbox.flushed)
        # Twice: the loop is woken and ends, and if a call blocks it, that call is interrupted first.
        loop.add_signal_handler(signal.SIGTERM, self._end, "it received SIGTERM")
        signal.signal(signal.SIGTERM, self._told_to_end)
        if self._stacks is not None:
            self._stacks.install(loop)
        else:
            ignore_stack_signal()
        _forked.ignore_interrupts()
        _forked.watch(self._outbox.forked)

    def _hello(self, cluster: str, again: bool) -> Hello:
        options = self._options
        return Hello(
            PROTOCOL_VERSION,
            "engine",
            options.uuid_bytes,
            cluster,
            self._incarnation,
            self._state.id if again else options.wanted_id,
            options.supervisor_bytes,
            again,
            os.getpid(),
            socket.gethostname(),
            platform.python_version(),
            proof(),
        )

    # --- the session --------------------------------------------------------------------------------

    def _welcomed(self, message: Welcome) -> None:
        again = self._state.id >= 0
        self._incarnation = message.incarnation
        self._state.id = message.id
        if self._log is not None:
            self._log.called(f"engine.{message.id}")
        if self._tracer is not None:
            self._tracer.process = f"engine.{message.id}"
        log.info("%s as engine %d: process %d", "back" if again else "registered", message.id, os.getpid())
        uuid = self._options.uuid
        self._context.run(operations.bind, self._namespace.names, engine_id=message.id, engine_uuid=uuid)
        if again:
            with self._outbox.lock:
                for resume in self._state.resume():
                    self._session.send(resume)

    def _arrived(self, message: Message, frames: Sequence[Any]) -> None:
        self._heard += 1
        if isinstance(message, Stop):
            self._end(message.reason)
            return
        with self._outbox.lock:
            self._state.receive(message, frames)
        if type(message) is Chunk and message.place >= 0:
            self._outbox.flush()  # Its sender waits for the slot, and there may be many more in this turn.

    def _lost(self, reason: str) -> None:
        log.info("the connection to the controller was lost: %s", reason)
        with self._outbox.lock:
            self._state.link_lost()

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        self._interrupts.end()

    def _end(self, reason: str) -> None:
        if not self._ended.is_set():
            log.info("ending: %s", reason)
        self._reason = self._reason or reason
        self._ended.set()

    # --- work ---------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Messages have come, or a call has ended: run what may run, send what there is to say."""
        if not self._working and not self._yielding:
            self._working = True
            try:
                self._context.run(self._work)
            finally:
                self._working = False

    def _keep_lent(self) -> None:
        """User code is about to run."""
        with self._outbox.lock:
            try:
                self._state.keep_lent()
            except MemoryError:
                self._state.lent.clear()
                log.warning("no memory to keep large results that are being sent: calls may change them")

    def _yield(self) -> None:
        """Let the loop turn once. Not even a message that arrives right now starts a call before it has."""
        self._yielding = True
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._yielding = False
        self._turn()

    def _work(self) -> None:
        now = time.perf_counter()
        until = now + _SLICE
        next_look = now
        state = self._state
        while not (self._ended.is_set() or self._steps.ending):
            if state.idle or now >= next_look:
                self._read_everything()
                next_look = now + _LOOK
            while state.to_cancel:
                self._runner.cancel(state.to_cancel.pop())
            while state.gone:
                self._streams.close_client(state.gone.pop())
            if self._must_wait_for_takers() or (state.behind and self._must_catch_up()):
                break
            with self._outbox.lock:
                call = state.next_call()
            if call is None:
                break
            # A coroutine takes its first step before the next call starts: the loop has to turn.
            suspended = self._runner.start(call)
            now = time.perf_counter()
            if suspended or now > until:
                self._yield()
                break
        self._outbox.flush()

    def _read_everything(self) -> None:
        """Read all that has arrived: the abort of the next call may lie behind many other messages."""
        heard = -1
        while heard != self._heard:
            heard = self._heard
            link = self._session.link
            if link is not None:
                link.poll()

    def _must_catch_up(self) -> bool:
        """The next call may block the loop for long, and clients want the results that wait.

        A client that reads has soon taken what was sent. One that does not is waited for once.
        """
        behind, waited = self._state.behind, self._waited_for
        if self._state.idle:
            return False
        now = time.monotonic()
        for uuid in [uuid for uuid in waited if uuid not in behind]:
            del waited[uuid]
        for uuid in behind:
            if uuid not in waited:
                waited[uuid] = now
                self._loop.call_later(_SEND_PATIENCE, self._turn)
        return any([now - since < _SEND_PATIENCE for since in waited.values()])

    def _must_wait_for_takers(self) -> bool:
        """The next call may change what earlier results refer to, and blocks the loop: let those out first.

        Whoever takes longer than that gets a copy, which is made then.
        """
        if not self._state.lent or self._state.idle:
            self._held_since = None
            return False
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
            self._loop.call_later(_SEND_PATIENCE, self._turn)
        return now - self._held_since < _SEND_PATIENCE
