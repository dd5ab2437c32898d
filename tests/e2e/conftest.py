"""The platform's doors, as their users reach them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devstack import Stack
from tessera import AsyncClient
from tests.e2e.world import Served, serve_model, settings_of


@pytest.fixture(scope="session")
async def client(platform: Stack) -> AsyncIterator[AsyncClient]:
    """A client with the administrator's token."""
    async with AsyncClient(settings_of(platform)) as client:
        yield client


@pytest.fixture(scope="session")
async def served(client: AsyncClient) -> Served:
    """An endpoint that tests share; each asks it what it likes, and none changes it."""
    return await serve_model(client)
