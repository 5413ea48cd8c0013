"""``directview trace``: the story of one call, or all recent ones for a viewer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from directview.commands.options import chosen, plain_errors
from directview.commands.running import run

if TYPE_CHECKING:
    from directview.connection import ConnectionInfo

__all__ = ["trace"]


@click.command()
@click.argument("msg_id", required=False)
@chosen
@click.option(
    "--export",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write the last 10,000 calls there, for https://ui.perfetto.dev or chrome://tracing.",
)
@plain_errors
def trace(
    msg_id: str | None, profile: str | None, cluster_id: str | None, path: str | None, export: str | None
) -> None:
    """What happened to one call, across client, controller and engine, by its MSG_ID (`ar.msg_ids`).

    Of every call it is known when it was queued, started, completed and answered; of a cluster started with
    --trace, every hop.
    """
    from directview.connection import find

    if (msg_id is None) == (export is None):
        raise click.UsageError("give a MSG_ID, or --export FILE")
    info = find(profile, cluster_id, path)
    run(_show(info, msg_id) if msg_id is not None else _export(info, str(export)))


async def _show(info: ConnectionInfo, msg_id: str) -> None:
    from directview.client import Client

    async with Client(info) as client:
        try:
            steps = await client.trace_async(msg_id)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
    first, before = steps[0].time, steps[0].time
    click.echo(f"call {msg_id}, {first.astimezone():%Y-%m-%d %H:%M:%S.%f}")
    click.echo(f"{'AFTER':>12} {'STEP':>12}  {'WHERE':<12}WHAT")
    several = len({step.msg_id for step in steps}) > 1
    for step in steps:
        after, since = (1000 * (step.time - earlier).total_seconds() for earlier in (first, before))
        which = f"  ({step.msg_id})" if several else ""
        click.echo(f"{after:>9.3f} ms {since:>+9.3f} ms  {step.place:<12}{step.what}{which}")
        before = step.time


async def _export(info: ConnectionInfo, path: str) -> None:
    from directview._trace_reading import chrome_trace
    from directview.client import Client

    async with Client(info) as client:
        records = await client.db_query_async({"started": {"$exists": True}})
    with open(path, "w", encoding="utf-8") as file:  # noqa: ASYNC230 - nothing else runs here
        json.dump(chrome_trace(records), file)
    click.echo(f"{len(records)} calls are in {path}: open it at https://ui.perfetto.dev")
