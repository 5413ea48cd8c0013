"""IPython's magics for a view: ``%px``, ``%%px``, ``%autopx``, ``%pxresult``, ``%pxconfig``.

``%load_ext directview`` registers them, and so does the first Client that is made in an IPython session, for
all of its engines. ``view.activate()`` has them use that view; ``view.activate("2")`` gives a view a set of
its own, ``%px2`` and so on.

Only this module knows IPython's session; nothing imports it outside of one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from IPython.core import magic_arguments
from IPython.core.error import UsageError
from IPython.core.getipython import get_ipython
from IPython.core.magic import Magics, no_var_expand

from directview._display import GroupBy, Printer
from directview._progress import progress_bar
from directview.errors import RemoteError, TimeoutError
from directview.reply import ExecuteReply

if TYPE_CHECKING:
    from directview.client import Client
    from directview.result import AsyncResult
    from directview.view import DirectView

__all__ = [
    "ParallelMagics",
    "activate",
    "activate_first",
    "load_ipython_extension",
    "parse_targets",
    "unload_ipython_extension",
]

_INTERRUPT_PATIENCE: Final = 5.0
"""Seconds that engines get, after a Ctrl-C, to say that they have stopped."""
_SHOWN_TARGETS: Final = 10
_BAR_SECONDS: Final = 0.25
"""Between two looks of a progress bar at the clock."""

_NO_VIEW: Final = "no view is active: connect, `rc = directview.Client()`, and `rc[:].activate()` a view"
_NOTHING_YET: Final = "%pxresult shows what the last %px has given; there has been none"

_active: Final[dict[str, ParallelMagics]] = {}
"""The magics that are registered, by suffix."""


# --- options ----------------------------------------------------------------------------------------------

_argument = magic_arguments.argument


def _options(*options: Any) -> Callable[[Any], Any]:
    def add(f: Any) -> Any:
        for option in options:
            f = option(f)
        return magic_arguments.magic_arguments()(f)

    return add


_EXECUTION: Final = (
    _argument("-b", "--block", dest="block", action="store_const", const=True, help="wait for the engines"),
    _argument("-a", "--noblock", dest="block", action="store_const", const=False, help="don't wait for them"),
    _argument("-t", "--targets", type=str, help="engines: 1, 0,2, 1:3, ::2, or all"),
    _argument("--local", action="store_const", const=True, help="run the cell here too"),
    _argument("--verbose", dest="set_verbose", action="store_const", const=True, help="say where cells run"),
    _argument("--no-verbose", dest="set_verbose", action="store_const", const=False, help="don't say it"),
    _argument("--stream", action="store_const", const=True, help="show what is printed as it is printed"),
    _argument("--no-stream", dest="stream", action="store_const", const=False, help="show it at the end"),
    _argument(
        "--progress-after", dest="progress_after_seconds", type=float, default=None,
        help="seconds after which a progress bar is shown (at first 2); -1: never, 0: at once",
    ),
    _argument(
        "--signal-on-interrupt", type=str, default=None,
        help="what Ctrl-C sends to the engines: SIGINT (by default) interrupts the cell, 0 leaves it running",
    ),
)  # fmt: skip

_OUTPUT: Final = (
    _argument("-r", dest="groupby", action="store_const", const="order", help="as --group-outputs=order"),
    _argument("-e", dest="groupby", action="store_const", const="engine", help="as --group-outputs=engine"),
    _argument(
        "--group-outputs", dest="groupby", type=str, choices=["engine", "order", "type"], default="type",
        help="show outputs together by their type, by engine, or by their order on the engines",
    ),
    _argument("-o", "--out", dest="save_name", type=str, help="keep the AsyncResult under this name"),
    _argument("--name", dest="label", type=str, default=None, help="label of the call, in its metadata"),
)  # fmt: skip


def parse_targets(text: str) -> int | slice | list[int] | Literal["all"]:
    """What ``--targets`` means: ``1``, ``0,2``, ``[0, 2]``, ``1:3``, ``::2`` or ``all``.

    Raises:
        UsageError: it is none of these.
    """
    said = text.strip().strip("\"'")
    if said == "all":
        return "all"
    listed = said[:1] + said[-1:] in ("[]", "()")
    inner = said[1:-1] if listed else said
    try:
        if ":" in inner:
            parts = [int(part) if part.strip() else None for part in inner.split(":")]
            return slice(*parts)
        numbers = [int(part) for part in inner.split(",") if part.strip()]
    except (ValueError, TypeError):
        numbers = []
    if not numbers:
        raise UsageError(f"--targets {text!r}: expected 1, 0,2, 1:3, ::2 or all")
    return numbers[0] if len(numbers) == 1 and not listed and "," not in inner else numbers


# --- the magics -------------------------------------------------------------------------------------------


class ParallelMagics(Magics):
    """The magics of one view.

    Args:
        shell: IPython.
        view: the view that they use; None until there is one.
        suffix: what their names end in.
    """

    registered = True
    shell: Any

    def __init__(self, shell: Any, view: DirectView[Any] | None = None, suffix: str = "") -> None:
        self._view = view
        self.suffix = suffix
        self.verbose = True
        """Whether they say on which engines something runs."""
        self.stream_output = True
        """Whether they show what engines print as it is printed."""
        self.progress_after = 2.0
        """Seconds that a cell may take before a progress bar is shown; -1: there is none."""
        self.signal_on_interrupt = "SIGINT"
        self.last_result: AsyncResult[Any] | None = None
        """Of the last ``%px``."""
        self._autopx: Any = None
        self._cell = ""
        line = {
            f"px{suffix}": self.px,
            f"pxresult{suffix}": self.pxresult,
            f"pxconfig{suffix}": self.pxconfig,
            f"autopx{suffix}": self.autopx,
            f"result{suffix}": self.result,
        }
        self.magics = {"line": line, "cell": {f"px{suffix}": self.cell_px}}
        super().__init__(shell)

    @property
    def view(self) -> DirectView[Any]:
        """The view that they use.

        Raises:
            UsageError: there is none.
        """
        if self._view is None:
            raise UsageError(_NO_VIEW)
        return self._view

    @view.setter
    def view(self, view: DirectView[Any] | None) -> None:
        self._view = view

    @property
    def is_idle(self) -> bool:
        """Whether there is no view of an open client."""
        return self._view is None or self._view.client._binding.closed

    # --- %px and %%px ---

    @no_var_expand
    def px(self, line: str = "") -> AsyncResult[Any] | None:
        """Run one line on the engines.

        ::

            In [1]: %px import os
            Parallel execution on engines: [0, 1, 2, 3]

            In [2]: %px os.getpid()
            Parallel execution on engines: [0, 1, 2, 3]
            Out[0:2]: 4711
            ...
        """
        __tracebackhide__ = True  # from IPython's tracebacks
        return self._run(line, self.view.block)

    @no_var_expand
    @_options(*_EXECUTION, *_OUTPUT)
    def cell_px(self, line: str = "", cell: str | None = None) -> AsyncResult[Any] | None:
        """Run a cell on the engines.

        ::

            In [1]: %%px --targets ::2
               ...: print("even")
            Parallel execution on engines: [0, 2]
            [stdout:0] even
            [stdout:2] even
        """
        __tracebackhide__ = True
        args = magic_arguments.parse_argstring(self.cell_px, line)
        targets = None if args.targets is None else parse_targets(args.targets)
        return self._run(cell or "", self.view.block if args.block is None else args.block, args, targets)

    def _run(
        self,
        source: str,
        block: bool,
        args: argparse.Namespace | None = None,
        targets: Any = None,
    ) -> AsyncResult[Any] | None:
        __tracebackhide__ = True
        args = argparse.Namespace() if args is None else args
        if block:
            self.view.client.check_may_block("%px", "`%%px --noblock`, and `await` its result")
        label = getattr(args, "label", None)
        view = self.view if label is None else self.view.options(label=label)
        verbose = getattr(args, "set_verbose", None)
        if self.verbose if verbose is None else verbose:
            self._announce(view.targets if targets is None else view.options(targets=targets).targets, block)
        result = view.execute_async(source, silent=False, targets=targets)
        self.last_result = result
        if getattr(args, "save_name", None):
            self.shell.user_ns[args.save_name] = result
        if getattr(args, "local", None):
            self.shell.run_cell(source)
        if not block:
            return result
        stream = getattr(args, "stream", None)
        self._wait_and_show(
            result,
            groupby=getattr(args, "groupby", "type"),
            stream=self.stream_output if stream is None else stream,
            signal=getattr(args, "signal_on_interrupt", None) or self.signal_on_interrupt,
            progress_after=getattr(args, "progress_after_seconds", None),
        )
        return None

    def _announce(self, targets: int | Sequence[int], block: bool) -> None:
        ids = [targets] if isinstance(targets, int) else list(targets)
        shown = str(ids)
        if len(ids) > _SHOWN_TARGETS:
            shown = f"{str(ids[:4])[:-1]}, ..., {str(ids[-4:])[1:]}"
        print(f"{'Parallel' if block else 'Async parallel'} execution on engines: {shown}")

    def _wait_and_show(
        self,
        result: AsyncResult[Any],
        *,
        groupby: GroupBy,
        stream: bool,
        signal: str,
        progress_after: float | None,
    ) -> None:
        """Show what comes while it comes, and the rest at the end; raise what failed."""
        __tracebackhide__ = True
        try:
            after = self.progress_after if progress_after is None else progress_after
            _show_while_waiting(result, printed=stream, progress_after=after)
        except KeyboardInterrupt:
            self._interrupt(result, signal)
            result._show_outputs(groupby, printed=not stream)
            raise KeyboardInterrupt from None  # without the frames in which we waited
        result._show_outputs(groupby, printed=not stream)
        result.get()

    def _interrupt(self, result: AsyncResult[Any], signal: str) -> None:
        """Have the engines stop, or get the signal that the user wants."""
        if signal == "0":
            return
        print(f"Received Keyboard Interrupt. Sending signal {signal} to engines...")
        if signal in ("SIGINT", "2"):
            # Our own way, which reaches this call and no other.
            with contextlib.suppress(TimeoutError):
                result.abort(_INTERRUPT_PATIENCE)
        else:
            number = int(signal) if signal.isdigit() else signal
            self.view.client.send_signal(number, result.targets)

    # --- %pxresult and %result ---

    @_options(*_OUTPUT)
    def pxresult(self, line: str = "") -> None:
        """Wait for the last ``%px``, and show what it has given.

        ::

            In [1]: %px os.getpid()
            Async parallel execution on engines: [0, 1, 2, 3]

            In [2]: %pxresult
            Out[0:1]: 4711
            ...
        """
        __tracebackhide__ = True
        args = magic_arguments.parse_argstring(self.pxresult, line)
        if self.last_result is None:
            raise UsageError(_NOTHING_YET)
        if args.save_name:
            self.shell.user_ns[args.save_name] = self.last_result
        self._show_result(self.last_result, args.groupby)

    @_options(
        _argument("index", nargs="?", type=int, default=-1, help="which call: an index into the history"),
        *_OUTPUT,
    )
    def result(self, line: str = "") -> Any:
        """Wait for the most recent call, or for one by its index, and give its result.

        ::

            In [1]: view.apply_async(os.getpid)

            In [2]: %result
            Out[2]: [4711, 4712, 4713, 4714]
        """
        args = magic_arguments.parse_argstring(self.result, line)
        result: AsyncResult[Any] = self.view.get_result(args.index)
        if args.save_name:
            self.shell.user_ns[args.save_name] = result
        value = result.get()
        replies = value if isinstance(value, list) else [value]
        if replies and all(isinstance(reply, ExecuteReply) for reply in replies):
            self._show_result(result, args.groupby)
            return None
        return value

    def _show_result(self, result: AsyncResult[Any], groupby: GroupBy) -> None:
        __tracebackhide__ = True
        result.wait()
        result._show_outputs(groupby)
        result.get()

    # --- %pxconfig ---

    @_options(*_EXECUTION)
    def pxconfig(self, line: str = "") -> None:
        """Set what ``%px`` and ``%%px`` do when they are not told otherwise."""
        args = magic_arguments.parse_argstring(self.pxconfig, line)
        if args.targets is not None:
            self.view.targets = parse_targets(args.targets)
        if args.block is not None:
            self.view.block = args.block
        if args.set_verbose is not None:
            self.verbose = args.set_verbose
        if args.stream is not None:
            self.stream_output = args.stream
        if args.progress_after_seconds is not None:
            self.progress_after = args.progress_after_seconds
        if args.signal_on_interrupt is not None:
            self.signal_on_interrupt = args.signal_on_interrupt

    # --- %autopx ---

    def autopx(self, line: str = "") -> None:
        """Switch to and fro: whether all that is typed runs on the engines, instead of here.

        ::

            In [1]: %autopx
            %autopx enabled
            Auto Parallel Enabled
            Type %autopx to disable

            In [2]: a = 10

            In [3]: %autopx
            %autopx disabled
            Auto Parallel Disabled
        """
        if self._autopx is None:
            self._enable_autopx()
        else:
            self.disable_autopx()

    def _enable_autopx(self) -> None:
        self.view  # noqa: B018 - there must be one
        if any(magics._autopx is not None for magics in _active.values()):
            raise UsageError("another view's %autopx is on: end that first")
        self._autopx = self.shell.run_ast_nodes
        self.shell.run_ast_nodes = self._run_nodes
        self.shell.events.register("pre_run_cell", self._note_cell)
        print("%autopx enabled")
        print("Auto Parallel Enabled")
        print(f"Type %autopx{self.suffix} to disable")

    def disable_autopx(self) -> None:
        """Have what is typed run here again."""
        if self._autopx is not None:
            self.shell.run_ast_nodes = self._autopx
            self._autopx = None
            self.shell.events.unregister("pre_run_cell", self._note_cell)
            print("%autopx disabled")
            print("Auto Parallel Disabled")

    def _note_cell(self, info: Any) -> None:
        self._cell = info.raw_cell

    async def _run_nodes(
        self, nodelist: Any, cell_name: str, interactivity: str = "last_expr", *args: Any, **kwargs: Any
    ) -> bool:
        """In place of IPython's own: run the cell on the engines. Returns whether it failed.

        IPython has read the cell: one with a syntax error doesn't get here.
        """
        name, _, _ = self._cell.strip().lstrip("%").partition(" ")
        mine = name == f"autopx{self.suffix}" and "\n" not in self._cell.strip()
        if interactivity == "none" or mine:  # a front end's own doings, and the way back
            failed: bool = await self._autopx(nodelist, cell_name, interactivity, *args, **kwargs)
            return failed
        try:
            result = self._run(self._cell, True) if self.view.block else self._submit(self._cell)
            if result is not None:
                print(result)
        except BaseException as error:  # noqa: BLE001 - shown as the cell's own would be
            outcome = kwargs.get("result")
            if outcome is not None:
                outcome.error_in_exec = error
            if isinstance(error, RemoteError):
                _show_remote(self.shell, type(error), error, error.__traceback__)
            else:
                self.shell.showtraceback()
            return True
        return False

    def _submit(self, source: str) -> AsyncResult[Any]:
        self.last_result = self.view.execute_async(source, silent=False)
        return self.last_result


def _show_while_waiting(result: AsyncResult[Any], *, printed: bool, progress_after: float) -> None:
    """Print what engines print, line by line with labels, until all have ended; draw a bar if it takes long.

    By this thread, not by the client's: a notebook shows what a thread prints below the cell that started it.

    Args:
        result: of the cell.
        printed: whether to show what engines print; it may be shown at the end.
        progress_after: seconds before the bar is drawn; negative: never.
    """
    arrived: collections.deque[tuple[int, str, str]] = collections.deque()
    bar_from = time.monotonic() + progress_after if progress_after >= 0 else None
    with contextlib.ExitStack() as stack:
        if printed:
            unlisten, earlier = result._listen(lambda *piece: arrived.append(piece))
            stack.callback(unlisten)
            arrived.extendleft(reversed(earlier))
        printer = Printer(labelled=not result._single)
        update: Callable[[int], None] | None = None
        while True:
            ended = result._all_answered()
            if update is None and bar_from is not None and not ended and time.monotonic() >= bar_from:
                printer.end_line()
                update = stack.enter_context(progress_bar(len(result), result._name))
            while arrived:
                index, stream, text = arrived.popleft()
                printer.write(result._of_slot(index, "engine_id"), stream, text)
            if update is not None:
                update(result.progress)
            if ended:
                break
            patience = _BAR_SECONDS if update is not None else None
            if update is None and bar_from is not None:
                patience = max(0.001, bar_from - time.monotonic())
            result._block(
                lambda: bool(arrived) or result._all_answered(), patience, "%px", "`%%px --noblock`"
            )
        printer.end_line()


# --- registering --------------------------------------------------------------------------------------------


def activate(view: DirectView[Any], suffix: str = "") -> ParallelMagics | None:
    """Have the magics, those with this suffix, use `view`. None outside of IPython."""
    shell: Any = get_ipython()
    if shell is None:
        return None
    magics = _registered(shell, suffix)
    magics.view = view
    return magics


def activate_first(client: Client) -> None:
    """Have the magics use all engines of `client`, if no view of an open client is in use."""
    shell: Any = get_ipython()
    if shell is not None and (not (magics := _active.get("")) or magics.shell is not shell or magics.is_idle):
        _registered(shell, "").view = client.direct_view("all")


def _registered(shell: Any, suffix: str) -> ParallelMagics:
    magics = _active.get(suffix)
    if magics is None or magics.shell is not shell:
        magics = _active[suffix] = ParallelMagics(shell, suffix=suffix)
        shell.register_magics(magics)
        if not shell.custom_exceptions:  # the user's own way to show errors stays
            shell.set_custom_exc((RemoteError,), _show_remote)
    return magics


def _show_remote(shell: Any, kind: Any, error: BaseException, trace: Any, tb_offset: Any = None) -> None:
    """Show what failed on engines: none of our frames, nor, of a CompositeError, each engine's traceback."""
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # for %debug
    lines = shell.InteractiveTB.structured_traceback(kind, error, _of_the_user(trace), tb_offset=tb_offset)
    shell._showtraceback(kind, error, lines)


def _of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """`trace` as far as the line that called us."""
    steps: list[TracebackType] = []
    while trace is not None:
        steps.append(trace)
        trace = trace.tb_next
    whole = list(steps)
    while steps and steps[-1].tb_frame.f_globals.get("__name__", "").startswith(("directview.", "IPython.")):
        steps.pop()
    kept: TracebackType | None = None
    for step in reversed(steps or whole):
        kept = TracebackType(kept, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return kept


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext directview``. A view that is in use already stays in use."""
    _registered(shell, "")


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext directview``."""
    shell.set_custom_exc((), None)
    for magics in list(_active.values()):
        magics.disable_autopx()
        for kind, named in magics.magics.items():
            for name in named:
                shell.magics_manager.magics[kind].pop(name, None)
    _active.clear()
