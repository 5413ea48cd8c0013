"""The client's shell: one loop, one session, and the state machine between calls and results.

Calls are made on any thread: serialised there, numbered under a lock, put into an inbox, and the loop is
woken once per burst (a portal call for each was measured at 5,300 submissions/s, this at 131,000). All else
happens on the loop's thread. A call that is made there by a task, when there is no other, is sent at once;
and so are many, a few dozen at a time, so that engines begin while the others are being made.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from directview._balancing_tasks import Task
from directview._client_calls import earlier
from directview._client_receiving import Adjacent
from directview._client_state import (
    Answered,
    Call,
    ClientState,
    Ended,
    EnginesChanged,
    Event,
    Gone,
    Printed,
    Sent,
)
from directview._delivering import Deliveries, place
from directview._detached_calls import hand_over
from directview._dispatching import ANYWHERE, Dispatching, Wishes
from directview._loop_watch import LoopWatch
from directview._memory import Memory
from directview._observers import Observers
from directview._trace_writing import tracer_of
from directview.connection import ConnectionInfo
from directview.errors import (
    ClientClosed,
    ControllerLost,
)
from directview.folders import folder_of_file
from directview.partition import Joining
from directview.result import AsyncResult
from directview.wire.arena import arena
from directview.wire.curve import CurveKeys
from directview.wire.host import proof
from directview.wire.link import CLIENT
from directview.wire.messages import (
    PROTOCOL_VERSION,
    Chunk,
    Engines,
    Hello,
    Message,
    Stop,
    Welcome,
)
from directview.wire.parcels import Parcel
from directview.wire.postmortem import deaths
from directview.wire.session import Session

__all__ = ["Core", "Request"]

log: Final = logging.getLogger("directview.client")

_FAREWELL: Final = 1.0
_BURST: Final = 64
"""Calls that are sent together, where the loop's thread goes on making calls."""

Slots = tuple[tuple[int, int], ...]
"""(seq, engine id) of the calls that make up one result."""
Request = tuple[tuple[int, ...], Parcel]
"""What one call consists of: its targets and its payload."""
_Posted = Callable[[], None] | tuple[Sequence[Request], Slots, str, AsyncResult[Any]]


