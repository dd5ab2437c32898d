"""Unmodified clients of MLflow against the running service and catalog, by URL and token alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from devstack import Stack
from tessera_kit.config import Env
from tests.helpers import unique_name

CLIENT = Path(__file__).with_name("mlflow_client.py")
SCENARIOS = re.findall(r"^@scenario\ndef (\w+)", CLIENT.read_text(), flags=re.MULTILINE)
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
}


@pytest.fixture(scope="module")
async def results(local_stack: Stack) -> dict[str, str]:
    """What each scenario did; all run in one process, for MLflow takes seconds to import."""
    await local_stack.start("catalog", "tracking")
    token = Env(local_stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CLIENT)),
        env={
            **os.environ,
            **QUIET,
            "MLFLOW_TRACKING_URI": local_stack.urls["tracking_http"],
            "MLFLOW_TRACKING_TOKEN": token.reveal(),
            "SCENARIO_NAME": unique_name("mlflow"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-5000:]
    found: dict[str, str] = json.loads(output.decode().splitlines()[-1])
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_client_works_unchanged(results: dict[str, str], name: str) -> None:
    assert results[name] == "", results[name]
