"""Which part of an object can't travel. Pure: a search that pickles ever smaller parts of it.

"cannot pickle '_thread.lock' object" helps nobody who sent a list of a hundred configurations. So the part
is looked for: the children of what fails are pickled in halves, then in halves of the half that fails, down
to one child, and so on in that child. Each level costs about two more pickles of what is left, and the
whole search is bounded in bytes and depth; out-of-band buffers are never copied.
"""

from __future__ import annotations

import functools
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final, NamedTuple, Protocol

from directview.wire.by_value import travelling_names

__all__ = ["Found", "Sink", "locate"]

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 256 << 20


class Found(NamedTuple):
    """The part of an object that can't be pickled."""

    path: str
    """How to get there from the object, such as ``[3]['k'].lock``; empty for the object itself."""
    what: str
    """The last step in words, such as ``attribute 'lock' of Foo``; empty when the path says it all."""
    reason: str
    """Why it can't be pickled."""
    depth: int
    """How many steps the path has."""

    def __str__(self) -> str:
        if not self.path:
            return self.reason
        if not self.what:
            return f"{self.path}: {self.reason}"
        if self.depth == 1:
            return f"{self.what}: {self.reason}"
        return f"{self.path} ({self.what}): {self.reason}"


class _Step(NamedTuple):
    path: str
    what: str
    child: Any


class _Exhausted(BaseException):
    """The bound on bytes is reached. Not an Exception, so that no ``__reduce__`` swallows it."""


