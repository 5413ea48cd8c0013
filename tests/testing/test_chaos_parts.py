"""The chaos harness itself: its schedules, its network, and above all its judge, who must not be too kind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from directview.testing.chaos import Report, episodes
from directview.testing.chaos._clocks import AWAY as AWAY_HOST
from directview.testing.chaos._clocks import HERE, Clocks, library
from directview.testing.chaos._judge import Happening, judge
from directview.testing.chaos._proxy import Proxy
from directview.testing.chaos._sandbox import full
from directview.testing.chaos._schedule import ENDINGS, KINDS, NEVER_TOGETHER, RESILIENT_ONLY

DEADLINE = 20.0


def test_a_seed_gives_the_same_schedule_each_time() -> None:
    assert list(episodes(5, 60)) == list(episodes(5, 60))
    assert list(episodes(5, 60)) != list(episodes(6, 60))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    """So that an episode can be run again alone."""
    short, long = list(episodes(5, 60)), list(episodes(5, 120))
    assert short[:-1] == long[: len(short) - 1]


def test_all_kinds_of_faults_and_endings_come_in_time_and_in_order() -> None:
    found = list(episodes(1, 600))
    assert sum([episode.seconds for episode in found]) == pytest.approx(600)
    assert {fault.kind for episode in found for fault in episode.faults} == set(KINDS)
    assert {episode.ending for episode in found} == set(ENDINGS)
    for episode in found:
        times = [fault.at for fault in episode.faults]
        assert times == sorted(times)
        assert all([0 < at < episode.seconds for at in times])
        there = {fault.kind for fault in episode.faults}
        assert not set(NEVER_TOGETHER) <= there
        assert episode.resilient or not there & RESILIENT_ONLY


# --- the judge --------------------------------------------------------------------------------------


def call(how: str, *errors: dict[str, Any], **fields: Any) -> dict[str, Any]:
    told = {"token": "c1-1", "kind": "small", "targets": [0], "began": 100.0, "ended": 101.0, "times": 1}
    return {**told, "how": how, "errors": list(errors), **fields}


def error(type: str, engine: int | None = None, started: bool | None = None) -> dict[str, Any]:
    return {"type": type, "engine": engine, "started": started, "text": "why"}


KILLED = Happening(kind="kill engine", began=100.5, ended=100.5, engines=frozenset({0}))
FATAL = Happening(kind="kill controller", began=100.5, ended=100.5, fatal=True)
CUT = Happening(kind="cut", began=100.2, ended=100.2, cut_off=frozenset({"c1"}))
SILENT = Happening(kind="freeze controller", began=100.0, ended=103.0, silent=True)
AWAY = Happening(kind="freeze client", began=98.0, ended=100.5, clients=frozenset({"c1"}))
RAN = {"c1-1": Counter({77: 1})}


@pytest.mark.parametrize(
    ("calls", "runs", "happenings"),
    [
        ([call("right")], RAN, []),
        ([call("cancelled")], {}, []),
        ([call("right", targets=[0, 1], times=2)], {"c1-1": Counter({77: 1, 78: 1})}, []),
        ([call("right", times=3)], {"c1-1": Counter({77: 1, 78: 1})}, [KILLED]),
        ([call("error", error("EngineError", 0, True))], RAN, [KILLED]),
        ([call("error", error("EngineError", 0, False))], {}, [KILLED]),
        ([call("error", error("ControllerLost"))], {}, [FATAL]),
        ([call("error", error("EngineError", 3, True))], {}, [AWAY]),
        ([call("error", error("ControllerLost"))], {}, [CUT, SILENT]),
        ([], {"c7-1": Counter({77: 1, 78: 1})}, []),
    ],
    ids=[
        "result", "cancelled", "everywhere", "retried", "engine died", "had not started", "cluster died",
        "client was away", "cut off while nobody answers", "of a killed client, on two engines",
    ],
)  # fmt: skip
def test_what_may_be(
    calls: list[dict[str, Any]], runs: dict[str, Counter[int]], happenings: list[Happening]
) -> None:
    assert judge(calls, runs, happenings).problems == []


def test_a_fault_of_the_network_hits_all_engines_behind_it() -> None:
    """Those included that nobody knew of when it began."""
    stall = Happening(kind="stall", began=100.5, ended=100.5, remote=True)
    lost = [call("error", error("EngineError", 7, False))]
    assert judge(lost, {}, [stall], {7}).problems == []
    assert len(judge(lost, {}, [stall], {6}).problems) == 1


@pytest.mark.parametrize(
    ("calls", "runs", "happenings", "verdict"),
    [
        ([call("right")], {}, [], "lost: .*has a result, but ran 0 times"),
        ([call("right", targets=[0, 1], times=2)], RAN, [], "lost: .*has a result, but ran 1 times"),
        ([call("error", error("EngineError", 0))], {}, [], "lost: .*EngineError: why"),
        ([call("error", error("EngineError", 1))], {}, [KILLED], "lost: .*EngineError"),
        ([call("error", error("ControllerLost"))], {}, [KILLED], "lost: .*ControllerLost"),
        ([call("error", error("ControllerLost"))], {}, [CUT], "lost: .*ControllerLost"),
        ([call("error", error("ControllerLost"))], {}, [SILENT], "lost: .*ControllerLost"),
        (
            [call("error", error("ControllerLost"))], {}, [CUT, dataclasses.replace(SILENT, ended=100.5)],
            "lost: .*ControllerLost",
        ),
        (
            [call("error", error("ControllerLost"), token="c2-1")], {}, [CUT, SILENT],
            "lost: .*ControllerLost",
        ),
        ([call("error", error("KeyError"))], {}, [FATAL], "lost: .*KeyError"),
        ([call("error", error("EngineError", 3), token="c2-1")], {}, [AWAY], "lost: .*EngineError"),
        (
            [call("error", error("EngineError", 0), began=200.0, ended=201.0)], {}, [KILLED],
            "lost: .*EngineError",
        ),
        ([call("error", error("EngineError", 0, False))], RAN, [KILLED], "wrong: .*ran, although"),
        ([call("right")], {"c1-1": Counter({77: 2})}, [], "doubled: c1-1 ran 2 times in one process"),
        ([call("right")], {"c1-1": Counter({77: 1, 78: 1})}, [KILLED], "doubled: c1-1 ran 2 times"),
        ([], {"c7-1": Counter({77: 2})}, [], "doubled: c7-1 ran 2 times in one process"),
        ([call("wrong", error("_Wrong"))], RAN, [], "wrong: .*why"),
        ([call("hung")], RAN, [FATAL], "hung: .*no end"),
    ],
    ids=[
        "a result of nothing", "a result of less than it should", "no fault", "another engine's fault",
        "a fault that doesn't explain it", "cut off and answered", "a silence that nobody had to notice",
        "a short silence", "another client was cut off", "an error that nothing explains",
        "another client's fault",
        "a fault long ago", "ran although it says no", "twice in one process", "on two engines",
        "of a killed client, twice", "wrong answer", "no answer",
    ],
)  # fmt: skip
def test_what_may_not_be(
    calls: list[dict[str, Any]], runs: dict[str, Counter[int]], happenings: list[Happening], verdict: str
) -> None:
    report = Report(1, 60, verdict=judge(calls, runs, happenings))
    assert not report.ok
    (problem,) = report.verdict.problems
    assert re.match(verdict, problem), problem
    assert "--seed 1 --seconds 60" in str(report)


def test_the_report_says_how_long_calls_went_on_after_the_death_of_their_cluster() -> None:
    verdict = judge([call("error", error("ControllerLost"), ended=104.0), call("right")], RAN, [FATAL])
    assert verdict.last[0] == 3.5
    assert "  at last  3.5 s after the death of its cluster: small call c1-1" in str(
        Report(1, 60, verdict=verdict)
    )
    assert "at last" not in str(Report(1, 60, verdict=judge([call("right")], RAN, [])))


def test_a_run_without_calls_proves_nothing() -> None:
    assert not Report(1, 60).ok


# --- the network ------------------------------------------------------------------------------------


class Line:
    """A connection through a proxy to a server that sends everything back."""

    writer: asyncio.StreamWriter | None = None

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()

    async def open(self) -> None:
        await self.close()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)

    async def echo(self, data: bytes) -> bytes:
        assert self.writer is not None
        self.writer.write(data)
        return await self.reader.readexactly(len(data))


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    line = Line(proxy)
    async with asyncio.timeout(DEADLINE):
        await line.open()
        yield line
    await line.close()
    await proxy.close()
    server.close()


async def test_a_whole_network_passes_everything_in_order(line: Line) -> None:
    data = os.urandom(3_000_000)
    assert await line.echo(data) == data


async def test_a_cut_ends_connections_and_new_ones_are_possible(line: Line) -> None:
    await line.echo(b"there")
    line.proxy.cut()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await line.echo(b"gone")
    await line.open()
    assert await line.echo(b"again") == b"again"


async def test_a_stall_loses_nothing(line: Line) -> None:
    stall = asyncio.ensure_future(line.proxy.stall(0.3))
    await asyncio.sleep(0)
    answer = asyncio.ensure_future(line.echo(b"later"))
    await stall
    assert not answer.done()
    assert await answer == b"later"


async def test_what_is_swallowed_is_lost_and_so_is_the_connection(line: Line) -> None:
    swallow = asyncio.ensure_future(line.proxy.swallow(0.2))
    await asyncio.sleep(0)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await line.echo(b"lost")
    await swallow
    await line.open()
    assert await line.echo(b"again") == b"again"


async def test_a_delay_is_one(line: Line) -> None:
    loop = asyncio.get_running_loop()
    line.proxy.latency = 0.05
    began = loop.time()
    assert await line.echo(b"slow") == b"slow"
    assert loop.time() - began >= 0.1


# --- the clocks -------------------------------------------------------------------------------------

TELL_TIME = """\
import sys, time
for _ in sys.stdin:
    time.sleep(0.001)
    print(time.time(), time.monotonic(), flush=True)
