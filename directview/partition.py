"""How a sequence is cut into parts for engines, and how parts become the whole again. Pure.

Scatter, gather and map stand on these functions. A part is of the kind that was cut (an array gives views
of itself, a range gives ranges), so that engines compute on what the user would have computed on. Joining
goes by what the parts are, not by what was once scattered: engines may have replaced them by results.

numpy and the libraries around it are recognised when the program has imported them, never imported for it.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, Literal, get_args

__all__ = ["Dist", "check_dist", "join", "sizes", "split", "split_aligned", "split_equal"]

Dist = Literal["b", "r"]
"""How items go to parts: ``'b'`` one block each, ``'r'`` in turn (round robin)."""

_SLICED: Final = (list, tuple, str, bytes, bytearray, range, array)
"""Builtin kinds whose slices are of their own kind."""


def sizes(length: int, n: int) -> list[int]:
    """Lengths of `n` parts of `length` items: they differ by one at most, the longer ones come first."""
    each, longer = divmod(length, n)
    return [each + 1] * longer + [each] * (n - longer)


def split(seq: Any, n: int, dist: Dist = "b") -> list[Any]:
    """Cut `seq` into `n` parts, some of them empty if it is shorter than that.

    Args:
        seq: list, tuple, str, bytes, range and array.array give parts of their own kind; numpy arrays give
            views along their first axis; objects of pandas, pyarrow, polars, scipy.sparse and torch give
            rows of their kind; any other iterable gives lists.
        n: number of parts, at least 1.
        dist: ``'b'`` gives each part one block; ``'r'`` deals items out in turn.

    Raises:
        TypeError: `seq` has no order of items (a mapping, a 0-d array) or is not iterable.
        ValueError: `n` is below 1, or `dist` is neither ``'b'`` nor ``'r'``.
    """
    _check(n, dist)
    cut, length = _cutter(seq)
    if dist == "r":
        return [cut(slice(i, None, n)) for i in range(n)]
    parts = []
    start = 0
    for size in sizes(length, n):
        parts.append(cut(slice(start, start + size)))
        start += size
    return parts


def split_aligned(seqs: Sequence[Any], n: int, dist: Dist = "b") -> list[tuple[Any, ...]]:
    """Cut several sequences alike, as far as the shortest one goes: the chunks of a map.

    Args:
        seqs: what builtin ``map`` would be given; at least one of them must end.
        n: number of chunks, at least 1.
        dist: as in `split`.

    Returns:
        For each chunk, one part of every sequence, all of the same length (0 where items ran out).
    """
    if not seqs:
        raise TypeError("map needs at least one sequence beside the function")
    _check(n, dist)
    items = [seq if _iterates_by_rows(seq) else _unsized(seq) for seq in seqs]
    lengths = [len(seq) for seq in items if not isinstance(seq, _Unsized)]
    columns: list[Any]
    if lengths:
        shortest = min(lengths)
        columns = [list(islice(seq.items, shortest)) if isinstance(seq, _Unsized) else seq for seq in items]
    else:
        rows = list(zip(*[seq.items for seq in items], strict=False))
        columns = [[row[i] for row in rows] for i in range(len(items))]
    shortest = min(len(column) for column in columns)
    columns = [
        column if len(column) == shortest else _cutter(column)[0](slice(shortest)) for column in columns
    ]
    return list(zip(*[split(column, n, dist) for column in columns], strict=True))


def split_equal(seqs: Sequence[Any], n: int, dist: Dist = "b", name: str = "f") -> list[tuple[Any, ...]]:
    """Cut several sequences of the same length alike: the arguments of a parallel function.

    Args:
        seqs: anything that `split` cuts.
        n: number of parts, at least 1.
        dist: as in `split`.
        name: of the function, for errors.

    Returns:
        For each engine, one part of every sequence.

    Raises:
        TypeError: there is nothing to cut, or one of them can't be cut.
        ValueError: their lengths differ, or as `split`.
    """
    if not seqs:
        raise TypeError(f"{name} needs at least one sequence to be cut into parts for the engines")
    _check(n, dist)
    columns, lengths = [], []
    for position, seq in enumerate(seqs, 1):
        try:
            parts = split(seq, n, dist)
        except TypeError as error:
            raise TypeError(
                f"argument {position} of {name}: {error}. The positional arguments of a parallel function "
                "are cut; its keyword arguments go to every engine whole"
            ) from None
        columns.append(parts)
        lengths.append(sum(map(len, parts)))
    if len(set(lengths)) > 1:
        said = ", ".join(f"argument {position} has {length}" for position, length in enumerate(lengths, 1))
        raise ValueError(f"{name} needs sequences of equal length: {said} items")
    return list(zip(*columns, strict=True))


class Joining:
    """`join`, told how the parts were dealt out."""

    __slots__ = ("dist",)

    def __init__(self, dist: Dist) -> None:
        self.dist: Dist = dist

    def __call__(self, parts: Iterable[Any]) -> Any:
        """The parts put together."""
        return join(parts, self.dist)


def join(parts: Iterable[Any], dist: Dist = "b") -> Any:
    """Put parts together, in the order in which `split` dealt them out.

    Args:
        parts: one for each engine, in the engines' order. Round robin joins parts of any lengths: the first
            item of each, then the second of each that has one, and so on.
        dist: how they were dealt out.

    Returns:
        What the parts are made of: an array of the parts' dtype from arrays (one allocation), a str from
        strs, a DataFrame from DataFrames, and so on; a flat list from lists, ranges, parts of several kinds
        or of no known kind; and a list of the parts themselves if these are single values.

    Raises:
        TypeError: some parts are sequences and others single values.
        ValueError: `dist` is neither ``'b'`` nor ``'r'``, or arrays differ in shape behind the first axis.
    """
    parts = list(parts)
    _check(1, dist)
    if not parts:
        return []
    kinds = {_kind(part) for part in parts}
    if len(kinds) > 1 and kinds <= {"list", "tuple", "range", "iterable", "array", "ndarray"}:
        kinds = {"list"}
    if kinds == {"value"}:
        return parts
    if len(kinds) > 1:
        names = sorted({type(part).__name__ for part in parts})
        raise TypeError(
            f"parts of types {', '.join(names)} can't be joined into one sequence; pull them instead"
        )
    return _JOINERS[kinds.pop()](parts, dist)


def check_dist(dist: object) -> None:
    """Check that there is such a way of dealing items.

    Raises:
        ValueError: there is not; the text says which there are.
    """
    if dist not in get_args(Dist):
        raise ValueError(
            f"unknown dist {dist!r:.60}: 'b' gives each engine one block, 'r' deals items out in turn"
        )


def _check(n: int, dist: str) -> None:
    check_dist(dist)
    if n < 1:
        raise ValueError(f"can't cut a sequence into {n} parts: at least one is needed")


# --- kinds ----------------------------------------------------------------------------------------------


def _is_ndarray(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _is_of(library: str, value: Any, *names: str) -> bool:
    module = sys.modules.get(library)
    return module is not None and any(isinstance(value, getattr(module, name, ())) for name in names)


def _is_pandas(value: Any, *names: str) -> bool:
    return _is_of("pandas", value, *names)


def _is_arrow(value: Any, *names: str) -> bool:
    return _is_of("pyarrow", value, *names)


def _is_sparse(value: Any) -> bool:
    return _is_of("scipy.sparse", value, "spmatrix", "sparray")


def _kind(part: Any) -> str:
    """Which of `_JOINERS` joins `part` with its like."""
    for kind in (list, tuple, range, str, bytes, bytearray, array):
        if isinstance(part, kind):
            return kind.__name__
    if _is_ndarray(part):
        return "value" if part.ndim == 0 else "ndarray"
    if _is_pandas(part, "DataFrame", "Series"):
        return f"pandas {'frame' if part.ndim == 2 else 'series'}"
    if _is_pandas(part, "Index"):
        return "pandas index"
    for name in ("Table", "RecordBatch", "ChunkedArray", "Array"):
        if _is_arrow(part, name):
            return f"arrow {name}"
    if _is_of("polars", part, "DataFrame", "Series"):
        return f"polars {type(part).__name__}"
    if _is_of("torch", part, "Tensor"):
        return "tensor" if part.ndim else "value"
    if _is_sparse(part):
        return "sparse"
    if isinstance(part, Iterable) and not isinstance(part, Mapping):
        return "iterable"
    return "value"


def _cutter(seq: Any) -> tuple[Callable[[slice], Any], int]:
    """How to take a slice of `seq`'s items, and how many there are."""
    if isinstance(seq, _SLICED):
        return seq.__getitem__, len(seq)
    if isinstance(seq, memoryview):
        seq = bytes(seq)
        return seq.__getitem__, len(seq)
    if _is_ndarray(seq):
        if seq.ndim == 0:
            raise TypeError("a 0-d array has no first axis to be cut along: push it instead")
        numpy = sys.modules["numpy"]
        if isinstance(seq, numpy.memmap):  # its subclass means nothing in another process
            seq = seq.view(numpy.ndarray)
        return seq.__getitem__, len(seq)
    if _is_pandas(seq, "DataFrame", "Series"):
        return seq.iloc.__getitem__, len(seq)
    if _is_pandas(seq, "Index"):
        return seq.__getitem__, len(seq)
    if _is_arrow(seq, "Table", "RecordBatch", "ChunkedArray", "Array"):
        return _arrow_cutter(seq), len(seq)
    if _is_of("polars", seq, "DataFrame", "Series") or (_is_of("torch", seq, "Tensor") and seq.ndim):
        return seq.__getitem__, len(seq)
    if _is_sparse(seq):
        rows, form = seq.tocsr(), seq.format  # not every format has rows to be taken
        return lambda where: rows[where].asformat(form), seq.shape[0]
    if isinstance(seq, Mapping):
        raise TypeError(
            f"a {type(seq).__name__} has no order of parts: use list(d.items()), or push it whole"
        )
    if not isinstance(seq, Iterable) and not hasattr(seq, "__getitem__"):
        raise TypeError(f"can't cut a {type(seq).__name__} into parts: it is not a sequence; push it instead")
    items = list(seq)
    return items.__getitem__, len(items)


