"""Views: what a user works with. A `DirectView` is a client, some engines, and a few flags.

Every operation comes three times: ``op_async`` returns an `AsyncResult` at once, ``op_sync`` waits and
returns the value, and the bare ``op`` does one or the other by the view's `block`. On one engine (an int
target) results are scalars, on a list (of one, too) they are lists in the order of the targets; the types
say so: ``DirectView[One]`` and ``DirectView[Many]``.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from directview import _checking
from directview._sync_imports import SyncImports
from directview._view_calls import Calls
from directview._view_control import Control
from directview._view_objects import Objects
from directview._view_targets import K, Many, One, Targets
from directview.reply import ExecuteReply

if TYPE_CHECKING:
    from directview.executor import ViewExecutor

__all__ = ["BroadcastView", "DirectView", "EngineView", "ExecuteReply", "Many", "One", "Targets"]


class DirectView(Calls[K], Objects[K], Control[K]):
    """Some engines of a client, by id, to work on all of them at once.

    Made by indexing a client: ``rc[0]``, ``rc[:]``, ``rc[::2]``, ``rc[[0, 2]]``. Assigning an attribute
    changes the view for all who use it; `options` gives a changed copy instead, which is what concurrent
    tasks need.

    Args:
        client: the client whose engines they are.
        targets: their ids, or ``'all'`` for those that are there at the time of each call.
        block: whether bare operations wait; None: as the client's.
        track: whether results tell when a sent buffer may be changed (they always can; kept as a flag for
            programs that set it).
        label: shown in results' metadata.
        time_limit: seconds that a call may take, from its submission to its end; None: any number.
        detached: whether calls go on when the client is gone, and the controller keeps their results.
    """

    @overload
    def options(
        self,
        *,
        targets: None = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
        time_limit: float | None = None,
        detached: bool | None = None,
    ) -> DirectView[K]: ...
    @overload
    def options(
        self,
        *,
        targets: Targets,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
        time_limit: float | None = None,
        detached: bool | None = None,
    ) -> DirectView[Any]: ...
    def options(
        self,
        *,
        targets: Targets | None = None,
        block: bool | None = None,
        track: bool | None = None,
        label: str | None = None,
        time_limit: float | None = None,
        detached: bool | None = None,
    ) -> DirectView[Any]:
        """A copy of this view with some flags changed; the view itself stays as it is.

        Args:
            targets: other engines.
            block: whether bare operations wait.
            track: whether results tell when a sent buffer may be changed.
            label: shown in results' metadata.
            time_limit: seconds that a call may take, waiting and running; ``float("inf")``: any number.
            detached: whether calls go on when this client is gone: see `Client.get_result`.
        """
        return DirectView(
            self.client,
            self._targets if targets is None else self._chosen(targets),
            block=self._block if block is None else block,
            track=self.track if track is None else track,
            label=self.label if label is None else label,
            time_limit=self.time_limit if time_limit is None else time_limit,
            detached=self.detached if detached is None else detached,
        )

    # --- for other libraries --------------------------------------------------------------------------

    @property
    def executor(self) -> ViewExecutor:
        """A `concurrent.futures.Executor`: each call runs once, on the least busy of this view's engines."""
        from directview.executor import ViewExecutor

        return ViewExecutor(self)

    def register_joblib_backend(self, name: str = "directview", make_default: bool = False) -> None:
        """Have joblib, and with it scikit-learn, run on this view's engines.

        Args:
            name: of the backend; the default is registered as ``'ipyparallel'`` too.
            make_default: use it where no backend is named.

        Raises:
            ImportError: joblib is not installed.
        """
        targets = [self._targets] if isinstance(self._targets, int) else self._targets
        self.client.load_balanced_view(targets).register_joblib_backend(name, make_default)

    # --- imports --------------------------------------------------------------------------------------

    def sync_imports(self, local: bool = True, quiet: bool = False) -> SyncImports:
        """Import on the engines what is imported in a ``with`` block, or ``async with`` block.

        ::

            with view.sync_imports():
                import numpy

        Every import statement of the block itself counts, also ``import a as b`` and ``from a import b``;
        what the modules import in their turn, and what other functions and threads import, does not.

        Args:
            local: whether to import here too. If not, a name that is not here already can't be used here,
                and is gone after the block (in a function: it stays as a stand-in).
            quiet: print nothing.

        Raises:
            ImportError: an import fails here, in the block; or on one engine, at its end.
            CompositeError: at its end: an import failed on several engines.
        """
        return SyncImports(self, local=local, quiet=quiet)

    @property
    def importer(self) -> SyncImports:
        """`sync_imports` with its defaults: ``with view.importer:``."""
        return self.sync_imports()

    # --- IPython --------------------------------------------------------------------------------------

    def activate(self, suffix: str = "") -> None:
        """Have IPython's ``%px``, ``%%px``, ``%autopx``, ``%pxresult`` and ``%pxconfig`` use this view.

        Args:
            suffix: gives this view magics of its own: ``"2"`` makes ``%px2``, ``%autopx2`` and so on, beside
                those of another view.
        """
        _checking.text(suffix, "suffix")
        if "IPython" in sys.modules:  # otherwise there are no magics
            importlib.import_module("directview.magics").activate(self, suffix)


EngineView: TypeAlias = DirectView[One]
"""A view of one engine."""

BroadcastView = DirectView
"""Every call of a view is one message, whatever the number of engines."""
