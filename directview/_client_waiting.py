"""Which calls of a client are meant, waiting for them, and ending them.

A call is named by its msg_id (a str, one for each engine), or by an index into `Client.history` (an int).
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from directview import _checking
from directview._binding import Binding
from directview._memory import Memory
from directview._metadata import msg_id, parse_msg_id
from directview._slots import Keepsake, Slots
from directview.result import AsyncResult

if TYPE_CHECKING:
    from directview._view_targets import Targets

__all__ = ["Waits", "as_set", "listed", "wrong_job"]


class Waits:
    """The part of a `Client` that waits for calls."""

    _binding: Binding

    @property
    def block(self) -> bool:
        """Whether what follows `block` waits by default."""
        raise NotImplementedError

    def check_may_block(self, what: str, instead: str) -> None:
        """Return if this thread may wait for results of this client; raise what says why not.

        Args:
            what: the blocking call, for the error's text.
            instead: what to use instead.

        Raises:
            WouldBlockLoop, RuntimeError, ClientClosed: it may not.
        """
        self._binding.check_may_block(what, instead)

    def check_running(self) -> None:
        """Return if this client's event loop runs, so that awaiting its results can end."""
        self._binding.check_running()

    def cancel_calls(self, calls: Sequence[tuple[int, int]]) -> None:
        """Ask for the end of calls, (seq, engine id) each, without waiting."""
        if not self._binding.closed:
            self._binding.core().cancel(calls)

    def cancel_calls_soon(self, calls: Sequence[tuple[int, int]]) -> None:
        """`cancel_calls` for finalizers, which run at any moment and on any thread."""
        if not self._binding.closed:
            self._binding.core().cancel_soon(calls)

    @property
    def client_uuid(self) -> str:
        """This client's uuid, in hex."""
        return self._binding.uuid.hex()

    def _msg_ids(self, calls: Iterable[tuple[int, int]]) -> list[str]:
        uuid = self.client_uuid
        return [msg_id(uuid, seq, id) for seq, id in calls]

    @property
    def _memory(self) -> Memory:
        return self._binding.core().memory

    def _choose(self, targets: Any) -> int | list[int]:
        raise NotImplementedError

    def _get_result(self, ids: Any) -> AsyncResult[Any]:
        raise NotImplementedError

    # --- one call -----------------------------------------------------------------------------------------

    def _locate(self, job: str | int) -> _Located:
        """The result that a msg_id or an index belongs to.

        Raises:
            KeyError: no such call, or nothing is kept of it.
            IndexError: no such index.
        """
        if isinstance(job, str):
            uuid, seq, engine = parse_msg_id(job)
            if uuid != self.client_uuid:
                raise KeyError(f"{job} is a call of another client")
        else:
            names = [call for calls in self._memory.calls() for call in calls]
            try:
                seq, engine = names[job]
            except IndexError:
                raise IndexError(f"index {job} of a history of {len(names)}") from None
        if not 0 < seq <= self._memory.last:
            raise KeyError(f"there was no call {job}")
        found = self._memory.find(seq)
        if found is None:
            return _Located(None, -1)
        calls = found.calls if isinstance(found, Keepsake) else found._calls
        if (seq, engine) not in calls:
            raise KeyError(f"call {job} did not go to engine {engine}")
        return _Located(found, list(calls).index((seq, engine)))

    @property
    def outstanding(self) -> set[str]:
        """The msg_ids of the calls that have not ended."""
        still = [call for result in self._memory.outstanding() for call in result._outstanding()]
        return set(self._msg_ids(still))

    # --- waiting ------------------------------------------------------------------------------------------

    def wait(self, jobs: Any = None, timeout: float | None = None) -> bool:
        """Block until calls have ended.

        Args:
            jobs: an `AsyncResult`, any Future, a msg_id, an index into `history`, or a list or mixture of
                these; None: all outstanding calls.
            timeout: seconds; None or negative: for ever.

        Returns:
            Whether all have ended.

        Raises:
            KeyError, IndexError: there was no such call.
        """
        futures = self._futures(jobs)
        _checking.seconds(timeout)
        self.check_may_block("wait()", "`await rc.wait_async(...)`")
        deadline = None if timeout is None or timeout < 0 else time.monotonic() + timeout
        for future in futures:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            concurrent.futures.wait([future], left)
        return all([future.done() for future in futures])

    async def wait_async(self, jobs: Any = None, timeout: float | None = None) -> bool:
        """`wait` for event loops. May be cancelled, which ends the waiting and no call."""
        _checking.seconds(timeout)
        futures = self._futures(jobs)
        try:
            async with asyncio.timeout(None if timeout is None or timeout < 0 else timeout):
                for future in futures:
                    await _until_done(future)
        except builtins.TimeoutError:
            pass
        return all([future.done() for future in futures])

    def wait_interactive(
        self, jobs: Any = None, interval: float = 0.1, timeout: float | None = None, **options: Any
    ) -> None:
        """Block until calls have ended, with a progress bar.

        Args:
            jobs: as for `get_result`; None: all outstanding calls.
            interval: as for `AsyncResult.wait_interactive`, also further options.
            timeout: seconds; None or negative: for ever.
            options: passed on.
        """
        results = self._memory.outstanding() if jobs is None else [self._get_result(jobs)]
        if results:
            whole = AsyncResult.join(*[result for result in results if isinstance(result, AsyncResult)])
            whole.wait_interactive(interval, timeout, **options)

    def _futures(self, jobs: Any) -> list[concurrent.futures.Future[Any]]:
        """What to wait for; of calls that have ended, nothing."""
        if jobs is None:
            return list(self._memory.outstanding())
        futures: list[concurrent.futures.Future[Any]] = []
        for job in listed(jobs):
            if isinstance(job, concurrent.futures.Future):
                futures.append(job)
            elif isinstance(job, str) or hasattr(job, "__index__"):
                found = self._locate(job if isinstance(job, str) else job.__index__())
                if isinstance(found.result, AsyncResult):
                    result = found.result
                    futures.append(result.split()[found.slot] if isinstance(job, str) else result)
            else:
                raise wrong_job(job)
        return futures

    # --- ending and forgetting ----------------------------------------------------------------------------

    def abort(self, jobs: Any = None, targets: Targets | None = None, block: bool | None = None) -> None:
        """Cancel calls: those of `jobs`, or all outstanding ones (of `targets`).

        Args:
            jobs: as for `wait`.
            targets: only calls on these engines.
            block: wait until every engine has answered; None: as the client's `block`.

        Raises:
            KeyError, IndexError: there was no such call, or no such engine.
            WouldBlockLoop: (when waiting) this is the thread of the client's own event loop: await
                `abort_async`.
        """
        if self.block if block is None else block:
            self.abort_sync(jobs, targets)
        else:
            self._cancel(jobs, targets)

    def abort_sync(self, jobs: Any = None, targets: Targets | None = None) -> None:
        """`abort` that waits until every engine has answered."""
        self.check_may_block("abort()", "`await rc.abort_async(...)`")
        for result in self._cancel(jobs, targets):
            result.abort()

    async def abort_async(self, jobs: Any = None, targets: Targets | None = None) -> None:
        """`abort` for event loops: waits until every engine has answered. May be cancelled."""
        for result in self._cancel(jobs, targets):
            await result.abort_async()

    def _abort_others(self, jobs: Any) -> Any:
        """Detached calls of other clients are ended by the controller; the other jobs are returned."""
        if jobs is None:
            return None
        own = []
        for job in listed(jobs):
            if isinstance(job, str) and parse_msg_id(job)[0] != self.client_uuid:
                self._binding.core().query("abort_detached", {"msg_id": job})
            else:
                own.append(job)
        return own

    def _cancel(self, jobs: Any, targets: Targets | None) -> list[AsyncResult[Any]]:
        """Cancel calls, and any Futures that are among the jobs; the results to which the calls belong."""
        ids = None if targets is None else as_set(self._choose(targets))
        jobs = self._abort_others(jobs)
        cancelled: list[concurrent.futures.Future[Any]] = []
        for future in self._futures(jobs):
            if ids is not None and isinstance(future, AsyncResult):
                cancelled += [part for part in future.split() if ids.intersection(part.targets)]
            else:
                cancelled.append(future)
        for future in cancelled:
            future.cancel()
        return [future for future in cancelled if isinstance(future, AsyncResult)]


async def _until_done(future: concurrent.futures.Future[Any]) -> None:
    """Wait without a stake in it: whoever is cancelled here cancels nothing."""
    if isinstance(future, AsyncResult):
        await future._step(future.done)
        return
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake(future: object) -> None:
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError:
            return  # that loop was closed, and with it whoever waited there

    future.add_done_callback(wake)
    await woken.wait()


class _Located(NamedTuple):
    result: Slots[Any] | Keepsake | None
    """None: it has ended, and nothing is kept of it."""
    slot: int
    """Which of its slots."""


def listed(jobs: Any) -> list[Any]:
    """The jobs, one of them or many."""
    if isinstance(jobs, str | concurrent.futures.Future) or not isinstance(jobs, Iterable):
        return [jobs]
    return list(jobs)


def wrong_job(job: object) -> TypeError:
    """What to raise for something that names no call."""
    return TypeError(
        f"jobs: expected AsyncResults, Futures, msg_ids or indices into history, got {job!r:.60}"
    )


def as_set(chosen: int | list[int]) -> set[int]:
    return {chosen} if isinstance(chosen, int) else set(chosen)
