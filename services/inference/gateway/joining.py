"""Requests of one form become one request of all their rows, and its response one for each."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.domain.fields import bytes_fields, bytes_head, text_field
from services.inference.gateway.forms import Fit, Form

__all__ = ["join_requests", "split_response"]

_ID: Final = 3
_RAW_REQUEST: Final = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RAW_RESPONSE: Final = service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


def join_requests(form: Form, fits: Sequence[Fit]) -> bytes:
    """The serialised `inference.ModelInferRequest` with the rows of several, in their order.

    Args:
        form: Of all of them.
        fits: The requests.
    """
    asked = service_pb2.ModelInferRequest(outputs=form.asks.outputs)
    for tensor in form.asks.inputs:
        shape = (tensor.shape[0] * len(fits), *tensor.shape[1:])
        asked.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
    parts = [asked.SerializeToString()]
    for column in zip(*(fit.contents for fit in fits), strict=True):
        parts.append(bytes_head(_RAW_REQUEST, sum(map(len, column))))
        parts.extend(column)
    return b"".join(parts)


def split_response(reply: bytes, rows: int, ids: Sequence[str]) -> list[bytes] | None:
    """The response to each of several requests that were joined.

    Args:
        reply: The serialised `inference.ModelInferResponse` to all of them.
        rows: Rows of each request.
        ids: What each caller calls its request, in the order in which they were joined.

    Returns:
        Serialised responses; None when the model did not give one row for each row.
    """
    try:
        response = service_pb2.ModelInferResponse.FromString(reply)
    except DecodeError:
        return None
    contents = list(response.raw_output_contents)
    if len(contents) != len(response.outputs):
        return None
    columns = []
    for tensor, raw in zip(response.outputs, contents, strict=True):
        if not tensor.shape or tensor.shape[0] != rows * len(ids):
            return None
        pieces = _pieces(tensor, raw, len(ids))
        if pieces is None:
            return None
        columns.append(pieces)
        tensor.shape[0] = rows
    del response.raw_output_contents[:]
    response.ClearField("id")
    head = response.SerializeToString()
    rest = zip(*columns, strict=True) if columns else [()] * len(ids)
    return [_response(head, name, own) for name, own in zip(ids, rest, strict=True)]


def _response(head: bytes, request_id: str, contents: Sequence[bytes]) -> bytes:
    parts = [text_field(_ID, request_id), head] if request_id else [head]
    return b"".join((*parts, *bytes_fields(_RAW_RESPONSE, contents)))


def _pieces(tensor: Any, raw: bytes, count: int) -> list[bytes] | None:
    """Raw contents in so many parts with equally many elements; None where that cannot be."""
    if tensor.datatype != "BYTES":
        size, rest = divmod(len(raw), count)
        return None if rest else [raw[size * n : size * (n + 1)] for n in range(count)]
    each = prod(tensor.shape) // count
    pieces, end = [], 0
    for _ in range(count):
        start = end
        for _ in range(each):
            # What is missing counts as a length of 0; the end tells.
            end += 4 + int.from_bytes(raw[end : end + 4], "little")
        pieces.append(raw[start:end])
    return pieces if end == len(raw) else None
