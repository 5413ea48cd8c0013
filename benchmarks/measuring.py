"""The operations, timed: one function for each, the same for every peer. Runs in the peer's process.

Each repeats what it measures, once before the clock starts and then as often as it is told, and answers
with one number of seconds for each repetition. It also checks that the work was done: a result that is
wrong is no result.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.peer import ALL, AwaitCall, Peer, Target, Unsupported

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
    busy: Callable[[int], int]
    same: Callable[[Any], Any]


@dataclass(frozen=True)
class Seconds:
    """What was measured; see `benchmarks.figures.Sample`."""

    each: list[float] = field(default_factory=list)
    single_calls: list[float] = field(default_factory=list)
    sizes: Mapping[str, float] = field(default_factory=dict)


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
    return Seconds(_repeat(call, repetitions))


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
        return Seconds(times)

    return _on_a_loop(peer, measure)


def burst_sync(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """Many calls, then all their results."""
    count, engines = params["count"], params["engines"]
    peer.burst(functions.nothing, count // 10, engines)
    return Seconds(_repeat(lambda: peer.burst(functions.nothing, count, engines), repetitions))


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
        return Seconds([await once(call, count) for _ in range(repetitions)])

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
    return _map(peer.map, peer.counted, functions.cheap, params["count"], repetitions)


def map_busy(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A map over items that take some microseconds of computing each."""
    return _map(peer.map, peer.counted, functions.busy, params["count"], repetitions)


def map_balanced(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A task for each item, for whichever engine is free."""
    return _map(peer.balanced, peer.counted, functions.cheap, params["count"], repetitions, warm=10)


def _map(
    mapped: Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]],
    counted: Callable[[float], float],
    f: Callable[[int], int],
    count: int,
    repetitions: int,
    warm: int = 1,
) -> Seconds:
    """Time maps of all items, after one over a `warm`-th part of them whose results are checked."""
    items = list(range(count))
    some = items[: count // warm]
    _check(mapped(f, some) == [f(item) for item in some], "map: wrong results")
    times = []
    for _ in range(repetitions):
        (taken,) = _repeat(lambda: mapped(f, items), 1)
        times.append(counted(taken))
    return Seconds(times)


# --- arrays ---------------------------------------------------------------------------------------------


def _array(nbytes: int) -> Any:
    """Numbers that no compression makes small, quickly made."""
    size = nbytes // 8
    some = np.random.default_rng(0).random(min(size, 1 << 20))
    return np.resize(some, size)


def _drop(peer: Peer, name: str, array: Any) -> None:
    """Put something small where something large was, so that what follows finds the memory free again."""
    if array.nbytes >= _LARGE:
        peer.push(name, array[:1], ALL)


def scatter(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """One part to each engine."""
    array = _array(params["bytes"])
    if array.nbytes < _LARGE:
        peer.scatter("scattered", array)
    times = _repeat(lambda: peer.scatter("scattered", array), repetitions)
    _check(sum(peer.stored("scattered")) == array.nbytes, "scatter: the parts are not the whole")
    _drop(peer, "scattered", array)
    return Seconds(times)


def gather(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """One part from each engine."""
    array = _array(params["bytes"])
    peer.scatter("gathered", array)
    _check(np.array_equal(peer.gather("gathered"), array), "gather: not what was scattered")
    times = _repeat(lambda: peer.gather("gathered"), repetitions)
    _drop(peer, "gathered", array)
    return Seconds(times)


def push(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """The same whole array to each engine."""
    array = _array(params["bytes"])
    if array.nbytes < _LARGE:
        peer.push("pushed", array, ALL)
    times = _repeat(lambda: peer.push("pushed", array, ALL), repetitions)
    _check(set(peer.stored("pushed")) == {array.nbytes}, "push: an engine has something else")
    _drop(peer, "pushed", array)
    return Seconds(times)


def pull(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A whole array from each engine."""
    array = _array(params["bytes"])
    peer.push("pulled", array, ALL)
    pulled = peer.pull("pulled")
    _check(pulled and all([np.array_equal(each, array) for each in pulled]), "pull: not what was pushed")
    del pulled
    times = _repeat(lambda: peer.pull("pulled"), repetitions)
    _drop(peer, "pulled", array)
    return Seconds(times)


def push_to_one(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A whole array to the first engine."""
    array = _array(params["bytes"])
    if array.nbytes < _LARGE:
        peer.push("large", array, 0)
    times = _repeat(lambda: peer.push("large", array, 0), repetitions)
    _check(max(peer.stored("large")) == array.nbytes, "push: the engine has something else")
    peer.push("large", array[:1], 0)  # so that what follows finds the memory free again
    return Seconds(times)


def apply_argument(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A call with an array as its argument."""
    array = _array(params["bytes"])
    _check(peer.apply(functions.size, array) == array.nbytes, "apply: not the array that was sent")
    return Seconds(_repeat(lambda: peer.apply(functions.size, array), repetitions))


def share(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """The same whole array for all engines, in memory that they share."""
    array = _array(params["bytes"])
    peer.share("shared", array)
    times = _repeat(lambda: peer.share("shared", array), repetitions)
    _check(set(peer.stored("shared")) == {array.nbytes}, "share: an engine sees something else")
    return Seconds(times)


def call_shared(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """A call on all engines with an array as argument that has been shared before."""
    array = _array(params["bytes"])
    call = peer.shared_caller(functions.size, array)
    _check(set(call()) == {array.nbytes}, "share: an engine sees something else")
    return Seconds(_repeat(call, repetitions))


# --- other objects ----------------------------------------------------------------------------------------


def echo(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """An object as a call's argument, which returns it."""
    made = _OBJECTS[params["object"]](params["rows"])
    came = peer.apply(functions.same, made)
    _check(type(came) is type(made), f"echo: a {type(came).__name__} came back")
    _check(came == made if isinstance(made, list) else came.equals(made), "echo: not what was sent")
    del came
    return Seconds(_repeat(lambda: peer.apply(functions.same, made), repetitions))


def _floats(rows: int) -> list[float]:
    floats: list[float] = np.random.default_rng(0).random(rows).tolist()
    return floats


def _columns(rows: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {f"column {number}": random.random(rows) for number in range(10)}


def _frame(rows: int) -> Any:
    return _module("pandas").DataFrame(_columns(rows))


def _table(rows: int) -> Any:
    return _module("pyarrow").table(_columns(rows))


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Unsupported(f"{name} isn't installed in its environment") from None


_OBJECTS = (_floats, _frame, _table)


# --- what only directview is asked ------------------------------------------------------------------------


def growth(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """What a great many calls leave behind in the processes."""
    grown = peer.growth(functions.nothing, params["count"], params["beginning"])
    sizes = {"client": grown.client, "controller": grown.controller, "engine": grown.engine}
    return Seconds(sizes=sizes)


def simulated(peer: Peer, functions: Functions, params: Params, repetitions: int) -> Seconds:
    """Registration of many engines, and calls on all of them."""
    measured = peer.simulated(functions.nothing, params["engines"], repetitions)
    return Seconds(measured.calls, sizes={"register": measured.register})


OPERATIONS: Mapping[str, Callable[[Peer, Functions, Params, int], Seconds]] = {
    operation.__name__: operation
    for operation in (
        latency_sync,
        latency_await,
        burst_sync,
        burst_await,
        concurrent_awaits,
        map_cheap,
        map_busy,
        map_balanced,
        scatter,
        gather,
        push,
        pull,
        push_to_one,
        apply_argument,
        share,
        call_shared,
        echo,
        growth,
        simulated,
    )
}
"""By name, as `benchmarks.works` calls them."""
