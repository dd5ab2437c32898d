"""Serialised messages are taken apart and put together without being parsed."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from services.inference.domain.fields import bytes_fields, bytes_head, split

RAW = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
MESSAGES = st.builds(
    service_pb2.ModelInferRequest,
    model_name=st.text(max_size=20),
    id=st.text(max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=4),
    inputs=st.lists(
        st.builds(
            service_pb2.ModelInferRequest.InferInputTensor,
            name=st.text(max_size=5),
            shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        ),
        max_size=3,
    ),
)


@given(MESSAGES)
def test_a_message_is_its_head_and_its_values(message: service_pb2.ModelInferRequest) -> None:
    parts = split(message.SerializeToString(), RAW)
    assert parts is not None
    assert parts.values == list(message.raw_input_contents)
    again = b"".join((parts.head, *bytes_fields(RAW, parts.values)))
    assert service_pb2.ModelInferRequest.FromString(again) == message
    del message.raw_input_contents[:]
    assert service_pb2.ModelInferRequest.FromString(parts.head) == message


def test_values_are_views() -> None:
    message = service_pb2.ModelInferRequest(raw_input_contents=[b"x" * 100]).SerializeToString()
    parts = split(message, RAW)
    assert parts is not None
    assert parts.values[0].obj is message


def test_fields_of_every_kind_stay_in_the_head() -> None:
    fixed = b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x78\xff\x01"
    parts = split(fixed + bytes_head(RAW, 1) + b"a" + fixed, RAW)
    assert parts is not None
    assert (parts.head, parts.values) == (fixed + fixed, [b"a"])


@settings(max_examples=300)
@given(st.binary(max_size=40))
@example(b"\x3a")
@example(b"\x3a\x05abc")
@example(b"\xff" * 12)
@example(b"\x7b\x7c")
def test_any_bytes_are_taken_apart_within_their_bounds_or_not_at_all(noise: bytes) -> None:
    parts = split(noise, RAW)
    if parts is not None:
        values = sum(len(value) + len(bytes_head(RAW, len(value))) for value in parts.values)
        # A length may be written in more bytes than it needs.
        assert len(parts.head) + values <= len(noise)


@pytest.mark.parametrize("cut", range(1, 12))
def test_what_ends_within_a_field_is_no_message(cut: int) -> None:
    whole = bytes_head(RAW, 10) + b"0123456789"
    assert split(whole[:-cut], RAW) is None
