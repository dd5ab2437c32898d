"""What the rows of a watched table hold, by its columns' types and by the JSON of its requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from services.monitoring.domain.columns import (
    Column,
    ColumnKind,
    ColumnPlace,
    RowSchema,
    TimeKind,
    merge_columns,
)
from services.monitoring.domain.monitor import METADATA_SLICES, Monitor, SnapshotProfile
from tessera_kit.errors import FieldViolation

__all__ = [
    "baseline_schema",
    "baseline_violations",
    "inference_schema",
    "kind_of_type",
    "table_schema",
    "table_violations",
    "time_kind",
]

_WRAPPED: Final = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)\Z")
_NUMERIC: Final = re.compile(r"(?:U?Int\d+|Float\d+|BFloat16|Decimal\d*(?:\(.*\))?)\Z")
_CATEGORICAL: Final = re.compile(r"(?:String|Bool|UUID|FixedString\(.*\)|Enum\d*\(.*\)|IPv[46])\Z")
_TIME: Final = re.compile(r"(?:Date|Date32|DateTime(?:\(.*\))?|DateTime64(?:\(.*\))?)\Z")

INFERENCE_COLUMNS: Final = (
    *("endpoint", "tessera_request_id", "client_request_id", "request_time", "status_code"),
    *("inputs", "outputs", *METADATA_SLICES),
)
"""The columns of an inference table that are read."""


def _bare(data_type: str) -> str:
    while (match := _WRAPPED.match(data_type)) is not None:
        data_type = match[1]
    return data_type


def kind_of_type(data_type: str) -> ColumnKind | None:
    """How values of a ClickHouse type are watched; None when they are not."""
    bare = _bare(data_type)
    if _NUMERIC.match(bare):
        return ColumnKind.NUMERIC
    return ColumnKind.CATEGORICAL if _CATEGORICAL.match(bare) else None


def time_kind(data_type: str) -> TimeKind | None:
    """How a column of a ClickHouse type says a time; None when it cannot."""
    bare = _bare(data_type)
    if _TIME.match(bare):
        return TimeKind.TIME
    if _NUMERIC.match(bare):
        return TimeKind.NUMBER
    return TimeKind.TEXT if bare.startswith(("String", "FixedString")) else None


def table_schema(monitor: Monitor, types: Mapping[str, str]) -> RowSchema:
    """What is read of the rows of a table that is watched as it is.

    Columns that the monitor names and the table lacks are left out.
    """
    profile = monitor.profile
    timestamp = "" if isinstance(profile, SnapshotProfile) else profile.timestamp_column
    columns = []
    for name in monitor.columns or [name for name in types if name != timestamp]:
        kind = kind_of_type(types.get(name, ""))
        if kind is not None:
            columns.append(Column(name, kind, ColumnPlace.TABLE))
    return RowSchema(
        columns=tuple(columns),
        slices=_table_slices(monitor.slicing_columns, types),
        timestamp=(Column(timestamp, ColumnKind.NUMERIC, ColumnPlace.TABLE) if timestamp else None),
        time_kind=time_kind(types.get(timestamp, "")) or TimeKind.TIME,
    )


def _table_slices(names: Iterable[str], types: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(
        Column(name, ColumnKind.CATEGORICAL, ColumnPlace.TABLE) for name in names if name in types
    )


def baseline_schema(monitor: Monitor, types: Mapping[str, str]) -> RowSchema:
    """What is read of a baseline: the watched columns that it has, and the slices that it has."""
    profile = monitor.profile
    timestamp = "" if isinstance(profile, SnapshotProfile) else profile.timestamp_column
    columns = []
    for name in monitor.columns or [name for name in types if name != timestamp]:
        kind = kind_of_type(types.get(name, ""))
        if kind is not None:
            columns.append(Column(name, kind, ColumnPlace.TABLE))
    # What served a request is not a property of its subject: a baseline's column of that name
    # would be another thing.
    sliced = [
        name
        for name in monitor.slicing_columns
        if monitor.inference is None or name not in METADATA_SLICES
    ]
    return RowSchema(columns=tuple(columns), slices=_table_slices(sliced, types))


_NUMBERS: Final = frozenset({"Int64", "UInt64", "Double", "Null"})
_WORDS: Final = frozenset({"String", "Bool", *_NUMBERS})


def _kind_of_json(types: Iterable[str]) -> ColumnKind | None:
    seen = set(types)
    if not seen - {"Null"} or not seen <= _WORDS:
        return None
    return ColumnKind.NUMERIC if seen <= _NUMBERS else ColumnKind.CATEGORICAL


def inference_schema(
    monitor: Monitor,
    known: RowSchema | None,
    found: Iterable[tuple[str, str, Sequence[str]]],
    baseline_types: Mapping[str, str],
) -> RowSchema:
    """What is read of the requests of an inference table.

    Args:
        monitor: The monitor.
        known: What was known before.
        found: Part, key and JSON types of the values, as `json_keys_select` gives them.
        baseline_types: The types of the baseline's columns; empty without one.
    """
    profile = monitor.inference
    if profile is None:
        raise ValueError("not an inference monitor")
    seen: list[Column] = []
    time = None if known is None else known.time_kind
    for part, key, types in found:
        place = ColumnPlace.INPUT if part == "input" else ColumnPlace.OUTPUT
        kind = _kind_of_json(types)
        if kind is None:
            continue
        if place is ColumnPlace.INPUT and key == profile.timestamp_column:
            time = time or (TimeKind.NUMBER if kind is ColumnKind.NUMERIC else TimeKind.TEXT)
            continue
        kind = kind_of_type(baseline_types.get(key, "")) or kind
        seen.append(Column(key, kind, place))
    inputs = {column.name for column in seen if column.place is ColumnPlace.INPUT}
    fresh = [
        column for column in seen if column.place is ColumnPlace.INPUT or column.name not in inputs
    ]
    before = () if known is None else known.columns
    every = merge_columns(before, fresh)
    watched = tuple(c for c in every if not monitor.columns or c.name in monitor.columns)
    slices = merge_columns(() if known is None else known.slices, _slices(monitor, every))
    return RowSchema(
        columns=watched,
        slices=slices,
        timestamp=(
            Column(profile.timestamp_column, ColumnKind.NUMERIC, ColumnPlace.INPUT)
            if profile.timestamp_column
            else None
        ),
        time_kind=time or TimeKind.NUMBER,
        prediction=Column(profile.prediction_column, ColumnKind.NUMERIC, ColumnPlace.OUTPUT),
    )


def _slices(monitor: Monitor, columns: Sequence[Column]) -> list[Column]:
    places = {column.name: column.place for column in reversed(columns)}
    found = []
    for name in monitor.slicing_columns:
        if name in METADATA_SLICES:
            found.append(Column(name, ColumnKind.CATEGORICAL, ColumnPlace.TABLE))
        elif name in places:
            found.append(Column(name, ColumnKind.CATEGORICAL, places[name]))
    return found


def table_violations(monitor: Monitor, types: Mapping[str, str]) -> Iterator[FieldViolation]:
    """What contradicts the columns of the watched table."""
    table = monitor.table_full_name
    if monitor.inference is not None:
        missing = [name for name in INFERENCE_COLUMNS if name not in types]
        if missing:
            rule = f"must be an inference table; {table} has no column {missing[0]!r}"
            yield FieldViolation("monitor.table_full_name", rule)
        return
    profile = monitor.profile
    if (
        not isinstance(profile, SnapshotProfile)
        and time_kind(types.get(profile.timestamp_column, "")) is None
    ):
        rule = f"must be a column of {table} that says a time"
        yield FieldViolation("monitor.time_series.timestamp_column", rule)
    for index, name in enumerate(monitor.columns):
        if kind_of_type(types.get(name, "")) is None:
            rule = f"must be a column of {table} that holds numbers or texts"
            yield FieldViolation(f"monitor.columns[{index}]", rule)
    for index, name in enumerate(monitor.slicing_columns):
        if name not in types:
            rule = f"must be a column of {table}"
            yield FieldViolation(f"monitor.slicing_columns[{index}]", rule)


def baseline_violations(monitor: Monitor, types: Mapping[str, str]) -> Iterator[FieldViolation]:
    """What contradicts the columns of the baseline."""
    if monitor.baseline is not None and not baseline_schema(monitor, types).columns:
        rule = f"must have watched columns; {monitor.baseline.table_full_name} has none"
        yield FieldViolation("monitor.baseline.table_full_name", rule)
