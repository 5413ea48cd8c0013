"""``directview status``: how one cluster is: engines, queues, memory, rates."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import click

from directview.commands.options import chosen, plain_errors
from directview.commands.running import run

if TYPE_CHECKING:
    from directview.client import Client
    from directview.connection import ConnectionInfo

__all__ = ["described", "measured", "status"]

_SAMPLE: Final = 0.5
"""Seconds over which rates are taken."""
_RATES: Final = ("calls", "results", "messages_in", "messages_out", "bytes_in", "bytes_out")


@click.command()
@chosen
@click.option("--json", "as_json", is_flag=True, help="All there is, as one line of JSON.")
@click.option("--watch", type=click.FloatRange(0.5), metavar="SECONDS", help="Again and again, until Ctrl-C.")
@plain_errors
def status(
    profile: str | None, cluster_id: str | None, path: str | None, as_json: bool, watch: float | None
) -> None:
    """How one cluster is: its engines, what waits for them, memory, and rates over half a second."""
    from directview.connection import find

    info = find(profile, cluster_id, path)
    try:
        run(_show(info, as_json, watch))
    except KeyboardInterrupt:
        pass


async def _show(info: ConnectionInfo, as_json: bool, watch: float | None) -> None:
    from directview.client import Client

    async with Client(info) as client:
        while True:
            found = await measured(client, info, _SAMPLE if watch is None else watch)
            if watch is not None and not as_json:
                click.clear()
            click.echo(json.dumps(found) if as_json else described(found))
            if watch is None:
                return


async def measured(client: Client, info: ConnectionInfo, seconds: float) -> dict[str, Any]:
    """The controller's status, with ``rates`` for each second and the ``memory`` of this machine's processes.

    Args:
        client: connected.
        info: its connection file.
        seconds: over which the rates are taken.
    """
    before, began = await client.query("status"), time.monotonic()
    await asyncio.sleep(seconds)
    asked = time.monotonic()
    found: dict[str, Any] = await client.query("status")
    passed, answered = asked - began, time.monotonic() - asked
    counted, earlier = {**found, **found["meter"]}, {**before, **before["meter"]}
    found["rates"] = {name: round((counted[name] - earlier[name]) / passed, 1) for name in _RATES}
    found["answered_in"] = round(answered, 6)
    found["controller"] = _process(info.pid, info.hostname)
    found["profile"], found["addresses"] = info.profile, list(info.addresses)
    for engine in found["engines"]:
        engine.update(_process(engine["pid"], engine["hostname"]))
    return found


def _process(pid: int | None, hostname: str | None) -> dict[str, Any]:
    """What this machine knows of a process: nothing, if it runs on another."""
    import psutil

    found: dict[str, Any] = {"pid": pid, "hostname": hostname, "memory": None, "state": None}
    if pid is not None and hostname == socket.gethostname():
        try:
            process = psutil.Process(pid)
            found.update(memory=process.memory_info().rss, state=process.status())
        except psutil.Error:
            pass
    return found


def described(found: dict[str, Any]) -> str:
    """What `measured` found, for people."""
    controller, rates, meter = found["controller"], found["rates"], found["meter"]
    head = (
        f"cluster {found['cluster']}, profile {found['profile'] or '-'}, controller {controller['pid']} on "
        f"{controller['hostname']}, {_bytes(controller['memory'])}"
    )
    place = (
        f"listening at {' and '.join(found['addresses'])}; up {found['uptime']:.0f} s, "
        f"{found['calls']} calls, {len(found['clients'])} clients"
    )
    now = (
        f"now: {rates['calls']:.0f} calls/s, {rates['results']:.0f} results/s, "
        f"{_bytes(rates['bytes_in'])}/s in, {_bytes(rates['bytes_out'])}/s out; answered in "
        f"{1000 * found['answered_in']:.1f} ms, loop at most {1000 * meter['lag']:.0f} ms late in a minute"
    )
    lines = [head, place, now]
    if found["engines"]:
        lines.append(
            f"{'ENGINE':<8}{'PID':<9}{'PYTHON':<9}{'GIVEN':<8}{'QUEUED':<8}{'DONE':<10}{'MEMORY':<10}HOST"
        )
    else:
        lines.append("no engines: `directview add-engines -n 4` starts some")
    lines += [
        f"{engine['id']:<8}{engine['pid'] or '-':<9}{engine['python'] or '-':<9}{engine['tasks']:<8}"
        f"{engine['queue']:<8}{engine['completed']:<10}{_bytes(engine['memory']):<10}"
        f"{engine['hostname'] or '-'}{_remark(engine)}"
        for engine in found["engines"]
    ]
    return "\n".join([*lines, *map(_death, found["deaths"])])


def _remark(engine: dict[str, Any]) -> str:
    remarks = [] if engine["connected"] else ["not connected"]
    if engine["state"] == "stopped":
        remarks.append("stopped by a signal")
    if engine["cancelled"]:
        remarks.append(f"{len(engine['cancelled'])} calls run on though they were cancelled")
    return f" ({', '.join(remarks)})" if remarks else ""


def _bytes(number: float | None) -> str:
    if number is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _death(death: dict[str, Any]) -> str:
    """A line for an engine that died."""
    when = time.strftime("%H:%M:%S", time.localtime(death["when"]))
    running = f" while running {death['running']}" if death["running"] else ""
    peak = f"; {death['peak_memory'] / 1e6:,.0f} MB at most" if death["peak_memory"] else ""
    outlook = f"; {death['outlook']}" if death["outlook"] else ""
    return f"engine {death['id']} died at {when}: {death['reason']}{running}{peak}{outlook}"