def _arrow_cutter(seq: Any) -> Callable[[slice], Any]:
    """Rows of an Arrow object, copied: a slice of it would be pickled with the whole of its buffers."""
    numpy = sys.modules["numpy"]

    def cut(where: slice) -> Any:
        return seq.take(numpy.arange(len(seq))[where])

    return cut


class _Unsized:
    """An iterable of which only iterating tells the length."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items


def _iterates_by_rows(seq: Any) -> bool:
    """Whether iterating over `seq` gives the items that it is cut between: not so for a DataFrame."""
    if isinstance(seq, _SLICED):
        return True
    if _is_ndarray(seq):
        return bool(seq.ndim)
    if _is_of("torch", seq, "Tensor"):
        return bool(seq.ndim)
    if _is_of("polars", seq, "Series"):
        return True
    return _is_pandas(seq, "Series", "Index") or _is_arrow(seq, "ChunkedArray", "Array")


def _unsized(seq: Any) -> Any:
    if hasattr(seq, "__len__"):
        return list(seq)
    return _Unsized(iter(seq))


# --- joining --------------------------------------------------------------------------------------------


def _is_dealt(lengths: Sequence[int]) -> bool:
    """Whether parts of these lengths can be what round robin makes of a whole."""
    return list(lengths) == sizes(sum(lengths), len(lengths))


def _turns(lengths: Sequence[int]) -> Any:
    """Positions in the parts laid end to end, in the order of round robin, as a numpy array."""
    import numpy

    rows = numpy.concatenate([numpy.arange(length) for length in lengths])
    return numpy.argsort(rows, kind="stable")


def _interleaved(parts: Sequence[Any], whole: Any) -> Any:
    """Fill the mutable sequence `whole` with the items of `parts` in turn."""
    lengths = [len(part) for part in parts]
    if _is_dealt(lengths):
        for i, part in enumerate(parts):
            whole[i :: len(parts)] = part
        return whole
    position = 0
    for row in range(max(lengths)):
        for part, length in zip(parts, lengths, strict=True):
            if row < length:
                whole[position] = part[row]
                position += 1
    return whole


def _join_lists(parts: list[Any], dist: Dist) -> list[Any]:
    if dist == "b":
        return list(chain.from_iterable(parts))
    parts = [list(part) for part in parts]
    return _interleaved(parts, [None] * sum(map(len, parts)))  # type: ignore[no-any-return]


def _join_tuples(parts: list[tuple[Any, ...]], dist: Dist) -> tuple[Any, ...]:
    return tuple(_join_lists(parts, dist))


def _join_text(parts: list[str], dist: Dist) -> str:
    return "".join(parts if dist == "b" else _join_lists(parts, dist))


def _join_bytes(parts: list[Any], dist: Dist) -> Any:
    if dist == "b":
        return type(parts[0])().join(parts)
    return type(parts[0])(_interleaved(parts, bytearray(sum(map(len, parts)))))


def _join_stdlib_arrays(parts: list[array[Any]], dist: Dist) -> Any:
    codes = {part.typecode for part in parts}
    if len(codes) > 1:
        return _join_lists(parts, dist)
    whole: array[Any] = array(codes.pop())
    if dist == "r":
        whole.frombytes(bytes(whole.itemsize * sum(map(len, parts))))
        return _interleaved(parts, whole)
    for part in parts:
        whole.extend(part)
    return whole


def _whole(first: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised array like `first`, in memory that was used before if there is some."""
    numpy: Any = sys.modules["numpy"]
    from directview.wire import blocks  # It needs numpy, which is here by now.

    plain = type(first) is numpy.ndarray and dtype.kind in "biufcmM" and first.flags.c_contiguous
    nbytes = dtype.itemsize * math.prod(shape)
    if not plain or nbytes < blocks.SMALLEST:
        return numpy.empty_like(first, shape=shape, dtype=dtype)
    return blocks.take(nbytes).view(dtype).reshape(shape)


