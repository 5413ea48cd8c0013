"""The command line: ``python -m benchmarks [...]``, ``... compare A.json B.json``, ``... page A.json``."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine, page, plots, rendering
from benchmarks.comparing import compare
from benchmarks.kin import adopt_orphans, end_in_order
from benchmarks.participants import choose_specs
from benchmarks.report import SUBJECT, Report
from benchmarks.run import Run
from benchmarks.targets import TARGETS
from benchmarks.works import WORKS, Depth, choose

RESULTS = Path(__file__).resolve().parent / "results"
_ROUNDS = {Depth.QUICK: 3, Depth.NORMAL: 3, Depth.FULL: 5}
_MINUTES = {Depth.QUICK: 9.0, Depth.NORMAL: 45.0, Depth.FULL: math.inf}
"""After which nothing more is begun, unless --minutes says otherwise."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="The same work on directview and on what one would use instead. "
        "`python -m benchmarks compare A.json B.json` compares two runs; "
        "`python -m benchmarks page A.json` fills the documentation's page from one.",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORK",
        help="names, beginnings of names or patterns: noop, 'push*'; --list shows them",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="NAME",
        help="whom to measure beside directview (and the limit programs); 'none' for nobody",
    )  # fmt: skip
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--quick", dest="depth", action="store_const", const=Depth.QUICK, help="less, within 10 minutes"
    )
    depth.add_argument("--full", dest="depth", action="store_const", const=Depth.FULL, help="everything")
    parser.set_defaults(depth=Depth.NORMAL)
    parser.add_argument("--rounds", type=int, help="how often each is started and measured, at most")
    parser.add_argument("--minutes", type=float, help="after which nothing more is begun")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the report goes; Markdown and plots beside it"
    )
    parser.add_argument("--list", action="store_true", help="names of work and peers, and nothing else")
    return parser


def _list(console: Console) -> int:
    for work in WORKS:
        console.print(f"{work.name:<22}{work.title}", highlight=False)
    console.print(f"peers: {', '.join([spec.name for spec in choose_specs([])])}", highlight=False)
    return 0


def _measure(arguments: argparse.Namespace, console: Console) -> int:
    try:
        works = choose(WORKS, arguments.depth, arguments.only)
        specs = choose_specs(arguments.peers)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    minutes = _MINUTES[arguments.depth] if arguments.minutes is None else arguments.minutes
    if minutes <= 0:
        print(f"--minutes: expected a number above 0, got {minutes:g}", file=sys.stderr)
        return 2
    rounds = _ROUNDS[arguments.depth] if arguments.rounds is None else max(1, arguments.rounds)
    now = datetime.datetime.now(datetime.UTC)
    report = Report(
        now.isoformat(timespec="seconds"),
        arguments.depth.name.lower(),
        0,
        machine.describe(),
        {work.name: work.title for work in works},
    )
    adopt_orphans()
    end_in_order()
    path: Path = arguments.json or RESULTS / f"{now:%Y-%m-%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = Console(stderr=True)
    logs = path.with_name(f"{path.stem}-logs")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    with progress.status("starting") as status:
        say = status.update if progress.is_terminal else lambda text: print(text, file=sys.stderr, flush=True)
        run = Run(report, specs, works, arguments.depth, logs, say)
        run.prepare()
        run.rounds(rounds, 60 * minutes)
    sheets = rendering.report_sheets(report, TARGETS)
    # Below all the others, where a terminal leaves it in sight.
    console.print(rendering.to_terminal([*sheets[1:], sheets[0]]))
    path.write_text(json.dumps(report.to_json(TARGETS), indent=1) + "\n")
    markdown = path.with_suffix(".md")
    markdown.write_text(rendering.to_markdown(sheets, f"Benchmarks, {report.started}"))
    written = [path, markdown, *_draw(report, path.with_name(f"{path.stem}-plots"))]
    console.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    if not any([refusal.failed for refusal in report.refusals.values()]):
        shutil.rmtree(logs)
    else:
        console.print(f"something failed; what was printed: {logs}", highlight=False, soft_wrap=True)
    return 1 if any([each.failed for each in report.refusals.values() if each.peer == SUBJECT]) else 0


def _draw(report: Report, folder: Path) -> list[Path]:
    try:
        return plots.draw(report, folder)
    except plots.PlottingMissing as reason:
        print(reason, file=sys.stderr)
        return []


def _page(arguments: Sequence[str], console: Console) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks page")
    parser.add_argument("report", type=Path, help="what a run wrote")
    parser.add_argument("--page", type=Path, default=page.PAGE, help="the page to fill")
    parsed = parser.parse_args(arguments)
    try:
        report = Report.from_json(json.loads(parsed.report.read_text()))
        written = page.write(report, parsed.page)
    except (OSError, ValueError, plots.PlottingMissing) as error:
        print(f"{parsed.report}: {error}", file=sys.stderr)
        return 2
    console.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
    return 0


def _compare(arguments: Sequence[str], console: Console) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parsed = parser.parse_args(arguments)
    reports = []
    for path in (parsed.before, parsed.after):
        try:
            reports.append(Report.from_json(json.loads(path.read_text())))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
    before, after = reports
    comparison = compare(before, after, {work.name: work.limits for work in WORKS})
    console.print(rendering.to_terminal(rendering.comparison_sheets(comparison, after)))
    return 1 if comparison.regressions else 0


def main(arguments: Sequence[str]) -> int:
    """Run.

    Returns:
        The exit code: 0; 1 for regressions, or if directview failed at a work; 2 for wrong arguments.
    """
    console = Console()
    if not console.is_terminal:
        console.width = 140
    if arguments[:1] == ["compare"]:
        return _compare(arguments[1:], console)
    if arguments[:1] == ["page"]:
        return _page(arguments[1:], console)
    parsed = _parser().parse_args(arguments)
    return _list(console) if parsed.list else _measure(parsed, console)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
