"""Responses of Triton's interface as serialised messages."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from tritonclient.grpc import service_pb2

from services.inference.adapters.triton_inside.interface import DATATYPES, TritonLibrary
from services.inference.domain.fields import Piece, bytes_fields, text_field

__all__ = ["ResponseReader"]

_ID: Final = service_pb2.ModelInferResponse.ID_FIELD_NUMBER
_RAW: Final = service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_MOST_HEADS: Final = 256

_Output: TypeAlias = tuple[bytes, int, tuple[int, ...]]
"""Name, number of its datatype, shape."""


class ResponseReader:
    """Reads responses. Not for several threads.

    Args:
        library: Triton's interface.
    """

    def __init__(self, library: TritonLibrary) -> None:
        self._library = library
        new = library.ffi.new
        self._model = (new("const char**"), new("int64_t*"))
        self._count = new("uint32_t*")
        self._output = (
            *(new("const char**"), new("int*"), new("const int64_t**"), new("uint64_t*")),
            *(new("const void**"), new("size_t*"), new("int*"), new("int64_t*"), new("void**")),
        )
        self._heads: dict[tuple[bytes, int, tuple[_Output, ...]], bytes] = {}

    def read(self, response: Any, request_id: str, ending: bytes) -> bytes:
        """A response as a serialised `inference.ModelInferResponse`.

        Args:
            response: Of the interface; it stays its owner's.
            request_id: The caller's own.
            ending: Fields that follow the message.

        Raises:
            TritonFailure: It tells of a failure, or cannot be read.
        """
        library, calls, ffi = self._library, self._library.calls, self._library.ffi
        if failed := calls.TRITONSERVER_InferenceResponseError(response):
            raise library.failure(failed)
        library.check(calls.TRITONSERVER_InferenceResponseModel(response, *self._model))
        library.check(calls.TRITONSERVER_InferenceResponseOutputCount(response, self._count))
        name, datatype, shape, dimensions, base, size, *_ = self._output
        outputs: list[_Output] = []
        contents: list[Piece] = []
        for index in range(self._count[0]):
            library.check(
                calls.TRITONSERVER_InferenceResponseOutput(response, index, *self._output)
            )
            sizes = tuple(ffi.unpack(shape[0], dimensions[0])) if dimensions[0] else ()
            outputs.append((ffi.string(name[0]), datatype[0], sizes))
            contents.append(ffi.buffer(base[0], size[0]) if size[0] else b"")
        pieces = bytes_fields(_RAW, contents)
        head = self._head(ffi.string(self._model[0][0]), self._model[1][0], tuple(outputs))
        own_id = text_field(_ID, request_id) if request_id else b""
        return b"".join((head, own_id, *pieces, ending))

    def _head(self, model: bytes, version: int, outputs: tuple[_Output, ...]) -> bytes:
        """What a response says before its contents; models say the same again and again."""
        key = (model, version, outputs)
        head = self._heads.get(key)
        if head is None:
            message: Any = service_pb2.ModelInferResponse(
                model_name=model.decode(), model_version=str(version)
            )
            for name, datatype, shape in outputs:
                message.outputs.add(name=name.decode(), datatype=DATATYPES[datatype], shape=shape)
            head = bytes(message.SerializeToString())
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head
