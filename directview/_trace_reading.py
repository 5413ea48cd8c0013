"""The story of a call, from what the processes that it passed have written, and from what they remember.

Without tracing there is what the controller's history has of every call: when it was submitted, started,
completed and received. With it (``--trace``) every hop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from directview._metadata import moment, parse_msg_id
from directview._trace_writing import TRACE_FOLDER

__all__ = ["Step", "chrome_trace", "remembered", "told", "traced"]

_ORDER: Final = ("client", "controller", "engine")
_RECORDED: Final = (
    ("submitted", "controller", "queued"),
    ("started", "engine", "started"),
    ("completed", "engine", "completed"),
    ("received", "controller", "result passed on"),
)


class Step(NamedTuple):
    """One thing that happened to a call."""

    time: datetime
    """In UTC, by the clock of the machine on which it happened."""
    place: str
    """``client``, ``controller``, ``engine.3``."""
    what: str
    """``sent``, ``queued``, ``dispatched``, ``started``, ..."""
    msg_id: str


class _Seen(NamedTuple):
    time: float
    seq: int
    engine: int
    process: str
    what: str


def traced(folder: Path, msg_id: str) -> list[Step]:
    """What was written about a call while tracing was on, in order of time.

    Args:
        folder: the cluster's.
        msg_id: the call's; of a load-balanced one, either of its names.
    """
    client, seq, engine = parse_msg_id(msg_id)
    seen = list(_lines(folder / TRACE_FOLDER, client))
    names = {seq: msg_id}
    for line in seen:
        if line.seq == seq and line.what.startswith("given as "):
            call = int(line.what.rpartition(" ")[2])
            place = next((other.engine for other in seen if other.seq == call and other.engine >= 0), -1)
            names[call] = f"{client}_{call}_{place}"
    found = [
        _step(line, names[line.seq])
        for line in seen
        if line.seq in names and line.what != "watermark" and (engine < 0 or line.engine in (engine, -1))
    ]
    found += _acknowledged(seen, max(names), names)
    return sorted(found, key=lambda step: step.time)


def _step(line: _Seen, msg_id: str) -> Step:
    when = moment(line.time)
    assert when is not None
    return Step(when, line.process, line.what, msg_id)


def _acknowledged(seen: Iterable[_Seen], seq: int, names: Mapping[int, str]) -> Iterator[Step]:
    """Where it was first seen that the client's lowest outstanding call is a later one."""
    told: set[str] = set()
    for line in sorted(seen):
        if line.what == "watermark" and line.seq > seq and line.process not in told:
            told.add(line.process)
            yield _step(line._replace(what="acknowledged"), names[seq])


def _lines(folder: Path, client: str) -> Iterator[_Seen]:
    for path in sorted(folder.glob("*.trace*")):
        try:
            with path.open(encoding="ascii", errors="replace") as file:
                for text in file:
                    if client in text:
                        line = _parsed(text)
                        if line is not None:
                            yield line
        except OSError:
            continue


def _parsed(text: str) -> _Seen | None:
    try:
        when, call, engine, process, what = text.rstrip("\n").split(" ", 4)
        return _Seen(float(when), int(call.rpartition("_")[2]), int(engine), process, what)
    except ValueError:
        return None  # It is being written at this moment.


def remembered(record: Mapping[str, Any]) -> list[Step]:
    """What the controller's history says of a call: a record as `Client.db_query` returns them."""
    engine = record["engine_id"]
    places = {"controller": "controller", "engine": "engine" if engine is None else f"engine.{engine}"}
    return [
        Step(record[field], places[place], what, record["msg_id"])
        for field, place, what in _RECORDED
        if record[field] is not None
    ]


def told(steps: Sequence[Step], records: Iterable[Mapping[str, Any]]) -> list[Step]:
    """A whole story: steps that were traced, and of the others what is remembered."""
    known = {(step.msg_id, step.place, step.what) for step in steps}
    more = [step for record in records for step in remembered(record)]
    whole = [*steps, *[step for step in more if (step.msg_id, step.place, step.what) not in known]]
    return sorted(whole, key=lambda step: (step.time, _ORDER.index(step.place.partition(".")[0])))


def chrome_trace(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Calls as Perfetto and ``chrome://tracing`` show them: a track for each engine.

    Args:
        records: as `Client.db_query` returns them. Those that have not started are left out.
    """
    events: list[dict[str, Any]] = []
    lanes: dict[int, list[float]] = {}
    ran = [record for record in records if record["started"] and record["completed"]]
    for record in sorted(ran, key=lambda record: record["started"]):
        engine = record["engine_id"]
        begins, ends = (1e6 * record[field].timestamp() for field in ("started", "completed"))
        free = lanes.setdefault(engine, [])
        lane = next((index for index, until in enumerate(free) if until <= begins), len(free))
        free[lane:] = [ends, *free[lane + 1 :]]  # Coroutines run side by side.
        events.append(
            {
                "name": record["name"],
                "cat": record["status"],
                "ph": "X",
                "ts": begins,
                "dur": ends - begins,
                "pid": engine,
                "tid": lane,
                "args": {
                    "msg_id": record["msg_id"],
                    "waited_ms": (record["started"] - record["submitted"]).total_seconds() * 1000,
                    "bytes": record["nbytes"],
                    "result_bytes": record["result_nbytes"],
                },
            }
        )
    events += [
        {"name": "process_name", "ph": "M", "pid": engine, "args": {"name": f"engine {engine}"}}
        for engine in lanes
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}
