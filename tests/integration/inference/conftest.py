"""A serving platform for the tests that need the services' own processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devstack import Stack
from tests.integration.inference.serving import Serving, open_serving


@pytest.fixture(scope="module")
async def serving(stack: Stack) -> AsyncIterator[Serving]:
    """Its models leave the runtime with the module: those who kill it later need not wait."""
    serving = await open_serving(stack)
    yield serving
    await serving.delete_endpoints()
    await serving.close()
