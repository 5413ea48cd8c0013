"""An async web service whose handlers await engines: 200 requests at a time, and some run out of time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from directview import Client, Cluster

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

DEADLINE = 20.0
LONG = 60.0


def computes(i: int) -> int:
    return i * i


async def asks_a_service(i: int) -> int:
    await asyncio.sleep(0.001)
    return i * i


def takes_too_long(i: int) -> int:
    time.sleep(LONG)
    return i


async def waits_too_long(i: int) -> int:
    await asyncio.sleep(LONG)
    return i


def lines(n: int) -> Iterator[str]:
    for i in range(n):
        yield f"line {i}\n"


KINDS = {"computes": computes, "asks": asks_a_service, "long": takes_too_long, "waits": waits_too_long}


def application(cluster: Cluster) -> Starlette:
    """Connects once, at its start, and shares the client among all requests."""

    async def call(request: Request) -> JSONResponse:
        rc: Client = request.app.state.rc
        i = int(request.query_params["i"])
        try:
            async with asyncio.timeout(float(request.query_params["seconds"])):
                value = await rc[i % 2].apply_async(KINDS[request.path_params["kind"]], i)
        except TimeoutError:
            return JSONResponse({"i": i}, status_code=504)
        return JSONResponse({"i": i, "value": value})

    async def stream(request: Request) -> StreamingResponse:
        rc: Client = request.app.state.rc
        return StreamingResponse(rc[0].stream(lines, int(request.query_params["n"])))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with Client(cluster.connection_file) as rc:
            app.state.rc = rc
            yield

    return Starlette(routes=[Route("/call/{kind}", call), Route("/stream", stream)], lifespan=lifespan)


async def test_two_hundred_requests_at_a_time(cluster: Cluster) -> None:
    """Those that run out of time get their 504; all others their own value; nothing is left on engines."""
    app = application(cluster)
    async with app.router.lifespan_context(app):
        rc: Client = app.state.rc
        pids = await rc[:].apply_async(os.getpid)
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:

            async def request(i: int) -> tuple[str, int, httpx2.Response]:
                kind = "long" if i % 20 == 3 else "waits" if i % 10 == 7 else ("computes", "asks")[i % 2]
                limit = 0.2 if kind in ("long", "waits") else DEADLINE
                answer = await http.get(f"/call/{kind}", params={"i": i, "seconds": limit}, timeout=DEADLINE)
                return kind, i, answer

            async with asyncio.timeout(2 * DEADLINE):
                answers = await asyncio.gather(*map(request, range(200)))
        for kind, i, answer in answers:
            if kind in ("long", "waits"):
                assert answer.status_code == 504
            else:
                assert (answer.status_code, answer.json()) == (200, {"i": i, "value": i * i})
        assert await rc[:].apply_async(os.getpid) == pids
        async with asyncio.timeout(DEADLINE):
            while any([status["queue"] or status["tasks"] for status in await statuses(rc)]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def statuses(rc: Client) -> list[dict[str, int]]:
    answer = await rc.query("queue_status")
    return [answer["0"], answer["1"]]


def test_a_service_is_tried_as_starlette_does(cluster: Cluster) -> None:
    """Its test client runs the application on a loop of its own, in a thread."""
    with TestClient(application(cluster)) as http:
        assert http.get("/call/computes?i=12&seconds=10").json() == {"i": 12, "value": 144}
        assert http.get("/call/long?i=1&seconds=0.05").status_code == 504
        assert http.get("/call/asks?i=1&seconds=10").json() == {"i": 1, "value": 1}
        assert http.get("/stream?n=500").text == "".join([f"line {i}\n" for i in range(500)])
