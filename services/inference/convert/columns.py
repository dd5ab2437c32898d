"""Named, typed columns of `PredictionService` become tensors of a signature, and outputs columns.

The casts are those of `convert.frames`; what differs is that every column must be an input's.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
import orjson
from tritonclient.grpc import service_pb2

from services.inference.convert.frames import contents_of
from services.inference.convert.tensors import TensorProblem, texts_of
from services.inference.domain.datatypes import BYTES, DATATYPES
from services.inference.domain.signature import Role, Signature, TensorSpec
from services.inference.errors import InvalidInference
from tessera.inference.v1 import prediction_pb2, prediction_service_pb2
from tessera_kit.errors import FieldViolation
from tessera_kit.http.status import BodyTooLarge

__all__ = ["LARGEST_PREDICT", "MOST_VALUES", "columns_of", "refused_body", "request_of_columns"]

LARGEST_PREDICT: Final = 16 << 20
"""Bytes of the largest serialised request; larger tensors go by the protocol's ModelInfer."""
MOST_VALUES: Final = 4 << 20
"""Values of all columns of a request together."""
_FIELDS: Final = {
    "BOOL": "bools",
    "UINT64": "unsigned_integers",
    "FP16": "floats",
    "FP32": "floats",
    "FP64": "doubles",
}
"""Where an output's values go; the other numbers go to `integers`."""


def request_of_columns(
    asked: prediction_service_pb2.PredictRequest, signature: Signature
) -> service_pb2.ModelInferRequest:
    """The message of a request, without the model's name and version.

    Raises:
        InvalidInference: Columns do not fit the signature; a violation for each that is unknown,
            doubled, missing, of another type, shape or number of rows than its input.
        BodyTooLarge: There are more values than may be.
    """
    columns = [(column, _values(column)) for column in asked.columns]
    if sum(len(values) for _, values in columns) > MOST_VALUES:
        raise BodyTooLarge(
            f"columns may have at most {MOST_VALUES} values together; ask by ModelInfer",
            metadata={"most": str(MOST_VALUES)},
        )
    message = service_pb2.ModelInferRequest(id=asked.client_request_id)
    reader = _Reader(signature)
    for index, (column, values) in enumerate(columns):
        try:
            spec, shape, raw = reader.read(column, values)
        except TensorProblem as problem:
            reader.wrong(f"columns[{index}] {column.name[:128]!r}", str(problem))
            continue
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        message.raw_input_contents.append(raw)
    reader.end()
    for name in asked.outputs:
        message.outputs.add(name=name)
    for name, value in asked.parameters.items():
        _set_parameter(message.parameters[name], value)
    return message


def columns_of(reply: service_pb2.ModelInferResponse) -> list[prediction_pb2.PredictionColumn]:
    """A column for each output of a response.

    Raises:
        InvalidInference: An output is of a datatype that columns do not have.
    """
    return [
        _column(output, raw)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    ]


def refused_body(asked: prediction_service_pb2.PredictRequest) -> bytes:
    """What the record holds of a request that is no message of the protocol, as JSON by row."""
    inputs: dict[str, Any] = {}
    for column in asked.columns:
        values = [
            value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
            for value in _values(column)
        ]
        inputs.setdefault(column.name, _nested(values, column.row_shape))
    return orjson.dumps({"inputs": inputs})


class _Reader:
    """Reads the columns of one request and gathers everything that is wrong with them."""

    def __init__(self, signature: Signature) -> None:
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._given: set[str] = set()
        self._first: tuple[str, int] | None = None
        self._violations: list[FieldViolation] = []

    def read(
        self, column: prediction_pb2.PredictionColumn, values: list[Any]
    ) -> tuple[TensorSpec, tuple[int, ...], bytes]:
        spec = self._specs.get(column.name)
        if spec is None:
            names = ", ".join(map(repr, sorted(self._specs)[:20]))
            raise TensorProblem(f"there is no such input; the endpoint takes {names}")
        if spec.name in self._given:
            raise TensorProblem("is given twice")
        self._given.add(spec.name)
        if column.datatype not in ("", spec.datatype):
            raise TensorProblem(f"must be {spec.datatype}, not {column.datatype[:32]!r}")
        shape = _shape(spec, column.row_shape, len(values))
        if spec.shape[0] == -1:
            self._same_rows(spec.name, shape[0])
        return spec, shape, contents_of(values, DATATYPES[spec.datatype])

    def wrong(self, place: str, description: str) -> None:
        self._violations.append(FieldViolation(place, description))

    def end(self) -> None:
        for name, spec in self._specs.items():
            if spec.role is not Role.METADATA and name not in self._given:
                self.wrong(f"columns {name!r}", "is missing")
        if self._violations:
            first = self._violations[0]
            raise InvalidInference(
                f"{first.field}: {first.description}", violations=self._violations
            )

    def _same_rows(self, name: str, rows: int) -> None:
        if self._first is None:
            self._first = (name, rows)
        elif self._first[1] != rows:
            raise TensorProblem(
                f"has {rows} rows while column {self._first[0]!r} has {self._first[1]}"
            )


def _values(column: prediction_pb2.PredictionColumn) -> list[Any]:
    kind = column.WhichOneof("values")
    return list(getattr(column, kind).values) if kind else []


def _shape(spec: TensorSpec, told: Any, count: int) -> tuple[int, ...]:
    """The shape of a column's tensor: sizes of 1 at the end of a row's need not be told."""
    expected = spec.shape[1:]
    inner = tuple(told) or tuple(size for size in expected if size != -1)
    if not told and len(inner) != len(expected):
        raise TensorProblem("needs a row_shape: the signature leaves a size of it open")
    rest = expected[len(inner) :]
    if rest and set(rest) == {1}:
        inner += rest
    if any(size < 1 for size in inner):
        raise TensorProblem(f"must have sizes of at least 1 in its row_shape, not {list(told)}")
    if not count:
        raise TensorProblem("has no values")
    rows, over = divmod(count, prod(inner))
    if over or not rows:
        raise TensorProblem(f"has {count} values; a row of shape {list(inner)} has {prod(inner)}")
    return (rows, *inner)


def _set_parameter(into: Any, value: prediction_pb2.ParameterValue) -> None:
    match value.WhichOneof("value"):
        case "bool_value":
            into.bool_param = value.bool_value
        case "integer_value":
            into.int64_param = value.integer_value
        case "double_value":
            into.double_param = value.double_value
        case _:
            into.string_param = value.text_value


def _column(output: Any, raw: bytes) -> prediction_pb2.PredictionColumn:
    known = DATATYPES.get(output.datatype)
    if known is None:
        raise InvalidInference(
            f"output {output.name!r} has the datatype {output.datatype}; ask by ModelInfer"
        )
    inner = list(output.shape[1:])
    while inner and inner[-1] == 1:
        inner.pop()
    column = prediction_pb2.PredictionColumn(name=output.name, datatype=known.name, row_shape=inner)
    if known.name != BYTES:
        into: Any = getattr(column, _FIELDS.get(known.name, "integers")).values
        into.extend(np.frombuffer(raw, known.numpy).tolist())
        return column
    found = texts_of(raw)
    try:
        column.texts.values.extend([text.decode() for text in found])
    except UnicodeDecodeError:
        column.binaries.values.extend(found)
    return column


def _nested(values: list[Any], sizes: Any) -> list[Any]:
    if any(size < 1 for size in sizes) or len(values) % prod(sizes):
        return values
    for size in reversed(sizes):
        values = [values[at : at + size] for at in range(0, len(values), size)]
    return values
