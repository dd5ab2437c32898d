"""A cheap model of the real runtime that gives back what it is given, and how it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from services.inference.domain.datatypes import DATATYPES

__all__ = ["array_of", "config", "echo", "files", "request", "told"]

PROGRAM = '''
import json
import time
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    """Gives each input `<datatype>` back as the output `y_<datatype>`, and says what came along.

    Parameters: `sleep` seconds first, `zeros` that follow as a large output, `scalar` for an output
    without dimensions.
    """

    def initialize(self, arguments):
        parameters = json.loads(arguments["model_config"])["parameters"]
        time.sleep(float(parameters["load_seconds"]["string_value"]))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        parameters = json.loads(request.parameters())
        time.sleep(float(parameters.get("sleep", 0)))
        outputs = [pb.Tensor(f"y_{one.name()}", one.as_numpy()) for one in request.inputs()]
        if "zeros" in parameters:
            outputs.append(pb.Tensor("y_fp32", np.zeros((1, parameters["zeros"]), np.float32)))
        if "scalar" in parameters:
            outputs.append(pb.Tensor("y_fp32", np.array(parameters["scalar"], np.float32)))
        told = {
            "parameters": parameters,
            "id": request.request_id(),
            "sequence": request.correlation_id(),
            "flags": request.flags(),
            "timeout": request.timeout(),
        }
        outputs.append(pb.Tensor("told", np.array([[json.dumps(told)]], object)))
        wanted = set(request.requested_output_names())
        return pb.InferenceResponse([one for one in outputs if one.name() in wanted])
'''


def files() -> dict[str, bytes]:
    """What the runtime is given."""
    return {"1/model.py": PROGRAM.encode()}


def config(name: str, *, load_seconds: float = 0, rows: int = 0, **others: Any) -> str:
    """Triton's ModelConfig as JSON.

    Args:
        name: The model's.
        load_seconds: How long it takes to load.
        rows: Most rows of requests that run together; none do by default.
        others: Further fields.
    """
    dims = [-1] if rows else [-1, -1]
    types = {one.name.lower(): one.triton for one in DATATYPES.values()}
    outputs = {**{f"y_{name}": triton for name, triton in types.items()}, "told": "TYPE_STRING"}
    together = {"dynamic_batching": {}} if rows else {}
    return json.dumps(
        {
            "name": name,
            "backend": "python",
            "max_batch_size": rows,
            "input": [
                {"name": name, "data_type": triton, "dims": dims, "optional": True}
                for name, triton in types.items()
            ],
            "output": [
                {"name": name, "data_type": triton, "dims": dims}
                for name, triton in outputs.items()
            ],
            "parameters": {"load_seconds": {"string_value": str(load_seconds)}},
            "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
            **together,
            **others,
        }
    )


def request(
    model: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    parameters: Mapping[str, bool | int | float | str] | None = None,
    outputs: tuple[str, ...] = (),
    identifier: str = "",
) -> bytes:
    """A serialised request.

    Args:
        model: Its name.
        inputs: By datatype: an array of two dimensions, of bytes for BYTES.
        parameters: What comes along.
        outputs: Those that are wanted; all if none.
        identifier: The caller's own.
    """
    message: Any = service_pb2.ModelInferRequest(model_name=model, id=identifier)
    for datatype, array in (inputs or {}).items():
        message.inputs.add(name=datatype.lower(), datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(_raw(datatype, array))
    for name in outputs:
        message.outputs.add(name=name)
    for name, value in (parameters or {}).items():
        setattr(message.parameters[name], _kind(value), value)
    return bytes(message.SerializeToString())


def echo(reply: bytes) -> dict[str, Any]:
    """What a response gives back, as `request` takes it."""
    response = service_pb2.ModelInferResponse.FromString(reply)
    return {
        output.datatype: array_of(output, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        if output.name != "told"
    }


def told(reply: bytes) -> dict[str, Any]:
    """What the model says came along with a request."""
    response = service_pb2.ModelInferResponse.FromString(reply)
    (raw,) = (
        raw
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        if output.name == "told"
    )
    said: dict[str, Any] = json.loads(raw[4:])
    return said


def array_of(output: Any, raw: bytes) -> Any:
    """An output of a response as an array."""
    shape = tuple(output.shape)
    if output.datatype != "BYTES":
        return np.frombuffer(raw, DATATYPES[output.datatype].numpy).reshape(shape)
    texts, position = [], 0
    while position < len(raw):
        size = int.from_bytes(raw[position : position + 4], "little")
        texts.append(raw[position + 4 : position + 4 + size])
        position += 4 + size
    found = np.empty(len(texts), object)
    found[:] = texts
    return found.reshape(shape)


def _raw(datatype: str, array: Any) -> bytes:
    if datatype != "BYTES":
        return bytes(array.astype(DATATYPES[datatype].numpy).tobytes())
    return b"".join(len(one).to_bytes(4, "little") + one for one in array.ravel())


def _kind(value: bool | int | float | str) -> str:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return kinds[type(value)]
