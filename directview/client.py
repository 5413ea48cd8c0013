"""The client: a program's hold on a cluster. Index it to get views of engines."""

from __future__ import annotations

import asyncio
import atexit
import builtins
import importlib
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, SupportsIndex, TypeVar, overload

from directview import _checking, connection
from directview._binding import Binding
from directview._client_control import Controls
from directview._client_log import ClientLog
from directview._core import Core
from directview.balanced import LoadBalancedView
from directview.connection import ConnectionInfo
from directview.errors import CompositeError, ControllerUnreachable, NoEnginesRegistered, TimeoutError
from directview.sharing import Shared
from directview.view import DirectView, Many, One

if TYPE_CHECKING:
    from directview.cluster import Cluster
    from directview.executor import ViewExecutor
    from directview.wire.messages import EngineInfo

__all__ = ["Client", "CompositeError"]

T = TypeVar("T")

_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """Close every client of this process: it ends."""
    for client in list(_open_clients):
        client._binding.close()


class Client(Controls):
    """A connection to a controller, and through it to engines.

    ::

        rc = Client()                      # the default profile's cluster
        rc = Client(profile="mpi")         # a named one
        rc = Client("/path/client.json")   # a connection file, perhaps copied from another machine
        rc = Client(**contents)            # its contents

    Making a client only reads and checks the file and looks whether anybody listens. ``async with
    Client() as rc`` connects on the running event loop, without any thread: then await everything. Any
    other first use connects on a background thread: then blocking works from everywhere, and awaiting too.

    Args:
        url_or_file: path of a connection file, or its contents as a mapping.
        profile: name of the cluster's profile.
        cluster_id: (the beginning of) a cluster's id.
        timeout: seconds to wait for the file and a live controller, and for its answer.
        reconnect_timeout: seconds to wait for another controller when this one is gone, for clusters that
            are started to outlive it.
        cluster: the Cluster that this client belongs to; it lives as long as the client.
        log_level: what to write into the cluster's folder, for `directview logs`: ``"debug"``, ``"info"``,
            ``"warning"``, ``"error"``; None: nothing, unless DIRECTVIEW_CLIENT_LOG_LEVEL says so.
        contents: fields of a connection file.

    Raises:
        ConnectionFileError: the file is missing, unreadable, readable by others, or no connection file.
        ControllerUnreachable: nobody listens at the file's address.
        ConnectionRejected: the controller is of another version or another cluster.
        TypeError: an argument that this client has no use for; the text says what to do instead.
    """

    def __init__(
        self,
        url_or_file: str | os.PathLike[str] | Mapping[str, Any] | ConnectionInfo | None = None,
        *,
        profile: str | None = None,
        cluster_id: str | None = None,
        timeout: float = 10.0,
        reconnect_timeout: float = 60.0,
        cluster: Cluster | None = None,
        log_level: str | int | None = None,
        **contents: Any,
    ) -> None:
        info = _find(url_or_file, profile, cluster_id, timeout, contents)
        self.cluster = cluster
        self.profile = info.profile
        self._block = False
        self._info = info
        self._log = ClientLog(info.source, log_level)
        self._binding = Binding(info, timeout, reconnect_timeout)
        _open_clients.add(self)
        if "IPython" in sys.modules:
            importlib.import_module("directview.magics").activate_first(self)

    @property
    def block(self) -> bool:
        """Whether views wait by default; False, unless it is assigned."""
        return self._block

    @block.setter
    def block(self, block: bool) -> None:
        _checking.flag(block, "block")
        self._block = bool(block)

    def share(self, obj: T) -> Shared[T]:
        """Put an object where every engine and every call can read it without another copy.

        It is pickled when it is first sent, once, and goes when neither what is returned here nor a call
        that has not ended refers to it. Don't change it meanwhile. Returns at once.

        ::

            table = rc.share(array)
            rc[:].apply_sync(lambda table, row: table[row].sum(), table, 5)

        Args:
            obj: anything that can be pickled. Its buffers (arrays, data frames) are what is shared: they are
                read-only on engines. Engines on other hosts are sent a copy each, once.

        Returns:
            What to pass in its place, anywhere in the arguments of calls, or to `push`.
        """
        return Shared(self, obj)

    # --- life -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        await self._binding.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Client:
        self._binding.core()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, linger: float | None = None) -> None:
        """Disconnect. Outstanding calls end as `ClientClosed`; engines and their namespaces stay.

        Args:
            linger: accepted for programs that pass it; messages on their way are sent.

        Raises:
            WouldBlockLoop: the client is bound to this thread's event loop: ``await rc.aclose()``.
        """
        self._binding.close()
        self._log.close()
        _open_clients.discard(self)

    async def aclose(self) -> None:
        """`close` for event loops. May be cancelled, and repeated."""
        await self._binding.aclose()
        self._log.close()
        _open_clients.discard(self)

    def __del__(self) -> None:
        binding = getattr(self, "_binding", None)
        if binding is not None and binding.started and not binding.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            if not binding.bound:
                binding.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} can't travel: its connection belongs to this process. "
            "Make a new Client over there, from the connection file"
        )

    def __repr__(self) -> str:
        name = f" {self.profile!r}" if self.profile else ""
        return f"<Client{name} of cluster {self._info.cluster_id}>"

    # --- engines --------------------------------------------------------------------------------------

    @property
    def ids(self) -> list[int]:
        """The engines' ids, in order. An id stays with its engine."""
        return list(self._binding.core().engines)

    @property
    def engine_infos(self) -> Mapping[int, EngineInfo]:
        """What is known about each engine, by id: ``uuid`` (bytes), ``pid``, ``hostname``, ``python``."""
        return MappingProxyType(self._binding.core().engines)

    def __len__(self) -> int:
        return len(self._binding.core().engines)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[DirectView[One]]:
        for id in self.ids:
            yield self.direct_view(id)

    @overload
    def __getitem__(self, key: SupportsIndex) -> DirectView[One]: ...
    @overload
    def __getitem__(self, key: slice | Sequence[int]) -> DirectView[Many]: ...
    def __getitem__(self, key: Any) -> DirectView[Any]:
        """A view: ``rc[0]`` of one engine, ``rc[:]``, ``rc[::2]``, ``rc[[0, 2]]`` of several.

        Raises:
            IndexError: there is no such engine.
            NoEnginesRegistered: there are none at all.
        """
        return DirectView(self, self._choose(key))

    @overload
    def direct_view(self, targets: int, **flags: Any) -> DirectView[One]: ...
    @overload
    def direct_view(
        self, targets: slice | Sequence[int] | Literal["all"] = "all", **flags: Any
    ) -> DirectView[Many]: ...
    def direct_view(self, targets: Any = "all", **flags: Any) -> DirectView[Any]:
        """A view of `targets`; ``'all'`` includes engines that join later.

        Args:
            targets: as for indexing, or ``'all'``.
            flags: `block`, `track`, `label`, `time_limit`.
        """
        _checking.flags(flags)
        everywhere = isinstance(targets, str) and targets == "all"
        return DirectView(self, "all" if everywhere else self._choose(targets), **flags)

    def broadcast_view(
        self, targets: Any = "all", is_coalescing: bool = False, **flags: Any
    ) -> DirectView[Any]:
        """A view of `targets`: every call on several engines is one message anyway.

        Args:
            targets: as for indexing, or ``'all'``.
            is_coalescing: accepted for programs that pass it.
            flags: `block`, `track`, `label`, `time_limit`.
        """
        view: DirectView[Any] = self.direct_view(targets, **flags)
        return view

    def load_balanced_view(self, targets: Any = None, **flags: Any) -> LoadBalancedView:
        """A view that finds an engine for each call: the one that has least to do.

        Args:
            targets: the engines among which it chooses, as for indexing; None or ``'all'``: all that there
                are at any time.
            flags: `block`, `track`, `label`, `after`, `follow`, `timeout`, `retries`, `time_limit`; see
                `LoadBalancedView`.
        """
        everywhere = targets is None or (isinstance(targets, str) and targets == "all")
        return LoadBalancedView(self, None if everywhere else self._choose(targets), **flags)

    def executor(self, targets: Any = None) -> ViewExecutor:
        """A `concurrent.futures.Executor` that runs functions on the engines, load-balanced.

        Args:
            targets: as for `load_balanced_view`.
        """
        return self.load_balanced_view(targets).executor

    def register_joblib_backend(self, name: str = "directview", make_default: bool = False) -> None:
        """Have joblib, and with it scikit-learn, run on this client's engines.

        Args:
            name: of the backend; the default is registered as ``'ipyparallel'`` too.
            make_default: use it where no backend is named.

        Raises:
            ImportError: joblib is not installed.
        """
        self.load_balanced_view().register_joblib_backend(name, make_default)

    def _view(self, targets: Any) -> DirectView[Any]:
        return self.broadcast_view("all" if targets is None else targets)

    def _all_ids(self) -> tuple[int, ...]:
        core = self._binding.core()
        engines = core.engines
        if not engines:
            core.check_controller()
            raise NoEnginesRegistered(self._no_engines())
        return tuple(engines)

    def _no_engines(self) -> str:
        named = f" --profile {self.profile}" if self.profile else ""
        return (
            f"cluster {self._info.cluster_id} has no engines: start some with "
            f"`directview add-engines -n 4{named}`, or wait for them with `rc.wait_for_engines(n)`"
        )

    def _choose(self, targets: Any) -> int | list[int]:
        """Engine ids for what a user may write in brackets."""
        ids = self._all_ids()
        if isinstance(targets, slice):
            return list(ids[targets])
        one = _checking.is_index(targets)
        if isinstance(targets, str | bytes | Mapping) or not (one or isinstance(targets, Iterable)):
            raise TypeError(f"targets: expected an engine id, a list of ids or a slice, got {targets!r:.60}")
        if one:
            return self._choose_one(targets, ids)
        chosen = [self._choose_one(target, ids) for target in targets]
        if len(set(chosen)) != len(chosen):
            raise ValueError(f"targets: an engine is named twice in {chosen}")
        if not chosen:
            raise ValueError("targets: an empty list of engines")
        return chosen

    def _choose_one(self, target: Any, ids: tuple[int, ...]) -> int:
        if not _checking.is_index(target) or isinstance(target, bool):
            raise TypeError(f"an engine id is an int, not {target!r:.60}")
        id = target.__index__()
        if id < 0 and -id <= len(ids):
            id = ids[id]
        if id not in self._binding.core().engines:
            raise IndexError(f"there is no engine {target}; there are {list(ids)}")
        return int(id)

    def wait_for_engines(
        self,
        n: int | None = None,
        timeout: float | None = None,
        *,
        block: bool = True,
        interactive: bool | None = None,
        widget: bool | None = None,
    ) -> Any:
        """Block until there are at least `n` engines.

        Args:
            n: how many; None: as many as the client's Cluster was made with, or one.
            timeout: seconds; None or negative: for ever.
            block: False: return a coroutine to await, as `wait_for_engines_async` does.
            interactive: accepted for programs that pass it.
            widget: accepted for programs that pass it.

        Raises:
            TimeoutError: they are not there in time.
            ControllerLost: the controller is gone.
        """
        if not block:
            return self.wait_for_engines_async(n, timeout)
        wanted = self._wanted(n, timeout)
        return self._block_on(
            lambda core: self._engines_within(core, wanted, timeout),
            "wait_for_engines()",
            "`await rc.wait_for_engines_async(n)`",
        )

    async def wait_for_engines_async(self, n: int | None = None, timeout: float | None = None) -> None:
        """`wait_for_engines` for event loops. May be cancelled."""
        core = self._binding.core()
        waiting = self._engines_within(core, self._wanted(n, timeout), timeout)
        if core.loop is asyncio.get_running_loop():
            await waiting
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(waiting, core.loop))

    def _wanted(self, n: int | None, timeout: float | None) -> int:
        _checking.seconds(timeout)
        if n is not None:
            if not hasattr(n, "__index__") or n < 0:
                raise ValueError(f"n: expected a number of engines, got {n!r:.60}")
            return n
        return self.cluster.n if self.cluster is not None else 1

    async def _engines_within(self, core: Core, n: int, timeout: float | None) -> None:
        try:
            await core.wait_for_engines(n, None if timeout is None or timeout < 0 else timeout)
        except builtins.TimeoutError:
            raise TimeoutError(f"{len(core.engines)} of {n} engines were there after {timeout:g} s") from None

    def activate(self, targets: Any = "all", suffix: str = "") -> DirectView[Any]:
        """Have IPython's ``%px`` and its kin use a view of `targets`.

        The first client of an IPython session does so by itself, for all its engines.

        Args:
            targets: as for `direct_view`.
            suffix: as for `DirectView.activate`.

        Returns:
            The view: its `targets` and `block` are what the magics go by.
        """
        view: DirectView[Any] = self.direct_view(targets)
        view.activate(suffix)
        return view

    # --- calls ----------------------------------------------------------------------------------------

    def _block_on(self, make: Callable[[Core], Coroutine[Any, Any, T]], what: str, instead: str) -> T:
        return self._binding.run(make, what, instead)


