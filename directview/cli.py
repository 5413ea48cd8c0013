"""The command line: ``directview start``, ``stop``, ``list``, ``status``, ``add-engines``, ``demo``, ...

Here the commands of `directview.commands` are put together. What a command needs is imported when it runs,
so that ``directview --help`` answers at once. A mistake gives one line that says what to do, and exit code 1
(2 for a wrong argument); a traceback here is a defect.
"""

from __future__ import annotations

import click

from directview.commands import cleaning, clusters, demo, keys, logs, report, stack, starting, status, trace

__all__ = ["main"]


class _Commands(click.Group):
    """Commands in the order in which they are added, and the other name of one of them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, "add-engines" if cmd_name == "engines" else cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="directview")
def main() -> None:
    """A group of Python engines that you can hold in your hand."""


for _command in (
    starting.start,
    clusters.stop,
    clusters.list_clusters,
    cleaning.clean,
    status.status,
    logs.logs,
    stack.stack,
    trace.trace,
    report.report,
    starting.add_engines,
    starting.controller,
    starting.engine,
    keys.keys,
    demo.demo,
):
    main.add_command(_command)
