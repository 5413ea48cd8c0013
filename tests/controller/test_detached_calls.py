"""Detached calls in the controller: what is kept, within which bounds, and what an heir says to engines."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from directview.controller._detached import Box, Key, Limits, chunked_bytes, key_of, msg_id_of
from directview.controller._effects import Keep, Send
from directview.controller._state import Controller, Settings
from directview.wire.messages import (
    DETACHED,
    OK,
    PROTOCOL_VERSION,
    RESULT,
    UNKNOWN,
    Abort,
    Accept,
    Ack,
    Answer,
    CallItem,
    Chunk,
    Forget,
    Goodbye,
    Grant,
    Hello,
    Kept,
    Message,
    Query,
    Result,
    ResultItem,
    Resume,
    ResumeItem,
    Submit,
    decode,
)
from directview.wire.parcels import Packed, pack

CLIENT, ENGINE, OTHER = b"c" * 16, b"e" * 16, b"o" * 16


def key(seq: int) -> Key:
    return (CLIENT, seq, 0)


def item(seq: int, size: int = 100, status: int = OK) -> ResultItem:
    return ResultItem(seq, status, 1.0, 2.0, size, 0, b"x" * size)


def box(*seqs: int, **limits: Any) -> Box:
    made = Box(Limits(**limits))
    made.adopted(CLIENT, seqs, 0)
    return made


# --- the box ---------------------------------------------------------------------------------------------


def test_a_result_is_kept_as_it_came() -> None:
    kept = box(1)
    assert kept.goes_on(key(1))
    assert kept.result(key(1), ENGINE, item(1), (), 5.0)
    assert not kept.goes_on(key(1))
    found = kept.get(key(1), 6.0)
    assert found is not None
    assert (found.status, found.data, found.uuid, found.at) == (OK, b"x" * 100, ENGINE, 5.0)
    assert kept.take_ended() == [key(1)]


def test_the_oldest_go_when_there_are_too_many_or_they_are_too_large_or_too_old() -> None:
    for limits, why in (
        ({"results": 2}, "2 other calls have ended since"),
        ({"nbytes": 250}, "needed its place"),
        ({"age": 10.0}, "older than"),
    ):
        kept = box(1, 2, 3, **limits)
        for seq in (1, 2, 3):
            kept.result(key(seq), ENGINE, item(seq), (), 6.0 * seq)
        oldest, newest = kept.get(key(1), 18.5), kept.get(key(3), 18.5)
        assert oldest is not None
        assert newest is not None
        assert why in oldest.dropped
        assert not newest.dropped


def test_what_is_too_large_is_not_kept_at_all() -> None:
    kept = box(1, nbytes=50)
    assert kept.result(key(1), ENGINE, item(1), (), 5.0)
    found = kept.get(key(1), 5.0)
    assert found is not None
    assert found.dropped == "its 100 bytes are more than what is kept of results"
    assert kept.nbytes == 0


def test_a_large_result_is_put_together_of_its_chunks() -> None:
    data = bytes(range(256)) * 100
    parcel = pack((Packed(data, ()),), chunk_bytes=1000)
    assert chunked_bytes(parcel.body) == len(data)
    kept = box(1)
    large = ResultItem(1, OK, 1.0, 2.0, len(parcel.body), 0, parcel.body)
    assert not kept.result(key(1), ENGINE, large, (), 5.0)
    assert kept.due_grant(key(1), 1000) == (1000, 0)
    assert kept.due_grant(key(1), 1000) is None
    assert not kept.chunk(key(1), 0, data[:1000], 5.0)
    assert not kept.chunk(key(1), 0, data[:1000], 5.0)
    assert kept.due_grant(key(1), 1000) == (2000, 1000)
    assert kept.chunk(key(1), 1000, data[1000:], 6.0)
    found = kept.get(key(1), 6.0)
    assert found is not None
    assert found.data == parcel.body + data
    assert found.sizes == (len(parcel.body), len(data))


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=40))
def test_no_bound_is_ever_exceeded(results: list[tuple[int, bool]]) -> None:
    kept = box(*range(len(results)), results=5, nbytes=1000, age=50.0)
    for seq, (size, chunked) in enumerate(results):
        body = b"x" * size
        if chunked and size:
            body = bytes(msgpack.packb(([1], [size], {})) or b"")
        one = ResultItem(seq, OK, 1.0, 2.0, len(body), 0, body)
        kept.result(key(seq), ENGINE, one, (), float(seq))
        if chunked and size and seq % 2:
            kept.chunk(key(seq), 0, b"y" * size, float(seq))
        assert kept.nbytes + kept._coming <= 1000
        assert len(kept.keys()) <= 5
        assert kept.nbytes == sum([len(one.data) for one in kept._kept.values()])


def test_names_of_calls_there_and_back() -> None:
    assert key_of(msg_id_of(key(7))) == key(7)
    for wrong in ("", "x_1_2", None, "00_a_0"):
        assert key_of(wrong) is None


# --- heirs -----------------------------------------------------------------------------------------------


class House:
    """A controller with an engine, the client whose calls they are, and another one."""

    def __init__(self, known: dict[bytes, int] | None = None, **settings: Any) -> None:
        self.now = 0.0
        settings = {"lease": 5.0, "engine_grace": 1.0, **settings}
        self.machine = Controller(Settings("cluster", **settings), 0.0, known)
        self.told: dict[bytes, list[Message]] = {}
        self.keeps: list[Keep] = []
        for name, role in ((ENGINE, "engine"), (CLIENT, "client"), (OTHER, "client")):
            if name not in (known or ()):
                self.join(name, role)
        self.told.clear()

    def join(self, name: bytes, role: str, resuming: bool = False) -> None:
        self.machine.greet(
            name,
            Hello(PROTOCOL_VERSION, role, name, "cluster", 0, -1, b"", resuming, 1, "h", "3", b""),
            None,
            0.0,
        )
        self._flush()

    def hear(self, name: bytes, message: Message, *frames: bytes) -> None:
        self.machine.receive(name, message, b"", frames, self.now)
        self._flush()

    def lose(self, name: bytes) -> None:
        self.machine.lost(name, "cut", self.now)
        self._flush()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.machine.tick(self.now)
        self._flush()

    def write(self) -> None:
        """The store has written what it was given."""
        keeps, self.keeps = self.keeps, []
        for keep in keeps:
            self.machine.kept(keep)
        self._flush()

    def heard(self, name: bytes) -> list[Message]:
        return self.told.pop(name, [])

    def fetch(self, seq: int, wait: bool = False) -> Any:
        self.hear(OTHER, Query(9, "detached_result", {"msg_id": msg_id_of(key(seq)), "wait": wait}))
        heard = self.heard(OTHER)
        if not heard:
            return None
        answer = heard[-1]
        assert isinstance(answer, Answer)
        return answer.value

    def _flush(self) -> None:
        for effect in self.machine.flush():
            if isinstance(effect, Keep):
                self.keeps.append(effect)
            if isinstance(effect, Send) and effect.header:
                for route in effect.routes:
                    self.told.setdefault(route, []).append(decode(effect.header))


def calls(*seqs: int, flags: int = DETACHED) -> Submit:
    body = pack((Packed(b"f", ()), Packed(b"a", ()))).body
    return Submit(CLIENT, 1, tuple([CallItem(seq, (0,), "f", flags, len(body), 0, body) for seq in seqs]))


def results(*seqs: int, status: int = OK) -> Result:
    return Result(CLIENT, 0, tuple([item(seq, status=status) for seq in seqs]))


def taken(*seqs: int) -> list[Message]:
    """What an heir says of results: they are kept, and taken."""
    return [Kept(CLIENT, 0, seqs), Ack(CLIENT, 0, ((0, seqs),))]


@pytest.mark.parametrize("end", ["goodbye", "lease"])
def test_detached_calls_go_on_without_their_client_and_the_heir_acknowledges(end: str) -> None:
    here = House()
    here.hear(CLIENT, calls(1, 2))
    here.hear(CLIENT, calls(3, flags=0))
    here.heard(ENGINE)
    if end == "goodbye":
        here.hear(CLIENT, Goodbye("closed"))
    here.lose(CLIENT)
    here.wait(5.0)
    assert here.heard(ENGINE) == [Forget(CLIENT)]
    assert here.fetch(1, wait=True) is None
    here.hear(ENGINE, results(1))
    assert here.heard(ENGINE) == taken(1)
    (answer,) = here.heard(OTHER)
    assert isinstance(answer, Answer)
    assert answer.value["data"] == b"x" * 100
    here.hear(ENGINE, results(2))
    assert here.heard(ENGINE) == [*taken(2), Forget(CLIENT)]
    assert here.fetch(3)["state"] == "unknown"


def test_what_is_not_detached_is_kept_for_nobody() -> None:
    """It was running when its client went, and its result may come together with that of a detached call."""
    here = House()
    here.hear(CLIENT, calls(1))
    here.hear(CLIENT, calls(2, flags=0))
    here.lose(CLIENT)
    here.wait(5.0)
    here.heard(ENGINE)
    here.hear(ENGINE, results(1, 2))
    assert here.heard(ENGINE) == [*taken(2), *taken(1), Forget(CLIENT)]
    assert here.fetch(1)["state"] != "unknown"
    assert here.fetch(2)["state"] == "unknown"


def test_calls_that_wait_for_their_turn_are_dispatched_though_their_client_is_gone() -> None:
    here = House(window_calls=1)
    here.hear(CLIENT, calls(1, 2))
    here.hear(CLIENT, Goodbye("closed"))
    here.heard(ENGINE)
    here.hear(ENGINE, results(1))
    submitted = [m for m in here.heard(ENGINE) if isinstance(m, Submit)]
    assert [call.seq for message in submitted for call in message.calls] == [2]


def test_a_result_that_its_client_takes_is_kept_as_well() -> None:
    here = House()
    here.hear(CLIENT, calls(1))
    here.heard(ENGINE)
    here.hear(ENGINE, results(1))
    assert here.heard(ENGINE) == [Kept(CLIENT, 0, (1,))]
    assert here.fetch(1)["state"] == "kept"


def test_engines_hear_that_a_result_is_kept_when_the_store_has_written_it() -> None:
    """Whether its client is there, or gone: then its heir acknowledges it, and not before."""
    here = House(store=True)
    here.hear(CLIENT, calls(1, 2))
    here.heard(ENGINE)
    here.hear(ENGINE, results(1))
    assert here.heard(ENGINE) == []
    here.write()
    assert here.heard(ENGINE) == [Kept(CLIENT, 0, (1,))]
    here.hear(CLIENT, Goodbye("closed"))
    assert here.heard(ENGINE) == [Forget(CLIENT)]
    here.hear(ENGINE, results(2))
    assert here.heard(ENGINE) == []
    here.write()
    assert here.heard(ENGINE) == [*taken(2), Forget(CLIENT)]


def test_who_waits_for_a_call_that_its_client_does_not_send_again_is_told() -> None:
    """It was taken back by its client while a connection was lost: no engine has it, and none ever will."""
    here = House()
    here.hear(CLIENT, calls(1))
    assert here.fetch(1, wait=True) is None
    here.hear(ENGINE, results(1, status=UNKNOWN))
    here.wait(0.5)
    (answer,) = here.heard(OTHER)
    assert isinstance(answer, Answer)
    assert answer.value == {"state": "unknown"}


def test_an_engine_that_was_away_when_a_client_went_is_asked_for_its_calls() -> None:
    here = House(policy="wait")
    here.hear(CLIENT, calls(1))
    here.lose(ENGINE)
    here.join(ENGINE, "engine", resuming=True)
    here.hear(CLIENT, Goodbye("closed"))
    here.hear(ENGINE, Resume(CLIENT, (ResumeItem(1, 0, ENGINE),), False))
    here.hear(ENGINE, Resume(b"", (), True))
    here.heard(ENGINE)
    here.hear(ENGINE, results(1))
    assert here.fetch(1)["status"] == OK


def test_an_heir_takes_large_results_chunk_by_chunk() -> None:
    here = House()
    here.hear(CLIENT, calls(1))
    here.hear(CLIENT, Goodbye("closed"))
    here.heard(ENGINE)
    data = b"z" * 50_000
    parcel = pack((Packed(data, ()),), chunk_bytes=1000)
    large = ResultItem(1, OK, 1.0, 2.0, len(parcel.body), 0, parcel.body)
    here.hear(ENGINE, Result(CLIENT, 0, (large,)))
    assert here.heard(ENGINE) == [Grant(CLIENT, 1, 0, RESULT, 50_000, 0)]
    here.hear(ENGINE, Chunk(CLIENT, 1, (0,), RESULT, 0), data)
    assert here.heard(ENGINE) == [*taken(1), Forget(CLIENT)]
    assert here.fetch(1)["data"] == parcel.body + data


def test_an_engine_that_comes_back_is_asked_and_given_what_waits() -> None:
    here = House(window_calls=1)
    here.hear(CLIENT, calls(1, 2))
    here.hear(CLIENT, Goodbye("closed"))
    here.lose(ENGINE)
    here.heard(ENGINE)
    here.join(ENGINE, "engine", resuming=True)
    here.hear(ENGINE, Resume(CLIENT, (ResumeItem(1, 0, ENGINE),), False))
    here.hear(ENGINE, Resume(b"", (), True))
    told = here.heard(ENGINE)
    assert Resume(CLIENT, (ResumeItem(1, 0, ENGINE),), False) in told
    here.hear(ENGINE, Accept(CLIENT, 0, (), (1,)))
    here.hear(ENGINE, results(1))
    seqs = [call.seq for m in [*told, *here.heard(ENGINE)] if isinstance(m, Submit) for call in m.calls]
    assert seqs == [2]
    here.hear(ENGINE, results(2, status=UNKNOWN))
    assert here.fetch(2)["status"] == -1


def test_an_engines_death_is_the_answer_to_all_that_it_had() -> None:
    here = House(window_calls=1)
    here.hear(CLIENT, calls(1, 2))
    here.hear(CLIENT, Goodbye("closed"))
    here.lose(ENGINE)
    here.wait(1.0)
    told = [here.fetch(seq)["told"] for seq in (1, 2)]
    assert [one["started"] for one in told] == [True, False]
    assert told[0]["reason"] == "cut"


def test_anybody_may_end_a_detached_call() -> None:
    here = House(window_calls=1)
    here.hear(CLIENT, calls(1, 2))
    here.hear(CLIENT, Goodbye("closed"))
    here.heard(ENGINE)
    for seq in (1, 2):
        here.hear(OTHER, Query(seq, "abort_detached", {"msg_id": msg_id_of(key(seq))}))
    here.heard(OTHER)
    assert [m for m in here.heard(ENGINE) if isinstance(m, Abort)] == [Abort(CLIENT, ((0, (1,)),))]
    assert here.fetch(2)["status"] == 2


def taken_over() -> House:
    """A controller that has taken over from one under which the client and the engine were connected."""
    return House({CLIENT: -1, ENGINE: 0}, incarnation=2, policy="wait", engine_grace=5.0)


def test_after_a_takeover_who_asks_waits_until_the_engine_has_told_what_goes_on() -> None:
    """Its client was lost with the controller before: it is given up first, and its calls go on then."""
    here = taken_over()
    assert here.fetch(1, wait=True) is None
    here.join(ENGINE, "engine", resuming=True)
    here.hear(ENGINE, Resume(CLIENT, (ResumeItem(1, 0, ENGINE),), True))
    here.heard(ENGINE)
    here.wait(4.9)
    here.hear(ENGINE, results(1))  # Nobody takes it: it comes again.
    assert [message for message in here.heard(OTHER) if isinstance(message, Answer)] == []
    here.wait(0.2)
    assert here.heard(ENGINE) == [Forget(CLIENT)]
    here.hear(ENGINE, results(1))
    assert here.heard(ENGINE)[:2] == taken(1)
    here.wait(0.5)
    (answer,) = [message for message in here.heard(OTHER) if isinstance(message, Answer)]
    assert answer.value["data"] == b"x" * 100


def test_after_a_takeover_who_asks_for_what_nobody_knows_is_told_so_in_the_end() -> None:
    here = taken_over()
    assert here.fetch(7, wait=True) is None
    here.join(ENGINE, "engine")
    for _ in range(9):
        here.wait(0.5)
    assert [message for message in here.heard(OTHER) if isinstance(message, Answer)] == []
    for _ in range(4):
        here.wait(0.5)
    (answer,) = [message for message in here.heard(OTHER) if isinstance(message, Answer)]
    assert answer.value == {"state": "unknown"}
    before = House()
    assert before.fetch(7, wait=True) == {"state": "unknown"}, "no other controller has been there"
