"""Typed columns hold what an obvious, slow way makes of the rows' tensors."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.adapters.arrow_rows import VALUES_NOT_TYPED, ArrowRows
from services.inference.domain.table import COLUMNS
from tests.integration.inference.test_inference_tables import make_row

KINDS = {
    "Bool": "bool",
    "Float32": "float32",
    "Float64": "float64",
    "String": "object",
    **{f"Int{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
DTYPES = [one for one in KINDS.values() if one != "object"] + ["float16"]


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """An array of numbers, or nested lists as JSON has them."""
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    if draw(st.booleans()):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        data = draw(st.binary(min_size=8 * 27, max_size=8 * 27))
        count = int(np.prod(shape))
        if dtype.kind == "b":
            return np.array([byte & 1 for byte in data[:count]], bool).reshape(shape)
        return np.frombuffer(data, dtype, count).reshape(shape)
    kinds: list[st.SearchStrategy[Any]] = [
        st.text("aé\0", max_size=3),
        st.integers(-3, 300) | st.integers(2**24, 2**40),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.booleans(),
    ]
    values = draw(st.sampled_from(kinds)) | st.none()
    for _ in shape:
        values = st.lists(values, max_size=3)
    return draw(values)


def fitted(values: Any, kind: str, depth: int) -> Any:
    """The values as a column of a type has them; an error where they do not fit."""
    if depth:
        if isinstance(values, np.ndarray) and not values.size:
            return []
        if not isinstance(values, list | np.ndarray):
            raise TypeError
        return [fitted(value, kind, depth - 1) for value in values]
    if isinstance(values, list | np.ndarray):
        raise TypeError
    return None if values is None else fitted_scalar(values, kind)


def fitted_scalar(value: Any, kind: str) -> Any:
    """As `fitted`, of one element."""
    if kind == "Bool" and isinstance(value, bool | np.bool_):
        return bool(value)
    if kind == "String" and isinstance(value, str):
        return value
    if kind in ("Bool", "String") or isinstance(value, bool | np.bool_ | str):
        raise TypeError
    if kind.startswith("Float"):
        with np.errstate(over="ignore"):
            value = float(np.dtype(KINDS[kind]).type(value))
        return value if isfinite(value) else None
    limits = np.iinfo(KINDS[kind])
    if isinstance(value, float | np.floating) or not limits.min <= value <= limits.max:
        raise TypeError
    return int(value)


@settings(max_examples=500)
@given(st.sampled_from(sorted(KINDS)), st.integers(1, 3), st.lists(tensors(), min_size=1))
def test_typed_columns_hold_the_values_that_fit(kind: str, depth: int, told: list[Any]) -> None:
    data_type = f"Nullable({kind})"
    for _ in range(depth):
        data_type = f"Array({data_type})"
    rows = [make_row(input_x=values) for values in told] + [make_row()]
    maker = ArrowRows(
        {"input_x": data_type, **{column.name: column.data_type for column in COLUMNS}}
    )
    names, data = maker.stream(rows, 17)
    table = pa.ipc.open_stream(data).read_all()
    assert list(names) == table.column_names
    assert set(names) - {"input_x"} == {column.name for column in COLUMNS}
    assert table["tessera_request_id"].to_pylist() == [row.request_id for row in rows]
    # Where no row has a value for it, the database gives it its default.
    kept = table["input_x"].to_pylist() if "input_x" in names else [[] for _ in rows]
    codes = table["logging_error_codes"].to_pylist()
    assert (kept.pop(), codes.pop()) == ([], [])
    for values, found, code in zip(told, kept, codes, strict=True):
        try:
            wanted = fitted(values, kind, depth)
        except TypeError:
            assert (found, code) == ([], [VALUES_NOT_TYPED])
        else:
            assert (found, code) == (wanted, [])
