"""Every path of the MLflow door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tessera_kit.http.routes import HttpRoute

__all__ = ["mlflow_routes"]

MLFLOW_VERSION: Final = "3.17.2"
"""The MLflow whose server this door stands for; clients ask."""


def mlflow_routes() -> Sequence[HttpRoute]:
    """Return the routes over use cases."""
    return [
        HttpRoute("GET", "/health", _health, "mlflow.Server/health", open=True),
        HttpRoute("GET", "/version", _version, "mlflow.Server/version", open=True),
    ]


async def _health(request: Request) -> Response:
    return PlainTextResponse("OK")


async def _version(request: Request) -> Response:
    return PlainTextResponse(MLFLOW_VERSION)
