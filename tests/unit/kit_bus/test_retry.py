"""What is tried again, when, and for how long."""

from __future__ import annotations

import grpc
import pytest
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from hypothesis import given
from hypothesis import strategies as st

from tessera_kit import errors
from tessera_kit.bus.retry import RetryPolicy, is_retryable
from tessera_kit.store.sql_errors import DatabaseUnavailable


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize(
    "error",
    [
        errors.Unavailable("x"),
        errors.ResourceExhausted("x"),
        errors.Aborted("x"),
        errors.DeadlineExceeded("x"),
        DatabaseUnavailable("x"),
        KafkaConnectionError(),
        ConnectionResetError(),
        TimeoutError(),
        rpc_error(grpc.StatusCode.UNAVAILABLE),
    ],
    ids=repr,
)
def test_what_passes_is_tried_again(error: Exception) -> None:
    assert is_retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument("x"),
        errors.NotFound("x"),
        errors.FailedPrecondition("x"),
        errors.Internal("x"),
        TopicAuthorizationFailedError(),
        KeyError("x"),
        ValueError("x"),
        rpc_error(grpc.StatusCode.PERMISSION_DENIED),
    ],
    ids=repr,
)
def test_what_stays_is_not(error: Exception) -> None:
    assert not is_retryable(error)


@given(st.integers(1, 10_000))
def test_waits_grow_to_a_ceiling_and_are_never_nothing(attempts: int) -> None:
    policy = RetryPolicy(initial_seconds=0.05, maximum_seconds=10, budget_seconds=None)
    ceiling = min(10.0, 0.05 * 2.0 ** min(attempts - 1, 32))
    delay = policy.delay(attempts, elapsed=1e9)
    assert delay is not None
    assert ceiling / 2 <= delay <= ceiling


@given(st.integers(1, 100), st.floats(0, 1000))
def test_no_attempt_begins_after_the_budget(attempts: int, elapsed: float) -> None:
    policy = RetryPolicy(initial_seconds=1, maximum_seconds=10, budget_seconds=60)
    delay = policy.delay(attempts, elapsed)
    assert (delay is None) or elapsed + delay <= 60
    if elapsed + 10 <= 60:
        assert delay is not None
