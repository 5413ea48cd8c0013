"""memcpy: how fast one core moves bytes into memory that it has used before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from benchmarks.peer import Array, Peer, Target

__all__ = ["Memcpy"]


class Memcpy(Peer):
    """One copy, within one process, where others have processes and messages."""

    cannot: ClassVar[Mapping[str, str]] = {
        "controllers": "it is one process",
        **dict.fromkeys(("caller", "burst", "awaiting", "map"), "it only copies"),
    }
    distributions = ("numpy",)

    def __init__(self) -> None:
        self._n = 0
        self._memory: dict[str, list[Any]] = {}
        self._spare = np.empty(0)

    def start(self, n: int) -> None:
        self._n = n

    def stop(self) -> None:
        self._memory.clear()
        self._spare = np.empty(0)

    def _copy(self, name: str, array: Array, copies: int) -> None:
        kept = self._memory.get(name, [])
        if len(kept) != copies or kept[0].shape != array.shape:
            kept = self._memory[name] = [np.zeros_like(array) for _ in range(copies)]
        for memory in kept:
            np.copyto(memory, array)

    def apply(self, f: Callable[[Any], Any], argument: Any) -> Any:
        self._copy("argument", argument, 1)
        return f(argument)

    def scatter(self, name: str, array: Array) -> None:
        self._copy(name, array, 1)

    def gather(self, name: str) -> Array:
        (memory,) = self._memory[name]
        if self._spare.shape != memory.shape:
            self._spare = np.zeros_like(memory)
        np.copyto(self._spare, memory)
        return self._spare

    def push(self, name: str, array: Array, target: Target) -> None:
        self._copy(name, array, self._n if target is None else 1)

    def pull(self, name: str) -> Sequence[Array]:
        for memory in self._memory[name]:
            if self._spare.shape != memory.shape:
                self._spare = np.zeros_like(memory)
            np.copyto(self._spare, memory)
        return [self._spare] * self._n

    def stored(self, name: str) -> Sequence[int]:
        return [memory.nbytes for memory in self._memory[name]]
