"""mpi4py: processes that are told by broadcast what to do next, and arrays moved by MPI's own collectives."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.peer import Array, Peer, Target

__all__ = ["MpiPeer"]


class MpiPeer(Peer):
    """Rank 0 is this process; the engines are spawned: they read an order, take part, and wait for the next.

    Orders and functions are pickled objects, arrays are buffers: the fastest that each has.
    """

    distributions = ("mpi4py", "mpich", "cloudpickle", "numpy")
    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "nothing stands between the ranks",
        "awaiting": "a rank blocks in its collectives; there is nothing to await",
        "address": "a burst of calls that nobody waits for is nothing that collectives do",
        "balanced": "every rank takes part in every collective: nothing is balanced",
        "share": "each rank gets a copy of its own",
    }

    def __init__(self) -> None:
        # Spawning needs the process manager that was installed beside this interpreter.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._cloudpickle = importlib.import_module("cloudpickle")
        self._numpy = importlib.import_module("numpy")
        self._mpi = importlib.import_module("mpi4py.MPI")
        self._world: Any = None
        self._sizes: dict[str, tuple[int, Any]] = {}

    def start(self, n: int) -> None:
        self._between = self._mpi.COMM_SELF.Spawn(sys.executable, ["-m", "benchmarks.peers.mpi"], maxprocs=n)
        self._world = self._between.Merge(False)
        self._n = n

    def stop(self) -> None:
        world, self._world = self._world, None
        if world is not None:
            world.bcast(None, 0)
            world.Disconnect()
            self._between.Disconnect()

    def caller(self, f: Callable[[], Any], target: Target) -> Callable[[], Any]:
        world, pickled = self._world, self._cloudpickle.dumps(f)
        if target is not None:
            order = ("call_one", pickled, ())

            def one() -> Any:
                # The others wait for their next order in a broadcast; this one is a message to one rank.
                world.bcast(("only", target + 1), 0)
                world.send(order, target + 1)
                return world.recv(source=target + 1)

            return one

        def every() -> Any:
            world.bcast(("call", pickled), 0)
            return world.gather(None, 0)

        return every

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        world = self._world
        world.bcast(("only", 1), 0)
        if not isinstance(argument, self._numpy.ndarray):
            world.send(("call_with", self._cloudpickle.dumps(f), argument), 1)
            return world.recv(source=1)
        world.send(("call_one", self._cloudpickle.dumps(f), ((argument.shape, argument.dtype.str),)), 1)
        world.Send(argument, 1)
        return world.recv(source=1)

    def burst(self, f: Callable[[], Any], count: int, engines: int) -> None:
        self._refuse("address")

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        size = -(-len(items) // self._n)
        self._world.bcast(("map", self._cloudpickle.dumps(f)), 0)
        self._world.scatter([None, *[items[i * size : (i + 1) * size] for i in range(self._n)]], 0)
        parts = self._world.gather([], 0)
        return [item for part in parts for item in part]

    # --- arrays ---------------------------------------------------------------------------------------

    def scatter(self, name: str, array: Array) -> None:
        counts = self._counts(len(array))
        self._world.bcast(("scatter", name, counts), 0)
        self._world.Scatterv([array, counts, self._mpi.DOUBLE], self._numpy.empty(0), 0)
        self._world.Barrier()
        self._sizes[name] = (len(array), counts)

    def _counts(self, length: int) -> list[int]:
        """Items for each rank; none for this one."""
        share, more = divmod(length, self._n)
        return [0, *[share + (i < more) for i in range(self._n)]]

    def gather(self, name: str) -> Array:
        length, counts = self._sizes[name]
        whole = self._numpy.empty(length)
        self._world.bcast(("gather", name), 0)
        self._world.Gatherv(self._numpy.empty(0), [whole, counts, self._mpi.DOUBLE], 0)
        return whole

    def push(self, name: str, array: Array, target: Target) -> None:
        if target is None:
            self._world.bcast(("push", name, len(array)), 0)
            self._world.Bcast(array, 0)
            self._world.Barrier()
        else:
            self._world.bcast(("only", target + 1), 0)
            self._world.send(("keep", name, len(array)), target + 1)
            self._world.Send(array, target + 1)
            self._world.recv(source=target + 1)
        self._sizes[name] = (len(array), None)

    def pull(self, name: str) -> Sequence[Array]:
        length = self._sizes[name][0]
        whole = self._numpy.empty((self._n, length))
        self._world.bcast(("gather", name), 0)
        counts = [0, *[length] * self._n]
        self._world.Gatherv(self._numpy.empty(0), [whole, counts, self._mpi.DOUBLE], 0)
        return list(whole)

    def stored(self, name: str) -> Sequence[int]:
        self._world.bcast(("stored", name), 0)
        sizes: Sequence[int] = self._world.gather(0, 0)[1:]
        return sizes


class _Rank:
    """One engine: obeys until it is told to end."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.names: dict[str, Any] = {}
        self.numpy = importlib.import_module("numpy")
        self.loads = importlib.import_module("cloudpickle").loads

    def obey(self) -> None:
        while (order := self.world.bcast(None, 0)) is not None:
            what, *rest = order
            getattr(self, what)(*rest)

    def only(self, rank: int) -> None:
        if self.world.Get_rank() == rank:
            what, *rest = self.world.recv(source=0)
            self.world.send(getattr(self, what)(*rest), 0)

    def call(self, function: bytes) -> None:
        self.world.gather(self.loads(function)(), 0)

    def call_one(self, function: bytes, arrays: Sequence[tuple[tuple[int, ...], str]]) -> Any:
        received = []
        for shape, dtype in arrays:
            array = self.numpy.empty(shape, dtype)
            self.world.Recv(array, source=0)
            received.append(array)
        return self.loads(function)(*received)

    def call_with(self, function: bytes, argument: Any) -> Any:
        return self.loads(function)(argument)

    def keep(self, name: str, length: int) -> None:
        self.names[name] = self.numpy.empty(length)
        self.world.Recv(self.names[name], source=0)

    def map(self, function: bytes) -> None:
        f = self.loads(function)
        self.world.gather([f(item) for item in self.world.scatter(None, 0)], 0)

    def scatter(self, name: str, counts: Sequence[int]) -> None:
        self.names[name] = self.numpy.empty(counts[self.world.Get_rank()])
        self.world.Scatterv(None, self.names[name], 0)
        self.world.Barrier()

    def gather(self, name: str) -> None:
        self.world.Gatherv(self.names[name], None, 0)

    def push(self, name: str, length: int) -> None:
        self.names[name] = self.numpy.empty(length)
        self.world.Bcast(self.names[name], 0)
        self.world.Barrier()

    def stored(self, name: str) -> None:
        self.world.gather(int(self.names[name].nbytes) if name in self.names else 0, 0)


if __name__ == "__main__":
    mpi = importlib.import_module("mpi4py.MPI")
    parent = mpi.Comm.Get_parent()
    merged = parent.Merge(True)
    _Rank(merged).obey()
    merged.Disconnect()
    parent.Disconnect()
