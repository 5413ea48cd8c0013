"""``directview stop``, ``list``: the clusters that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from directview.commands.options import chosen, plain_errors

if TYPE_CHECKING:
    from directview.connection import ConnectionInfo

__all__ = ["clusters", "list_clusters", "stop"]


@click.command()
@chosen
@click.option("--all", "everything", is_flag=True, help="Stop every cluster of yours on this machine.")
@plain_errors
def stop(profile: str | None, cluster_id: str | None, path: str | None, everything: bool) -> None:
    """Stop a cluster that runs in the background (or anywhere else)."""
    from directview.cluster import Cluster

    if everything:
        for info in clusters():
            Cluster.from_file(info.source).stop_cluster_sync()
            click.echo(f"stopped {info.cluster_id}")
        return
    cluster = Cluster.from_file(path, profile=profile, cluster_id=cluster_id)
    cluster.stop_cluster_sync()
    click.echo(f"stopped {cluster.cluster_id}")


@click.command("list")
@plain_errors
def list_clusters() -> None:
    """The clusters that run on this machine."""
    found = clusters()
    if not found:
        click.echo("no clusters: `directview start -n 4` starts one")
        return
    width = max(len("PROFILE"), *[len(info.profile or "-") for info in found])
    click.echo(f"{'CLUSTER':<14}{'PROFILE':<{width + 2}}{'CONTROLLER':<12}CONNECTION FILE")
    for info in found:
        click.echo(f"{info.cluster_id:<14}{info.profile or '-':<{width + 2}}{info.pid:<12}{info.source}")


def clusters() -> list[ConnectionInfo]:
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
