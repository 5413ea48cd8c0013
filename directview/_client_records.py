"""What a client remembers of the calls that it has made: their names, and the last results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from directview import _checking
from directview._client_waiting import Waits, as_set, listed, wrong_job
from directview._detached_calls import AnotherClient, fetch_result
from directview._metadata import parse_msg_id
from directview._slots import Keepsake, Slots
from directview.errors import CompositeError, RemoteError, TaskAborted
from directview.result import AsyncResult

__all__ = ["Records"]


class Records(Waits):
    """The part of a `Client` that remembers."""

    # --- what there is ------------------------------------------------------------------------------------

    @property
    def history(self) -> list[str]:
        """The msg_ids of the calls made through this client, oldest first: those of the last 10,000 calls."""
        return self._msg_ids([call for calls in self._memory.calls() for call in calls])

    @property
    def results(self) -> Mapping[str, Any]:
        """What calls that have ended returned, or their errors, by msg_id.

        The last 1000 results are kept, as many of them as fit into 64 MiB together.
        """
        return Results(self)

    @property
    def metadata(self) -> Mapping[str, dict[str, Any]]:
        """What is known about calls, by msg_id, as in `AsyncResult.metadata`: outstanding and kept ones."""
        return MetadataOfCalls(self)

    # --- asking again -------------------------------------------------------------------------------------

    def _result(self, found: Slots[Any] | Keepsake | None, job: object) -> AsyncResult[Any]:
        if found is None:
            raise KeyError(
                f"the result of {job} is not kept any more, or was too large: hold on to its AsyncResult"
            )
        result = Slots._again(self, found) if isinstance(found, Keepsake) else found
        assert isinstance(result, AsyncResult)
        return result

    def get_result(self, ids: Any = None, block: bool | None = None, owner: bool = True) -> AsyncResult[Any]:
        """The result of calls that were made before, also of blocking ones.

        Args:
            ids: a msg_id: that call, on its engine; of another client's, a detached call. Or an index into
                `history`: the whole call that is meant by it, on all its engines; an `AsyncResult`; or a list
                of these, whose results are joined. None: the last call.
            block: wait until it is done; None: as the client's `block`.
            owner: accepted for programs that pass it.

        Returns:
            An `AsyncResult`: for a call that goes on, the very one that was returned then.

        Raises:
            KeyError: no such call, or its result is not kept any more (see `results`). Another client's
                call says that itself, by `ResultUnavailable`.
            IndexError: no such index.
        """
        result = self.get_result_async(ids)
        if self.block if block is None else block:
            result.wait()
        return result

    def get_result_async(self, ids: Any = None) -> AsyncResult[Any]:
        """`get_result` that does not wait: the `AsyncResult`, to await or `get` later."""
        return self._get_result(-1 if ids is None else ids)

    def get_result_sync(self, ids: Any = None) -> AsyncResult[Any]:
        """`get_result` that waits until the call has ended, and raises nothing of its own."""
        return self.get_result(ids, block=True)

    def _get_result(self, ids: Any) -> AsyncResult[Any]:
        if isinstance(ids, AsyncResult):
            return ids
        if isinstance(ids, str):
            if parse_msg_id(ids)[0] != self.client_uuid:
                return self._fetched(ids)
            found = self._locate(ids)
            return self._result(found.result, ids).split()[found.slot]
        if hasattr(ids, "__index__"):
            return self._result(self._locate(ids.__index__()).result, f"history[{ids}]")
        if not isinstance(ids, Iterable):
            raise wrong_job(ids)
        jobs = listed(ids)
        if not jobs:
            raise ValueError("get_result needs at least one msg_id, index or AsyncResult")
        if all([isinstance(job, str) and parse_msg_id(job)[0] == self.client_uuid for job in jobs]):
            whole = self._result(self._locate(jobs[0]).result, jobs[0])
            if whole.msg_ids == jobs:
                return whole
        return AsyncResult.join(*[self._get_result(job) for job in jobs])

    def _fetched(self, msg_id: str) -> AsyncResult[Any]:
        """The result of another client's detached call."""
        uuid = parse_msg_id(msg_id)[0]
        owners = self.__dict__.setdefault("_other_clients", {})
        owner = owners.setdefault(uuid, AnotherClient(self, uuid))
        return fetch_result(owner, self._binding.core(), msg_id)

    def result_status(self, ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Which calls have ended.

        Args:
            ids: msg_ids, indices into `history`, AsyncResults, or a list of these.
            status_only: False: also what they returned, by msg_id.

        Returns:
            Lists of msg_ids under ``pending`` and ``completed``.

        Raises:
            RemoteError: a call failed, and its result was asked for; CompositeError if several did.
            KeyError: as for `get_result`.
        """
        still = self.outstanding
        found: dict[str, Any] = {"pending": [], "completed": []}
        for job in listed(ids):
            names = [job] if isinstance(job, str) else self._names_of(job)
            for name in names:
                self._locate(name)
                found["pending" if name in still else "completed"].append(name)
        if status_only:
            return found
        errors: list[Exception] = []
        for name in found["completed"]:
            value = self.results[name]
            found[name] = value
            if isinstance(value, RemoteError | TaskAborted):
                errors.append(value)
        if errors:
            raise errors[0] if len(errors) == 1 else CompositeError.from_call("result_status", errors)
        return found

    def _names_of(self, job: Any) -> list[str]:
        return self._get_result(job).msg_ids

    # --- forgetting ---------------------------------------------------------------------------------------

    def purge_local_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget results of calls that have ended, here; the controller's records stay. Never waits.

        Args:
            jobs: as for `get_result`, or ``'all'``.
            targets: engines, whose results are all forgotten.

        Raises:
            RuntimeError: a call that is named has not ended.
            KeyError, IndexError: there was no such call, or no such engine.
        """
        if isinstance(jobs, str) and jobs == "all":
            for keepsake in self._memory.kept():
                self._memory.forget(keepsake)
            return
        still = self.outstanding
        for job in listed(jobs):
            names = [job] if isinstance(job, str) else self._names_of(job)
            for name in names:
                if name in still:
                    raise RuntimeError(f"call {name} has not ended: its result can't be forgotten")
                found = self._locate(name).result
                if isinstance(found, Keepsake):
                    self._memory.forget(found)
        if not _checking.nothing(targets):
            ids = as_set(
                self._choose(slice(None) if isinstance(targets, str) and targets == "all" else targets)
            )
            for keepsake in self._memory.kept():
                if ids.intersection([engine for _, engine in keepsake.calls]):
                    self._memory.forget(keepsake)


class Results(Mapping[str, Any]):
    """`Client.results`."""

    def __init__(self, client: Records) -> None:
        self._client = client

    def __getitem__(self, name: str) -> Any:
        found = self._client._locate(name)
        result = self._client._result(found.result, name)
        return result._said(found.slot)

    def __iter__(self) -> Iterator[str]:
        for keepsake in self._client._memory.kept():
            yield from self._client._msg_ids(keepsake.calls)

    def __len__(self) -> int:
        return sum([len(keepsake.calls) for keepsake in self._client._memory.kept()])


class MetadataOfCalls(Mapping[str, dict[str, Any]]):
    """`Client.metadata`."""

    def __init__(self, client: Records) -> None:
        self._client = client

    def __getitem__(self, name: str) -> dict[str, Any]:
        found = self._client._locate(name)
        whole = self._client._result(found.result, name).metadata
        described: dict[str, Any] = whole[found.slot] if isinstance(whole, list) else whole
        return described

    def __iter__(self) -> Iterator[str]:
        yield from self._client.results
        yield from self._client.outstanding

    def __len__(self) -> int:
        return len(self._client.results) + len(self._client.outstanding)
