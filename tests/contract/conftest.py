"""Worlds that several contracts are held in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devstack import Stack
from tests.monitoring_world import ClickHouseWorld, open_clickhouse


@pytest.fixture(scope="module")
async def clickhouse_world(stack: Stack) -> AsyncIterator[ClickHouseWorld]:
    """Monitoring's analytics in a database of its own."""
    async with open_clickhouse(stack.environment) as world:
        yield world
