"""Headers and parcels: bytes to messages and back. Figures are per batch; `calls` says how many calls."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from directview.wire.messages import OK, CallItem, Result, ResultItem, Submit, decode, encode
from directview.wire.objects import dump_arguments, dump_function, dumps, loads
from directview.wire.parcels import pack, unpack

UUID = bytes(16)
BATCHES = (1, 100)


def nothing() -> None:
    """The smallest call."""


nothing.__module__ = "__main__"  # as in a script: it travels by value


def calls(n: int) -> Submit:
    """A batch of no-op calls."""
    body = pack((dump_function(nothing), dump_arguments((), {}))).body
    return Submit(
        UUID, 1, tuple([CallItem(seq, (0,), "nothing", 0, len(body), 0, body) for seq in range(1, n + 1)])
    )


def results(n: int) -> Result:
    """A batch of their results."""
    body = pack((dumps(None),)).body
    return Result(
        UUID, 0, tuple([ResultItem(seq, OK, 1e9, 1e9, len(body), 0, body) for seq in range(1, n + 1)])
    )


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("make", [calls, results])
class TestHeaders:
    """What every process does with every message."""

    def test_encode(self, benchmark: BenchmarkFixture, make: object, n: int) -> None:
        message = calls(n) if make is calls else results(n)
        benchmark.extra_info["calls"] = n
        assert benchmark(encode, message)

    def test_decode(self, benchmark: BenchmarkFixture, make: object, n: int) -> None:
        message = calls(n) if make is calls else results(n)
        benchmark.extra_info["calls"] = n
        assert benchmark(decode, encode(message)) == message


def test_pack_a_small_call(benchmark: BenchmarkFixture) -> None:
    """Function and arguments, pickled before."""
    objects = dump_function(nothing), dump_arguments((1, "two"), {})
    assert benchmark(pack, objects).chunks == ()


def test_unpack_a_small_call(benchmark: BenchmarkFixture) -> None:
    """On the engine, for each call."""
    body = pack((dump_function(nothing), dump_arguments((1, "two"), {}))).body
    parcel = benchmark(unpack, body, (), nobjects=2)
    assert parcel.missing == 0


@pytest.mark.parametrize("nbytes", [100_000, 100_000_000], ids=["frame", "chunks"])
def test_pack_an_array(benchmark: BenchmarkFixture, nbytes: int) -> None:
    """In a frame it is copied once; in chunks, never."""
    array = np.zeros(nbytes, np.uint8)
    benchmark.extra_info["bytes"] = nbytes

    def make() -> int:
        parcel = pack((dump_function(nothing), dump_arguments((array,), {})))
        return len(parcel.frames) + len(parcel.chunks)

    assert benchmark(make) == 1


@pytest.mark.parametrize(
    "value",
    [None, {"a": 1, "b": [1.0, 2.0]}, np.arange(10_000), [float(number) for number in range(100_000)]],
    ids=["none", "dict", "array", "floats"],
)
class TestPickling:
    """Values there and back."""

    def test_dumps(self, benchmark: BenchmarkFixture, value: object) -> None:
        assert benchmark(dumps, value).data

    def test_loads(self, benchmark: BenchmarkFixture, value: object) -> None:
        data, buffers = dumps(value)
        assert type(benchmark(loads, data, buffers)) is type(value)


def test_dump_a_function_again(benchmark: BenchmarkFixture) -> None:
    """The cache of function pickles, which every call asks."""
    assert benchmark(dump_function, nothing).data


def test_dump_a_function_for_the_first_time(benchmark: BenchmarkFixture) -> None:
    """What the cache saves."""
    assert benchmark(dumps, nothing).data
