"""Unmodified clients of MLflow against the running service and catalog, by URL and token alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from devstack import Stack
from tessera import AsyncClient
from tessera.catalog.v1 import lineage_service_pb2 as lineage
from tessera_kit.config import Env
from tests.e2e.world import settings_of
from tests.helpers import eventually, unique_name

CLIENT = Path(__file__).with_name("mlflow_client.py")
SCENARIOS = re.findall(r"^@scenario\ndef (\w+)", CLIENT.read_text(), flags=re.MULTILINE)
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # The client loads each model again, to see what it imports; after a second it does without.
    "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
}


@pytest.fixture(scope="module")
def name_of_all() -> str:
    """What the names of all that the scenarios make begin with."""
    return unique_name("mlflow")


@pytest.fixture(scope="module")
async def results(local_stack: Stack, name_of_all: str) -> dict[str, str]:
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
            "SCENARIO_NAME": name_of_all,
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


@pytest.mark.timeout(300)
async def test_the_catalog_shows_where_a_version_comes_from(
    local_stack: Stack, results: dict[str, str], name_of_all: str
) -> None:
    assert results["a_version_of_a_model_of_a_run_that_read_a_table"] == ""
    version = lineage.LineageNode(
        type=lineage.LINEAGE_NODE_TYPE_MODEL_VERSION, name=f"main.default.{name_of_all}_traced/1"
    )
    async with AsyncClient(settings_of(local_stack)) as client:

        async def chain() -> str:
            edges = await client.lineage.get(
                version.type, version.name, direction=lineage.LINEAGE_DIRECTION_UPSTREAM
            )
            model = _source(edges, version, lineage.LINEAGE_NODE_TYPE_LOGGED_MODEL)
            run = _source(edges, model, lineage.LINEAGE_NODE_TYPE_RUN)
            return _source(edges, run, lineage.LINEAGE_NODE_TYPE_TABLE).name

        table = await eventually(chain, timeout=60, interval=0.25)
        assert table == f"main.default.{name_of_all}_rows"
        edges = await client.lineage.get(
            version.type, version.name, direction=lineage.LINEAGE_DIRECTION_UPSTREAM
        )
        model = _source(edges, version, lineage.LINEAGE_NODE_TYPE_LOGGED_MODEL)
        run = _source(edges, model, lineage.LINEAGE_NODE_TYPE_RUN)
        page = await _page_of(local_stack, run.name)
    # What the run used, and what came of it.
    assert table in page
    assert model.name in page
    assert "lineage is not shown" not in page


async def _page_of(stack: Stack, run_id: str) -> str:
    token = Env(stack.environment).secret_file("TESSERA_ADMIN_TOKEN_FILE").reveal()
    url = f"{stack.urls['tracking_http']}/pages/runs/{run_id}"
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as answer:
        assert answer.status == 200
        return await answer.text()


def _source(
    edges: list[lineage.LineageEdge],
    target: lineage.LineageNode,
    kind: lineage.LineageNodeType.ValueType,
) -> lineage.LineageNode:
    found = [one.source for one in edges if one.target == target and one.source.type == kind]
    assert len(found) == 1, edges
    return found[0]
