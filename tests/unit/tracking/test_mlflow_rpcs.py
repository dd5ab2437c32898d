"""The door's routes and MLflow's descriptors: every rpc is there, and the README tells which."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from services.tracking.mlflow.calls import Method, rpc_routes
from services.tracking.mlflow.protos import all_rpcs
from tests.mlflow_door import Door

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def task() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "mlflow_rpcs", ROOT / "infra/tasks/mlflow_rpcs.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_lists_every_rpc_with_its_state(task: ModuleType) -> None:
    text = task.README.read_text()
    assert task.with_table(text) == text
    for rpc in all_rpcs():
        assert f"| {rpc.name} |" in text


def test_every_rpc_has_its_routes_for_clients_and_for_web_pages() -> None:
    routes = {(route.method, route.path) for route in Door().routes}
    for rpc in all_rpcs():
        assert rpc.endpoints
        assert set(rpc.endpoints) <= routes
    assert ("POST", "/api/2.0/mlflow/runs/create") in routes
    assert ("GET", "/ajax-api/3.0/mlflow/traces/{trace_id}") in routes


def test_a_method_that_mlflow_does_not_have_is_a_mistake() -> None:
    async def handle(call: object) -> None: ...

    with pytest.raises(ValueError, match="no rpc MlflowService/fly"):
        rpc_routes({"MlflowService/fly": Method(handle)})


def test_the_messages_load_without_mlflow_itself() -> None:
    code = (
        "import sys; from services.tracking.mlflow.protos import all_rpcs; "
        "assert len(all_rpcs()) > 150; assert 'mlflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("method", "path", "instead"),
    [
        ("POST", "gateway/endpoints/create", "endpoints, rate limits and budgets"),
        ("GET", "gateway/budgets/windows", "the platform's own gateway"),
        ("DELETE", "gateway/guardrails/remove-from-endpoint", "mlflow.genai.evaluate"),
        ("POST", "gateway/secrets/create", "no models of outside providers are called"),
        ("GET", "workspaces", "the catalog's catalogs, schemas and grants"),
        ("POST", "prompt-optimization/jobs", "mlflow.genai.optimize_prompts"),
        ("PUT", "scorers/online-config", "judge traces with mlflow.genai.evaluate"),
    ],
)
async def test_what_is_not_offered_says_what_takes_its_place(
    method: str, path: str, instead: str
) -> None:
    answer = await Door().call(method, f"/api/3.0/mlflow/{path}")
    assert answer.error == (501, "NOT_IMPLEMENTED")
    assert instead in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/2.0/mlflow/experiments/create", b'{"name":"theirs"}'),
        ("GET", "/api/3.0/mlflow/workspaces", b""),
        ("POST", "/v1/traces", b"{}"),
    ],
)
async def test_what_is_for_a_workspace_does_not_land_elsewhere(
    method: str, path: str, body: bytes
) -> None:
    door = Door()
    headers = {"x-mlflow-workspace": "theirs", "x-mlflow-experiment-id": "1"}
    answer = await door.send(method, path, body, extra=headers)
    assert answer.error == (501, "FEATURE_DISABLED")
    assert "workspaces are not enabled" in answer.json()["message"]
    found = await door.call("POST", "experiments/search", {"max_results": 10})
    assert not found.json().get("experiments")


async def test_a_client_that_names_a_workspace_learns_what_the_server_has() -> None:
    named = {"x-mlflow-workspace": "theirs"}
    told = await Door().send("GET", "/api/3.0/mlflow/server-info", extra=named)
    assert told.json()["workspaces_enabled"] is False
    unnamed = {"x-mlflow-workspace": " "}
    assert (
        await Door().send("GET", "/api/3.0/mlflow/scorers/online-configs", extra=unnamed)
    ).status == 200
