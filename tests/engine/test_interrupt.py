"""An interrupt ends the call that is meant, wherever it is; it hits no other call and no code of ours."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from directview.engine._interrupt import INTERRUPT_SIGNAL, CallCancelled, Interrupts, pack_call_id
from directview.engine._steps import Armed

ROOT = Path(__file__).resolve().parents[2]
CLIENT = bytes(range(16))


class Caller:
    """The other end: writes ids and signals this very process."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.aim = Armed()
        self.interrupts = Interrupts(self.aim, self.read_end)

    def ask(self, *seqs: int, client: bytes = CLIENT) -> None:
        for seq in seqs:
            os.write(self.write_end, pack_call_id(client, seq))
        signal.raise_signal(INTERRUPT_SIGNAL)


@pytest.fixture
def caller() -> Iterator[Caller]:
    caller = Caller()
    with caller.interrupts:
        yield caller
    os.close(caller.read_end)
    os.close(caller.write_end)


def test_the_record_is_what_supervisors_write() -> None:
    assert pack_call_id(CLIENT, 258) == CLIENT + b"\0\0\0\0\0\0\1\2"


def test_the_armed_call_is_interrupted(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 1)
    with pytest.raises(CallCancelled) as caught:
        caller.ask(1)
    assert caught.value.args == ((CLIENT, 1),)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not caller.interrupts.asked((CLIENT, 1))


def test_no_other_call_is(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 1)
    caller.ask(2)
    caller.ask(1, client=bytes(16))
    caller.aim.current = None
    caller.ask(1)


def test_a_signal_without_an_id_means_nothing(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 1)
    signal.raise_signal(INTERRUPT_SIGNAL)


def test_one_record_interrupts_once(caller: Caller) -> None:
    """What a call does to clean up is not hit again by the signal of another call's interrupt."""
    caller.aim.current = (CLIENT, 1)
    with pytest.raises(CallCancelled):
        caller.ask(1)
    signal.raise_signal(INTERRUPT_SIGNAL)
    caller.ask(2)
    with pytest.raises(CallCancelled):
        caller.ask(1)  # but asked again, it is


def test_a_call_that_has_not_begun_is_remembered_until_it_is_forgotten(caller: Caller) -> None:
    caller.ask(5)
    assert caller.interrupts.asked((CLIENT, 5))
    assert (CLIENT, 5) in caller.aim.cancelled
    caller.interrupts.forget((CLIENT, 5))
    assert not caller.interrupts.asked((CLIENT, 5))
    caller.interrupts.forget((CLIENT, 5))


def test_memory_of_calls_that_never_begin_is_bounded(caller: Caller) -> None:
    for start in range(0, 3000, 100):
        caller.ask(*range(start, start + 100))
    assert len(caller.aim.cancelled) <= 1000
    assert caller.interrupts.asked((CLIENT, 2999))


def test_many_ids_at_once_are_all_read(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 777)
    with pytest.raises(CallCancelled):
        caller.ask(*range(1000))
    assert caller.interrupts.asked((CLIENT, 999))


def test_behind_a_shield_it_waits_for_the_shields_end(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 1)
    steps: list[str] = []
    with pytest.raises(CallCancelled):  # noqa: PT012
        with caller.interrupts.shield():
            with caller.interrupts.shield():
                caller.ask(1)
                steps.append("inner")
            steps.append("outer")
        steps.append("never")
    assert steps == ["inner", "outer"]
    with caller.interrupts.shield():
        pass  # and nothing is left of it


def test_behind_a_shield_another_call_is_not_hit_later(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 1)
    with caller.interrupts.shield():
        caller.ask(1)
        caller.aim.current = (CLIENT, 2)
    caller.aim.current = (CLIENT, 1)
    with caller.interrupts.shield():
        caller.ask(1)
        caller.interrupts.forget((CLIENT, 1))


def test_a_shield_passes_errors_on(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 1)
    with pytest.raises(ZeroDivisionError), caller.interrupts.shield():
        raise ZeroDivisionError
    with pytest.raises(CallCancelled):
        caller.ask(1)


