"""The two calls that a stream consists of, as they travel. What they do is the engine's business.

A client makes one call of `serve`, which goes on for as long as the stream does, and one of `take` for each
batch of items. Being importable, these functions travel by name, as those of `directview.operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

__all__ = ["PackedItem", "ServesStreams", "bind", "serve", "take"]

PackedItem: TypeAlias = Any
"""The pickle of an item; or that, and its out-of-band buffers."""


class ServesStreams(Protocol):
    """The engine's part: `directview.engine._streams.Streams`."""

    def serve(self, f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call `f` and hand out the items of what it returns, until they end."""

    def take(self, seq: int) -> Any:
        """The next items of the stream that the caller's call `seq` serves, and whether there are more."""


_serving: ContextVar[ServesStreams] = ContextVar("directview.stream_calls.serving")


def bind(streams: ServesStreams) -> None:
    """Make `streams` answer what runs in this context from here on. Called by an engine when it starts."""
    _serving.set(streams)


def serve(f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call `f`, and hand out the items of the iterator that it returns to calls of `take`.

    Raises:
        TypeError: what it returned is no iterator.
        SerializationError: an item can't travel.
        BaseException: whatever `f` and its iterator raise, after the items before it have been taken.
    """
    return _serving.get().serve(f, args, kwargs)


def take(seq: int) -> Any:
    """The next items of a stream.

    Args:
        seq: the number of the same client's call of `serve`.

    Returns:
        A list of `PackedItem`, and whether there may be more.
    """
    return _serving.get().take(seq)
