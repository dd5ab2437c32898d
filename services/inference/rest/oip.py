"""ModelInfer's REST form: JSON with tensors in it, or behind it as binary data.

The protocol: https://github.com/kserve/open-inference-protocol, its binary extension:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from tritonclient.grpc import service_pb2

from services.inference.convert.tensors import (
    TensorProblem,
    flat,
    invalid,
    raw_contents,
    shape_of,
    values_of,
)
from services.inference.domain.datatypes import DATATYPES
from services.inference.domain.signature import Role, Signature
from services.inference.errors import InvalidInference
from tessera_kit.http.status import BodyTooLarge

__all__ = ["LARGEST_JSON", "Wanted", "read_infer", "set_parameters", "write_infer"]

LARGEST_JSON: Final = 16 << 20
"""Bytes of the largest JSON; larger tensors go as binary data."""
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY
_BINARY_OUTPUTS: Final = "binary_data_output"
_BINARY_SIZE: Final = "binary_data_size"
_MOST_INPUTS: Final = 4096


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which outputs a caller wants as binary data."""

    binary: bool = False
    """Those that it does not name."""
    by_name: dict[str, bool] = field(default_factory=dict)
    """Those that it names."""

    def is_binary(self, name: str) -> bool:
        """Whether an output goes behind the JSON."""
        return self.by_name.get(name, self.binary)


def read_infer(
    body: bytes, header_length: str | None, signature: Signature
) -> tuple[service_pb2.ModelInferRequest, Wanted]:
    """A request's body as a message without its model's name, and how it is to be answered.

    Args:
        body: Inflated.
        header_length: Of `Inference-Header-Content-Length`; None when it is all JSON.
        signature: The endpoint's.

    Raises:
        InvalidInference: It is no request of the protocol; the violation names the place.
        BodyTooLarge: The JSON is larger than it may be.
    """
    length = _header_length(header_length, len(body))
    if length == 0:
        return _read_raw(body, signature), Wanted(binary=True)
    fields = parse_json(body[:length] if length < len(body) else body)
    request = service_pb2.ModelInferRequest()
    identifier = fields.get("id", "")
    if type(identifier) is not str:
        raise invalid("id", "must be a text")
    request.id = identifier
    parameters = _object(fields.get("parameters"), "parameters")
    binary = parameters.pop(_BINARY_OUTPUTS, False)
    if type(binary) is not bool:
        raise invalid(f"parameters[{_BINARY_OUTPUTS!r}]", "must be true or false")
    set_parameters(request.parameters, parameters, "parameters")
    _read_inputs(request, fields.get("inputs"), memoryview(body)[length:])
    return request, Wanted(binary, _read_outputs(request, fields.get("outputs")))


def write_infer(
    reply: service_pb2.ModelInferResponse, wanted: Wanted
) -> tuple[list[bytes], int | None]:
    """A response's body in pieces, and the length of its JSON where binary data follows.

    Numbers that JSON does not have, infinities and not-a-numbers, become null.

    Raises:
        InvalidInference: An output has no form in JSON.
    """
    told: dict[str, Any] = {"model_name": reply.model_name, "model_version": reply.model_version}
    if reply.id:
        told["id"] = reply.id
    if reply.parameters:
        told["parameters"] = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in reply.parameters.items()
        }
    outputs, blobs = [], []
    for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        shape = list(output.shape)
        head: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": shape}
        if wanted.is_binary(output.name):
            head["parameters"] = {_BINARY_SIZE: len(raw)}
            blobs.append(raw)
        else:
            head["data"] = _json_values(output.name, output.datatype, raw)
        outputs.append(head)
    told["outputs"] = outputs
    json = orjson.dumps(told, option=_OPTIONS)
    return [json, *blobs], len(json) if blobs else None


