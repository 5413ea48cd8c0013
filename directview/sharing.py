"""`rc.share(obj)`: an object that is put into shared memory once, for every engine and every call.

What a call is given travels with it: an array of 1 GB that a hundred calls read would travel a hundred
times. A shared object is pickled once, when it is first sent anywhere; engines on this host map its memory,
and arrays in it are built right there, read-only. Engines elsewhere are sent it once each. It goes when
nobody refers to it: neither its handle nor a call that has not ended.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from directview.wire import segments
from directview.wire.arena import arena
from directview.wire.host import shares_host
from directview.wire.messages import EngineInfo
from directview.wire.objects import dump_arguments, dump_function, dumps
from directview.wire.parcels import Packed, pack

T = TypeVar("T")

if TYPE_CHECKING:
    from directview.client import Client

    class _Anything(Any, Generic[T]):  # type: ignore[misc] # it passes as any argument
        pass
else:
    _Anything = Generic

__all__ = ["Holding", "Shared", "hold_function", "registered", "taken"]

_TOKEN_BYTES: Final = 16


class Shared(_Anything[T]):
    """An object that all engines may read, made by `Client.share`. Pass it wherever the object could be.

    A function that is given it gets the object. Arrays and other buffers in it are read-only there, and
    everything else is a copy of the call's own.
    """

    def __init__(self, client: Client, obj: T) -> None:
        self.value: T = obj
        """The object."""
        self._client = client
        self._put: _Put | None = None
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in shared memory; 0 before it is first used, and where there is none."""
        segment = self._put.segment if self._put is not None else None
        return 0 if segment is None else segment.nbytes

    def __repr__(self) -> str:
        if self._put is None:
            state = "not sent yet"
        else:
            state = f"{self.nbytes} bytes in shared memory" if self.nbytes else "sent"
        return f"<Shared {type(self.value).__name__}: {state}>"

    def __copy__(self) -> Shared[T]:
        return self

    def __deepcopy__(self, memo: object) -> Shared[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        with self._lock:
            if self._put is None:
                self._put = self._make_put()
            put = self._put
            put.provide(self._client)
        _pickled.puts.append(put)
        return segments.opened, (put.token, put.reference)

    def _make_put(self) -> _Put:
        """Shared objects inside of this one are needed as long as it is, and not by the call alone."""
        outer, _pickled.puts = _pickled.puts, []
        try:
            packed = dumps(self.value, part="the shared object")
            return _Put(packed, self._client, tuple(_pickled.puts))
        finally:
            _pickled.puts = outer


class _Put:
    """A shared object where engines find it, until neither its handle nor a call refers to it."""

    __slots__ = ("__weakref__", "_forget", "_inside", "_packed", "_sent", "reference", "segment", "token")

    def __init__(self, packed: Packed, client: Client, inside: tuple[object, ...]) -> None:
        self.segment = _segment(packed)
        self._inside = inside
        self._packed = packed
        self._sent: dict[bytes, int] = {}
        """Engines that have been sent it, by uuid."""
        self._forget = _forgetting(client)
        if self.segment is None:
            self.token, self.reference = os.urandom(_TOKEN_BYTES), b""
        else:
            self.token, self.reference = self.segment.token, self.segment.reference

    def provide(self, client: Client) -> None:
        """Send it to engines that can't map it and don't have it. Calls that follow are begun after that."""
        missing = [
            info
            for info in client._binding.core().engines.values()
            if info.uuid not in self._sent and (self.segment is None or not _is_near(info))
        ]
        if missing:
            data, buffers = self._packed
            arguments = dump_arguments((self.token, data, list(buffers)), {}, call="share")
            parcel = pack((dump_function(segments.hold), arguments))
            client._submit([(tuple([info.id for info in missing]), parcel)], "share", None, single=False)
            self._sent.update({info.uuid: info.id for info in missing})

    def __del__(self) -> None:
        if getattr(self, "_forget", None) is None:
            return
        client_is_there = self._forget(self.token, self._sent)
        if self.segment is not None:
            self.segment.reusable = client_is_there


def _segment(packed: Packed) -> segments.Segment | None:
    """None where there is no shared memory, or not enough."""
    if not arena().reference:
        return None
    try:
        return segments.Segment(packed, arena().sheets)
    except MemoryError:
        return None


_near: Final[dict[bytes, bool]] = {}
"""Engines, by uuid, and whether they are on this host."""


def _is_near(info: EngineInfo) -> bool:
    near = _near.get(info.uuid)
    if near is None:
        near = _near[info.uuid] = shares_host(info.host)
    return near


def _forgetting(client: Client) -> Callable[[bytes, dict[bytes, int]], bool]:
    """What tells engines that an object is needed no longer, and whether there still is a client to do so.

    It may be called by the garbage collector.
    """
    reference = weakref.ref(client)

    def forget(token: bytes, sent: dict[bytes, int]) -> bool:
        client = reference()
        core = client._binding._core if client is not None and not client._binding.closed else None
        if core is None:
            return False
        if sent:
            try:
                core.loop.call_soon_threadsafe(tell, token, sent)
            except RuntimeError:
                return False  # The loop has ended, and the client with it.
        return True

    def tell(token: bytes, sent: dict[bytes, int]) -> None:
        client = reference()
        if client is None or client._binding.closed:
            return
        there = client._binding.core().engines
        ids = tuple([id for uuid, id in sent.items() if id in there and there[id].uuid == uuid])
        if ids:
            parcel = pack((dump_function(segments.drop), dump_arguments(([token],), {}, call="share")))
            client._submit([(ids, parcel)], "share", None, single=False)

    return forget


class _Pickled(threading.local):
    """What this thread has pickled since it was last asked for."""

    def __init__(self) -> None:
        self.puts: list[object] = []


_pickled = _Pickled()


def taken() -> tuple[object, ...]:
    """Shared objects that this thread has pickled since the last time: they must live as long as the call."""
    if not _pickled.puts:
        return ()
    puts, _pickled.puts = _pickled.puts, []
    return tuple(puts)


def registered(kept: tuple[object, ...]) -> None:
    """Count these as pickled again: their pickle, made before, goes into the one that is being made."""
    _pickled.puts += kept


class Holding(Packed):
    """The pickle of a function in which there are shared objects: every call of it must keep them."""

    keeps: tuple[object, ...] = ()


def hold_function(function: Any) -> Packed:
    """Pickle a function for one call or many: see `directview.wire.objects.dump_function`.

    Returns:
        Its pickle; a `Holding` one if there are shared objects in the function, its defaults, its closure or
        what it is a `functools.partial` of.
    """
    packed = dump_function(function)
    kept = taken()
    if not kept:
        return packed
    holding = Holding(*packed)
    holding.keeps = kept
    return holding