def test_a_shield_on_another_thread_holds_nothing_up(caller: Caller) -> None:
    caller.aim.current = (CLIENT, 1)
    held, asked = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def prints() -> None:
        try:
            with caller.interrupts.shield():
                held.set()
                asked.wait()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=prints)
    thread.start()
    held.wait()
    with pytest.raises(CallCancelled):
        caller.ask(1)
    asked.set()
    thread.join()
    assert errors == []


def test_listening_ends_and_what_was_there_comes_back() -> None:
    before = signal.getsignal(INTERRUPT_SIGNAL)
    read_end, write_end = os.pipe()
    signal.signal(INTERRUPT_SIGNAL, signal.SIG_IGN)
    try:
        with Interrupts(Armed(), read_end) as interrupts:
            interrupts.install()
            assert callable(signal.getsignal(INTERRUPT_SIGNAL))
        assert signal.getsignal(INTERRUPT_SIGNAL) == signal.SIG_IGN
        interrupts.close()
        with Interrupts(Armed(), -1):  # nobody will ask
            assert signal.getsignal(INTERRUPT_SIGNAL) == signal.SIG_IGN
    finally:
        signal.signal(INTERRUPT_SIGNAL, before)
        os.close(read_end)
        os.close(write_end)


# --- thousands of them, against a real engine's loop ------------------------------------------------------

ENGINE = '''
import asyncio, builtins, gc, inspect, logging, os, random, sys, time
from directview.engine._interrupt import CallCancelled, Interrupts
from directview.engine._namespace import PLAIN, Namespace
from directview.engine._overlay import Layouts, Overlay
from directview.engine._steps import Steps, result_of

client, n, ids, out = bytes(range(16)), int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
namespace = Namespace()
steps = Steps(namespace)
interrupts = Interrupts(steps, ids)
overlay = Overlay({"mine": 1}, Layouts().make({"mine": 1}), {})
chance = random.Random(5)
complaints = []  # of the engine's own loop
# A loop of the user's that is hit while asyncio.run makes or ends it complains when it is thrown away.
sys.unraisablehook = id  # does nothing, and in C: an interrupt can't hit it
logging.getLogger("asyncio").disabled = True

def tell(*words):
    """In pieces, as a message of several frames goes out."""
    with interrupts.shield():
        for word in words:
            os.write(out, f"{word} ".encode())
        os.write(out, b"end\\n")

def busy(i, seconds):
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        sum(range(20))
    return i

def sleeps(i, seconds):
    time.sleep(seconds)
    return i

def prints(i, seconds):
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        tell("print", i)
    return i

def runs_a_loop(i, seconds):
    return asyncio.run(coroutine(i, seconds))

async def coroutine(i, seconds):
    for _ in range(3):
        busy(i, seconds / 3)
        await asyncio.sleep(0)
    return i

async def prints_between(i, seconds):
    for _ in range(3):
        prints(i, seconds / 3)
        await asyncio.sleep(0)
    return i

async def makes_tasks(i, seconds):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine(i, seconds / 3)) for _ in range(2)]
    return tasks[0].result()

KINDS = [busy, sleeps, prints, runs_a_loop, coroutine, prints_between, makes_tasks]

async def one(i):
    call = (client, i)
    f = chance.choice(KINDS)
    try:
        value = steps.run(call, overlay, f, (i, chance.random() * 0.0012))
        if inspect.iscoroutine(value):
            task = loop.create_task(steps.drive(call, overlay, value))
            await asyncio.wait([task])
            value = result_of(task)
        return "ok", value
    except CallCancelled as error:
        return "cancelled", error.args[0][1]
    except asyncio.CancelledError:
        return "cancelled", i
    except BaseExceptionGroup as error:
        return "crashed", repr(error).replace(" ", "_")

async def main():
    global loop
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(repr(context)))
    steps.install_task_factory(loop)
    with interrupts:
        tell("ready", os.getpid())
        for i in range(n):
            tell("begins", i)
            what, value = await one(i)
            state = (
                steps.current is None
                and steps.owner() is None
                and namespace.names["__builtins__"] is builtins
                and namespace._depth == 0
                and interrupts._shields == 0
                and asyncio.get_running_loop() is loop
            )
            interrupts.forget((client, i))
            tell("ended", i, what, value, state)

asyncio.run(main())
gc.collect()
print("\\n".join(complaints), end="", file=sys.stderr)
tell("bye", 0)
'''


