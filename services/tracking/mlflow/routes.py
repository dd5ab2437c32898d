"""Every path of the MLflow door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.artifacts import ArtifactMethods
from services.tracking.mlflow.calls import Method, RawMethod, rpc_routes
from services.tracking.mlflow.errors import mlflow_error
from services.tracking.mlflow.evaluation import EvaluationMethods, online_scoring_routes
from services.tracking.mlflow.experiments import ExperimentMethods
from services.tracking.mlflow.models import ModelMethods
from services.tracking.mlflow.otlp_door import otlp_routes
from services.tracking.mlflow.protos import PREFIXES
from services.tracking.mlflow.registry import RegistryMethods
from services.tracking.mlflow.reviews import ReviewMethods
from services.tracking.mlflow.runs import RunMethods
from services.tracking.mlflow.traces import TraceMethods
from services.tracking.mlflow.transfers import TransferMethods
from services.tracking.mlflow.webhooks import WebhookMethods
from services.tracking.mlflow.workspaces import without_workspaces
from services.tracking.mlflow.writes import WriteMethods
from tessera_kit.http.routes import Endpoint, HttpRoute
from tessera_kit.http.status import json_response

__all__ = ["mlflow_methods", "mlflow_routes"]

MLFLOW_VERSION: Final = "3.17.2"
"""The MLflow whose server this door stands for; clients ask."""

_SERVER_INFO: Final[dict[str, Any]] = {
    "store_type": "SqlStore",
    "workspaces_enabled": False,
    "trace_archival_enabled": False,
    "multipart_downloads_enabled": False,
    "presigned_upload_run_id_supported": True,
    "presigned_upload_model_id_supported": True,
}
"""What clients may use of this server beyond its rpcs."""


def mlflow_methods(cases: UseCases) -> Mapping[str, Method | RawMethod]:
    """Return who answers which rpc; an rpc without an entry answers NOT_IMPLEMENTED."""
    return {
        **_registry_methods(cases),
        **ExperimentMethods(cases).methods(),
        **RunMethods(cases).methods(),
        **WriteMethods(cases).methods(),
        **TraceMethods(cases).methods(),
        **EvaluationMethods(cases).methods(),
        **ReviewMethods(cases).methods(),
        **ArtifactMethods(cases).methods(),
        **TransferMethods(cases).methods(),
        **ModelMethods(cases).methods(),
    }


def _registry_methods(cases: UseCases) -> Mapping[str, Method]:
    registry = cases.registry
    if registry is None:
        return {}
    methods = RegistryMethods(registry, cases.models).methods()
    if cases.webhooks is None:
        return methods
    return {**methods, **WebhookMethods(cases.webhooks).methods()}


def mlflow_routes(cases: UseCases, *, uploads_in_parts: bool = False) -> Sequence[HttpRoute]:
    """Return the routes over use cases.

    Args:
        cases: Who does the work.
        uploads_in_parts: Whether clients are told to send large files to the object store by
            themselves, which they must be able to reach.
    """
    about_the_server = [
        HttpRoute("GET", "/health", _health, "mlflow.Server/health", open=True),
        HttpRoute("GET", "/version", _version, "mlflow.Server/version", open=True),
        *(
            HttpRoute(
                "GET",
                f"{prefix}/3.0/mlflow/server-info",
                _server_info(uploads_in_parts),
                "mlflow.Server/info",
            )
            for prefix in PREFIXES
        ),
    ]
    about_work = [
        replace(route, endpoint=without_workspaces(route.endpoint))
        for route in (
            *online_scoring_routes(),
            *otlp_routes(cases),
            *rpc_routes(mlflow_methods(cases)),
        )
    ]
    return [replace(route, render=mlflow_error) for route in (*about_the_server, *about_work)]


async def _health(request: Request) -> Response:
    return PlainTextResponse("OK")


async def _version(request: Request) -> Response:
    return PlainTextResponse(MLFLOW_VERSION)


def _server_info(uploads_in_parts: bool) -> Endpoint:
    told = {**_SERVER_INFO, "multipart_uploads_enabled": uploads_in_parts}

    async def endpoint(request: Request) -> Response:
        return json_response(told)

    return endpoint
