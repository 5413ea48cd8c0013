"""Pure: what is known of an engine after its end, beside its exit code: for whoever asks why it died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple, TypeVar

from directview.wire.fields import Check, boolean, integer, record, text

__all__ = ["NOTHING_KNOWN", "Postmortem", "deaths", "postmortem"]

T = TypeVar("T")

MAX_SAID: Final = 4096
"""Characters of last words that travel."""
MAX_RUNNING: Final = 1024


class Postmortem(NamedTuple):
    """What the supervisor and the controller can tell of an engine that has ended."""

    memory: int = 0
    """Bytes that it had in memory when that was last looked at; 0 if nobody did."""
    peak: int = 0
    """The most that it ever had, as the kernel counts; 0 if that is not known."""
    said: str = ""
    """The end of its log: what the interpreter or C code wrote to its stderr last."""
    running: str = ""
    """Names of the calls that it was running, or had been given and might have been running."""
    id: int = -1
    """The engine's, for one that the controller knows nothing of: it ended before it had registered."""
    returns: bool = False
    """Its supervisor starts another one in its place."""
    outlook: str = ""
    """That in words, or why it does not do so any more; empty where nobody wanted it."""


NOTHING_KNOWN: Final = Postmortem()

postmortem: Final[Check] = record(
    Postmortem, integer(0, (1 << 63) - 1), integer(0, (1 << 63) - 1), text(MAX_SAID), text(MAX_RUNNING),
    integer(-1, (1 << 31) - 1), boolean, text(MAX_RUNNING),
)  # fmt: skip
"""The check of this field in a message."""


def deaths(left: Sequence[T], known: Sequence[Postmortem]) -> Iterator[tuple[T, Postmortem]]:
    """Each engine that left with what is known of it, where anything is."""
    yield from zip(left, known if len(known) == len(left) else repeat(NOTHING_KNOWN), strict=False)
