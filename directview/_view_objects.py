"""What a view moves to its engines' namespaces and back: by name, cut into parts, and as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from directview import _checking, operations, partition
from directview._view_targets import K, Targeted, Targets
from directview.result import AsyncResult
from directview.wire.objects import dump_function

__all__ = ["Objects"]


class Objects(Targeted[K]):
    """The operations of a view that move objects."""

    # --- moving objects -----------------------------------------------------------------------------------

    def push(
        self,
        ns: Mapping[str, Any],
        *,
        targets: Targets | None = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Set names in each engine's namespace.

        Args:
            ns: name → object. A large array is sent once, whatever the number of engines.
            targets: other engines than the view's, for this call.
            block: wait, for this call.
            track: as the view's flag, for this call.

        Returns:
            ``[None, ...]``, one per engine (None for an int target), or its `AsyncResult`.
        """
        return self._finish(lambda: self.push_async(ns, targets=targets), "push", block)

    def push_async(self, ns: Mapping[str, Any], *, targets: Targets | None = None) -> AsyncResult[Any]:
        """`push` that does not wait. A buffer over 1 MiB may be changed once `wait_for_send` returns."""
        named = _checking.pairs(ns, "push")
        for name in named:
            operations.check_name(name)
        return self._call(operations.push, (named,), {}, targets=targets)

    def push_sync(self, ns: Mapping[str, Any], *, targets: Targets | None = None) -> Any:
        """`push` that waits."""
        return self._wait_for(lambda: self.push_async(ns, targets=targets), "push")

    def pull(
        self,
        names: str | Sequence[str],
        *,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Get the value of a name or expression (``'a'``, ``'a.b'``, ``'x[0]'``) from each engine.

        Args:
            names: one, or several in a tuple or list: then each engine answers with a list.
            targets: other engines than the view's, for this call.
            block: wait, for this call.
        """
        return self._finish(lambda: self.pull_async(names, targets=targets), "pull", block)

    def pull_async(self, names: str | Sequence[str], *, targets: Targets | None = None) -> AsyncResult[Any]:
        """`pull` that does not wait."""
        _checking.names(names, "pull")
        asked = names if isinstance(names, str) else tuple(names)
        return self._call(operations.pull, (asked,), {}, targets=targets)

    def pull_sync(self, names: str | Sequence[str], *, targets: Targets | None = None) -> Any:
        """`pull` that waits."""
        return self._wait_for(lambda: self.pull_async(names, targets=targets), "pull")

    def scatter(
        self,
        key: str,
        seq: Any,
        dist: partition.Dist = "b",
        flatten: bool = False,
        *,
        targets: Targets | None = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Cut a sequence into as many parts as there are engines and set `key` to one on each.

        Args:
            key: the name to set.
            seq: list, tuple, str, bytes, range, numpy array (cut along its first axis), pandas or Arrow
                object: parts are of its kind. Any other iterable gives lists.
            dist: ``'b'`` for one block per engine, ``'r'`` for items in turn.
            flatten: an engine that gets only one item gets the item, not a sequence of it.
            targets: other engines than the view's, for this call.
            block: wait, for this call.
            track: as the view's flag, for this call.

        Returns:
            ``[None, ...]``, one per engine, or its `AsyncResult`.
        """
        return self._finish(
            lambda: self.scatter_async(key, seq, dist, flatten, targets=targets), "scatter", block
        )

    def scatter_async(
        self,
        key: str,
        seq: Any,
        dist: partition.Dist = "b",
        flatten: bool = False,
        *,
        targets: Targets | None = None,
    ) -> AsyncResult[list[None]]:
        """`scatter` that does not wait."""
        operations.check_name(key)
        ids = self._ids(targets)
        function = dump_function(operations.scatter_part)
        requests = [
            ((id,), self._parcel(function, (key, part, flatten), {}, "scatter"))
            for id, part in zip(ids, partition.split(seq, len(ids), dist), strict=True)
        ]
        return self._submit(requests, "scatter", targets, list)

    def scatter_sync(
        self,
        key: str,
        seq: Any,
        dist: partition.Dist = "b",
        flatten: bool = False,
        *,
        targets: Targets | None = None,
    ) -> list[None]:
        """`scatter` that waits."""
        waited: list[None] = self._wait_for(
            lambda: self.scatter_async(key, seq, dist, flatten, targets=targets), "scatter"
        )
        return waited

    def gather(
        self,
        key: str,
        dist: partition.Dist = "b",
        *,
        targets: Targets | None = None,
        block: bool | None = None,
    ) -> Any:
        """Join what `key` is on each engine into one sequence: the inverse of `scatter`.

        Args:
            key: a name, or an expression as in `pull`.
            dist: as it was scattered.
            targets: other engines than the view's, for this call.
            block: wait, for this call.

        Returns:
            Lists give a list, ranges a flat list, arrays an array of the same dtype; or its `AsyncResult`.
        """
        return self._finish(lambda: self.gather_async(key, dist, targets=targets), "gather", block)

    def gather_async(
        self, key: str, dist: partition.Dist = "b", *, targets: Targets | None = None
    ) -> AsyncResult[Any]:
        """`gather` that does not wait."""
        _checking.name(key, "gather")
        partition.check_dist(dist)
        join = partition.Joining(dist)
        return self._call(operations.gather_part, (key,), {}, name="gather", targets=targets, join=join)

    def gather_sync(self, key: str, dist: partition.Dist = "b", *, targets: Targets | None = None) -> Any:
        """`gather` that waits."""
        return self._wait_for(lambda: self.gather_async(key, dist, targets=targets), "gather")

    # --- as a dictionary ------------------------------------------------------------------------------------

    def __getitem__(self, name: str | Sequence[str]) -> Any:
        """``view['a']``: `pull` that always waits."""
        return self.get(name)

    def get(self, names: str | Sequence[str]) -> Any:
        """`pull` that always waits."""
        return self._wait_for(lambda: self.pull_async(names), "pull")

    def __setitem__(self, name: str, value: Any) -> None:
        """``view['a'] = value``: `push`; waits if `block` is set."""
        self.update({name: value})

    def update(self, ns: Mapping[str, Any]) -> Any:
        """`push` of a mapping."""
        return self.push(ns)

    def clear(self, targets: Targets | None = None, block: bool | None = None) -> Any:
        """Remove what users have put into each engine's namespace.

        Args:
            targets: other engines than the view's, for this call.
            block: wait, for this call.

        Returns:
            ``[None, ...]``, one per engine (None for an int target), or its `AsyncResult`.
        """
        return self._finish(lambda: self.clear_async(targets), "clear", block)

    def clear_async(self, targets: Targets | None = None) -> AsyncResult[Any]:
        """`clear` that does not wait."""
        return self._call(operations.clear, (), {}, targets=targets)

    def clear_sync(self, targets: Targets | None = None) -> Any:
        """`clear` that waits."""
        return self._wait_for(lambda: self.clear_async(targets), "clear")
