"""The supervisor's end of the control socket; `directview.supervisor.control` is the other."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from directview.supervisor._state import EndEngine, SignalEngine, StopAll
from directview.supervisor.control import MAX_LINE

if TYPE_CHECKING:
    from directview.supervisor._shell import Supervisor

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)


class ControlServer:
    """Answers requests, one per connection. Who can connect is settled by the socket's folder.

    Args:
        supervisor: whom to ask.
        path: of the socket; a file left there is removed first.
    """

    def __init__(self, supervisor: Supervisor, path: str) -> None:
        self.path = path
        self._supervisor = supervisor
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen."""
        self._unlink()
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=MAX_LINE)
        os.chmod(self.path, 0o600)

    async def close(self) -> None:
        """Stop listening; requests that wait for something are answered by the end of their connection."""
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._unlink()

    def _unlink(self) -> None:
        Path(self.path).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            line = await reader.readline()
            if not line:
                return
            try:
                ok, value = await self._answer(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                ok, value = False, f"the supervisor can't read this request: {error!r}"
            writer.write(json.dumps({"ok": ok, "value": value}).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # Whoever asked has gone, or sent an endless line, or we end: the connection closes.
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, request: dict[str, Any]) -> tuple[bool, Any]:
        supervisor = self._supervisor
        match request:
            case {"do": "status"}:
                return True, supervisor.status()
            case {"do": "stop"}:
                supervisor.feed(StopAll(str(request.get("reason", "it was asked to stop"))))
                return True, None
            case {"do": "detach"}:
                supervisor.detach()
                return True, None
            case {"do": "start", "n": int(n)} if n > 0:
                ticket: asyncio.Future[tuple[bool, Any]] = asyncio.get_running_loop().create_future()
                supervisor.start_engines(n, ticket)
                return await ticket
            case {"do": "restart-engines", "engines": list(engines)}:
                ticket = asyncio.get_running_loop().create_future()
                supervisor.restart_engines([(bytes.fromhex(old), int(id)) for old, id in engines], ticket)
                return await ticket
            case {"do": "stop-engines"}:
                uuids, unknown = self._chosen(request)
                if unknown:
                    return False, unknown
                if request.get("uuids") is None:
                    supervisor.machine.cancel_restarts()
                for uuid in uuids:
                    supervisor.feed(EndEngine(uuid, "it was stopped"))
                await supervisor.wait_ended(uuids)
                return True, None
            case {"do": "signal", "signum": int(signum)} if 0 < signum < 65:
                uuids, unknown = self._chosen(request)
                if unknown:
                    return False, unknown
                for uuid in uuids:
                    supervisor.feed(SignalEngine(uuid, signum))
                return True, None
            case _:
                return False, f"the supervisor knows no request like {request!r:.200}"

    def _chosen(self, request: dict[str, Any]) -> tuple[list[bytes], str]:
        """The engines that a request names (all, if it names none), and what to say if one isn't here."""
        engines = self._supervisor.machine.engines
        if request.get("uuids") is None:
            return list(engines), ""
        uuids = [bytes.fromhex(uuid) for uuid in request["uuids"]]
        unknown = [uuid.hex() for uuid in uuids if uuid not in engines]
        return uuids, f"no engine {', '.join(unknown)} here" if unknown else ""
