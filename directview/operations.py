"""What a view does on engines besides calling the user's functions: each is itself an ordinary function.

The protocol thus knows one kind of call. Being importable, these functions travel by name; on the engine
they find its namespace through `namespace`, which the engine has bound for everything that runs in its
context (a context variable, so that several engines can live in one process under test).
"""

from __future__ import annotations

import ast
import asyncio
import functools
import hashlib
import importlib
import inspect
import io
import keyword
import linecache
import tokenize
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import CodeType
from typing import Any, Final, NamedTuple

import cloudpickle

from directview.reply import ExecuteReply
from directview.wire.exceptions import capture, rebuild

__all__ = [
    "chunk_mapper",
    "bind",
    "clear",
    "dereference",
    "engine",
    "execute",
    "gather_part",
    "import_modules",
    "is_engine",
    "keep_source",
    "map_chunk",
    "map_chunk_return_exceptions",
    "namespace",
    "pull",
    "push",
    "run_file",
    "scatter_part",
]

KEPT_SOURCES: Final = 512
"""Executed sources whose lines tracebacks can still show."""
KEPT_CHARACTERS: Final = 8 << 20
"""In all of them together."""


class _Bound(NamedTuple):
    names: dict[str, Any]
    initial: dict[str, Any]
    engine_id: int
    engine_uuid: str


_bound: ContextVar[_Bound] = ContextVar("directview.operations.bound")


def bind(names: dict[str, Any], *, engine_id: int = -1, engine_uuid: str = "") -> None:
    """Make `names` the namespace of what runs in this context from here on.

    Called by an engine when it starts; what is in `names` now is what `clear` leaves there.

    Args:
        names: the engine's namespace itself, which operations change in place.
        engine_id: named in the errors of single items of a map.
        engine_uuid: likewise, in hex.
    """
    _bound.set(_Bound(names, dict(names), engine_id, engine_uuid))


def namespace() -> dict[str, Any]:
    """The namespace of the engine on which this runs.

    Raises:
        RuntimeError: this is not an engine.
    """
    return _here().names


def engine() -> tuple[int, str]:
    """Id and uuid (in hex) of the engine on which this runs.

    Raises:
        RuntimeError: this is not an engine.
    """
    here = _here()
    return here.engine_id, here.engine_uuid


def is_engine() -> bool:
    """Whether this runs on an engine, in its context."""
    return _bound.get(None) is not None


def _here() -> _Bound:
    try:
        return _bound.get()
    except LookupError:
        raise RuntimeError(
            "there is no engine's namespace here: operations run on engines, through a view"
        ) from None


# --- names ----------------------------------------------------------------------------------------------


def push(names: Mapping[str, Any]) -> None:
    """Set `names` in the namespace; ``'a.b'`` sets an attribute of what is there.

    Raises:
        TypeError: a key is not a str.
        ValueError: a key is not a name.
        NameError: what the attribute is to be set on is not defined on this engine.
    """
    for name in names:
        check_name(name)
    for name, value in names.items():
        owner, _, attribute = name.rpartition(".")
        if owner:
            setattr(_value(owner), attribute, value)
        else:
            namespace()[name] = value


def pull(names: str | Sequence[str]) -> Any:
    """The value of a name or expression; of several, a list of their values.

    Args:
        names: such as ``'a'``, ``'a.b'`` or ``'x[0]'``; or a tuple or list of these.

    Raises:
        NameError: it is not defined on this engine.
        SyntaxError: it is neither a name nor an expression.
        TypeError: it is not a str.
    """
    if isinstance(names, tuple | list):
        return [_value(name) for name in names]
    return _value(names)  # type: ignore[arg-type]


def _value(name: str) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"a name to pull must be a str, got {type(name).__name__} {name!r:.60}")
    names = namespace()
    if name in names:
        return names[name]
    if name.isidentifier() and not keyword.iskeyword(name):  # a builtin is not in the namespace
        raise NameError(f"name {name!r} is not defined on this engine", name=name)
    return eval(compile(name.strip(), f"<pull {name}>", "eval", dont_inherit=True), names)


