"""What an engine is told at its start. Pure: plain data, the same for a forked engine and a command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["EngineOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options of one engine process."""

    connection: str
    """Path of the ``engine.json`` to read."""
    uuid: str
    """Of this engine: 16 bytes as 32 hex digits. A restarted engine has a new one."""
    supervisor: str = ""
    """Of the supervisor that watches it, in hex; empty when nobody does."""
    interrupt_fd: int = -1
    """Read end of the pipe from which call ids are read when the interrupt signal arrives; -1 without."""
    wanted_id: int = -1
    """The id to ask for (that of the engine whose place it takes), or -1 for the next free one."""
    folder: str = ""
    """The cluster's folder on this machine, or empty."""
    log: str = ""
    """Where the descriptors 1 and 2 go to already; named in errors."""
    on_start: str = ""
    """File that says what is to be done before the first call; empty: nothing."""
    heartbeat_interval: float = 30.0
    """Seconds between an engine's own heartbeats. Lax: the controller's are the tight ones, and an engine
    that is as strict loses its place whenever the controller is paused."""
    heartbeat_timeout: float = 30.0
    """Seconds without an answer after which the controller counts as gone."""
    connect_timeout: float = 30.0
    """Seconds within which the controller must have said welcome."""
    reconnect_timeout: float = 600.0
    """Seconds for which to look for another controller, in a cluster that outlives its controller."""

    log_level: str | int = ""
    """The least level that is logged; empty: what DIRECTVIEW_LOG_LEVEL says, or ``info``."""

    def __post_init__(self) -> None:
        for name, value in (("uuid", self.uuid), ("supervisor", self.supervisor)):
            if len(bytes.fromhex(value)) not in ((16,) if name == "uuid" else (0, 16)):
                raise ValueError(f"{name} must be 16 bytes in hex, got {value!r}")

    @property
    def uuid_bytes(self) -> bytes:
        """`uuid` as it travels."""
        return bytes.fromhex(self.uuid)

    @property
    def supervisor_bytes(self) -> bytes:
        """`supervisor` as it travels: 16 bytes, or none."""
        return bytes.fromhex(self.supervisor)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, contents: Mapping[str, Any]) -> EngineOptions:
        """From plain data; TypeError for a field that isn't known."""
        return cls(**contents)

    def to_json(self) -> str:
        """As one line of text, for a command line."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> EngineOptions:
        """From `to_json`'s text."""
        return cls.from_dict(json.loads(text))
