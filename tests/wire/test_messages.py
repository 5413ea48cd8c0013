"""The protocol's codec: what was encoded comes back, and nothing else is ever taken for a message."""

from __future__ import annotations

import os
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from directview.testing.strategies import KINDS, any_message, fields_of
from directview.wire import messages
from directview.wire.messages import (
    MAX_CALLS,
    MAX_HEADER_BYTES,
    PROTOCOL_VERSION,
    Ack,
    CallItem,
    Chunk,
    Hello,
    ProtocolError,
    Query,
    Result,
    ResultItem,
    Submit,
    decode,
    encode,
    frames_of,
)

TIMES = 50 if os.environ.get("DIRECTVIEW_HYPOTHESIS") == "long" else 1
CLIENT = b"c" * 16


def packed(*fields: Any) -> bytes:
    """A header with these fields, whatever they are."""
    header = msgpack.packb(fields, use_bin_type=True)
    assert isinstance(header, bytes)
    return header


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15 * TIMES, deadline=None)
def test_every_kind_comes_back_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(fields_of()[kind])
    arrived = decode(encode(message))
    assert type(arrived) is kind
    assert arrived == message


def test_every_code_is_of_one_kind_that_the_strategies_know() -> None:
    assert set(KINDS) == {make for make, _ in messages._KINDS.values()}
    assert sorted(messages._KINDS) == list(range(1, len(KINDS) + 1))


WRONG: list[Any] = [
    None,
    True,
    -2,
    1 << 63,
    1.5,
    float("inf"),
    "",
    "x" * 70_000,
    b"",
    b"x" * 17,
    (),
    (None,),
    {},
]


@given(message=any_message(), data=st.data())
@settings(max_examples=300 * TIMES, deadline=None)
def test_a_wrong_field_is_a_protocol_error_and_nothing_else(message: Any, data: st.DataObject) -> None:
    """One field replaced by something else: refused, or it happens to be right and comes back the same."""
    fields = list(message)
    index = data.draw(st.integers(0, len(fields) - 1))
    fields[index] = data.draw(st.sampled_from(WRONG))
    header = packed(messages._CODES[type(message)], *fields)
    try:
        arrived = decode(header)
    except ProtocolError as error:
        assert type(message).__name__ in str(error)  # noqa: PT017 - the other way out is right, too
    else:
        assert encode(arrived) == header


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=4 * TIMES, deadline=None)
def test_one_field_more_or_less_is_refused(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(fields_of()[kind])
    code = messages._CODES[kind]
    for fields in ((*message, 0), tuple(message)[:-1]):
        with pytest.raises(ProtocolError, match="fields"):
            decode(packed(code, *fields))


@given(header=st.binary(max_size=200))
@settings(max_examples=300 * TIMES, deadline=None)
def test_random_bytes_are_a_protocol_error_and_nothing_else(header: bytes) -> None:
    try:
        decode(header)
    except ProtocolError:
        pass


@given(message=any_message(), data=st.data())
@settings(max_examples=200 * TIMES, deadline=None)
def test_a_damaged_header_is_a_protocol_error_and_nothing_else(message: Any, data: st.DataObject) -> None:
    header = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(header))
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x90",
        packed(99),
        packed("Submit"),
        packed(True),
        packed(5)[:-1],
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x91" * 900 + b"\xc0",
        packed(16, 1, "status", {"deep": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]}),
        b"\x94\x10\x01\xa1x\x81\x91\x90\x01",
        b"\x94\x10\x01\xa1x\xd6\xff\x00\x00\x00\x00",
        packed(2, 1, 1, -1, "stop", float("nan"), 1, 1, []),
        b"\xc1",
        b"\x92\x16\xa1\xff",
        bytes(MAX_HEADER_BYTES + 1),
    ],
    ids=range(18),
)
def test_bombs_and_rubbish_are_refused(header: bytes) -> None:
    """Announced sizes without content, deep nesting, unhashable keys, extension types, broken text."""
    with pytest.raises(ProtocolError):
        decode(header)


def submit(**changes: Any) -> bytes:
    """A header with one call in it, changed so."""
    call = CallItem(1, (0,), "f", 0, 0, 0, b"")._replace(**changes)
    return packed(messages._CODES[Submit], CLIENT, 1, [list(call)])


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": -1},
        {"seq": True},
        {"targets": ()},
        {"targets": (0, 0)},
        {"targets": (-2,)},
        {"targets": (1 << 31,)},
        {"targets": ("0",)},
        {"name": b"f"},
        {"name": "f" * 1025},
        {"flags": 1 << 16},
        {"nbytes": 1.0},
        {"nframes": 4097},
        {"body": "text"},
    ],
    ids=str,
)
def test_a_call_is_checked_field_by_field(changes: dict[str, Any]) -> None:
    assert isinstance(decode(submit()), Submit)
    with pytest.raises(ProtocolError, match="Submit"):
        decode(submit(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"status": 5}, {"started": -1.0}, {"started": 1}, {"completed": float("inf")}, {"body": None}],
    ids=str,
)
def test_a_result_is_checked_field_by_field(changes: dict[str, Any]) -> None:
    item = ResultItem(1, 0, 1.0, 2.0, 0, 0, b"")
    code = messages._CODES[Result]
    assert isinstance(decode(packed(code, CLIENT, 0, [list(item)])), Result)
    with pytest.raises(ProtocolError, match="Result"):
        decode(packed(code, CLIENT, 0, [list(item._replace(**changes))]))


def test_more_calls_than_one_message_may_name_are_refused() -> None:
    code = messages._CODES[Ack]
    assert decode(packed(code, CLIENT, 1, [[0, [1] * MAX_CALLS]]))
    with pytest.raises(ProtocolError, match="Ack"):
        decode(packed(code, CLIENT, 1, [[0, [1] * (MAX_CALLS + 1)]]))


def test_the_error_names_kind_and_field() -> None:
    hello = Hello(PROTOCOL_VERSION, "client", CLIENT, "x", 0, -1, b"", False, 1, "h", "3", b"")
    with pytest.raises(
        ProtocolError, match="Hello: expected one of client, engine, supervisor, got str 'cat'"
    ):
        decode(packed(1, *hello._replace(role="cat")))


def test_a_query_carries_plain_data() -> None:
    params = {"targets": [1, 2], "deep": {"a": None, "b": b"bytes", "c": 1.5, "d": True}}
    arrived = decode(encode(Query(1, "status", params)))
    assert isinstance(arrived, Query)
    assert arrived.params == params


def test_frames_belong_to_calls_results_and_chunks() -> None:
    call = CallItem(1, (0,), "f", 0, 0, 2, b"")
    assert frames_of(Submit(CLIENT, 1, (call, call))) == 4
    assert frames_of(Result(CLIENT, 0, (ResultItem(1, 0, 0.0, 0.0, 0, 3, b""),))) == 3
    assert frames_of(Chunk(CLIENT, 1, (0,), 0, 0)) == 1
    assert frames_of(Ack(CLIENT, 1, ())) == 0
