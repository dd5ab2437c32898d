"""SELECTs that give one row per watched row, whatever the table: a window, columns, slices.

Every such SELECT has the columns `window_start` (Int64, microseconds), `c0`, `c1`, … (the watched
columns, Nullable(Float64) or Nullable(String)) and `s0`, `s1`, … (the slicing columns, String).
Those of an inference table have `event_us`, `request_us`, `endpoint`, `tessera_request_id`,
`client_request_id`, `prediction` (Nullable(Float64)) and `rows_of_request` besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from services.monitoring.adapters.clickhouse.engine import Query, quote
from services.monitoring.domain.columns import Column, ColumnKind, ColumnPlace, RowSchema, TimeKind
from services.monitoring.domain.monitor import PhysicalTable
from services.monitoring.domain.windows import RequestRange

__all__ = [
    "inference_rows",
    "merge_ranges",
    "request_conditions",
    "sampled_rows",
    "snapshot_rows",
    "time_expression",
    "time_series_rows",
]

_TYPES = {
    ColumnKind.NUMERIC: "Nullable(Float64)",
    ColumnKind.CATEGORICAL: "Nullable(String)",
}


_WINDOW_START = "assumeNotNull(event_us - positiveModulo(event_us, {granularity:Int64}))"


def inference_rows(
    table: PhysicalTable,
    schema: RowSchema,
    granularity_us: int,
    *,
    ranges: Iterable[RequestRange] | None = None,
    request_ids: tuple[str, str] | None = None,
    requests_where: str = "1",
    where: str = "1",
) -> Query:
    """The rows of successful requests of an inference table, one per row of their inputs.

    Args:
        table: The inference table.
        schema: What to read.
        granularity_us: The length of a window.
        ranges: Only requests of these spans of request time; all when None.
        request_ids: Only requests with ids between these two, both included.
        requests_where: A further condition on the requests.
        where: A further condition on the resulting rows.
    """
    columns = _Columns(schema)
    conditions, parameters = request_conditions(ranges, request_ids)
    inner = (
        f"SELECT endpoint, tessera_request_id, client_request_id, "
        f"toUnixTimestamp64Micro(CAST(request_time AS DateTime64(6, 'UTC'))) AS request_us, "
        f"{''.join(item + ', ' for item in columns.of_requests)}"
        f"toUInt64({columns.rows_of_request}) AS rows_of_request "
        f"FROM {quote(table.database)}.{quote(table.table)} "
        f"WHERE {' AND '.join(conditions)} AND ({requests_where})"
    )
    each = f"ARRAY JOIN {', '.join(columns.of_rows)}" if columns.of_rows else ""
    return Query(
        f"SELECT endpoint, tessera_request_id, client_request_id, request_us, rows_of_request, "
        f"{''.join(name + ', ' for name in columns.names)}{columns.prediction}, "
        f"{columns.event_us} AS event_us, "
        f"{_WINDOW_START} AS window_start "
        f"FROM ({inner}) {each} WHERE isNotNull(event_us) AND ({where})",
        {"granularity": granularity_us, **columns.parameters, **parameters},
    )


class _Columns:
    """What a schema reads of each request, and of each row of its inputs."""

    def __init__(self, schema: RowSchema) -> None:
        self._inputs = _Extraction("inputs", "i")
        self._outputs = _Extraction("outputs", "o")
        self._of_requests: list[str] = []
        self.of_rows = [
            f"{self._read(column, column.kind)} AS c{i}" for i, column in enumerate(schema.columns)
        ]
        """Arrays with an element per row, to be joined."""
        self.names = [f"c{i}" for i in range(len(schema.columns))]
        for i, column in enumerate(schema.slices):
            self._add_slice(f"s{i}", column)
        self.prediction = self._prediction(schema)
        self.event_us = self._event_us(schema)

    def _add_slice(self, name: str, column: Column) -> None:
        self.names.append(name)
        if column.place is ColumnPlace.TABLE:
            self._of_requests.append(f"toString({quote(column.name)}) AS {name}")
        else:
            value = self._read(column, ColumnKind.CATEGORICAL)
            self.of_rows.append(f"arrayMap(v -> ifNull(v, ''), {value}) AS {name}")

    def _prediction(self, schema: RowSchema) -> str:
        if schema.prediction is None:
            return "CAST(NULL AS Nullable(Float64)) AS prediction"
        value = self._read(schema.prediction, ColumnKind.NUMERIC)
        self.of_rows.append(f"{value} AS prediction")
        return "prediction"

    def _event_us(self, schema: RowSchema) -> str:
        if schema.timestamp is None:
            return "request_us"
        kind = ColumnKind.CATEGORICAL if schema.time_kind is TimeKind.TEXT else ColumnKind.NUMERIC
        self.of_rows.append(f"{self._read(schema.timestamp, kind)} AS event_value")
        return time_expression("event_value", schema.time_kind)

    def _read(self, column: Column, kind: ColumnKind) -> str:
        if column.place is ColumnPlace.TABLE:
            raise ValueError(f"{column.name} is not an input or output")
        part = self._inputs if column.place is ColumnPlace.INPUT else self._outputs
        return part.element(column.name, kind)

    @property
    def of_requests(self) -> list[str]:
        """Columns of the request, and the parsed JSON that `of_rows` takes apart."""
        parts = [part.expression for part in (self._inputs, self._outputs) if part.columns]
        return [*self._of_requests, *parts]

    @property
    def rows_of_request(self) -> str:
        """How many rows a request has: as many as its longest column."""
        lengths = [
            f"length({part.alias}.{index + 1})"
            for part in (self._inputs, self._outputs)
            for index in part.indexes
        ]
        return f"greatest({', '.join(lengths)})" if len(lengths) > 1 else "".join(lengths) or "1"

    @property
    def parameters(self) -> dict[str, str]:
        """The types that the JSON is parsed as."""
        return {**self._inputs.parameters, **self._outputs.parameters}


class _Extraction:
    """The columns taken out of one JSON object `{"column": [values per row]}`, parsed once."""

    def __init__(self, source: str, alias: str) -> None:
        self._source = source
        self.alias = alias
        self.columns: list[tuple[str, ColumnKind]] = []

    def element(self, name: str, kind: ColumnKind) -> str:
        """The array of a column's values, as long as the request has rows."""
        # A JSON key can be extracted once only; a second reading converts the first one.
        for index, (known, read_as) in enumerate(self.columns):
            if known == name:
                return self._converted(index, read_as, kind)
        self.columns.append((name, kind))
        return self._array(len(self.columns) - 1)

    def _array(self, index: int) -> str:
        return f"arrayResize({self.alias}.{index + 1}, rows_of_request, NULL)"

    def _converted(self, index: int, read_as: ColumnKind, kind: ColumnKind) -> str:
        if read_as is kind:
            return self._array(index)
        convert = "toString(v)" if kind is ColumnKind.CATEGORICAL else "toFloat64OrNull(v)"
        return f"arrayMap(v -> {convert}, {self._array(index)})"

    @property
    def indexes(self) -> range:
        return range(len(self.columns))

    @property
    def expression(self) -> str:
        return f"JSONExtract({self._source}, {{{self._source}_type:String}}) AS {self.alias}"

    @property
    def parameters(self) -> dict[str, str]:
        if not self.columns:
            return {}
        fields = ", ".join(f"{quote(name)} Array({_TYPES[kind]})" for name, kind in self.columns)
        return {f"{self._source}_type": f"Tuple({fields})"}