def dereference(expression: str) -> Any:
    """What a `Reference` is unpickled to: the object that it stands for on this engine.

    Anywhere but on an engine it stays a `Reference`.

    Raises:
        Exception: whatever evaluating it raises, a NameError for a name that is not there.
    """
    if not is_engine():
        from directview.dependencies import Reference

        return Reference(expression)
    names = namespace()
    if expression in names:
        return names[expression]
    try:
        return eval(compile(expression, f"<Reference {expression}>", "eval", dont_inherit=True), names)
    except Exception as error:
        error.add_note(f"This was raised on the engine by Reference({expression!r}).")
        raise


def check_name(name: object) -> None:
    """Check that it can be set on engines: a name, or an attribute by its path.

    Raises:
        TypeError: it is no str.
        ValueError: it is no name.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, got {type(name).__name__} {name!r:.60}")
    if not all([part.isidentifier() and not keyword.iskeyword(part) for part in name.split(".")]):
        raise ValueError(f"{name!r} is not a name that can be set on an engine")


def scatter_part(name: str, part: Any, flatten: bool = False) -> None:
    """Set `name` to this engine's part of a scattered sequence.

    Args:
        name: where to keep it.
        part: what `directview.partition.split` made.
        flatten: keep the item of a part that has only one, instead of the part.
    """
    if flatten and len(part) == 1:
        part = part.iloc[0] if hasattr(part, "iloc") else part[0]
    push({name: part})


def gather_part(name: str) -> Any:
    """This engine's part of what is to be gathered: a name or expression, as in `pull`."""
    if not isinstance(name, str):
        raise TypeError(f"gather joins one name at a time, got {type(name).__name__} {name!r:.60}")
    return _value(name)


def clear() -> None:
    """Forget every name that was not there when the engine started, and restore those that were."""
    here = _here()
    # The builtins that are in place belong to the step that runs now.
    kept = {name: here.names[name] for name in ("__builtins__",) if name in here.names}
    here.names.clear()
    here.names.update(here.initial | kept)


def import_modules(*modules: str) -> None:
    """Import `modules` and set their names as ``import a.b`` would.

    Raises:
        ImportError: there is no such module here.
    """
    for module in modules:
        importlib.import_module(module)
        top = module.partition(".")[0]
        namespace()[top] = importlib.import_module(top)


# --- source ---------------------------------------------------------------------------------------------


def execute(code: str, filename: str | None = None) -> ExecuteReply | Coroutine[Any, Any, ExecuteReply]:
    """Run source in the namespace. With ``await`` at its top level it runs as a coroutine does.

    Args:
        code: Python source, of any number of statements; where IPython is installed, its syntax too.
        filename: shown in tracebacks; by default one that stands for this very source.

    Raises:
        SyntaxError: it is not Python.
        Exception: whatever the source raises.
    """
    if not isinstance(code, str):
        raise TypeError(f"execute takes source as a str, got {type(code).__name__}; use apply for a function")
    if filename is None:
        filename = _name_of_source(code)
    try:
        compiled = _compiled(code, code, filename)
    except SyntaxError:
        from directview import cells

        python = cells.python_of(code)
        if python is None:
            raise
        compiled = _compiled(python, python, filename)
    return _run(compiled)


def keep_source(text: str) -> str:
    """Have tracebacks show the lines of `text`; the file's name to compile it under."""
    filename = _name_of_source(text)
    _sources.keep(filename, text)
    return filename


def _name_of_source(text: str) -> str:
    return f"<execute {hashlib.blake2b(text.encode('utf-8', 'replace'), digest_size=4).hexdigest()}>"


