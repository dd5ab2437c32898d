"""One body over what processes share of a replacement of the runtime, in memory and in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.inference.adapters.memory import InMemoryReplacements
from services.inference.adapters.sql import SqlReplacements
from services.inference.ports import Replacements
from tessera_kit.store.sql import Database
from tests.databases import fresh_postgres, fresh_sqlite

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=10)
LATER = NOW + timedelta(seconds=20)


class ReplacementsContract:
    """What `ports.Replacements` promises."""

    async def test_one_leads_and_the_others_see_it(self, store: Replacements) -> None:
        assert await store.under_way(NOW, but="a") is None
        led = await asyncio.gather(*(store.lead(one, now=NOW, until=SOON) for one in "abc"))
        assert sum(led) == 1
        leader = "abc"[led.index(True)]
        for one in "abc":
            assert await store.under_way(NOW, but=one) == (None if one == leader else SOON)
        assert await store.lead(leader, now=NOW, until=LATER)
        assert await store.under_way(SOON, but="d") == LATER

    async def test_who_joined_is_waited_for(self, store: Replacements) -> None:
        await store.lead("a", now=NOW, until=SOON)
        assert await store.drained()
        await store.join("b", is_drained=False)
        await store.join("c", is_drained=True)
        assert not await store.drained()
        await store.lead("a", now=NOW, until=LATER)
        assert not await store.drained(), "a longer lease forgets nobody"
        await store.join("b", is_drained=True)
        assert await store.drained()

    async def test_only_the_leader_ends_it(self, store: Replacements) -> None:
        await store.lead("a", now=NOW, until=SOON)
        await store.join("b", is_drained=False)
        await store.finish("b")
        assert (await store.under_way(NOW, but="b"), await store.drained()) == (SOON, False)
        await store.finish("a")
        assert (await store.under_way(NOW, but="b"), await store.drained()) == (None, True)
        assert await store.lead("b", now=NOW, until=SOON)

    async def test_a_lease_that_is_over_binds_nobody(self, store: Replacements) -> None:
        await store.lead("a", now=NOW, until=SOON)
        await store.join("c", is_drained=False)
        assert await store.under_way(SOON, but="b") is None
        assert await store.lead("b", now=SOON, until=LATER)
        assert await store.drained()
        await store.finish("a")
        assert await store.under_way(SOON, but="a") == LATER


class TestMemory(ReplacementsContract):
    @pytest.fixture
    def store(self) -> InMemoryReplacements:
        return InMemoryReplacements()


class TestSql(ReplacementsContract):
    @pytest.fixture(params=["sqlite", "postgresql"])
    async def store(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> AsyncIterator[SqlReplacements]:
        if request.param == "sqlite":
            config = await fresh_sqlite(tmp_path, "inference")
        else:
            config = await fresh_postgres(request.getfixturevalue("postgres_url"), "inference")
        async with Database(config) as database:
            yield SqlReplacements(database)
