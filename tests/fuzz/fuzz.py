"""``make fuzz``: one target after the other under atheris, which follows the branches that an input takes.

Each runs in a process of its own, because atheris ends the process. What it finds is written beside the
corpus, and printed.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def fuzz(target: str, corpus: Path, seconds: int) -> None:
    """Fuzz one target in this process; doesn't return."""
    atheris: Any = importlib.import_module("atheris")

    with atheris.instrument_imports(include=["directview"]):
        from directview.testing.fuzzing import TARGETS, seeds
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=65536", "-rss_limit_mb=1024",
        "-timeout=10", f"-artifact_prefix={corpus}-", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup(arguments, TARGETS[target])
    atheris.Fuzz()


def main() -> int:
    """Run all targets, or the one that is named; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="for each target [30]")
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--corpus", type=Path, help="folder for inputs that are kept from run to run")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        fuzz(options.target, options.corpus, options.seconds)
        return 0
    from directview.testing.fuzzing import TARGETS

    folder = options.corpus or Path(tempfile.mkdtemp(prefix="dv-fuzz-"))
    failed = []
    for target in [options.target] if options.target else TARGETS:
        corpus = folder / target
        corpus.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--here", "--target", target, "--corpus", str(corpus)]
        done = subprocess.run(
            [*command, "--seconds", str(options.seconds)], capture_output=True, text=True, check=False
        )
        runs = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        inputs = len(list(corpus.iterdir()))
        print(f"{target}: {runs[0].split()[-1] if runs else '?'} inputs tried, {inputs} kept", flush=True)
        if done.returncode:
            failed.append(target)
            print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
    print(
        f"corpus and findings: {folder}; " + (f"FAILED: {', '.join(failed)}" if failed else "nothing found")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
