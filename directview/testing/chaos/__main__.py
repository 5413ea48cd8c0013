"""``python -m directview.testing.chaos``."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import click

from directview.testing.chaos._run import run
from directview.testing.chaos._sandbox import enter, leave

__all__ = ["main"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--seconds", default=60.0, show_default=True, help="For how long, without starting and stopping."
)
@click.option("--seed", type=int, help="Of all chance. [default: a random one, which is printed]")
@click.option("--episode", type=int, help="Only this one of the run's episodes.")
@click.option("--quiet", is_flag=True, help="Only the summary.")
def main(seconds: float, seed: int | None, episode: int | None, quiet: bool) -> None:
    """Start clusters, let everything go wrong, and look whether each call ended once and right."""
    if seed is None:
        seed = secrets.randbelow(1_000_000)
    base = Path(tempfile.mkdtemp(prefix="dv-chaos-"))
    small = base / "disk"
    small.mkdir()
    sandboxed = enter(small)
    try:
        say = _nothing if quiet else click.echo
        say(f"seed {seed}")
        report = asyncio.run(run(seed, seconds, base, small=sandboxed, only=episode, say=say))
    finally:
        if sandboxed:
            leave(small)
        shutil.rmtree(base, ignore_errors=True)
    click.echo(str(report))
    sys.exit(0 if report.ok else 1)


def _nothing(text: str) -> None:
    """Say it to nobody."""


if __name__ == "__main__":
    main()
