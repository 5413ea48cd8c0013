"""What users say a balanced task depends on, and the calls that are meant by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from directview._balancing_gates import CallId, Condition, Gate, Outcome
from directview._metadata import parse_msg_id
from directview._slots import Keepsake, Slots
from directview.errors import InvalidDependency
from directview.result import AsyncResult

if TYPE_CHECKING:
    from directview.client import Client

__all__ = ["Dependency", "Depended", "as_dependency", "gate", "resolve"]


class Dependency(set[str]):
    """Calls, by msg_id, of which a balanced task is to run after all or any, or is to follow them.

    Args:
        dependencies: an `AsyncResult`, a msg_id, a collection of these, or what `as_dict` made.
        all: whether each of the calls must have ended so, or any one of them.
        success: whether calls that succeeded count.
        failure: whether calls that failed count.

    Raises:
        TypeError: a dependency is neither a msg_id nor an AsyncResult.
        ValueError: neither successes nor failures count.
    """

    def __init__(
        self, dependencies: Any = (), all: bool = True, success: bool = True, failure: bool = False
    ) -> None:
        if isinstance(dependencies, dict):
            given = dependencies
            dependencies = given.get("dependencies", ())
            all = given.get("all", all)
            success, failure = given.get("success", success), given.get("failure", failure)
        if not success and not failure:
            raise ValueError("a Dependency must count successes or failures: success=True or failure=True")
        super().__init__()
        self._results: dict[str, tuple[AsyncResult[Any], int]] = {}
        self.all = bool(all)
        self.success = bool(success)
        self.failure = bool(failure)
        if isinstance(dependencies, Dependency):
            self._results.update(dependencies._results)
        if isinstance(dependencies, str | AsyncResult) or not isinstance(dependencies, Iterable):
            dependencies = (dependencies,)
        for one in dependencies:
            if isinstance(one, AsyncResult):
                names = one.msg_ids
                self._results.update({name: (one, slot) for slot, name in enumerate(names)})
                self.update(names)
            elif isinstance(one, str):
                self.add(one)
            else:
                raise TypeError(f"a dependency is an AsyncResult or a msg_id, not {one!r:.60}")

    def check(self, completed: set[str], failed: set[str] | None = None) -> bool:
        """Whether it is met when the calls `completed` have succeeded, and those `failed`."""
        counting = (completed if self.success else set()) | ((failed or set()) if self.failure else set())
        if not self:
            return True
        return self <= counting if self.all else not self.isdisjoint(counting)

    def unreachable(self, completed: set[str], failed: set[str] | None = None) -> bool:
        """Whether it can't be met any more when the calls `completed` have succeeded, and those `failed`."""
        useless = (set() if self.success else completed) | (set() if self.failure else (failed or set()))
        if not self:
            return False
        return not self.isdisjoint(useless) if self.all else self <= useless

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "dependencies": list(self), "all": self.all, "success": self.success, "failure": self.failure,
        }  # fmt: skip


def as_dependency(flag: str, given: Any) -> Dependency | None:
    """What a user has assigned to `after` or `follow`.

    Raises:
        TypeError: it is nothing that a task can depend on.
    """
    if given is None:
        return None
    try:
        made = given if isinstance(given, Dependency) else Dependency(given)
    except TypeError as error:
        raise TypeError(f"{flag}: {error}") from None
    return made or None


_Found: TypeAlias = list[tuple[CallId, Slots[Any] | Keepsake, int]]


class Depended(NamedTuple):
    """A dependency, and the results to which its calls belong, by slot."""

    dependency: Dependency
    found: _Found


def resolve(client: Client, flag: str, dependency: Dependency | None) -> Depended | None:
    """Find the calls that a dependency names. On any thread.

    Raises:
        InvalidDependency: a call is none of this client's, or nothing is known of it any more.
    """
    if dependency is None:
        return None
    found: _Found = []
    uuid = client.client_uuid
    for name in dependency:
        known = dependency._results.get(name)
        try:
            if known is not None:
                result, slot = known
                if result._owner is not client:
                    raise KeyError(f"{name} is a call of another client")
                found.append((result._calls[slot], result, slot))
                continue
            _, seq, engine = parse_msg_id(name)
            located = client._locate(name)
        except (KeyError, ValueError) as error:
            raise InvalidDependency(f"{flag}: {error.args[0]}") from None
        if located.result is None:
            raise InvalidDependency(
                f"{flag}: call {uuid}_{seq}_{engine} has ended and nothing is known of it any more: "
                "give its AsyncResult instead"
            )
        found.append(((seq, engine), located.result, located.slot))
    return Depended(dependency, found)


def gate(after: Depended | None, follow: Depended | None) -> Gate | None:
    """What tasks with these dependencies wait for. On the client's loop, where results come in."""
    if after is None and follow is None:
        return None
    made = Gate(_condition(after, placed=False), _condition(follow, placed=True))
    for depended in (after, follow):
        if depended is not None:
            made.note(_outcomes(depended.found))
    return made


def _condition(depended: Depended | None, *, placed: bool) -> Condition | None:
    if depended is None:
        return None
    wanted, found = depended
    ids = [id for id, _, _ in found]
    return Condition(ids, all=wanted.all, success=wanted.success, failure=wanted.failure, placed=placed)


def _outcomes(found: _Found) -> Mapping[CallId, Outcome]:
    outcomes: dict[CallId, Outcome] = {}
    for id, result, slot in found:
        outcome = outcome_of(result, slot)
        if outcome is not None:
            outcomes[id] = outcome
    return outcomes


def outcome_of(result: Slots[Any] | Keepsake, slot: int) -> Outcome | None:
    """How a call has ended; None: it has not."""
    metadata = result.metadata if isinstance(result, Keepsake) else result._metadata
    known = metadata[slot] if metadata is not None else None
    return None if known is None else Outcome(known.status == "ok", known.engine_uuid)
