"""The harness with real processes: who is missing, who refuses, who fails, and that nothing stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import environments
from benchmarks.environments import EnvironmentMissing, compile_sources, python_for, resolve
from benchmarks.figures import FigureName
from benchmarks.kin import adopt_orphans
from benchmarks.participants import Spec
from benchmarks.processes import AdapterEnded, AdapterProcess, PeerRefused, descendants
from benchmarks.report import SUBJECT, Report
from benchmarks.run import Run
from benchmarks.works import WORKS, Depth

MEMCPY = "benchmarks.limits.memcpy:Memcpy"
WORK = {work.name: work for work in WORKS}

PEER = """
import os, subprocess, sys
from benchmarks.peer import Peer

class Forgetful(Peer):
    distributions = ()

    def start(self, n):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def stop(self):
        pass

    def caller(self, f, target):
        return f

    def map(self, f, items):
        return [0]

    def apply(self, f, argument):
        os._exit(3)

    def push(self, name, array, target):
        raise OSError("no space")
"""


@pytest.fixture
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A peer that leaves a process behind, gives wrong results, fails, and dies."""
    (tmp_path / "forgetful.py").write_text(PEER)
    monkeypatch.setattr("benchmarks.processes.IMPORTABLE", f"{Path.cwd()}{os.pathsep}{tmp_path}")
    adopt_orphans()
    yield "forgetful:Forgetful"
    adopt_orphans(False)


def run(specs: list[Spec], names: list[str], logs: Path, budget: float = 100.0, rounds: int = 1) -> Report:
    works = [WORK[name] for name in names]
    report = Report("now", "quick", 0, {}, {work.name: work.title for work in works})
    harness = Run(report, specs, works, Depth.QUICK, logs, lambda text: None)
    harness.prepare()
    harness.rounds(rounds, budget)
    return report


@pytest.mark.process
class TestAdapter:
    """One peer's process."""

    def test_it_measures_what_it_is_asked(self, tmp_path: Path) -> None:
        process = AdapterProcess(python_for("memcpy", ()), MEMCPY, {}, tmp_path / "log")
        try:
            assert set(process.hello["versions"]) == {"numpy", "Python"}
            assert process.ask({"do": "start", "n": 4}, 20)["seconds"] >= 0
            request = {"do": "work", "operation": "push", "params": {"bytes": 1000}, "repetitions": 3}
            assert len(process.ask(request, 20)["seconds"]) == 3
        finally:
            process.end()

    def test_it_has_a_session_of_its_own(self, tmp_path: Path) -> None:
        """So that a library that kills its whole process group, as mpich does, leaves the harness alive."""
        process = AdapterProcess(python_for("memcpy", ()), MEMCPY, {}, tmp_path / "log")
        try:
            pid = process._process.pid
            assert os.getsid(pid) == os.getpgid(pid) == pid
        finally:
            process.end()

    def test_what_a_peer_cannot_do_is_refused_with_its_reason(self, tmp_path: Path) -> None:
        process = AdapterProcess(python_for("memcpy", ()), MEMCPY, {}, tmp_path / "log")
        try:
            with pytest.raises(PeerRefused, match="it is one process"):
                process.ask({"do": "controller"}, 20)
        finally:
            process.end()

    def test_a_peer_that_cannot_be_imported_says_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(AdapterEnded, match=r"No module named 'benchmarks\.peers\.celery'"):
            AdapterProcess(python_for("x", ()), "benchmarks.peers.celery:X", {}, tmp_path / "log")


@pytest.mark.process
class TestRun:
    """Rounds over participants."""

    def test_a_peer_that_misbehaves_costs_nobody_else_anything(self, forgetful: str, tmp_path: Path) -> None:
        before = descendants()
        specs = [Spec("memcpy", "memcpy", "peer", MEMCPY), Spec("bad", "bad", "peer", forgetful)]
        names = ["noop-1-sync", "map-1000000", "apply-100MB", "push-1kB"]
        report = run(specs, names, tmp_path)
        reasons = {key: refusal.reason for key, refusal in report.refusals.items() if refusal.peer == "bad"}
        assert reasons["map-1000000", "bad"] == "WrongResult: map: wrong results"
        assert reasons["apply-100MB", "bad"].startswith("its process ended")
        # The work after its death was done by another process of it.
        assert reasons["push-1kB", "bad"] == "OSError: no space"
        assert report.figure("noop-1-sync", "p50", "bad") is not None
        assert report.figure("push-1kB", "seconds", "memcpy") is not None
        assert report.participants["memcpy"].left_behind == 0
        assert report.participants["bad"].left_behind > 0
        assert descendants() <= before

    def test_what_does_not_fit_into_the_time_is_said_to_be_left_out(self, tmp_path: Path) -> None:
        specs = [Spec(SUBJECT, SUBJECT, "subject", MEMCPY)]
        report = run(specs, ["push-1kB"], tmp_path, budget=0.0)
        assert (report.rounds, report.figures) == (0, {})
        report = run(specs, ["push-1kB", "start-16"], tmp_path, budget=100.0, rounds=2)
        assert report.rounds == 2
        assert len(report.figures[FigureName("push-1kB", "seconds"), SUBJECT].rounds) == 2

    def test_a_peer_that_does_not_start_is_missing_with_the_reason(self, tmp_path: Path) -> None:
        specs = [Spec(SUBJECT, SUBJECT, "subject", MEMCPY), Spec("gone", "gone", "peer", "no_such:Peer")]
        report = run(specs, ["push-1kB"], tmp_path)
        assert "No module named 'no_such'" in report.participants["gone"].missing
        assert report.participants[SUBJECT].missing == ""

    def test_a_peer_whose_environment_cannot_be_made_is_missing_with_the_reason(self, tmp_path: Path) -> None:
        specs = [Spec("odd", "odd", "peer", MEMCPY, ("anything=={no-such-distribution}",))]
        report = run(specs, ["push-1kB"], tmp_path)
        assert report.participants["odd"].missing.startswith("no-such-distribution isn't installed")


def test_sources_are_compiled_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "compiled_before"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "broken.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)
    compile_sources("compiled_before")
    assert [path.name.partition(".")[0] for path in package.glob("__pycache__/*.pyc")] == ["__init__"]


def test_requirements_take_the_versions_that_run_here() -> None:
    (requirement,) = resolve(["psutil=={psutil}"])
    assert requirement == f"psutil=={psutil.__version__}"


def test_why_an_environment_could_not_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "file")
    with pytest.raises(EnvironmentMissing, match=r"the virtual environment: .*file"):
        python_for("odd", ["anything"])