_NO_MIRROR: Final = (
    "NOT (length(tessera_request_id) = 39 AND substring(tessera_request_id, 37, 2) = '.s')"
)
"""A mirrored request has its original's id with `.s0` behind it: its features came once."""


def request_conditions(
    ranges: Iterable[RequestRange] | None, request_ids: tuple[str, str] | None
) -> tuple[list[str], dict[str, object]]:
    """Conditions, with their parameters, on the requests of an inference table that answered."""
    conditions = ["status_code = 0", _NO_MIRROR]
    parameters: dict[str, object] = {}
    if ranges is not None:
        spans = []
        for index, span in enumerate(merge_ranges(ranges)):
            parameters |= {f"first{index}": span.first_us, f"last{index}": span.last_us}
            spans.append(
                f"request_time BETWEEN fromUnixTimestamp64Micro({{first{index}:Int64}}, 'UTC') "
                f"AND fromUnixTimestamp64Micro({{last{index}:Int64}}, 'UTC')"
            )
        conditions.append(f"({' OR '.join(spans) or '0'})")
    if request_ids is not None:
        parameters |= {"first_id": request_ids[0], "last_id": request_ids[1]}
        conditions.append("tessera_request_id BETWEEN {first_id:String} AND {last_id:String}")
    return conditions, parameters


