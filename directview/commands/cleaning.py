"""``directview clean``: what dead clusters have left goes."""

from __future__ import annotations

import click

from directview.commands.options import plain_errors

__all__ = ["clean"]


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--older-than",
    "days",
    default=7.0,
    show_default=True,
    type=click.FloatRange(0),
    metavar="DAYS",
    help="Logs of named clusters that are older go.",
)
@plain_errors
def clean(dry_run: bool, days: float) -> None:
    """Remove what dead clusters of yours have left on this machine; what belongs to living ones stays.

    That is: folders of clusters without a name, connection files, sockets, what another controller would
    have taken over by, and logs of named clusters that are old. A cluster that has ended in order leaves
    nothing but logs; one all of whose processes were killed at once does.
    """
    from directview import _cleaning

    found = False
    for leftover in _cleaning.clean(days * 86_400, dry_run=dry_run):
        found = True
        click.echo(f"{'would remove' if dry_run else 'removed'} {leftover.kind}: {leftover.path}")
    if not found:
        click.echo("nothing to remove")