_UNSUPPORTED: Final = {
    "sshserver": "forward the port with `ssh -L`, or start the controller with --ip and copy its client.json",
    "sshkey": "forward the port with `ssh -L`, or start the controller with --ip and copy its client.json",
    "password": "forward the port with `ssh -L`, or start the controller with --ip and copy its client.json",
    "paramiko": "forward the port with `ssh -L`, or start the controller with --ip and copy its client.json",
    "context": "a client has a ZeroMQ context of its own",
    "url_file": "give the path as the first argument",
}


def _find(
    given: str | os.PathLike[str] | Mapping[str, Any] | ConnectionInfo | None,
    profile: str | None,
    cluster_id: str | None,
    timeout: float,
    contents: dict[str, Any],
) -> ConnectionInfo:
    """The connection info that a client was made with, of a controller that listens, or will again."""
    _checking.text(profile, "profile")
    _checking.text(cluster_id, "cluster_id")
    _checking.seconds(timeout)
    for name, remedy in _UNSUPPORTED.items():
        if name in contents:
            raise TypeError(f"Client has no argument {name!r}: {remedy}")
    if contents:
        if given is not None or ("ipc" not in contents and "tcp" not in contents):
            raise _checking.unknown("Client", next(iter(contents)), Client)
        given = {**contents, "profile": profile, "cluster_id": cluster_id}
    if isinstance(given, str | os.PathLike):
        return connection.find(path=given)
    if given is None:
        return connection.find(profile=profile, cluster_id=cluster_id, timeout=timeout)
    info = given if isinstance(given, ConnectionInfo) else ConnectionInfo.from_dict(given)
    if not info.resilient and connection.choose_address(info) is None:
        raise ControllerUnreachable(f"nobody listens at {info.where}: its controller has ended")
    return info