def parse_json(text: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        InvalidInference: It is none: not UTF-8, not JSON (which has no NaN), or no object.
        BodyTooLarge: It is larger than it may be.
    """
    if len(text) > LARGEST_JSON:
        raise BodyTooLarge(
            f"JSON may have at most {LARGEST_JSON} bytes; send large tensors as binary data",
            metadata={"most": str(LARGEST_JSON)},
        )
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInference(f"the body is not JSON in UTF-8: {error}"[:300]) from None
    if not isinstance(fields, dict):
        raise InvalidInference("the body must be a JSON object")
    return fields


def set_parameters(into: Any, parameters: dict[str, Any], path: str) -> None:
    """Put parameters from JSON into a message's map.

    Raises:
        InvalidInference: One is no text, number, true or false.
    """
    for name, value in parameters.items():
        place = f"{path}[{name[:64]!r}]"
        if type(value) is bool:
            into[name].bool_param = value
        elif type(value) is int:
            # orjson gives none beyond 64 bits.
            if value < 2**63:
                into[name].int64_param = value
            else:
                into[name].uint64_param = value
        elif type(value) is float:
            into[name].double_param = value
        elif type(value) is str:
            into[name].string_param = value
        else:
            raise invalid(place, "must be a text, a number, true or false")


def _header_length(header_length: str | None, most: int) -> int:
    if header_length is None:
        return most
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 18:
        raise invalid("Inference-Header-Content-Length", "must be a number of bytes")
    length = int(header_length)
    if length > most:
        raise invalid(
            "Inference-Header-Content-Length", f"is {length} while the body has {most} bytes"
        )
    return length


def _read_raw(body: bytes, signature: Signature) -> service_pb2.ModelInferRequest:
    """A body that is the contents of the only input."""
    specs = [spec for spec in signature.inputs if spec.role is not Role.METADATA]
    if len(specs) != 1:
        raise InvalidInference("a body without JSON is for endpoints with one input")
    spec = specs[0]
    size = DATATYPES[spec.datatype].size
    known = size
    for length in spec.shape:
        known *= length if length > 0 else 1
    if not size or spec.shape.count(-1) > 1:
        raise invalid(f"inputs[0] {spec.name!r}", "has a shape that its bytes do not tell")
    rows = len(body) // known
    request = service_pb2.ModelInferRequest()
    shape = [length if length > 0 else rows for length in spec.shape]
    request.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
    request.raw_input_contents.append(body)
    return request


def _read_inputs(request: Any, inputs: Any, binary: memoryview) -> None:
    if type(inputs) is not list or len(inputs) > _MOST_INPUTS:
        raise invalid("inputs", f"must be a list of at most {_MOST_INPUTS} tensors")
    position = 0
    for index, given in enumerate(inputs):
        if type(given) is not dict or type(given.get("name")) is not str:
            raise invalid(f"inputs[{index}]", "must be an object with a `name`")
        place = f"inputs[{index}] {given['name'][:128]!r}"
        parameters = _object(given.get("parameters"), f"{place}.parameters")
        size = parameters.pop(_BINARY_SIZE, None)
        try:
            shape, datatype = shape_of(given.get("shape")), given.get("datatype")
            if size is None:
                raw = _json_contents(given, datatype, shape)
            else:
                raw = _binary_contents(given, size, binary, position)
                position += len(raw)
        except TensorProblem as problem:
            raise invalid(place, str(problem)) from None
        tensor = request.inputs.add(name=given["name"], datatype=datatype, shape=shape)
        set_parameters(tensor.parameters, parameters, f"{place}.parameters")
        request.raw_input_contents.append(raw)
    if position != len(binary):
        raise InvalidInference(
            f"the body has {len(binary)} bytes of binary data; the inputs say {position}"
        )


def _json_contents(given: dict[str, Any], datatype: Any, shape: tuple[int, ...]) -> bytes:
    known = DATATYPES.get(datatype) if type(datatype) is str else None
    if known is None:
        raise TensorProblem(f"must have one of {', '.join(DATATYPES)} as `datatype`")
    return raw_contents(flat(given.get("data"), shape), known)


def _binary_contents(given: dict[str, Any], size: Any, binary: memoryview, position: int) -> bytes:
    if "data" in given:
        raise TensorProblem("has both `data` and binary data")
    if type(given.get("datatype")) is not str:
        raise TensorProblem(f"must have one of {', '.join(DATATYPES)} as `datatype`")
    if type(size) is not int or size < 0:
        raise TensorProblem(f"must have a number of bytes as `{_BINARY_SIZE}`")
    if position + size > len(binary):
        raise TensorProblem(
            f"has {size} bytes of binary data while the body has {len(binary) - position} left"
        )
    return bytes(binary[position : position + size])


def _read_outputs(request: Any, outputs: Any) -> dict[str, bool]:
    if outputs is None:
        return {}
    if type(outputs) is not list or len(outputs) > _MOST_INPUTS:
        raise invalid("outputs", f"must be a list of at most {_MOST_INPUTS} outputs")
    wanted = {}
    for index, given in enumerate(outputs):
        if type(given) is not dict or type(given.get("name")) is not str:
            raise invalid(f"outputs[{index}]", "must be an object with a `name`")
        place = f"outputs[{index}] {given['name'][:128]!r}"
        parameters = _object(given.get("parameters"), f"{place}.parameters")
        binary = parameters.pop("binary_data", None)
        if binary is not None:
            if type(binary) is not bool:
                raise invalid(f"{place}.parameters['binary_data']", "must be true or false")
            wanted[given["name"]] = binary
        output = request.outputs.add(name=given["name"])
        set_parameters(output.parameters, parameters, f"{place}.parameters")
    return wanted


def _object(value: Any, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise invalid(path, "must be an object")
    return dict(value)


def _json_values(name: str, datatype: str, raw: bytes) -> Any:
    try:
        values = values_of(name, datatype, raw)
    except TensorProblem as problem:
        raise InvalidInference(str(problem)) from None
    if isinstance(values, np.ndarray) and values.dtype == np.float16:
        return values.astype(np.float32)
    return values