"""


@pytest.mark.skipif(library() is None, reason="libfaketime is not installed")
def test_a_wall_clock_leaps_for_one_host_alone_and_no_other_clock_does(tmp_path: Path) -> None:
    """Under a running process, both ways."""
    found = library()
    assert found is not None
    clocks = Clocks(tmp_path / "clocks", found)
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", TELL_TIME],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=clocks.environment(host, os.environ),
                )
            )
            for host in (HERE, AWAY_HOST)
        ]

        def off(program: subprocess.Popen[str]) -> tuple[float, float]:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write("\n")
            program.stdin.flush()
            wall, monotonic = map(float, program.stdout.readline().split())
            return wall - time.time(), monotonic - time.monotonic()

        for seconds in (0, 3600, -86_400):
            clocks.step(HERE, seconds)
            deadline = time.monotonic() + DEADLINE
            while abs(off(programs[0])[0] - seconds) > 60.0:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert abs(off(programs[1])[0]) < 60.0
            assert all([abs(off(program)[1]) < 60.0 for program in programs])
        for program in programs:
            program.communicate()


def test_a_real_disk_is_never_filled(tmp_path: Path) -> None:
    """Whatever the caller says."""
    with pytest.raises(RuntimeError, match="not filled"), full(tmp_path):
        pass


# --- the whole --------------------------------------------------------------------------------------


SEED = 339
SECONDS = 44.0
"""With starting, stopping and looking, a minute."""


def test_a_minute_has_everything_in_it() -> None:
    """Another schedule needs another seed: clusters that outlive their controllers and others, all faults."""
    found = list(episodes(SEED, SECONDS))
    assert [episode.resilient for episode in found].count(True) == len(found) / 2 == 2
    assert {episode.resilient for episode in found if episode.ending == "stop"} == {True, False}
    assert {fault.kind for episode in found for fault in episode.faults} == set(KINDS)


def chaos(seconds: float, seed: int | None) -> None:
    command = [sys.executable, "-m", "directview.testing.chaos", "--seconds", f"{seconds:g}"]
    if seed is not None:
        command += ["--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * seconds + 300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 doubled, 0 wrong, 0 hung, 0 leaked" in done.stdout


@pytest.mark.process
def test_a_minute_of_chaos() -> None:
    """Nothing is lost, doubled, wrong, hung or leaked. DIRECTVIEW_CHAOS_SEED names another seed."""
    chaos(SECONDS, int(os.environ.get("DIRECTVIEW_CHAOS_SEED", SEED)))


@pytest.mark.process
@pytest.mark.slow
def test_ten_minutes_of_chaos() -> None:
    """With a seed that nobody has tried before; DIRECTVIEW_CHAOS_SECONDS says for how long."""
    chaos(float(os.environ.get("DIRECTVIEW_CHAOS_SECONDS", "600")), None)
