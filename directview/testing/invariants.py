"""What must hold in the state machines after every step, and what must be left of nothing at the end."""

from __future__ import annotations

from itertools import islice

from directview._client_calls import Stage as ClientStage
from directview._client_state import ClientState
from directview.controller._queues import EngineQueue
from directview.controller._state import Controller
from directview.engine._client_calls import RECEIVE_AT_ONCE
from directview.engine._state import EngineState, Stage
from directview.engine._untaken import Untaken, weight
from directview.wire.transfers import SEEN

__all__ = ["check_client", "check_controller", "check_engine", "check_queue", "leftovers"]


def check_client(state: ClientState, *, within_credit: bool = True) -> None:
    """Credit, order and bookkeeping of a client. Raises AssertionError.

    Args:
        within_credit: whether what is under way must be within the credit; it need not once that was lowered.
    """
    for seq, call in state.calls.items():
        assert call.seq == seq >= state.watermark
        unaccepted = [stage for stage in call.pending.values() if stage is not ClientStage.ACCEPTED]
        assert call.unaccepted == len(unaccepted)
        assert (call.parcel is not None) == bool(unaccepted)
    for id, engine in state._engines.items():
        stages = {seq: call.pending[id] for seq, call in engine.given.items()}
        held = {**engine.held, **engine.unknown}
        assert all(call.pending[id] is ClientStage.HELD for call in held.values())
        assert ClientStage.HELD not in stages.values()
        assert list(engine.held) == sorted(engine.held)
        sent = [seq for seq, stage in stages.items() if stage is ClientStage.SENT]
        sizes = [call.parcel.nbytes for seq in sent if (call := engine.given[seq]).parcel is not None]
        assert (engine.calls, engine.bytes) == (len(sizes), sum(sizes))
        if within_credit:
            assert engine.calls <= max(engine.credit_calls, 1)
            assert engine.bytes <= engine.credit_bytes or engine.calls == 1
        assert engine.asked == sum([stage is ClientStage.ASKED for stage in stages.values()])
        assert not (engine.unknown and engine.open)
        assert set(engine.receiving) <= set(engine.given)
        for receiving in engine.receiving.values():
            parcel = receiving.parcel
            assert parcel.received <= receiving.granted <= parcel.received + state._pace.toward(SEEN).ahead
        idle = list(engine.receiving.values())[2:]
        assert sum([receiving.granted > 0 and receiving.parcel.received == 0 for receiving in idle]) == 0


def check_engine(state: EngineState) -> None:
    """Order, windows and bookkeeping of an engine. Raises AssertionError."""
    for client in state._clients.values():
        for seq, call in client.calls.items():
            assert call.seq == seq
            assert (call.stage is Stage.DONE) == (seq in client.retained)
            assert (call.result is not None) == (call.stage is Stage.DONE)
        assert client.untaken.kept == sum([weight(call) for call in client.retained.values()])
        assert all(weight(call) == call.weight for call in client.retained.values())
        assert client.untaken.paused or not client.parked
        assert set(client.untaken.sent) | set(client.untaken.behind) <= set(client.retained)
        assert [call for call in client.calls.values() if call.behind] == sorted(
            client.untaken.behind.values(), key=list(client.calls.values()).index
        )
        _check_untaken(client.untaken)
        if client.line:
            assert not client.line[0].complete
        arriving = [call.seq for call in client.line if call.stage is Stage.ARRIVING]
        assert set(arriving) == {call.seq for call in client.calls.values() if call.stage is Stage.ARRIVING}
        stays = {seq for seq, call in client.retained.items() if call.detached and not call.kept}
        assert all(seq >= client.watermark or seq in stays for seq in client.retained)
        for number, call in enumerate(client.large.values()):
            assert call.stage in (Stage.ARRIVING, Stage.QUEUED)
            assert call.parcel is not None
            received = call.parcel.received
            assert received <= call.granted <= received + state._pace.toward(SEEN).ahead
            assert not call.granted or number < RECEIVE_AT_ONCE or call.stage is Stage.ARRIVING
        started = [call for call in islice(client.large.values(), RECEIVE_AT_ONCE, None) if call.granted]
        assert not started
    for call in (*state._results, *state._sending, *state._granted):
        assert call.stage is Stage.DONE
        assert call.result is not None


def _check_untaken(untaken: Untaken) -> None:
    assert untaken.ahead == sum(untaken.sent.values())
    assert untaken.ahead <= untaken.most_ahead or len(untaken.sent) == 1
    assert untaken.sent or not untaken.behind, "nothing would ever have the results sent that wait"
    assert not untaken.sent.keys() & untaken.behind.keys()
    assert not (untaken.paused if untaken.little else untaken.too_much and not untaken.paused)


