"""A catalog in memory."""

from __future__ import annotations

import pytest

from tests.catalog_world import World


@pytest.fixture
async def world() -> World:
    world = World()
    await world.begin()
    return world
