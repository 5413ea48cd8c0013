"""What can't travel is refused with its name and the way to it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.errors import SerializationError
from directview.wire import objects
from directview.wire.objects import dump_arguments, dump_function, dumps, loads
from directview.wire.unpicklable import MAX_DEPTH


def in_main(source: str, **names: Any) -> dict[str, Any]:
    """Globals of a ``__main__`` in which `source` has run."""
    found: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, found)
    return found


def received(packed: objects.Packed) -> Any:
    """Rebuilt on buffers as they arrive: writable, and other memory."""
    return loads(packed.data, [memoryview(bytearray(buffer)) for buffer in packed.buffers])


def there_and_back(obj: Any) -> Any:
    return received(dumps(obj))


# --- what can't travel ----------------------------------------------------------------------------------


class Locked:
    def __init__(self) -> None:
        self.fine = list(range(100))
        self.lock = threading.Lock()


class Stateful(Locked):
    """Leaves its lock at home, but not another."""

    def __init__(self) -> None:
        super().__init__()
        self.other = threading.Lock()

    def __getstate__(self) -> Any:
        return {"other": self.other}


@dataclasses.dataclass(slots=True)
class Slotted:
    x: int
    lock: Any


class Refuses:
    def __reduce__(self) -> Any:
        raise ValueError("not this one")


class KeyWithLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "Key()"


LOCK = "cannot pickle '_thread.lock' object"


def cycle() -> Any:
    items: list[Any] = [1]
    items.append(items)
    items.append({"back": items, "lock": threading.Lock()})
    return items


def closing_over_lock() -> Any:
    lock = threading.Lock()
    return lambda: lock


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (threading.Lock, LOCK),
    (Locked, f"attribute 'lock' of Locked: {LOCK}"),
    (lambda: [0, 1, 2, {"k": Locked()}], f"[3]['k'].lock (attribute 'lock' of Locked): {LOCK}"),
    (lambda: [1] * 1000 + [threading.Lock()] + [2] * 500, f"[1000]: {LOCK}"),
    (lambda: ({"a": (1, [threading.Lock()])},), f"[0]['a'][1][0]: {LOCK}"),
    (Stateful, f"attribute 'other' of Stateful: {LOCK}"),
    (lambda: Slotted(1, threading.Lock()), f"attribute 'lock' of Slotted: {LOCK}"),
    (lambda: {KeyWithLock(): 1}, f".keys()[Key()].lock (attribute 'lock' of KeyWithLock): {LOCK}"),
    (lambda: {KeyWithLock()}, f"{{Key()}}.lock (attribute 'lock' of KeyWithLock): {LOCK}"),
    (closing_over_lock, f"closure variable 'lock' of <lambda>: {LOCK}"),
    (lambda: in_main("f = lambda: lock", lock=threading.Lock())["f"], f"global 'lock' of <lambda>: {LOCK}"),
    (lambda: in_main("def f(x, y=lock): pass", lock=threading.Lock())["f"], f"default of 'y' of f: {LOCK}"),
    (lambda: in_main("def f(*, y=lock): pass", lock=threading.Lock())["f"], f"default of 'y' of f: {LOCK}"),
    (lambda: in_main("class C: lock = l", l=threading.Lock())["C"], f"attribute 'lock' of C: {LOCK}"),
    (lambda: functools.partial(max, threading.Lock()), f".args[0]: {LOCK}"),
    (lambda: Locked().__init__, f".__self__.lock (attribute 'lock' of Locked): {LOCK}"),  # type: ignore[misc]
    (lambda: [Refuses()], "[0]: ValueError: not this one"),
    (lambda: KeyError(threading.Lock()), f".args[0]: {LOCK}"),
    (cycle, f"[2]['lock']: {LOCK}"),
]


@pytest.mark.parametrize(
    ("make", "text"), REFUSED, ids=[f"{i}: {text}" for i, (_, text) in enumerate(REFUSED)]
)
def test_the_part_that_cannot_travel_is_named(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        dumps(make(), part="the result of f")
    assert str(caught.value) == f"the result of f: {text}"
    assert caught.value.__cause__ is not None


@dataclasses.dataclass
class Holder:
    held: Any


harmless = (
    st.none() | st.integers() | st.text(max_size=9) | st.sampled_from([len, math.sin, np.float64, math])
)


@st.composite
def hidden(draw: st.DrawFn) -> tuple[Any, str]:
    """Something that can't travel, deep among things that can; and the way to it."""
    value: Any = threading.Lock()
    path = ""
    for _ in range(draw(st.integers(1, 6))):
        before = draw(st.lists(harmless, max_size=3))
        match draw(st.sampled_from(["list", "tuple", "dict", "attribute", "items"])):
            case "list":
                value, path = [*before, value, *before], f"[{len(before)}]{path}"
            case "tuple":
                value, path = (*before, value), f"[{len(before)}]{path}"
            case "dict":
                key = draw(st.text(max_size=5) | st.integers(-99, 99))
                others = {f"other {i}": one for i, one in enumerate(before)}
                value, path = {**others, key: value}, f"[{key!r}]{path}"
            case "attribute":
                value, path = Holder(value), f".held{path}"
            case _:
                value, path = collections.deque([*before, value]), f"[{len(before)}]{path}"
    return value, path