def check_controller(controller: Controller) -> None:
    """Windows, counts and routes of the controller. Raises AssertionError."""
    registry = controller.registry
    for route, peer in registry.routes.items():
        assert peer.route == route
    connected = [
        peer
        for peers in (registry.engines, registry.clients, registry.supervisors)
        for peer in peers.values()
        if peer.route is not None
    ]
    assert len(connected) == len(registry.routes)
    for id, engine in registry.engines.items():
        assert engine.id == id
        assert engine.route is not None or engine.deadline is not None
        check_queue(engine.queue)
        for uuid in {client for client, _ in engine.queue.given()} | set(engine.queue._lines):
            if uuid in registry.clients:
                assert id in registry.clients[uuid].engines
            else:
                assert controller.heirs.box.of(uuid, id), "for nobody"
        owned = {key for key in engine.aborts if key[0] in registry.clients}
        assert owned <= set(engine.queue.given())
    for client in registry.clients.values():
        assert client.route is not None or client.deadline is not None


def check_queue(queue: EngineQueue) -> None:
    """Counts and window of an engine's queue. Raises AssertionError."""
    lines = queue._lines.values()
    assert queue.waiting == sum([len(line.entries) for line in lines])
    assert all(line.entries for line in lines)
    for line in lines:
        assert line.nbytes == sum([entry.item.nbytes for entry in line.entries.values()])
    assert all(queue._given.values())
    assert set(queue._turns) == set(queue._lines) - queue._paused
    window = window_bytes = running = paused = 0
    for client, given in queue._given.items():
        sizes = [nbytes for nbytes in given.values() if nbytes >= 0]
        running += len(given) - len(sizes)
        assert len(sizes) <= queue._most_calls
        assert sum(sizes) <= queue._most_bytes or len(sizes) == 1
        if client in queue._paused:
            paused += len(sizes)
        else:
            window += len(sizes)
            window_bytes += sum(sizes)
    assert (queue.window, queue.window_bytes) == (window, window_bytes)
    assert (queue.running, queue.paused) == (running, paused)


def leftovers(
    controller: Controller | None, engines: list[EngineState], clients: list[ClientState]
) -> list[str]:
    """What is left of calls that have all ended: it should be nothing.

    Args:
        controller: the one that runs now.
        engines: all living ones.
        clients: likewise.
    """
    found = []
    if controller is not None:
        for engine in controller.registry.engines.values():
            found += [f"controller: {seq} given to {engine.id}" for _, seq in engine.queue.given()]
            found += [
                f"controller: {entry.item.seq} waits for {engine.id}" for entry in engine.queue.entries()
            ]
            found += [f"controller: {uuid.hex()} paused" for uuid in engine.queue._paused]
            found += [f"controller: abort of {seq}" for _, seq in engine.aborts]
        found += [f"controller: query {number}" for number in controller.passed_on]
        heirs = controller.heirs
        found += [f"controller: detached {uuid.hex()} {seqs}" for uuid, seqs in heirs.box._open.items()]
        for name, keys in (
            ("comes", heirs.box.arriving()),
            ("is asked for", heirs._alone),
            ("not said to be kept", heirs._unsaid),
            ("being written", heirs._writing),
        ):
            found += [f"controller: {key[1]} {name}" for key in keys]
    uuids = {client.uuid for client in clients}
    for state in engines:
        for uuid, kept in state._clients.items():
            if uuid not in uuids:
                found.append(f"engine {state.id}: knows client {uuid.hex()}")
            found += [f"engine {state.id}: {call.stage.name} {seq}" for seq, call in kept.calls.items()]
            found += [f"engine {state.id}: in line {call.seq}" for call in kept.line]
            found += [f"engine {state.id}: large {seq}" for seq in kept.large]
            if kept.untaken.paused or kept.untaken.sent or kept.untaken.kept:
                found.append(f"engine {state.id}: has not forgotten {uuid.hex()}")
        found += [f"engine {state.id}: sends {call.seq}" for call in (*state._sending, *state._results)]
        if state.behind:
            found.append(f"engine {state.id}: results to send")
        if state.next_call() is not None:
            found.append(f"engine {state.id}: a call to run")
    for client in clients:
        found += [f"client: {seq} outstanding" for seq in client.calls]
        for id, known in client._engines.items():
            if known.calls or known.bytes or known.held or known.given or known.receiving or known.unknown:
                found.append(f"client: something on its way to or from {id}")
        if client._acks._count or client._sending or client._sending.deadline or client._incoming:
            found.append("client: something to say")
    return found
