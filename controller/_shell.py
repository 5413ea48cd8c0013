"""The controller's shell: sockets, files and the clock around the state machine. It decides nothing.

Messages in, effects out, one timer: whatever arrives in one turn of the loop is fed to the machine, then
its effects are performed in order and the timer is set to its next deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from directview._loop_watch import LoopWatch
from directview._trace_writing import TRACE_FOLDER, Tracer
from directview.controller._detached import Box, Limits
from directview.controller._effects import (
    Admit,
    Effect,
    Expel,
    Finish,
    Keep,
    Lookup,
    Note,
    Persist,
    Record,
    Rotate,
    Send,
)
from directview.controller._listening import Listening
from directview.controller._metrics import serve_metrics
from directview.controller._refusals import Refusals
from directview.controller._registry import Engine
from directview.controller._state import Controller, Settings
from directview.controller._status import answer
from directview.controller._store import Store
from directview.controller._trimming import Trimming, one_heap
from directview.controller.options import ControllerOptions
from directview.controller.takeover import Registered, Takeover, remove_takeover
from directview.folders import ProfileLock, stop_reason_file
from directview.wire.link import Heartbeat
from directview.wire.messages import Hello, ProtocolError, Query, decode, frames_of
from directview.wire.router import RouterLink

__all__ = ["ControllerShell"]

log: Final = logging.getLogger("directview.controller")

_METRICS_PATIENCE: Final = 5.0
_AGAIN: Final = 1.0
"""Seconds until another attempt to write down who is there."""
_FAREWELL: Final = 0.2
"""Seconds for the last messages to leave before the sockets close."""


def _grace(options: ControllerOptions) -> float:
    """Seconds that an engine whose connection is lost has to come back, or to be reported as ended.

    A frozen one is missed after `heartbeat_interval` + `heartbeat_timeout` at the latest, and its calls are
    to end within one and a half timeouts: most of what is left of that.
    """
    return max(0.8 * (options.heartbeat_timeout / 2 - options.heartbeat_interval), 0.1)


class ControllerShell:
    """One controller process.

    Args:
        options: what it was told at its start.
    """

    def __init__(self, options: ControllerOptions) -> None:
        self._options = options
        self._folder = Path(options.folder)
        self._lock = ProfileLock(self._folder, options.profile or options.cluster_id)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._parent = os.getppid()
        self._again: asyncio.TimerHandle | None = None
        self._store: Store | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self._end_metrics: Callable[[], None] | None = None
        self._summing_up: asyncio.TimerHandle | None = None
        self._closed = False

    async def run(self) -> None:
        """Bind, write the connection files, say so, and serve until told to end.

        Raises:
            DirectViewError, OSError: it can't start; the text says why.
        """
        self._lock.acquire()
        stop_reason_file(self._folder).unlink(missing_ok=True)  # of one that was killed
        try:
            await self._serve()
        finally:
            self._lock.release()

    async def _serve(self) -> None:
        one_heap()
        options = self._options
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._finished = asyncio.Event()
        self._earlier = self._left_behind()
        known, incarnation = self._read_ids()
        if options.store is not None:
            self._store = Store(options.store, resumes=options.policy == "wait")
        lease = options.lease if options.policy == "wait" else min(options.lease, 2.0)
        settings = Settings(
            options.cluster_id,
            incarnation,
            options.policy,
            engine_grace=lease if options.policy == "wait" else _grace(options),
            lease=lease,
            epoch=time.time() - time.monotonic(),
            store=self._store is not None,
            stored=self._store.last if self._store is not None else 0,
            detached=Limits(options.detached_results, options.detached_bytes, options.detached_age),
        )
        box = Box(settings.detached, self._store.kept() if self._store is not None else ())
        self._machine = Controller(settings, time.monotonic(), known, box)
        self._meter = self._machine.meter
        self._tracer = self._begin_to_trace()
        self._refusals = Refusals()
        self._watch = LoopWatch(log, "the controller's loop")
        self._router = RouterLink(
            on_message=self._arrived,
            on_lost=self._lost,
            on_turn=self._turn,
            on_refused=self._refused,
            heartbeat=Heartbeat(options.heartbeat_interval, options.heartbeat_timeout),
        )
        self._listening = Listening(options, self._router, self._earlier)
        self._trimming = Trimming(loop, lambda: self._meter.bytes_in)
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._signalled, f"its controller got {number.name}")
            self._listening.open()
            if options.metrics:
                self._end_metrics = serve_metrics(options.metrics, self._status_for_metrics)
            self._say_ready()
            self._watch.start()
            self._trimming.look()
            self._turn()
            await self._finished.wait()
            await asyncio.sleep(_FAREWELL)
        finally:
            self._closed = True
            self._watch.close()
            self._trimming.close()
            for timer in (self._timer, self._again, self._summing_up):
                if timer is not None:
                    timer.cancel()
            self._router.close()
            if self._tracer is not None:
                self._tracer.close()
            if self._end_metrics is not None:
                await asyncio.to_thread(self._end_metrics)
            if self._finished.is_set() or options.policy == "stop":
                self._remove_files()
            if self._store is not None:
                record = self._machine.history.unwritten()
                if record is not None:
                    self._store.write(record)
                self._store.close()

    def _remove_files(self) -> None:
        """All but the logs. After a failure under policy ``wait`` they stay: another one is to take over."""
        self._listening.socket.unlink(missing_ok=True)
        stop_reason_file(self._folder).unlink(missing_ok=True)
        for path in self._listening.files.values():
            path.unlink(missing_ok=True)
        remove_takeover(self._folder)

    # --- starting -----------------------------------------------------------------------------------

    def _say_ready(self) -> None:
        contents = {role: str(path) for role, path in self._listening.files.items()}
        if self._options.ready_fd >= 0:
            with contextlib.suppress(BrokenPipeError), open(self._options.ready_fd, "w") as pipe:
                pipe.write(json.dumps(contents) + "\n")

    def _left_behind(self) -> Takeover | None:
        """What there is to take over, from a controller of this very cluster that has died."""
        if self._options.policy == "wait":
            earlier = Takeover.read(self._folder)
            if earlier is not None and earlier.cluster_id == self._options.cluster_id:
                return earlier
        remove_takeover(self._folder)
        return None

    def _read_ids(self) -> tuple[dict[bytes, int], int]:
        """What an earlier incarnation left, under policy ``wait``: engine ids and its number."""
        left = Registered.read(self._folder) if self._earlier is not None else None
        known = left.ids if left is not None else {}
        self._incarnation = left.incarnation + 1 if left is not None else 1
        self._generation = left.generation if left is not None else 0
        self._write_ids(known)
        if left is not None:
            engines = sum([id >= 0 for id in known.values()])
            log.warning("controller %d of this cluster takes over: %d engines and %d clients are known",
                        self._incarnation, engines, len(known) - engines)  # fmt: skip
        return known, self._incarnation

    def _write_ids(self, ids: dict[bytes, int]) -> None:
        if self._options.policy == "wait":
            # After a failure the same one again: the other file is whole.
            Registered(self._incarnation, ids, self._generation + 1).write(self._folder)
            self._generation += 1

    def _keep_ids(self, ids: dict[bytes, int]) -> None:
        """Write down who is there.

        Where that can't be done now (a full disk), the cluster goes on, and it is tried again: until then a
        controller that takes over would refuse nobody, but wait for nobody new.
        """
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            self._write_ids(ids)
        except OSError as error:
            log.error("who is there can't be written down in %s: %s", self._folder, error)
            self._again = self._loop.call_later(_AGAIN, self._keep_ids, ids)

    # --- feeding the machine ------------------------------------------------------------------------

    def _arrived(self, route: bytes, header: bytes, frames: Sequence[Any]) -> None:
        meter = self._meter
        meter.messages_in += 1
        meter.bytes_in += len(header) + sum(map(len, frames)) if frames else len(header)
        try:
            message = decode(header)
            if frames_of(message) != len(frames):
                raise ProtocolError(f"{type(message).__name__} with {len(frames)} frames")
        except ProtocolError as error:
            self._expel(route, str(error))
            return
        if isinstance(message, Query):
            self._read_watch()
        if self._tracer is not None:
            self._tracer.saw("in", message)
        if isinstance(message, Hello):
            self._machine.greet(route, message, self._router.user_of(route), time.monotonic())
        else:
            self._machine.receive(route, message, header, frames, time.monotonic())

    def _begin_to_trace(self) -> Tracer | None:
        """The folder that is there, or not, tells engines and clients of this machine whether to trace."""
        folder = self._folder / TRACE_FOLDER
        if self._options.policy != "wait" or not self._options.trace:
            shutil.rmtree(folder, ignore_errors=True)
        if not self._options.trace:
            return None
        folder.mkdir(mode=0o700, exist_ok=True)
        return Tracer("controller", folder / "controller.trace")

    def _trace_dispatched(self, tracer: Tracer, routes: Sequence[bytes], header: bytes) -> None:
        peers = [self._machine.registry.routes.get(route) for route in routes]
        engines = [peer.id for peer in peers if isinstance(peer, Engine)]
        if engines:
            tracer.saw("out", decode(header), engines)

    def _read_watch(self) -> None:
        self._meter.lag, self._meter.blocked = self._watch.longest(), self._watch.blocked

    def _status_for_metrics(self) -> dict[str, Any]:
        """The answer to the query ``status``; on another thread."""

        async def ask() -> dict[str, Any]:
            self._read_watch()
            found: dict[str, Any] = answer(self._machine, "status", {}, time.monotonic())
            return found

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(_METRICS_PATIENCE)

    def _lost(self, route: bytes, reason: str) -> None:
        self._machine.lost(route, reason, time.monotonic())
        self._turn()

    def _signalled(self, how: str) -> None:
        """The supervisor, where it is its doing, has left word of why; its own death says nothing more."""
        if self._options.ready_fd >= 0 and os.getppid() != self._parent:
            how = "its supervisor was killed"
        try:
            why = stop_reason_file(self._folder).read_text()
        except OSError:
            why = ""
        self._machine.shut_down(why or how)
        self._turn()

    def _tick(self) -> None:
        self._timer = None
        self._machine.tick(time.monotonic())
        self._turn()

    # --- performing its effects ---------------------------------------------------------------------

    def _turn(self) -> None:
        while self._machine.diary:
            log.info("%s", self._machine.diary.popleft())
        for effect in self._machine.flush():
            try:
                self._perform(effect)
            except Exception as error:  # noqa: BLE001 - what comes after it concerns others
                self._failed(effect, error)
        self._arm()

    def _perform(self, effect: Effect) -> None:
        meter = self._meter
        if self._tracer is not None and isinstance(effect, Send):
            self._trace_dispatched(self._tracer, effect.routes, effect.header)
        match effect:
            case Send((route,), header, frames):
                meter.messages_out += 1
                meter.bytes_out += len(header) + sum(map(len, frames)) if frames else len(header)
                self._router.send(route, header, frames)
            case Send(routes, header, frames):
                meter.messages_out += len(routes)
                meter.bytes_out += (len(header) + sum(map(len, frames))) * len(routes)
                self._router.send_many(routes, header, frames)
            case Admit(route):
                self._router.admit(route)
            case Expel(route, reason):
                self._expel(route, reason)
            case Note(text):
                log.warning("%s", text)
            case Persist(ids):
                self._keep_ids(ids)
            case Record() if self._store is not None:
                self._store.write(effect)
            case Keep() if self._store is not None:
                self._keep(self._store, effect)
            case Lookup() if self._store is not None:
                looking = self._loop.create_task(self._look_up(self._store, effect))
                self._looking.add(looking)
                looking.add_done_callback(self._looking.discard)
            case Rotate():
                self._rotate(effect)
            case Finish(reason):
                log.info("ending: %s", reason)
                self._finished.set()

    def _failed(self, effect: Effect, error: Exception) -> None:
        """An effect could not be performed: that is the end of what it was for, and of nothing else.

        Who was to get a message has lost it, so it loses its connection, too: what is missing is asked for on
        the next one.
        """
        log.error("%s could not be performed: %s", type(effect).__name__, error, exc_info=error)
        if isinstance(effect, Send):
            for route in effect.routes:
                self._expel(route, f"a message to it could not be sent: {error}")
        elif isinstance(effect, Keep):
            self._loop.call_soon(self._kept, effect)

    def _expel(self, route: bytes, reason: str) -> None:
        self._refused(self._router.address_of(route) or "the unix socket", reason, expelled=True)
        self._router.expel(route, reason)

    def _refused(self, address: str | None, reason: str, expelled: bool = False) -> None:
        """Somebody was not let in, or is cut off. A flood of them must not fill the log."""
        now = time.monotonic()
        for line in self._refusals.add(address, reason, now, expelled=expelled):
            log.warning("%s", line)
        if self._summing_up is None and self._refusals.due is not None:
            self._summing_up = self._loop.call_later(self._refusals.due - now, self._sum_up)

    def _sum_up(self) -> None:
        self._summing_up = None
        for line in self._refusals.sum_up():
            log.warning("%s", line)

    def _rotate(self, rotate: Rotate) -> None:
        """Only for whoever has come by the unix socket: the new keys lie on this machine."""
        if self._router.user_of(rotate.route) is not None:
            self._machine.answered(rotate, False, "keys are replaced on the controller's machine")
            return
        try:
            self._machine.answered(rotate, True, self._listening.rotate(rotate.disconnect))
        except (ValueError, OSError) as error:
            self._machine.answered(rotate, False, str(error))

    def _keep(self, store: Store, keep: Keep) -> None:
        store.keep(keep, lambda: self._loop.call_soon_threadsafe(self._kept, keep))

    def _kept(self, keep: Keep) -> None:
        """What is written while the store is closed is nobody's affair any more."""
        if not self._closed:
            self._machine.kept(keep)
            self._turn()

    async def _look_up(self, store: Store, lookup: Lookup) -> None:
        self._machine.answered(lookup, *await store.find(lookup))
        self._turn()

    def _arm(self) -> None:
        deadline = self._machine.next_deadline()
        if self._timer is not None:
            if deadline is not None and abs(self._timer_at - deadline) < 1e-3:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer_at = deadline
            self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._tick)