def _side_by_side(parts: list[Any], shape: tuple[int, ...]) -> Any:
    """The array that these parts make up as they lie, if they were received that way."""
    numpy: Any = sys.modules["numpy"]
    from directview.wire import blocks

    first = parts[0]
    for part in parts:
        if type(part) is not numpy.ndarray or part.dtype != first.dtype or not part.flags.c_contiguous:
            return None
    block = blocks.joined(parts) if first.dtype.kind in "biufcmM" else None
    return None if block is None else block.view(first.dtype).reshape(shape)


def _join_ndarrays(parts: list[Any], dist: Dist) -> Any:
    """One allocation, filled in place; subclasses as numpy keeps them, dtypes promoted if they differ."""
    numpy: Any = sys.modules["numpy"]
    first = parts[0]
    for i, part in enumerate(parts):
        if part.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"arrays of shapes {first.shape} (part 0) and {part.shape} (part {i}) can't be joined: "
                "they differ behind the first axis"
            )
    lengths = [len(part) for part in parts]
    if any(isinstance(part, numpy.ma.MaskedArray) for part in parts):
        whole = numpy.ma.concatenate(parts)
        if getattr(first, "fill_value", None) is not None and whole.dtype == first.dtype:
            whole.fill_value = first.fill_value
        return whole if dist == "b" else whole[_turns(lengths)]
    dtype = first.dtype if all(part.dtype == first.dtype for part in parts) else numpy.result_type(*parts)
    shape = (sum(lengths), *first.shape[1:])
    if dist == "b" and (whole := _side_by_side(parts, shape)) is not None:
        return whole
    whole = _whole(first, shape, dtype)
    if dist == "r" and _is_dealt(lengths):
        for i, part in enumerate(parts):
            whole[i :: len(parts)] = part
        return whole
    start = 0
    for part, length in zip(parts, lengths, strict=True):
        whole[start : start + length] = part
        start += length
    return whole if dist == "b" else whole[_turns(lengths)]


