"""Which engines a load-balanced view means, and its flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from directview._task_dependencies import Dependency, as_dependency
from directview._view_control import Control
from directview._view_targets import Many, Targets
from directview.errors import NoEnginesRegistered

if TYPE_CHECKING:
    from directview.client import Client

__all__ = ["BalancedFlags", "listed"]

_FLAGS: Final = (
    "targets", "block", "track", "label", "after", "follow", "timeout", "retries", "time_limit", "detached",
)  # fmt: skip
_SCHEMES: Final = ("leastload", "lru", "plainrandom", "pure", "twobin", "weighted")


class BalancedFlags(Control[Many]):
    """The flags of a load-balanced view. Arguments as for `LoadBalancedView`."""

    def __init__(
        self,
        client: Client,
        targets: int | Sequence[int] | Literal["all"] | None = None,
        *,
        block: bool | None = None,
        track: bool = False,
        label: str | None = None,
        after: Any = None,
        follow: Any = None,
        timeout: float | None = None,
        retries: int = 0,
        time_limit: float | None = None,
        detached: bool = False,
        scheme: str = "leastload",
    ) -> None:
        if scheme not in _SCHEMES:
            raise ValueError(f"scheme: expected one of {', '.join(_SCHEMES)}, got {scheme!r:.60}")
        chosen = listed(targets)
        super().__init__(
            client, chosen, block=block, track=track, label=label, time_limit=time_limit, detached=detached
        )
        self.after = after
        self.follow = follow
        self.timeout = timeout
        self.retries = retries

    # --- flags ----------------------------------------------------------------------------------------

    @property  # type: ignore[override] # a direct view has always some
    def targets(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> list[int] | None:
        """ids of the engines among which calls are balanced; None: all that there are.

        Assign an id, a list of ids, a slice of the client's ids, ``'all'`` or None.
        """
        return None if isinstance(self._targets, int | str) else list(self._targets)

    @targets.setter
    def targets(self, targets: Targets | None) -> None:
        self._targets = listed(None if targets is None else self._chosen(targets))

    @property
    def after(self) -> Dependency | None:
        """Calls that must have ended before a call starts."""
        return self._after

    @after.setter
    def after(self, calls: Any) -> None:
        self._after = as_dependency("after", calls)

    @property
    def follow(self) -> Dependency | None:
        """Calls that must have ended before a call starts, on the engine where they ran."""
        return self._follow

    @follow.setter
    def follow(self, calls: Any) -> None:
        self._follow = as_dependency("follow", calls)

    @property
    def timeout(self) -> float | None:
        """Seconds that a call may wait for an engine; None: any number."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        if seconds is None or (not isinstance(seconds, bool) and seconds == 0):
            self._timeout = None
            return
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"timeout: expected a number of seconds, or None, got {seconds!r:.60}")
        if not seconds > 0:
            raise ValueError(f"timeout: expected seconds above 0, or None for no limit, got {seconds!r:.60}")
        self._timeout = float(seconds)

    @property
    def retries(self) -> int:
        """How often a call is begun again that has failed."""
        return self._retries

    @retries.setter
    def retries(self, times: int) -> None:
        if isinstance(times, bool) or not hasattr(times, "__index__"):
            raise TypeError(f"retries: expected an int, got {times!r:.60}")
        if times < 0:
            raise ValueError(f"retries: expected 0 or more, got {times!r:.60}")
        self._retries = int(times.__index__())

    def set_flags(self, **flags: Any) -> None:
        """Assign several flags."""
        for name in flags:
            if name not in _FLAGS:
                raise TypeError(f"a load-balanced view has no flag {name!r}: {', '.join(_FLAGS)}")
        for name, value in flags.items():
            setattr(self, name, value)

    @contextmanager
    def temp_flags(self, **flags: Any) -> Iterator[None]:
        """`set_flags` for the time of a ``with`` block. Not for concurrent tasks: see `options`."""
        names = ["track", "label", *(f"_{name}" for name in _FLAGS if name not in ("track", "label"))]
        before = {name: getattr(self, name) for name in names}
        try:
            self.set_flags(**flags)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    # --- how it is done -------------------------------------------------------------------------------

    def _ids(self, targets: Targets | None) -> tuple[int, ...]:
        chosen = self._targets if targets is None else listed(self._chosen(targets))
        there = self.client._all_ids()
        if isinstance(chosen, int | str):
            return there
        ids = tuple([id for id in chosen if id in there])
        if not ids:
            raise NoEnginesRegistered(
                f"none of the engines {chosen} of this view is left; there are {list(there)}: "
                "assign others to its `targets`, or None for all"
            )
        return ids


def listed(targets: int | Sequence[int] | Literal["all"] | None) -> Sequence[int] | Literal["all"]:
    """Ids of engines as a list, for a view whose results are scalars whatever its targets."""
    if targets is None or targets == "all":
        return "all"
    return [targets] if isinstance(targets, int) else list(targets)
