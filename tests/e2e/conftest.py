"""The platform's doors, as their users reach them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devstack import Stack
from tessera import AsyncClient
from tests.e2e.world import settings_of


@pytest.fixture(scope="session")
async def client(platform: Stack) -> AsyncIterator[AsyncClient]:
    """A client with the administrator's token."""
    async with AsyncClient(settings_of(platform)) as client:
        yield client
