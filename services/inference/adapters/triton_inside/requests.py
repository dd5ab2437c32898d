"""Serialised requests as Triton's interface takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.adapters.triton_inside.interface import CPU, DATATYPES, TritonLibrary
from services.inference.convert.tensors import TensorProblem, invalid, raw_contents
from services.inference.domain import datatypes
from services.inference.domain.fields import Piece, split
from services.inference.errors import InvalidInference

__all__ = ["Told", "put", "read"]

_LARGE: Final = 32 << 10
"""Bytes of a request from which on its contents are not copied out of it."""
_RAW: Final = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_NUMBERS: Final = {name: number for number, name in enumerate(DATATYPES) if name}
_FLAGS: Final = {"sequence_start": 1, "sequence_end": 2}
"""TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END"""
_LATEST: Final = -1
_LONGEST_VERSION: Final = 18
"""Digits that any 64-bit number has room for."""
_WITHOUT_EFFECT: Final = "triton_enable_empty_final_response"
_SETTERS: Final = {
    "bool_param": "SetBoolParameter",
    "int64_param": "SetIntParameter",
    "string_param": "SetStringParameter",
    "double_param": "SetDoubleParameter",
}
"""By the kinds of value that Triton's own gRPC door takes for a parameter."""
_OWN_SETTERS: Final = {
    "sequence_id": {
        "int64_param": "SetCorrelationId",
        "string_param": "SetCorrelationIdString",
    },
    "priority": {"int64_param": "SetPriorityUInt64", "uint64_param": "SetPriorityUInt64"},
    "timeout": {"int64_param": "SetTimeoutMicroseconds"},
}
"""Likewise, for names that have a meaning."""
_UNSIGNED: Final = 1 << 64


class Told:
    """A request in two parts."""

    __slots__ = ("contents", "head")

    def __init__(self, head: Any, contents: Sequence[Piece]) -> None:
        self.head = head
        """An `inference.ModelInferRequest`, whose own raw contents may be missing."""
        self.contents = contents
        """Raw contents of its inputs, in order."""


def read(request: bytes, suffix: bytes) -> Told:
    """Take a serialised `inference.ModelInferRequest` apart.

    Args:
        request: As its caller sent it.
        suffix: Fields that follow it.

    Raises:
        InvalidInference: It is no such message, or an input's contents are not of its datatype.
    """
    try:
        if len(request) < _LARGE:
            head: Any = service_pb2.ModelInferRequest.FromString(request + suffix)
            contents: Sequence[Piece] = head.raw_input_contents
        else:
            parts = split(request, _RAW)
            if parts is None:
                raise InvalidInference("the request is no inference.ModelInferRequest")
            head, contents = (
                service_pb2.ModelInferRequest.FromString(parts.head + suffix),
                parts.values,
            )
    except DecodeError:
        raise InvalidInference("the request is no inference.ModelInferRequest") from None
    if not contents and head.inputs:
        contents = [_typed(tensor) for tensor in head.inputs]
    if len(contents) != len(head.inputs):
        raise InvalidInference(f"{len(contents)} raw contents for {len(head.inputs)} inputs")
    return Told(head, contents)


def put(library: TritonLibrary, request: Any, told: Told) -> list[Any]:
    """Say to a request of the interface what was told.

    Returns:
        The buffers that the request refers to: keep them until it is released.

    Raises:
        InvalidInference: A parameter has a value of a kind that it cannot have.
        TritonFailure: Triton refuses it.
    """
    ffi, calls, check = library.ffi, library.calls, library.check
    head = told.head
    if head.id:
        check(calls.TRITONSERVER_InferenceRequestSetId(request, head.id.encode()))
    if head.parameters:
        _put_parameters(library, request, head.parameters)
    buffers: list[Any] = []
    for tensor, content in zip(head.inputs, told.contents, strict=True):
        name, shape = tensor.name.encode(), list(tensor.shape)
        check(
            calls.TRITONSERVER_InferenceRequestAddInput(
                request,
                name,
                _NUMBERS.get(tensor.datatype, 0),
                ffi.new("int64_t[]", shape),
                len(shape),
            )
        )
        buffer = ffi.from_buffer(content)
        check(
            calls.TRITONSERVER_InferenceRequestAppendInputData(
                request, name, buffer, len(content), CPU, 0
            )
        )
        buffers.append(buffer)
    for output in head.outputs:
        check(calls.TRITONSERVER_InferenceRequestAddRequestedOutput(request, output.name.encode()))
    return buffers


def version_of(head: Any) -> int:
    """The version of its model that a request asks for.

    Raises:
        InvalidInference: It is no number.
    """
    version: str = head.model_version
    if not version:
        return _LATEST
    if len(version) > _LONGEST_VERSION or not (version.isascii() and version.isdecimal()):
        raise invalid("model_version", "must be a number")
    return int(version)


def _put_parameters(library: TritonLibrary, request: Any, parameters: Any) -> None:
    flags = 0
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name in _FLAGS:
            flags |= _FLAGS[name] if _flag(name, parameter) else 0
        elif name != _WITHOUT_EFFECT:
            setters = _OWN_SETTERS.get(name, _SETTERS)
            if kind not in setters:
                raise invalid(f"parameters[{name[:64]!r}]", f"must not be {kind or 'empty'}")
            _put_parameter(library, request, name, setters[kind], getattr(parameter, kind))
    if flags:
        library.check(library.calls.TRITONSERVER_InferenceRequestSetFlags(request, flags))


def _flag(name: str, parameter: Any) -> bool:
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise invalid(f"parameters[{name!r}]", "must be true or false")
    return bool(parameter.bool_param)


def _put_parameter(
    library: TritonLibrary, request: Any, name: str, setter: str, value: bool | int | float | str
) -> None:
    told = value.encode() if isinstance(value, str) else value
    put_value = getattr(library.calls, f"TRITONSERVER_InferenceRequest{setter}")
    if setter.endswith("Parameter"):
        library.check(put_value(request, name.encode(), told))
    else:
        # As the door reads a negative number.
        library.check(put_value(request, told % _UNSIGNED if isinstance(told, int) else told))


def _typed(tensor: Any) -> bytes:
    """Raw contents of an input whose elements are told one by one."""
    datatype = datatypes.DATATYPES.get(tensor.datatype)
    if datatype is None or not datatype.contents:
        raise invalid(f"inputs {tensor.name!r}", f"{tensor.datatype} must be sent raw")
    try:
        return raw_contents(list(getattr(tensor.contents, datatype.contents)), datatype)
    except TensorProblem as problem:
        raise invalid(f"inputs {tensor.name!r}", str(problem)) from None
