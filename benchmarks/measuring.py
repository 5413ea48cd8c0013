"""The operations, timed: one function for each, the same for every peer. Runs in the peer's process.

Each repeats what it measures, once before the clock starts and then as often as it is told, and answers
with one number of seconds for each repetition. It also checks that the work was done: a result that is
wrong is no result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peer import ALL, AwaitCall, Peer, Target

__all__ = ["OPERATIONS", "Functions", "Seconds", "WrongResult"]

_WARM_CALLS = 20
_LARGE = 500_000_000
"""Bytes from which on there is no repetition before the clock starts."""


class WrongResult(Exception):
    """The work was not done, or not rightly."""


@dataclass(frozen=True)
class Functions:
    """What is called on the engines: functions of the main module, as in a script or notebook."""

    nothing: Callable[[], None]
    size: Callable[[Any], int]
    cheap: Callable[[int], int]


@dataclass(frozen=True)
class Seconds:
    """What was measured; see `benchmarks.figures.Sample`."""

    each: list[float]
    single_calls: list[float]


Params = Mapping[str, int]


def _check(right: object, what: str) -> None:
    if not right:
        raise WrongResult(what)


def _repeat(run: Callable[[], Any], repetitions: int) -> list[float]:
    """Time each of `repetitions` runs."""
    times = []
    clock = time.perf_counter
    for _ in range(repetitions):
        begun = clock()
        run()
        times.append(clock() - begun)
    return times


def _target(params: Params) -> Target:
    return 0 if params["engines"] == 1 else ALL


# --- small calls ----------------------------------------------------------------------------------------


def latency_sync(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """One blocking call after the other."""
    call = peer.caller(functions.nothing, _target(params))
    for _ in range(_WARM_CALLS):
        call()
    return Seconds(_repeat(call, repetitions), [])


def latency_await(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """One awaited call after the other."""
    target = _target(params)

    async def measure(call: AwaitCall) -> Seconds:
        times = []
        for number in range(_WARM_CALLS + repetitions):
            begun = time.perf_counter()
            await call(functions.nothing, target)
            if number >= _WARM_CALLS:
                times.append(time.perf_counter() - begun)
        return Seconds(times, [])

    return _on_a_loop(peer, measure)


def burst_sync(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """Many calls, then all their results."""
    count, engines = params["count"], params["engines"]
    peer.burst(functions.nothing, count // 10, engines)
    return Seconds(_repeat(lambda: peer.burst(functions.nothing, count, engines), repetitions), [])


def burst_await(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """Many calls from one coroutine, then all their results."""
    count, engines = params["count"], params["engines"]

    async def once(call: AwaitCall, count: int) -> float:
        begun = time.perf_counter()
        for result in [call(functions.nothing, number % engines) for number in range(count)]:
            await result
        return time.perf_counter() - begun

    async def measure(call: AwaitCall) -> Seconds:
        await once(call, count // 10)
        return Seconds([await once(call, count) for _ in range(repetitions)], [])

    return _on_a_loop(peer, measure)


def concurrent_awaits(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """As many tasks as calls, each awaiting its own."""
    count, engines = params["count"], params["engines"]

    async def once(call: AwaitCall, count: int) -> tuple[float, list[float]]:
        single: list[float] = []

        async def one(number: int) -> None:
            begun = time.perf_counter()
            await call(functions.nothing, number % engines)
            single.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(one(number))
        taken = time.perf_counter() - begun
        _check(len(single) == count, f"{len(single)} of {count} calls were answered")
        return taken, single

    async def measure(call: AwaitCall) -> Seconds:
        await once(call, count // 10)
        runs = [await once(call, count) for _ in range(repetitions)]
        return Seconds([taken for taken, _ in runs], [each for _, single in runs for each in single])

    return _on_a_loop(peer, measure)


def _on_a_loop(peer: Peer, measure: Callable[[AwaitCall], Awaitable[Seconds]]) -> Seconds:
    async def connected() -> Seconds:
        async with peer.awaiting() as call:
            return await measure(call)

    return asyncio.run(connected())


def map_cheap(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A map over items that cost next to nothing."""
    items = list(range(params["count"]))
    _check(peer.map(functions.cheap, items) == [item + 1 for item in items], "map: wrong results")
    return Seconds(_repeat(lambda: peer.map(functions.cheap, items), repetitions), [])


# --- arrays ---------------------------------------------------------------------------------------------


def _array(nbytes: int) -> Any:
    """Numbers that no compression makes small, quickly made."""
    size = nbytes // 8
    some = np.random.default_rng(0).random(min(size, 1 << 20))
    return np.resize(some, size)


def scatter(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """One part to each engine."""
    array = _array(params["bytes"])
    peer.scatter("scattered", array)
    times = _repeat(lambda: peer.scatter("scattered", array), repetitions)
    _check(sum(peer.stored("scattered")) == array.nbytes, "scatter: the parts are not the whole")
    return Seconds(times, [])


def gather(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """One part from each engine."""
    array = _array(params["bytes"])
    peer.scatter("gathered", array)
    _check(np.array_equal(peer.gather("gathered"), array), "gather: not what was scattered")
    return Seconds(_repeat(lambda: peer.gather("gathered"), repetitions), [])


def push(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """The same whole array to each engine."""
    array = _array(params["bytes"])
    peer.push("pushed", array, ALL)
    times = _repeat(lambda: peer.push("pushed", array, ALL), repetitions)
    _check(set(peer.stored("pushed")) == {array.nbytes}, "push: an engine has something else")
    return Seconds(times, [])


def pull(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A whole array from each engine."""
    array = _array(params["bytes"])
    peer.push("pulled", array, ALL)
    pulled = peer.pull("pulled")
    _check(pulled and all([np.array_equal(each, array) for each in pulled]), "pull: not what was pushed")
    del pulled
    return Seconds(_repeat(lambda: peer.pull("pulled"), repetitions), [])


def push_to_one(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A whole array to the first engine."""
    array = _array(params["bytes"])
    if array.nbytes < _LARGE:
        peer.push("large", array, 0)
    times = _repeat(lambda: peer.push("large", array, 0), repetitions)
    _check(max(peer.stored("large")) == array.nbytes, "push: the engine has something else")
    peer.push("large", array[:1], 0)  # so that what follows finds the memory free again
    return Seconds(times, [])


def apply_argument(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A call with an array as its argument."""
    array = _array(params["bytes"])
    _check(peer.apply(functions.size, array) == array.nbytes, "apply: not the array that was sent")
    return Seconds(_repeat(lambda: peer.apply(functions.size, array), repetitions), [])


OPERATIONS: Mapping[str, Callable[[Peer, Functions, Params, int], Seconds]] = {
    operation.__name__: operation
    for operation in (
        latency_sync,
        latency_await,
        burst_sync,
        burst_await,
        concurrent_awaits,
        map_cheap,
        scatter,
        gather,
        push,
        pull,
        push_to_one,
        apply_argument,
    )
}
"""By name, as `benchmarks.works` calls them."""
