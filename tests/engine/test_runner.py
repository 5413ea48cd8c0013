"""Running calls with interrupts at every kind of moment: each hits the call it is for, or nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directview import operations
from directview.engine._interrupt import INTERRUPT_SIGNAL, Interrupts, pack_call_id
from directview.engine._namespace import Namespace
from directview.engine._outbox import Outbox
from directview.engine._runner import Parked, Runner
from directview.engine._state import Call, EngineState
from directview.engine._steps import Steps
from directview.wire.messages import ABORTED, FAILED, FORGOTTEN, OK, CallItem, Forget, Result, Submit
from directview.wire.objects import dump_arguments, dump_function, loads
from directview.wire.parcels import pack, unpack

CLIENT = bytes(range(16))


class Engine:
    """The engine's parts on this thread, and the other end of its interrupt pipe."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.state = EngineState()
        self.state.id = 0
        self.namespace = Namespace()
        operations.bind(self.namespace.names, engine_id=0)
        self.steps = Steps(self.namespace)
        self.interrupts = Interrupts(self.steps, self.read_end)
        self.outbox = Outbox(self.state, self.interrupts.shield)
        self.ended = 0
        self.runner = Runner(
            self.state, self.namespace, self.steps, self.interrupts, self.outbox, self._count
        )
        self.results: dict[int, tuple[int, Any]] = {}

    def _count(self) -> None:
        self.ended += 1

    def ask(self, *seqs: int) -> None:
        """Interrupt these calls, as a supervisor does."""
        for seq in seqs:
            os.write(self.write_end, pack_call_id(CLIENT, seq))
        signal.raise_signal(INTERRUPT_SIGNAL)

    def submit(self, seq: int, function: Callable[..., Any], *args: Any) -> None:
        parcel = pack((dump_function(function), dump_arguments(args, {})))
        assert not parcel.frames
        item = CallItem(seq, (0,), f"call{seq}", 0, parcel.nbytes, 0, parcel.body)
        self.state.receive(Submit(CLIENT, 1, (item,)), ())

    def start(self) -> bool:
        """Run the next call; whether it goes on."""
        call = self.state.next_call()
        assert call is not None
        goes_on = self.runner.start(call)
        self.read()
        return goes_on

    def read(self) -> None:
        """Note the results that would be sent."""
        for message, frames in self.state.flush():
            if isinstance(message, Result):
                for item in message.items:
                    value = None
                    if item.status == OK:
                        ((data, buffers),) = unpack(item.body, frames, nobjects=1).objects()
                        value = loads(data, buffers)
                    assert item.seq not in self.results, "a call that ended twice"
                    self.results[item.seq] = (item.status, value)

    def is_at_rest(self) -> bool:
        return (
            self.steps.current is None
            and self.interrupts._shields == 0
            and self.interrupts._pending is None
            and self.namespace._depth == 0
        )


@contextmanager
def engine_here() -> Iterator[Engine]:
    engine = Engine()
    here["engine"] = engine
    try:
        with engine.interrupts:
            yield engine
        assert engine.is_at_rest()
    finally:
        here.clear()
        os.close(engine.read_end)
        os.close(engine.write_end)


