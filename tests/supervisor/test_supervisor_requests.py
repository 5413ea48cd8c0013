"""What comes on the control socket: a request, or something that is refused and harms nobody."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.supervisor import _control
from directview.supervisor._control import ControlServer
from directview.supervisor._requests import (
    MOST_ENGINES,
    Detach,
    RestartEngines,
    SignalEngines,
    StartEngines,
    Status,
    Stop,
    StopEngines,
    parse,
)
from directview.supervisor._shell import Supervisor
from directview.supervisor.control import MAX_LINE, request

E0 = bytes(15) + b"\1"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"do": "status"}, Status()),
        ({"do": "stop"}, Stop("it was asked to stop")),
        ({"do": "stop", "reason": "enough"}, Stop("enough")),
        ({"do": "stop", "reason": "half \ud800"}, Stop("half ?")),
        ({"do": "detach"}, Detach()),
        ({"do": "start", "n": 3}, StartEngines(3)),
        ({"do": "restart-engines", "engines": [[E0.hex(), 0]]}, RestartEngines(((E0, 0),))),
        ({"do": "stop-engines"}, StopEngines(None)),
        ({"do": "stop-engines", "uuids": [E0.hex()]}, StopEngines((E0,))),
        ({"do": "signal", "signum": 15, "uuids": []}, SignalEngines(15, ())),
    ],
)
def test_what_may_be_asked(asked: dict[str, Any], meant: object) -> None:
    assert parse(json.dumps(asked).encode()) == meant


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[" * 100_000, "no line of JSON"),
        (b"\xff\xfe", "no line of JSON"),
        (b"GET / HTTP/1.1", "no line of JSON"),
        (b"null", "no request like None"),
        (b'{"do": "dance"}', "no request like"),
        (b'{"do": "start", "n": 1e999}', "n must be a whole number"),
        (b'{"do": "start", "n": true}', "n must be a whole number"),
        (b'{"do": "start", "n": %d}' % (MOST_ENGINES + 1), "from 1 to 4096"),
        (b'{"do": "restart-engines", "engines": [["00", 1]]}', "32 hex digits"),
        (b'{"do": "restart-engines", "engines": [["%s", Infinity]]}' % E0.hex().encode(), "the id must be"),
        (b'{"do": "restart-engines", "engines": [7]}', "pairs of uuid and id"),
        (b'{"do": "stop-engines", "uuids": 7}', "uuids must be a list"),
        (b'{"do": "signal", "signum": 0}', "signum must be"),
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
NAMES = st.sampled_from(["status", "stop", "detach", "start", "restart-engines", "stop-engines", "signal"])


@given(
    line=st.binary(max_size=200)
    | JSON.map(lambda found: json.dumps(found).encode())
    | st.fixed_dictionaries(
        {"do": NAMES},
        optional=dict.fromkeys(("reason", "n", "engines", "uuids", "signum"), JSON),
    ).map(lambda found: json.dumps(found).encode())
)
@settings(max_examples=300, deadline=None)
def test_nothing_else_comes_of_it(line: bytes) -> None:
    try:
        asked = parse(line)
    except ValueError as error:
        if not str(error):
            raise
        return
    if isinstance(asked, Stop):
        asked.reason.encode()


class Quiet:
    """In the place of a supervisor: it is well, and nobody may want anything else of it."""

    def status(self) -> dict[str, Any]:
        return {"pid": 7}


async def test_garbage_does_not_keep_the_socket_from_answering(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, an endless line, a nest, half a line, nothing at all: refused, and told in a few lines."""
    failed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
    path = str(tmp_path / "control.sock")
    server = ControlServer(cast(Supervisor, Quiet()), path)
    await server.start()

    async def say(what: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(what)
            return await reader.read()
        except OSError:
            return b""
        finally:
            writer.close()

    try:
        with caplog.at_level(logging.WARNING, "directview"):
            refused = await say(b"[" * 100_000 + b"\n")
            assert json.loads(refused)["ok"] is False
            assert await say(b"x" * (MAX_LINE + 10)) == b""
            with monkeypatch.context() as patch:
                patch.setattr(_control, "_PATIENCE", 0.05)
                for what in (b"half a line", b""):
                    assert await say(what) == b""  # It says nothing, and is not waited for.
            answers = await asyncio.gather(*[say(b"noise %d\n" % number) for number in range(50)])
        assert all([b"can't read this request" in answer for answer in answers])
        assert await request(path, "status") == {"pid": 7}
    finally:
        await server.close()
    assert failed == []
    told = [record.getMessage() for record in caplog.records]
    assert 1 <= len(told) <= 20
    assert "refused what came on the control socket: no line of JSON" in told[0]
