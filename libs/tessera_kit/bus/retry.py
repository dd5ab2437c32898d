"""When to try again: which errors pass by themselves, how long to wait, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass

import grpc
from aiokafka.errors import KafkaError

from tessera_kit.errors import Aborted, DeadlineExceeded, TesseraError

__all__ = ["RetryPolicy", "is_retryable"]

_PASSING_RPC_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, inside a budget.

    RetryPolicy()                        # 0.05 s, 0.1 s, … 10 s, for 5 minutes
    RetryPolicy(budget_seconds=None)     # for ever: where nothing else would be right
    """

    initial_seconds: float = 0.05
    """Longest wait before the second attempt."""
    maximum_seconds: float = 10.0
    """Longest wait between two attempts."""
    multiplier: float = 2.0
    """How much longer each wait may be than the one before."""
    budget_seconds: float | None = 300.0
    """No attempt begins later than this after the first one; None for no limit."""
    attempt_seconds: float = 60.0
    """How long one attempt may take before it is cancelled and counts as failed."""

    def delay(self, attempts: int, elapsed: float) -> float | None:
        """Seconds to wait before the next attempt; None when the budget is spent.

        Args:
            attempts: How many failed so far, 1 or more.
            elapsed: Seconds since the first one began.
        """
        # The exponent is bounded, or a long outage would overflow the power.
        ceiling = min(
            self.maximum_seconds, self.initial_seconds * self.multiplier ** min(attempts - 1, 32)
        )
        # Half fixed, half random: spread out, and never a busy loop.
        delay = ceiling * (0.5 + 0.5 * random.random())  # noqa: S311
        if self.budget_seconds is not None and elapsed + delay > self.budget_seconds:
            return None
        return delay


def is_retryable(error: BaseException) -> bool:
    """Whether the same work may succeed later without anybody changing anything.

    Stores tell what passes in our error tree, so this knows no database.
    """
    match error:
        case TesseraError():
            return error.retryable or isinstance(error, Aborted | DeadlineExceeded)
        case KafkaError():
            return bool(error.retriable)
        case TimeoutError() | OSError():
            return True
        case grpc.aio.AioRpcError():
            return error.code() in _PASSING_RPC_CODES
    return False
