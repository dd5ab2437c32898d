"""One body over what gateways share of rate limits, in memory and in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.inference.adapters.memory import InMemoryBudgets
from services.inference.adapters.sql import SqlBudgets
from services.inference.domain.limits import RateLimit, RateScope
from services.inference.errors import RateLimited
from services.inference.gateway.limiter import RateLimiter
from services.inference.ports import RateBudgets
from tessera_kit.clock import ManualClock
from tessera_kit.config import DatabaseConfig
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.migrate import migrate
from tessera_kit.store.sql import Database

WHO = Principal("ada")


class BudgetsContract:
    """What `ports.RateBudgets` promises."""

    async def test_never_more_is_taken_than_there_is(self, budgets: RateBudgets) -> None:
        assert await budgets.take("e", "k", 60, 4, 10) == 4
        assert await budgets.take("e", "k", 60, 4, 10) == 4
        assert await budgets.take("e", "k", 60, 4, 10) == 2
        assert await budgets.take("e", "k", 60, 4, 10) == 0
        assert await budgets.take("e", "k", 60, 1, 0) == 0

    async def test_windows_and_budgets_are_apart(self, budgets: RateBudgets) -> None:
        for place in (("e", "k", 60), ("e", "k", 120), ("e", "other", 60), ("f", "k", 60)):
            assert await budgets.take(*place, 5, 5) == 5

    async def test_what_is_over_is_forgotten(self, budgets: RateBudgets) -> None:
        await budgets.take("e", "k", 60, 5, 5)
        await budgets.take("e", "k", 120, 5, 5)
        await budgets.expire(120)
        assert await budgets.take("e", "k", 60, 5, 5) == 5
        assert await budgets.take("e", "k", 120, 5, 5) == 0

    async def test_takers_at_once_take_no_more(self, budgets: RateBudgets) -> None:
        taken = await asyncio.gather(*(budgets.take("e", "k", 60, 3, 20) for _ in range(10)))
        assert sum(taken) == 20

    @pytest.mark.parametrize("calls", [7, 1000, 4000])
    async def test_four_gateways_together_stay_within_one_percent(
        self, budgets: RateBudgets, calls: int
    ) -> None:
        """Their callers try three times as often as may be, the first gateway's most of all."""
        clock = ManualClock(datetime(2026, 11, 26, 7, 0, tzinfo=UTC))
        gateways = [RateLimiter(budgets, clock) for _ in range(4)]
        limits = [RateLimit(RateScope.ENDPOINT, "", 60, calls)]

        async def call(limiter: RateLimiter, tries: int) -> int:
            admitted = 0
            for number in range(tries):
                try:
                    await limiter.admit("e", limits, WHO, "t")
                    admitted += 1
                except RateLimited:
                    pass
                if number % 10 == 0:
                    await asyncio.sleep(0)
            return admitted

        tries = (calls * 3 // 2, calls // 2, calls // 2, calls // 2)
        admitted = sum(await asyncio.gather(*map(call, gateways, tries)))
        assert calls * 0.99 <= admitted <= calls


class TestMemory(BudgetsContract):
    @pytest.fixture
    def budgets(self) -> InMemoryBudgets:
        return InMemoryBudgets()


class TestSql(BudgetsContract):
    @pytest.fixture
    async def budgets(self, tmp_path: Path) -> AsyncIterator[SqlBudgets]:
        config = DatabaseConfig(f"sqlite+aiosqlite:///{tmp_path}/inference.db")
        await migrate(config.url, "inference")
        async with Database(config) as database:
            yield SqlBudgets(database)
