"""``directview keys``: the keys of a cluster that listens on TCP, and new ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from directview.commands.options import chosen, plain_errors
from directview.commands.running import run

if TYPE_CHECKING:
    from directview.connection import ConnectionInfo

__all__ = ["keys"]


@click.command()
@chosen
@click.option("--rotate", is_flag=True, help="Make new keys for all roles; refuse the old ones.")
@click.option(
    "--disconnect", is_flag=True, help="With --rotate: also end the connections that came with an old key."
)
@plain_errors
def keys(
    profile: str | None, cluster_id: str | None, path: str | None, rotate: bool, disconnect: bool
) -> None:
    """Fingerprints of a cluster's keys; with --rotate, new keys.

    Run it on the controller's machine. The controller takes new keys without a restart, and writes them into
    the connection files, which have to be copied to other machines again.
    """
    from directview.connection import find

    if disconnect and not rotate:
        raise click.UsageError("--disconnect needs --rotate")
    info = find(profile, cluster_id, path)
    click.echo(run(_rotate(info, disconnect)) if rotate else _describe(info))


def _describe(info: ConnectionInfo) -> str:
    from directview.connection import load
    from directview.errors import DirectViewError
    from directview.wire.curve import fingerprint

    if info.public is None or info.server_public is None:
        return (
            f"cluster {info.cluster_id} has no keys: it listens at {info.ipc} only, in a folder that nobody "
            "but you can enter (`--ip` adds a TCP port, with keys)"
        )
    rows = [("controller", info.server_public, str(info.tcp)), (info.role, info.public, info.source)]
    try:
        other = load(Path(info.source).with_name("engine.json"))
    except DirectViewError:
        pass  # A file that was copied to another machine, without the other one.
    else:
        if other.cluster_id == info.cluster_id and other.public is not None and info.role != other.role:
            rows.append((other.role, other.public, other.source))
            info = other if info.role == "client" else info
    if info.supervisor_public is not None:
        rows.append(("supervisor", info.supervisor_public, info.source))
    lines = [f"{'KEY':<12}{'FINGERPRINT':<21}WHERE"]
    return "\n".join([*lines, *[f"{role:<12}{fingerprint(key):<21}{where}" for role, key, where in rows]])


async def _rotate(info: ConnectionInfo, disconnect: bool) -> str:
    from directview.client import Client
    from directview.wire.curve import ROLES

    async with Client(info) as client:
        found: dict[str, Any] = await client.query("rotate_keys", disconnect=disconnect)
    files = Path(info.source).parent
    stay = "were cut off" if disconnect else "stay connected (--disconnect would cut them off)"
    return "\n".join(
        [
            "new keys: " + ", ".join([f"{role} {found[role]}" for role in ROLES]),
            "the running controller refuses the old ones from now on; no restart is needed",
            f"those who had connected with an old one {stay}",
            f"copy {files}/client.json and engine.json to the other machines again",
        ]
    )
