"""Making a call again: the same function and arguments, on the same engines, under a new name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from directview._client_submitting import Submits
from directview._memory import REQUEST_BYTES, REQUESTS_BYTES
from directview.result import AsyncMapResult, AsyncResult

if TYPE_CHECKING:
    from directview._core import Request

__all__ = ["Resubmits"]


class Resubmits(Submits):
    """The part of a `Client` that makes calls again."""

    def resubmit(self, jobs: Any = None, metadata: Any = None, block: bool | None = None) -> Any:
        """Make calls that have ended again: the same function and arguments, on the same engines.

        They run in today's namespaces, have new msg_ids, and are calls like any other. Functions and
        arguments are kept of the last calls: as many as fit into 16 MiB, of up to 1 MiB each.

        Args:
            jobs: as for `get_result`: a msg_id, an index into `history`, an `AsyncResult`, or a list of
                these. None: the last call.
            metadata: accepted for programs that pass it.
            block: wait, and return the result; None: as the client's `block`.

        Returns:
            An `AsyncResult` like the first one; or its value.

        Raises:
            KeyError: there was no such call, or what it was made of is not kept any more.
            RuntimeError: it has not ended yet.
            IndexError: an engine that had it is not there any more.
            ValueError: it was a load-balanced call, which has no engine of its own.
        """
        blocks = self.block if block is None else block
        if blocks:
            self.check_may_block("resubmit()", "`await rc.resubmit_async(...)`")
        result = self.resubmit_async(jobs)
        return result.get() if blocks else result

    def resubmit_async(self, jobs: Any = None) -> AsyncResult[Any]:
        """`resubmit` that does not wait: the `AsyncResult`, to await or `get` later."""
        if isinstance(jobs, str):
            self._locate(jobs)  # Another client's would be fetched; but what it was made of is there.
        before = self._get_result(-1 if jobs is None else jobs)
        if not before.done():
            raise RuntimeError(f"call {before.msg_ids[0]} has not ended: it can't be made again yet")
        requests = self._requests_of(before)
        name, label, single = before._name, before._label, before._single
        if isinstance(before, AsyncMapResult):
            return self._submit_map(requests, before._sizes(), name, label, single=single)
        return self._submit(requests, name, label, single=single, join=before._join)

    def resubmit_sync(self, jobs: Any = None) -> Any:
        """`resubmit` that waits, and returns the value."""
        return self.resubmit(jobs, block=True)

    def _requests_of(self, result: AsyncResult[Any]) -> list[Request]:
        """What the calls of a result were made of, for each run of calls that were one."""
        engines = self._binding.core().engines
        found: list[tuple[int, list[int], Request]] = []
        for seq, engine in result._calls:
            if engine < 0:
                raise ValueError(
                    f"call {seq} ({result._name}) was for whichever engine was free: make it anew, with the "
                    "load-balanced view"
                )
            if engine not in engines:
                raise IndexError(
                    f"engine {engine}, on which the call was made, is not there any more; there are "
                    f"{list(engines)}"
                )
            if found and found[-1][0] == seq and engine not in found[-1][1]:
                found[-1][1].append(engine)
                continue
            request = self._memory.request(seq)
            if request is None:
                raise KeyError(
                    f"the function and arguments of call {seq} ({result._name}) are not kept any more: those "
                    f"of the last calls are, as many as fit into {REQUESTS_BYTES >> 20} MiB, of up to "
                    f"{REQUEST_BYTES >> 20} MiB each; make the call anew"
                )
            found.append((seq, [engine], request))
        return [(tuple(targets), *request[1:]) for _, targets, request in found]
