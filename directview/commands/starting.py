"""``directview start``, ``add-engines``, ``controller``, ``engine``: what makes clusters or parts of one."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from directview.commands.options import (
    chosen,
    detached_options,
    ip_option,
    log_level_option,
    metrics_option,
    on_start_option,
    plain_errors,
    port_option,
    resilient_option,
    restart_engines_option,
    store_option,
    trace_option,
)
from directview.commands.running import Interrupted, look_in_current_folder, run, stay

if TYPE_CHECKING:
    from pathlib import Path

    from directview.connection import ConnectionInfo
    from directview.controller.takeover import Takeover

__all__ = ["add_engines", "controller", "engine", "start"]


@click.command()
@click.option("-n", "--n", type=click.IntRange(0), help="Number of engines. [default: one for each core]")
@click.option("--profile", default="default", show_default=True, metavar="NAME", help="Name of the cluster.")
@click.option("--daemonize", is_flag=True, help="Go on in the background; `directview stop` ends it.")
@ip_option
@port_option
@store_option
@resilient_option
@restart_engines_option
@on_start_option
@detached_options
@log_level_option
@metrics_option
@trace_option
@plain_errors
def start(
    n: int | None,
    profile: str,
    daemonize: bool,
    ip: str | None,
    port: int,
    store: str | None,
    resilient: bool,
    restart_engines: bool,
    on_start: Path | None,
    log_level: str | None,
    metrics: str | None,
    trace: bool,
    **detached: Any,
) -> None:
    """Start a controller and engines. Ctrl-C stops all of it."""
    from directview.cluster import Cluster

    look_in_current_folder()
    cluster = Cluster(
        n,
        profile=profile,
        ip=ip,
        port=port,
        store=store,
        resilient=resilient,
        restart_engines=restart_engines,
        on_start=on_start,
        log_level=log_level,
        metrics=metrics,
        trace=trace,
        shutdown_atexit=not daemonize,
        **detached,
    )
    sys.exit(run(_start(cluster, daemonize)))


async def _start(cluster: Any, daemonize: bool) -> int:
    async with Interrupted() as interrupted:
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
        return await stay(cluster._supervisor, interrupted, cluster.stop_cluster)


@click.command("add-engines")
@click.option("-n", "--n", type=click.IntRange(1), help="How many. [default: one for each core]")
@chosen
@click.option("--daemonize", is_flag=True, help="Go on in the background; they end with the cluster.")
@restart_engines_option
@on_start_option
@plain_errors
def add_engines(
    n: int | None,
    profile: str | None,
    cluster_id: str | None,
    path: str | None,
    daemonize: bool,
    restart_engines: bool,
    on_start: Path | None,
) -> None:
    """Start more engines, here, for a cluster here or (with its engine.json copied to here) elsewhere.

    Also called `engines`. Ctrl-C stops those that were started.
    """
    from directview.connection import find

    info = find(profile, cluster_id, path, role="engine")
    info.check_may_supervise()
    number = n or len(os.sched_getaffinity(0))
    sys.exit(run(_add_engines(info, number, daemonize, restart_engines, on_start)))


async def _add_engines(
    info: ConnectionInfo, n: int, daemonize: bool, restart_engines: bool, on_start: Path | None
) -> int:
    from directview._launch import SupervisorProcess
    from directview._on_start import write_on_start
    from directview.errors import LaunchError
    from directview.folders import private_folder
    from directview.supervisor.control import request
    from directview.supervisor.options import SupervisorOptions
    from directview.supervisor.paths import launcher_path

    look_in_current_folder()
    folder = private_folder(f"{info.cluster_id}-engines-{os.getpid()}", create=True)
    options = SupervisorOptions(
        folder=str(folder),
        cluster_id=info.cluster_id,
        profile=info.profile,
        connection=info.source,
        n=n,
        restart_engines=restart_engines,
        engine={} if on_start is None else {"on_start": write_on_start(on_start, folder)},
        sys_path=launcher_path(),
        private=True,
    )
    async with Interrupted() as interrupted:
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

            return await stay(supervisor, interrupted, stop)
        finally:
            if not supervisor.ended:
                supervisor.end_now(10.0)


@click.command()
@click.option("--profile", default="default", show_default=True, metavar="NAME", help="Name of the cluster.")
@ip_option
@port_option
@store_option
@resilient_option
@detached_options
@log_level_option
@metrics_option
@trace_option
@plain_errors
def controller(
    profile: str,
    ip: str | None,
    port: int,
    store: str | None,
    resilient: bool,
    log_level: str | None,
    metrics: str | None,
    trace: bool,
    **detached: Any,
) -> None:
    """Run a controller alone, in the foreground; engines come by other commands.

    Where a --resilient one of this profile has died, this one takes over from it: same cluster, addresses,
    keys and engines.
    """
    from directview.connection import new_cluster_id
    from directview.controller.__main__ import run as serve
    from directview.controller.options import ControllerOptions

    folder, earlier = _to_take_over(profile)
    if earlier is not None:
        click.echo(f"taking over cluster {earlier.cluster_id} from a controller that has died")
        ip, port, store = ip or earlier.ip, port or earlier.port, store or earlier.store
    click.echo(f"connection files: {folder}/client.json and engine.json; Ctrl-C stops it")
    options = ControllerOptions(
        folder=str(folder),
        cluster_id=earlier.cluster_id if earlier is not None else new_cluster_id(),
        profile=profile,
        ip=ip,
        port=port,
        store=store,
        policy="wait" if resilient or earlier is not None else "stop",
        log_level=log_level or "",
        metrics=metrics or "",
        trace=trace,
        **detached,
    )
    sys.exit(serve(options))


def _to_take_over(profile: str) -> tuple[Path, Takeover | None]:
    """The profile's folder, and what a controller that has died left there."""
    from directview.controller.takeover import Takeover
    from directview.errors import LaunchError
    from directview.folders import profile_folder
    from directview.supervisor.control import SupervisorFile

    folder = profile_folder(profile, create=True)
    earlier = Takeover.read(folder)
    file = SupervisorFile.read(folder)
    if earlier is not None and file is not None and file.process() is not None:
        raise LaunchError(
            f"the supervisor of {profile!r} (process {file.pid}) looks after its controller itself: wait for "
            f"that, or end all with `directview stop --profile {shlex.quote(profile)}`"
        )
    return folder, earlier


@click.command()
@chosen
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for the controller.")
@plain_errors
def engine(profile: str | None, cluster_id: str | None, path: str | None, timeout: float) -> None:
    """Run one engine in the foreground: for mpiexec, srun and the like."""
    from directview.connection import find
    from directview.supervisor.watcher import run_watched_engine

    info = find(profile, cluster_id, path, timeout, role="engine")
    look_in_current_folder()
    sys.exit(run_watched_engine(info.source))
