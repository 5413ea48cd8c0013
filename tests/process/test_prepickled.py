"""Objects that are pickled once for many calls, with real engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from directview import Client, Cluster, PrePickled, Reference, SerializationError

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    with Cluster(n=2) as client:
        yield client


class Counted:
    """Counts how often it is pickled."""

    pickled = 0

    def __reduce__(self) -> tuple[Any, ...]:
        type(self).pickled += 1
        return dict, ([("found", 7)],)


def test_an_object_is_pickled_once_and_arrives_as_itself(rc: Client) -> None:
    """Anywhere inside of the arguments, each time anew."""
    made = PrePickled(Counted())
    results = [rc[:].apply_async(lambda x, y: (x, y["in"]), made, {"in": [made]}) for _ in range(3)]
    assert [result.get(20) for result in results] == [[({"found": 7}, [{"found": 7}])] * 2] * 3
    assert Counted.pickled == 1


def test_large_arrays_are_not_copied_into_it(rc: Client) -> None:
    array = np.arange(500_000.0)
    made = PrePickled({"array": array, "rank": Reference("a")})
    rc[:].scatter("a", [3, 4], flatten=True, block=True)
    array[0] = 5.0
    seen = rc[:].apply_sync(lambda d: (d["array"].sum(), d["array"].flags.writeable, d["rank"]), made)
    assert seen == [(array.sum(), True, 3), (array.sum(), True, 4)]
    assert repr(made).startswith("<PrePickled: 4000")


def test_what_must_travel_as_it_is_is_refused() -> None:
    with pytest.raises(SerializationError, match="function or class of the program itself"):
        PrePickled({"f": eval("lambda: a", {"__name__": "__main__"})})
    with pytest.raises(SerializationError, match=r"PrePickled: \['lock'\].*lock"):
        PrePickled({"lock": __import__("threading").Lock()})
    assert repr(PrePickled(len)).startswith("<PrePickled: ")