class Sink:
    """A file that keeps nothing and raises when too much has been written to it."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self.left = limit

    def write(self, data: Any) -> int:
        size = len(data)
        self.left -= size
        if self.left < 0:
            raise _Exhausted
        return size


class Dump(Protocol):
    """Pickle `obj` into `sink`, without keeping its buffers."""

    def __call__(self, obj: object, sink: Sink) -> None: ...


def locate(obj: object, error: Exception, dump: Dump) -> Found:
    """Find the innermost part of `obj` that can't be pickled.

    Args:
        obj: what could not be pickled.
        error: what pickling it raised.
        dump: pickles as the failed attempt did.
    """
    sink = Sink()

    def fails(part: object) -> Exception | None:
        try:
            dump(part, sink)
        except Exception as error:  # noqa: BLE001 - whatever a reducer of the user's raises
            # Without the frames, which hold what was tried, in a cycle with what holds the error.
            return error.with_traceback(None)
        return None

    path = ""
    what = ""
    seen = {id(obj)}
    alive = [obj]  # a reducer makes objects as it goes; while they live, no other gets their id
    try:
        while len(alive) < MAX_DEPTH:
            steps = [step for step in _steps(obj) if id(step.child) not in seen]
            found = _first_failing(steps, fails)
            if found is None:
                break
            step, error = found
            path += step.path
            what = step.what
            obj = step.child
            seen.add(id(obj))
            alive.append(obj)
    except _Exhausted:
        pass
    return Found(path, what, _reason(obj, error), len(alive) - 1)


def _first_failing(
    steps: list[_Step], fails: Callable[[object], Exception | None]
) -> tuple[_Step, Exception] | None:
    if not steps or fails([step.child for step in steps]) is None:
        return None
    low, high = 0, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        if fails([step.child for step in steps[low:middle]]) is not None:
            high = middle
        else:
            low = middle
    error = fails(steps[low].child)
    return None if error is None else (steps[low], error)


def _reason(obj: object, error: Exception) -> str:
    text = str(error)
    if isinstance(obj, GeneratorType | AsyncGeneratorType):
        return (
            f"a generator ({obj.__qualname__}) can't travel: call its function through view.stream to get "
            "its items one by one, or make a list of them"
        )
    if isinstance(obj, CoroutineType):
        return f"a coroutine ({obj.__qualname__}) can't travel: await it where it was made"
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return "it is nested too deeply to be pickled"
    if isinstance(error, TypeError | pickle.PicklingError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- the parts of an object -----------------------------------------------------------------------------


def _steps(obj: Any) -> Iterator[_Step]:
    if isinstance(obj, FunctionType):
        yield from _steps_of_function(obj)
    elif isinstance(obj, type):
        yield from _attributes(dict(vars(obj)), obj.__name__)
    elif isinstance(obj, MethodType):
        yield _Step(".__self__", f"the object that method {obj.__name__!r} belongs to", obj.__self__)
        yield _Step(".__func__", f"method {obj.__name__!r}", obj.__func__)
    elif isinstance(obj, functools.partial):
        yield _Step(".func", "the function of a partial", obj.func)
        yield _Step(".args", "the arguments of a partial", obj.args)
        yield _Step(".keywords", "the keyword arguments of a partial", obj.keywords)
    elif isinstance(obj, ModuleType):
        yield from _attributes(dict(vars(obj)), obj.__name__)
    else:
        yield from _items(obj)
        if type(obj) not in _PLAIN:
            yield from _steps_of_instance(obj)


_PLAIN: Final = frozenset({dict, list, tuple, set, frozenset, deque, str, bytes, bytearray, int, float})


def _items(obj: Any) -> Iterator[_Step]:
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield _Step(f"[{_brief(key)}]", "", value)
        for key in obj:
            yield _Step(f".keys()[{_brief(key)}]", f"key {_brief(key)}", key)
    elif isinstance(obj, list | tuple | deque):
        for index, value in enumerate(obj):
            yield _Step(f"[{index}]", "", value)
    elif isinstance(obj, set | frozenset):
        for value in obj:
            yield _Step(f"{{{_brief(value)}}}", f"item {_brief(value)} of a set", value)


def _steps_of_instance(obj: Any) -> Iterator[_Step]:
    """What pickle itself would take: a ``__getstate__`` may leave out what can't be pickled."""
    name = type(obj).__name__
    try:
        reduced = obj.__reduce_ex__(5)
    except Exception:  # noqa: BLE001 - it can't be reduced at all: there is nothing inside to blame
        return
    if not isinstance(reduced, tuple) or len(reduced) < 2:
        return
    state = reduced[2] if len(reduced) > 2 else None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        yield from _attributes(state[0], name)
        yield from _attributes(state[1], name)
    elif isinstance(state, dict):
        yield from _attributes(state, name)
    elif state is not None:
        yield _Step(".__getstate__()", f"the state of {name}", state)
    if isinstance(obj, BaseException):
        yield _Step(".args", f"the arguments of {name}", obj.args)
    elif isinstance(reduced[1], tuple):
        for value in reduced[1]:
            words = f"class {name}" if value is type(obj) else f"what a {name} is made of"
            yield _Step(".__class__" if value is type(obj) else ".__reduce__()", words, value)


def _attributes(names: Any, owner: str) -> Iterator[_Step]:
    if isinstance(names, dict):
        for name, value in names.items():
            yield _Step(f".{name}", f"attribute {name!r} of {owner}", value)


def _steps_of_function(function: FunctionType) -> Iterator[_Step]:
    of = f"of {function.__name__}"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            value = cell.cell_contents
        except ValueError:  # not set yet
            continue
        yield _Step(f".__closure__[{name!r}]", f"closure variable {name!r} {of}", value)
    named: Mapping[str, Any] = travelling_names(function)[0]
    for name, value in named.items():
        yield _Step(f".__globals__[{name!r}]", f"global {name!r} {of}", value)
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    for name, value in zip(arguments[len(arguments) - len(defaults) :], defaults, strict=False):
        yield _Step(f".__defaults__[{name!r}]", f"default of {name!r} {of}", value)
    for name, value in (function.__kwdefaults__ or {}).items():
        yield _Step(f".__kwdefaults__[{name!r}]", f"default of {name!r} {of}", value)
    for name, value in function.__annotations__.items():
        yield _Step(f".__annotations__[{name!r}]", f"annotation {name!r} {of}", value)
    yield from _attributes(dict(function.__dict__), function.__name__)


def _brief(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the user's __repr__
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 40 else f"{text[:39]}…"
