"""Functions of each kind that people send, from a client; and the part of an engine that runs them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from directview.engine._namespace import PLAIN, Namespace, Overlay
from directview.engine._steps import Steps

ROOT = Path(__file__).resolve().parents[2]

CLIENT = '''
import asyncio, dataclasses, enum, functools, pickle, sys, threading
from directview import operations
from directview.wire import objects

FACTOR = 3
a = 1          # the engine has another, which counts
big = bytes(16_000_000)

def scaled(x): return x * FACTOR + a
def scaled_and_b(x): return scaled(x) + b
def needs_big(): return len(big)
def needs_big_inside(): return [len(big) for _ in range(1)]

class Base:
    offset = 7
    def method(self, x): return scaled(x) + self.offset

class Derived(Base):
    def method(self, x): return super().method(x) + a
    @staticmethod
    def static(x): return scaled(x)
    @classmethod
    def from_class(cls, x): return scaled(x) + cls.offset
    @property
    def prop(self): return scaled(1)

@dataclasses.dataclass
class Record:
    x: int
    def go(self): return scaled(self.x)

class Colour(enum.Enum):
    RED = 1
    def go(self): return scaled(self.value)

def adds_factor(f):
    @functools.wraps(f)
    def wrapper(*args): return f(*args) + FACTOR
    return wrapper

@adds_factor
def decorated(x): return scaled(x)

def closing_over(k):
    def inner(x): return scaled(x) + k
    return inner

def simple(x): return scaled(x)
def through_lambda(x): return (lambda y: scaled(y))(x)
def comprehension(x): return [scaled(i) for i in range(x)][-1]
def generator_expression(x): return sum(scaled(i) for i in range(x))
def nested(x):
    def one(y):
        def two(z): return scaled(z) + FACTOR
        return two(y)
    return one(x)
def class_inside(x):
    class Inside:
        k = scaled(1)
        def method(self): return scaled(x) + self.k
    return Inside().method()
def name_in_eval(x): return eval('scaled(x)')
def name_in_exec(x):
    made = {}
    exec('def f(y): return scaled(y)', globals(), made)
    return made['f'](x)
def imports(x):
    import json
    return scaled(x) + len(json.dumps([]))
def stores_global(x):
    global stored
    stored = scaled(x)
    return stored
def defines_global(x):
    global defined
    def defined(y): return scaled(y) + x
    return defined(1)
def factorial(n): return 1 if n <= 1 else n * factorial(n - 1)
def ping(n): return 0 if n == 0 else pong(n - 1) + 1
def pong(n): return 0 if n == 0 else ping(n - 1) + 1
def helper_of_helper(x): return scaled_and_b(x)
def generator(x):
    for i in range(x):
        yield (lambda: scaled(i))()
async def coroutine(x):
    await asyncio.sleep(0)
    found = [scaled(i) for i in range(x)]
    await asyncio.sleep(0)
    return (lambda: scaled(found[-1]))()
async def async_generator(x):
    for i in range(x):
        await asyncio.sleep(0)
        yield (lambda: scaled(i))()
def in_thread(x):
    out = []
    def work(): out.append((lambda: scaled(x))())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return out[0]
def in_default(x, g=scaled): return g(x)
def in_keyword_default(x, *, g=scaled): return (lambda: g(x))()
def returns_function(x): return lambda y: scaled(y) + x
def maps(x): return list(map(lambda i: scaled(i), range(x)))[-1]
def sorts(x): return sorted(range(x), key=lambda i: -scaled(i))[0]
def looks_at_globals(x): return 'scaled' in globals(), 'a' in globals()
def undefined(x):
    try: return undefined_name
    except NameError as error: return str(error)
def uses_builtins(x): return max([x, 1])

class Counter:
    count = 0
    def hit(self):
        type(self).count += 1
        return self.count

def counts_on_itself():
    counts_on_itself.calls = getattr(counts_on_itself, 'calls', 0) + 1
    return counts_on_itself.calls
def counts_on_helper():
    scaled.calls = getattr(scaled, 'calls', 0) + 1
    return scaled.calls
def counting():
    calls = 0
    def count():
        nonlocal calls
        calls += 1
        return calls
    return count
def appends(x, seen=[]):
    seen.append(x)
    return len(seen)
seen = []
def appends_to_global(x):
    seen.append(x)
    return len(seen)
def annotated(x: int, *, y: "float" = 2.0) -> int:
    """Documented."""
    return x

kinds = {name: value for name, value in globals().items() if type(value).__name__ == 'function'}
kinds['partial'] = functools.partial(nested, 4)
kinds['bound_method'] = Derived().method
kinds['static_method'] = Derived.static
kinds['class_method'] = Derived.from_class
kinds['dataclass_method'] = Record(4).go
kinds['closure'] = closing_over(100)
kinds['lambda'] = lambda x: scaled(x)
kinds['enum_method'] = Colour.RED.go
kinds['counting'] = counting()
kinds['trivial'] = lambda x: x
kinds['hit'] = Counter().hit
kinds['set_attributes'] = lambda: sorted(vars(scaled))
packed = {name: objects.dump_function(value) for name, value in kinds.items()}
mapped = ['trivial', 'simple', 'closure', 'decorated', 'counts_on_helper', 'counting', 'stores_global', 'hit']
for name in mapped:
    for exceptions in (False, True):
        mapper = operations.chunk_mapper(kinds[name], exceptions)
        packed[f'map_{name}_{exceptions}'] = objects.dump_function(mapper)
packed['in_arguments'] = objects.dump_arguments(([scaled, lambda x: (lambda: scaled(x))()],), {})
packed['pushed'] = objects.dump_arguments(({'f': generator_expression, 'Derived': Derived},), {})
packed['make_record'] = objects.dump_function(lambda: Record(5))
sys.stdout.buffer.write(pickle.dumps({
    name: (one.data, [bytes(b) for b in one.buffers]) for name, one in packed.items()
}))
'''

Packed = dict[str, tuple[bytes, list[bytes]]]


class Engine:
    """A namespace and its steps, and the way from a pickle to a call's result."""

    def __init__(self, **names: Any) -> None:
        self.namespace = Namespace()
        self.namespace.names.update(names)
        self.steps = Steps(self.namespace)

    def call(self, packed: tuple[bytes, list[bytes]], *args: Any) -> Any:
        function, overlay = self.namespace.load(*packed)
        return self.run(overlay, function, *args)

    def run(self, overlay: Overlay, function: Callable[..., Any], *args: Any) -> Any:
        value = self.steps.run(1, overlay, function, args)
        if inspect.iscoroutine(value):
            return asyncio.run(self._awaited(self.steps.drive(1, overlay, value)))
        if inspect.isgenerator(value):
            return list(self.steps.drive_generator(1, overlay, value))
        if inspect.isasyncgen(value):
            driven = self.steps.drive_async_generator(1, overlay, value)
            return asyncio.run(self._all(driven))
        return value

    async def _awaited(self, coroutine: Any) -> Any:
        return await coroutine

    async def _all(self, items: Any) -> list[Any]:
        return [item async for item in items]

    def execute(self, source: str) -> None:
        self.steps.run(1, PLAIN, exec, (source, self.namespace.names))


def h(x: int) -> int:
    """`scaled` with the engine's a."""
    return x * 3 + 5
