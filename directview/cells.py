"""Source run as a notebook runs a cell: the value of its last expression is displayed, and comes back.

Where IPython is installed on the engine the source may be IPython's (``%magics``, ``!commands``), and what it
displays (HTML, pictures, figures) comes back too. IPython is imported by the first cell that an engine runs,
and by nothing before; an engine without it shows last expressions by their `repr`.

The cell is compiled and run here, not by IPython's own ``run_cell``: that prints errors instead of raising
them, swallows interrupts, and keeps every result alive in ``Out``.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, SimpleNamespace
from typing import Any, Final, Protocol

from directview import operations
from directview.reply import ExecuteReply

__all__ = ["OUTPUTS_OF_ERROR", "Shell", "displayed", "python_of", "run_cell"]

OUTPUTS_OF_ERROR: Final = "_directview_outputs"
"""Attribute of an error that a cell raised: what the cell had displayed before."""

_FLAGS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class _Outputs(list[dict[str, Any]]):
    """What a cell displays, in order."""

    stale = False
    """Whether the next one takes the place of them all."""


_outputs: ContextVar[_Outputs | None] = ContextVar("directview.cells.outputs", default=None)
_counts: dict[str, int] = {}
"""Cells run so far, by the engine's uuid."""

Bundle = tuple[dict[str, Any], dict[str, Any]]
"""Data by MIME type, and metadata."""


class Shell(Protocol):
    """What a cell needs of IPython."""

    def transformed(self, code: str) -> str:
        """Python for what may be IPython's syntax."""
        ...

    def transformed_tree(self, tree: ast.Module) -> ast.Module:
        """What the user's own transformers of syntax trees make of one."""
        ...

    def formatted(self, value: object) -> Bundle:
        """A value in all forms that it can be displayed in."""
        ...

    def before(self, cell: SimpleNamespace) -> None:
        """A cell is about to run."""

    def after(self, cell: SimpleNamespace, error: BaseException | None) -> None:
        """A cell has ended; figures that it has drawn are displayed now."""


class _PlainShell:
    """For engines without IPython."""

    def transformed(self, code: str) -> str:
        return code

    def transformed_tree(self, tree: ast.Module) -> ast.Module:
        return tree

    def formatted(self, value: object) -> Bundle:
        return {"text/plain": repr(value)}, {}

    def before(self, cell: SimpleNamespace) -> None:
        """Nothing to do."""

    def after(self, cell: SimpleNamespace, error: BaseException | None) -> None:
        """Nothing to do."""


_plain: Final[Shell] = _PlainShell()


def _ipython() -> Shell | None:
    """This engine's IPython, started if need be; None where it isn't installed."""
    try:
        from directview import _cells_ipython
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "IPython":
            raise
        return None
    return _cells_ipython.shell(operations.namespace())


def python_of(code: str) -> str | None:
    """Python for source in IPython's syntax; None if it isn't that, or IPython isn't installed here."""
    shell = _ipython()
    python = code if shell is None else shell.transformed(code)
    return None if python.rstrip() == code.rstrip() else python


def displayed(
    data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], *, update: bool = False
) -> bool:
    """Take what `display` was given.

    Args:
        data, metadata: by MIME type.
        transient: holds the ``display_id``, if there is one.
        update: replace what this cell has displayed under that id.

    Returns:
        False if no cell runs in this context: it is to be printed then.
    """
    outputs = _outputs.get()
    if outputs is None:
        return False
    if outputs.stale:
        outputs.stale = False
        outputs.clear()
    output: dict[str, Any] = {"output_type": "display_data", "data": data, "metadata": metadata}
    if transient:
        output["transient"] = transient
    places = [i for i, other in enumerate(outputs) if update and other.get("transient") == transient]
    if places:
        outputs[places[-1]] = output
    else:
        outputs.append(output)
    return True


def cleared(wait: bool = False) -> None:
    """Take back what this cell has displayed so far; with `wait`, when it displays something else."""
    outputs = _outputs.get()
    if outputs is not None:
        outputs.stale = wait
        if not wait:
            outputs.clear()


# --- running one ------------------------------------------------------------------------------------------


