"""A program that makes calls and knows the right answers.

It writes one line for each call that has ended into a file of its own. When its standard input closes, or it
has given up the controller, it makes no more calls, waits for those that are outstanding, says which have not
ended, and ends. Told to `REST` there, it makes none until it is told to `GO_ON`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Final

import numpy as np

from directview import Client, ClientClosed, ControllerLost, DirectViewError, RemoteError, TaskAborted
from directview.errors import NoEnginesRegistered
from directview.testing.chaos import _tasks

__all__ = ["GONE", "GO_ON", "HUNG", "REST", "UNCONNECTED", "CallRecord", "ClientOptions", "main"]

REST: Final = b"r"
GO_ON: Final = b"g"

HUNG: Final = 3
"""Exit code of a client of which calls have not ended,"""
UNCONNECTED: Final = 4
"""of one that never got a connection,"""
GONE: Final = 5
"""and of one that has given the controller up."""

_AT_ONCE: Final = 24
"""Calls that are outstanding at the same time, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What a client program is told."""

    name: str
    connection: str
    ledger: str
    """The folder in which engines write down what runs."""
    record: str
    """The file in which this client does."""
    seed: str
    patience: float = 60.0
    """Seconds that outstanding calls have to end, once there are no more faults."""
    between: float = 0.004
    """Mean seconds between two calls, as long as no more than a few are outstanding."""
    reconnect_timeout: float = 60.0
    """Seconds to wait for another controller, where there may be one."""


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """How one call ended."""

    token: str
    kind: str
    targets: list[int]
    """Empty: whichever engine was chosen."""
    began: float
    """By the machine's monotonic clock, which all processes share."""
    ended: float = 0.0
    how: str = ""
    """``right``, ``wrong``, ``error``, ``cancelled`` or ``hung``."""
    times: int = 1
    """How often it may run in all."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """type, engine, started, text of each."""


class _Wrong(Exception):
    """An answer that isn't the right one."""


