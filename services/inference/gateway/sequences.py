"""Sequences of requests to models that keep state, each caller's apart from all others'."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from services.inference.gateway.validation import SEQUENCE_ID, sequence_of

__all__ = ["own_sequence", "sequence_field", "sequence_in"]

_MARK: Final = SEQUENCE_ID.encode()
_DIGEST_BYTES: Final = 16


def own_sequence(principal: str, request: Any) -> str:
    """A sequence's name in the runtime: nobody meets another one's state by guessing its id."""
    told = f"{principal}\0{sequence_of(request.parameters)}"
    return blake2b(told.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def sequence_field(sequence: str) -> bytes:
    """What gives a serialised request another sequence; nothing for none.

    Of two values of a map's key a parser takes the last.
    """
    if not sequence:
        return b""
    request = service_pb2.ModelInferRequest()
    request.parameters[SEQUENCE_ID].string_param = sequence
    return bytes(request.SerializeToString())


def sequence_in(data: bytes) -> str:
    """The sequence of a serialised request, for its place among others of it; empty for none."""
    if _MARK not in data:
        return ""
    try:
        request: Any = service_pb2.ModelInferRequest.FromString(data)
    except DecodeError:
        return ""
    found = sequence_of(request.parameters)
    return f"{request.model_name}/{found}" if found else ""