class Supervisor:
    """Reads what an engine says, and interrupts it at random moments around starts and ends."""

    def __init__(self, engine: subprocess.Popen[bytes], ids: int, words: int) -> None:
        self.engine = engine
        self.ids = ids
        self.words = words
        self.rest = b""
        self.lines: list[list[str]] = []
        self.current = -1
        self.asked: set[int] = set()
        self.signals = 0

    def read(self) -> None:
        try:
            piece = os.read(self.words, 1 << 16)
        except BlockingIOError:
            return
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            words = line.decode().split()
            self.lines.append(words)
            if words[0] == "begins":
                self.current = int(words[1])

    def interrupt(self, seq: int, times: int = 1) -> None:
        self.asked.add(seq)
        try:
            os.write(self.ids, pack_call_id(CLIENT, seq))
        except BrokenPipeError:  # it has come to its end meanwhile
            return
        for _ in range(times):
            self.engine.send_signal(INTERRUPT_SIGNAL)
        self.signals += times


@pytest.mark.process
@pytest.mark.slow
def test_thousands_of_interrupts_at_random_moments(tmp_path: Path) -> None:
    n = 3000
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)
    id_read, id_write = os.pipe()
    word_read, word_write = os.pipe()
    os.set_blocking(word_read, False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    engine = subprocess.Popen(
        [sys.executable, "-W", "ignore", script, str(n), str(id_read), str(word_write)],
        pass_fds=(id_read, word_write),
        env=environment,
        stderr=subprocess.PIPE,
    )
    os.close(id_read)
    os.close(word_write)
    chance = random.Random(9)
    supervisor = Supervisor(engine, id_write, word_read)
    deadline = time.monotonic() + 60
    try:
        while engine.poll() is None and time.monotonic() < deadline:
            supervisor.read()
            if 0 <= supervisor.current < n - 5 and chance.random() < 0.5:
                seq = max(0, supervisor.current + chance.choice((0, 0, 0, 0, -1, 1, 1)))
                supervisor.interrupt(seq, 1 + (chance.random() < 0.3))
            time.sleep(chance.random() * 0.0012)
        supervisor.read()
        engine.kill()
        _, errors = engine.communicate()
    finally:
        engine.kill()
        engine.wait()
        os.close(id_write)
        os.close(word_read)
    check(supervisor, n, errors.decode())


def check(supervisor: Supervisor, n: int, errors: str) -> None:
    said: dict[str, list[list[Any]]] = {}
    for words in supervisor.lines:
        assert words[-1] == "end"
        assert words.count("end") == 1, f"two messages mixed: {words}"
        said.setdefault(words[0], []).append(words[1:-1])
    assert errors == ""
    assert set(said) == {"ready", "begins", "print", "ended", "bye"}
    assert all(len(words) == 1 for words in said["print"]), "a message half sent"
    ended = said["ended"]
    assert [int(i) for i, *_ in ended] == list(range(n))
    outcomes = Counter(what for _, what, *_ in ended)
    assert all(value == i for i, _, value, _ in ended), "a call ended with another's outcome"
    assert all(state == "True" for *_, state in ended), "something was left in place"
    cancelled = {int(i) for i, what, *_ in ended if what == "cancelled"}
    assert cancelled <= supervisor.asked, "a call was hit that nobody had cancelled"
    assert outcomes["cancelled"] > n // 20, (outcomes, supervisor.signals)
    assert outcomes["ok"] > n // 20, (outcomes, supervisor.signals)
    assert set(outcomes) == {"ok", "cancelled"}
