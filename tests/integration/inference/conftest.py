"""A serving platform for the tests that need the services' own processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from devstack import Stack
from tests.integration.inference.serving import Serving, open_serving


@pytest.fixture(scope="session")
async def serving(stack: Stack) -> AsyncIterator[Serving]:
    serving = await open_serving(stack)
    yield serving
    await serving.close()
