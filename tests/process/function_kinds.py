"""A program, run as `__main__`: sends functions of every kind to engines with an `a` and a `b` of their own.

`a` is 1 here and 5 there, `b` is 10 there only, and all the rest comes along.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from directview import Cluster

SCALE = 3
a = 1


def helper(x: int) -> int:
    return x * SCALE + a


def helper2(x: int) -> int:
    return helper(x) + b  # type: ignore[name-defined, no-any-return]


class Base:
    K = 7

    def m(self, x: int) -> int:
        return helper(x) + self.K


class Sub(Base):
    def m(self, x: int) -> int:
        return super().m(x) + a

    @staticmethod
    def s(x: int) -> int:
        return helper(x)

    @classmethod
    def c(cls, x: int) -> int:
        return helper(x) + cls.K

    @property
    def p(self) -> int:
        return helper(1)


@dataclasses.dataclass
class DC:
    x: int

    def go(self) -> int:
        return helper(self.x)


class E(enum.Enum):
    A = 1

    def go(self) -> int:
        return helper(self.value)


def deco(f: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(f)
    def wrapped(*args: int) -> int:
        return f(*args) + SCALE

    return wrapped


@deco
def decorated(x: int) -> int:
    return helper(x)


def outer_closure(k: int) -> Callable[[int], int]:
    def inner(x: int) -> int:
        return helper(x) + k

    return inner


def simple(x: int) -> int:
    return helper(x)


def with_lambda(x: int) -> int:
    return (lambda y: helper(y))(x)


def list_comprehension(x: int) -> int:
    return [helper(i) for i in range(x)][-1]


def generator_expression(x: int) -> int:
    return sum(helper(i) for i in range(x))


def nested(x: int) -> int:
    def g(y: int) -> int:
        def h(z: int) -> int:
            return helper(z) + SCALE

        return h(y)

    return g(x)


def class_inside(x: int) -> int:
    class C:
        k = helper(1)

        def m(self) -> int:
            return helper(x) + self.k

    return C().m()


def imports(x: int) -> int:
    import json

    return helper(x) + len(json.dumps([]))


def writes_global(x: int) -> int:
    global newname
    newname = helper(x)  # type: ignore[name-defined]
    return newname  # type: ignore[name-defined, no-any-return]


def defines_global(x: int) -> int:
    global made

    def made(y: int) -> int:
        return helper(y) + x

    return made(1)  # type: ignore[name-defined, no-any-return]


def recursive(n: int) -> int:
    return 1 if n <= 1 else n * recursive(n - 1)


def mutual_a(n: int) -> int:
    return 0 if n == 0 else mutual_b(n - 1) + 1


def mutual_b(n: int) -> int:
    return 0 if n == 0 else mutual_a(n - 1) + 1


def two_deep(x: int) -> int:
    return helper2(x)


def generator(x: int) -> Iterator[int]:
    for i in range(x):
        yield (lambda i=i: helper(i))()


def drains_generator(x: int) -> list[int]:
    return list(generator(x))


async def coroutine(x: int) -> int:
    await asyncio.sleep(0)
    r = [helper(i) for i in range(x)]
    await asyncio.sleep(0)
    return (lambda: helper(r[-1]))()


async def async_generator(x: int) -> AsyncIterator[int]:
    for i in range(x):
        await asyncio.sleep(0)
        yield (lambda i=i: helper(i))()


async def drains_async_generator(x: int) -> list[int]:
    return [item async for item in async_generator(x)]


def in_thread(x: int) -> int:
    out: list[int] = []

    def work() -> None:
        out.append((lambda: helper(x))())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return out[0]


def default(x: int, g: Callable[[int], int] = helper) -> int:
    return g(x)


def keyword(x: int, *, g: Callable[[int], int] = helper) -> int:
    return (lambda: g(x))()


def returns_function(x: int) -> Callable[[int], int]:
    return lambda y: helper(y) + x


def maps(x: int) -> int:
    return list(map(lambda i: helper(i), range(x)))[-1]  # noqa: C417 - the kind that it is about


def sorts(x: int) -> int:
    return sorted(range(x), key=lambda i: -helper(i))[0]  # noqa: FURB192 - likewise


def looks_in_globals(x: int) -> tuple[bool, bool]:
    return ("helper" in globals(), "a" in globals())


def catches_name_error(x: int) -> str:
    try:
        return str(undefined_name)  # type: ignore[name-defined]
    except NameError as error:
        return str(error)


def uses_builtin(x: int) -> int:
    return max([x, 1])


def called_from_a_list(x: int, functions: tuple[Callable[[int], int], ...]) -> list[int]:
    return [function(x) for function in functions]


def there(x: int) -> int:
    """What `helper` gives on an engine."""
    return x * 3 + 5


KINDS: dict[str, tuple[Any, tuple[Any, ...], Any]] = {
    "simple": (simple, (4,), there(4)),
    "lambda": (lambda x: helper(x), (4,), there(4)),
    "lambda inside": (with_lambda, (4,), there(4)),
    "list comprehension": (list_comprehension, (4,), there(3)),
    "generator expression": (generator_expression, (4,), sum(map(there, range(4)))),
    "nested": (nested, (4,), there(4) + 3),
    "class inside": (class_inside, (4,), there(4) + there(1)),
    "import inside": (imports, (4,), there(4) + 2),
    "global": (writes_global, (4,), there(4)),
    "global function": (defines_global, (4,), there(1) + 4),
    "recursive": (recursive, (4,), 24),
    "mutually recursive": (mutual_a, (4,), 4),
    "mutually recursive, the other": (mutual_b, (4,), 4),
    "helper of a helper": (two_deep, (4,), there(4) + 10),
    "generator": (drains_generator, (4,), [there(i) for i in range(4)]),
    "coroutine": (coroutine, (4,), there(there(3))),
    "async generator": (drains_async_generator, (4,), [there(i) for i in range(4)]),
    "thread": (in_thread, (4,), there(4)),
    "default": (default, (4,), there(4)),
    "keyword-only default": (keyword, (4,), there(4)),
    "map": (maps, (4,), there(3)),
    "sorted": (sorts, (4,), 3),
    "globals()": (looks_in_globals, (4,), (False, True)),
    "NameError": (catches_name_error, (4,), "name 'undefined_name' is not defined"),
    "builtin": (uses_builtin, (4,), 4),
    "decorated": (decorated, (4,), there(4) + 3),
    "partial": (functools.partial(nested, 4), (), there(4) + 3),
    "bound method": (Sub().m, (4,), there(4) + 7 + 5),
    "static method": (Sub.s, (4,), there(4)),
    "class method": (Sub.c, (4,), there(4) + 7),
    "property": (lambda: Sub().p, (), there(1)),
    "dataclass": (DC(4).go, (), there(4)),
    "enum": (E.A.go, (), there(1)),
    "closure": (outer_closure(100), (4,), there(4) + 100),
    "functions as arguments": (
        called_from_a_list,
        (4, (helper, lambda x: (lambda: helper(x))())),
        [there(4)] * 2,
    ),
}


def main() -> None:
    with Cluster(n=2) as rc:
        view = rc[:]
        view.push_sync({"a": 5, "b": 10})
        wrong = {}
        right = 0
        for name, (function, args, expected) in KINDS.items():
            found = view.apply_async(function, *args).get(20, return_exceptions=True)
            if found == [expected] * 2:
                right += 1
            else:
                wrong[name] = (found, expected)
        # What comes back means here what it meant there.
        assert [f(4) for f in view.apply_sync(returns_function, 4)] == [there(4) + 4] * 2
        assert (a, globals().get("newname"), globals().get("made")) == (1, None, None)
        names = view.pull_sync("sorted(k for k in globals() if not k.startswith('_'))")
        assert names == [["a", "b", "made", "newname"]] * 2, names
        assert view.pull_sync(("newname", "made(1)"), targets=0) == [there(4), there(1) + 4]
    for name, (got, expected) in wrong.items():
        print(f"{name}: {got}, not {expected}")
    print(f"{right} kinds right")


if __name__ == "__main__":
    main()
