"""The inference table's columns, those of the signature's tensors among them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.inference.domain.signature import parse_manifest
from services.inference.domain.table import COLUMNS, columns_of


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"datatype": "FP32", "shape": [-1, 1]}, "Array(Nullable(Float32))"),
        ({"datatype": "FP64", "shape": [-1, 3]}, "Array(Array(Nullable(Float64)))"),
        ({"datatype": "INT64", "shape": [-1, 2, 3]}, "Array(Array(Array(Nullable(Int64))))"),
        ({"datatype": "UINT8", "shape": [-1]}, "Array(Nullable(UInt8))"),
        ({"datatype": "BOOL", "shape": [-1, 2, 1]}, "Array(Array(Nullable(Bool)))"),
        ({"datatype": "FP32", "shape": [-1, -1]}, None),
        ({"datatype": "FP32", "shape": [-1, 1025]}, None),
        ({"datatype": "FP32", "shape": [-1, 1], "name": "no.column"}, None),
    ],
)
def test_a_tensor_has_a_column_of_its_type(
    manifest: dict[str, Any], spec: dict[str, Any], kind: str | None
) -> None:
    manifest["outputs"] = [{"name": "y", **spec}]
    found = columns_of(parse_manifest(json.dumps(manifest).encode()))
    assert found[: len(COLUMNS)] == COLUMNS
    outputs = {column.name: column.data_type for column in found if "output_" in column.name}
    assert outputs == ({"output_y": kind} if kind else {})
