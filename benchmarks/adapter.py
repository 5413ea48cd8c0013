"""The process in which one peer is measured: ``python -m benchmarks.adapter MODULE:CLASS PARENT``.

It reads one JSON object a line and answers with one. Its functions for the engines are defined here, in
``__main__``, because that is where a script's and a notebook's are: libraries send them by value.

========== ========================== ==================================================================
``do``     beside it                  answer, beside ``"ok": true``
========== ========================== ==================================================================
start      n                          seconds until every engine has answered a call
work       operation, params,         seconds: one for each repetition; single_calls; sizes, by name
           repetitions
controller                            pids
stop                                  seconds
========== ========================== ==================================================================

Otherwise ``"ok": false`` and ``error``, with ``"unsupported": true`` where the library has no such thing.
The first line, unasked, tells versions and how long the import took. The end of input ends everything.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

from benchmarks.kin import adopt_orphans, die_with_parent, end_in_order
from benchmarks.measuring import OPERATIONS, Functions
from benchmarks.peer import ALL, Peer, Unsupported


def nothing() -> None:
    """What the smallest call calls."""


def size(array: Any) -> int:
    """Touch an argument just enough to know that it is there."""
    return int(array.nbytes)


def cheap(item: int) -> int:
    """About as little as a function can do."""
    return item + 1


def busy(item: int) -> int:
    """Compute for at least 5 µs: a fixed amount of work, since a clock would count waiting as working."""
    for _ in range(120):
        item = (item * 1_664_525 + 1_013_904_223) & 0xFFFF_FFFF
    return item


def same(value: Any) -> Any:
    """Send back what came."""
    return value


class Adapter:
    """Does what the harness asks."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.functions = Functions(nothing, size, cheap, busy, same)

    def start(self, n: int) -> Mapping[str, Any]:
        """Start engines and have each answer once."""
        begun = time.perf_counter()
        self.peer.start(n)
        if not n:
            return {"seconds": time.perf_counter() - begun}
        try:
            self.peer.caller(nothing, ALL)()
        except Unsupported:
            # Workers that can't be addressed have all been started by now, or will be by the first calls.
            pass
        return {"seconds": time.perf_counter() - begun}

    def work(self, operation: str, params: Mapping[str, int], repetitions: int) -> Mapping[str, Any]:
        """Measure one operation."""
        measured = OPERATIONS[operation](self.peer, self.functions, params, repetitions)
        return {
            "seconds": measured.each,
            "single_calls": measured.single_calls,
            "sizes": dict(measured.sizes),
        }

    def controller(self) -> Mapping[str, Any]:
        """Which processes pass messages on."""
        return {"pids": list(self.peer.controllers())}

    def stop(self) -> Mapping[str, Any]:
        """End the engines."""
        begun = time.perf_counter()
        self.peer.stop()
        return {"seconds": time.perf_counter() - begun}


def _answer(actions: Mapping[str, Callable[..., Mapping[str, Any]]], line: str) -> Mapping[str, Any]:
    request = json.loads(line)
    try:
        return {"ok": True, **actions[request.pop("do")](**request)}
    except Unsupported as reason:
        return {"ok": False, "unsupported": True, "error": str(reason)}
    except Exception as error:  # noqa: BLE001 - whatever the library does is reported, and the next work goes on
        traceback.print_exc()
        return {"ok": False, "unsupported": False, "error": f"{type(error).__name__}: {error}"[:2000]}


def _own_stdout() -> IO[str]:
    """The harness's pipe, out of reach for whoever prints: what is printed goes to the log."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return pipe


def main(name: str, harness: int) -> None:
    """Serve until the end of input, or of the harness."""
    answers = _own_stdout()
    end_in_order()
    die_with_parent(harness)
    adopt_orphans()
    module, _, cls = name.partition(":")
    begun = time.perf_counter()
    peer: Peer = getattr(importlib.import_module(module), cls)()
    hello: dict[str, Any] = {"ok": True, "import_seconds": time.perf_counter() - begun}
    hello["versions"] = {name: importlib.metadata.version(name) for name in peer.distributions}
    hello["versions"]["Python"] = platform.python_version()
    print(json.dumps(hello), file=answers)
    adapter = Adapter(peer)
    actions: dict[str, Callable[..., Mapping[str, Any]]] = {
        "start": adapter.start,
        "work": adapter.work,
        "controller": adapter.controller,
        "stop": adapter.stop,
    }
    try:
        for line in sys.stdin:
            print(json.dumps(_answer(actions, line)), file=answers)
    finally:
        peer.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
