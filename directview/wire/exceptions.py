"""How an exception travels from an engine to the client. Pure: objects in, plain data out, and back.

An exception is not pickled whole: its own ``__reduce__`` calls its ``__init__`` again, with arguments that
many types get wrong, and one attribute that can't be pickled would lose the rest. Instead the engine sends
what is in it, part by part (its class, args, ``__dict__``, slots, and the fields that C types keep), and
the client fills them into an instance of a class made for the purpose, which is a subclass of the original
type *and* of `RemoteError`. The user's ``__init__``, ``__new__``, ``__reduce__``, ``__setattr__``,
``__init_subclass__`` and metaclass have no say in it.

It travels in two levels, so that something readable always arrives: `summary` is plain text and numbers;
`rich` needs the class on the client's side. A part that can't be pickled is left out, and a note says so.
Where `rich` is missing, can't be loaded, or holds a type that must not be raised in a client (what is no
Exception ends programs and loops, StopIteration never gets out of an await), the summary alone makes a
plain `RemoteError`.
"""

from __future__ import annotations

import pickle
import sys
import traceback
import weakref
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, GetSetDescriptorType, MemberDescriptorType, TracebackType
from typing import Any, Final, TypeAlias

from directview.errors import DETAILS, RemoteDetails, RemoteError, attach

__all__ = ["Dumps", "Loads", "capture", "rebuild"]

Dumps: TypeAlias = Callable[[object], bytes]
Loads: TypeAlias = Callable[[bytes], object]
Summary: TypeAlias = dict[str, Any]

TEXT_LIMIT: Final = 16_384
TRACEBACK_LIMIT: Final = 65_536
MEMBER_TRACEBACK_LIMIT: Final = 4_096
RICH_LIMIT: Final = 1 << 20
"""Bytes of one exception's parts. More than that is data, and data has better ways to travel."""
INLINE_LIMIT: Final = 65_536
MEMBERS_LIMIT: Final = 256
DEPTH_LIMIT: Final = 8
"""Groups inside groups."""

_HEAP_TYPE: Final = 1 << 9
"""Py_TPFLAGS_HEAPTYPE: not set on the types that are built into C code."""
_PARTS: Final = "_directview_parts"
_ORIGINAL: Final = "_directview_original"

# Not sent with the fields: what an AttributeError was raised about, which may be anything, of any size;
# and what a group has, which `__new__` takes.
_NOT_SENT: Final = frozenset({"obj", "message", "exceptions"})
_NOT_RAISED: Final = (StopIteration, StopAsyncIteration)
_ATOMS: Final = (type(None), bool, int, float, str, bytes)


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and (name == "directview" or name.startswith("directview."))


# --- on the engine -------------------------------------------------------------------------------


def capture(
    error: BaseException,
    *,
    engine_id: int,
    engine_uuid: str,
    method: str,
    dumps: Dumps,
    skip: Callable[[FrameType], bool] = _is_ours,
) -> tuple[Summary, bytes | None]:
    """Take out of `error` what travels. Never raises.

    Args:
        error: what the user's code raised.
        engine_id: the engine's id.
        engine_uuid: its uuid in hex.
        method: name of the call.
        dumps: pickles one object; what it refuses is left out.
        skip: whether a frame at the top of the traceback is the engine's own, and left out of the text.

    Returns:
        The summary (text and numbers, fit for msgpack) and the rich part, or None where there is none.
    """
    where = {"engine_id": engine_id, "engine_uuid": engine_uuid, "method": method}
    return _capture(error, where, dumps, skip, 0)


def _capture(
    error: BaseException, where: Summary, dumps: Dumps, skip: Callable[[FrameType], bool], depth: int
) -> tuple[Summary, bytes | None]:
    kind = _original(type(error))
    summary = {
        "ename": _clean(kind.__name__, 1024),
        "evalue": _clean(_text(error), TEXT_LIMIT),
        "traceback": _clean(_traceback(error, skip), MEMBER_TRACEBACK_LIMIT if depth else TRACEBACK_LIMIT),
        **where,
    }
    if not _may_be_raised(kind):
        return summary, None
    try:
        return summary, _Taker(dumps, skip, where, depth).take(kind, error)
    except BaseException as trouble:  # noqa: BLE001 - user code
        summary["note"] = _clean(f"{kind.__name__} itself could not travel: {_brief(trouble)}", TEXT_LIMIT)
        return summary, None


