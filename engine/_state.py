"""Pure: the engine's bookkeeping of calls. What to run next, what to tell whom.

A call's life here:

=========== ===================================== =================================================
state       until                                 then
=========== ===================================== =================================================
ARRIVING    its payload is here, and that of      QUEUED: accepted, never to be sent again
            its client's calls before it
QUEUED      its turn                              RUNNING
RUNNING     the function returns                  DONE, or SUSPENDED if it returned a coroutine
SUSPENDED   the coroutine ends                    DONE
DONE        the client's Ack                      forgotten
=========== ===================================== =================================================

The result is kept until the *client* has acknowledged it, so that no crash of anything in between loses it;
that of a detached call, for which others may ask, until the controller keeps it, too. A call that arrives
twice runs once: ids from the client's watermark up are remembered as long as the call is.

A client that comes back, or hears that this engine has, asks about all its calls (`Resume`). What is
ARRIVING is forgotten then: the client sends it again from the start, in order. So what is here of a client
is always the beginning of what it has sent, and its calls start in the order in which it made them,
whatever was lost on the way.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from directview.engine._calls import Call, Stage
from directview.engine._client_calls import ClientCalls
from directview.engine._messages import (
    Outbound,
    absent_messages,
    accept_messages,
    held_messages,
    result_messages,
)
from directview.engine._untaken import MOST_UNTAKEN
from directview.wire import blocks
from directview.wire.arena import SharedMemory
from directview.wire.messages import (
    ABORTED,
    ARGUMENT,
    BALANCED,
    DETACHED,
    RESULT,
    Abort,
    Ack,
    CallItem,
    Chunk,
    Forget,
    Grant,
    Kept,
    Message,
    Paused,
    ProtocolError,
    ResultItem,
    Resume,
    Submit,
    Taken,
)
from directview.wire.parcels import Parcel, unpack
from directview.wire.transfers import STANDARD, Outgoing, Pace

__all__ = ["Call", "EngineState", "Stage"]

_CHOSEN: Final = (BALANCED,)
FIRST_MARK: Final = 1 << 62
"""A question from here on is about no call: with it, a client begins to ask about all that it waits for."""
_MOST_FORGOTTEN: Final = 65_536
"""Clients that are gone and of which an engine still knows how far it had come with their calls."""

_NOT_BEGUN: Final = (Stage.ARRIVING, Stage.QUEUED)


class EngineState:
    """The engine's state machine.

    The shell feeds `receive`, runs what `next_call` gives it and reports back with `suspended` and
    `finished`; at the end of each turn it sends what `flush` returns, and cancels the tasks of the calls
    that it finds in `to_cancel`.

    Args:
        pace: in which steps large payloads are received and sent.
        memory: for those of this host.
        most_untaken: bytes of results that each client may leave here until no more of its calls are begun.
    """

    def __init__(
        self, pace: Pace = STANDARD, memory: SharedMemory | None = None, most_untaken: int = MOST_UNTAKEN
    ) -> None:
        self.id = -1
        self.uuid = b""
        self.to_cancel: list[Call] = []
        """Coroutine calls whose task is to be cancelled; emptied by the shell."""
        self.lent: dict[Call, None] = {}
        """Results whose large buffers are the user's own memory: they are to be read, or kept, before user
        code runs that may change them."""
        self.behind: dict[bytes, ClientCalls] = {}
        """Clients some of whose results wait until others have been taken."""
        self.gone: list[bytes] = []
        """Clients that are gone for good, for the shell to take out: what goes on for them may end."""
        self._pace = pace
        self._memory = memory
        self._most_untaken = most_untaken
        self._connected = True
        self._clients: dict[bytes, ClientCalls] = {}
        self._forgotten: OrderedDict[bytes, int] = OrderedDict()
        """How far it had come with the calls of clients that it was told to forget: they may come back, to a
        controller that doesn't know that they were given up, and what has begun must not begin again."""
        self._queue: deque[Call] = deque()
        self._answers: list[Outbound] = []
        self._results: dict[Call, None] = {}
        """To be sent with the next flush."""
        self._fresh: list[Call] = []
        """To be accepted with the next flush, unless they have ended by then."""
        self._granting: dict[bytes, ClientCalls] = {}
        """Clients to which a grant may be due."""
        self._sending: dict[Call, None] = {}
        """Results with chunks that have not been sent."""
        self._granted: dict[Call, None] = {}
        """Those of them that have room for more."""

    # --- what arrives -------------------------------------------------------------------------------

    def receive(self, message: Message, frames: Sequence[Any]) -> None:
        """A message from the controller.

        Raises:
            ProtocolError: it is none that an engine takes.
        """
        match message:
            case Submit():
                self._submit(message, frames)
            case Chunk(way=way) if way == ARGUMENT:
                self._chunk(message, frames)
            case Ack():
                self._ack(message)
            case Grant(way=way) if way == RESULT:
                self._grant(message)
            case Abort():
                self._abort(message)
            case Resume():
                self._asked(message)
            case Forget():
                self._forget(message.client)
            case Taken():
                self._taken(message)
            case Kept():
                self._kept(message)
            case _:
                raise ProtocolError(f"an engine takes no {type(message).__name__}")

    def _submit(self, message: Submit, frames: Sequence[Any]) -> None:
        uuid = message.client
        client = self._clients.get(uuid)
        if client is None:
            client = self._clients[uuid] = ClientCalls(self._forgotten.pop(uuid, 0), self._most_untaken)
        if message.watermark > client.watermark:
            self._advance(client, message.watermark)
            self._catch_up(uuid, client)
        position = 0
        for item in message.calls:
            part: Sequence[Any] = ()
            if item.nframes:
                part = frames[position : position + item.nframes]
                position += item.nframes
            known = client.calls.get(item.seq)
            if known is not None:
                self._again(known)
            elif item.seq < client.watermark or item.seq < client.begun:
                self._say_absent(uuid, (item.seq,))
            elif self.id in item.targets or item.targets == _CHOSEN:
                self._arrived(
                    client, Call(uuid, item.seq, item.name, bool(item.flags & DETACHED)), item, part
                )

    def _arrived(self, client: ClientCalls, call: Call, item: CallItem, frames: Sequence[Any]) -> None:
        client.calls[call.seq] = call
        try:
            call.parcel = unpack(item.body, frames, nobjects=2, memory=self._memory)
        except ProtocolError as error:
            call.problem = error
        if not call.complete:
            client.large[call.seq] = call
            self._granting[call.client] = client
            client.line.append(call)
        elif client.line:
            client.line.append(call)
        else:
            self._enqueue(call)

    def _enqueue(self, call: Call) -> None:
        call.stage = Stage.QUEUED
        self._queue.append(call)
        self._fresh.append(call)

    def _again(self, call: Call) -> None:
        """The client sent or asked again: repeat what it has missed."""
        if call.stage is Stage.DONE:
            self._send_result(call, self._clients[call.client])
        elif call.stage is not Stage.ARRIVING:
            self._fresh.append(call)

    def _say_absent(self, uuid: bytes, seqs: Sequence[int]) -> None:
        """No such call is here. The controller counts it no longer, the client knows what to make of it."""
        client = self._clients.get(uuid)
        begun = self._forgotten.get(uuid, 0) if client is None else client.begun
        self._answers.extend(absent_messages(uuid, self.id, begun, seqs))

    def _chunk(self, message: Chunk, frames: Sequence[Any]) -> None:
        client = self._clients.get(message.client)
        call = client.large.get(message.seq) if client is not None else None
        if client is None or call is None or call.parcel is None or not call.parcel.missing:
            return
        try:
            call.parcel.receive_chunk(message, frames, call.granted)
        except (ProtocolError, MemoryError) as error:
            call.parcel, call.problem = None, error
            del client.large[call.seq]
        self._granting[message.client] = client
        if call.complete:
            self._advance_line(client)

    def _advance_line(self, client: ClientCalls) -> None:
        """Calls whose payload is here, and that of all before them, may run."""
        line = client.line
        while line and line[0].complete:
            call = line.popleft()
            if call.stage is Stage.ARRIVING:
                self._enqueue(call)

    def _ack(self, message: Ack) -> None:
        client = self._clients.get(message.client)
        if client is None:
            return
        for id, seqs in message.seqs:
            if id == self.id:
                for seq in seqs:
                    self._acknowledged(client, seq)
        self._advance(client, message.watermark)
        self._answered(message.client, client)
        self._catch_up(message.client, client)

    def _answered(self, uuid: bytes, client: ClientCalls) -> None:
        """The client has asked about all that it waits for: what it did not ask about, it has, or gave up.

        The controller may believe that those still run here, and what it may not have, it is sent.
        """
        doubtful, client.doubtful = sorted(client.doubtful), set()
        for seq in doubtful:
            self._acknowledged(client, seq)
        self._say_absent(uuid, [seq for seq in doubtful if seq not in client.retained])
        for call in [client.retained[seq] for seq in doubtful if seq in client.retained]:
            self._send_result(call, client)

    def _catch_up(self, uuid: bytes, client: ClientCalls) -> None:
        """Results have been taken: send others, and begin more calls, if there is room now."""
        if uuid in self.behind:
            for call in client.untaken.catch_up():
                self._results[call] = None
                self._announce(call)
            if not client.untaken.behind:
                del self.behind[uuid]
        self._weigh(uuid, client)

    def _weigh(self, uuid: bytes, client: ClientCalls) -> None:
        """Begin no more of its calls, or some again. The controller dispatches others' meanwhile."""
        untaken = client.untaken
        if not untaken.paused:
            if untaken.too_much:
                untaken.paused = True
                self._say_paused(uuid, True)
        elif untaken.little:
            untaken.paused = False
            self._say_paused(uuid, False)
            self._queue.extendleft(reversed(client.parked))
            client.parked.clear()

    def _say_paused(self, uuid: bytes, paused: bool) -> None:
        if self._connected:
            self._answers.append((Paused(uuid, self.id, paused), ()))

    def _taken(self, message: Taken) -> None:
        """So much output has been received."""
        client = self._clients.get(message.client)
        if client is not None:
            client.untaken.output = max(0, client.untaken.output - message.size)
            self._weigh(message.client, client)

    def may_print(self, uuid: bytes) -> bool:
        """Whether output is to be sent to this client, or is more than it takes."""
        client = self._clients.get(uuid)
        return client is None or client.untaken.may_print

    def printed(self, uuid: bytes, size: int) -> None:
        """So much output is being sent."""
        client = self._clients.get(uuid)
        if client is not None and self._connected and not client.gone:
            client.untaken.output += size
            self._weigh(uuid, client)

    def _advance(self, client: ClientCalls, watermark: int) -> None:
        """Everything below the client's watermark is answered and acknowledged."""
        if watermark > client.watermark:
            client.watermark = watermark
            if client.retained:
                for seq in [seq for seq in client.retained if seq < watermark]:
                    self._acknowledged(client, seq)

    def _acknowledged(self, client: ClientCalls, seq: int) -> None:
        """Its client has the result."""
        if (call := client.retained.get(seq)) is None:
            return
        if call.detached and not call.kept:
            if not call.taken:
                call.taken = True
                client.untaken.arrived(call)
        else:
            self._release(client, call)

    def _kept(self, message: Kept) -> None:
        """The controller has results of detached calls, and loses them no more."""
        client = self._clients.get(message.client)
        if client is None or message.engine != self.id:
            return
        for seq in message.seqs:
            if (call := client.retained.get(seq)) is not None:
                call.kept = True
                if call.taken:
                    self._release(client, call)
        self._catch_up(message.client, client)

    def _release(self, client: ClientCalls, call: Call) -> None:
        """Nobody needs the result here any more."""
        del client.retained[call.seq], client.calls[call.seq]
        if client.gone:
            client.begun = max(client.begun, call.seq + 1)
        client.untaken.drop(call)
        self._drop_result(call)

    def _drop_result(self, call: Call) -> None:
        if call.outgoing is not None:
            call.outgoing.close()
        call.result = call.outgoing = None
        for calls in (self._results, self._sending, self._granted, self.lent):
            calls.pop(call, None)

    def keep_lent(self) -> None:
        """User code is about to run: copy what it may change and the receivers do not have yet.

        Raises:
            MemoryError: there is no memory for that. What could be copied has been.
        """
        for call in list(self.lent):
            assert call.result is not None
            item, parcel = call.result
            assert parcel is not None
            kept = [blocks.copied(chunk) for chunk in parcel.chunks]
            call.result = (item, parcel._replace(chunks=kept))
            if call.outgoing is not None:
                call.outgoing.move(kept)
            del self.lent[call]

    def _grant(self, message: Grant) -> None:
        client = self._clients.get(message.client)
        call = client.retained.get(message.seq) if client is not None else None
        if call is not None and call in self._sending and call.outgoing is not None:
            call.outgoing.grant(0, message.upto, message.received, message.shared)
            self._granted[call] = None

    def _abort(self, message: Abort) -> None:
        client = self._clients.get(message.client)
        if client is None:
            return
        for id, seqs in message.seqs:
            for seq in seqs if id == self.id else ():
                call = client.calls.get(seq)
                if call is None:
                    continue
                if call.stage in _NOT_BEGUN:
                    self.finished(call, ABORTED, 0.0, 0.0, None)
                elif call.stage is Stage.SUSPENDED and not call.cancelled:
                    call.cancelled = True
                    self.to_cancel.append(call)

    def _asked(self, message: Resume) -> None:
        """A client asks about all its calls, perhaps in several messages; each one is answered."""
        client = self._clients.get(message.client)
        if client is not None:
            client.forget_line()
            if message.items and message.items[0].seq >= FIRST_MARK:
                client.gone = False  # No heir asks with a mark.
                client.untaken.begin_again()
                for made in [call for call in self._results if call.client == message.client]:
                    del self._results[made]
                self.behind.pop(message.client, None)
                client.doubtful = set(client.retained)
                self._weigh(message.client, client)
        absent = []
        for item in message.items:
            call = client.calls.get(item.seq) if client is not None else None
            if client is None or call is None:
                absent.append(item.seq)
            else:
                client.doubtful.discard(item.seq)
                self._again(call)
        self._say_absent(message.client, absent)

    def _forget(self, uuid: bytes) -> None:
        client = self._clients.pop(uuid, None)
        if client is None:
            return
        self.gone.append(uuid)
        self._granting.pop(uuid, None)
        self.behind.pop(uuid, None)
        if client.untaken.paused:
            self._say_paused(uuid, False)
        begun = [call.seq for call in client.calls.values() if call.stage not in _NOT_BEGUN]
        self._forgotten[uuid] = max(client.begun, client.watermark, max(begun, default=-1) + 1)
        if len(self._forgotten) > _MOST_FORGOTTEN:
            self._forgotten.popitem(last=False)
        dropped = []
        kept = [call for call in client.calls.values() if call.detached and call.stage is not Stage.ARRIVING]
        for call in client.calls.values():
            if call not in kept and call.stage in (Stage.ARRIVING, Stage.QUEUED, Stage.DONE):
                if call.stage is not Stage.DONE or call in self._results or call.behind:
                    dropped.append(call.seq)
                call.stage = Stage.DONE
                call.parcel = None
                self._drop_result(call)
        self._say_absent(uuid, dropped)
        if kept:
            self._keep_for_heir(uuid, kept, client.parked)

    def _keep_for_heir(self, uuid: bytes, calls: Sequence[Call], parked: Sequence[Call]) -> None:
        """These calls of a client that is gone go on; their results are the controller's."""
        heir = self._clients[uuid] = ClientCalls(self._forgotten.pop(uuid), self._most_untaken)
        heir.gone = True
        for call in calls:
            heir.calls[call.seq] = call
            call.behind = False
            if call.stage is Stage.DONE:
                heir.retained[call.seq] = call
                heir.untaken.keep(call)
            elif call in parked:
                self._queue.append(call)
            self._again(call)
        self._weigh(uuid, heir)

    # --- running ------------------------------------------------------------------------------------

    def next_call(self) -> Call | None:
        """The next call to run, in the order in which they arrived; None if there is none.

        A client that takes none of its results, or not as fast as they are made, gets no more for a while.
        """
        while self._queue:
            call = self._queue.popleft()
            if call.stage is Stage.QUEUED:
                client = self._clients[call.client]
                if client.untaken.paused:
                    client.parked.append(call)
                    continue
                call.stage = Stage.RUNNING
                self._not_large(call)
                return call
        return None

    def _not_large(self, call: Call) -> None:
        """The call has started, or has ended without: another large payload may come."""
        client = self._clients[call.client]
        if client.large.pop(call.seq, None) is not None:
            self._granting[call.client] = client

    def suspended(self, call: Call) -> None:
        """The call returned a coroutine, which runs from now on beside others."""
        call.stage = Stage.SUSPENDED
        self._fresh.append(call)

    def finished(
        self, call: Call, status: int, started: float, completed: float, parcel: Parcel | None
    ) -> None:
        """The call has ended; its result is sent with the next flush and kept until it is acknowledged."""
        call.stage = Stage.DONE
        call.parcel = None
        client = self._clients.get(call.client)
        if client is None or client.calls.get(call.seq) is not call:
            self._say_absent(call.client, (call.seq,))
            return
        self._not_large(call)
        self._advance_line(client)
        if call.seq < client.watermark:
            del client.calls[call.seq]
            self._say_absent(call.client, (call.seq,))
            return
        if parcel is None:
            item = ResultItem(call.seq, status, started, completed, 0, 0, b"")
        else:
            body, frames, _, nbytes, _ = parcel
            item = ResultItem(call.seq, status, started, completed, nbytes, len(frames), body)
            if parcel.chunks:
                self.lent[call] = None
        call.result = (item, parcel)
        client.retained[call.seq] = call
        client.untaken.keep(call)
        if client.untaken.kept > self._most_untaken:
            self._weigh(call.client, client)
        if self._connected:
            self._send_result(call, client)

    def _send_result(self, call: Call, client: ClientCalls) -> None:
        """Now, or when the client has taken others: then the controller hears that it has run."""
        if client.untaken.may_send(call):
            self._results[call] = None
            self._announce(call)
        else:
            self.behind[call.client] = client
            self._fresh.append(call)

    def _announce(self, call: Call) -> None:
        """Begin (again) to send what goes in chunks."""
        assert call.result is not None
        parcel = call.result[1]
        if parcel is not None and parcel.chunks:
            if call.outgoing is not None:
                call.outgoing.close()
            call.outgoing = Outgoing(parcel.chunks, (0,), self._pace, self._memory)
            self._sending[call] = None
            self._granted.pop(call, None)

    @property
    def idle(self) -> bool:
        """Nothing is queued."""
        return not self._queue

    # --- what goes out ------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """`flush` may have something to send."""
        return bool(self._results or self._fresh or self._answers or self._granting or self._granted)

    def flush(self) -> Iterable[Outbound]:
        """What is to be sent now, in order: each before the next is taken (see the client's)."""
        out = self._answers
        self._answers = []
        if self._results:
            results, self._results = self._results, {}
            out.extend(result_messages(self.id, results))
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            out.extend(accept_messages(self.id, fresh))
        if self._granting:
            out.extend(self._grants())
        return chain(out, self._chunks()) if self._granted else out

    def _grants(self) -> Iterator[Outbound]:
        granting, self._granting = self._granting, {}
        for uuid, client in granting.items():
            for seq, upto, received, shared in client.due_grants(self._pace):
                yield Grant(uuid, seq, self.id, ARGUMENT, upto, received, shared), ()

    def _chunks(self) -> Iterator[Outbound]:
        granted, self._granted = self._granted, {}
        for call in granted:
            assert call.outgoing is not None
            for piece in call.outgoing.ready(patient=False):
                yield piece.message(call.client, call.seq, (self.id,), RESULT), piece.frames
            if not call.outgoing.receivers:
                del self._sending[call]

    # --- losing and finding the controller --------------------------------------------------------------

    def link_lost(self) -> None:
        """What has not arrived whole is dropped, its sender begins again. Results wait to be asked for."""
        self._connected = False
        for client in self._clients.values():
            client.forget_line()
            client.untaken.begin_again()
            client.doubtful.clear()
        self.behind.clear()
        for call in self._sending:
            if call.outgoing is not None:
                call.outgoing.close()
        for said in (self._answers, self._fresh):
            said.clear()
        for due in (self._results, self._granting, self._sending, self._granted):
            due.clear()

    def resume(self) -> list[Message]:
        """What to tell a controller on a new connection: the calls that are held here, by client."""
        self._connected = True
        calls = [call for client in self._clients.values() for call in client.calls.values()]
        self._fresh.extend([call for call in calls if call.stage is Stage.SUSPENDED])
        return list(held_messages(self.id, self.uuid, self._clients))
