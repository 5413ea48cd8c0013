"""One cluster's life: it is started, used, harmed, and ended; then everything is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

from directview import Client, DirectViewError, connection
from directview.connection import ConnectionInfo
from directview.events import EngineEvent
from directview.folders import profile_folder
from directview.supervisor.control import SupervisorFile, request
from directview.testing.chaos._client import GONE, HUNG, UNCONNECTED, ClientOptions
from directview.testing.chaos._clocks import AWAY, HERE, Clocks
from directview.testing.chaos._faults import Faults
from directview.testing.chaos._judge import Happening, Verdict, judge
from directview.testing.chaos._processes import MARK, Program, end_all, kill, open_files
from directview.testing.chaos._proxy import Proxy
from directview.testing.chaos._schedule import Episode
from directview.testing.leaks import Holdings

__all__ = ["Life"]

_START: Final = 40.0
_PATIENCE: Final = 60.0
"""Seconds for everything to end that should: far more than it may take, less than for ever."""
_SEARCH: Final = 7.5
"""Seconds for which clients look for another controller, in an episode that ends in such a death: some that
are cut off just then are told by nobody."""
_LEFT: Final = 15.0
_FDS_SPARE: Final = 6


class Life:
    """Everything that belongs to one episode.

    Args:
        seed: of the run.
        episode: what is to happen.
        folder: for records and ledger: a new one, on a disk that is never full.
        disk: for the cluster's own files.
        small: whether `disk` and /dev/shm are small ones that may be filled.
        clocks: the library that steps clocks; None: there is none.
    """

    def __init__(
        self, seed: int, episode: Episode, folder: Path, disk: Path, small: bool, clocks: str | None = None
    ) -> None:
        self.seed = seed
        self.episode = episode
        self.folder = folder
        self.disk = disk
        self.small = small
        self.profile = f"chaos-{episode.number}"
        self.ledger = folder / "ledger"
        self.ledger.mkdir(parents=True)
        self.clocks = Clocks(folder / "clocks", clocks) if episode.clocks and clocks else None
        self.random = Random(f"{seed} {episode.number} clients")
        self.happenings: list[Happening] = []
        self.clients: dict[str, Program] = {}
        self.remote_clients: dict[str, Proxy] = {}
        self.killed_clients: set[str] = set()
        self.hosts: list[Program] = []
        self.remote_ids: set[int] = set()
        """Engines behind the network, those that have gone included."""
        self.verdict = Verdict()
        self.trouble: list[str] = []
        """What hung."""
        self.leaked: list[str] = []
        self._client_number = 0
        self._ended_programs: list[Program] = []

    async def live(self) -> Verdict:
        """From the start to the verdict."""
        before = Holdings.now(self.disk / "run", (MARK, os.environ[MARK]))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._kill_everything, before)
            await self._start(stack)
            await self._suffer()
            await self._end()
        await self._look_for_leaks(before)
        return self._judge()

    # --- the beginning -----------------------------------------------------------------------------------

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        episode = self.episode
        arguments = ["-m", "directview", "start", "-n", str(episode.engines), "--profile", self.profile]
        arguments += ["--ip", "127.0.0.1"]
        if episode.resilient:
            arguments.append("--resilient")
        if episode.store:
            arguments += ["--store", str(self.disk / f"history-{episode.number}.sqlite")]
        log = self.folder / "launcher.log"
        self.launcher = Program("launcher", arguments, log, self._environment(HERE))
        info = await asyncio.to_thread(connection.find, self.profile, timeout=_START)
        self.cluster_folder = profile_folder(self.profile)
        self.controller_pid = info.pid
        self.observer = await stack.enter_async_context(Client(info, timeout=_START))
        await self.observer.wait_for_engines_async(episode.engines, _START)
        file = SupervisorFile.read(self.cluster_folder)
        assert file is not None
        self.control, self.supervisor_pid = file.control, file.pid
        found = await request(self.control, "status")
        self.fork_server_pid = int(found["fork_server"])
        self.observer.on_engine_joined(self._note_engine)
        self.host_proxy = await self._proxy(stack, info)
        self.start_host()
        await self.observer.wait_for_engines_async(episode.engines + episode.remote_engines, _START)
        self.open_files = open_files([self.controller_pid, self.supervisor_pid, self.fork_server_pid])
        for _ in range(episode.clients):
            self.start_client(None)
        for _ in range(episode.remote_clients):
            self.start_client(await self._proxy(stack, info))

    def _environment(self, host: str) -> dict[str, str]:
        environment = dict(os.environ)
        return environment if self.clocks is None else self.clocks.environment(host, environment)

    async def _proxy(self, stack: contextlib.AsyncExitStack, info: ConnectionInfo) -> Proxy:
        assert info.tcp is not None
        proxy = Proxy(int(info.tcp.rpartition(":")[2]))
        await proxy.start()
        stack.push_async_callback(proxy.close)
        return proxy

    def _remote_file(self, role: str, proxy: Proxy, name: str) -> Path:
        """A connection file as another machine would have it."""
        info = connection.load(self.cluster_folder / f"{role}.json")
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return dataclasses.replace(info, ipc=None, tcp=f"tcp://127.0.0.1:{proxy.port}").write(folder)

    def start_host(self) -> None:
        """Start the engines behind the network."""
        path = self._remote_file("engine", self.host_proxy, "host")
        number = str(self.episode.remote_engines)
        arguments = ["-m", "directview", "add-engines", "-n", number, "--file", str(path)]
        self.hosts.append(Program("host", arguments, self.folder / "host.log", self._environment(AWAY)))

    def start_client(self, proxy: Proxy | None) -> None:
        """Start a client program: on the cluster's host, or behind a network of its own."""
        self._client_number += 1
        name = f"c{self._client_number}"
        path = self.cluster_folder / "client.json"
        if proxy is not None:
            self.remote_clients[name] = proxy
            path = self._remote_file("client", proxy, name)
        options = ClientOptions(
            name=name,
            connection=str(path),
            ledger=str(self.ledger),
            record=str(self.folder / f"{name}.jsonl"),
            seed=f"{self.seed} {self.episode.number} {name}",
            patience=_PATIENCE,
            reconnect_timeout=_PATIENCE if self.episode.ending == "stop" else _SEARCH,
        )
        run = "import sys; from directview.testing.chaos._client import main; sys.exit(main())"
        arguments = ["-c", run, json.dumps(dataclasses.asdict(options))]
        environment = self._environment(HERE if proxy is None else AWAY)
        self.clients[name] = Program(name, arguments, self.folder / f"{name}.log", environment)

    def kill_client(self, name: str) -> None:
        """Kill a client program, and start another in its place."""
        self.clients[name].signal(signal.SIGKILL)
        self.killed_clients.add(name)
        self._replace_client(name)

    def _replace_client(self, name: str) -> None:
        self._ended_programs.append(self.clients.pop(name))
        self.start_client(self.remote_clients.get(name))

    # --- the middle --------------------------------------------------------------------------------------

    async def _suffer(self) -> None:
        faults = Faults(self)
        loop = asyncio.get_running_loop()
        began = loop.time()
        replenishing = asyncio.ensure_future(self._replenish())
        try:
            for fault in self.episode.faults:
                await asyncio.sleep(max(0.0, began + fault.at - loop.time()))
                faults.begin(fault)
            await asyncio.sleep(max(0.0, began + self.episode.seconds - loop.time()))
            if self.episode.ending == "stop":
                await faults.over()
            else:
                await self._kill_something_vital()
                await faults.over()
        finally:
            await faults.cancel()
            replenishing.cancel()
            await asyncio.gather(replenishing, return_exceptions=True)

    async def _replenish(self) -> None:
        """Start engines in place of those that died, and clients in place of those that gave up."""
        wanted = self.episode.engines + self.episode.remote_engines
        while True:
            await asyncio.sleep(0.5)
            for name, program in list(self.clients.items()):
                if program.exit_code == GONE or (
                    program.exit_code == UNCONNECTED and name in self.remote_clients
                ):
                    self._replace_client(name)
            with contextlib.suppress(DirectViewError):
                if not self.hosts[-1].running:
                    self.start_host()
                elif len(self.observer.ids) < wanted:
                    await request(self.control, "start", timeout=20.0, n=1)
                    await asyncio.sleep(1.0)

    def networks(self) -> list[Proxy]:
        """All that can be broken, the remote engines' first."""
        return [self.host_proxy, *{id(proxy): proxy for proxy in self.remote_clients.values()}.values()]

    def _note_engine(self, event: EngineEvent) -> None:
        """One of the cluster's own host has its log in the cluster's folder."""
        if not (self.cluster_folder / f"engine-{event.uuid[:12]}.log").exists():
            self.remote_ids.add(event.id)

    async def find_controller(self) -> int:
        """The controller's process: another one, perhaps, by now."""
        with contextlib.suppress(DirectViewError):
            self.controller_pid = (await request(self.control, "status", timeout=1.0))["controller"]
        return self.controller_pid

    async def _kill_something_vital(self) -> None:
        pids = {
            "kill launcher": self.launcher.pid,
            "kill controller": self.controller_pid,
            "kill supervisor": self.supervisor_pid,
            "kill fork server": self.fork_server_pid,
        }
        now = time.monotonic()
        kill(pids[self.episode.ending])
        self.happenings.append(Happening(kind=self.episode.ending, began=now, ended=now, fatal=True))

    # --- the end -----------------------------------------------------------------------------------------

    async def _end(self) -> None:
        fatal = self.episode.ending != "stop"
        for program in self.clients.values():
            program.close_input()
        patience = _PATIENCE + 10
        for name, program in self.clients.items():
            if not await program.ended(patience):
                self.trouble.append(f"client {name} has not ended after {patience:g} s")
            elif program.exit_code == UNCONNECTED and not fatal and name not in self.remote_clients:
                self.trouble.append(f"client {name} could not connect: {_last_line(program.log)}")
            elif program.exit_code not in (0, HUNG, UNCONNECTED, GONE):
                self.trouble.append(
                    f"client {name} ended with exit code {program.exit_code}: {_last_line(program.log)}"
                )
        if not fatal:
            await self._look_at_descriptors()
            self.launcher.signal(signal.SIGINT)
        for program in (self.launcher, *self.hosts):
            if program is not self.launcher and self.episode.resilient:
                program.signal(signal.SIGINT)  # It would wait for another controller.
            # Else another host's engines end when their controller is gone.
            if not await program.ended(_PATIENCE):
                self.trouble.append(f"{program.name} has not ended after {_PATIENCE:g} s")
        if not fatal and self.launcher.exit_code != 0:
            self.trouble.append(f"`directview start` ended with exit code {self.launcher.exit_code}")

    async def _look_at_descriptors(self) -> None:
        """Clients and engines have come and gone: nothing of them may be left in the others."""
        if await self.find_controller() not in self.open_files:
            return  # Another one: there is nothing to compare it with.
        deadline = time.monotonic() + 5.0
        while True:
            now = open_files(list(self.open_files))
            more = {pid: n - self.open_files[pid] for pid, n in now.items()}
            if all([n <= _FDS_SPARE for n in more.values()]):
                return
            if time.monotonic() > deadline:
                names = {self.controller_pid: "controller", self.supervisor_pid: "supervisor"}
                self.leaked += [
                    f"{n} descriptors in the {names.get(pid, 'fork server')}"
                    for pid, n in more.items()
                    if n > _FDS_SPARE
                ]
                return
            await asyncio.sleep(0.1)

    async def _look_for_leaks(self, before: Holdings) -> None:
        deadline = time.monotonic() + _LEFT
        mark = (MARK, os.environ[MARK])
        while True:
            now = Holdings.now(self.disk / "run", mark)
            # Files of this process's own come and go: it has clients and programs; processes and paths don't.
            left = [line for line in now.beyond(before) if not line.startswith(("thread", "descriptor"))]
            if not left:
                return
            if time.monotonic() > deadline:
                self.leaked += left
                end_all(set(now.processes) - set(before.processes))
                return
            await asyncio.sleep(0.1)

    def _kill_everything(self, before: Holdings) -> None:
        """When the run itself fails or is interrupted; after an orderly end there is nobody left."""
        if sys.exc_info()[0] is None and not self.trouble:
            return
        now = Holdings.now(self.disk / "run", (MARK, os.environ[MARK]))
        end_all(set(now.processes) - set(before.processes))

    # --- the verdict ---------------------------------------------------------------------------------------

    def _judge(self) -> Verdict:
        calls: list[dict[str, Any]] = []
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # The last line of a client that was killed.
                    calls.append(json.loads(line))
        runs: dict[str, Counter[int]] = {}
        for path in self.ledger.iterdir():
            for token in path.read_text().splitlines():
                runs.setdefault(token, Counter())[int(path.name)] += 1
        verdict = judge(calls, runs, self.happenings, self.remote_ids)
        happenings = [str(happening) for happening in self.happenings]
        (self.folder / "happenings.txt").write_text("\n".join(happenings))
        verdict.killed = len(self.killed_clients)
        where = f"episode {self.episode.number}"
        verdict.slowest = (verdict.slowest[0], f"{where}: {verdict.slowest[1]}")
        if verdict.last[1]:
            verdict.last = (verdict.last[0], f"{where}: {verdict.last[1]}")
        for name in ("lost", "doubled", "wrong", "hung"):
            setattr(verdict, name, [f"{where}: {line}" for line in getattr(verdict, name)])
        verdict.hung += [f"{where}: {line}" for line in self.trouble]
        verdict.leaked += [f"{where}: {line}" for line in self.leaked]
        return verdict


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
