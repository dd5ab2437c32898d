"""Rows of an inference table as Arrow: tensors go to its typed columns as they lie in memory.

As JSON the database would read each number from its digits: of a row with two tensors of 4 KB that
was more than half of its work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import pyarrow as pa

from services.inference.domain.table import COLUMNS, VERSION_COLUMN
from services.inference.sink.rows import Row
from services.inference.sink.tensors import Values
from tessera_kit.arrow import NUMBERS, arrow_stream

__all__ = ["VALUES_NOT_TYPED", "ArrowRows"]

VALUES_NOT_TYPED: Final = "VALUES_NOT_TYPED"
"""The values of the row's tensors do not fit the typed columns and are in the JSON ones alone."""

_SCALARS: Final = {
    **NUMBERS,
    "String": pa.string(),
    "LowCardinality(String)": pa.string(),
    "Date": pa.date32(),
    "DateTime64(6, 'UTC')": pa.timestamp("us", "UTC"),
}
_COMMON: Final = {
    column.name: (
        pa.list_(_SCALARS[column.data_type[len("Array(") : -1]])
        if column.data_type.startswith("Array(")
        else _SCALARS[column.data_type]
    )
    for column in COLUMNS
}
_PYTHON_TYPES: Final = {"O": (str,), "b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
"""What JSON's values are, by the kind of numpy's type of a column that takes them."""
_arrays_of = re.compile(r"((?:Array\()+)Nullable\((\w+)\)\)+\Z").match


class _TypedColumn:
    """One typed column.

    Args:
        data_type: In ClickHouse's notation.

    Raises:
        ValueError: It is no array of numbers or texts.
    """

    def __init__(self, data_type: str) -> None:
        found = _arrays_of(data_type)
        scalar = found and _SCALARS.get(found[2])
        if not found or scalar is None:
            raise ValueError(f"{data_type} is not the type of a tensor's column")
        self._data_type = data_type
        self._depth = found[1].count("(")
        self._scalar: pa.DataType = scalar
        self._dtype = None if pa.types.is_string(scalar) else np.dtype(scalar.to_pandas_dtype())
        self._types = _PYTHON_TYPES["O" if self._dtype is None else self._dtype.kind]
        self._none = np.empty((0,) * self._depth, self._dtype or object)

    def array(self, values: Sequence[Values | None]) -> pa.Array:
        """The column, with an empty array where there is no value.

        Raises:
            ValueError: A value does not fit it.
        """
        if all(value is None or isinstance(value, np.ndarray) for value in values):
            return self._of_tensors(values)
        if not any(isinstance(value, np.ndarray) for value in values):
            return self._of_lists(values)
        return pa.concat_arrays(
            self._of_lists([value]) if isinstance(value, list) else self._of_tensors([value])
            for value in values
        )

    def _of_lists(self, values: Sequence[Any]) -> pa.Array:
        sizes = []
        level = [[] if one is None else one for one in values]
        for _ in range(self._depth):
            if not all(isinstance(one, list) for one in level):
                raise ValueError(f"the values are not nested as {self._data_type}")
            sizes.append([len(one) for one in level])
            level = [value for one in level for value in one]
        return _nested(self._scalars(level), sizes)

    def _scalars(self, values: Sequence[Any]) -> pa.Array:
        # Arrow itself would cut off what an integer has behind its point.
        if any(value is not None and type(value) not in self._types for value in values):
            raise ValueError(f"the values are not all {self._data_type}'s")
        if self._dtype is not None and self._dtype.kind == "f":
            return self._flat(self._cast(np.array(values, np.float64)))
        try:
            return pa.array(values, self._scalar)
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(str(error)) from error

    def _of_tensors(self, values: Sequence[Any]) -> pa.Array:
        tensors = [self._none if one is None else self._fitted(one) for one in values]
        flat = self._flat(np.concatenate([tensor.reshape(-1) for tensor in tensors]))
        sizes = []
        for level in range(self._depth):
            # Each tensor has as many lists of a level as the levels above it have elements.
            counts = [prod(tensor.shape[:level]) for tensor in tensors]
            sizes.append(np.repeat([tensor.shape[level] for tensor in tensors], counts))
        return _nested(flat, sizes)

    def _fitted(self, tensor: Any) -> Any:
        if not tensor.size:
            return self._none
        if tensor.ndim != self._depth or self._dtype is None:
            raise ValueError(f"{tensor.ndim} dimensions of {tensor.dtype} for {self._data_type}")
        if tensor.dtype == self._dtype:
            return tensor
        kinds = tensor.dtype.kind, self._dtype.kind
        if kinds[1] == "f" and kinds[0] in "fiu":
            return self._cast(tensor)
        limits = np.iinfo(self._dtype) if kinds[0] in "iu" and kinds[1] in "iu" else None
        if limits is None or tensor.min() < limits.min or tensor.max() > limits.max:
            raise ValueError(f"values of {tensor.dtype} for {self._data_type}")
        return tensor.astype(self._dtype)

    def _cast(self, values: Any) -> Any:
        with np.errstate(over="ignore"):
            return values.astype(self._dtype)

    def _flat(self, values: Any) -> pa.Array:
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                return pa.array(values, self._scalar, mask=~finite)
        return pa.array(values, self._scalar)


def _nested(values: pa.Array, sizes: Sequence[Any]) -> pa.Array:
    """The values in lists, whose sizes are given level by level, the outermost first."""
    for level in reversed(sizes):
        ends = np.concatenate(([0], np.cumsum(level)))
        values = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)
    return values