class _Program:
    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self.random = Random(options.seed)
        self.stopping = asyncio.Event()
        self.going = asyncio.Event()
        """It has not been told to rest, or is to end."""
        self.going.set()
        self.outstanding: dict[str, CallRecord] = {}
        self.number = 0
        self.file = os.open(options.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.kept: set[bytes] = set()
        """The engines into whose namespaces this client has pushed its name."""

    def note(self, record: CallRecord) -> None:
        os.write(self.file, json.dumps(asdict(record)).encode() + b"\n")

    async def run(self) -> int:
        self._watch_input()
        kinds = self._kinds()
        tasks: set[asyncio.Task[None]] = set()
        patience = self.options.reconnect_timeout
        async with Client(self.options.connection, timeout=patience, reconnect_timeout=patience) as rc:
            while not self.stopping.is_set():
                await self.going.wait()
                if len(tasks) < _AT_ONCE and rc.ids:
                    weights = [weight for weight, _ in kinds.values()]
                    kind = self.random.choices(list(kinds), weights)[0]
                    task = asyncio.ensure_future(self._call(rc, kind, kinds[kind][1]))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                elif tasks:
                    await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                between = self.options.between
                await asyncio.sleep(self.random.expovariate(1 / between) if between else 0)
                if self.number and self._controller_is_gone(rc):
                    break
            if tasks:
                await asyncio.wait(tasks, timeout=self.options.patience)
            hung = list(self.outstanding.values())
            for record in hung:
                record.how, record.ended = "hung", time.monotonic()
                self.note(record)
            for task in tasks if hung else ():
                task.print_stack()
        if hung:
            return HUNG
        return 0 if self.stopping.is_set() else GONE

    def _watch_input(self) -> None:
        def readable() -> None:
            words = os.read(0, 4096)
            if not words:
                asyncio.get_running_loop().remove_reader(0)
                self.stopping.set()
            if not words or words.endswith(GO_ON):
                self.going.set()
            else:
                self.going.clear()

        asyncio.get_running_loop().add_reader(0, readable)

    @staticmethod
    def _controller_is_gone(rc: Client) -> bool:
        try:
            rc._binding.core().check_controller()
        except ControllerLost:
            return True
        return False

    async def _call(
        self, rc: Client, kind: str, make: Callable[[Client, CallRecord], Awaitable[None]]
    ) -> None:
        self.number += 1
        record = CallRecord(
            token=f"{self.options.name}-{self.number}", kind=kind, targets=[], began=time.monotonic()
        )
        self.outstanding[record.token] = record
        try:
            await make(rc, record)
            record.how = "right"
        except _Wrong as error:
            record.how, record.errors = "wrong", [_plain(error)]
        except TaskAborted as error:
            record.how = "cancelled" if kind == "cancelled" else "error"
            record.errors = [_plain(error)]
        except (IndexError, NoEnginesRegistered) as error:
            # The engine left before anything was sent: no call was made.
            record.how = "error" if isinstance(error, RemoteError) else ""
            record.errors = [_plain(error)]
        except ExceptionGroup as group:
            record.how, record.errors = "error", [_plain(error) for error in group.exceptions]
        except Exception as error:  # noqa: BLE001 - the judge says which are right
            record.how, record.errors = "error", [_plain(error)]
        finally:
            del self.outstanding[record.token]
        record.ended = time.monotonic()
        if record.how:
            self.note(record)

    # --- the calls ---------------------------------------------------------------------------------------

    def _kinds(self) -> dict[str, tuple[float, Callable[[Client, CallRecord], Awaitable[None]]]]:
        return {
            "small": (20, self._small),
            "everywhere": (5, self._everywhere),
            "balanced": (10, self._balanced),
            "retried": (3, self._retried),
            "large": (2, self._large),
            "fails": (3, self._fails),
            "prints": (3, self._prints),
            "blocks": (2, self._blocks),
            "coroutine": (4, self._coroutine),
            "cancelled": (4, self._cancelled),
            "stream": (2, self._stream),
            "namespace": (2, self._namespace),
        }

    def _engine(self, rc: Client, record: CallRecord) -> Any:
        ids = rc.ids
        if not ids:
            raise NoEnginesRegistered("none at the moment")
        record.targets = [self.random.choice(ids)]
        return rc[record.targets[0]]

    async def _small(self, rc: Client, record: CallRecord) -> None:
        x = self.random.randrange(1 << 30)
        answer = await self._engine(rc, record).apply_async(
            _tasks.compute, self.options.ledger, record.token, x
        )
        _expect(answer, x * x + 7)

    async def _everywhere(self, rc: Client, record: CallRecord) -> None:
        record.targets = rc.ids
        if not record.targets:
            raise NoEnginesRegistered("none at the moment")
        record.times = len(record.targets)
        x = self.random.randrange(1 << 30)
        view = rc[record.targets]
        answer = await view.apply_async(_tasks.compute, self.options.ledger, record.token, x)
        _expect(answer, [x * x + 7] * len(record.targets))

    async def _balanced(self, rc: Client, record: CallRecord) -> None:
        x = self.random.randrange(1 << 30)
        view = rc.load_balanced_view()
        _expect(await view.apply_async(_tasks.compute, self.options.ledger, record.token, x), x * x + 7)

    async def _retried(self, rc: Client, record: CallRecord) -> None:
        record.times = 3
        x = self.random.randrange(1 << 30)
        view = rc.load_balanced_view(retries=2)
        _expect(await view.apply_async(_tasks.compute, self.options.ledger, record.token, x), x * x + 7)

    async def _large(self, rc: Client, record: CallRecord) -> None:
        array = np.arange(self.random.choice([50_000, 300_000, 1_000_000]), dtype=np.float64)
        array += self.number
        view = self._engine(rc, record)
        answer = await view.apply_async(_tasks.double, self.options.ledger, record.token, array)
        if not np.array_equal(answer, array * 2):
            raise _Wrong(f"an array of {array.nbytes} bytes came back as another one")

    async def _fails(self, rc: Client, record: CallRecord) -> None:
        view = self._engine(rc, record)
        try:
            answer = await view.apply_async(_tasks.fail, self.options.ledger, record.token)
        except ValueError as error:
            _expect(error.args, (record.token,))
        else:
            raise _Wrong(f"no error, but {answer!r}")

    async def _prints(self, rc: Client, record: CallRecord) -> None:
        """What it prints may be lost with the connection, but comes once and whole."""
        result = self._engine(rc, record).apply_async(_tasks.say, self.options.ledger, record.token)
        _expect(await result, record.token)
        if result.stdout not in ("", record.token + "\n"):
            raise _Wrong(f"it printed {result.stdout!r}")

    async def _blocks(self, rc: Client, record: CallRecord) -> None:
        view, seconds = self._engine(rc, record), self.random.choice([0.02, 0.1, 0.3])
        _expect(
            await view.apply_async(_tasks.sleep, self.options.ledger, record.token, seconds), record.token
        )

    async def _coroutine(self, rc: Client, record: CallRecord) -> None:
        view, seconds = self._engine(rc, record), self.random.choice([0.0, 0.05, 1.0])
        _expect(await view.apply_async(_tasks.nap, self.options.ledger, record.token, seconds), record.token)

    async def _cancelled(self, rc: Client, record: CallRecord) -> None:
        function = self.random.choice([_tasks.sleep, _tasks.nap])
        view = self._engine(rc, record)
        result = view.apply_async(function, self.options.ledger, record.token, self.random.uniform(0, 0.3))
        await asyncio.sleep(self.random.uniform(0, 0.3))
        result.cancel()
        _expect(await result, record.token)

    async def _stream(self, rc: Client, record: CallRecord) -> None:
        n = self.random.choice([0, 5, 100])
        view = self._engine(rc, record)
        items = [item async for item in view.stream(_tasks.count, self.options.ledger, record.token, n)]
        _expect(items, [i * i for i in range(n)])

    async def _namespace(self, rc: Client, record: CallRecord) -> None:
        """What was pushed stays there for as long as the engine lives."""
        record.times = 0
        view = self._engine(rc, record)
        info = rc.engine_infos[record.targets[0]]
        name = f"of_{self.options.name}".replace("-", "_")
        if info.uuid in self.kept:
            value = await view.pull_async(name)
            if rc.engine_infos.get(info.id) == info:  # Not another one by now, under the same id.
                _expect(value, self.options.name)
        else:
            await view.push_async({name: self.options.name})
            self.kept.add(info.uuid)


def _expect(answer: Any, right: Any) -> None:
    if answer != right:
        raise _Wrong(f"{answer!r:.200} instead of {right!r:.200}")


def _plain(error: BaseException) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "engine": getattr(error, "engine_id", None),
        "started": getattr(error, "started", None),
        "text": str(error)[:500],
    }


def main() -> int:
    """Run with the options as JSON; returns the exit code: 3 if calls did not end."""
    options = ClientOptions(**json.loads(sys.argv[1]))
    try:
        return asyncio.run(_Program(options).run())
    except (DirectViewError, ClientClosed) as error:
        # It could not even connect: the judge knows whether that may be.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return UNCONNECTED
