"""Rate limits: whom they count, the strictest wins, and what a refused caller is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from services.inference.adapters.memory import InMemoryBudgets
from services.inference.domain.endpoint import Endpoint
from services.inference.domain.limits import RateLimit, RateScope, check_limits
from services.inference.domain.settings import EndpointSettings
from services.inference.errors import InvalidConfig, RateLimited
from services.inference.gateway.limiter import RateLimiter
from tessera.events.v1 import inference_events_pb2 as pb
from tessera_kit.clock import ManualClock
from tessera_kit.rpc.identity import Principal
from tests.unit.inference.gateway import Context, Gateway

Make = Callable[..., Any]
ADA = Principal("ada", groups=frozenset({"team"}))
BOB = Principal("bob", groups=frozenset({"team"}))
CY = Principal("cy")


class Limiter:
    """A limiter with a clock that a test moves."""

    def __init__(self, *limits: RateLimit) -> None:
        self.budgets = InMemoryBudgets()
        self.clock = ManualClock(datetime(2026, 11, 26, 7, 59, 30, tzinfo=UTC))
        self.limits = limits
        self.limiter = RateLimiter(self.budgets, self.clock)

    async def admits(self, who: Principal = ADA, token: str = "") -> bool:
        try:
            await self.limiter.admit("e", self.limits, who, token)
        except RateLimited:
            return False
        return True

    async def count(self, tries: int, who: Principal = ADA, token: str = "") -> int:
        return sum([await self.admits(who, token) for _ in range(tries)])


def limit(scope: RateScope, calls: int, subject: str = "", seconds: int = 60) -> RateLimit:
    return RateLimit(scope, subject, seconds, calls)


async def test_one_process_admits_exactly_the_limit_of_each_window() -> None:
    limiter = Limiter(limit(RateScope.ENDPOINT, 1000))
    assert await limiter.count(1500) == 1000
    asked = limiter.budgets.asked
    assert await limiter.count(500, CY) == 0
    assert limiter.budgets.asked == asked, "an empty window is not asked about again"
    limiter.clock.advance(30)
    assert await limiter.count(1500) == 1000


async def test_each_scope_counts_its_own() -> None:
    limiter = Limiter(limit(RateScope.USER, 3))
    assert [await limiter.count(5, who) for who in (ADA, BOB)] == [3, 3]
    limiter = Limiter(limit(RateScope.USER, 2, "ada"))
    assert [await limiter.count(5, who) for who in (ADA, BOB)] == [2, 5]
    limiter = Limiter(limit(RateScope.GROUP, 4, "team"))
    assert [await limiter.count(3, who) for who in (ADA, BOB, CY)] == [3, 1, 3]
    limiter = Limiter(limit(RateScope.TOKEN, 2))
    assert [await limiter.count(3, ADA, token) for token in ("one", "two")] == [2, 2]


async def test_the_strictest_wins_and_takes_nothing_from_the_others() -> None:
    limiter = Limiter(
        limit(RateScope.ENDPOINT, 10),
        limit(RateScope.USER, 2),
        limit(RateScope.ENDPOINT, 11, seconds=3600),
    )
    assert [await limiter.count(6, who) for who in (ADA, BOB, CY)] == [2, 2, 2]
    limiter.clock.advance(30)
    # The hour began anew with the minute: of its 11 calls the refused ones took none.
    assert [await limiter.count(6, who) for who in (ADA, BOB, CY)] == [2, 2, 2]
    limiter.clock.advance(60)
    assert [await limiter.count(6, who) for who in (ADA, BOB, CY)] == [2, 2, 1]


async def test_zero_denies_and_says_so() -> None:
    limiter = Limiter(limit(RateScope.USER, 0, "ada"))
    with pytest.raises(RateLimited, match="denied") as caught:
        await limiter.limiter.admit("e", limiter.limits, ADA, "t")
    assert caught.value.retry_after is None
    assert await limiter.admits(BOB)


async def test_a_refused_caller_is_told_when_the_window_ends() -> None:
    limiter = Limiter(limit(RateScope.GROUP, 1, "team"))
    assert await limiter.admits()
    with pytest.raises(RateLimited, match="group 'team' in this minute") as caught:
        await limiter.limiter.admit("e", limiter.limits, BOB, "t")
    assert caught.value.retry_after == pytest.approx(30)


async def test_while_the_store_is_away_each_process_counts_for_itself() -> None:
    limiter = Limiter(limit(RateScope.ENDPOINT, 50))
    limiter.budgets.up = False
    assert await limiter.count(80) == 50


async def test_windows_that_are_over_are_forgotten() -> None:
    limiter = Limiter(limit(RateScope.USER, 5))
    await limiter.count(1)
    limiter.clock.advance(3 * 3600)
    await limiter.limiter.sweep()
    assert limiter.limiter._windows == {}
    assert limiter.budgets._taken == {}


def limited(endpoint: Endpoint, *limits: RateLimit) -> Endpoint:
    return replace(endpoint, settings=EndpointSettings(rate_limits=limits))


async def test_a_limited_call_is_refused_with_retry_info_and_has_its_row(
    make_endpoint: Make, make_request: Make
) -> None:
    gateway = Gateway(limited(make_endpoint(), limit(RateScope.USER, 1, seconds=3600)))
    await gateway.infer(make_request(), Context())
    context = Context()
    await gateway.refused(make_request(), context)
    assert (context.code, context.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RATE_LIMITED",
    )
    status = status_pb2.Status.FromString(context.trailing["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 3600
    record = gateway.records[-1]
    assert (record.status_code, record.route) == (8, pb.PAYLOAD_ROUTE_REFUSED)
    assert record.request


@pytest.mark.parametrize(
    "limits",
    [
        (limit(RateScope.GROUP, 1),),
        (limit(RateScope.ENDPOINT, 1, "ada"),),
        (limit(RateScope.TOKEN, 1, "x"),),
        (limit(RateScope.USER, 1), limit(RateScope.USER, 2)),
    ],
)
def test_limits_that_say_nothing_clear_are_refused(limits: tuple[RateLimit, ...]) -> None:
    with pytest.raises(InvalidConfig, match="rate_limits"):
        check_limits(limits)
