"""What tasks may depend on; results that yield as they come; results that tell of their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from directview._metadata import CallMetadata
from directview._task_dependencies import Dependency, as_dependency
from directview._task_results import ToldResult, UnorderedMapResult
from directview.errors import TaskAborted
from directview.result import AsyncResult


class Owner:
    """A client that has nothing to do."""

    client_uuid = "c1"

    def check_may_block(self, what: str, instead: str) -> None:
        pass

    def check_running(self) -> None:
        pass

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        pass


def ended(status: str = "ok") -> CallMetadata:
    return CallMetadata(0, "aa", 1.0, 2.0, 3.0, status)


# --- Dependency -----------------------------------------------------------------------------------------


def test_a_dependency_is_the_set_of_its_calls_names() -> None:
    result: AsyncResult[Any] = AsyncResult(Owner(), ((3, -1), (4, -1)))
    assert Dependency("c1_1_-1") == {"c1_1_-1"}
    assert Dependency([result, "c1_9_0"]) == {"c1_3_-1", "c1_4_-1", "c1_9_0"}
    assert Dependency(Dependency(result, all=False)) == {"c1_3_-1", "c1_4_-1"}
    assert Dependency() == set()
    with pytest.raises(TypeError, match="not 5"):
        Dependency([5])
    with pytest.raises(ValueError, match="success=True or failure=True"):
        Dependency("a", success=False)


@pytest.mark.parametrize(
    ("options", "completed", "failed", "met", "unreachable"),
    [
        ({}, {"a", "b"}, set(), True, False),
        ({}, {"a"}, {"b"}, False, True),
        ({"all": False}, {"a"}, {"b"}, True, False),
        ({"all": False}, set(), {"a", "b"}, False, True),
        ({"failure": True}, {"a"}, {"b"}, True, False),
        ({"success": False, "failure": True}, {"a"}, {"b"}, False, True),
    ],
)
def test_a_dependency_says_whether_it_is_met(
    options: dict[str, bool], completed: set[str], failed: set[str], met: bool, unreachable: bool
) -> None:
    dependency = Dependency(["a", "b"], **options)
    assert dependency.check(completed, failed) is met
    assert dependency.unreachable(completed, failed) is unreachable
    again = Dependency(dependency.as_dict())
    assert again == dependency
    assert again.as_dict().items() >= {"all": dependency.all, "failure": dependency.failure}.items()


def test_an_empty_dependency_is_none() -> None:
    assert Dependency().check(set())
    assert not Dependency().unreachable(set())
    assert as_dependency("after", []) is None
    assert as_dependency("after", None) is None
    with pytest.raises(TypeError, match="follow: a dependency is"):
        as_dependency("follow", 1.5)


# --- results --------------------------------------------------------------------------------------------


def test_an_unordered_map_yields_in_the_order_of_arrival_and_gets_in_that_of_items() -> None:
    result: UnorderedMapResult[int] = UnorderedMapResult(Owner(), ((1, -1), (2, -1), (3, -1)), [2, 1, 1])
    items = iter(result)
    result._deliver(2, ended(), [30])
    assert next(items) == 30
    result._deliver(0, ended(), [10, 11])
    result._deliver(1, ended(), [20])
    assert list(items) == [10, 11, 20]
    assert result.get() == [10, 11, 20, 30]
    again: Any = result._again(Owner(), result._keepsake())
    assert list(again) == [10, 11, 20, 30]


def test_an_unordered_map_that_is_cancelled_raises_once_what_came_is_yielded() -> None:
    result: UnorderedMapResult[int] = UnorderedMapResult(Owner(), ((1, -1), (2, -1)), [1, 1])
    result._deliver(1, ended(), [20])
    result.cancel()
    items = iter(result)
    assert next(items) == 20
    with pytest.raises(TaskAborted):
        next(items)


def test_a_result_tells_of_its_end_once_and_that_is_no_waiter() -> None:
    told: list[Any] = []
    result: ToldResult[int] = ToldResult(Owner(), ((1, -1),), single=True)
    result._tell = told.append
    assert not result._is_waited_for()
    result._deliver(0, ended(), 5)
    assert told == [result]
    assert told[0].get() == 5


def test_the_engine_of_a_balanced_call_is_known_once_it_has_one() -> None:
    result: AsyncResult[Any] = AsyncResult(Owner(), ((1, -1), (2, -1)))
    assert result.engine_id == [None, None]
    assert result.targets == []
    result._is_at(1, 3)
    assert result.engine_id == [None, 3]
    assert result.targets == [3]
    assert result.msg_ids == ["c1_1_-1", "c1_2_-1"]
    assert result.split()[1].msg_ids == ["c1_2_-1"]
    assert result.split()[1].targets == [3]
