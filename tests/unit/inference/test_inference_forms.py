"""What fits is the same whether the forms of requests are known or not."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from services.inference.domain.fields import message_field, text_field
from services.inference.domain.signature import parse_manifest
from services.inference.errors import InvalidInference
from services.inference.gateway.validation import RequestRules
from tests.unit.inference.conftest import MANIFEST

CASES: Final = 400
NAME, ID, INPUTS, RAW = 1, 3, 5, 7
FLOATS: Final = b"\0\0\x80\x3f" * 4
CARRIER: Final = b"\x02\0\0\0UA"


def head(name: str, datatype: str, *shape: int) -> bytes:
    return bytes(
        service_pb2.ModelInferRequest.InferInputTensor(
            name=name, datatype=datatype, shape=shape
        ).SerializeToString()
    )


X: Final = message_field(INPUTS, head("x", "FP32", 1, 4))
BY: Final = message_field(INPUTS, head("carrier", "BYTES", 1, 1))
RAW_X: Final = message_field(RAW, FLOATS)
RAW_BY: Final = message_field(RAW, CARRIER)
CALLED: Final = text_field(NAME, "flights")
PARTS: Final = [
    *(X, BY, RAW_X, RAW_BY, CALLED, text_field(NAME, ""), text_field(ID, "7"), text_field(2, "3")),
    *(b"\x3a\x86\x00" + CARRIER, message_field(RAW, b""), message_field(RAW, FLOATS[:-1])),
    *(message_field(INPUTS, head("x", "FP32", 2, 4)), b"\x3a\x00", b"\x78\x01", b""),
]
"""Fields of a request; one length is longer than it must be, and one field is unknown."""


def rules() -> RequestRules:
    return RequestRules(parse_manifest(json.dumps(MANIFEST).encode()), max_rows=16)


def verdict(held: RequestRules, told: bytes) -> Any:
    try:
        request = service_pb2.ModelInferRequest.FromString(told)
    except DecodeError:
        return "no request"
    try:
        held.check(request, told, request.raw_input_contents)
    except InvalidInference as error:
        return [(one.field, one.description) for one in error.violations]
    return "fits"


def known() -> RequestRules:
    """Rules that have seen requests in every order that callers may write."""
    held = rules()
    for told in (
        CALLED + X + BY + RAW_X + RAW_BY,
        CALLED + BY + X + RAW_BY + RAW_X,
        CALLED + text_field(ID, "7") + X + BY + RAW_X + RAW_BY,
        CALLED + RAW_X + RAW_BY + X + BY,
        RAW_X + CALLED + X + RAW_BY + BY,
        X + BY + RAW_X + RAW_BY + CALLED,
    ):
        assert verdict(held, told) == "fits"
    return held


KNOWN: Final = known()


@settings(max_examples=CASES, deadline=None, database=None, derandomize=True)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8))
def test_fields_in_any_order(parts: list[bytes]) -> None:
    told = b"".join(parts)
    assert verdict(KNOWN, told) == verdict(rules(), told)


@settings(max_examples=CASES, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_changed_bytes(data: st.DataObject) -> None:
    told = bytearray(CALLED + X + BY + RAW_X + RAW_BY)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(told) - 1))
        if data.draw(st.booleans()):
            told[place] = data.draw(st.integers(0, 255))
        else:
            told.insert(place, data.draw(st.sampled_from((0, 1, 0x3A, 0x2A, 0x1A, 0x0A))))
    assert verdict(KNOWN, bytes(told)) == verdict(rules(), bytes(told))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 1 << 20])
def test_contents_of_any_length_are_measured(size: int) -> None:
    held = rules()
    text = size.to_bytes(4, "little") + b"x" * size
    told = CALLED + X + BY + RAW_X + message_field(RAW, text)
    assert [verdict(held, told) for _ in range(2)] == ["fits", "fits"]
    assert verdict(held, told[:-1]) != "fits"


def test_a_form_is_known_under_any_id(monkeypatch: pytest.MonkeyPatch) -> None:
    held, looks = rules(), 0
    seen = RequestRules._violations

    def counted(self: RequestRules, *args: Any) -> Any:
        nonlocal looks
        looks += 1
        return seen(self, *args)

    monkeypatch.setattr(RequestRules, "_violations", counted)
    for number in range(500):
        told = CALLED + text_field(ID, f"request {number}") + X + BY + RAW_X + RAW_BY
        assert verdict(held, told) == "fits"
    assert looks == 1
    assert verdict(held, CALLED + text_field(ID, "x" * 513) + X + BY + RAW_X + RAW_BY) != "fits"
