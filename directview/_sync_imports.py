"""``with view.sync_imports():`` — what its block imports is imported on the engines too.

While a block is open, ``builtins.__import__`` is replaced by a hook that passes everything on, and notes what
is imported by the block's own frame: not what those modules import in their turn, nor what other functions,
threads or tasks import meanwhile. Each of its statements (see `directview._import_statements`) is made again
as source, and executed in the engines' namespaces.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import CoroutineType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from directview import operations
from directview._import_statements import OnEngines, Statement, read
from directview.result import AsyncResult

if TYPE_CHECKING:
    from directview.view import DirectView

__all__ = ["SyncImports"]

_ABSENT: Final = object()


class SyncImports:
    """The context manager. ``async with`` on a client that is bound to an event loop.

    Args:
        view: whose engines import.
        local: whether to import here too.
        quiet: print nothing.
    """

    def __init__(self, view: DirectView[Any], *, local: bool, quiet: bool) -> None:
        self.local = local
        self._view = view
        self._quiet = quiet
        self._results: list[AsyncResult[Any]] = []
        self._borrowed: list[_Borrowed] = []
        self.frame: FrameType | None = None
        """Whose imports count, while the block is open."""

    def __enter__(self) -> None:
        self._view.client.check_may_block("sync_imports", "`async with view.sync_imports():`")
        self._open(sys._getframe(1))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            for result in self._results:
                result.wait()
            self._raise_first()

    # Not a coroutine function: called from the block's own frame, which a coroutine would not see.
    def __aenter__(self) -> CoroutineType[Any, Any, None]:
        self._open(sys._getframe(1))
        return cast("CoroutineType[Any, Any, None]", _nothing())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            for result in self._results:
                with contextlib.suppress(Exception):
                    await result
            self._raise_first()

    def _raise_first(self) -> None:
        failed = [result for result in self._results if result.exception() is not None]
        if failed:
            failed[0].get()

    def _open(self, frame: FrameType | None) -> None:
        if self.frame is not None:
            raise RuntimeError("this sync_imports block is open already: make another one")
        while frame is not None and frame.f_globals.get("__name__") == "contextlib":  # of an ExitStack
            frame = frame.f_back
        self._view._ids(None)
        self._results, self._borrowed = [], []
        self.frame = frame
        _hook.add(self)

    def _close(self) -> None:
        _hook.remove(self)
        self.frame = None
        for borrowed in reversed(self._borrowed):
            borrowed.give_back()
        self._borrowed = []

    # --- one import -------------------------------------------------------------------------------------

    def imported(self, statement: Statement) -> None:
        """Have the engines do it too."""
        if not self._quiet:
            print(statement.says)  # noqa: T201 - as the tutorial shows it
        call = self._view._call(operations.execute, (statement.source,), {}, name="sync_imports")
        self._results.append(call)

    def stand_in(self, statement: Statement, frame: FrameType) -> Any:
        """What the block's frame gets in the place of a module that is imported on the engines only."""
        for name, places in statement.places(frame):
            self._borrowed.append(_Borrowed(places, name, places.get(name, _ABSENT)))
        return statement.stand_in()


async def _nothing() -> None:
    pass


class _Borrowed:
    """A name of the user's that has a stand-in for the time of the block."""

    def __init__(self, names: MutableMapping[str, Any], name: str, before: Any) -> None:
        self._names = names
        self._name = name
        self._before = before

    def give_back(self) -> None:
        """Make it what it was, unless the block has set it to something else."""
        if type(self._names.get(self._name)) is not OnEngines:
            return
        if self._before is _ABSENT:
            del self._names[self._name]
        else:
            self._names[self._name] = self._before


# --- the hook -------------------------------------------------------------------------------------------


class _Hook:
    """Stands in for `builtins.__import__` while any block is open, on any thread."""

    def __init__(self) -> None:
        self._blocks: tuple[SyncImports, ...] = ()
        self._lock = threading.Lock()
        self._installed: Callable[..., Any] | None = None

    def add(self, block: SyncImports) -> None:
        with self._lock:
            self._blocks = (*self._blocks, block)
            if builtins.__import__ is not self._installed:
                # First, or somebody else has replaced it since: what they did stays in effect below.
                self._installed = self._make(builtins.__import__)
                builtins.__import__ = self._installed

    def remove(self, block: SyncImports) -> None:
        with self._lock:
            self._blocks = tuple([other for other in self._blocks if other is not block])
            if not self._blocks and self._installed is not None:
                if builtins.__import__ is self._installed:
                    builtins.__import__ = self._installed.original  # type: ignore[attr-defined]
                self._installed = None

    def _make(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def sync_import(
            name: str,
            globals: Mapping[str, object] | None = None,
            locals: Mapping[str, object] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> Any:
            frame = sys._getframe(1)
            blocks = [block for block in self._blocks if block.frame is frame]
            if not blocks:
                return original(name, globals, locals, fromlist, level)
            statement = read(frame, name, fromlist, level)
            if all([block.local for block in blocks]) or statement.is_imported():
                found = original(name, globals, locals, fromlist, level)
            else:
                found = blocks[-1].stand_in(statement, frame)
            for block in blocks:
                block.imported(statement)
            return found

        sync_import.original = original  # type: ignore[attr-defined]
        return sync_import


_hook: Final = _Hook()
