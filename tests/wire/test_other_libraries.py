"""Objects of pandas, pyarrow, scipy.sparse and polars: equal when they arrive, and their memory uncopied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from directview.wire.objects import Packed, dumps, loads

N = 50_000


def received(packed: Packed) -> Any:
    return loads(packed.data, [memoryview(bytearray(buffer)) for buffer in packed.buffers])


def there_and_back(obj: Any) -> Any:
    return received(dumps(obj))


def addresses(packed: Packed) -> set[int]:
    """Where the buffers lie that travel beside a pickle."""
    return {np.frombuffer(buffer, "u1").__array_interface__["data"][0] for buffer in packed.buffers}


# --- pandas ---------------------------------------------------------------------------------------------


def frame(n: int = N) -> Any:
    pandas: Any = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame(
        {
            "number": np.arange(n, dtype=float),
            "count": np.arange(n),
            "text": ["x" * (i % 7) for i in range(n)],
            "kind": pandas.Categorical(["a", "b"] * (n // 2)),
            "when": pandas.date_range("2020-03-29", periods=n, freq="s", tz="Europe/Berlin"),
            "maybe": pandas.array([1, None] * (n // 2), dtype="Int64"),
            "any": [None, {"a": 1}] * (n // 2),
        }
    )


PARTS: dict[str, Callable[[Any], Any]] = {
    "frame": lambda df: df,
    "rows": lambda df: df.iloc[10:20],
    "columns": lambda df: df[["count", "text"]],
    "numbers": lambda df: df["number"],
    "texts": lambda df: df["text"],
    "categories": lambda df: df["kind"],
    "times": lambda df: df["when"],
    "index": lambda df: df.set_index("when").index,
    "index of ranges": lambda df: df.index,
    "index of several": lambda df: df.set_index(["count", "kind"]).index,
    "transposed": lambda df: df[["number", "count"]].T,
    "empty": lambda df: df.iloc[:0],
}


@pytest.mark.parametrize("part", PARTS)
def test_pandas(part: str) -> None:
    value = PARTS[part](frame())
    again = there_and_back(value)
    assert type(again) is type(value)
    assert again.equals(value)
    if part in ("frame", "columns", "rows"):
        assert again.dtypes.equals(value.dtypes)
        again.loc[again.index[0], "count"] = -5  # it may be written to


def test_the_memory_of_a_frame_is_not_copied() -> None:
    df = frame()
    found = addresses(dumps(df))
    assert df["number"].to_numpy().__array_interface__["data"][0] in found
    assert df["count"].to_numpy().__array_interface__["data"][0] in found


def test_a_few_rows_of_a_frame_are_a_small_pickle() -> None:
    """Also of strings, which lie in one buffer of pyarrow's."""
    packed = dumps(frame().iloc[10:20])
    assert len(packed.data) + sum(map(len, packed.buffers)) < 8000


# --- pyarrow --------------------------------------------------------------------------------------------


def table() -> Any:
    pyarrow: Any = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return pyarrow.table(
        {
            "text": ["é" * (i % 7) for i in range(N)],
            "number": range(N),
            "kind": pyarrow.array(["a", None] * (N // 2)).dictionary_encode(),
            "items": [[1] * (i % 3) for i in range(N)],
        },
        metadata={"source": "here"},
    )


ARROW: dict[str, Callable[[Any], Any]] = {
    "table": lambda t: t,
    "chunked array": lambda t: t["text"],
    "record batch": lambda t: t.to_batches()[0],
    "array": lambda t: t["number"].chunk(0),
    "dictionary": lambda t: t["kind"].chunk(0),
    "lists": lambda t: t["items"].chunk(0),
    "structs": lambda t: t.to_struct_array().chunk(0),
    "schema": lambda t: t.schema,
    "scalar": lambda t: t["text"][5],
    "buffer": lambda t: t["number"].chunk(0).buffers()[1],
}


@pytest.mark.parametrize("part", ARROW)
def test_arrow(part: str) -> None:
    value = ARROW[part](table())
    again = there_and_back(value)
    assert type(again) is type(value)
    assert again.equals(value)


@pytest.mark.parametrize("rows", [0, 10, N // 2, N - 1])
@pytest.mark.parametrize("part", [*ARROW][:7])
def test_some_rows_of_arrow_travel_alone(part: str, rows: int) -> None:
    whole = ARROW[part](table())
    value = whole.slice(1, rows)
    packed = dumps(value)
    again = received(packed)
    assert type(again) is type(value)
    assert again.equals(value)
    again.validate(full=True)
    if part in ("table", "record batch"):
        assert again.schema.equals(whole.schema, check_metadata=True)
    else:
        assert again.type == whole.type
    if rows == 10:
        assert len(packed.data) + sum(map(len, packed.buffers)) < 3000


def test_the_memory_of_arrow_is_not_copied() -> None:
    value = table()
    lies = {
        buffer.address
        for column in ("number", "text")
        for buffer in value[column].chunk(0).buffers()
        if buffer
    }
    assert lies <= addresses(dumps(value))


# --- scipy.sparse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
def test_sparse(kind: str, form: str) -> None:
    sparse: Any = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    dense = np.where(np.arange(90_000).reshape(300, 300) % 7, 0, 2.5)
    value = getattr(sparse, f"csr_{kind}")(dense).asformat(form)
    packed = dumps(value)
    again = received(packed)
    assert type(again) is type(value)
    assert again.dtype == value.dtype
    assert np.array_equal(again.toarray(), dense)
    if form not in ("dok", "lil"):
        assert value.data.__array_interface__["data"][0] in addresses(packed)
        again.data[:] = 1
    else:
        again[0, 1] = 1


# --- polars ---------------------------------------------------------------------------------------------


def test_polars() -> None:
    polars: Any = pytest.importorskip("polars", reason="polars is not installed")
    value = polars.DataFrame({"number": np.arange(N), "text": ["x"] * N, "list": [[1, 2]] * N})
    packed = dumps(value)
    assert len(packed.data) < 1000
    assert received(packed).equals(value)
    assert there_and_back(value["text"][3:9]).equals(value["text"][3:9])
    lazy = there_and_back(value.lazy().filter(polars.col("number") > 3))
    assert lazy.collect().equals(value.filter(polars.col("number") > 3))