@settings(deadline=None)
@given(hidden())
def test_the_way_to_what_cannot_travel_is_said_whatever_is_around_it(case: tuple[Any, str]) -> None:
    value, path = case
    with pytest.raises(SerializationError) as caught:
        dumps(value, part="x")
    said = str(caught.value)
    assert said.endswith(LOCK)
    if path == ".held":
        assert said == f"x: attribute 'held' of Holder: {LOCK}"
    else:
        assert said.startswith((f"x: {path}: ", f"x: {path} (attribute 'held' of Holder): "))


def test_arguments_are_named_by_position_or_keyword() -> None:
    with pytest.raises(SerializationError) as caught:
        dump_arguments((Locked(),), {}, call="apply")
    assert str(caught.value) == f"argument 1 of apply: attribute 'lock' of Locked: {LOCK}"
    with pytest.raises(SerializationError) as caught:
        dump_arguments((1, 2), {"x": 3, "y": [threading.Lock()]}, call="f")
    assert str(caught.value) == f"argument 'y' of f: [0]: {LOCK}"
    assert received(dump_arguments((1,), {"x": 2})) == ((1,), {"x": 2})


def test_functions_are_named() -> None:
    with pytest.raises(SerializationError) as caught:
        dump_function(closing_over_lock())
    assert str(caught.value) == f"function <lambda>: closure variable 'lock' of <lambda>: {LOCK}"
    with pytest.raises(SerializationError, match=r"^the function: "):
        dump_function(functools.partial(closing_over_lock()), part="the function")


def test_generators_and_coroutines_say_what_to_do() -> None:
    async def coroutine() -> None: ...

    async def items() -> Any:
        yield 1

    waiting = coroutine()
    for value, word in (((i for i in "a"), "view.stream"), (items(), "view.stream"), (waiting, "await")):
        with pytest.raises(SerializationError, match=word):
            dumps([value], part="the result")
    waiting.close()


def test_what_is_nested_too_deeply_says_so() -> None:
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match=r"nested too deeply|^object: "):
        dumps(deep)


def test_the_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("directview.wire.unpicklable.Sink.__init__.__defaults__", (100_000,))
    with pytest.raises(SerializationError, match=LOCK):
        dumps(["x" * 1000] * 50 + [[str(i) * 500 for i in range(1000)], threading.Lock()])
    chain: Any = threading.Lock()
    for _ in range(MAX_DEPTH * 2):
        chain = [chain]
    monkeypatch.undo()
    with pytest.raises(SerializationError, match=LOCK):
        dumps(chain)


def test_interrupts_and_exits_are_not_serialization_errors() -> None:
    class Interrupted:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dumps(Interrupted())


def test_whole_pickles_have_their_buffers_inside() -> None:
    array = np.arange(10_000)
    (found,) = pickle.loads(objects.dumps_whole([array]))
    assert np.array_equal(found, array)
    with pytest.raises(SerializationError, match=LOCK):
        objects.dumps_whole(threading.Lock())


def test_a_future_is_refused_and_the_loop_lives() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(SerializationError):
            dumps([future])

    asyncio.run(main())
