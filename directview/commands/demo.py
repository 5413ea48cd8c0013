"""``directview demo``: real work, to look at."""

from __future__ import annotations

import sys

import click

from directview.commands.options import plain_errors

__all__ = ["demo"]


@click.command()
@click.option("-n", "--n", default=4, show_default=True, type=click.IntRange(1), help="Number of engines.")
@click.option("--quick", is_flag=True, help="Less of everything.")
@plain_errors
def demo(n: int, quick: bool) -> None:
    """Real work on four engines, checked and drawn."""
    from directview.demo import main as show

    sys.exit(show(n=n, quick=quick))