def merge_ranges(ranges: Iterable[RequestRange]) -> list[RequestRange]:
    """The ranges in order, with those that touch joined."""
    merged: list[RequestRange] = []
    for span in sorted(ranges, key=lambda span: span.first_us):
        if merged and span.first_us <= merged[-1].last_us + 1:
            merged[-1] = merged[-1].merge(span)
        else:
            merged.append(span)
    return merged


def time_expression(value: str, kind: TimeKind) -> str:
    """Microseconds since 1970 of a value that says a time; NULL when it says none.

    Numbers below 1e11 are seconds, below 1e14 milliseconds, below 1e17 microseconds, others
    nanoseconds: the sizes that these have from 1973 to 5138.
    """
    if kind is TimeKind.TIME:
        return f"toUnixTimestamp64Micro(toDateTime64({value}, 6, 'UTC'))"
    if kind is TimeKind.TEXT:
        return f"toUnixTimestamp64Micro(parseDateTime64BestEffortOrNull({value}, 6, 'UTC'))"
    size = f"abs({value})"
    scaled = (
        f"multiIf({size} < 1e11, {value} * 1e6, {size} < 1e14, {value} * 1e3, "
        f"{size} < 1e17, {value}, {value} / 1e3)"
    )
    return (
        f"if(isNull({value}) OR NOT isFinite({value}) OR {size} > 9e18, NULL, "
        f"CAST(round({scaled}) AS Nullable(Int64)))"
    )


def _table_columns(columns: Sequence[Column], slices: Sequence[Column]) -> list[str]:
    selected = []
    for i, column in enumerate(columns):
        function = "toFloat64" if column.kind is ColumnKind.NUMERIC else "toString"
        kind = _TYPES[column.kind]
        selected.append(f"CAST({function}({quote(column.name)}) AS {kind}) AS c{i}")
    for i, column in enumerate(slices):
        selected.append(f"ifNull(toString({quote(column.name)}), '') AS s{i}")
    return selected


def time_series_rows(
    table: PhysicalTable, schema: RowSchema, granularity_us: int, *, where: str = "1"
) -> Query:
    """The rows of a table with the window that their timestamp column puts them in."""
    if schema.timestamp is None:
        raise ValueError("a time series needs its timestamp column")
    value = quote(schema.timestamp.name)
    if schema.time_kind is TimeKind.NUMBER:
        value = f"CAST(toFloat64({value}) AS Nullable(Float64))"
    elif schema.time_kind is TimeKind.TEXT:
        value = f"CAST(toString({value}) AS Nullable(String))"
    event_us = time_expression(value, schema.time_kind)
    selected = _table_columns(schema.columns, schema.slices)
    return Query(
        f"SELECT {''.join(item + ', ' for item in selected)}"
        f"{event_us} AS event_us, "
        f"{_WINDOW_START} AS window_start "
        f"FROM {quote(table.database)}.{quote(table.table)} "
        f"WHERE isNotNull(event_us) AND ({where})",
        {"granularity": granularity_us},
    )


def snapshot_rows(table: PhysicalTable, schema: RowSchema, start_us: int) -> Query:
    """All rows of a table, in the one window that begins at `start_us`."""
    selected = _table_columns(schema.columns, schema.slices)
    return Query(
        f"SELECT {''.join(item + ', ' for item in selected)}{{start:Int64}} AS window_start "
        f"FROM {quote(table.database)}.{quote(table.table)}",
        {"start": start_us},
    )


def sampled_rows(
    table: PhysicalTable, schema: RowSchema, start_us: int, sample_rows: int | None
) -> Query:
    """As `snapshot_rows`, of at most so many rows: those with the least hash of what they hold."""
    query = snapshot_rows(table, schema, start_us)
    if sample_rows is None or not schema.columns:
        return query
    # Hashes of the values, not of positions: the same rows are chosen each time.
    values = ", ".join(f"c{i}" for i in range(len(schema.columns)))
    return query.wrap(
        "SELECT * FROM",
        f"ORDER BY cityHash64({values}) LIMIT {{sample:UInt64}}",
        sample=sample_rows,
    )
