"""``directview status``: how one cluster is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from directview.commands.options import chosen, plain_errors
from directview.commands.running import run

if TYPE_CHECKING:
    from directview.connection import ConnectionInfo

__all__ = ["status"]


@click.command()
@chosen
@plain_errors
def status(profile: str | None, cluster_id: str | None, path: str | None) -> None:
    """How one cluster is: its engines and what waits for them."""
    from directview.connection import find

    info = find(profile, cluster_id, path)
    click.echo(run(_describe(info)))


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
    return "\n".join([*lines, *map(_death, found["deaths"])])


def _death(death: dict[str, Any]) -> str:
    """A line for an engine that died."""
    when = time.strftime("%H:%M:%S", time.localtime(death["when"]))
    running = f" while running {death['running']}" if death["running"] else ""
    peak = f"; {death['peak_memory'] / 1e6:,.0f} MB at most" if death["peak_memory"] else ""
    return f"engine {death['id']} died at {when}: {death['reason']}{running}{peak}"
