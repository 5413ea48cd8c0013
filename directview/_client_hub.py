"""What a client asks its controller: how engines stand, which calls there were, and to forget them.

Every question waits for its answer: by blocking, or (``_async``) by awaiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from directview import _checking
from directview._client_resubmit import Resubmits
from directview._client_waiting import listed
from directview._dispatching import ANYWHERE
from directview._metadata import moment

__all__ = ["Hub"]

_TIMES: Final = frozenset({"submitted", "started", "completed", "received"})


class Hub(Resubmits):
    """The part of a `Client` that asks the controller what it knows."""

    async def query(self, what: str, **params: Any) -> Any:
        """Ask the controller, without blocking: ``status``, ``queue_status``.

        Args:
            what: the question.
            params: what it is about, as plain data.

        Returns:
            The answer, as plain data.

        Raises:
            ValueError: the question is unknown or wrong; the text says how.
            ControllerLost: the controller is gone.
        """
        return await asyncio.wrap_future(self._binding.core().query(what, params))

    def _ask(self, name: str, what: str, **params: Any) -> Any:
        self.check_may_block(f"{name}()", f"`await rc.{name}_async(...)`")
        return self._binding.core().query(what, params).result()

    def _targeted(self, targets: Any) -> list[int] | None:
        """Engine ids for the controller; None: all."""
        if targets is None or (isinstance(targets, str) and targets == "all"):
            return None
        chosen = self._choose(targets)
        return [chosen] if isinstance(chosen, int) else chosen

    # --- engines ------------------------------------------------------------------------------------------

    def queue_status(self, targets: Any = None, verbose: bool = False) -> dict[Any, Any]:
        """How many calls wait for each engine, have been given to it, and have ended on it.

        They are counted under ``queue``, ``tasks`` and ``completed``. Blocks.

        Args:
            targets: engines; None or ``'all'``: all of them.
            verbose: lists of msg_ids instead of numbers; of calls that have ended, those that the controller
                remembers.

        Returns:
            For one engine by its id, its own; otherwise one for each, by id, and under ``unassigned`` the
            calls of this client's load-balanced views for which no engine has been chosen yet.

        Raises:
            IndexError: there is no such engine.
            WouldBlockLoop: this is the thread of the client's own event loop: await `queue_status_async`.
        """
        answer = self._ask("queue_status", "queue_status", targets=self._targeted(targets), verbose=verbose)
        return self._by_engine(answer, targets)

    async def queue_status_async(self, targets: Any = None, verbose: bool = False) -> dict[Any, Any]:
        """`queue_status` for event loops. May be cancelled."""
        answer = await self.query("queue_status", targets=self._targeted(targets), verbose=verbose)
        return self._by_engine(answer, targets)

    def _by_engine(self, answer: dict[str, Any], targets: Any) -> dict[Any, Any]:
        found = {int(key) if key.isdigit() else key: value for key, value in answer.items()}
        if _checking.is_index(targets):
            chosen = self._targeted(targets)
            assert chosen is not None
            one: dict[Any, Any] = found[chosen[0]]
            return one
        waiting = [(number, ANYWHERE) for number in self._binding.core().balanced.waiting]
        found["unassigned"] = (
            self._msg_ids(waiting) if isinstance(found["unassigned"], list) else len(waiting)
        )
        return found

    # --- calls, of all clients ----------------------------------------------------------------------------

    def hub_history(self) -> list[str]:
        """The msg_ids of all clients' calls, oldest first, as far back as the controller remembers. Blocks.

        Raises:
            WouldBlockLoop: this is the thread of the client's own event loop: await `hub_history_async`.
        """
        return [record["msg_id"] for record in self._records("hub_history", {}, "msg_id")]

    async def hub_history_async(self) -> list[str]:
        """`hub_history` for event loops. May be cancelled."""
        return [record["msg_id"] for record in await self.db_query_async({}, "msg_id")]

    def db_query(
        self, query: Mapping[str, Any] | None = None, keys: str | Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """The records of calls, of all clients, that a query fits, oldest first. Blocks.

        ::

            rc.db_query({"status": "error", "completed": {"$gt": an_hour_ago}}, keys=["engine_id", "name"])

        The controller remembers the last 10,000 calls; one with a store (``directview start --store PATH``)
        the last million. A record has ``msg_id``, ``client_uuid``, ``engine_id``, ``engine_uuid``, ``name``,
        ``submitted``, ``started``, ``completed``, ``received``, ``status``, ``nbytes`` (of the arguments) and
        ``result_nbytes``; arguments and results are not in it. Times are aware datetimes in UTC, or None. The
        status is ``ok``, ``error``, ``aborted``, ``lost`` (its engine ended), ``dropped`` (its client did),
        or None while it goes on.

        Args:
            query: fields and what they are to be: a value, or operators and values: ``$lt``, ``$lte``,
                ``$gt``, ``$gte``, ``$eq``, ``$ne``, ``$in``, ``$nin``, ``$exists``, ``$mod``. All must hold;
                ``$and`` and ``$or`` take lists of queries. Times may be datetimes, or seconds since the
                epoch.
            keys: the fields that are wanted, beside ``msg_id``; None: all.

        Returns:
            One dict for each call and engine.

        Raises:
            ValueError: there is no such field or operator, or it is compared with another kind of thing.
            WouldBlockLoop: this is the thread of the client's own event loop: await `db_query_async`.
        """
        return self._records("db_query", query, keys)

    async def db_query_async(
        self, query: Mapping[str, Any] | None = None, keys: str | Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """`db_query` for event loops. May be cancelled."""
        found: list[dict[str, Any]] = []
        params = _params(query, keys)
        while params is not None:
            params = _take(await self.query("db_query", **params), params, found)
        return found

    def _records(self, name: str, query: Any, keys: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        params = _params(query, keys)
        while params is not None:
            params = _take(self._ask(name, "db_query", **params), params, found)
        return found

    # --- forgetting ---------------------------------------------------------------------------------------

    def purge_hub_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Have the controller forget its records of calls that have ended. Blocks.

        Args:
            jobs: msg_ids (of any client), indices into `history`, AsyncResults, or a list of these; or
                ``'all'``.
            targets: engines, all of whose records are forgotten.

        Raises:
            ValueError: a call that is named has not ended.
            WouldBlockLoop: this is the thread of the client's own event loop: await the other one.
        """
        self.check_may_block("purge_hub_results()", "`await rc.purge_hub_results_async(...)`")
        for params in self._doomed(jobs, targets):
            self._ask("purge_hub_results", "purge", **params)

    async def purge_hub_results_async(self, jobs: Any = (), targets: Any = ()) -> None:
        """`purge_hub_results` for event loops. May be cancelled."""
        for params in self._doomed(jobs, targets):
            await self.query("purge", **params)

    def _doomed(self, jobs: Any, targets: Any) -> list[dict[str, Any]]:
        if isinstance(jobs, str) and jobs == "all":
            return [{}]
        msg_ids = [
            name for job in listed(jobs) for name in ([job] if isinstance(job, str) else self._names_of(job))
        ]
        found: list[dict[str, Any]] = []
        if msg_ids:
            found.append({"msg_ids": msg_ids})
        if not _checking.nothing(targets):
            found.append({"targets": self._targeted(targets)})
        return found

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget results of calls that have ended: here, and their records in the controller. Blocks.

        Args:
            jobs: as for `get_result`, or ``'all'``.
            targets: engines, whose results are all forgotten.

        Raises:
            RuntimeError: a call that is named has not ended.
            KeyError, IndexError: there was no such call, or no such engine.
            WouldBlockLoop: this is the thread of the client's own event loop: await `purge_results_async`.
        """
        self.check_may_block("purge_results()", "`await rc.purge_results_async(...)`")
        doomed = self._doomed(jobs, targets)
        self.purge_local_results(jobs, targets)
        for params in doomed:
            self._ask("purge_results", "purge", **params)

    async def purge_results_async(self, jobs: Any = (), targets: Any = ()) -> None:
        """`purge_results` for event loops. May be cancelled."""
        doomed = self._doomed(jobs, targets)
        self.purge_local_results(jobs, targets)
        for params in doomed:
            await self.query("purge", **params)

    def purge_everything(self) -> None:
        """Forget all results, and the history of calls that have ended, here and in the controller. Blocks.

        Raises:
            WouldBlockLoop: this is the thread of the client's own event loop: await `purge_everything_async`.
        """
        self._ask("purge_everything", "purge")
        self._forget_all()

    async def purge_everything_async(self) -> None:
        """`purge_everything` for event loops. May be cancelled."""
        await self.query("purge")
        self._forget_all()

    def _forget_all(self) -> None:
        with self._binding.core().lock:  # no call is made meanwhile
            self._memory.forget_all()


def _params(query: Any, keys: Any) -> dict[str, Any] | None:
    if keys is not None:
        _checking.names(keys, "keys")
    wanted = [keys] if isinstance(keys, str) else keys if keys is None else list(keys)
    return {"query": _plain({} if query is None else query), "keys": wanted, "after": 0}


def _take(
    answer: dict[str, Any], params: dict[str, Any], found: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Add the records of an answer; what to ask next."""
    fields = answer["fields"]
    for row in answer["rows"]:
        record = dict(zip(fields, row, strict=True))
        for name in _TIMES.intersection(record):
            record[name] = moment(record[name])
        found.append(record)
    return None if answer["next"] is None else {**params, "after": answer["next"]}


def _plain(value: Any) -> Any:
    """A query as it travels: times as seconds, and only what the controller can read."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"a query compares with text, numbers, datetimes and None, not with {value!r:.60}")
