"""Calls without arguments: all that call the same function are the same parcel."""

from __future__ import annotations

from directview._view_targets import _bare
from directview.wire.objects import NO_ARGUMENTS, dump_arguments, dump_function, loads
from directview.wire.parcels import INLINE_BYTES, Packed, pack


def test_a_call_without_arguments_is_packed_once() -> None:
    function = dump_function(lambda: 1)
    first, again = _bare(function), _bare(dump_function(lambda: 1)._replace(data=function.data))
    assert first is not None
    assert again is first
    assert first == pack((function, dump_arguments((), {})))
    assert loads(dump_arguments((), {}).data) == ((), {})


def test_only_no_arguments_are_none() -> None:
    assert dump_arguments((), {}) is NO_ARGUMENTS
    for args, kwargs in (((None,), {}), (((),), {}), ((), {"x": None})):
        packed = dump_arguments(args, kwargs)
        assert packed is not NO_ARGUMENTS
        assert loads(packed.data) == (args, kwargs)


def test_what_is_large_or_has_buffers_is_not_kept() -> None:
    assert _bare(Packed(bytes(INLINE_BYTES), ())) is not None
    assert _bare(Packed(bytes(INLINE_BYTES + 1), ())) is None
    assert _bare(Packed(b"", (memoryview(b"a"),))) is None
