"""The command line of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.report import SUBJECT, Participant, Report
from benchmarks.works import WORKS

WORK = {work.name: work for work in WORKS}


def written(path: Path, *seconds: float) -> str:
    report = Report(
        "then", "quick", 3, {"cores": 2, "memory": 24e9}, {work.name: work.title for work in WORKS}
    )
    report.participants = {SUBJECT: Participant(SUBJECT, "subject", SUBJECT)}
    for number, value in enumerate(seconds):
        report.add(WORK["noop-1-sync"], SUBJECT, number, {"p50": value})
    path.write_text(json.dumps(report.to_json()))
    return str(path)


def test_the_list_names_work_and_everybody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "simulated-1000" in said
    assert "ipyparallel" in said
    assert "two-copy" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "naps"], "no work 'naps'"),
        (["--peers", "celery"], "no peer 'celery'"),
        (["--minutes", "0"], "--minutes"),
        (["page", "/nowhere.json"], "/nowhere.json"),
        (["compare", "/nowhere.json", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_comparison_fails_if_there_is_a_regression_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path / "before.json", 1.0, 1.1, 0.9)
    after = written(tmp_path / "after.json", 2.0, 2.1, 1.9)
    assert main(["compare", before, before]) == 0
    assert main(["compare", after, before]) == 0
    assert main(["compare", before, after]) == 1
    assert "no-op on 1 engine, blocking, median" in capsys.readouterr().out
