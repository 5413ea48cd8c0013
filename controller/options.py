"""What a controller is told at its start. Pure: plain data, the same for a forked one and a command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ControllerOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOptions:
    """Options of one controller process."""

    folder: str
    """The cluster's folder: it exists, is ours and 0700. Connection files and the lock belong there."""
    cluster_id: str
    profile: str | None = None
    """Name of the cluster, or None for a private one."""
    ip: str | None = None
    """Address to bind TCP at (``127.0.0.1``, ``0.0.0.0``, ``*``); None: the unix socket only."""
    port: int = 0
    """TCP port; 0: any free one."""
    curve: bool = True
    """Whether TCP is encrypted and authenticated. Without it, everybody who reaches the port can run code."""
    policy: str = "stop"
    """What peers do when the controller is gone: ``stop``, or ``wait`` for another one."""
    heartbeat_interval: float = 0.5
    """Seconds between the controller's heartbeats to each peer. At most half of the timeout."""
    heartbeat_timeout: float = 2.0
    """Seconds without an answer after which a peer's connection counts as lost."""
    lease: float = 30.0
    """Seconds for which the place of a lost peer is kept."""
    store: str | None = None
    """Path of an SQLite file for the history of calls; None: the last calls are remembered in memory."""
    detached_results: int = 10_000
    """Results of detached calls that are kept."""
    detached_bytes: int = 256 << 20
    """Bytes of them, together."""
    detached_age: float = 7 * 86_400.0
    """Seconds for which they are kept."""
    ready_fd: int = -1
    """Where to write one line of JSON when all is bound and written: ``{"client": path, "engine": path}``,
    or ``{"error": text}`` when it can't start; closed after that. -1: nobody waits for it."""
    log: str = ""
    """Where the descriptors 1 and 2 go to already; empty: a terminal."""

    trace: bool = False
    """Whether each process writes down where each call is."""
    metrics: str = ""
    """``[HOST:]PORT`` at which Prometheus finds metrics; empty: nowhere."""
    log_level: str | int = ""
    """The least level that is logged; empty: what DIRECTVIEW_LOG_LEVEL says, or ``info``."""

    def __post_init__(self) -> None:
        if self.policy not in ("stop", "wait"):
            raise ValueError(f"policy must be 'stop' or 'wait', got {self.policy!r}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, got {self.port}")
        if not 0 < self.heartbeat_interval <= self.heartbeat_timeout / 2:
            raise ValueError(
                "the heartbeat's interval must be at most half of its timeout, got "
                f"{self.heartbeat_interval} and {self.heartbeat_timeout} s"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, contents: Mapping[str, Any]) -> ControllerOptions:
        """From plain data; TypeError for a field that isn't known."""
        return cls(**contents)

    def to_json(self) -> str:
        """As one line of text, for a command line."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> ControllerOptions:
        """From `to_json`'s text."""
        return cls.from_dict(json.loads(text))
