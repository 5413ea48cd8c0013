"""``directview logs``: what the processes of one cluster have logged, in order of time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from directview.commands.options import chosen, plain_errors

if TYPE_CHECKING:
    from directview._log_reading import Line

__all__ = ["logs"]

_POLL: Final = 0.2
_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red", "debug": "bright_black"}


@click.command()
@chosen
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on, until Ctrl-C.")
@click.option(
    "--process", default="", metavar="NAME", help="controller, supervisor, client, engine, engine.3, ..."
)
@click.option(
    "--level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The least level to show. What is written at all is up to --log-level of `directview start`.",
)
@click.option(
    "-n", "--lines", default=1000, show_default=True, type=click.IntRange(0), help="The last so many; 0: all."
)
@click.option("--where", is_flag=True, help="Only say in which folder the files are.")
@plain_errors
def logs(
    profile: str | None,
    cluster_id: str | None,
    path: str | None,
    follow: bool,
    process: str,
    level: str,
    lines: int,
    where: bool,
) -> None:
    """What the processes of a cluster have logged, merged by time.

    Of a named cluster also after its end. The folder of one without a name goes with it.
    """
    from directview._log_reading import Follower, Wanted, log_folders, merged
    from directview._log_writing import level_number

    def folders() -> list[Path]:
        return log_folders(profile, cluster_id, path)

    if where:
        for folder in folders():
            click.echo(folder)
        return
    wanted = Wanted(process, level_number(level))
    follower = Follower(folders, wanted) if follow else None
    for line in merged(folders(), wanted, lines):
        _show(line)
    try:
        while follower is not None:
            for line in follower.news():
                _show(line)
            time.sleep(_POLL)
    except KeyboardInterrupt:
        pass


def _show(line: Line) -> None:
    from directview._log_reading import shown

    click.secho(shown(line), fg=_COLOURS.get(line.level))
