"""A cluster of one's own: controller, supervisor and engines that a program starts and ends.

::

    with Cluster(n=4) as rc:                # a script: blocking calls
        rc[:].apply_sync(os.getpid)

    async with Cluster(n=4) as rc:          # an async program: await everything, no thread
        await rc[:].apply_async(os.getpid)

Every method that waits is a coroutine and has a ``_sync`` twin. A Cluster keeps nothing on an event loop
between calls: it may be started in one and stopped in another.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import socket
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import anyio

from directview import connection
from directview._cluster_arguments import (
    check_arguments,
    check_detached,
    check_env,
    check_ids,
    check_metrics,
    check_names,
    check_numbers,
    cores,
    signal_number,
    uuids_of,
)
from directview._launch import SupervisorProcess, wait_for_process
from directview._log_writing import level_number
from directview._on_start import check_on_start, write_on_start
from directview._private_loop import run_here
from directview.blocking import blocking
from directview.client import Client, close_all
from directview.connection import ConnectionInfo, new_cluster_id
from directview.controller.options import ControllerOptions
from directview.errors import LaunchError
from directview.folders import ProfileLock, private_folder, profile_folder, remove_private, sweep
from directview.supervisor.control import SupervisorFile, request
from directview.supervisor.options import SupervisorOptions
from directview.supervisor.paths import launcher_path

__all__ = ["Cluster"]

T = TypeVar("T")

_GRACE: Final = 1.5
"""Seconds between a polite request to end and SIGKILL."""
_END: Final = 4 * _GRACE
"""Seconds in which a supervisor must have ended: its controller, its engines and its fork server get one
grace each."""

_started: weakref.WeakSet[Cluster] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for end in (close_all, *[cluster._end_now for cluster in _started]):  # a client's calls end with it
        end()


class Cluster:
    """Controller, supervisor and engines on this machine.

    Without `profile` it is private: any number can live side by side, and nothing is left of one when it
    ends. With `profile` it owns that profile, and ``Client(profile=...)`` finds it.

    Args:
        n: number of engines; None: one for each core that this process may use.
        profile: name of the cluster.
        cluster_id: its id; None: a new random one.
        env: environment variables for the engines, beside this process's own. Each engine is a fresh
            process then, which takes longer to start.
        ip: address for a TCP port beside the unix socket, for clients and engines on other machines:
            ``127.0.0.1``, ``0.0.0.0`` or ``*``. Encrypted, and closed to whoever has no connection file.
        port: TCP port; 0: a free one.
        store: path of an SQLite file in which the controller keeps the history of calls; None: it remembers
            the last 10,000 (see `Client.db_query`).
        resilient: whether the cluster outlives its controller. If that dies, another one takes over, engines
            and clients come back to it, and every call still ends once. If not, all ends with it.
        log_level: the least level that its processes log: ``"debug"``, ``"info"``, ``"warning"``,
            ``"error"``; None: what DIRECTVIEW_LOG_LEVEL says, or ``"info"``. See ``directview logs``.
        metrics: port (or ``HOST:PORT``) at which Prometheus finds the controller's figures.
        trace: write down where each call is, for `Client.trace`; it costs some ten microseconds a hop.
        restart_engines: whether an engine that dies is followed by another, under its id and with a new
            namespace. If those die soon as well, there are pauses between them, and after five times no more.
        on_start: what each engine does before its first call, those included that follow others: a function
            without arguments, source code, or a file of it (a Path). If it fails, the engine ends.
        detached_results, detached_bytes, detached_age: how many results of detached calls are kept, how many
            bytes of them, and for how many seconds.
        shutdown_atexit: whether the cluster ends with this program. If not, `from_file` finds it again.
        start_timeout: seconds within which everything must be up.
        engines: only ``"local"``; other starters run ``directview engine`` themselves.
        start_method: ``fork`` or ``exec``: whether engines share the pages of what they import.
        unsupported: arguments of ipyparallel's that have no meaning here; each raises and says what to do.

    Raises:
        ValueError, TypeError: an argument that makes no sense; the text says which.
    """

    def __init__(
        self,
        n: int | None = None,
        *,
        profile: str | None = None,
        cluster_id: str | None = None,
        env: Mapping[str, str] | None = None,
        ip: str | None = None,
        port: int = 0,
        store: str | os.PathLike[str] | None = None,
        resilient: bool = False,
        log_level: str | int | None = None,
        metrics: int | str | None = None,
        trace: bool = False,
        restart_engines: bool = False,
        on_start: Callable[[], Any] | str | os.PathLike[str] | None = None,
        detached_results: int = 10_000,
        detached_bytes: int = 256 << 20,
        detached_age: float = 7 * 86_400.0,
        shutdown_atexit: bool = True,
        start_timeout: float = 60.0,
        engines: str = "local",
        start_method: str = "fork",
        **unsupported: Any,
    ) -> None:
        self._supervisor: SupervisorProcess | None = None
        check_arguments(n, engines, start_method, unsupported, Cluster)
        check_names(profile=profile, cluster_id=cluster_id, ip=ip)
        check_numbers(start_timeout, port)
        check_env(env)
        self.n = n if n is not None else cores()
        self.profile = profile
        self.cluster_id = cluster_id or new_cluster_id()
        self.shutdown_atexit = shutdown_atexit
        self._env = dict(env) if env is not None else None
        self._ip = ip
        self._port = port
        self._store = None if store is None else os.path.abspath(store)
        self._resilient = bool(resilient)
        self._log_level = level_number(log_level)
        self._metrics = check_metrics(metrics)
        self._trace = bool(trace)
        check_on_start(on_start)
        self._restart_engines = bool(restart_engines)
        self._on_start = on_start
        self._detached = check_detached(detached_results, detached_bytes, detached_age)
        self._start_timeout = start_timeout
        self._start_method = start_method
        self._info: ConnectionInfo | None = None
        self._folder: Path | None = None
        self._entered: Client | None = None
        self._found = False
        self._pid = os.getpid()

    @classmethod
    def from_file(
        cls,
        cluster_file: str | os.PathLike[str] | None = None,
        *,
        profile: str | None = None,
        cluster_id: str | None = None,
    ) -> Cluster:
        """Take hold of a cluster that runs already: one started with ``directview start``, say.

        It lives on when this object goes; `stop_cluster` ends it.

        Args:
            cluster_file: its ``client.json`` or its folder; None: look for `profile` or `cluster_id`.
            profile: its name.
            cluster_id: (the beginning of) its id.

        Raises:
            ConnectionFileError, ControllerUnreachable: as for `Client`.
        """
        info = connection.find(profile, cluster_id, cluster_file)
        found = cls(profile=info.profile, cluster_id=info.cluster_id, shutdown_atexit=False)
        found._info = info
        found._folder = Path(info.source).parent
        found._found = True
        return found

    def __repr__(self) -> str:
        name = f" {self.profile!r}" if self.profile else ""
        state = "running" if self._info is not None else "not started"
        return f"<Cluster{name} {self.cluster_id}: {state}>"

    @property
    def connection_file(self) -> str:
        """Path of the file with which clients connect.

        Raises:
            RuntimeError: the cluster isn't running.
        """
        return self._running().source

    # --- starting -------------------------------------------------------------------------------------

    async def start_cluster(self, n: int | None = None) -> None:
        """Start controller, supervisor and engines. Cancelling it leaves nothing behind.

        On return the controller answers and the engines' processes run; a client's
        `wait_for_engines` waits until they are connected.

        Args:
            n: number of engines; None: as the Cluster was made with.

        Raises:
            ProfileInUse: another live cluster has the profile.
            LaunchError: something did not start; the text quotes its log.
        """
        if n is not None:
            self.n = n
        await self._start(self.n)

    async def start_controller(self) -> None:
        """Start the controller and the supervisor, without engines. Raises as `start_cluster`."""
        await self._start(0)

    async def _start(self, n: int) -> None:
        if self._info is not None:
            raise RuntimeError(f"{self!r}: it has been started already")
        self._folder = self._prepare_folder()
        try:
            self._supervisor = SupervisorProcess(self._options(n))
            _started.add(self)
            async with asyncio.timeout(self._start_timeout):
                said = await self._supervisor.expect("controller")
                engines = await self._supervisor.expect("engines")
                if not engines["ok"]:
                    raise LaunchError(f"engines did not start: {engines['value']}")
                self._info = connection.load(said["client"])
                if not self.shutdown_atexit:
                    await request(self._control(), "detach")
        except BaseException as error:
            await self._abandon()
            if isinstance(error, TimeoutError):
                raise LaunchError(f"the cluster was not up after {self._start_timeout:g} s") from None
            raise

    def _prepare_folder(self) -> Path:
        if self.profile is None:
            sweep()
            return private_folder(self.cluster_id, create=True)
        folder = profile_folder(self.profile, create=True)
        # The controller takes the lock for good; asked here, the answer comes before anything is started.
        with ProfileLock(folder, self.profile):
            for log in (*folder.glob("engine-*.*"), *folder.glob("client-*.*"), folder / "controller.log"):
                log.unlink(missing_ok=True)
        return folder

    @property
    def _policy(self) -> str:
        return "wait" if self._resilient else "stop"

    def _options(self, n: int) -> SupervisorOptions:
        folder = str(self._folder)
        controller = ControllerOptions(
            folder=folder,
            cluster_id=self.cluster_id,
            profile=self.profile,
            ip=self._ip,
            port=self._port,
            store=self._store,
            **self._detached,
            policy=self._policy,
            log_level=self._log_level,
            metrics=self._metrics,
            trace=self._trace,
            log=os.path.join(folder, "controller.log"),
        )
        return SupervisorOptions(
            folder=folder,
            cluster_id=self.cluster_id,
            profile=self.profile,
            controller=controller.to_dict(),
            log_level=self._log_level,
            policy=self._policy,
            n=n,
            grace=_GRACE,
            env=self._env,
            start_method=self._start_method,
            restart_engines=self._restart_engines,
            engine={}
            if self._on_start is None
            else {"on_start": write_on_start(self._on_start, Path(folder))},
            sys_path=launcher_path(),
            private=self.profile is None,
        )

    async def start_engines(self, n: int | None = None) -> None:
        """Start more engines. Cancelling it doesn't stop those that are being started.

        Args:
            n: how many; None: as the Cluster was made with.

        Raises:
            LaunchError: they did not start, or there is no supervisor to start them.
            ValueError: `n` is no positive number.
        """
        if n is not None and (type(n) is not int or n < 1):
            raise ValueError(f"n: expected a number of engines, got {n!r:.60}")
        await request(self._control(), "start", n=self.n if n is None else n)

    async def start_and_connect(self, n: int | None = None) -> Client:
        """Start, wait for all engines, and return a client (a plain one: blocking calls and await).

        Args:
            n: number of engines; None: as the Cluster was made with.

        Raises:
            LaunchError: as `start_cluster`, or an engine ended before it was connected.
        """
        await self.start_cluster(n)
        return await self._connected(Client(self._running(), cluster=self))

    async def connect_client(self, timeout: float = 10.0) -> Client:
        """A new plain client of this cluster; it keeps the cluster alive.

        Args:
            timeout: seconds for the controller's answer at the client's first use.
        """
        return Client(self._running(), timeout=timeout, cluster=self)

    async def _connected(self, client: Client) -> Client:
        """Wait until all engines are connected, or one has ended; on any failure end everything."""
        assert self._supervisor is not None
        arrival = asyncio.ensure_future(client.wait_for_engines_async(self.n, self._start_timeout))
        trouble = asyncio.ensure_future(self._supervisor.fail())
        try:
            await asyncio.wait((arrival, trouble), return_when=asyncio.FIRST_COMPLETED)
            if not arrival.done():
                await trouble
            await arrival
        except BaseException:
            with anyio.CancelScope(shield=True):
                await client.aclose()
                await self.stop_cluster()
            raise
        finally:
            for task in (arrival, trouble):
                task.cancel()
            await asyncio.gather(arrival, trouble, return_exceptions=True)
        return client

    # --- engines --------------------------------------------------------------------------------------

    async def stop_engines(self, engine_ids: Iterable[int] | None = None) -> None:
        """End engines and wait until they have ended.

        Args:
            engine_ids: which; None: all.

        Raises:
            IndexError: there is no such engine.
            LaunchError: the supervisor can't do it.
        """
        await request(self._control(), "stop-engines", uuids=await self._uuids(engine_ids))

    async def stop_engine(self, engine_id: int) -> None:
        """End one engine, `engine_id`; as `stop_engines`."""
        await self.stop_engines([engine_id])

    async def signal_engines(self, signum: int | str, engine_ids: Iterable[int] | None = None) -> None:
        """Send a signal to engines.

        Args:
            signum: a number, or a name: ``signal.SIGTERM``, ``15``, ``'SIGTERM'``.
            engine_ids: which; None: all.

        Raises:
            IndexError: there is no such engine.
            LaunchError: the supervisor can't do it.
        """
        number = signal_number(signum)
        await request(self._control(), "signal", signum=number, uuids=await self._uuids(engine_ids))

    async def signal_engine(self, engine_id: int, signum: int | str) -> None:
        """Send the signal `signum` to one engine, `engine_id`; as `signal_engines`."""
        await self.signal_engines(signum, [engine_id])

    async def restart_engines(self, engine_ids: Iterable[int] | None = None) -> None:
        """End engines and start others in their places: same ids, empty namespaces.

        Returns when they are connected. Their running and queued calls end in `EngineError`.

        Args:
            engine_ids: which; None: all.

        Raises:
            IndexError: there is no such engine.
            LaunchError: they could not be restarted.
        """
        async with self._looking() as client:
            engines = client.engine_infos
            chosen = list(engines) if engine_ids is None else check_ids(engine_ids)
            uuids = dict(zip(chosen, uuids_of(engines, chosen), strict=True))
            pairs = [[uuid, id] for id, uuid in uuids.items()]
            await request(self._control(), "restart-engines", engines=pairs)
            deadline = time.monotonic() + self._start_timeout
            while any(
                id not in client.engine_infos or client.engine_infos[id].uuid.hex() == uuid
                for id, uuid in uuids.items()
            ):
                if time.monotonic() > deadline:
                    raise LaunchError(f"the engines in place of {chosen} were not there in time")
                await asyncio.sleep(0.01)

    async def restart_engine(self, engine_id: int) -> None:
        """Restart one engine, `engine_id`; as `restart_engines`."""
        await self.restart_engines([engine_id])

    async def _uuids(self, engine_ids: Iterable[int] | None) -> list[str] | None:
        if engine_ids is None:
            return None
        async with self._looking() as client:
            return uuids_of(client.engine_infos, check_ids(engine_ids))

    @contextlib.asynccontextmanager
    async def _looking(self) -> AsyncIterator[Client]:
        """A client for a moment, to see which id is which engine."""
        async with Client(self._running()) as client:
            yield client

    # --- the end --------------------------------------------------------------------------------------

    async def stop_cluster(self) -> None:
        """End everything; returns when all processes have ended. Safe to repeat.

        Cancelled, it still ends everything, but waits for it without letting the event loop go on.

        Raises:
            LaunchError: a cluster that this program did not start can't be ended from here.
        """
        if self._info is None and self._supervisor is None:
            return
        if self._supervisor is not None and self._pid != os.getpid():
            self._end_now()  # A fork of the program that owns it: the cluster is not this one's to end.
            return
        try:
            if self._supervisor is None:
                await self._stop_other()
            else:
                await self._stop_own(self._supervisor)
        except BaseException:
            self._end_now()
            raise
        self._forget()

    async def _stop_own(self, supervisor: SupervisorProcess) -> None:
        try:
            await request(self._control(), "stop", reason="it was stopped by the program that started it")
        except LaunchError:
            supervisor.terminate()  # It has ended, or is too busy to listen.
        if not await supervisor.wait(_END):
            supervisor.kill()
            await supervisor.wait(_END)

    async def _abandon(self) -> None:
        """End what has been started, after a failure or a cancellation."""
        try:
            with anyio.CancelScope(shield=True):
                if self._supervisor is not None and self._info is None:
                    self._supervisor.let_go()
                    await self._supervisor.wait(_END)
                else:
                    await self.stop_cluster()
        finally:
            self._end_now()

    async def _stop_other(self) -> None:
        """End a cluster through its supervisor, or, where it has none, its controller."""
        info = self._running()
        file = SupervisorFile.read(self._folder) if self._folder is not None else None
        if file is not None and file.process() is not None:
            await request(file.control, "stop", reason="it was asked to stop")
            if not await wait_for_process(file.pid, _END):
                raise LaunchError(
                    f"the supervisor (process {file.pid}) hasn't ended after {_END:g} s: kill it"
                )
        elif connection.is_alive(info):
            async with Client(info) as client:
                await client.query("shutdown", reason="it was asked to stop")
            if info.hostname == socket.gethostname() and not await wait_for_process(info.pid, _END):
                raise LaunchError(
                    f"the controller (process {info.pid}) hasn't ended after {_END:g} s: kill it"
                )

    def _end_now(self) -> None:
        """End everything, without an event loop."""
        if self._supervisor is not None and not self._supervisor.ended:
            if self.shutdown_atexit or self._info is None:
                self._supervisor.end_now(_END)
            else:
                self._supervisor.disown()
        self._forget()

    def _forget(self) -> None:
        """It is no more: nothing to be stopped, at exit or otherwise."""
        private = self.profile is None and not self._found and self.shutdown_atexit
        if private and self._folder is not None and self._pid == os.getpid():
            remove_private(self._folder)
        _started.discard(self)
        self._supervisor = self._info = None

    def __del__(self) -> None:
        supervisor = self._supervisor
        if supervisor is None or supervisor.ended or not self.shutdown_atexit or self._pid != os.getpid():
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            self._end_now()

    # --- with -----------------------------------------------------------------------------------------

    def __enter__(self) -> Client:
        self._entered = self.start_and_connect_sync()
        return self._entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._entered = self._entered, None
        try:
            if client is not None:
                client.close()
        finally:
            self.stop_cluster_sync()

    async def __aenter__(self) -> Client:
        await self.start_cluster()
        client = Client(self._running(), cluster=self)
        try:
            await client.__aenter__()
        except BaseException:
            await self._abandon()
            raise
        self._entered = await self._connected(client)
        return self._entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._entered = self._entered, None
        # A cancelled program still ends its cluster in order.
        with anyio.CancelScope(shield=True):
            try:
                if client is not None:
                    await client.aclose()
            finally:
                await self.stop_cluster()

    # --- what is known --------------------------------------------------------------------------------

    def _block_on(self, make: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        return run_here(make)

    def _running(self) -> ConnectionInfo:
        if self._info is None:
            raise RuntimeError(f"{self!r}: start it first, with `start_cluster()`")
        return self._info

    def _control(self) -> str:
        """Where the supervisor listens."""
        file = SupervisorFile.read(self._folder) if self._folder is not None else None
        if file is None:
            raise LaunchError(
                f"no supervisor of cluster {self.cluster_id} is known on this machine: start engines with "
                "`directview add-engines`"
            )
        return file.control

    start_cluster_sync = blocking(start_cluster, "start_cluster_sync")
    start_controller_sync = blocking(start_controller, "start_controller_sync")
    start_engines_sync = blocking(start_engines, "start_engines_sync")
    start_and_connect_sync = blocking(start_and_connect, "start_and_connect_sync")
    connect_client_sync = blocking(connect_client, "connect_client_sync")
    stop_cluster_sync = blocking(stop_cluster, "stop_cluster_sync")
    stop_engines_sync = blocking(stop_engines, "stop_engines_sync")
    stop_engine_sync = blocking(stop_engine, "stop_engine_sync")
    signal_engines_sync = blocking(signal_engines, "signal_engines_sync")
    signal_engine_sync = blocking(signal_engine, "signal_engine_sync")
    restart_engines_sync = blocking(restart_engines, "restart_engines_sync")
    restart_engine_sync = blocking(restart_engine, "restart_engine_sync")
