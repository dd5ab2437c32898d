"""Requests for a workspace are refused: what they carry must not land where everybody's work is."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.tracking.mlflow.errors import WorkspacesDisabled
from tessera_kit.http.routes import Endpoint

__all__ = ["without_workspaces"]

_HEADER: Final = b"x-mlflow-workspace"


def without_workspaces(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that refuses requests for a workspace, as MLflow's server without them."""

    async def checked(request: Request) -> Response:
        for name, value in request.scope["headers"]:
            if name == _HEADER and value.strip():
                raise WorkspacesDisabled(
                    "Workspace APIs are not available: workspaces are not enabled on this server; "
                    "work is kept apart by the catalog's catalogs, schemas and grants"
                )
        return await endpoint(request)

    return checked
