"""The inference table: its columns and layout, the same for every endpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Final

from services.inference.domain.datatypes import BYTES
from services.inference.domain.signature import Signature, TensorSpec

__all__ = [
    "COLUMNS",
    "ORDER_BY",
    "PARTITION_BY",
    "VERSION_COLUMN",
    "TableColumn",
    "columns_of",
    "typed_name",
]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column."""

    name: str
    data_type: str
    """In ClickHouse's notation."""
    comment: str


_TIME: Final = "DateTime64(6, 'UTC')"

COLUMNS: Final = tuple(
    TableColumn(*column)
    for column in (
        ("tessera_request_id", "String", "The request's unique id, a UUID of version 7"),
        ("request_date", "Date", "The day on which the request arrived, in UTC"),
        ("request_time", _TIME, "When the request arrived"),
        ("response_time", _TIME, "When the response was ready"),
        ("client_request_id", "String", "The caller's own id of the request"),
        ("endpoint", "LowCardinality(String)", "The endpoint that was asked"),
        ("served_entity_id", "LowCardinality(String)", "The served entity that answered"),
        ("failed_entity_ids", "Array(String)", "Served entities that were asked before and failed"),
        ("model_name", "LowCardinality(String)", "The registered model that answered"),
        ("model_version", "Int64", "Its version's number; 0 when the request reached none"),
        ("config_version", "Int64", "The endpoint's configuration that was in force"),
        ("route", "LowCardinality(String)", "How it was led: PRIMARY, SHADOW, FALLBACK, REFUSED"),
        ("status_code", "Int32", "The gRPC status code of the answer; 0 for success"),
        ("status_message", "String", "The error's public text"),
        ("duration_ms", "Float64", "From the request's arrival to its response"),
        ("queue_duration_ms", "Float64", "The wait for a place in the entity's max_concurrency"),
        ("execution_duration_ms", "Float64", "The model's part of it"),
        ("requester", "LowCardinality(String)", "The principal that asked"),
        ("trace_id", "String", "The trace that the request belongs to, in hexadecimal"),
        ("sampling_fraction", "Float64", "The share of requests that is kept, 0 to 1"),
        ("logging_error_codes", "Array(String)", "Why a body is missing or could not be read"),
        ("inputs", "String", "JSON object: each input's name with its values, one per row"),
        ("outputs", "String", "JSON object: each output's name with its values, one per row"),
        ("request", "String", "The request as JSON of the Open Inference Protocol"),
        ("response", "String", "The response as JSON of the Open Inference Protocol"),
        ("request_object", "String", "Key of the request's body in the object store"),
        ("response_object", "String", "Key of the response's body in the object store"),
        (
            "chunk_times_ms",
            "Array(Float64)",
            "When each response of a stream came, after the request",
        ),
        ("kafka_partition", "Int32", "The bus partition that the record came through"),
        ("kafka_offset", "Int64", "The record's place in it"),
        ("ingested_at", _TIME, "When the row was written"),
    )
)
"""Every column, in order."""

_TYPES: Final = {
    "BOOL": "Bool",
    BYTES: "String",
    "FP16": "Float32",
    "FP32": "Float32",
    "FP64": "Float64",
    **{f"INT{bits}": f"Int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"UInt{bits}" for bits in (8, 16, 32, 64)},
}
_MOST_ELEMENTS: Final = 1024
_column_name = re.compile(r"[A-Za-z0-9_]{1,200}\Z").match


@lru_cache(maxsize=4096)
def typed_name(side: str, tensor: str) -> str:
    """The typed column of a tensor: `input_distance`; empty when its name makes no column's."""
    return f"{side}_{tensor}" if _column_name(tensor) is not None else ""


def columns_of(signature: Signature) -> tuple[TableColumn, ...]:
    """Every column of the table of an endpoint: the common ones, and one for each tensor.

    A tensor's column is an array with one item per row of the request; where a row has several
    elements, each item is an array (of arrays). Tensors of more than 1024 elements a row, or of an
    open size, have none: their values are in the JSON columns alone.
    """
    found = list(COLUMNS)
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            name, kind = typed_name(side, spec.name), _typed(spec)
            if name and kind:
                comment = f"The {side} {spec.name!r} of each row of the request"
                found.append(TableColumn(name, kind, comment))
    return tuple(found)


def _typed(spec: TensorSpec) -> str:
    inner = list(spec.shape[1:])
    if -1 in inner or prod(inner) > _MOST_ELEMENTS:
        return ""
    while inner and inner[-1] == 1:
        inner.pop()
    kind = f"Nullable({_TYPES[spec.datatype]})"
    for _ in range(len(inner) + 1):
        kind = f"Array({kind})"
    return kind


ORDER_BY: Final = ("tessera_request_id",)
"""Ids of version 7 begin with the time, so rows lie in the order of their requests."""
PARTITION_BY: Final = "request_date"
VERSION_COLUMN: Final = "ingested_at"
"""Rows of one request id would collapse to the latest: the backstop behind the sink's own check."""
