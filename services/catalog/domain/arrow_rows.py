"""Rows as Arrow batches: made to fit a table's columns, and cut into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from services.catalog.domain.column_types import ColumnType, parse_type
from services.catalog.domain.details import Column
from services.catalog.errors import SchemaMismatch
from tessera_kit.arrow import NUMBERS
from tessera_kit.errors import FieldViolation

__all__ = ["BlockCutter", "RowFitter", "block_bytes"]

_QUANTUM = 4096
ROWS_PER_BLOCK = 16 * _QUANTUM
BYTES_PER_BLOCK = 32 << 20

_NUMBERS: dict[str, pa.DataType] = {
    **NUMBERS,
    "BFloat16": pa.float32(),
    "Date": pa.date32(),
    "Date32": pa.date32(),
}
_DECIMALS = {"Decimal32": 9, "Decimal64": 18, "Decimal128": 38, "Decimal256": 76}
_ACCEPTED = {
    "integer": {"integer", "float", "decimal"},
    "float": {"float"},
    "bool": {"bool"},
    "text": {"text"},
    "date": {"date", "timestamp"},
    "timestamp": {"timestamp"},
    "decimal": {"decimal"},
    "list": {"list"},
    "map": {"map"},
    "struct": {"struct"},
}
"""Families of Arrow types, and those that each may become without a guess."""


def _arrow_type(kind: ColumnType) -> pa.DataType:
    """The Arrow type that ClickHouse reads into a column type without a loss."""
    kind = kind.base
    if kind.name in _NUMBERS:
        return _NUMBERS[kind.name]
    match kind.name:
        case "DateTime":
            return pa.timestamp("s", "UTC")
        case "DateTime64":
            unit = ("s", "ms", "ms", "ms", "us", "us", "us", "ns", "ns", "ns")[kind.numbers[0]]
            return pa.timestamp(unit, "UTC")
        case "Decimal":
            return _decimal(*kind.numbers)
        case "Decimal32" | "Decimal64" | "Decimal128" | "Decimal256":
            return _decimal(_DECIMALS[kind.name], kind.numbers[0])
        case "Array":
            return pa.list_(_arrow_type(kind.arguments[0]))
        case "Map":
            key, value = kind.arguments
            return pa.map_(_arrow_type(key), _arrow_type(value))
        case "Tuple":
            names = kind.texts or [str(n + 1) for n in range(len(kind.arguments))]
            pairs = zip(names, kind.arguments, strict=True)
            return pa.struct([(name, _arrow_type(inner)) for name, inner in pairs])
    return pa.string()


def _decimal(precision: int, scale: int) -> pa.DataType:
    make = pa.decimal128 if precision <= 38 else pa.decimal256
    return make(precision, scale)


def _family(kind: pa.DataType) -> str:
    types = pa.types
    tests: Sequence[tuple[str, Any]] = (
        ("integer", types.is_integer),
        ("float", types.is_floating),
        ("bool", types.is_boolean),
        ("date", types.is_date),
        ("timestamp", types.is_timestamp),
        ("decimal", types.is_decimal),
        ("map", types.is_map),
        ("struct", types.is_struct),
    )
    for name, test in tests:
        if test(kind):
            return name
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list"
    return str(kind)


class RowFitter:
    """Makes batches of one schema fit a table's columns.

    Args:
        schema: What the batches have.
        columns: The table's columns. Those that the batches lack must be Nullable.

    Raises:
        SchemaMismatch: A column is unknown, occurs twice, is missing, or has a type that its column
            cannot take; the violations name each.
    """

    def __init__(self, schema: pa.Schema, columns: Sequence[Column]) -> None:
        types = {column.name: parse_type(column.data_type) for column in columns}
        faults: list[FieldViolation] = []
        self.names: tuple[str, ...] = tuple(schema.names)
        self._targets: list[pa.DataType] = []
        self._nullable: list[bool] = []
        for index, field in enumerate(schema):
            kind = types.get(field.name)
            if kind is None or field.name in self.names[:index]:
                what = "is not a column of the table" if kind is None else "occurs twice"
                faults.append(FieldViolation(field.name, what))
                continue
            target = _arrow_type(kind)
            if not _fits(field.type, target):
                faults.append(FieldViolation(field.name, f"is {field.type}, the column is {kind}"))
            if pa.types.is_string(target) and pa.types.is_binary(_plain(field.type)):
                target = pa.binary()  # bytes need not be UTF-8
            self._targets.append(target)
            self._nullable.append(kind.nullable)
        for name, kind in types.items():
            if name not in self.names and not kind.nullable:
                faults.append(FieldViolation(name, f"is missing; the column is {kind}"))
        if not self.names:
            faults.append(FieldViolation("rows", "have no columns"))
        _raise(faults)

    def fit(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the types of the table's columns.

        Raises:
            SchemaMismatch: A value does not fit, or a column that is not Nullable holds nulls.
        """
        faults: list[FieldViolation] = []
        arrays: list[pa.Array] = []
        for name, array, target, nullable in zip(
            self.names, batch.columns, self._targets, self._nullable, strict=True
        ):
            if array.null_count and not nullable:
                text = f"holds {array.null_count} nulls; the column is not Nullable"
                faults.append(FieldViolation(name, text))
                continue
            try:
                arrays.append(_cast(array, target))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                text = f"does not fit the column: {str(error)[:200]}"
                faults.append(FieldViolation(name, text))
        _raise(faults)
        return pa.RecordBatch.from_arrays(arrays, names=list(self.names))


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type == target:
        return array
    if pa.types.is_integer(array.type) and pa.types.is_decimal(target):
        # Arrow asks for room for every number of the type; what counts are those that are there.
        array = array.cast(pa.decimal256(76, target.scale))
    return array.cast(target, safe=True)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _fits(source: pa.DataType, target: pa.DataType) -> bool:
    source = _plain(source)
    if pa.types.is_null(source):
        return True
    if _family(target) not in _ACCEPTED.get(_family(source), ()):
        return False
    match _family(target):
        case "list":
            return _fits(source.value_type, target.value_type)
        case "map":
            return _fits(source.key_type, target.key_type) and _fits(
                source.item_type, target.item_type
            )
        case "struct":
            fields = {field.name: field.type for field in source}
            return set(fields) == {field.name for field in target} and all(
                _fits(fields[field.name], field.type) for field in target
            )
    return True