class _Taker:
    """Takes the parts of one exception, as many as fit."""

    def __init__(self, dumps: Dumps, skip: Callable[[FrameType], bool], where: Summary, depth: int) -> None:
        self._dumps = dumps
        self._skip = skip
        self._where = where
        self._depth = depth
        self._left = RICH_LIMIT
        self._missing: list[str] = []

    def take(self, kind: type[BaseException], error: BaseException) -> bytes:
        kind_bytes = self._dumps(kind)
        self._left -= len(kind_bytes)
        parts = {
            "kind": kind_bytes,
            "args": self._args(error),
            "slots": self._named(dict(_slots(kind, error))),
            "fields": self._named(dict(_fields(kind, error))),
            "dict": self._named(
                {
                    name: value
                    for name, value in object.__getattribute__(error, "__dict__").items()
                    if type(name) is str and name not in (DETAILS, _PARTS)
                }
            ),
            "members": self._members(error) if isinstance(error, BaseExceptionGroup) else None,
            "missing": self._missing,
        }
        return self._dumps(parts)

    def _part(self, value: object) -> tuple[bool, object]:
        """(True, the value itself) or (False, its pickle)."""
        if type(value) in _ATOMS and sys.getsizeof(value) <= min(INLINE_LIMIT, self._left):
            self._left -= sys.getsizeof(value)
            return True, value
        packed = self._dumps(value)
        if len(packed) > self._left:
            raise ValueError(f"{len(packed)} bytes are too many for an exception")
        self._left -= len(packed)
        return False, packed

    def _args(self, error: BaseException) -> list[tuple[bool, object]]:
        if isinstance(error, BaseExceptionGroup):
            return [(True, _clean(vars(BaseExceptionGroup)["message"].__get__(error), TEXT_LIMIT))]
        args: tuple[object, ...] = vars(BaseException)["args"].__get__(error)
        if isinstance(error, OSError):
            # It keeps the file names apart from args, and its own __reduce__ puts them together.
            args = OSError.__reduce__(error)[1]  # type: ignore[assignment]
        found = []
        for index, value in enumerate(args):
            try:
                found.append(self._part(value))
            except BaseException:  # noqa: BLE001 - user code
                # A place among args can't be left empty; its text is what most of them are for.
                self._missing.append(f"args[{index}] (its repr is there instead)")
                found.append((True, _clean(_repr(value), 200)))
        return found

    def _named(self, values: Mapping[str, object]) -> dict[str, tuple[bool, object]]:
        found = {}
        for name, value in values.items():
            try:
                found[name] = self._part(value)
            except BaseException:  # noqa: BLE001 - user code
                self._missing.append(name)
        return found

    def _members(self, group: BaseExceptionGroup[BaseException]) -> list[tuple[Summary, bytes | None]]:
        members: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(group)
        if self._depth >= DEPTH_LIMIT:
            raise ValueError("groups nested too deeply")
        if len(members) > MEMBERS_LIMIT:
            self._missing.append(f"{len(members) - MEMBERS_LIMIT} more exceptions of the group")
        found = []
        for member in members[:MEMBERS_LIMIT]:
            summary, rich = _capture(member, self._where, self._dumps, self._skip, self._depth + 1)
            if rich is not None and len(rich) > self._left:
                rich = None
            self._left -= len(rich or b"")
            found.append((summary, rich))
        return found


def _slots(kind: type[BaseException], error: BaseException) -> Iterator[tuple[str, object]]:
    """What Python classes keep in ``__slots__``."""
    for name, slot in _descriptors(kind, heap=True).items():
        try:
            yield name, slot.__get__(error)
        except AttributeError:
            continue


