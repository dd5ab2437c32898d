"""Requests are held to the signature before the runtime sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.inference.domain.signature import Signature
from services.inference.errors import InvalidInference
from services.inference.gateway.validation import RequestRules

Make = Callable[..., Any]


@pytest.fixture
def rules(signature: Signature) -> RequestRules:
    return RequestRules(signature, max_rows=16)


def held(rules: RequestRules, request: Any) -> None:
    rules.check(request, request.SerializeToString(), request.raw_input_contents)


def violations(rules: RequestRules, request: Any) -> dict[str, str]:
    with pytest.raises(InvalidInference) as caught:
        held(rules, request)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_what_the_signature_describes_passes(rules: RequestRules, make_request: Make) -> None:
    held(rules, make_request(1))
    held(rules, make_request(16))


def test_metadata_may_come_along(rules: RequestRules, make_request: Make) -> None:
    request = make_request()
    request.inputs.add(name="flown_at", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\x04\x00\x00\x002013")
    held(rules, request)


def test_typed_contents_pass(rules: RequestRules, make_request: Make) -> None:
    request = make_request()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    request.inputs[1].contents.bytes_contents.append(b"UA")
    held(rules, request)


def set_shape(index: int, *shape: int) -> Callable[[Any], None]:
    def apply(request: Any) -> None:
        request.inputs[index].shape[:] = shape

    return apply


def set_raw(index: int, content: bytes) -> Callable[[Any], None]:
    def apply(request: Any) -> None:
        request.raw_input_contents[index] = content

    return apply


def shared_memory(request: Any) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


def both_contents(request: Any) -> None:
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])


def twice(request: Any) -> None:
    request.inputs[1].CopyFrom(request.inputs[0])
    request.raw_input_contents[1] = request.raw_input_contents[0]


@pytest.mark.parametrize(
    ("field", "words", "apply"),
    [
        ("inputs[0] 'x'", "must be FP32", lambda r: setattr(r.inputs[0], "datatype", "FP64")),
        ("inputs[0] 'y'", "no such input", lambda r: setattr(r.inputs[0], "name", "y")),
        ("inputs 'x'", "is missing", lambda r: setattr(r.inputs[0], "name", "y")),
        ("inputs[0] 'x'", "must have shape [any, 4]", set_shape(0, 1, 5)),
        ("inputs[0] 'x'", "must have shape", set_shape(0, 1)),
        ("inputs[0] 'x'", "must have shape", set_shape(0, 0, 4)),
        ("inputs[0] 'x'", "must have shape", set_shape(0, -1, 4)),
        ("inputs[0] 'x'", "16 bytes of raw contents; its shape needs 32", set_shape(0, 2, 4)),
        ("inputs[0] 'x'", "bytes of raw contents", set_raw(0, b"")),
        ("inputs[1] 'carrier'", "end within a text", set_raw(1, b"\xff\xff\xff\xffUA")),
        ("inputs[1] 'carrier'", "end within a text", set_raw(1, b"\x02\x00")),
        ("inputs[1] 'carrier'", "has 2 texts", set_raw(1, b"\x00\x00\x00\x00" * 2)),
        ("inputs[1] 'carrier'", "has 0 texts", set_raw(1, b"")),
        ("raw_input_contents", "has 3 entries", lambda r: r.raw_input_contents.append(b"")),
        ("inputs[0] 'x'", "shared memory", shared_memory),
        ("inputs[0] 'x'", "beside raw_input_contents", both_contents),
        ("inputs[1] 'x'", "is given twice", twice),
        ("id", "at most 512", lambda r: setattr(r, "id", "i" * 513)),
        ("outputs[0] 'logit'", "no such output", lambda r: r.outputs.add(name="logit")),
    ],
)
def test_what_does_not_fit_is_named(
    rules: RequestRules,
    make_request: Make,
    field: str,
    words: str,
    apply: Callable[[Any], None],
) -> None:
    request = make_request()
    apply(request)
    found = violations(rules, request)
    assert words in found[field]
    # Nor does it fit once the forms of requests that did are known.
    held(rules, make_request())
    assert violations(rules, request) == found


def test_rows_must_agree(rules: RequestRules, make_request: Make) -> None:
    for rows in (1, 2):
        held(rules, make_request(rows))
    request = make_request(2)
    request.inputs[1].shape[:] = [1, 1]
    request.raw_input_contents[1] = b"\x02\x00\x00\x00UA"
    assert "first input has 2" in violations(rules, request)["inputs[1] 'carrier'"]


def test_rows_are_bounded(rules: RequestRules, make_request: Make) -> None:
    assert "at most 16" in violations(rules, make_request(17))["inputs[0] 'x'"]


def test_what_perf_analyzer_sends_along_is_let_through(
    rules: RequestRules, make_request: Make
) -> None:
    request = make_request()
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    held(rules, request)


@pytest.mark.parametrize("name", ["sequence_id", "triton_final_response"])
def test_parameters_of_the_runtime_are_refused(
    rules: RequestRules, make_request: Make, name: str
) -> None:
    request = make_request()
    request.parameters[name].int64_param = 1
    assert "is not served" in violations(rules, request)[f"parameters[{name!r}]"]


def test_typed_contents_of_another_type_are_refused(
    rules: RequestRules, make_request: Make
) -> None:
    request = make_request()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp64_contents.extend([1, 2, 3, 4])
    request.inputs[1].contents.bytes_contents.extend([b"UA", b"AA"])
    found = violations(rules, request)
    assert "is sent in fp32_contents" in found["inputs[0] 'x'"]
    assert "has 2 elements" in found["inputs[1] 'carrier'"]


def test_nothing_at_all_is_refused(rules: RequestRules, make_request: Make) -> None:
    request = make_request()
    del request.inputs[:]
    del request.raw_input_contents[:]
    assert violations(rules, request) == {
        "inputs 'carrier'": "is missing",
        "inputs 'x'": "is missing",
    }
