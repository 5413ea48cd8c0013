"""The command line: ``directview start``, ``stop``, ``list``, ``status``, ``add-engines``, ``demo``, ...

What a command needs is imported when it runs, so that ``directview --help`` answers at once. A mistake gives
one line that says what to do, and exit code 1 (2 for a wrong argument); a traceback here is a defect.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from directview._launch import SupervisorProcess
    from directview.connection import ConnectionInfo

__all__ = ["main"]

P = ParamSpec("P")
T = TypeVar("T")


class _Commands(click.Group):
    """Commands in the order in which they are defined, and the other name of one of them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, "add-engines" if cmd_name == "engines" else cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _plain_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Whatever goes wrong in the user's world, said in one line."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        from directview.errors import DirectViewError

        try:
            return function(*args, **kwargs)
        except (DirectViewError, OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None

    return call


def _chosen(function: Callable[..., T]) -> Callable[..., T]:
    """The options that name a cluster."""
    for option in (
        click.option(
            "--file", "path", metavar="PATH", help="A connection file, copied from elsewhere perhaps."
        ),
        click.option("--cluster-id", metavar="ID", help="The cluster with this id (or beginning of one)."),
        click.option("--profile", metavar="NAME", help="The cluster of this name. [default: default]"),
    ):
        function = option(function)
    return function


_ip = click.option(
    "--ip",
    metavar="ADDRESS",
    help="Listen on TCP too (encrypted), at this address; '*': all. [default: no TCP]",
)
_port = click.option(
    "--port", default=0, type=click.IntRange(0, 65_535), help="TCP port. [default: a free one]"
)
_store = click.option(
    "--store",
    metavar="PATH",
    type=click.Path(dir_okay=False, resolve_path=True),
    help="Keep the history of calls in this SQLite file. [default: the last calls, in memory]",
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="directview")
def main() -> None:
    """A group of Python engines that you can hold in your hand."""


@main.command()
@click.option("-n", "--n", type=click.IntRange(0), help="Number of engines. [default: one for each core]")
@click.option("--profile", default="default", show_default=True, metavar="NAME", help="Name of the cluster.")
@click.option("--daemonize", is_flag=True, help="Go on in the background; `directview stop` ends it.")
@_ip
@_port
@_store
@_plain_errors
def start(n: int | None, profile: str, daemonize: bool, ip: str | None, port: int, store: str | None) -> None:
    """Start a controller and engines. Ctrl-C stops all of it."""
    from directview.cluster import Cluster

    _look_in_current_folder()
    cluster = Cluster(n, profile=profile, ip=ip, port=port, store=store, shutdown_atexit=not daemonize)
    sys.exit(_run(_start(cluster, daemonize)))


async def _start(cluster: Any, daemonize: bool) -> int:
    async with _Interrupted() as interrupted:
        starting = asyncio.ensure_future(cluster.start_and_connect())
        client = await interrupted.or_end(starting)
        if client is None:
            click.echo("interrupted while starting: nothing is left running", err=True)
            return 130
        await client.aclose()
        named = "" if cluster.profile == "default" else f"profile={cluster.profile!r}"
        click.echo(f"{cluster.n} engines are ready.")
        click.echo(f"connection file: {cluster.connection_file}")
        click.echo(f"connect with:    directview.Client({named})")
        if daemonize:
            flag = "" if cluster.profile == "default" else f" --profile {shlex.quote(cluster.profile)}"
            click.echo(f"stop it with:    directview stop{flag}")
            return 0
        click.echo("Ctrl-C stops it.")
        return await _stay(cluster._supervisor, interrupted, cluster.stop_cluster)


async def _stay(supervisor: SupervisorProcess, interrupted: _Interrupted, stop: Callable[[], Any]) -> int:
    """Wait for Ctrl-C, or for the cluster's end by other hands; returns the exit code."""
    ended = asyncio.ensure_future(supervisor.stopped())
    reason = await interrupted.or_end(ended)
    if reason is None:
        click.echo("stopping")
        await stop()
        return 0
    await supervisor.wait(10.0)
    click.echo(f"the cluster has ended: {reason}", err=True)
    return 0 if "asked to stop" in reason else 1


class _Interrupted:
    """Ctrl-C and its kin as an event; the second one is Python's own again, and ends at once."""

    _signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    async def __aenter__(self) -> _Interrupted:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for signum in self._signals:
            self._loop.add_signal_handler(signum, self._set)
        return self

    def _set(self) -> None:
        self._event.set()
        for signum in self._signals:
            self._loop.remove_signal_handler(signum)

    async def __aexit__(self, *exc: object) -> None:
        for signum in self._signals:
            self._loop.remove_signal_handler(signum)

    async def or_end(self, work: asyncio.Future[T]) -> T | None:
        """The result of `work`, or None when the interruption came first; `work` is cancelled then."""
        waiting = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
            return None if work.cancelled() else work.result()
        finally:
            waiting.cancel()


@main.command()
@_chosen
@click.option("--all", "everything", is_flag=True, help="Stop every cluster of yours on this machine.")
@_plain_errors
def stop(profile: str | None, cluster_id: str | None, path: str | None, everything: bool) -> None:
    """Stop a cluster that runs in the background (or anywhere else)."""
    from directview.cluster import Cluster

    if everything:
        for info in _clusters():
            Cluster.from_file(info.source).stop_cluster_sync()
            click.echo(f"stopped {info.cluster_id}")
        return
    cluster = Cluster.from_file(path, profile=profile, cluster_id=cluster_id)
    cluster.stop_cluster_sync()
    click.echo(f"stopped {cluster.cluster_id}")


@main.command("list")
@_plain_errors
def list_clusters() -> None:
    """The clusters that run on this machine."""
    found = _clusters()
    if not found:
        click.echo("no clusters: `directview start -n 4` starts one")
        return
    width = max(len("PROFILE"), *[len(info.profile or "-") for info in found])
    click.echo(f"{'CLUSTER':<14}{'PROFILE':<{width + 2}}{'CONTROLLER':<12}CONNECTION FILE")
    for info in found:
        click.echo(f"{info.cluster_id:<14}{info.profile or '-':<{width + 2}}{info.pid:<12}{info.source}")


def _clusters() -> list[ConnectionInfo]:
    from directview.connection import is_alive, load
    from directview.errors import DirectViewError
    from directview.folders import cluster_folders

    found = []
    for _, folder in cluster_folders():
        try:
            info = load(folder / "client.json")
        except DirectViewError:
            continue  # Logs of a cluster that has ended, or a file that its own commands will complain about.
        if is_alive(info):
            found.append(info)
    return found


@main.command()
@_chosen
@_plain_errors
def status(profile: str | None, cluster_id: str | None, path: str | None) -> None:
    """How one cluster is: its engines and what waits for them."""
    from directview.connection import find

    info = find(profile, cluster_id, path)
    click.echo(_run(_describe(info)))


async def _describe(info: ConnectionInfo) -> str:
    from directview.client import Client

    async with Client(info) as client:
        found = await client.query("status")
    lines = [
        f"cluster {info.cluster_id}, profile {info.profile or '-'}, controller {info.pid} on {info.hostname}",
        f"listening at {' and '.join(info.addresses)}; up {found['uptime']:.0f} s, {found['calls']} calls",
    ]
    if found["engines"]:
        lines.append(f"{'ENGINE':<8}{'PID':<9}{'PYTHON':<9}{'GIVEN':<8}{'QUEUED':<8}HOST")
    else:
        lines.append("no engines: `directview add-engines -n 4` starts some")
    lines += [
        f"{engine['id']:<8}{engine['pid']:<9}{engine['python']:<9}{engine['tasks']:<8}{engine['queue']:<8}"
        f"{engine['hostname']}{'' if engine['connected'] else ' (not connected)'}"
        for engine in found["engines"]
    ]
    return "\n".join(lines)


@main.command("add-engines")
@click.option("-n", "--n", type=click.IntRange(1), help="How many. [default: one for each core]")
@_chosen
@click.option("--daemonize", is_flag=True, help="Go on in the background; they end with the cluster.")
@_plain_errors
def add_engines(
    n: int | None, profile: str | None, cluster_id: str | None, path: str | None, daemonize: bool
) -> None:
    """Start more engines, here, for a cluster here or (with its engine.json copied to here) elsewhere.

    Also called `engines`. Ctrl-C stops those that were started.
    """
    from directview.connection import find

    info = find(profile, cluster_id, path, role="engine")
    sys.exit(_run(_add_engines(info, n or len(os.sched_getaffinity(0)), daemonize)))


async def _add_engines(info: ConnectionInfo, n: int, daemonize: bool) -> int:
    from directview._launch import SupervisorProcess
    from directview.errors import LaunchError
    from directview.folders import private_folder
    from directview.supervisor.control import request
    from directview.supervisor.options import SupervisorOptions
    from directview.supervisor.paths import launcher_path

    _look_in_current_folder()
    folder = private_folder(f"{info.cluster_id}-engines-{os.getpid()}", create=True)
    options = SupervisorOptions(
        folder=str(folder),
        cluster_id=info.cluster_id,
        profile=info.profile,
        connection=info.source,
        n=n,
        sys_path=launcher_path(),
        private=True,
    )
    async with _Interrupted() as interrupted:
        supervisor = SupervisorProcess(options)
        try:
            said = await interrupted.or_end(asyncio.ensure_future(supervisor.expect("engines")))
            if said is None:
                return 130
            if not said["ok"]:
                raise LaunchError(f"engines did not start: {said['value']}")
            click.echo(f"{n} engines were started for cluster {info.cluster_id}.")
            if daemonize:
                await request(said["control"], "detach")
                supervisor.disown()
                return 0
            click.echo("Ctrl-C stops them.")

            async def stop() -> None:
                supervisor.let_go()
                await supervisor.wait(10.0)

            return await _stay(supervisor, interrupted, stop)
        finally:
            if not supervisor.ended:
                supervisor.end_now(10.0)


@main.command()
@click.option("--profile", default="default", show_default=True, metavar="NAME", help="Name of the cluster.")
@_ip
@_port
@_store
@_plain_errors
def controller(profile: str, ip: str | None, port: int, store: str | None) -> None:
    """Run a controller alone, in the foreground; engines come by other commands."""
    from directview.connection import new_cluster_id
    from directview.controller.__main__ import run
    from directview.controller.options import ControllerOptions
    from directview.folders import profile_folder

    folder = profile_folder(profile, create=True)
    click.echo(f"connection files: {folder}/client.json and engine.json; Ctrl-C stops it")
    options = ControllerOptions(
        folder=str(folder), cluster_id=new_cluster_id(), profile=profile, ip=ip, port=port, store=store
    )
    sys.exit(run(options))


@main.command()
@_chosen
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the controller.")
@_plain_errors
def engine(profile: str | None, cluster_id: str | None, path: str | None, timeout: float) -> None:
    """Run one engine in the foreground: for mpiexec, srun and the like."""
    from directview.connection import find
    from directview.supervisor.watcher import run_watched_engine

    info = find(profile, cluster_id, path, timeout, role="engine")
    _look_in_current_folder()
    sys.exit(run_watched_engine(info.source))


@main.command()
@click.option("-n", "--n", default=4, show_default=True, type=click.IntRange(1), help="Number of engines.")
@click.option("--quick", is_flag=True, help="Less of everything.")
@_plain_errors
def demo(n: int, quick: bool) -> None:
    """Real work on four engines, checked and drawn."""
    from directview.demo import main as run

    sys.exit(run(n=n, quick=quick))


def _look_in_current_folder() -> None:
    """Have engines import from the folder they are started in, not from where this command lies."""
    if os.getcwd() not in sys.path:
        sys.path[0] = os.getcwd()


def _run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)
