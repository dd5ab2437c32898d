"""The stack under test: engines started once per run, or those of a stack that runs already."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack import Stack, attach, start_local
from devstack.plan import ENGINES
from devstack.services import installed
from tests.postgres import postgres_url

__all__ = ["platform", "postgres_url", "stack"]

_VARIABLE = "TESSERA_TEST_STACK"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        default=os.environ.get(_VARIABLE, "local"),
        help="local (default): start engines in a temporary home; attach:PATH: use the stack whose "
        "data directory, stack.json or JSON object of TESSERA_* variables is PATH. "
        f"{_VARIABLE} sets the default.",
    )


@pytest.fixture(scope="session")
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """Every engine, healthy; started when the first test asks for it.

    Also Triton's process, wherever the platform's models run: tests of the way to it ask it.
    """
    choice: str = request.config.getoption("--stack")
    if choice.startswith("attach:"):
        yield attach(choice.removeprefix("attach:"))
        return
    if choice != "local":
        raise pytest.UsageError(f"--stack is local or attach:PATH, not {choice!r}")
    # People's folders have such names; every engine and service must live with them.
    with tempfile.TemporaryDirectory(prefix="tessera test's ") as directory:
        async with start_local(Path(directory), engines=ENGINES, services=()) as local:
            yield local


@pytest.fixture(scope="session")
async def platform(stack: Stack) -> Stack:
    """The same stack with every installed service running on it."""
    if stack.is_local:
        missing = set(installed()) - {process.name for process in stack.state().processes}
        if missing:
            await stack.start(*missing)
    return stack


@pytest.fixture(scope="session")
def local_stack(stack: Stack) -> Stack:
    """The stack, for tests that kill its processes.

    They are skipped where it was attached from elsewhere.
    """
    if not stack.is_local:
        pytest.skip("the stack's processes are not on this machine")
    return stack
