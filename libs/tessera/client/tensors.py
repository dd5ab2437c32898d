"""Arrays as tensors of the Open Inference Protocol, version 2, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2 as oip
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)


def write_inputs(request: oip.ModelInferRequest, inputs: Mapping[str, npt.ArrayLike]) -> None:
    """Adds the arrays to the request as raw contents, in order.

    Raises:
        ValueError: An array's dtype has no counterpart in the protocol; the text names the input.
    """
    for name, values in inputs.items():
        array = np.ascontiguousarray(values)
        if array.dtype.kind == "U":
            array = np.char.encode(array, "utf-8").astype(np.object_)
        datatype = np_to_triton_dtype(array.dtype)
        if datatype is None:
            raise ValueError(
                f"input {name!r}: dtype {array.dtype} has no counterpart in the protocol"
            )
        tensor = request.inputs.add(name=name, datatype=datatype)
        tensor.shape.extend(array.shape)
        request.raw_input_contents.append(_content(array, datatype))


def _content(array: npt.NDArray[np.generic], datatype: str) -> bytes:
    if datatype != "BYTES":
        return array.tobytes()
    serialized = serialize_byte_tensor(array)
    return bytes(serialized.item()) if serialized.size else b""


def read_outputs(response: oip.ModelInferResponse) -> dict[str, npt.NDArray[np.generic]]:
    """The response's tensors as arrays, by name; BYTES become arrays of bytes objects."""
    outputs: dict[str, npt.NDArray[np.generic]] = {}
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            flat = deserialize_bytes_tensor(content)
        else:
            flat = np.frombuffer(content, dtype=triton_to_np_dtype(tensor.datatype))
        outputs[tensor.name] = flat.reshape(tuple(tensor.shape))
    return outputs