here: dict[str, Engine] = {}
"""For the functions that are called: they are sent by name, as this module can be imported."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with engine_here() as engine:
        yield engine


def plain(value: int) -> int:
    return value


def asks(seq: int, value: int) -> int:
    here["engine"].ask(seq)
    return value


class AsksWhenPickled:
    """Its pickling is our own code's business, although it runs the user's."""

    def __init__(self, seq: int) -> None:
        self.seq = seq

    def __reduce__(self) -> Any:
        here["engine"].ask(self.seq)
        return int, (self.seq,)


def gives(seq: int) -> AsksWhenPickled:
    return AsksWhenPickled(seq)


def asks_twice(seq: int) -> str:
    try:
        here["engine"].ask(seq)
    except BaseException:  # noqa: BLE001 - as careless code does
        here["engine"].ask(seq)
    return "to the end"


def asks_in_a_print(seq: int) -> str:
    engine = here["engine"]
    with engine.interrupts.shield():
        engine.ask(seq)
        engine.outbox.printed((CLIENT, seq), "stdout", "whole\n")
    return "to the end"


class Waits(Parked):
    """A call that waits for its result."""

    calls: list[Call] = []

    def parked(self, call: Call) -> None:
        self.calls.append(call)


def waits() -> Waits:
    return Waits()


def test_an_interrupt_before_the_start_keeps_it_from_starting(engine: Engine) -> None:
    engine.submit(1, asks, 2, 1)
    engine.submit(2, asks, 99, 2)
    engine.start()
    engine.start()
    assert engine.results == {1: (OK, 1), 2: (ABORTED, None)}
    assert (CLIENT, 99) not in engine.steps.cancelled, "the second function has run"


def test_an_interrupt_after_the_end_hits_nobody(engine: Engine) -> None:
    engine.submit(1, plain, 1)
    engine.submit(2, plain, 2)
    engine.start()
    engine.ask(1)
    engine.start()
    engine.ask(1, 2)
    assert engine.results == {1: (OK, 1), 2: (OK, 2)}


def test_an_interrupt_while_the_result_is_packed_comes_too_late(engine: Engine) -> None:
    engine.submit(1, gives, 1)
    engine.submit(2, gives, 1)
    engine.start()
    engine.start()
    assert engine.results == {1: (OK, 1), 2: (OK, 1)}


def test_an_interrupt_that_is_swallowed_is_followed_by_another(engine: Engine) -> None:
    engine.submit(1, asks_twice, 1)
    engine.submit(2, plain, 2)
    engine.start()
    engine.start()
    assert engine.results == {1: (ABORTED, None), 2: (OK, 2)}


def test_an_interrupt_in_a_print_waits_for_its_end(engine: Engine) -> None:
    engine.submit(1, asks_in_a_print, 1)
    engine.start()
    assert engine.results == {1: (ABORTED, None)}


def test_no_call_begins_or_fails_when_the_engine_ends(engine: Engine) -> None:
    """What its own end has torn out of a call is no result: the client is told that the engine ended."""

    def ends() -> None:
        engine.interrupts.end()

    here["engine"].namespace.names["ends"] = ends
    engine.submit(1, plain, 1)
    engine.submit(2, operations.execute, "ends()")
    engine.submit(3, plain, 3)
    for _ in range(3):
        engine.start()
    assert engine.results == {1: (OK, 1)}


async def test_a_parked_call_ends_when_it_is_finished(engine: Engine) -> None:
    Waits.calls.clear()
    for seq in (1, 2, 3):
        engine.submit(seq, waits)
        assert not engine.start()
    assert engine.results == {}
    first, second, third = Waits.calls
    assert engine.runner.finish(first, "result")
    assert not engine.runner.finish(first, "again")
    engine.runner.cancel(second)
    assert not engine.runner.finish(second, "too late")
    engine.read()
    assert engine.results == {1: (OK, "result"), 2: (ABORTED, None)}
    engine.state.receive(Forget(CLIENT), ())
    assert engine.state.gone == [CLIENT]
    assert engine.runner.finish(third, "for nobody")
    engine.read()
    assert engine.results[3] == (FORGOTTEN, None)


async def test_a_result_that_can_not_travel_is_the_parked_calls_error(engine: Engine) -> None:
    Waits.calls.clear()
    engine.submit(1, waits)
    engine.start()
    assert engine.runner.finish(Waits.calls[0], (i for i in range(3)))
    engine.read()
    assert engine.results == {1: (FAILED, None)}


MOMENTS = ("before", "during", "in a print", "packing", "after")


@given(st.lists(st.tuples(st.sampled_from(MOMENTS), st.integers(1, 6), st.integers(1, 6)), max_size=12))
def test_each_interrupt_hits_its_call_or_nothing(plan: list[tuple[str, int, int]]) -> None:
    """Six calls; at moments of some of them, others (or they themselves) are interrupted."""
    with engine_here() as engine:

        def at(moment: str, call: int) -> None:
            targets = [target for when, during, target in plan if (when, during) == (moment, call)]
            asked.update(targets)
            if targets:
                engine.ask(*targets)

        class Result:
            def __init__(self, call: int) -> None:
                self.call = call

            def __reduce__(self) -> Any:
                at("packing", self.call)
                return int, (self.call,)

        def body(call: int) -> Any:
            ran.append(call)
            at("during", call)
            with engine.interrupts.shield():
                at("in a print", call)
                engine.outbox.printed((CLIENT, call), "stdout", "line\n")
            return Result(call)

        engine.namespace.names["body"] = body
        ran: list[int] = []
        asked: set[int] = set()
        expected: dict[int, tuple[int, Any]] = {}
        for call in range(1, 7):
            engine.submit(call, operations.pull, f"body({call})")
            at("before", call)
            hit_before = call in asked
            hit_during = any(
                [(when, target) in (("during", call), ("in a print", call)) for when, at_call, target in plan
                 if at_call == call]
            )  # fmt: skip
            engine.start()
            at("after", call)
            expected[call] = (ABORTED, None) if hit_before or hit_during else (OK, call)
            assert (call in ran) == (not hit_before)
            assert engine.is_at_rest()
        assert engine.results == expected