class ArrowRows:
    """Makes Arrow of rows, for a table of certain columns.

    Args:
        data_types: Of the table's columns, in ClickHouse's notation.
    """

    def __init__(self, data_types: Mapping[str, str]) -> None:
        self._common = [name for name in _COMMON if name in data_types and name != VERSION_COLUMN]
        self._typed: dict[str, _TypedColumn | None] = {}
        for name, data_type in data_types.items():
            if name not in _COMMON:
                try:
                    self._typed[name] = _TypedColumn(data_type)
                except ValueError:
                    self._typed[name] = None

    def stream(self, rows: Sequence[Row], now_us: int) -> tuple[Sequence[str], memoryview]:
        """The columns' names, and rows of them as an Arrow stream.

        Values that do not fit their typed columns are left out of these, and `logging_error_codes`
        of their rows says so. Tensors that have no column are left out.

        Args:
            rows: One or more.
            now_us: What `ingested_at` becomes, in Unix microseconds.
        """
        values = [row.values for row in rows]
        typed = self._columns(values)
        if typed is None:
            values = [self._fitting(one) for one in values]
            typed = self._columns(values) or {}
        columns: dict[str, pa.Array] = {
            name: pa.array([one[name] for one in values], _COMMON[name]) for name in self._common
        }
        columns[VERSION_COLUMN] = pa.array([now_us] * len(rows), _COMMON[VERSION_COLUMN])
        batch = pa.RecordBatch.from_pydict({**columns, **typed})
        return batch.schema.names, arrow_stream(batch)

    def _columns(self, values: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array] | None:
        """The typed columns; None when a value does not fit its own."""
        found: dict[str, pa.Array] = {}
        for name, column in self._typed.items():
            told = [one.get(name) for one in values]
            # A column that no row has a value for is somebody else's, and keeps its default.
            if all(one is None for one in told):
                continue
            if column is None:
                return None
            try:
                found[name] = column.array(told)
            except ValueError:
                return None
        return found

    def _fitting(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values, without those of tensors if one of these does not fit."""
        if self._columns([values]) is not None:
            return values
        common = {name: value for name, value in values.items() if name in _COMMON}
        codes = [*values["logging_error_codes"], VALUES_NOT_TYPED]
        return {**common, "logging_error_codes": codes}
