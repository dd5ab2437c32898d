"""Arrow types as ClickHouse column types."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from tessera.catalog.v1 import catalog_pb2

_SCALARS = {
    pa.bool_(): "Bool",
    pa.int8(): "Int8",
    pa.int16(): "Int16",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.uint8(): "UInt8",
    pa.uint16(): "UInt16",
    pa.uint32(): "UInt32",
    pa.uint64(): "UInt64",
    pa.float32(): "Float32",
    pa.float64(): "Float64",
    pa.string(): "String",
    pa.large_string(): "String",
    pa.binary(): "String",
    pa.large_binary(): "String",
    pa.date32(): "Date32",
}
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def columns_from_arrow(schema: pa.Schema, keys: Collection[str] = ()) -> list[catalog_pb2.Column]:
    """The columns that hold rows of an Arrow schema; those in `keys` hold no nulls.

    Raises:
        ValueError: A column's type has no counterpart; the text names both.
    """
    fields = [field.with_nullable(False) if field.name in keys else field for field in schema]
    return [catalog_pb2.Column(name=field.name, data_type=_column_type(field)) for field in fields]


def _column_type(field: pa.Field) -> str:
    name = _type_name(field.type)
    if name is None:
        raise ValueError(
            f"column {field.name!r}: Arrow type {field.type} has no ClickHouse type here"
        )
    return f"Nullable({name})" if field.nullable and not name.startswith("Array") else name


def _type_name(kind: pa.DataType) -> str | None:
    if pa.types.is_timestamp(kind):
        return f"DateTime64({_DIGITS[kind.unit]}, 'UTC')"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _type_name(kind.value_type)
        return None if inner is None else f"Array({inner})"
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    return _SCALARS.get(kind)
