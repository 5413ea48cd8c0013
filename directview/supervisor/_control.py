"""The supervisor's end of the control socket; `directview.supervisor.control` is the other."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, assert_never

from directview.supervisor._requests import (
    Detach,
    Request,
    RestartEngines,
    SignalEngines,
    StartEngines,
    Status,
    Stop,
    StopEngines,
    parse,
)
from directview.supervisor._state import EndEngine, SignalEngine, StopAll
from directview.supervisor.control import MAX_LINE

if TYPE_CHECKING:
    from directview.supervisor._shell import Supervisor

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)

_PATIENCE: Final = 10.0
"""Seconds for the line of a request."""
_COMPLAIN: Final = 1.0
"""Seconds between two lines in the log about what was no request."""


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
        self._complained = -_COMPLAIN
        self._unsaid = 0

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
            async with asyncio.timeout(_PATIENCE):
                line = await reader.readline()
            if not line:
                return
            try:
                asked = parse(line)
            except ValueError as error:
                ok, value = False, f"the supervisor can't read this request: {error}"
                self._complain(str(error))
            else:
                ok, value = await self._answer(asked)
            writer.write(json.dumps({"ok": ok, "value": value}).encode() + b"\n")
            await writer.drain()
        except ValueError:
            self._complain(f"a line of more than {MAX_LINE} bytes")
        except TimeoutError:
            self._complain(f"no whole line within {_PATIENCE:g} s")
        except (OSError, asyncio.CancelledError):
            pass  # Whoever asked has gone, or we end: the connection closes.
        finally:
            self._serving.discard(task)
            writer.close()

    def _complain(self, what: str) -> None:
        """Something else than a request came. However often it does, it doesn't fill the log."""
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN:
            more = f", and {self._unsaid} others before" if self._unsaid else ""
            _log.warning("refused what came on the control socket: %.300s%s", what, more)
            self._complained, self._unsaid = now, 0
        else:
            self._unsaid += 1

    async def _answer(self, request: Request) -> tuple[bool, Any]:
        supervisor = self._supervisor
        match request:
            case Status():
                return True, supervisor.status()
            case Stop(reason):
                supervisor.feed(StopAll(reason))
                return True, None
            case Detach():
                supervisor.detach()
                return True, None
            case StartEngines(n):
                ticket: asyncio.Future[tuple[bool, Any]] = asyncio.get_running_loop().create_future()
                supervisor.start_engines(n, ticket)
                return await ticket
            case RestartEngines(engines):
                ticket = asyncio.get_running_loop().create_future()
                supervisor.restart_engines(engines, ticket)
                return await ticket
            case StopEngines(named):
                uuids, unknown = self._chosen(named)
                if unknown:
                    return False, unknown
                if named is None:
                    supervisor.machine.cancel_restarts()
                for uuid in uuids:
                    supervisor.feed(EndEngine(uuid, "it was stopped"))
                await supervisor.wait_ended(uuids)
                return True, None
            case SignalEngines(signum, named):
                uuids, unknown = self._chosen(named)
                if unknown:
                    return False, unknown
                for uuid in uuids:
                    supervisor.feed(SignalEngine(uuid, signum))
                return True, None
            case _:
                assert_never(request)

    def _chosen(self, named: tuple[bytes, ...] | None) -> tuple[list[bytes], str]:
        """The engines that a request names (all, if it names none), and what to say if one isn't here."""
        engines = self._supervisor.machine.engines
        if named is None:
            return list(engines), ""
        unknown = [uuid.hex() for uuid in named if uuid not in engines]
        return list(named), f"no engine {', '.join(unknown)} here" if unknown else ""
