"""The responses of a streamed answer as one, for its record and for callers that want it whole."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.errors import ModelFailed

__all__ = ["Assembly"]

_FINAL: Final = "triton_final_response"


class Assembly:
    """Puts serialised `inference.ModelInferResponse` messages together.

    Each output's elements lie behind each other in the order in which they came: along the first
    size when the others are the same in all responses, and as one long list when they are not. An
    output need not be in every response. Identity is the first response's; of a parameter the
    last value counts.

    Args:
        largest: Most bytes that are kept.
    """

    __slots__ = ("_largest", "_outputs", "_whole", "count", "is_cut", "size")

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._whole: Any = service_pb2.ModelInferResponse()
        self._outputs: dict[str, _Output] = {}
        self.count = 0
        """Responses with outputs."""
        self.size = 0
        """Bytes that are kept."""
        self.is_cut = False
        """Whether there was more than is kept; nothing is, then."""

    def add(self, response: bytes) -> int:
        """Take the next response; returns by how many bytes what is kept has grown.

        Raises:
            ModelFailed: It is no response of the protocol.
        """
        if self.is_cut:
            return 0
        if self.size + len(response) > self._largest:
            return self.cut()
        try:
            parsed: Any = service_pb2.ModelInferResponse.FromString(response)
        except DecodeError:
            raise ModelFailed("the model's response is none of the protocol") from None
        if not self._whole.model_name:
            self._whole.model_name = parsed.model_name
            self._whole.model_version = parsed.model_version
            self._whole.id = parsed.id
        for name, value in parsed.parameters.items():
            if name != _FINAL:
                self._whole.parameters[name].CopyFrom(value)
        raw = parsed.raw_output_contents
        for index, output in enumerate(parsed.outputs):
            kept = self._outputs.setdefault(output.name, _Output())
            kept.add(output, raw[index] if index < len(raw) else None)
        self.count += bool(parsed.outputs)
        self.size += len(response)
        return len(response)

    def cut(self) -> int:
        """Keep nothing any more; returns by how many bytes what is kept has grown, below 0."""
        freed, self.size = self.size, 0
        self.is_cut = True
        self._outputs.clear()
        return -freed

    def response(self) -> bytes:
        """All of them as one serialised response; empty when there was more than is kept."""
        if self.is_cut:
            return b""
        whole: Any = service_pb2.ModelInferResponse()
        whole.CopyFrom(self._whole)
        for output in self._outputs.values():
            output.write(whole)
        return bytes(whole.SerializeToString())


class _Output:
    """One output of all responses so far."""

    __slots__ = ("_count", "_head", "_pieces", "_rows", "_tail")

    def __init__(self) -> None:
        self._head: Any = None
        self._pieces: list[bytes] = []
        self._rows = self._count = 0
        self._tail: tuple[int, ...] | None = None

    def add(self, output: Any, raw: bytes | None) -> None:
        rows, *tail = tuple(output.shape) or (1,)
        count = rows
        for size in tail:
            count *= size
        if self._head is None:
            self._head, self._tail = output, tuple(tail)
        else:
            self._head.contents.MergeFrom(output.contents)
            if self._tail != tuple(tail):
                self._tail = None
        self._rows += rows
        self._count += count
        if raw is not None:
            self._pieces.append(raw)

    def write(self, whole: Any) -> None:
        output = whole.outputs.add(name=self._head.name, datatype=self._head.datatype)
        output.shape.extend((self._count,) if self._tail is None else (self._rows, *self._tail))
        if self._head.contents.ListFields():
            output.contents.CopyFrom(self._head.contents)
        if self._pieces:
            whole.raw_output_contents.append(b"".join(self._pieces))