def run_file(source: str | bytes, filename: str) -> ExecuteReply | Coroutine[Any, Any, ExecuteReply]:
    """Run the contents of a file of the client's in the namespace.

    Args:
        source: the contents; as bytes, a declared encoding is honoured.
        filename: where they come from, shown in tracebacks. The file need not exist here.

    Raises:
        SyntaxError: it is not Python.
        Exception: whatever the source raises.
    """
    text = source if isinstance(source, str) else _decoded(source)
    return _run(_compiled(source, text, filename))


def _compiled(source: str | bytes, text: str, filename: str) -> CodeType:
    _sources.keep(filename, text)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled: CodeType = compile(source, filename, "exec", flags, dont_inherit=True)
    return compiled


def _run(code: CodeType) -> ExecuteReply | Coroutine[Any, Any, ExecuteReply]:
    names = namespace()
    if code.co_flags & inspect.CO_COROUTINE:
        return _run_awaiting(code, names)
    exec(code, names)
    return ExecuteReply()


async def _run_awaiting(code: CodeType, names: dict[str, Any]) -> ExecuteReply:
    await eval(code, names)
    return ExecuteReply()


def _decoded(source: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return source.decode(encoding, "replace")


class _Sources:
    """The executed sources that tracebacks can show: in linecache, and taken out again in time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._characters = 0

    def keep(self, filename: str, text: str) -> None:
        self._characters -= self._kept.pop(filename, 0)
        self._kept[filename] = len(text)
        self._characters += len(text)
        # Without a modification time linecache neither looks for a file nor drops the entry.
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        while len(self._kept) > 1 and (len(self._kept) > KEPT_SOURCES or self._characters > KEPT_CHARACTERS):
            oldest, size = self._kept.popitem(last=False)
            self._characters -= size
            linecache.cache.pop(oldest, None)


_sources = _Sources()


# --- map ------------------------------------------------------------------------------------------------


def map_chunk(f: Callable[..., Any], *chunks: Iterable[Any]) -> Any:
    """The results of ``map(f, *chunks)``, in a list; those of coroutines awaited, all at once.

    Stops at the shortest chunk. The first error ends it, and cancels the coroutines that still run.
    """
    results = list(map(f, *chunks))
    if results and inspect.iscoroutine(results[0]):
        return _all_of(results)
    return results


async def _all_of(coroutines: Iterable[Awaitable[Any]]) -> list[Any]:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)  # the call ends when all that it started has ended
        raise


def map_chunk_return_exceptions(f: Callable[..., Any], *chunks: Iterable[Any]) -> Any:
    """As `map_chunk`, but what an item raises stands in its place; it arrives as the call's error would."""
    results: list[Any] = []
    for items in zip(*chunks, strict=False):
        try:
            results.append(f(*items))
        except Exception as error:  # noqa: BLE001 - it goes to the caller
            results.append(_FailedItem(error, f))
    if any(inspect.iscoroutine(result) for result in results):
        return _all_settled(results, f)
    return results


async def _all_settled(results: list[Any], f: Callable[..., Any]) -> list[Any]:
    where = [i for i, result in enumerate(results) if inspect.iscoroutine(result)]
    ended = await asyncio.gather(*[results[i] for i in where], return_exceptions=True)
    for i, outcome in zip(where, ended, strict=True):
        results[i] = _FailedItem(outcome, f) if isinstance(outcome, BaseException) else outcome
    return results


def chunk_mapper(f: Callable[..., Any], return_exceptions: bool) -> Callable[..., Any]:
    """What a map sends to be called with chunks: `f` on their items."""
    return functools.partial(map_chunk_return_exceptions if return_exceptions else map_chunk, f)


class _FailedItem:
    """Stands for an exception among results; unpickled it is that exception, as a call raises it."""

    def __init__(self, error: BaseException, f: Callable[..., Any]) -> None:
        here = _here()
        self._captured = capture(
            error,
            engine_id=here.engine_id,
            engine_uuid=here.engine_uuid,
            method=getattr(f, "__name__", type(f).__name__),
            dumps=cloudpickle.dumps,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, self._captured
