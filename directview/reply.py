"""What running source on an engine answers. Pure: plain data, pickled from engine to client."""

from __future__ import annotations

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
    """Rich output, in order, each as IPython describes one; empty where no IPython runs on the engine."""
    stdout: str = ""
    """What the source printed, filled in where the reply arrives: output travels while the source runs."""
    stderr: str = ""
    """Likewise."""
    result: Any = None
    """What the last expression displayed; None where no IPython runs on the engine."""

    def __repr__(self) -> str:
        said = "".join(
            f", {name} {_brief(text)}"
            for name, text in (("stdout", self.stdout), ("stderr", self.stderr))
            if text
        )
        shown = "" if self.result is None else f": {_brief(repr(self.result))}"
        return f"<ExecuteReply {self.status}{shown}{said}>"


def _brief(text: str, limit: int = 60) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
