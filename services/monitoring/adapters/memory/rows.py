"""Rows of tables in memory, read as a schema says."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.monitoring.adapters.memory.statistics import Sample
from services.monitoring.domain.columns import Column, ColumnKind, ColumnPlace, RowSchema
from services.monitoring.domain.windows import (
    microseconds,
    window_start,
)

__all__ = [
    "Request",
    "Row",
    "event_us",
    "json_type",
    "request_rows",
    "samples_of",
    "slots",
    "table_values",
]

Value = float | str | None


@dataclass(frozen=True, slots=True)
class Request:
    """A row of an inference table."""

    tessera_request_id: str
    request_time: datetime
    inputs: Mapping[str, Sequence[Any]]
    outputs: Mapping[str, Sequence[Any]]
    client_request_id: str = ""
    status_code: int = 0
    endpoint: str = "endpoint"
    model_name: str = "main.models.model"
    model_version: int = 1
    served_entity_id: str = "model-1"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a watched table, read as a schema says."""

    start_us: int
    event_us: int
    values: tuple[Value, ...]
    slices: tuple[str, ...]
    request: Request | None = None
    is_alone: bool = True
    prediction: float | None = None


def request_rows(request: Request, schema: RowSchema, granularity_us: int) -> Iterable[Row]:
    """The rows that a request's tensors hold; those without a time are left out."""
    bodies = {ColumnPlace.INPUT: request.inputs, ColumnPlace.OUTPUT: request.outputs}

    def read(column: Column, index: int) -> Value:
        values = bodies[column.place].get(column.name, ())
        value = values[index] if index < len(values) else None
        return _as_kind(value, column.kind)

    count = max((len(bodies[c.place].get(c.name, ())) for c in schema.columns), default=1)
    for index in range(count):
        time: int | None = microseconds(request.request_time)
        if schema.timestamp is not None:
            values = request.inputs.get(schema.timestamp.name, ())
            time = event_us(values[index] if index < len(values) else None)
        if time is None:
            continue
        prediction = None if schema.prediction is None else read(schema.prediction, index)
        yield Row(
            window_start(time, granularity_us),
            time,
            tuple(read(column, index) for column in schema.columns),
            tuple(
                str(getattr(request, column.name))
                if column.place is ColumnPlace.TABLE
                else str(read(column, index) or "")
                for column in schema.slices
            ),
            request,
            count == 1,
            None if prediction is None else float(prediction),
        )


def table_values(
    row: Mapping[str, Any], schema: RowSchema
) -> tuple[tuple[Value, ...], tuple[str, ...]]:
    """The watched values of a table's row, and the values that it is sliced by."""
    return (
        tuple(_as_kind(row.get(column.name), column.kind) for column in schema.columns),
        tuple(_as_text(row.get(column.name)) or "" for column in schema.slices),
    )


def _as_kind(value: Any, kind: ColumnKind) -> Value:
    if value is None:
        return None
    return float(value) if kind is ColumnKind.NUMERIC else _as_text(value)


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


def json_type(value: Any) -> str:
    """What ClickHouse's `JSONType` calls a value."""
    match value:
        case None:
            return "Null"
        case bool():
            return "Bool"
        case int():
            return "Int64"
        case float():
            return "Double"
        case "NaN" | "Infinity" | "-Infinity":
            return "Double"
        case str():
            return "String"
    return "Array"


def event_us(value: Any) -> int | None:
    """A time in microseconds, whatever it is written as; None where it is none."""
    match value:
        case datetime():
            return microseconds(value if value.tzinfo else value.replace(tzinfo=UTC))
        case str():
            try:
                return event_us(datetime.fromisoformat(value))
            except ValueError:
                return None
        case int() | float():
            size = abs(value)
            if not math.isfinite(size) or size > 9e18:
                return None
            scale = 1e6 if size < 1e11 else 1e3 if size < 1e14 else 1.0 if size < 1e17 else 1e-3
            return round(value * scale)
    return None


def slots(row: Row, schema: RowSchema) -> Iterable[tuple[str, str]]:
    """Keys and values of the slices that a row is in; `"", ""` stands for all rows."""
    yield "", ""
    for column, value in zip(schema.slices, row.slices, strict=True):
        yield column.name, value


def samples_of(rows: Iterable[Row], schema: RowSchema) -> dict[tuple[int, str, str, str], Sample]:
    """Values by window, slice key, slice value and column."""
    gathered: dict[tuple[int, str, str, str], list[Value]] = defaultdict(list)
    kinds = {column.name: column.kind is ColumnKind.NUMERIC for column in schema.columns}
    for row in rows:
        for key, value in slots(row, schema):
            for column, cell in zip(schema.columns, row.values, strict=True):
                gathered[row.start_us, key, value, column.name].append(cell)
    return {place: Sample(kinds[place[3]], values) for place, values in gathered.items()}
