"""Hypothesis strategies for every kind of message of the protocol: all that a peer may send, right or not.

Needs Hypothesis, which is not among directview's own dependencies.
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from directview.wire import messages
from directview.wire.messages import BALANCED, MAX_COUNT, MAX_ID, Message
from directview.wire.postmortem import Postmortem

__all__ = ["KINDS", "any_message", "fields_of"]

_uuids: Final = st.binary(min_size=16, max_size=16)
_ids: Final = st.integers(0, 4) | st.integers(0, MAX_ID)
_ids_or_none: Final = st.just(BALANCED) | _ids
_counts: Final = st.integers(0, 40) | st.integers(0, MAX_COUNT)
_seqs: Final = st.lists(_counts, max_size=5).map(tuple)
_texts: Final = st.text(max_size=20)
_bodies: Final = st.binary(max_size=40)
_frames: Final = st.integers(0, 3)
_ways: Final = st.sampled_from([messages.ARGUMENT, messages.RESULT])
_times: Final = st.floats(0.0, 1e17, allow_nan=False)
_codes: Final = st.none() | st.integers(-256, 255)
_numbers: Final = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
_trees: Final = st.recursive(
    st.none() | _numbers | _texts | _bodies,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)


def _tuples(strategy: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=most).map(tuple)


def _build(make: type[Any], *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(*fields).map(lambda values: make(*values))


def fields_of(uuids: st.SearchStrategy[bytes] = _uuids) -> dict[type[Any], st.SearchStrategy[Any]]:
    """A strategy for each kind of message.

    Args:
        uuids: for the fields that name a peer.
    """
    maybe = st.just(b"") | uuids
    targets = st.lists(_ids_or_none, min_size=1, max_size=4, unique=True).map(tuple)
    calls = _tuples(
        _build(messages.CallItem, _counts, targets, _texts, st.integers(0, 0xFFFF), _counts, _frames, _bodies)
    )
    results = _tuples(
        _build(
            messages.ResultItem, _counts, st.integers(messages.OK, messages.FORGOTTEN), _times, _times,
            _counts, _frames, _bodies,
        )
    )  # fmt: skip
    infos = _build(messages.EngineInfo, _ids, uuids, _counts, _texts, _texts, _bodies)
    postmortems = _build(
        Postmortem, st.integers(0, MAX_COUNT), st.integers(0, MAX_COUNT), _texts, _texts, _ids_or_none,
        st.booleans(), _texts,
    )  # fmt: skip
    per_engine = _tuples(st.tuples(_ids, _seqs))
    fields: dict[type[Any], tuple[st.SearchStrategy[Any], ...]] = {
        messages.Hello: (
            st.integers(0, 3), st.sampled_from(["client", "engine", "supervisor"]), uuids, _texts, _counts,
            _ids_or_none, maybe, st.booleans(), _counts, _texts, _texts, _bodies,
        ),
        messages.Welcome: (
            st.integers(0, 3), _counts, _ids_or_none, st.sampled_from(["stop", "wait"]), _times, _counts,
            _counts, _tuples(infos),
        ),
        messages.Refused: (_texts, _texts),
        messages.Resume: (
            maybe, _tuples(_build(messages.ResumeItem, _counts, _ids_or_none, maybe)), st.booleans(),
        ),
        messages.Submit: (uuids, _counts, calls),
        messages.Accept: (uuids, _ids, _seqs, _seqs),
        messages.Result: (uuids, _ids, results),
        messages.Ack: (uuids, _counts, per_engine),
        messages.Chunk: (uuids, _counts, _tuples(_ids), _ways, _counts, st.just(-1) | _counts, _counts),
        messages.Grant: (uuids, _counts, _ids, _ways, _counts, _counts, st.integers(0, 2)),
        messages.Abort: (uuids, per_engine),
        messages.Output: (uuids, _ids, _counts, _counts, st.sampled_from(["stdout", "stderr"]), _texts),
        messages.Lost: (uuids, _ids, maybe, _codes, _texts, _seqs, _seqs, postmortems),
        messages.Engines: (
            _tuples(infos), _tuples(st.tuples(_ids, uuids, _codes, _texts)), _tuples(postmortems),
        ),
        messages.Credit: (_ids, _counts, _counts),
        messages.Query: (_counts, _texts, st.dictionaries(_texts, _trees, max_size=3)),
        messages.Answer: (_counts, st.booleans(), _trees),
        messages.Exited: (uuids, _codes, _texts, postmortems),
        messages.Interrupt: (uuids, uuids, _counts),
        messages.Launch: (st.integers(1, 65_536), _counts),
        messages.Stop: (maybe, _texts, st.booleans()),
        messages.Goodbye: (_texts,),
        messages.Forget: (uuids,),
        messages.Release: (uuids, _ids, _ways, _tuples(_bodies)),
        messages.Item: (uuids, _ids, _counts, _counts, st.booleans(), _frames, _bodies),
        messages.Demand: (uuids, _ids, _counts, st.integers(-1, MAX_COUNT)),
        messages.Signal: (uuids, st.integers(1, 64)),
        messages.Alive: (_tuples(uuids),),
        messages.Paused: (uuids, _ids, st.booleans()),
        messages.Taken: (uuids, _ids, _counts),
        messages.Kept: (uuids, _ids, _seqs),
    }  # fmt: skip
    return {make: _build(make, *strategies) for make, strategies in fields.items()}


KINDS: Final = tuple(fields_of())
"""All kinds of messages."""


def any_message(uuids: st.SearchStrategy[bytes] = _uuids) -> st.SearchStrategy[Message]:
    """A message of any kind. `uuids`: for the fields that name a peer."""
    return st.one_of(list(fields_of(uuids).values()))
