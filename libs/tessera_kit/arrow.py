"""ClickHouse's numbers as Arrow types, and rows as the stream that ClickHouse reads."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import pyarrow as pa

__all__ = ["NUMBERS", "arrow_stream"]

NUMBERS: Final = MappingProxyType(
    {
        "Bool": pa.bool_(),
        "Float32": pa.float32(),
        "Float64": pa.float64(),
        "Int8": pa.int8(),
        "Int16": pa.int16(),
        "Int32": pa.int32(),
        "Int64": pa.int64(),
        "UInt8": pa.uint8(),
        "UInt16": pa.uint16(),
        "UInt32": pa.uint32(),
        "UInt64": pa.uint64(),
    }
)
"""The Arrow type of each of ClickHouse's numbers that has the same values."""


def arrow_stream(rows: pa.Table | pa.RecordBatch) -> memoryview:
    """Rows in ClickHouse's format `ArrowStream`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return memoryview(sink.getvalue())
