"""Rows and columns of Python values as columns of `PredictionService`, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tessera.client.answers import RowPrediction
from tessera.inference.v1 import prediction_pb2, prediction_service_pb2

__all__ = ["columns_from", "parameter_value", "prediction_from"]

_DTYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_MOST_INTEGER = 2**63 - 1


def columns_from(
    rows: Sequence[Mapping[str, Any]] | Mapping[str, Any],
) -> list[prediction_pb2.PredictionColumn]:
    """The columns of a request.

    Args:
        rows: A mapping per row, or one of a sequence or array per column. What a row lacks, or is
            None, becomes NaN in a column of numbers.

    Raises:
        ValueError: A column's values are of no type that inputs have, or differ in shape; the text
            names it.
    """
    if isinstance(rows, Mapping):
        return [_column(name, values) for name, values in rows.items()]
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError("each row must be a mapping of its values by column")
    names = dict.fromkeys(name for row in rows for name in row)
    return [_column(name, [row.get(name) for row in rows]) for name in names]


def prediction_from(response: prediction_service_pb2.PredictResponse) -> RowPrediction:
    """The answer as arrays."""
    return RowPrediction(
        columns={column.name: _array(column, response.row_count) for column in response.columns},
        row_count=response.row_count,
        request_id=response.tessera_request_id,
        client_request_id=response.client_request_id,
        served_entity=response.served_entity,
        model_name=response.model_name,
        model_version=response.model_version,
        config_version=response.config_version,
    )


def parameter_value(value: bool | int | float | str) -> prediction_pb2.ParameterValue:
    """A parameter of a request."""
    if isinstance(value, bool):
        return prediction_pb2.ParameterValue(bool_value=value)
    if isinstance(value, int):
        return prediction_pb2.ParameterValue(integer_value=value)
    if isinstance(value, float):
        return prediction_pb2.ParameterValue(double_value=value)
    return prediction_pb2.ParameterValue(text_value=value)


def _column(name: str, given: Any) -> prediction_pb2.PredictionColumn:
    column = prediction_pb2.PredictionColumn(name=name)
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        column.row_shape.extend(given.shape[1:])
        flat, single = given.reshape(-1).tolist(), given.dtype.itemsize <= 4
    elif isinstance(given, np.ndarray | list | tuple):
        values = given.tolist() if isinstance(given, np.ndarray) else list(given)
        shape, flat = _flattened(name, values)
        column.row_shape.extend(shape)
        single = False
    else:
        raise ValueError(f"column {name!r} must be a list, tuple or array with a value per row")
    kind, flat = _typed(name, flat, single)
    getattr(column, kind).values.extend(flat)
    return column


def _flattened(name: str, values: list[Any]) -> tuple[list[int], list[Any]]:
    """The sizes of a row's value, and the elements of all."""
    shape: list[int] = []
    while values and isinstance(values[0], list | tuple | np.ndarray):
        size = len(values[0])
        if any(
            not isinstance(value, list | tuple | np.ndarray) or len(value) != size
            for value in values
        ):
            raise ValueError(f"column {name!r}: its rows' values differ in shape")
        shape.append(size)
        values = [element for value in values for element in value]
    return shape, values


def _typed(name: str, values: list[Any], single: bool) -> tuple[str, list[Any]]:
    """The field of the values' type, and the values as it takes them."""
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    kinds = set(map(type, values))
    if kinds <= {bool}:
        return "bools", values
    if kinds <= {int}:
        kind = "unsigned_integers" if max(values) > _MOST_INTEGER else "integers"
        return kind, values
    if kinds <= {int, float, type(None)} and kinds != {type(None)}:
        numbers = [math.nan if value is None else float(value) for value in values]
        return "floats" if single else "doubles", numbers
    if kinds <= {str}:
        return "texts", values
    if kinds <= {str, bytes}:
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        return "binaries", encoded
    told = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(f"column {name!r}: no input takes values of {told}")


def _array(column: prediction_pb2.PredictionColumn, rows: int) -> npt.NDArray[Any]:
    kind = column.WhichOneof("values")
    values = list(getattr(column, kind).values) if kind else []
    dtype = _DTYPES.get(column.datatype, np.object_)
    flat = np.empty(len(values), dtype)
    flat[:] = values
    return flat.reshape((rows, *column.row_shape))