class Core(Deliveries):
    """Everything of a client that lives on its loop. Made on that loop's thread.

    Args:
        info: where the controller is.
        reconnect_timeout: seconds to wait for another controller under policy ``wait``.
    """

    def __init__(self, info: ConnectionInfo, reconnect_timeout: float) -> None:
        self.uuid = uuid.uuid4().bytes
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.observers = Observers()
        self.memory = Memory()
        self._info = info
        self._state = ClientState(self.uuid, memory=arena())
        self.lock = threading.Lock()
        self._seqs = itertools.count(1)
        self._inbox: list[_Posted] = []
        self._woken = False
        self._sending = False
        """Calls are being sent in the middle of a turn."""
        self._queries: dict[int, concurrent.futures.Future[Any]] = {}
        self._query_numbers = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False
        self._stopped = ""
        self._engines_changed = asyncio.Event()
        self.balanced = Dispatching(self)
        self.watch = LoopWatch(log, "the client's loop", level=logging.INFO)
        """To be started where the loop is the client's own. A burst of calls may keep it for a while, so
        it is no warning, which a program without logging would print."""
        self.engines = {}
        self.returning = frozenset()
        keys = None
        if info.server_public and info.public and info.secret:
            keys = CurveKeys(info.server_public, info.public, info.secret)
        self._session = Session(
            addresses=info.addresses,
            where=info.where,
            keys=keys,
            hello=self._hello,
            on_welcome=self._welcomed,
            on_message=self._arrived,
            on_turn=self._turn,
            on_lost=self._lost,
            on_gone=self._gone,
            heartbeat=CLIENT,
            reconnect_timeout=reconnect_timeout,
            awaited=info.is_current,
        )

        self._tracer = tracer_of(
            "client", folder_of_file(info.source), f"client-{os.getpid()}-{self.uuid.hex()[:8]}"
        )
        if self._tracer is not None:
            self._session.tap = self._tracer.saw

    # --- the connection -----------------------------------------------------------------------------

    async def open(self, timeout: float) -> None:
        """Connect. Raises what `Session.open` raises."""
        await self._session.open(timeout, patient=self._info.resilient)

    def _hello(self, again: bool) -> Hello:
        return Hello(
            PROTOCOL_VERSION,
            "client",
            self.uuid,
            self._info.cluster_id,
            self._state.incarnation,
            -1,
            b"",
            again,
            os.getpid(),
            socket.gethostname(),
            platform.python_version(),
            proof(),
        )

    def _welcomed(self, message: Welcome) -> None:
        log.info("client %s is connected to cluster %s", self.uuid.hex()[:12], self._info.cluster_id)
        self._state.welcome(message)
        self._note_engines()
        self.observers.changed(self.engines)
        self._turn()

    def _lost(self, reason: str) -> None:
        log.info("connection to the controller lost: %s", reason)
        self._state.link_lost()

    def _gone(self, reason: str) -> None:
        """No controller any more: everything outstanding ends."""
        self._stopped = self._stopped or f"the controller at {self._info.where} is gone: {reason}"
        log.info("client %s gives up: %s", self.uuid.hex()[:12], self._stopped)
        self._take_inbox()
        self._abandon()
        self._fail_queries(ControllerLost(self._stopped))
        self.engines = {}
        self._engines_changed.set()
        self.observers.changed({}, reason=self._stopped)
        self.observers.close()

    def _fail_queries(self, error: Exception) -> None:
        queries, self._queries = self._queries, {}
        for future in queries.values():
            if not future.done():
                future.set_exception(error)

    def _abandon(self) -> None:
        """Everything outstanding ends."""
        self._state.abandon(self._stopped)
        error = (ClientClosed if self._closed else ControllerLost)(self._stopped)
        self.balanced.abandon(error)
        self._process(self._state.events())
        # Tasks whose calls had not begun would go to other engines now.
        self.balanced.abandon(error)

    async def close(self) -> None:
        """Say goodbye and end; what is outstanding ends as `ClientClosed`. Safe to cancel and to repeat."""
        if self._closed:
            return
        await hand_over(self._state, lambda: self._session.link is not None)
        self._closed = True
        self.watch.close()
        self._take_inbox()
        self._stopped = self._stopped or "the client was closed"
        self._abandon()
        self._fail_queries(ClientClosed(self._stopped))
        self.observers.close()
        self._state.goodbye()
        for message, frames in self._state.flush():
            self._session.send(message, frames)
        if self._timer is not None:
            self._timer.cancel()
        self._session.close(_FAREWELL)
        if self._tracer is not None:
            self._tracer.close()

    # --- calls: any thread --------------------------------------------------------------------------

    def number(self, requests: Sequence[Request]) -> Slots:
        """Give new calls their numbers. Under `lock`, followed by `submit`.

        Args:
            requests: targets and payload of each.

        Returns:
            (seq, engine id) for each target of each call.

        Raises:
            ClientClosed: the client was closed.
            ControllerLost: the controller is gone.
        """
        if self._closed or self._stopped:
            raise ClientClosed(self._stopped) if self._closed else ControllerLost(self._stopped)
        if len(requests) == 1:
            seq = next(self._seqs)
            return tuple([(seq, id) for id in requests[0][0]])
        numbered = zip(requests, self._seqs, strict=False)
        return tuple([(seq, id) for (targets, _), seq in numbered for id in targets])

    def submit(
        self,
        requests: Sequence[Request],
        slots: Slots,
        name: str,
        result: AsyncResult[Any],
        time_limit: float | None = None,
    ) -> None:
        """Send calls that have been numbered. Under `lock`.

        Args:
            requests: the calls.
            slots: their numbers.
            name: what errors call them.
            result: where their answers go, slot by slot.
            time_limit: seconds from now after which they are to have ended.
        """
        self.memory.made(slots, result, requests)
        self._inbox.append((requests, slots, name, result))
        if time_limit is not None:
            self._inbox.append(partial(self._limit, result, time_limit, time.monotonic() + time_limit))
        if not self._sent_at_once(requests):
            self._wake()

    def _sent_at_once(self, requests: Sequence[Request]) -> bool:
        """Send the inbox now and not at the end of the turn, if this is a time for it. Under the lock.

        Args:
            requests: the last ones in it.

        Returns:
            Whether nothing is left for a turn to do.
        """
        inbox = self._inbox
        if len(inbox) < _BURST and (self._woken or len(inbox) > 1 or self._state.calls):
            return False
        # Only inside of a task is nobody in the middle of changing the state machine, but for ourselves.
        if (
            threading.get_ident() != self.thread
            or self._sending
            or asyncio.current_task(self.loop) is None
            or self._session.link is None
            or any([callable(item) for item in inbox])
        ):
            return False
        self._sending = True
        try:
            self._inbox = []
            self._take(inbox)
            self._send()
        finally:
            self._sending = False
        return all([id in self.engines for targets, _ in requests for id in targets])

    def submit_tasks(
        self,
        parcels: Sequence[Parcel],
        slots: Slots,
        name: str,
        result: AsyncResult[Any],
        wishes: Wishes,
        time_limit: float | None = None,
    ) -> None:
        """Put up tasks that have been numbered, as calls `ANYWHERE`. Under `lock`.

        Args:
            parcels: their payloads.
            slots: their numbers.
            name: what errors call them.
            result: where their answers go, slot by slot.
            wishes: what else is wanted of them.
            time_limit: seconds from now after which they are to have ended.
        """
        self.submit((), slots, name, result, time_limit)
        self._inbox.append(lambda: self.balanced.submit(parcels, name, result, wishes))
        self._wake()

    def call_engines(self, given: Sequence[tuple[Task, int]]) -> None:
        """Submit the calls by which engines are given tasks. On the loop's thread.

        Calls are submitted in the order of their numbers, which other threads may take meanwhile: so these
        go through the inbox as well, where another thread's cancelling of the tasks may lie before them.
        """
        with self.lock:
            calls = self.balanced.calls(given, self._seqs)
            if self._tracer is not None:
                for call in calls:
                    name, (engine,) = self.balanced.name_of(call), call.pending
                    self._tracer.given(self.uuid, name, call.seq, engine)
            self._inbox.append(lambda: self._submit_calls(calls))
        self._take_inbox()

    def _submit_calls(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._state.submit(call)
        cancelled = [call for call in calls if call.context.cancelled]
        if cancelled:  # after they were given, and before there was a call to end
            self._state.abort([(call.seq, id) for call in cancelled for id in list(call.pending)])

    def _submit(self, requests: Sequence[Request], slots: Slots, name: str, result: AsyncResult[Any]) -> None:
        if not requests:
            return  # tasks: the dispatcher makes their calls
        first = 0
        if len(requests) > 1:
            result._unsent = len(requests)
        if len(slots) > 1:
            result._indexes = {slot: index for index, slot in enumerate(slots)}
        join = result._join
        for targets, parcel in requests:
            call = Call(slots[first][0], name, targets, parcel, result, result._flags)
            if len(targets) > 1 and isinstance(join, Joining) and join.dist == "b":
                call.adjacent = Adjacent(targets)
            self._state.submit(call)
            first += len(targets)

    def _limit(self, result: AsyncResult[Any], seconds: float, until: float) -> None:
        """Have `result` end at a time, unless it has by then."""
        if result._missing:
            result._timer = self.loop.call_later(
                max(0.0, until - time.monotonic()), result._out_of_time, seconds
            )

    def check_controller(self) -> None:
        """Raise ControllerLost if there is no controller any more."""
        if self._stopped and not self._closed:
            raise ControllerLost(self._stopped)

    def _wake(self) -> None:
        """Have the loop look into the inbox. Under the lock."""
        if not self._woken:
            self._woken = True
            if threading.get_ident() == self.thread:
                self.loop.call_soon(self._turn)
            else:
                self.loop.call_soon_threadsafe(self._turn)

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` run on the loop, after what was posted and submitted before."""
        with self.lock:
            if not self._closed:
                self._inbox.append(action)
                self._wake()

    def cancel(self, pairs: Sequence[tuple[int, int]]) -> None:
        """End these calls, (seq, engine id) each."""
        self.post(lambda: self._cancel(pairs))

    def _cancel(self, pairs: Sequence[tuple[int, int]]) -> None:
        tasks = [seq for seq, id in pairs if id == ANYWHERE]
        if tasks:
            pairs = [pair for pair in pairs if pair[1] != ANYWHERE] + self.balanced.cancel(tasks)
        self._state.abort(pairs)

    def cancel_soon(self, pairs: Sequence[tuple[int, int]]) -> None:
        """`cancel` for finalizers: they may run while this very thread holds the lock, so it takes none.

        Raises:
            RuntimeError: the loop was closed.
        """
        self.loop.call_soon_threadsafe(self.cancel, pairs)

    def query(self, what: str, params: dict[str, Any]) -> concurrent.futures.Future[Any]:
        """Ask the controller; the future fails with ValueError if it says that the question is wrong."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def ask() -> None:
            number = next(self._query_numbers)
            self._queries[number] = future
            self._state.query(number, what, params)

        if self._stopped:
            future.set_exception(ControllerLost(self._stopped))
        else:
            self.post(ask)
        return future

    # --- the loop's side ------------------------------------------------------------------------------

    def _take(self, inbox: Sequence[_Posted]) -> None:
        for item in inbox:
            if callable(item):
                item()
            else:
                self._submit(*item)

    def _take_inbox(self) -> None:
        with self.lock:
            self._woken = False
            inbox, self._inbox = self._inbox, []
        self._take(inbox)

    def _turn(self) -> None:
        """End of a turn: send what is to be sent, report what has happened, set the timer."""
        self._take_inbox()
        state, balanced = self._state, self.balanced
        self._process(state.events())
        balanced.turn()
        if self._session.link is not None:
            self._send()
        elif self._stopped:
            self._abandon()
        self._process(state.events())
        if balanced.changed:
            with self.lock:
                self._wake()
        self._set_timer()

    def _send(self) -> None:
        send = self._session.send
        for message, frames in self._state.flush():
            send(message, frames)

    def _set_timer(self) -> None:
        deadline = earlier(self._state.next_deadline(), self.balanced.next_deadline())
        if deadline is not None and (self._timer is None or deadline < self._timer_at) and not self._closed:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self.loop.call_later(max(0.0, deadline - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._state.tick(now)
        self.balanced.tick(now)
        self._turn()

    def _arrived(self, message: Message, frames: Sequence[Any]) -> None:
        if isinstance(message, Stop):
            self._stopped = f"the cluster has ended: {message.reason}"
            self._session.expect_end()
            return
        self._state.receive(message, frames, time.monotonic())
        if type(message) is Chunk and message.place >= 0:
            self._send()  # Its sender waits for the slot, and there may be many more to copy in this turn.

    def _process(self, events: Sequence[Event]) -> None:
        for event in events:
            if type(event) is Ended:  # nearly all: not to go through the patterns
                if type(event.call.context) is not Task or self.balanced.ended(event):
                    self._deliver(event)
                continue
            match event:
                case Gone():
                    self._deliver_gone(event)
                case Sent(call):
                    if type(call.context) is not Task:  # which may have to be sent to another engine
                        call.context._mark_sent()
                case Printed(call, id, stream, text):
                    result, index = place(call, id)
                    result._output(index, stream, text)
                case EnginesChanged(message):
                    self._note_returning(message)
                    self._note_engines()
                    self.observers.changed(self.engines, message)
                case Answered(message):
                    self._answered(message.number, message.ok, message.value)

    def _answered(self, number: int, ok: bool, value: Any) -> None:
        future = self._queries.pop(number, None)
        if future is not None and not future.done():
            if ok:
                future.set_result(value)
            else:
                future.set_exception(ValueError(str(value)))

    # --- engines --------------------------------------------------------------------------------------

    def _note_returning(self, message: Engines) -> None:
        """Balanced tasks wait for engines that are being started in the place of others."""
        for (id, _, _, _), known in deaths(message.left, message.postmortems):
            self.returning = self.returning | {id} if known.returns else self.returning - {id}
        self.returning -= {info.id for info in message.joined}

    def _note_engines(self) -> None:
        self.engines = self._state.engines
        self._engines_changed.set()

    async def wait_for_engines(self, n: int, timeout: float | None) -> None:
        """Wait until there are `n` engines.

        Raises:
            TimeoutError: they are not there after `timeout` seconds.
            ControllerLost: the controller is gone.
        """
        async with asyncio.timeout(timeout):
            while len(self.engines) < n:
                if self._stopped:
                    raise ControllerLost(self._stopped)
                self._engines_changed.clear()
                await self._engines_changed.wait()
