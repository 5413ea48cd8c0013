"""What is cut into parts comes back as it was, of its own kind, whichever way it was dealt out."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from array import array
from collections import UserList, deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal

from directview.partition import join, sizes, split, split_aligned, split_equal

Dist = Literal["b", "r"]

NS = st.integers(1, 9)
DISTS = st.sampled_from(["b", "r"])
BUILTINS = st.one_of(
    st.lists(st.integers()),
    st.lists(st.integers()).map(tuple),
    st.text(),
    st.binary(),
    st.binary().map(bytearray),
    st.lists(st.floats(allow_nan=False)).map(lambda items: array("d", items)),
)
ARRAYS = npst.arrays(
    dtype=st.one_of(npst.scalar_dtypes(), npst.array_dtypes()),
    shape=npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=11),
)


@given(length=st.integers(0, 1000), n=NS)
def test_sizes_are_balanced_and_the_longer_ones_come_first(length: int, n: int) -> None:
    found = sizes(length, n)
    assert len(found) == n
    assert sum(found) == length
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] <= 1


@given(seq=BUILTINS, n=NS, dist=DISTS)
def test_builtin_sequences_come_back_equal_and_of_their_kind(seq: Any, n: int, dist: Dist) -> None:
    parts = split(seq, n, dist)
    assert [len(part) for part in parts] == sizes(len(seq), n)
    assert {type(part) for part in parts} == {type(seq)}
    whole = join(parts, dist)
    assert whole == seq
    assert type(whole) is type(seq)


@given(seq=st.builds(range, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 7)), n=NS, dist=DISTS)
def test_parts_of_a_range_are_ranges_and_join_to_a_flat_list(seq: range, n: int, dist: Dist) -> None:
    parts = split(seq, n, dist)
    assert all(isinstance(part, range) for part in parts)
    assert join(parts, dist) == list(seq)


@given(whole=ARRAYS, n=NS, dist=DISTS)
def test_arrays_come_back_with_dtype_and_shape(whole: np.ndarray[Any, Any], n: int, dist: Dist) -> None:
    back = join(split(whole, n, dist), dist)
    assert type(back) is np.ndarray
    assert back.dtype == whole.dtype
    assert back.shape == whole.shape
    assert repr(back.tolist()) == repr(whole.tolist())  # NaN and NaT inside structured arrays included


@given(parts=st.lists(st.lists(st.integers()), min_size=1), kind=st.sampled_from([list, tuple, np.array]))
def test_round_robin_joins_parts_of_any_lengths_in_turn(
    parts: list[list[int]], kind: Callable[[list[int]], Any]
) -> None:
    """Engines may have filtered their parts: what is left comes in turn."""
    expected = [part[row] for row in range(max(map(len, parts))) for part in parts if row < len(part)]
    made = [np.array(part, dtype=object) if kind is np.array else kind(part) for part in parts]
    assert list(join(made, "r")) == expected


def test_parts_of_an_array_are_views() -> None:
    whole = np.arange(24.0).reshape(8, 3)
    for dist in ("b", "r"):
        assert all(np.shares_memory(part, whole) for part in split(whole, 3, dist))


def test_join_of_arrays_allocates_the_result_only() -> None:
    parts = split(np.ones(1 << 20), 4)
    for dist in ("b", "r"):
        tracemalloc.start()
        whole = join(parts, dist)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < whole.nbytes + 100_000


def test_an_array_with_fewer_rows_than_parts_gives_empty_ones() -> None:
    whole = np.arange(6).reshape(2, 3)
    parts = split(whole, 4)
    assert [part.shape for part in parts] == [(1, 3), (1, 3), (0, 3), (0, 3)]
    assert_array_equal(join(parts), whole)


@pytest.mark.parametrize("dist", ["b", "r"])
def test_array_subclasses_are_kept(dist: Dist) -> None:
    record = np.rec.array([(i, i / 2) for i in range(7)], dtype=[("a", "i4"), ("b", "f8")])
    back = join(split(record, 3, dist), dist)
    assert isinstance(back, np.recarray)
    assert back.a.tolist() == list(range(7))

    masked = np.ma.masked_array(np.arange(7), mask=np.arange(7) % 3 == 1, fill_value=-5)
    back = join(split(masked, 3, dist), dist)
    assert isinstance(back, np.ma.MaskedArray)
    assert back.fill_value == -5
    assert back.tolist() == masked.tolist()


@pytest.mark.parametrize("dist", ["b", "r"])
def test_dtypes_that_numpys_own_concatenation_changes_are_kept(dist: Dist) -> None:
    padded = np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [4, 16], "itemsize": 32})
    for whole in (
        np.zeros(5, padded),
        np.array(["2020-01-01", "NaT", "2021-05-05"], dtype="datetime64[s]"),
        np.array(["a", "bcd", "ef"], dtype=">U7"),
        np.array([1, None, "x"], dtype=object),
    ):
        back = join(split(whole, 2, dist), dist)
        assert back.dtype == whole.dtype
        assert_array_equal(back, whole)


def test_arrays_of_different_dtypes_are_promoted() -> None:
    whole = join([np.arange(2), np.array([0.5])])
    assert whole.dtype == np.float64
    assert whole.tolist() == [0.0, 1.0, 0.5]


def test_a_memory_map_is_cut_into_plain_arrays(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "m", dtype="i4", mode="w+", shape=(5,))
    assert {type(part) for part in split(mapped, 2)} == {np.ndarray}


FRAME = pd.DataFrame({"a": range(7), "b": list("xyzuvwx")}, index=[f"row {i}" for i in range(7)])


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_pandas_objects_keep_their_kind(dist: Dist, n: int) -> None:
    back = join(split(FRAME, n, dist), dist)
    pd.testing.assert_frame_equal(back, FRAME)
    column = FRAME.loc[:, "a"]
    pd.testing.assert_series_equal(join(split(column, n, dist), dist), column)
    pd.testing.assert_index_equal(join(split(FRAME.index, n, dist), dist), FRAME.index)
    kinds = pd.Series(["x", "y", "x", "z"], dtype="category")
    pd.testing.assert_series_equal(join(split(kinds, n, dist), dist), kinds)
    assert len(join(split(FRAME.iloc[:0], n, dist), dist)) == 0


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("n", [1, 3, 9])
@pytest.mark.parametrize(
    "whole",
    [
        pa.table({"a": list(range(7)), "b": list("xyzuvwx")}),
        pa.record_batch({"a": list(range(7)), "b": list("xyzuvwx")}),
        pa.array(["a", None, "c", "d"]),
        pa.chunked_array([[1, 2], [3], [], [4, 5]]),
        pa.table({"a": pa.array([], pa.int32())}),
    ],
    ids=["table", "batch", "array", "chunked", "empty"],
)
def test_arrow_objects_keep_their_kind(whole: Any, dist: Dist, n: int) -> None:
    back = join(split(whole, n, dist), dist)
    assert type(back) is type(whole)
    assert back.equals(whole)


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("dist", ["b", "r"])
def test_sparse_ones_keep_their_kind(kind: str, form: str, n: int, dist: Dist) -> None:
    sparse: Any = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    whole = getattr(sparse, f"csr_{kind}")(np.arange(30).reshape(6, 5) % 4).asformat(form)
    parts = split(whole, n, dist)
    assert [part.shape[0] for part in parts] == sizes(6, n)
    again = join(parts, dist)
    assert type(again) is type(parts[0]) is type(whole)
    assert again.dtype == whole.dtype
    assert_array_equal(again.toarray(), whole.toarray())


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("dist", ["b", "r"])
def test_frames_of_polars_keep_their_kind(n: int, dist: Dist) -> None:
    polars: Any = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame({"a": range(6), "b": list("uvwxyz")})
    for whole in (frame, frame["b"]):
        parts = split(whole, n, dist)
        assert [len(part) for part in parts] == sizes(6, n)
        assert join(parts, dist).equals(whole)
    assert split_aligned([frame["a"], "xyz"], 2)[1][1] == "z"


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("dist", ["b", "r"])
def test_tensors_keep_their_kind(n: int, dist: Dist) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed; it takes 5 GB")
    whole = torch.arange(12.0).reshape(6, 2)
    parts = split(whole, n, dist)
    assert [len(part) for part in parts] == sizes(6, n)
    assert torch.equal(join(parts, dist), whole)
    assert join([torch.tensor(1), torch.tensor(2)]) == [torch.tensor(1), torch.tensor(2)]
    with pytest.raises(TypeError, match="0-d tensor"):
        split(torch.tensor(1), 2)


def test_arrow_parts_do_not_carry_the_whole() -> None:
    """A slice of an Arrow array is pickled with all of its buffers; a part must not be."""
    whole = pa.array(range(10_000))
    assert sum(part.nbytes for part in split(whole, 4)) <= whole.nbytes
    assert max(part.get_total_buffer_size() for part in split(whole, 4)) < whole.nbytes / 2


@pytest.mark.parametrize("dist", ["b", "r"])
def test_any_other_iterable_is_cut_into_lists(dist: Dist) -> None:
    for iterable in (
        (i for i in range(5)),
        deque(range(5)),
        UserList(range(5)),
        dict.fromkeys(range(5)).keys(),
    ):
        parts = split(iterable, 2, dist)
        assert {type(part) for part in parts} == {list}
        assert join(parts, dist) == [0, 1, 2, 3, 4]
    assert join(split(memoryview(b"abc"), 2, dist), dist) == b"abc"


def test_results_that_replaced_the_parts_are_joined_by_their_own_kind() -> None:
    assert join([[1], (2,), range(3, 5)]) == [1, 2, 3, 4]
    assert join([np.array([1]), [2]]) == [1, 2]
    assert join([{1}, {2}]) == [1, 2]
    assert join([array("i", [1]), array("d", [2.0])]) == [1, 2.0]


def test_single_values_join_to_a_list_of_them() -> None:
    assert join([1, 2.5, None]) == [1, 2.5, None]
    assert join([{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert join([np.array(1), np.array(2)]) == [np.array(1), np.array(2)]
    assert join([]) == []


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="unknown dist 'c': 'b' gives"):
        split([1], 2, "c")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown dist None"):
        join([[1]], None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="into 0 parts"):
        split([1], 0)
    with pytest.raises(TypeError, match=r"a dict has no order of parts: use list\(d.items\(\)\)"):
        split({"a": 1}, 2)
    with pytest.raises(TypeError, match="0-d array"):
        split(np.array(1), 2)
    with pytest.raises(TypeError, match="can't cut a int into parts"):
        split(7, 2)
    with pytest.raises(TypeError, match="parts of types int, list can't be joined"):
        join([[1], 2])
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) \(part 0\) and \(2, 4\) \(part 1\)"):
        join([np.zeros((2, 3)), np.zeros((2, 4))])


@given(
    seqs=st.lists(st.one_of(BUILTINS, ARRAYS, st.lists(st.integers()).map(iter)), min_size=1, max_size=3),
    n=NS,
)
def test_chunks_of_a_map_hold_what_builtin_map_would_see(seqs: list[Any], n: int) -> None:
    seqs = [list(seq) if isinstance(seq, Iterator) else seq for seq in seqs]
    expected = [tuple(map(repr, row)) for row in zip(*seqs, strict=False)]
    chunks = split_aligned([iter(seq) if isinstance(seq, list) else seq for seq in seqs], n)
    rows = [tuple(map(repr, row)) for chunk in chunks for row in zip(*chunk, strict=True)]
    assert rows == expected
    assert [len(chunk[0]) for chunk in chunks] == sizes(len(expected), n)


def test_an_endless_iterator_beside_one_that_ends_is_read_as_far_as_needed() -> None:
    numbers = count()
    assert split_aligned([numbers, "abc"], 2) == [([0, 1], "ab"), ([2], "c")]
    assert next(numbers) == 3


def test_a_frame_is_mapped_as_it_iterates() -> None:
    """Iterating over a DataFrame gives its columns' names, though scatter cuts its rows."""
    assert split_aligned([FRAME], 2) == [(["a"],), (["b"],)]
    with pytest.raises(TypeError, match="at least one sequence"):
        split_aligned([], 2)


@pytest.mark.process
def test_importing_it_imports_no_numpy() -> None:
    program = (
        "import sys\n"
        "from directview.partition import join, split\n"
        "join(split([1, 2], 2, 'r'), 'r')\n"
        "print('numpy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_sequences_of_equal_length_are_cut_alike() -> None:
    assert split_equal([range(5), "abcde"], 2) == [(range(3), "abc"), (range(3, 5), "de")]
    assert split_equal([iter([1, 2, 3])], 2, "r") == [([1, 3],), ([2],)]
    with pytest.raises(
        ValueError, match="g needs sequences of equal length: argument 1 has 5, argument 2 has 1"
    ):
        split_equal([range(5), "a"], 2, "b", "g")
    with pytest.raises(TypeError, match="argument 2 of g: can't cut a int"):
        split_equal([range(5), 7], 2, "b", "g")
    with pytest.raises(TypeError, match="g needs at least one sequence"):
        split_equal([], 2, "b", "g")
