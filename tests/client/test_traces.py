"""Stories of calls: what processes write down of messages that pass, and how it is put together."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from directview import _trace_writing, folders
from directview._trace_reading import Step, chrome_trace, told, traced
from directview._trace_writing import TRACE_FOLDER, Tracer, tracer_of
from directview.wire.messages import (
    OK,
    Abort,
    Accept,
    Ack,
    CallItem,
    Grant,
    Output,
    Result,
    ResultItem,
    Submit,
)

CLIENT = bytes(range(16))
NAME = f"{CLIENT.hex()}_7_3"
START = datetime(2026, 1, 1, tzinfo=UTC)


def submit(*targets: int, seq: int = 7) -> Submit:
    return Submit(CLIENT, 5, (CallItem(seq, targets, "secret_name", 0, 9, 0, b"secret"),))


def result(started: float = 1.0, completed: float = 2.0) -> Result:
    return Result(CLIENT, 3, (ResultItem(7, OK, started, completed, 6, 0, b"secret"),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / TRACE_FOLDER).mkdir()
    return tmp_path


def tracer(folder: Path, role: str, process: str) -> Tracer:
    made = Tracer(role, folder / TRACE_FOLDER / f"{process}.trace")
    made.process = process
    return made


def test_a_call_is_seen_at_every_hop(folder: Path) -> None:
    client, controller, engine = (
        tracer(folder, role, name)
        for role, name in (("client", "client"), ("controller", "controller"), ("engine", "engine.3"))
    )
    client.saw("out", submit(3, 4))
    controller.saw("in", submit(3, 4))
    controller.saw("out", submit(-1), [3, 4])
    engine.saw("in", submit(-1))
    engine.saw("out", Accept(CLIENT, 3, (), (7,)))
    engine.saw("out", Output(CLIENT, 3, 7, 0, "stdout", "secret"))
    engine.saw("out", result())
    controller.saw("in", result())
    client.saw("in", result())
    client.saw("out", Ack(CLIENT, 8, ()))
    for each in (client, controller, engine):
        each.close()
    steps = traced(folder, NAME)
    assert {(step.place, step.what) for step in steps} == {
        ("client", "sent"),
        ("controller", "queued"),
        ("controller", "dispatched"),
        ("engine.3", "arrived"),
        ("engine.3", "accepted"),
        ("engine.3", "printed, piece 0"),
        ("engine.3", "started"),
        ("engine.3", "completed"),
        ("engine.3", "answered"),
        ("controller", "result passed on"),
        ("client", "received"),
        ("client", "acknowledged"),
    }
    assert steps == sorted(steps, key=lambda step: step.time)
    assert {step.msg_id for step in steps} == {NAME}
    other = traced(folder, f"{CLIENT.hex()}_7_4")
    assert ("controller", "dispatched") in {(step.place, step.what) for step in other}
    assert "answered" not in {step.what for step in other}


def test_names_arguments_and_output_are_not_written(folder: Path) -> None:
    written = tracer(folder, "engine", "engine.3")
    for message in (
        submit(3),
        result(),
        Output(CLIENT, 3, 7, 0, "stdout", "secret"),
        Abort(CLIENT, ((3, (7,)),)),
    ):
        for way in ("in", "out"):
            written.saw(way, message)
    written.saw("in", Grant(CLIENT, 7, 3, 0, 1))
    written.close()
    (path,) = (folder / TRACE_FOLDER).iterdir()
    assert "secret" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_load_balanced_task_has_the_story_of_its_calls(folder: Path) -> None:
    client, engine = tracer(folder, "client", "client"), tracer(folder, "engine", "engine.3")
    client.given(CLIENT, 7, 9, 3)
    engine.saw("in", submit(3, seq=9))
    client.close()
    engine.close()
    found = [(step.what, step.msg_id) for step in traced(folder, f"{CLIENT.hex()}_7_-1")]
    call = f"{CLIENT.hex()}_9_3"
    assert found == [("given as 9", f"{CLIENT.hex()}_7_-1"), ("made", call), ("arrived", call)]


def test_files_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trace_writing, "FILE_BYTES", 2000)
    written = tracer(folder, "client", "client")
    for seq in range(200):
        written.saw("out", submit(3, seq=seq))
    written.close()
    files = list((folder / TRACE_FOLDER).iterdir())
    assert len(files) == 2
    assert sum(path.stat().st_size for path in files) < 4200


def test_a_torn_line_and_a_missing_folder_tell_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / TRACE_FOLDER / "x.trace").write_text(f"1.0 {CLIENT.hex()}_7 3 cli\n{CLIENT.hex()}")
    assert traced(folder, NAME) == traced(tmp_path / "nowhere", NAME) == []
    lost = Tracer("client", tmp_path / "nowhere" / "x.trace")
    lost.saw("out", submit(3))
    lost.close()


def test_only_in_a_traced_clusters_folder_is_anything_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    cluster = folders.profile_folder("p", create=True)
    assert tracer_of("client", cluster, "client-1") is None
    (cluster / TRACE_FOLDER).mkdir()
    found = tracer_of("client", folders.folder_of_file(cluster / "client.json"), "client-1")
    assert found is not None
    found.close()
    assert os.listdir(cluster / TRACE_FOLDER) == ["client-1.trace"]
    assert tracer_of("client", folders.folder_of_file(tmp_path / "client.json"), "client-1") is None


def record(number: int, engine: int | None, **times: float) -> dict[str, Any]:
    fields = ("submitted", "started", "completed", "received")
    moments = {name: START + timedelta(seconds=times[name]) if name in times else None for name in fields}
    common = {"name": "f", "status": "ok", "nbytes": 1, "result_nbytes": 2}
    return {"msg_id": f"c_{number}_{engine}", "engine_id": engine, **common, **moments}


def test_without_tracing_there_is_what_the_controller_remembers() -> None:
    steps = told([], [record(1, 2, submitted=0, started=1, completed=2, received=3)])
    assert [(step.place, step.what) for step in steps] == [
        ("controller", "queued"),
        ("engine.2", "started"),
        ("engine.2", "completed"),
        ("controller", "result passed on"),
    ]
    traced_too = [Step(START, "controller", "queued", "c_1_2")]
    assert [step.what for step in told(traced_too, [record(1, 2, submitted=9)])] == ["queued"]


def test_calls_side_by_side_are_on_lanes_of_their_own_in_a_viewer() -> None:
    found = chrome_trace(
        [
            record(1, 0, submitted=0, started=1, completed=4),
            record(2, 0, submitted=0, started=2, completed=3),
            record(3, 0, submitted=0, started=4, completed=5),
            record(4, 1, submitted=0),
        ]
    )
    bars = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert [(bar["args"]["msg_id"], bar["tid"], bar["dur"]) for bar in bars] == [
        ("c_1_0", 0, 3e6),
        ("c_2_0", 1, 1e6),
        ("c_3_0", 0, 1e6),
    ]
    assert bars[1]["args"]["waited_ms"] == 2000
    assert [event["args"]["name"] for event in found["traceEvents"] if event["ph"] == "M"] == ["engine 0"]