def run_cell(code: str) -> ExecuteReply | Coroutine[Any, Any, ExecuteReply]:
    """Run source in the namespace, and display its last expression, unless a semicolon ends it.

    With ``await`` at its top level it runs as a coroutine does.

    Args:
        code: Python source, or where IPython is installed, source in its syntax.

    Raises:
        SyntaxError: it is neither.
        Exception: whatever the source raises; what it had displayed before is kept with the error.
    """
    if not isinstance(code, str):
        raise TypeError(f"a cell is source as a str, got {type(code).__name__}; use apply for a function")
    cell = _Cell(code, _ipython() or _plain)
    return cell.run_awaiting() if cell.awaits else cell.run()


class _Cell:
    """One cell, compiled: its statements, and the expression at its end that is displayed."""

    def __init__(self, code: str, shell: Shell) -> None:
        self._shell = shell
        self._names = operations.namespace()
        self._engine_id, engine_uuid = operations.engine()
        self._count = _counts[engine_uuid] = _counts.get(engine_uuid, 0) + 1
        self._shown: Bundle | None = None
        self._displayed = _Outputs()
        source = shell.transformed(code)
        filename = operations.keep_source(source)
        # What functions of IPython's events are told, under IPython's own names.
        self._info = SimpleNamespace(
            raw_cell=code, transformed_cell=source, store_history=False, silent=False, shell_futures=True,
            cell_id=None, cell_meta=None, execution_count=self._count,
        )  # fmt: skip
        tree = compile(source, filename, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        tree = shell.transformed_tree(tree)
        last = _take_last_expression(tree, source)
        self._body: CodeType = compile(tree, filename, "exec", _FLAGS, dont_inherit=True)
        self._last: CodeType | None = (
            None if last is None else compile(last, filename, "eval", _FLAGS, dont_inherit=True)
        )
        flags = self._body.co_flags | (0 if self._last is None else self._last.co_flags)
        self.awaits = bool(flags & inspect.CO_COROUTINE)

    def run(self) -> ExecuteReply:
        """Run it to its end."""
        with self._running():
            exec(self._body, self._names)
            if self._last is not None:
                self._show(eval(self._last, self._names))
        return self._reply()

    async def run_awaiting(self) -> ExecuteReply:
        """Run one that awaits."""
        with self._running():
            for code, use in ((self._body, _ignore), (self._last, self._show)):
                if code is not None:
                    value = eval(code, self._names)
                    use(await value if code.co_flags & inspect.CO_COROUTINE else value)
        return self._reply()

    @contextmanager
    def _running(self) -> Iterator[None]:
        token = _outputs.set(self._displayed)
        failed: BaseException | None = None
        try:
            self._shell.before(self._info)
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            try:
                self._shell.after(self._info, failed)
            finally:
                _outputs.reset(token)
                if failed is not None and self._displayed:
                    setattr(failed, OUTPUTS_OF_ERROR, list(self._displayed))

    def _show(self, value: object) -> None:
        if value is not None:
            self._names["_"] = value
            self._shown = self._shell.formatted(value)

    def _reply(self) -> ExecuteReply:
        reply = ExecuteReply(
            outputs=list(self._displayed), execution_count=self._count, engine_id=self._engine_id
        )
        if self._shown is not None and self._shown[0]:  # it may have displayed itself
            data, metadata = self._shown
            reply.result = data.get("text/plain", "")
            reply.execute_result = {
                "data": data, "metadata": metadata, "execution_count": self._count,
            }  # fmt: skip
        return reply


def _ignore(value: object) -> None:
    """The statements of a cell have no value."""


def _take_last_expression(tree: ast.Module, source: str) -> ast.Expression | None:
    """The expression at the end of a cell, taken out of it, if it is to be displayed."""
    if not tree.body or not isinstance(tree.body[-1], ast.Expr) or _ends_in_semicolon(source):
        return None
    statement = tree.body.pop()
    assert isinstance(statement, ast.Expr)
    return ast.Expression(statement.value)


def _ends_in_semicolon(source: str) -> bool:
    said = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.DEDENT, tokenize.ENDMARKER)
    last = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in said:
            last = token.string
    return last == ";"