def _raise(faults: Sequence[FieldViolation]) -> None:
    if faults:
        text = "; ".join(f"{fault.field} {fault.description}" for fault in faults[:3])
        raise SchemaMismatch(f"the rows do not fit the table: {text}", violations=faults)


class BlockCutter:
    """Cuts a stream of batches into blocks by the rows alone, wherever the batches begin and end.

    So a repeated stream makes the same blocks, and each is passed over where it was written. A
    block has 65,536 rows, or fewer whole multiples of 4,096 once they hold 32 MiB.
    """

    def __init__(self) -> None:
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._quantum_rows = 0
        self._block_bytes = 0

    def push(self, batch: pa.RecordBatch) -> Iterator[pa.Table]:
        """Take in a batch; yields each block that it completes."""
        start = 0
        while start < batch.num_rows:
            take = min(batch.num_rows - start, _QUANTUM - self._quantum_rows)
            piece = batch.slice(start, take)
            start += take
            self._waiting.append(piece)
            self._rows += take
            self._quantum_rows += take
            self._block_bytes += piece.nbytes
            if self._quantum_rows == _QUANTUM:
                self._quantum_rows = 0
                if self._rows >= ROWS_PER_BLOCK or self._block_bytes >= BYTES_PER_BLOCK:
                    yield self._cut()

    def rest(self) -> pa.Table | None:
        """The last block; None when no rows wait."""
        return self._cut() if self._rows else None

    def _cut(self) -> pa.Table:
        table = pa.Table.from_batches(self._waiting)
        self._waiting = []
        self._rows = self._quantum_rows = self._block_bytes = 0
        return table


def block_bytes(table: pa.Table) -> bytes:
    """A block as one Arrow IPC stream of one batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data
