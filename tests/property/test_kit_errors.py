"""The error table: every error class, through a status and back."""

from __future__ import annotations

import importlib
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from tessera_kit import errors
from tessera_kit.errors import FieldViolation, TesseraError
from tessera_kit.rpc.status import (
    INTERNAL_MESSAGE,
    code_of,
    error_from_status,
    status_of,
    trailing_metadata_of,
)

CATEGORIES = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


def all_errors(root: type[TesseraError] = TesseraError) -> list[type[TesseraError]]:
    found = [root]
    for kind in root.__subclasses__():
        found += all_errors(kind)
    return found


def load_every_error() -> None:
    root = Path(__file__).parents[2]
    for package in (root / "libs" / "tessera_kit", root / "services"):
        base = root if package.name == "services" else root / "libs"
        for path in package.rglob("*.py"):
            if path.name == "errors.py" or "rpc" in path.parts:
                name = ".".join(path.relative_to(base).with_suffix("").parts)
                importlib.import_module(name.removesuffix(".__init__"))


load_every_error()


def details_of(status: status_pb2.Status, kind: type) -> list:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__qualname__)
def test_every_error_has_a_code_a_reason_and_details(kind: type[TesseraError]) -> None:
    expected = next((CATEGORIES[base] for base in kind.__mro__ if base in CATEGORIES), None)
    code = code_of(kind)
    assert code is (expected or grpc.StatusCode.INTERNAL)
    assert kind.reason == kind.reason.upper()
    assert kind.reason.replace("_", "").isalnum()
    # A subclass may be made from facts of its own; what the table reads is the base's.
    error = kind.__new__(kind)
    TesseraError.__init__(
        error,
        "what happened",
        metadata={"name": "x"},
        violations=[FieldViolation("a.b", "must be set")],
        retry_after=1.5,
    )
    status = status_of(error)
    assert status.code == code.value[0]
    (info,) = details_of(status, error_details_pb2.ErrorInfo)
    assert info.domain == "tessera"
    if code is grpc.StatusCode.INTERNAL:
        assert status.message == INTERNAL_MESSAGE
        assert info.reason == "INTERNAL"
        assert not info.metadata
        return
    assert status.message == "what happened"
    assert info.reason == kind.reason
    assert dict(info.metadata) == {"name": "x"}
    (bad,) = details_of(status, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b", "must be set")]
    (retry,) = details_of(status, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500
    back = error_from_status(status)
    assert isinstance(kind, type) and isinstance(back, TesseraError)
    assert code_of(type(back)) is code
    assert back.violations == error.violations
    assert back.retry_after == 1.5
    assert back.metadata == {"name": "x", "reason": kind.reason}


@pytest.mark.parametrize("kind", CATEGORIES, ids=lambda kind: kind.__name__)
def test_a_service_s_subclass_inherits_its_category(kind: type[TesseraError]) -> None:
    subclass = type("Special", (kind,), {"reason": "SPECIAL"})
    assert code_of(subclass) is CATEGORIES[kind]
    assert subclass.retryable is kind.retryable


def test_only_what_may_succeed_unchanged_is_retryable() -> None:
    assert {kind for kind in CATEGORIES if kind.retryable} == {
        errors.Unavailable,
        errors.ResourceExhausted,
    }


@given(
    message=st.text(max_size=5000),
    metadata=st.dictionaries(st.text(max_size=400), st.text(max_size=400), max_size=40),
    violations=st.lists(
        st.builds(FieldViolation, st.text(max_size=400), st.text(max_size=400)), max_size=60
    ),
)
def test_no_error_outgrows_the_metadata_that_peers_accept(
    message: str, metadata: dict[str, str], violations: list[FieldViolation]
) -> None:
    error = errors.InvalidArgument(message, metadata=metadata, violations=violations)
    status = status_of(error)
    key, value = trailing_metadata_of(status)
    # base64 on the wire, beside the message percent-encoded as grpc-message
    assert len(key) + len(value) * 4 / 3 < 12 * 1024
    assert status_pb2.Status.FromString(value) == status


def test_lone_surrogates_do_not_break_a_status() -> None:
    status = status_of(errors.NotFound("no \ud800", metadata={"\udfff": "\ud800"}))
    assert status.message == "no ?"


@given(code=st.integers(-5, 40), message=st.text(), payload=st.binary(max_size=60))
def test_a_foreign_status_always_becomes_an_error(code: int, message: str, payload: bytes) -> None:
    broken = any_pb2.Any(
        type_url="type.googleapis.com/google.rpc.ErrorInfo", value=payload or b"\xff"
    )
    error = error_from_status(status_pb2.Status(code=code, message=message, details=[broken]))
    assert isinstance(error, TesseraError)
    assert error.message == message
