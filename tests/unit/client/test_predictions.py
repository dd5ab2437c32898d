"""Plain values as typed columns and back, whatever form they come in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.client.predictions import columns_from, parameter_value, prediction_from
from tessera.inference.v1 import prediction_pb2 as pb
from tessera.inference.v1 import prediction_service_pb2


@pytest.mark.parametrize(
    ("values", "kind", "sent", "shape"),
    [
        ([True, False], "bools", [True, False], []),
        ([1, -2], "integers", [1, -2], []),
        ([2**64 - 1], "unsigned_integers", [2**64 - 1], []),
        ([1, 2.5], "doubles", [1.0, 2.5], []),
        (["a", "ä"], "texts", ["a", "ä"], []),
        (["ä", b"\xff"], "binaries", ["ä".encode(), b"\xff"], []),
        ([[1, 2], [3, 4]], "integers", [1, 2, 3, 4], [2]),
        ((["a"], ["b"]), "texts", ["a", "b"], [1]),
        (np.array([[1, 2]], np.float32), "floats", [1.0, 2.0], [2]),
        (np.array([0.1]), "doubles", [0.1], []),
        (np.array([3], np.uint8), "integers", [3], []),
        (np.array(["a", "b"]), "texts", ["a", "b"], []),
        ([np.int32(4), np.int64(5)], "integers", [4, 5], []),
        ([np.zeros(2), np.ones(2)], "doubles", [0, 0, 1, 1], [2]),
    ],
)
def test_values_have_the_type_that_they_are(
    values: Any, kind: str, sent: list[Any], shape: list[int]
) -> None:
    (column,) = columns_from({"v": values})
    assert column.WhichOneof("values") == kind
    assert list(getattr(column, kind).values) == sent
    assert list(column.row_shape) == shape


def test_rows_become_columns_and_what_they_lack_is_nan() -> None:
    n, x = columns_from([{"n": 1, "x": [1, 2]}, {"x": [3, 4]}])
    assert (n.name, n.doubles.values[0], math.isnan(n.doubles.values[1])) == ("n", 1.0, True)
    assert list(x.integers.values) == [1, 2, 3, 4]
    assert columns_from([]) == []


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"v": "text"}, "'v' must be a list"),
        ({"v": 5}, "'v' must be a list"),
        ({"v": [[1], [1, 2]]}, "differ in shape"),
        ({"v": [[1], 2]}, "differ in shape"),
        ({"v": ["a", None]}, "NoneType, str"),
        ({"v": [None]}, "NoneType"),
        ({"v": [{}]}, "dict"),
        ([1], "each row"),
    ],
)
def test_what_no_input_takes_is_refused_by_name(rows: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        columns_from(rows)


def test_parameters_keep_their_types() -> None:
    given = (True, 3, 0.5, "w")
    fields = ["bool_value", "integer_value", "double_value", "text_value"]
    assert [parameter_value(value).WhichOneof("value") for value in given] == fields


def test_an_answer_has_rows_of_plain_values() -> None:
    p = pb.PredictionColumn(name="p", datatype="FP32", floats=pb.FloatValues(values=[0.5, 1.5]))
    e = pb.PredictionColumn(name="e", datatype="INT8", row_shape=[2])
    e.integers.values.extend([1, 2, 3, 4])
    t = pb.PredictionColumn(name="t", datatype="BYTES", texts=pb.TextValues(values=["a", "b"]))
    found = prediction_from(
        prediction_service_pb2.PredictResponse(
            columns=[p, e, t], row_count=2, tessera_request_id="id", model_version=3
        )
    )
    assert found.rows == [{"p": 0.5, "e": [1, 2], "t": "a"}, {"p": 1.5, "e": [3, 4], "t": "b"}]
    assert {name: array.dtype for name, array in found.columns.items()} == {
        "p": np.float32,
        "e": np.int8,
        "t": np.object_,
    }
    assert (found.request_id, found.model_version, found.row_count) == ("id", 3, 2)


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=width, max_size=width),
            min_size=1,
            max_size=5,
        )
    )
)
@settings(deadline=None)
def test_integers_come_back_as_they_went(rows: list[list[int]]) -> None:
    (column,) = columns_from({"v": rows})
    column.datatype = "INT64"
    response = prediction_service_pb2.PredictResponse(columns=[column], row_count=len(rows))
    assert prediction_from(response).columns["v"].tolist() == rows
