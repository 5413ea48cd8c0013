"""What the controller answers: about who is there, and about calls that were."""

from __future__ import annotations

from typing import Any

import pytest

from directview.controller._effects import Finish, Lookup, Record
from directview.wire.messages import Abort, Answer, Goodbye, Launch, Query, Signal, Stop
from tests.controller.handmade_house import GRACE, House, calls, house, results, uuid

# --- queries ------------------------------------------------------------------------------------------


def ask(here: House, what: str, *, route: str = "c", **params: Any) -> Answer | None:
    here.hear(route, Query(1, what, params))
    answers = [message for message in here.heard(route) if isinstance(message, Answer)]
    return answers[-1] if answers else None


def test_status_tells_who_is_there() -> None:
    here = house(2, window_calls=1)
    here.hear("c", calls(1, 2))
    here.wait(7.0)
    answer = ask(here, "status")
    assert answer is not None
    assert answer.ok
    value = answer.value
    assert (value["cluster"], value["uptime"], value["calls"]) == ("cluster", 7.0, 2)
    assert [(engine["id"], engine["queue"], engine["tasks"]) for engine in value["engines"]] == [
        (0, 1, 1),
        (1, 0, 0),
    ]
    assert (len(value["clients"]), len(value["supervisors"])) == (1, 1)


def test_queue_status_counts_or_lists() -> None:
    here = house(2, window_calls=1)
    here.hear("c", calls(1, 2))
    answer = ask(here, "queue_status", targets=[0])
    assert answer is not None
    assert answer.value == {"unassigned": 0, "0": {"queue": 1, "tasks": 1, "completed": 0}}
    verbose = ask(here, "queue_status", verbose=True)
    assert verbose is not None
    name = uuid("c").hex()
    assert verbose.value["0"] == {"queue": [f"{name}_2_0"], "tasks": [f"{name}_1_0"], "completed": []}


def test_a_list_that_no_message_could_hold_is_refused() -> None:
    here = house(credit_calls=100_000)
    for first in range(1, 30_001, 200):
        here.feed("c", calls(*range(first, first + 200)))
    answer = ask(here, "queue_status", verbose=True)
    assert answer is not None
    assert not answer.ok
    assert "too many to list" in answer.value


@pytest.mark.parametrize(
    ("what", "params", "text"),
    [
        ("nonsense", {}, "unknown query"),
        ("queue_status", {"targets": [5]}, "no engine 5"),
        ("queue_status", {"targets": 0}, "list of engine ids"),
        ("launch", {"n": 0}, "positive integer"),
        ("signal", {"targets": [0]}, "signal"),
        ("signal", {"targets": [1], "signal": 2}, "no supervisor"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_wrong(
    what: str, params: dict[str, Any], text: str
) -> None:
    here = house()
    here.join("engine", "alone")
    answer = ask(here, what, **params)
    assert answer is not None
    assert not answer.ok
    assert text in answer.value
    assert here.machine.passed_on == {}


def test_processes_are_the_supervisors_business() -> None:
    here = house()
    here.join("engine", "alone")
    here.told.clear()
    stopped = ask(here, "stop")
    assert stopped is not None
    assert stopped.ok
    assert here.heard("s") == [Stop(uuid("e0"), "stopped by a client")]
    assert here.heard("alone") == [Stop(b"", "stopped by a client")]
    ask(here, "signal", targets=[0], signal=2)
    assert here.heard("s") == [Signal(uuid("e0"), 2)]


def test_an_answer_from_a_supervisor_finds_its_way_back() -> None:
    here = house()
    assert ask(here, "launch", n=2) is None
    (launch,) = here.heard("s")
    assert isinstance(launch, Launch)
    here.hear("s", Answer(launch.query, True, "done"))
    assert here.heard("c") == [Answer(1, True, "done")]
    here.hear("s", Answer(launch.query, True, "again"))
    assert here.heard("c") == []


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_supervisor_that_is_gone_answers_nothing_so_the_controller_does(comes_back: bool) -> None:
    here = house()
    ask(here, "launch")
    if comes_back:
        here.join("supervisor", "s", "again")
    else:
        here.lose("s")
    (answer,) = here.heard("c")
    assert isinstance(answer, Answer)
    assert not answer.ok
    here.lose("s")
    if comes_back:
        assert ask(here, "launch") is None


def test_shutting_down_tells_everybody_and_ends() -> None:
    here = house(2)
    answer = ask(here, "shutdown", reason="enough")
    assert answer == Answer(1, True, None)
    for route in ("s", "e0", "e1"):
        assert here.heard(route) == [Stop(b"", "enough")]
    assert here.others == [Finish("enough")]


# --- the history --------------------------------------------------------------------------------------


def found(here: House, **params: Any) -> list[list[Any]]:
    answer = ask(here, "db_query", query={}, **params)
    assert answer is not None
    assert answer.ok, answer.value
    rows: list[list[Any]] = answer.value["rows"]
    return rows


def test_every_end_of_a_call_is_remembered() -> None:
    """A result, an abort while it waited, an engine's death, an unknown engine, a client's end."""
    here = house(2, window_calls=1)
    here.hear("c", calls(1, 2, 3))
    here.hear("e0", results(1))
    here.hear("c", Abort(uuid("c"), ((0, (3,)),)))
    here.hear("c", calls(4, to=(9,)))
    here.hear("c", calls(5, to=(1,)))
    here.lose("e1")
    here.wait(GRACE)
    assert found(here, keys=["engine_id", "status"]) == [
        [f"{uuid('c').hex()}_{seq}_{id}", id, status]
        for seq, id, status in ((1, 0, "ok"), (2, 0, None), (3, 0, "aborted"), (4, 9, "lost"), (5, 1, "lost"))
    ]
    here.join("client", "other")
    here.hear("c", Goodbye("closed"))
    answer = ask(here, "db_query", route="other", query={"status": "dropped"}, keys="msg_id")
    assert answer is not None
    assert answer.value["rows"] == [[f"{uuid('c').hex()}_2_0"]]


def test_records_are_purged_but_not_of_what_goes_on() -> None:
    here = house()
    here.hear("c", calls(1, 2, 3))
    here.hear("e0", results(1, 2))
    names = [row[0] for row in found(here, keys="msg_id")]
    refused = ask(here, "purge", msg_ids=[names[0], names[2]])
    assert refused is not None
    assert f"call {names[2]} has not ended" in refused.value
    done = ask(here, "purge", msg_ids=names[:1])
    assert done is not None
    assert done.ok
    assert [row[0] for row in found(here, keys="msg_id")] == names[1:]
    ask(here, "purge", targets=[0])
    assert [row[0] for row in found(here, keys="msg_id")] == names[2:]


def test_with_a_store_that_is_asked_after_all_has_been_written() -> None:
    here = house(store=True)
    here.hear("c", calls(1))
    here.wait(1.0)
    (record,) = [effect for effect in here.others if isinstance(effect, Record)]
    assert len(record.made) == 1
    here.others.clear()
    here.hear("e0", results(1))
    assert ask(here, "db_query", query={"status": "ok"}, keys="name", after=3) is None
    write, lookup = here.others[-2:]
    assert isinstance(write, Record)
    assert len(write.ended) == 1
    assert isinstance(lookup, Lookup)
    assert (lookup.sql, lookup.values, lookup.fields, lookup.after) == (
        "status IS ?", ("ok",), ("msg_id", "name"), 3,
    )  # fmt: skip
    here.told.clear()
    here.machine.answered(lookup, True, {"rows": []})
    here.turn()
    assert here.told[-1][1] == Answer(lookup.number, True, {"rows": []})
