"""The page on the protocol says what the modules say."""

from __future__ import annotations

import re
from pathlib import Path

import directview._client_state as client_state
import directview.engine._state as engine_state
from directview.controller._queues import WINDOW_BYTES, WINDOW_CALLS
from directview.wire import messages, parcels

PAGE = (Path(__file__).resolve().parents[2] / "docs/explanation/protocol.md").read_text()


def rows(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table with this first column."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table[1].splitlines()]


def test_every_kind_of_message_is_listed_with_its_code() -> None:
    listed = {name: int(code) for name, code, *_ in rows("kind")}
    assert listed == {kind.__name__: code for kind, code in messages._CODES.items()}


def test_the_directions_and_meanings_are_those_of_the_module() -> None:
    for name, code, way, meaning in rows("kind"):
        line = re.search(rf"^{name} +{code} +(.*)$", messages.__doc__ or "", re.MULTILINE)
        assert line is not None
        assert " ".join(line[1].split()) == f"{way} {meaning}"


def test_the_states_are_those_of_the_machines() -> None:
    tables = re.findall(r"^\| state \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    named = [{line.split("|")[1].strip() for line in table.splitlines()} - {"any"} for table in tables]
    assert named == [set(client_state.Stage.__members__), set(engine_state.Stage.__members__)]


def test_the_limits_are_those_of_the_modules() -> None:
    limits = {row[0]: row[1] for row in rows("limit")}
    assert limits["largest frame sent"] == f"{messages.CHUNK_BYTES >> 20} MiB"
    assert limits["largest frame accepted"] == f"{messages.MAX_FRAME_BYTES >> 20} MiB"
    assert limits["largest header"] == f"{messages.MAX_HEADER_BYTES >> 20} MiB"
    assert limits["frames in a message"] == str(messages.MAX_FRAMES)
    assert limits["calls in a message"] == f"{messages.MAX_CALLS:,}"
    assert limits["engines that a call may name"] == f"{messages.MAX_TARGETS:,}"
    assert f"up to {parcels.INLINE_BYTES >> 10} KiB" in PAGE
    assert f"{messages.WINDOW_CHUNKS} chunks ahead" in PAGE
    assert f"at most {WINDOW_CALLS} calls or {WINDOW_BYTES >> 20} MiB" in PAGE
