"""MLflow's scoring protocol: rows in one of its forms come in, `predictions` go out.

The forms: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/ (`/invocations`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response
from tritonclient.grpc import service_pb2

from services.inference.convert.frames import Frame, request_of
from services.inference.convert.tensors import TensorProblem, invalid, values_of
from services.inference.domain.signature import Signature
from services.inference.errors import InvalidInference, UnsupportedMedia
from services.inference.gateway.records import Exchange
from services.inference.rest.answering import Asked
from services.inference.rest.oip import LARGEST_JSON, parse_json, set_parameters
from tessera_kit.http.status import BodyTooLarge

__all__ = ["ScoringDialect"]

_CLIENT_ID: Final = "client_request_id"
_SERVED: Final = "served_model_name"


class ScoringDialect:
    """The forms of `/invocations`; see `answering.Dialect`."""

    def read(self, body: bytes, request: Request, signature: Signature) -> Asked:
        """Read a request."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind.lower() == "text/csv":
            return Asked(request_of(csv_frame(body), signature), _write)
        if kind.lower() != "application/json":
            raise UnsupportedMedia(
                f"the content type {kind[:64]!r} is not known; send application/json or text/csv"
            )
        fields = parse_json(body)
        message = request_of(json_frame(fields), signature)
        identifier = fields.get(_CLIENT_ID)
        if identifier is not None:
            if type(identifier) is not str:
                raise invalid(_CLIENT_ID, "must be a text")
            message.id = identifier
        params = fields.get("params")
        if params is not None:
            if type(params) is not dict:
                raise invalid("params", "must be an object")
            set_parameters(message.parameters, params, "params")
        return Asked(message, _write)


def json_frame(fields: Mapping[str, Any]) -> Frame:
    """The frame of a JSON body.

    Raises:
        InvalidInference: It has none of the forms, several, or one that is not as it should be.
    """
    forms = [name for name in _FORMS if name in fields]
    if len(forms) != 1:
        raise InvalidInference(
            f"the body must have exactly one of {', '.join(_FORMS)}; it has {len(forms)}"
        )
    return _FORMS[forms[0]](fields[forms[0]])


def csv_frame(body: bytes) -> Frame:
    """The frame of CSV with a line of names first.

    Raises:
        InvalidInference: It is no CSV in UTF-8, or a line is longer or shorter than the first.
        BodyTooLarge: It is larger than it may be.
    """
    if len(body) > LARGEST_JSON:
        raise BodyTooLarge(
            f"CSV may have at most {LARGEST_JSON} bytes", metadata={"most": str(LARGEST_JSON)}
        )
    try:
        lines = [
            line for line in csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True) if line
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInference(f"the body is not CSV in UTF-8: {error}"[:300]) from None
    if not lines:
        raise InvalidInference("the body must begin with a line of column names")
    return _by_columns(lines[0], lines[1:], "line", texts=True)


def _split(value: Any) -> Frame:
    """As `pandas.DataFrame.to_dict(orient="split")`."""
    if type(value) is not dict or type(value.get("data")) is not list:
        raise invalid("dataframe_split", "must be an object with `columns` and `data`")
    data = value["data"]
    names = value.get("columns")
    if names is None:
        width = len(data[0]) if data and type(data[0]) is list else 0
        names = [str(number) for number in range(width)]
    if type(names) is not list or not all(type(name) in (str, int) for name in names):
        raise invalid("dataframe_split.columns", "must be a list of names")
    return _by_columns([str(name) for name in names], data, "dataframe_split.data")


def _by_columns(names: list[str], rows: list[Any], path: str, *, texts: bool = False) -> Frame:
    if len(set(names)) != len(names):
        raise InvalidInference(f"{path}: a column is named twice")
    for number, row in enumerate(rows):
        if type(row) is not list or len(row) != len(names):
            raise invalid(f"{path}[{number}]", f"must have {len(names)} values, one per column")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    return Frame(columns, len(rows), texts=texts)


def _records(value: Any, path: str = "dataframe_records") -> Frame:
    """As `pandas.DataFrame.to_dict(orient="records")`; a key that a row lacks is missing there."""
    if type(value) is not list or not all(type(row) is dict for row in value):
        raise invalid(path, "must be a list of objects")
    names = {name: None for row in value for name in row}
    if len(names) * len(value) > LARGEST_JSON:
        raise invalid(path, "has too many different keys")
    return Frame({name: [row.get(name) for row in value] for name in names}, len(value))


def _instances(value: Any) -> Frame:
    """As TensorFlow Serving's row format."""
    if type(value) is not list:
        raise invalid("instances", "must be a list with one item per row")
    if value and type(value[0]) is dict:
        return _records(value, "instances")
    return Frame({"": value}, len(value), unnamed=True)


def _inputs(value: Any) -> Frame:
    """As TensorFlow Serving's column format."""
    if type(value) is list:
        return Frame({"": value}, len(value), unnamed=True)
    if type(value) is not dict:
        raise invalid("inputs", "must be a list with one item per row, or an object of such lists")
    for name, cells in value.items():
        if type(cells) is not list:
            raise invalid(f"inputs[{name[:64]!r}]", "must be a list with one item per row")
    rows = max((len(cells) for cells in value.values()), default=0)
    return Frame(value, rows)


_FORMS: Final[dict[str, Callable[[Any], Frame]]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _instances,
    "inputs": _inputs,
}


def _write(reply: service_pb2.ModelInferResponse, exchange: Exchange) -> Response:
    """One item per row: the value of the only output, or an object of all of them.

    As in inference tables, sizes of 1 at the end of a shape are dropped, and numbers that JSON does
    not have are null.
    """
    try:
        outputs = {
            output.name: _by_row(values_of(output.name, output.datatype, raw), tuple(output.shape))
            for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
        }
    except TensorProblem as problem:
        raise InvalidInference(str(problem)) from None
    predictions: Any = outputs
    if len(outputs) == 1:
        (predictions,) = outputs.values()
    elif len({len(values) for values in outputs.values()}) == 1:
        predictions = [
            dict(zip(outputs, cells, strict=True)) for cells in zip(*outputs.values(), strict=True)
        ]
    served = exchange.served.name if exchange.served is not None else ""
    body = orjson.dumps(
        {"predictions": predictions, _SERVED: served}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    return Response(body, headers={"served-model-name": served}, media_type="application/json")


def _by_row(values: Any, shape: tuple[int, ...]) -> Any:
    inner = list(shape[1:])
    while inner and inner[-1] == 1:
        inner.pop()
    if isinstance(values, np.ndarray):
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        return values.reshape((*shape[:1], *inner))
    for size in reversed(inner):
        values = [values[at : at + size] for at in range(0, len(values), size or 1)]
    return values
