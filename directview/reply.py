"""What running source on an engine answers. Pure: plain data, pickled from engine to client."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ExecuteReply"]


@dataclass(slots=True)
class ExecuteReply:
    """How one `execute` or `run` ended on one engine.

    It comes only from source that ran to its end: what the source raised is raised by the call.
    """

    status: str = "ok"
    """``'ok'``."""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    """What the source displayed with IPython's `display`, in order: dicts with ``data`` (by MIME type; images
    in base64) and ``metadata``."""
    stdout: str = ""
    """What the source printed, filled in where the reply arrives: output travels while the source runs."""
    stderr: str = ""
    """Likewise."""
    result: str | None = None
    """The last expression's value as text; None if it was None, or wasn't asked for (``silent=True``)."""
    execute_result: dict[str, Any] | None = None
    """The same in all forms that its engine could make: ``data`` by MIME type, ``metadata``,
    ``execution_count``."""
    execution_count: int | None = None
    """How many cells, this one included, this engine has run for notebooks and magics."""
    engine_id: int | None = None
    """The engine on which it ran."""

    @property
    def data(self) -> dict[str, Any]:
        """The last expression's value by MIME type; empty if there is none."""
        return {} if self.execute_result is None else self.execute_result["data"]

    def labelled(self) -> str:
        """The last expression's value as text, with its place: ``Out[0:3]: 42``; empty if there is none."""
        if self.result is None:
            return ""
        gap = "\n" if "\n" in self.result and not self.result.startswith("\n") else ""
        return f"Out[{self.engine_id}:{self.execution_count}]: {gap}{self.result}"

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """For notebooks: what the engine displayed, and the text with its place."""
        found = {**self.data, "text/plain": self.labelled() or repr(self)}
        metadata = {} if self.execute_result is None else self.execute_result["metadata"]
        return found, metadata

    def __repr__(self) -> str:
        said = "".join(
            f", {name} {_brief(text)}"
            for name, text in (("stdout", self.stdout), ("stderr", self.stderr))
            if text
        )
        shown = "" if self.result is None else f": {_brief(self.result, quoted=False)}"
        return f"<ExecuteReply {self.status}{shown}{said}>"


def _brief(text: str, limit: int = 60, *, quoted: bool = True) -> str:
    shown = repr(text) if quoted else text
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
