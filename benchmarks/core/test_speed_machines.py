"""The three state machines: a batch of no-op calls through each, from its first message to its last.

And a controller with ten, a hundred and a thousand engines.

Figures are per batch of `CALLS` calls; divide. No sockets, no loop: what is left of a call's cost when the
kernel and asyncio are taken away.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from directview._client_state import Call as ClientCall
from directview._client_state import ClientState
from directview.controller._effects import Send
from directview.controller._state import Controller, Settings
from directview.engine._state import EngineState
from directview.wire.messages import (
    OK,
    PROTOCOL_VERSION,
    Ack,
    CallItem,
    EngineInfo,
    Hello,
    Result,
    ResultItem,
    Submit,
    Welcome,
    encode,
)
from directview.wire.objects import dump_arguments, dump_function, dumps
from directview.wire.parcels import pack

CALLS = 100
CLIENT, ENGINE = b"c" * 16, b"e" * 16


def nothing() -> None:
    """The smallest call."""


nothing.__module__ = "__main__"  # as in a script: it travels by value
CALL = pack((dump_function(nothing), dump_arguments((), {})))
VALUE = pack((dumps(None),))


def submit(first: int) -> Submit:
    """The batch whose first seq this is; everything before it has been answered."""
    seqs = range(first, first + CALLS)
    return Submit(
        CLIENT,
        first,
        tuple([CallItem(seq, (0,), "nothing", 0, CALL.nbytes, 0, CALL.body) for seq in seqs]),
    )


def result(first: int) -> Result:
    """Its results."""
    seqs = range(first, first + CALLS)
    return Result(
        CLIENT, 0, tuple([ResultItem(seq, OK, 1e9, 1e9, VALUE.nbytes, 0, VALUE.body) for seq in seqs])
    )


def hello(role: str, uuid: bytes) -> Hello:
    """A peer's first message."""
    return Hello(PROTOCOL_VERSION, role, uuid, "speed", 0, -1, b"", False, 1, "host", "3.11", b"")


def measure(benchmark: BenchmarkFixture, run: Any, prepare: Any, rounds: int = 300) -> None:
    """Time `run` on what `prepare` makes of the first seq of each batch."""
    firsts = itertools.count(1, CALLS)
    benchmark.extra_info["calls"] = CALLS
    timed: Any = benchmark  # `pedantic` has no types
    timed.pedantic(
        run,
        setup=lambda: ((*prepare(next(firsts)),), {}),
        rounds=rounds,
        iterations=1,
        warmup_rounds=min(20, rounds),
    )


def test_client(benchmark: BenchmarkFixture) -> None:
    """Submit, flush, take the results."""
    state = ClientState(CLIENT)
    info = EngineInfo(0, ENGINE, 1, "host", "3.11", b"")
    state.welcome(Welcome(PROTOCOL_VERSION, 1, -1, "stop", 2.0, 1024, 4 << 20, (info,)))
    state.flush()

    def run(first: int, answer: Result) -> None:
        for seq in range(first, first + CALLS):
            state.submit(ClientCall(seq, "nothing", (0,), CALL, None))
        assert state.flush()
        state.receive(answer, (), 0.0)
        ended = state.events()
        assert len(ended) >= CALLS
        state.flush()

    measure(benchmark, run, lambda first: (first, result(first)))


def test_controller(benchmark: BenchmarkFixture) -> None:
    """Take the calls, dispatch them, take the results, pass them on."""
    controller = Controller(Settings("speed"), 0.0)
    controller.greet(b"E", hello("engine", ENGINE), None, 0.0)
    controller.greet(b"C", hello("client", CLIENT), None, 0.0)
    controller.flush()

    def run(calls: tuple[Submit, bytes], answers: tuple[Result, bytes]) -> None:
        controller.receive(b"C", *calls, (), 0.0)
        dispatched = controller.flush()
        controller.receive(b"E", *answers, (), 0.0)
        passed_on = controller.flush()
        assert isinstance(dispatched[0], Send)
        assert isinstance(passed_on[0], Send)

    def prepare(first: int) -> tuple[tuple[Submit, bytes], tuple[Result, bytes]]:
        calls, answers = submit(first), result(first)
        return (calls, encode(calls)), (answers, encode(answers))

    measure(benchmark, run, prepare)


def test_engine(benchmark: BenchmarkFixture) -> None:
    """Take the calls, start and finish each, flush the results, take their acknowledgement."""
    state = EngineState()
    state.id, state.uuid = 0, ENGINE

    def run(calls: Submit, ack: Ack) -> None:
        state.receive(calls, ())
        ended = 0
        while (call := state.next_call()) is not None:
            state.finished(call, OK, 1e9, 1e9, VALUE)
            ended += 1
        assert ended == CALLS
        assert state.flush()
        state.receive(ack, ())

    measure(benchmark, run, lambda first: (submit(first), Ack(CLIENT, first + CALLS, ())))


@pytest.mark.parametrize("engines", [10, 100, 1000])
def test_controller_fan_out(benchmark: BenchmarkFixture, engines: int) -> None:
    """One call on all, and the answer of each: what an engine costs must not grow with their number."""
    controller = Controller(Settings("speed"), 0.0)
    for number in range(engines):
        controller.greet(b"E%d" % number, hello("engine", b"%016d" % number), None, 0.0)
    controller.greet(b"C", hello("client", CLIENT), None, 0.0)
    controller.flush()
    ids = tuple(range(engines))

    def run(call: tuple[Submit, bytes], answers: list[tuple[bytes, Result, bytes]]) -> None:
        controller.receive(b"C", *call, (), 0.0)
        dispatched = controller.flush()
        for route, answer, header in answers:
            controller.receive(route, answer, header, (), 0.0)
        assert isinstance(dispatched[0], Send)
        assert len(dispatched[0].routes) == engines
        assert controller.flush()

    def prepare(first: int) -> tuple[tuple[Submit, bytes], list[tuple[bytes, Result, bytes]]]:
        call = Submit(CLIENT, first, (CallItem(first, ids, "nothing", 0, CALL.nbytes, 0, CALL.body),))
        answers = []
        for number in ids:
            item = ResultItem(first, OK, 1e9, 1e9, VALUE.nbytes, 0, VALUE.body)
            answer = Result(CLIENT, number, (item,))
            answers.append((b"E%d" % number, answer, encode(answer)))
        return (call, encode(call)), answers

    benchmark.extra_info["engines"] = engines
    measure(benchmark, run, prepare, rounds=max(10, 3000 // engines))


def test_registering_a_thousand_engines(benchmark: BenchmarkFixture) -> None:
    """Each is greeted in a turn of its own, and told to a client."""
    names = [(b"E%d" % number, hello("engine", b"%016d" % number)) for number in range(1000)]

    def register() -> int:
        controller = Controller(Settings("speed"), 0.0)
        controller.greet(b"C", hello("client", CLIENT), None, 0.0)
        told = 0
        for route, message in names:
            controller.greet(route, message, None, 0.0)
            told += len(controller.flush())
        return told

    benchmark.extra_info["engines"] = len(names)
    timed: Any = benchmark  # `pedantic` has no types
    assert timed.pedantic(register, rounds=10, iterations=1, warmup_rounds=1) >= len(names)