def _fields(kind: type[BaseException], error: BaseException) -> Iterator[tuple[str, object]]:
    """What C types keep beside ``args``: errno, lineno, encoding and the like."""
    for name, field in _descriptors(kind, heap=False).items():
        try:
            value = field.__get__(error)
        except (AttributeError, TypeError):
            continue
        if value is not None and name not in _NOT_SENT:
            yield name, value


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as trouble:  # noqa: BLE001 - user code
        return f"<its text could not be made: {type(trouble).__name__}>"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001 - user code
        return f"<{type(value).__name__}>"


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {_text(error)}"


def _traceback(error: BaseException, skip: Callable[[FrameType], bool]) -> str:
    frames: TracebackType | None = object.__getattribute__(error, "__traceback__")
    while frames is not None and skip(frames.tb_frame):
        frames = frames.tb_next
    try:
        shown = traceback.TracebackException(type(error), error, frames, compact=True)
        return "".join(shown.format()).rstrip("\n")
    except BaseException as trouble:  # noqa: BLE001 - user code
        return f"{type(error).__name__}: {_text(error)}\n(its traceback could not be made: {_brief(trouble)})"


def _clean(text: str, limit: int) -> str:
    """`text` as an exact str that UTF-8 can carry, its middle cut out where it is too long."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


# --- on both sides -------------------------------------------------------------------------------


def _original(kind: type[BaseException]) -> type[BaseException]:
    """The type as the user knows it: an engine may itself be a client whose call failed."""
    return kind.__dict__.get(_ORIGINAL, kind)  # type: ignore[no-any-return]


def _may_be_raised(kind: type[BaseException]) -> bool:
    return issubclass(kind, Exception) and not issubclass(kind, _NOT_RAISED)


def _descriptors(kind: type, heap: bool) -> dict[str, Any]:
    """Name → descriptor of what instances keep outside ``__dict__``; the most derived class wins.

    Going through these reads and writes past any property or `__setattr__` of the user's.
    """
    found: dict[str, Any] = {}
    kinds = (MemberDescriptorType, GetSetDescriptorType)
    for base in kind.__mro__[:-1]:
        if bool(base.__flags__ & _HEAP_TYPE) is heap and base not in (Exception, BaseException):
            for name, value in vars(base).items():
                if name not in ("__dict__", "__weakref__") and isinstance(value, kinds):
                    found.setdefault(name, value)
    return found


# --- on the client -------------------------------------------------------------------------------


def rebuild(summary: Mapping[str, Any], rich: bytes | None, loads: Loads = pickle.loads) -> RemoteError:
    """The error that the call raises. Whatever is wrong with `rich`, there is one.

    Args:
        summary: as `capture` made it.
        rich: likewise.
        loads: the inverse of the `dumps` that `capture` was given.

    Returns:
        An instance of RemoteError and of the original type; or a plain RemoteError, with a note that
        says why where that is not the rule for its type.
    """
    known = RemoteDetails(
        str(summary.get("ename", "Exception")),
        str(summary.get("evalue", "")),
        str(summary.get("traceback", "")),
        {name: summary.get(name) for name in ("engine_id", "engine_uuid", "method")},
    )
    note = summary.get("note")
    if rich is not None:
        try:
            return _fill(loads, summary, rich, known)
        except KeyboardInterrupt:
            raise
        except BaseException as trouble:  # noqa: BLE001 - user code
            note = f"{known.ename} could not be rebuilt here: {_brief(trouble)}"
    error = RemoteError(*known)
    if note:
        error.add_note(str(note))
    return error


def _fill(loads: Loads, summary: Mapping[str, Any], rich: bytes, known: RemoteDetails) -> RemoteError:
    parts: Any = loads(rich)
    kind = loads(parts["kind"])
    if not (isinstance(kind, type) and issubclass(kind, BaseException) and _may_be_raised(kind)):
        raise TypeError("not a type of exception")
    base: Any = next(one for one in kind.__mro__ if not one.__flags__ & _HEAP_TYPE)
    args = [_value(part, loads) for part in parts["args"]]
    if parts["members"] is not None:
        args.append([rebuild(one, its_rich, loads) for one, its_rich in parts["members"]])
    cls = _grafted(kind)
    error: Any = base.__new__(cls, *args)
    base.__init__(error, *args)
    own = object.__getattribute__(error, "__dict__")
    missing = list(parts["missing"])
    for name, part in parts["dict"].items():
        _try_to_set(missing, name, part, loads, own.__setitem__)
    for section, heap in (("slots", True), ("fields", False)):
        known_here = _descriptors(kind, heap)
        for name, part in parts[section].items():
            if name in known_here:
                _try_to_set(missing, name, part, loads, _setter(known_here[name], error))
    own[_PARTS] = (dict(summary), bytes(rich), loads if _is_importable(loads) else pickle.loads)
    attach(error, known)
    if missing:
        theirs = own.get("__notes__")  # by convention a list, but nothing makes it one
        own["__notes__"] = [
            *(theirs if isinstance(theirs, list) else ()),
            f"could not travel: {', '.join(missing)}",
        ]
    return error  # type: ignore[no-any-return]


def _value(part: tuple[bool, Any], loads: Loads) -> object:
    is_itself, value = part
    return value if is_itself else loads(value)


def _try_to_set(
    missing: list[str],
    name: str,
    part: tuple[bool, Any],
    loads: Loads,
    put: Callable[[str, object], None],
) -> None:
    """Put one part in place. One whose own class isn't here is missing; the others stay right."""
    try:
        put(name, _value(part, loads))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - user code
        missing.append(name)


