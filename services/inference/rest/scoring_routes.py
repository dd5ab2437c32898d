"""MLflow's scoring on the gateway: `/invocations` of each endpoint, and whether it answers."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from services.inference.gateway.descriptions import Descriptions
from services.inference.rest.answering import HttpInference
from services.inference.rest.errors import scoring_error
from services.inference.rest.oip_routes import UNBOUNDED
from services.inference.rest.scoring import ScoringDialect
from tessera_kit.http.identity import request_token
from tessera_kit.http.routes import Endpoint, HttpRoute

__all__ = ["scoring_routes"]

_NAME: Final = "mlflow.Scoring"
_ROOTS: Final = ("/serving-endpoints/{name}", "/endpoints/{name}")
"""Where Databricks' clients ask, and where MLflow's do."""


def scoring_routes(inference: HttpInference, descriptions: Descriptions) -> Sequence[HttpRoute]:
    """Return the routes."""
    dialect = ScoringDialect()

    async def invocations(request: Request) -> Response:
        return await inference.answer(request, dialect, request.path_params["name"])

    async def alive(_: Request) -> Response:
        return PlainTextResponse("\n")

    async def version(_: Request) -> Response:
        told: str = descriptions.server().version
        return PlainTextResponse(told)

    async def ready(request: Request) -> Response:
        token = request_token(request.headers.get("authorization"))
        if await descriptions.is_ready(request.path_params["name"], "", token):
            return PlainTextResponse("\n")
        return PlainTextResponse("\n", HTTPStatus.NOT_FOUND)

    def route(method: str, path: str, endpoint: Endpoint, rpc: str, *, open: bool) -> HttpRoute:
        most = UNBOUNDED if method == "POST" else None
        return HttpRoute(
            *(method, path, endpoint, f"{_NAME}/{rpc}"),
            open=open,
            max_body_bytes=most,
            render=scoring_error,
        )

    return [
        route("GET", "/ping", alive, "ping", open=True),
        route("GET", "/health", alive, "ping", open=True),
        route("GET", "/version", version, "version", open=True),
        *(
            one
            for root in _ROOTS
            for one in (
                route("POST", f"{root}/invocations", invocations, "invocations", open=True),
                route("GET", f"{root}/ping", ready, "ready", open=False),
                route("GET", f"{root}/health", ready, "ready", open=False),
                route("GET", f"{root}/version", version, "version", open=False),
            )
        ),
    ]
