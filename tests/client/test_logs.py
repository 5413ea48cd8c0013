"""Logs of processes: written as bounded JSON lines, read merged by time."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from directview import _log_writing, folders
from directview._client_log import ClientLog
from directview._log_reading import Follower, Line, Wanted, log_folders, merged, shown
from directview._log_writing import FILES, LEVEL_VARIABLE, ProcessLog, level_number, text_handler
from directview.connection import ConnectionFileNotFound
from directview.supervisor import _log_files
from directview.supervisor._log_files import ENDED, tidy

LOGGER = logging.getLogger("directview.test_logs")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ProcessLog]:
    made = ProcessLog("engine", tmp_path / "engine-0123456789ab.jsonl", "info", LOGGER.name)
    yield made
    made.close()
    LOGGER.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    (tmp_path / "run").mkdir(mode=0o700)


def write(path: Path, *lines: tuple[float, str, str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = ("time", "process", "level", "text")
    path.write_text("".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines))


ALL = Wanted()


def texts(folder: Path, wanted: Wanted = ALL, most: int = 0) -> list[str]:
    return [line.text for line in merged([folder], wanted, most)]


# --- writing -----------------------------------------------------------------------------------------


def test_a_record_is_one_line_of_json_in_a_file_of_ones_own(log: ProcessLog, tmp_path: Path) -> None:
    log.called("engine.3")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        LOGGER.exception("it %s", "failed")
    path = tmp_path / "engine-0123456789ab.jsonl"
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert (found["process"], found["level"], found["text"]) == ("engine.3", "error", "it failed")
    assert found["pid"] == os.getpid()
    assert found["trace"].endswith("ValueError: two\nlines")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_below_the_level_is_not_written(log: ProcessLog, tmp_path: Path) -> None:
    LOGGER.debug("nobody asked")
    assert (tmp_path / "engine-0123456789ab.jsonl").read_text() == ""


def test_files_are_rotated_and_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_log_writing, "FILE_BYTES", 1000)
    log = ProcessLog("controller", tmp_path / "controller.jsonl", "info", LOGGER.name)
    for number in range(100):
        LOGGER.info("line %d", number)
    log.close()
    files = list(tmp_path.glob("controller.jsonl*"))
    assert len(files) == FILES
    assert all(path.stat().st_size <= 1000 for path in files)
    kept = texts(tmp_path)
    assert kept == [f"line {number}" for number in range(100 - len(kept), 100)]


def test_a_folder_that_has_gone_hurts_nobody(
    log: ProcessLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.close()
    LOGGER.propagate = False
    try:
        lost = ProcessLog("engine", tmp_path / "nowhere" / "x.jsonl", "info", LOGGER.name)
        LOGGER.info("to nobody")
        lost.close()
    finally:
        LOGGER.propagate = True


@pytest.mark.parametrize(
    ("given", "number"), [("debug", 10), ("WARNING", 30), (None, 20), ("", 20), (15, 15)]
)
def test_a_level_has_a_name_or_a_number(given: str | int | None, number: int) -> None:
    assert level_number(given) == number


def test_the_environment_says_the_level_where_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "error")
    assert level_number(None) == 40
    assert level_number("info") == 20
    monkeypatch.setenv(LEVEL_VARIABLE, "loud")
    with pytest.raises(ValueError, match="'loud' is no log level: there is debug, info, warning, error"):
        level_number(None)


def test_clients_of_one_process_share_a_file_until_the_last_is_closed(tmp_path: Path) -> None:
    folder = folders.profile_folder("p", create=True)
    source = str(folder / "client.json")
    first, second, silent = ClientLog(source, "info"), ClientLog(source, "info"), ClientLog(source, None)
    logger = logging.getLogger("directview.client")
    first.close()
    first.close()
    logger.info("one")
    second.close()
    silent.close()
    logger.info("two")
    assert texts(folder) == ["one"]
    assert [path.name for path in folder.glob("client-*")] == [f"client-{os.getpid()}.jsonl"]


def test_a_client_with_a_copied_file_writes_nothing_beside_it(tmp_path: Path) -> None:
    ClientLog(str(tmp_path / "client.json"), "info").close()
    assert list(tmp_path.glob("client-*")) == []


# --- reading -----------------------------------------------------------------------------------------


def test_lines_of_all_processes_come_in_order_of_time(tmp_path: Path) -> None:
    write(tmp_path / "controller.jsonl", (1.0, "controller", "info", "a"), (4.0, "controller", "info", "d"))
    write(tmp_path / "engine-aa.jsonl", (2.0, "engine.0", "info", "b"), (3.0, "engine.0", "warning", "c"))
    assert texts(tmp_path) == ["a", "b", "c", "d"]
    assert texts(tmp_path, most=2) == ["c", "d"]
    assert texts(tmp_path, Wanted("engine.0")) == texts(tmp_path, Wanted("engine")) == ["b", "c"]
    assert texts(tmp_path, Wanted("eng")) == []
    assert texts(tmp_path, Wanted(level=logging.WARNING)) == ["c"]


def test_a_torn_line_and_a_strangers_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "controller.jsonl"
    write(path, (1.0, "controller", "info", "a"))
    with path.open("a") as file:
        file.write('[1]\n{"time": "soon"}\n{"time": 2.0, "proc')
    assert texts(tmp_path) == ["a"]


def test_output_of_c_code_belongs_to_its_engine_and_what_is_logged_is_not_shown_twice(tmp_path: Path) -> None:
    write(tmp_path / "engine-aa.jsonl", (1.0, "engine", "info", "a"), (2.0, "engine.7", "info", "b"))
    (tmp_path / "engine-aa.log").write_text("from C\n2026-01-01 00:00:00,000 INFO x: b\n  | of b\n")
    found = [line for line in merged([tmp_path], Wanted("engine.7")) if line.level == "output"]
    assert [(line.process, line.text) for line in found] == [("engine.7", "from C")]
    handler = text_handler("%(levelname)s %(name)s: %(message)s")
    record = logging.LogRecord("x", logging.INFO, "", 0, "two\nlines", None, None)
    (tmp_path / "engine-aa.log").write_text(handler.format(record) + "\n")
    assert not [line for line in merged([tmp_path], Wanted()) if line.level == "output"]


def test_a_line_as_people_read_it() -> None:
    line = Line(1.5, "engine.3", "warning", "the loop was blocked", "File x\n  y()")
    first, *rest = shown(line, now=1.5).splitlines()
    assert first.endswith(":01.500 engine.3    warning: the loop was blocked")
    assert rest == ["    File x", "      y()"]
    assert shown(line, now=1e9).startswith("19")


def test_what_is_logged_later_is_followed_through_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "controller.jsonl"
    write(path, (1.0, "controller", "info", "old"))
    follower = Follower(lambda: [tmp_path], Wanted())
    assert follower.news() == []
    with path.open("a") as file:
        file.write('{"time": 2, "process": "controller", "level": "info", "text": "before"}\n{"time"')
    assert [line.text for line in follower.news()] == ["before"]
    with path.open("a") as file:
        file.write(': 3, "process": "controller", "level": "info", "text": "last"}\n')
    path.rename(tmp_path / "controller.jsonl.1")
    write(path, (4.0, "controller", "info", "after"))
    write(tmp_path / "engine-aa.jsonl", (3.5, "engine.0", "info", "joined"))
    assert [line.text for line in follower.news()] == ["last", "joined", "after"]
    assert follower.news() == []


def test_the_logs_of_a_named_cluster_outlive_it_and_others_are_found_by_id() -> None:
    named = folders.profile_folder("p", create=True)
    private = folders.private_folder("0123456789ab", create=True)
    added = folders.private_folder("0123456789ab-engines-77", create=True)
    for folder in (named, private, added):
        write(folder / "controller.jsonl", (1.0, "controller", "info", folder.name))
    assert log_folders(profile="p") == [named]
    assert log_folders(cluster_id="0123") == [private, added]
    assert log_folders(path=str(named / "client.json")) == log_folders(path=str(named)) == [named]
    with pytest.raises(ConnectionFileNotFound, match="`directview list`"):
        log_folders(profile="q")


# --- bounds ------------------------------------------------------------------------------------------


def test_what_c_code_writes_is_cut_and_its_end_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_log_files, "RAW_BYTES", 1000)
    monkeypatch.setattr(_log_files, "KEPT_BYTES", 100)
    path = tmp_path / "engine-aa.log"
    with path.open("ab", buffering=0) as engine:
        for number in range(200):
            engine.write(b"line %3d\n" % number)
        tidy(tmp_path, {"engine-aa"})
        assert path.stat().st_size == 0
        engine.write(b"more\n")
    assert path.read_text() == "more\n"
    kept = (tmp_path / "engine-aa.log.1").read_text()
    assert kept.startswith("line 189\n")
    assert kept.endswith("line 199\n")


def test_of_engines_that_have_ended_the_latest_files_are_kept(tmp_path: Path) -> None:
    names = [f"engine-{number:012x}" for number in range(ENDED + 5)]
    for age, name in enumerate(reversed(names)):
        for kind in ("log", "jsonl", "jsonl.1", "stack", "trace"):
            path = tmp_path / f"{name}.{kind}"
            path.touch()
            os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "controller.jsonl").touch()
    tidy(tmp_path, {names[0]})
    left = {path.name.partition(".")[0] for path in tmp_path.glob("engine-*")}
    assert left == {names[0], *names[5:]}
    assert (tmp_path / "controller.jsonl").exists()
    tidy(tmp_path / "nowhere", set())