def _setter(descriptor: Any, error: BaseException) -> Callable[[str, object], None]:
    def put(_name: str, value: object) -> None:
        descriptor.__set__(error, value)

    return put


class _Quiet:
    """Comes before the original type, whose `__init_subclass__` would register or refuse the new class."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


_classes: weakref.WeakValueDictionary[int, type[RemoteError]] = weakref.WeakValueDictionary()
"""By id of the original type, which can't be reused while the class that derives from it lives."""


def _grafted(kind: type[BaseException]) -> type[RemoteError]:
    """The class that is `kind` and RemoteError."""
    known = _classes.get(id(kind))
    if known is not None:
        return known
    bases: tuple[type, ...] = (_Quiet, kind) if issubclass(kind, RemoteError) else (_Quiet, kind, RemoteError)
    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__init__": _no_init,
        "__str__": _guarded_str,
        "__repr__": _guarded_repr,
        "__reduce_ex__": _reduce,
        "__reduce__": _reduce,
        _ORIGINAL: kind,
    }
    cls: type[RemoteError] = _new_class(type(kind), kind.__name__, bases, body)
    _classes[id(kind)] = cls
    return cls


def _new_class(meta: Any, *parts: Any) -> Any:
    """As a class statement would, but past the `__new__` and `__init__` of a user's metaclass."""
    if meta is ABCMeta:
        # Its part must be done: without tables of its own, the class would use the original type's.
        return ABCMeta.__new__(meta, *parts)
    return type.__new__(meta, *parts)


def _no_init(self: BaseException, *args: object, **kwargs: object) -> None:
    """Nothing is left to do when the parts are in place."""


def _guarded_str(self: Any) -> str:
    """The original type's text; or as the engine made it, if that needs a part that did not travel."""
    try:
        return str(getattr(type(self), _ORIGINAL).__str__(self))
    except Exception:  # noqa: BLE001 - user code
        return str(self.__dict__[DETAILS].evalue)


def _guarded_repr(self: Any) -> str:
    try:
        return str(getattr(type(self), _ORIGINAL).__repr__(self))
    except Exception:  # noqa: BLE001 - user code
        known: RemoteDetails = self.__dict__[DETAILS]
        return f"{known.ename}({known.evalue!r})"


def _reduce(self: BaseException, protocol: int = 4) -> tuple[Any, ...]:
    """For pickle; and for tblib, which dask has pickle all exceptions, and which asks for ``__reduce__``."""
    own = object.__getattribute__(self, "__dict__")
    return (_revive, (*own[_PARTS], own.get("__notes__")))


def _revive(summary: Summary, rich: bytes, loads: Loads, notes: list[str] | None) -> RemoteError:
    error = rebuild(summary, rich, loads)
    if notes is not None:
        object.__getattribute__(error, "__dict__")["__notes__"] = notes
    return error


def _is_importable(function: Any) -> bool:
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return getattr(module, getattr(function, "__qualname__", ""), None) is function
