"""A network that can be broken: a TCP proxy on the loopback device that cuts, stalls, delays and swallows."""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["Proxy"]

_PIECE: Final = 65_536
_AHEAD: Final = 64
"""Pieces that may be under way in each direction of each connection."""


class Proxy:
    """Passes connections to a port on to another one.

    Args:
        port: the real one, on this machine.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        """Where it listens itself, once started."""
        self.latency = 0.0
        """Seconds that everything takes, each way."""
        self._target = port
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._swallowing = False
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and cut what is there."""
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        self.cut()
        await asyncio.gather(*connections, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections. New ones are possible at once."""
        for connection in self._connections:
            connection.cancel()

    async def stall(self, seconds: float) -> None:
        """Nothing passes for a while, and then all of it."""
        self._passing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._passing.set()

    async def swallow(self, seconds: float) -> None:
        """For a while, whatever is sent is lost, and nobody is told. The connections don't live on."""
        self._swallowing = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self._swallowing = False
            self.cut()

    async def delay(self, seconds: float, latency: float) -> None:
        """Everything takes `latency` seconds longer, for a while."""
        self.latency = latency
        try:
            await asyncio.sleep(seconds)
        finally:
            self.latency = 0.0

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        other: asyncio.StreamWriter | None = None
        try:
            their_reader, other = await asyncio.open_connection("127.0.0.1", self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, other))
                group.create_task(self._pass(their_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # One side is gone, or the line was cut: so is the other side.
        finally:
            self._connections.discard(task)
            for each in (writer, other):
                if each is not None:
                    each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_AHEAD)
        arriving = asyncio.ensure_future(self._arrive(under_way, writer))
        try:
            loop = asyncio.get_running_loop()
            while data := await reader.read(_PIECE):
                if not self._swallowing:
                    await under_way.put((loop.time() + self.latency, data))
            raise ConnectionResetError  # This side has closed.
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)

    async def _arrive(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await under_way.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
