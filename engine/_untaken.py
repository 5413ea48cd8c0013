"""Pure: what one client has not taken yet of what an engine has made for it, and what follows from that.

A result is kept here until its client has acknowledged it. That much of it is sent ahead of the
acknowledgements as keeps a fast client busy; the rest stays here, so that a client that does not read fills
neither the controller nor, if only its loop stands still, itself. And when too much is kept, no more calls
of that client are begun until it has taken half of that: they wait in the controller.

What calls print can't be asked for again, so it is sent at once. Too much of it that has not been taken stops
further calls, too; what those that run print beyond is not sent at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from directview.engine._calls import Call
from directview.wire.transfers import GRANT_AHEAD

__all__ = ["MOST_UNTAKEN", "Untaken", "most_untaken"]

MOST_UNTAKEN: Final = 256 << 20
"""Bytes of results that a client may leave here until no more of its calls are begun."""
_RECORD: Final = 1024
"""Bytes that a result takes here beside its value: a million empty ones are no small matter."""
_IN_HEADER: Final = 64
"""Bytes that a result takes on its way beside its value, about."""
_OUTPUT_AHEAD: Final = 16 << 20
"""Of output, as `output_size` counts, that may be under way until no more calls are begun."""
_MOST_OUTPUT: Final = 80 << 20
"""Of output under way, until none is sent: one call that begins may always print as much as a call may."""


_VARIABLE: Final = "DIRECTVIEW_UNTAKEN"


def most_untaken(environment: Mapping[str, str]) -> int:
    """`MOST_UNTAKEN`, or what ``DIRECTVIEW_UNTAKEN`` says (MiB).

    Raises:
        ValueError: it is no number of at least 1.
    """
    given = environment.get(_VARIABLE, "")
    if not given:
        return MOST_UNTAKEN
    if not given.isdecimal() or not int(given):
        raise ValueError(
            f"{_VARIABLE}={given!r}: at least 1, the MiB of results that a client may leave with an engine"
        )
    return int(given) << 20


class Untaken:
    """One client's account.

    Args:
        most: bytes of results that it may leave here.
    """

    __slots__ = ("_most", "ahead", "behind", "kept", "most_ahead", "output", "paused", "sent")

    def __init__(self, most: int) -> None:
        self._most = most
        self.most_ahead = min(GRANT_AHEAD, most // 2)
        """Bytes of results that are sent ahead of their acknowledgements; a larger one goes alone."""
        self.kept = 0
        """Bytes of results that are here."""
        self.sent: dict[int, int] = {}
        """Results that were sent and not acknowledged, by seq: bytes on the way, chunks aside."""
        self.ahead = 0
        """Bytes of them."""
        self.behind: dict[int, Call] = {}
        """Results that wait for that to be less, in order."""
        self.output = 0
        """What was sent of output and not taken."""
        self.paused = False
        """The controller was told that no calls of this client are begun."""

    def keep(self, call: Call) -> None:
        """A result has been made."""
        call.weight = weight(call)
        self.kept += call.weight

    def may_send(self, call: Call) -> bool:
        """Whether the result may be sent now, or again; it counts as sent then. Otherwise it is behind."""
        sent, seq = self.sent, call.seq
        if seq in sent:
            return True
        assert call.result is not None
        size = call.result[0].nbytes + _IN_HEADER
        ahead = self.ahead + size
        if (ahead > self.most_ahead or self.behind) and sent:
            self.behind[seq] = call
            call.behind = True
            return False
        sent[seq] = size
        self.ahead = ahead
        return True

    def arrived(self, call: Call) -> None:
        """A result has been taken, and stays here all the same."""
        self.ahead -= self.sent.pop(call.seq, 0)

    def drop(self, call: Call) -> None:
        """A result has been taken, or nobody wants it."""
        self.kept -= call.weight
        self.ahead -= self.sent.pop(call.seq, 0)
        if call.behind:
            self.behind.pop(call.seq, None)
            call.behind = False

    def catch_up(self) -> Iterator[Call]:
        """Results that were behind and may be sent now."""
        while self.behind:
            call = next(iter(self.behind.values()))
            assert call.result is not None
            size = call.result[0].nbytes + _IN_HEADER
            if self.sent and self.ahead + size > self.most_ahead:
                return
            del self.behind[call.seq]
            call.behind = False
            self.sent[call.seq] = size
            self.ahead += size
            yield call

    def begin_again(self) -> None:
        """A connection was lost: nothing is under way, and what is wanted will be asked for."""
        for call in self.behind.values():
            call.behind = False
        self.behind.clear()
        self.sent.clear()
        self.ahead = self.output = 0

    @property
    def may_print(self) -> bool:
        """More output may be sent."""
        return self.output < _MOST_OUTPUT

    @property
    def too_much(self) -> bool:
        """No more calls are to be begun."""
        return self.kept > self._most or self.output > _OUTPUT_AHEAD

    @property
    def little(self) -> bool:
        """They may be begun again."""
        return self.kept <= self._most // 2 and self.output <= _OUTPUT_AHEAD // 2


def weight(call: Call) -> int:
    """Bytes that its result takes here."""
    parcel = call.result[1] if call.result is not None else None
    if parcel is None:
        return _RECORD
    return parcel.nbytes + _RECORD + (sum([len(chunk) for chunk in parcel.chunks]) if parcel.chunks else 0)
