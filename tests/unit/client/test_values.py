"""Conditions, columns, tensors and pieces: what the client makes of Python values."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2 as oip

from tessera.catalog.v1 import table_data_service_pb2 as data
from tessera.client.aio.calls import CHUNK_BYTES, pieces, sha256_of
from tessera.client.columns import columns_from_arrow
from tessera.client.predicates import predicates
from tessera.client.tensors import read_outputs, write_inputs


def test_conditions_become_predicates() -> None:
    made = predicates(
        [("month", "<=", 3), ("carrier", "in", ["AA", "UA"]), ("gate", "is-null", None)]
    )
    assert made[0].operator == data.COMPARISON_OPERATOR_LESS_OR_EQUAL
    assert made[0].value.number_value == 3
    assert [item.string_value for item in made[1].value.list_value.values] == ["AA", "UA"]
    assert made[2].operator == data.COMPARISON_OPERATOR_IS_NULL


def test_times_are_sent_in_utc() -> None:
    noon_in_new_york = datetime(2013, 7, 1, 12, tzinfo=timezone(timedelta(hours=-4)))
    [made] = predicates([("at", ">", noon_in_new_york)])
    assert made.value.string_value == "2013-07-01T16:00:00+00:00"


def test_an_unknown_operator_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'~'.*column 'x'.*<="):
        predicates([("x", "~", 1)])


def test_arrow_types_have_columns() -> None:
    schema = pa.schema(
        [
            pa.field("at", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("name", pa.string()),
            pa.field("scores", pa.list_(pa.float32())),
        ]
    )
    assert [(column.name, column.data_type) for column in columns_from_arrow(schema)] == [
        ("at", "DateTime64(6, 'UTC')"),
        ("name", "Nullable(String)"),
        ("scores", "Array(Float32)"),
    ]


def test_an_arrow_type_without_a_column_names_the_field() -> None:
    with pytest.raises(ValueError, match="'where'"):
        columns_from_arrow(pa.schema([pa.field("where", pa.struct([("x", pa.int8())]))]))


@given(st.binary(max_size=3 * CHUNK_BYTES // 1024))
def test_pieces_join_to_the_content(content: bytes) -> None:
    assert b"".join(pieces(content)) == content
    assert sha256_of(content) == sha256_of(bytearray(content))


def test_pieces_fit_a_message() -> None:
    content = bytes(2 * CHUNK_BYTES + 1)
    assert [len(piece) for piece in pieces(content)] == [CHUNK_BYTES, CHUNK_BYTES, 1]


def _echo(request: oip.ModelInferRequest) -> oip.ModelInferResponse:
    response = oip.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return response


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_]),
        hnp.array_shapes(max_dims=3, max_side=5),
    )
)
@settings(deadline=None)
def test_numbers_survive_the_protocol(array: np.ndarray) -> None:  # type: ignore[type-arg]
    request = oip.ModelInferRequest()
    write_inputs(request, {"x": array})
    read = read_outputs(_echo(request))["x"]
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_texts_survive_the_protocol(texts: list[str]) -> None:
    request = oip.ModelInferRequest()
    write_inputs(request, {"x": np.array([[text.encode()] for text in texts], dtype=np.object_)})
    read = read_outputs(_echo(request))["x"]
    assert [item.decode() for item in read.flatten()] == texts


def test_an_array_that_the_protocol_cannot_carry_is_named() -> None:
    with pytest.raises(ValueError, match="'when'"):
        write_inputs(oip.ModelInferRequest(), {"when": np.array(["2013-01-01"], dtype="M8[D]")})