def _join_pandas(parts: list[Any], dist: Dist) -> Any:
    pandas: Any = sys.modules["pandas"]
    # Empty parts take no part: pandas would let their dtypes change those of the others.
    filled = [part for part in parts if len(part)] or parts[:1]
    whole = filled[0] if len(filled) == 1 else pandas.concat(filled)
    return whole if dist == "b" else whole.iloc[_turns([len(part) for part in parts])]


def _join_index(parts: list[Any], dist: Dist) -> Any:
    filled = [part for part in parts if len(part)] or parts[:1]
    whole = filled[0].append(filled[1:]) if len(filled) > 1 else filled[0]
    return whole if dist == "b" else whole[_turns([len(part) for part in parts])]


def _join_arrow(parts: list[Any], dist: Dist) -> Any:
    pyarrow: Any = sys.modules["pyarrow"]
    match _kind(parts[0]):
        case "arrow Table":
            whole = pyarrow.concat_tables(parts)
        case "arrow RecordBatch":
            table = pyarrow.Table.from_batches(parts).combine_chunks()
            whole = (table.to_batches() or parts)[0]
        case "arrow ChunkedArray":
            whole = pyarrow.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
        case _:
            whole = pyarrow.concat_arrays(parts)
    return whole if dist == "b" else whole.take(_turns([len(part) for part in parts]))


def _join_polars(parts: list[Any], dist: Dist) -> Any:
    whole = sys.modules["polars"].concat(parts)
    return whole if dist == "b" else whole[_turns([len(part) for part in parts])]


def _join_tensors(parts: list[Any], dist: Dist) -> Any:
    torch: Any = sys.modules["torch"]
    whole = torch.cat(parts)
    return whole if dist == "b" else whole[torch.from_numpy(_turns([len(part) for part in parts]))]


def _join_sparse(parts: list[Any], dist: Dist) -> Any:
    sparse: Any = sys.modules["scipy.sparse"]
    form = parts[0].format
    whole = sparse.vstack(parts, "csr") if parts[0].ndim > 1 else sparse.hstack(parts, "csr")
    return (whole if dist == "b" else whole[_turns([part.shape[0] for part in parts])]).asformat(form)


_JOINERS: Final[dict[str, Callable[[list[Any], Dist], Any]]] = {
    "list": _join_lists,
    "range": _join_lists,
    "iterable": _join_lists,
    "tuple": _join_tuples,
    "str": _join_text,
    "bytes": _join_bytes,
    "bytearray": _join_bytes,
    "array": _join_stdlib_arrays,
    "ndarray": _join_ndarrays,
    "pandas frame": _join_pandas,
    "pandas series": _join_pandas,
    "pandas index": _join_index,
    "arrow Table": _join_arrow,
    "arrow RecordBatch": _join_arrow,
    "arrow ChunkedArray": _join_arrow,
    "arrow Array": _join_arrow,
    "polars DataFrame": _join_polars,
    "polars Series": _join_polars,
    "tensor": _join_tensors,
    "sparse": _join_sparse,
}
