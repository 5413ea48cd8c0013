"""What a supervisor is told at its start, through a pipe. Pure: plain data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SupervisorOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """Options of one supervisor process."""

    folder: str
    """The cluster's folder on this machine: logs, control file; 0700."""
    cluster_id: str
    profile: str | None = None
    controller: dict[str, Any] | None = None
    """`ControllerOptions` of the controller to start, or None when there is one already."""
    connection: str = ""
    """Path of the ``engine.json`` to use when the controller is there already."""
    n: int = 0
    """Engines to start at once."""
    policy: str = "stop"
    grace: float = 3.0
    """Seconds between SIGTERM and SIGKILL."""
    env: dict[str, str] | None = None
    """Environment of the engines. With one, each engine is a fresh process: what the fork server has
    imported already (a BLAS and its threads) would not look at it again."""
    start_method: str = "fork"
    """``fork`` from the preloaded fork server, or ``exec``: a fresh process for each engine."""
    restart_engines: bool = False
    """Whether an engine that dies is followed by another under its id."""
    engine: dict[str, Any] = field(default_factory=dict)
    """Further `EngineOptions` for each engine."""
    sys_path: list[str] | None = None
    """The launcher's ``sys.path``, so that what it can import, engines can."""
    pythonpath: str | None = None
    """What PYTHONPATH was before the launcher changed it for this start, to be put back."""
    launcher_pid: int = 0
    lifeline_fd: int = -1
    """A socket to the launcher: events go out on it, and when it closes the launcher is gone."""
    private: bool = False
    """Whether the folder is to be removed when nobody is left to do it."""

    log_level: str | int = ""
    """The least level that is logged; empty: what DIRECTVIEW_LOG_LEVEL says, or ``info``."""

    def to_json(self) -> str:
        """As text, for the pipe."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SupervisorOptions:
        """From `to_json`'s text."""
        return cls(**json.loads(text))
