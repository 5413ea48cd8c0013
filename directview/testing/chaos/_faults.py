"""The faults of the schedule, done to whoever is there."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Final

from directview.testing.chaos import _clocks
from directview.testing.chaos._judge import AWAY, HARD, LONG_REACH, REACH, Happening
from directview.testing.chaos._processes import everybody, freeze, freeze_all, kill
from directview.testing.chaos._sandbox import SHARED, full
from directview.testing.chaos._schedule import Fault

if TYPE_CHECKING:
    from directview.testing.chaos._episode import Life
    from directview.testing.chaos._proxy import Proxy

__all__ = ["Faults"]

_SIGNALS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM)
_LATENCIES: Final = (0.01, 0.05, 0.2)


class Faults:
    """Does them, each in a task of its own where it lasts.

    Args:
        life: the episode.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lasting: set[asyncio.Task[None]] = set()
        self._pausing = asyncio.Lock()
        """One pause of everything at a time: the first's end would wake all but whom it did not know yet."""

    def begin(self, fault: Fault) -> None:
        """Have it happen now."""
        task = asyncio.ensure_future(self._happen(fault))
        self._lasting.add(task)

    async def over(self) -> None:
        """Wait until none lasts. Raises what one of them raised."""
        await asyncio.gather(*self._lasting)

    async def cancel(self) -> None:
        """End those that last."""
        for task in self._lasting:
            task.cancel()
        await asyncio.gather(*self._lasting, return_exceptions=True)

    async def _happen(self, fault: Fault) -> None:
        match fault.kind:
            case "kill engine" | "freeze engine":
                await self._engine(fault)
            case "kill controller":
                began = time.monotonic()
                if kill(await self._life.find_controller()):
                    self._note(fault, began, set(), set())
            case "freeze controller":
                await self._vital(fault, await self._life.find_controller())
            case "freeze supervisor":
                await self._vital(fault, self._life.supervisor_pid)
            case "kill client" | "freeze client":
                await self._client(fault)
            case "cut" | "stall" | "swallow" | "delay":
                await self._network(fault)
            case "fill disk" | "fill shared memory":
                await self._fill(fault)
            case "pause everything":
                await self._everybody(fault)
            case "step clock":
                self._step_clock(fault)
            case kind:
                raise AssertionError(f"no fault is called {kind!r}")

    def _note(
        self,
        fault: Fault,
        began: float,
        engines: set[int],
        clients: set[str],
        cut_off: frozenset[str] = frozenset(),
        *,
        remote: bool = False,
    ) -> None:
        resilient = self._life.episode.resilient
        waited_for = resilient and fault.kind not in ("kill engine", "freeze engine")
        happening = Happening(
            kind=fault.kind,
            began=began,
            ended=time.monotonic(),
            engines=frozenset() if waited_for else frozenset(engines),
            clients=frozenset() if waited_for else frozenset(clients),
            remote=remote and not waited_for,
            cut_off=frozenset() if waited_for else cut_off,
            silent=not waited_for and fault.kind == "freeze controller",
            reach=LONG_REACH if resilient else REACH,
        )
        self._life.happenings.append(happening)

    async def _engine(self, fault: Fault) -> None:
        engines = self._life.observer.engine_infos
        ids = sorted(engines)
        if not ids:
            return
        id = ids[int(fault.pick * len(ids))]
        pid, began = engines[id].pid, time.monotonic()
        if fault.kind == "kill engine":
            if kill(pid, _SIGNALS[fault.detail % len(_SIGNALS)]):
                self._note(fault, began, {id}, set())
        elif await freeze(pid, fault.seconds):
            self._note(fault, began, {id} if fault.seconds >= HARD else set(), set())

    async def _vital(self, fault: Fault, pid: int) -> None:
        """A pause of these costs nobody anything but time."""
        began = time.monotonic()
        if await freeze(pid, fault.seconds):
            self._note(fault, began, set(), set())

    async def _client(self, fault: Fault) -> None:
        names = sorted(self._life.clients)
        name, began = names[int(fault.pick * len(names))], time.monotonic()
        if fault.kind == "kill client":
            self._life.kill_client(name)
            self._note(fault, began, set(), set())
        elif await freeze(self._life.clients[name].pid, fault.seconds):
            self._note(fault, began, set(), {name} if fault.seconds >= AWAY else set())

    async def _network(self, fault: Fault) -> None:
        """Clients that come back in time miss nothing. Engines may be given up before they do.

        A resilient cluster waits for everybody, longer than any of this lasts.
        """
        networks = self._life.networks()
        network, began = networks[int(fault.pick * len(networks))], time.monotonic()
        clients = self._behind(network)
        match fault.kind:
            case "cut":
                network.cut()
            case "stall":
                await network.stall(fault.seconds)
            case "swallow":
                await network.swallow(fault.seconds)
            case _:
                await network.delay(fault.seconds, _LATENCIES[fault.detail % len(_LATENCIES)])
        clients |= self._behind(network)
        harmless = fault.kind == "delay"
        away = not harmless and fault.seconds >= AWAY
        remote = network is self._life.host_proxy and not harmless
        cut_off = frozenset() if harmless else frozenset(clients)
        self._note(fault, began, set(), clients if away else set(), cut_off, remote=remote)

    def _behind(self, network: Proxy) -> set[str]:
        return {name for name, theirs in self._life.remote_clients.items() if theirs is network}

    async def _everybody(self, fault: Fault) -> None:
        """As if the machine had slept: all wake at once, and each finds that much time has passed."""
        async with self._pausing:
            pids = await asyncio.to_thread(everybody)
            began = time.monotonic()
            engines, clients = set(self._life.observer.engine_infos), set(self._life.clients)
            if await freeze_all(pids, fault.seconds):
                hard = fault.seconds >= min(HARD, AWAY)
                engines |= set(self._life.observer.engine_infos)
                clients |= set(self._life.clients)
                self._note(fault, began, engines if hard else set(), clients if hard else set())

    def _step_clock(self, fault: Fault) -> None:
        if self._life.clocks is not None:
            host = _clocks.HERE if fault.pick < 0.5 else _clocks.AWAY
            began = time.monotonic()
            self._life.clocks.step(host, _clocks.STEPS[fault.detail % len(_clocks.STEPS)])
            self._note(fault, began, set(), set())

    async def _fill(self, fault: Fault) -> None:
        if not self._life.small:
            return
        began = time.monotonic()
        with full(self._life.disk if fault.kind == "fill disk" else SHARED):
            await asyncio.sleep(fault.seconds)
        self._note(fault, began, set(), set())
