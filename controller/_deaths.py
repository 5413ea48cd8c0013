"""Pure: what the controller tells of engines that died: what they were running, and who died last."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from directview.controller._history import History
from directview.wire.postmortem import MAX_RUNNING, Postmortem

__all__ = ["MOST_DEATHS", "Deaths", "names_running"]

MOST_DEATHS: Final = 20
"""Deaths that are remembered, for `directview status`."""
_MOST_NAMES: Final = 5
_MOST_UUIDS: Final = 10_000


def names_running(history: History, given: Mapping[bytes, Sequence[int]]) -> str:
    """What an engine that died may have been running: for each client the first call that it had been given.

    Args:
        history: knows the names of calls.
        given: seqs by client, those that were running first.
    """
    names = history.names(islice(((client, seqs[0]) for client, seqs in given.items() if seqs), _MOST_NAMES))
    return ", ".join(dict.fromkeys(names))[:MAX_RUNNING]


class Deaths:
    """The last engines that did not end in order."""

    def __init__(self) -> None:
        self._deaths: deque[dict[str, Any]] = deque(maxlen=MOST_DEATHS)
        self._uuids: OrderedDict[bytes, tuple[int | None, str]] = OrderedDict()
        """With the exit code and the reason."""

    def __contains__(self, uuid: bytes) -> bool:
        """Whether this engine's end has been told, as far as that is remembered."""
        return uuid in self._uuids

    def note(
        self, id: int, uuid: bytes, exit_code: int | None, reason: str, known: Postmortem, when: float
    ) -> None:
        """An engine is dead. `when`: seconds since the epoch. One that ended in order is none of ours."""
        self._uuids[uuid] = (exit_code, reason)
        if len(self._uuids) > _MOST_UUIDS:
            self._uuids.popitem(last=False)
        if exit_code != 0 and reason:
            self._deaths.append(
                {
                    "id": id,
                    "uuid": uuid.hex(),
                    "when": when,
                    "exit_code": exit_code,
                    "reason": reason,
                    "running": known.running,
                    "memory": known.memory,
                    "peak_memory": known.peak,
                    "last_words": known.said,
                    "outlook": known.outlook,
                }
            )

    def how(self, uuid: bytes) -> tuple[int | None, str]:
        """Exit code and reason of an end, for a client that could not be told of it then."""
        return self._uuids.get(uuid, (None, "it ended while this client was not connected"))

    def told(self) -> Iterable[dict[str, Any]]:
        """As plain data, oldest first."""
        return list(self._deaths)
