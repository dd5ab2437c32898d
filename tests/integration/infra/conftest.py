"""A platform on which a little of everything happened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest

from devstack import Stack
from tests.integration.devstack.clients import clickhouse_client
from tests.integration.infra.life import Life, live
from tests.model_runtime import direct_model


@pytest.fixture(scope="session")
async def life(platform: Stack) -> AsyncIterator[Life]:
    """What happened.

    Triton's process shows one of the models too, as in a cluster, wherever the gateway's runs.
    """
    life = await live(platform)
    async with direct_model(platform) if platform.is_local else nullcontext():
        yield life


@pytest.fixture(scope="session")
async def clickhouse(platform: Stack) -> AsyncIterator[Any]:
    """ClickHouse as Grafana's data source reaches it."""
    database = platform.environment["TESSERA_CLICKHOUSE_DATABASE"]
    async with clickhouse_client(platform, database=database) as client:
        yield client
