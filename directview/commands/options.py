"""What several commands have in common: the options that name a cluster, and how mistakes are told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

__all__ = [
    "chosen",
    "detached_options",
    "ip_option",
    "log_level_option",
    "metrics_option",
    "on_start_option",
    "plain_errors",
    "port_option",
    "resilient_option",
    "restart_engines_option",
    "store_option",
    "trace_option",
]

P = ParamSpec("P")
T = TypeVar("T")


def plain_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Whatever goes wrong in the user's world, said in one line."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        from directview.errors import DirectViewError

        try:
            return function(*args, **kwargs)
        except (DirectViewError, OSError, ValueError) as error:
            raise click.ClickException(str(error)) from None

    return call


def chosen(function: Callable[..., T]) -> Callable[..., T]:
    """The options that name a cluster."""
    for option in (
        click.option(
            "--file", "path", metavar="PATH", help="A connection file, copied from elsewhere perhaps."
        ),
        click.option("--cluster-id", metavar="ID", help="The cluster with this id (or beginning of one)."),
        click.option("--profile", metavar="NAME", help="The cluster of this name. [default: default]"),
    ):
        function = option(function)
    return function


def detached_options(function: Callable[..., T]) -> Callable[..., T]:
    """The options that bound what is kept of detached calls, named as the arguments of Cluster."""
    for option in (
        click.option(
            "--detached-age",
            default=7 * 86_400.0,
            type=click.FloatRange(0),
            metavar="SECONDS",
            help="Keep results of detached calls for so long. [default: 7 days]",
        ),
        click.option(
            "--detached-bytes",
            default=256 << 20,
            type=click.IntRange(0),
            metavar="N",
            help="Keep results of detached calls of so many bytes, together. [default: 256 MiB]",
        ),
        click.option(
            "--detached-results",
            default=10_000,
            show_default=True,
            type=click.IntRange(0),
            metavar="N",
            help="Keep so many results of detached calls.",
        ),
    ):
        function = option(function)
    return function


ip_option = click.option(
    "--ip",
    metavar="ADDRESS",
    help="Listen on TCP too (encrypted), at this address; '*': all. [default: no TCP]",
)
port_option = click.option(
    "--port", default=0, type=click.IntRange(0, 65_535), help="TCP port. [default: a free one]"
)
store_option = click.option(
    "--store",
    metavar="PATH",
    type=click.Path(dir_okay=False, resolve_path=True),
    help="Keep the history of calls in this SQLite file. [default: the last calls, in memory]",
)
log_level_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The least level that is logged; see `directview logs`. [default: info]",
)
metrics_option = click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Serve the controller's figures to Prometheus there. [default host: 127.0.0.1; default: nowhere]",
)
trace_option = click.option(
    "--trace", is_flag=True, help="Write down where each call is; see `directview trace`. Costs some speed."
)
restart_engines_option = click.option(
    "--restart-engines",
    is_flag=True,
    help="Start another engine under the id of one that has died.",
)
on_start_option = click.option(
    "--on-start",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Python code that each engine runs before its first call.",
)
resilient_option = click.option(
    "--resilient",
    is_flag=True,
    help="Outlive a crash of the controller: another takes over, engines and clients come back to it.",
)
