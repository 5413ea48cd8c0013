"""``directview stack``: what every engine is doing at this moment, also one that is blocked."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from directview.commands.options import chosen, plain_errors
from directview.commands.running import run

if TYPE_CHECKING:
    from directview.client import Client
    from directview.connection import ConnectionInfo

__all__ = ["stack"]

_NAMED: Final = 3


@click.command()
@click.argument("engines", nargs=-1, type=int, metavar="[ENGINE]...")
@chosen
@click.option("--py-spy", "spy", is_flag=True, help="Use py-spy: needs directview[diagnose] and mostly root.")
@plain_errors
def stack(
    engines: tuple[int, ...], profile: str | None, cluster_id: str | None, path: str | None, spy: bool
) -> None:
    """What engines are doing now, also blocked ones: their calls, and the stacks of all their threads.

    What runs there does not notice.
    """
    from directview.connection import find

    info = find(profile, cluster_id, path)
    run(_show(info, list(engines), spy))


async def _show(info: ConnectionInfo, engines: list[int], spy: bool) -> None:
    from directview.client import Client

    async with Client(info) as client:
        unknown = [id for id in engines if id not in client.ids]
        if unknown:
            raise ValueError(f"there is no engine {unknown[0]}; there are {client.ids}")
        chosen = engines or client.ids
        if not chosen:
            raise ValueError("the cluster has no engines: `directview add-engines -n 4` starts some")
        texts = {} if spy else await client.stack_async(chosen)
        calls = await _calls(client, chosen)
        for id in chosen:
            known = client.engine_infos[id]
            click.secho(f"engine {id}: process {known.pid} on {known.hostname}; {calls[id]}", bold=True)
            click.echo(_spied(known) if spy else texts[id])


async def _calls(client: Client, engines: list[int]) -> dict[int, str]:
    """What each engine has been given, in words."""
    counts: dict[str, Any] = await client.query("queue_status", targets=engines, verbose=False)
    lists: dict[str, Any] = {}
    if sum([found["queue"] + found["tasks"] for found in counts.values() if isinstance(found, dict)]) < 5000:
        lists = await client.query("queue_status", targets=engines, verbose=True)
    given = {id: list(lists.get(str(id), {}).get("tasks", ()))[:_NAMED] for id in engines}
    asked = [msg_id for some in given.values() for msg_id in some]
    records = await client.db_query_async({"msg_id": {"$in": asked}}, ["name"]) if asked else []
    names = {record["msg_id"]: record["name"] for record in records}
    found = {}
    for id in engines:
        tasks, queue = counts[str(id)]["tasks"], counts[str(id)]["queue"]
        named = ", ".join([f"{names.get(msg_id, 'call')} {msg_id}" for msg_id in given[id]])
        more = f" and {tasks - len(given[id])} more" if named and tasks > len(given[id]) else ""
        what = f"it has {named}{more}" if named else f"it has {tasks} calls" if tasks else "it has no call"
        found[id] = f"{what}; {queue} wait" if queue else what
    return found


def _spied(known: Any) -> str:
    if known.hostname != socket.gethostname():
        return f"it runs on {known.hostname}: run this there"
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise ValueError("py-spy is not installed: `pip install directview[diagnose]`")
    done = subprocess.run(
        [found, "dump", "--pid", str(known.pid)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise ValueError(
            f"py-spy could not look into process {known.pid}: {done.stderr.strip()}; it may need root, or "
            "`sysctl kernel.yama.ptrace_scope=0`; `directview stack` without --py-spy needs neither"
        )
    return done.stdout
