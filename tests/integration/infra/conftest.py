"""A platform on which a little of everything happened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from devstack import Stack
from tests.integration.devstack.clients import clickhouse_client
from tests.integration.infra.life import Life, live


@pytest.fixture(scope="session")
async def life(platform: Stack) -> Life:
    """What happened."""
    return await live(platform)


@pytest.fixture(scope="session")
async def clickhouse(platform: Stack) -> AsyncIterator[Any]:
    """ClickHouse as Grafana's data source reaches it."""
    database = platform.environment["TESSERA_CLICKHOUSE_DATABASE"]
    async with clickhouse_client(platform, database=database) as client:
        yield client
