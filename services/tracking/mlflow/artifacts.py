"""Artifacts through this server: `mlflow-artifacts:` URIs, and the listings of runs and models."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from services.tracking.domain.artifacts import Artifact
from services.tracking.errors import ArtifactNotFound
from services.tracking.handlers.cases import UseCases
from services.tracking.handlers.version_files import Caller, VersionFiles
from services.tracking.mlflow.calls import Answer, Call, Method, RawMethod
from services.tracking.mlflow.convert import artifact_uri, file_fields, run_artifact_uri
from services.tracking.mlflow.places import Place, Places, safe_path
from services.tracking.mlflow.ranges import Range, range_of
from services.tracking.mlflow.values import run_id_of
from tessera_kit.http.identity import request_token
from tessera_kit.http.status import json_response
from tessera_kit.rpc.identity import Principal, current_principal

__all__ = ["ArtifactMethods", "model_artifact_uri"]

_PAGE: Final = 1000
_MOST_FILES: Final = 100_000


class ArtifactMethods:
    """Answers the rpcs of artifacts.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._artifacts = cases.artifacts
        self._runs = cases.runs
        self._models = cases.models
        self._places = Places(cases)
        self._registry = cases.registry

    def methods(self) -> Mapping[str, Method | RawMethod]:
        """Return who answers which rpc."""
        return {
            "MlflowService/listArtifacts": Method(self._list_of_run, ("run_id",)),
            "MlflowService/listLoggedModelArtifacts": Method(self._list_of_model, ("model_id",)),
            "MlflowArtifactsService/listArtifacts": Method(self._list),
            "MlflowArtifactsService/downloadArtifact": RawMethod(self._download, streams=True),
            "MlflowArtifactsService/uploadArtifact": RawMethod(self._upload, streams=True),
            "MlflowArtifactsService/deleteArtifact": RawMethod(self._delete),
        }

    async def _list_of_run(self, call: Call) -> Answer:
        path = safe_path(call.message.path)
        run = await self._runs.get(call.principal, run_id_of(call.message))
        found = await self._children(call.principal, path, run_id=run.info.run_id)
        return {
            "root_uri": run_artifact_uri(run.info),
            "files": [file_fields(one, one.path) for one in found],
        }

    async def _list_of_model(self, call: Call) -> Answer:
        path = safe_path(call.message.artifact_directory_path)
        model = await self._models.get(call.principal, call.message.model_id)
        found = await self._children(call.principal, path, model_id=model.model_id)
        return {
            "root_uri": model_artifact_uri(model.experiment_id, model.model_id),
            "files": [file_fields(one, one.path) for one in found],
        }

    async def _list(self, call: Call) -> Answer:
        place = await self._places.find(call.principal, call.message.path)
        if place.registered:
            return {"files": await self._children_of_version(call.request, place)}
        found = await self._children(call.principal, place.path, **place.owner)
        # MLflow's server tells names here, its clients put the path before them.
        return {"files": [file_fields(one, one.path.rpartition("/")[2]) for one in found]}

    async def _download(self, request: Request) -> Response:
        principal = current_principal()
        place = await self._places.find(principal, request.path_params["artifact_path"])
        if place.registered:
            chunks = self._version_files().download(
                _caller(request), place.registered, place.version, place.path
            )
            return await _sent(place.path, chunks)
        file = await self._artifacts.find(principal, **place.owner, path=place.path)
        part = range_of(request.headers, file)
        chunks = await self._artifacts.download(
            principal, **place.owner, path=place.path, offset=part.offset, length=part.length
        )
        return await _sent(place.path, chunks, part)

    async def _upload(self, request: Request) -> Response:
        principal = current_principal()
        place = await self._places.changeable(principal, request.path_params["artifact_path"])
        await self._artifacts.upload(
            principal, **place.owner, path=place.path, chunks=request.stream()
        )
        return json_response({})

    async def _delete(self, request: Request) -> Response:
        principal = current_principal()
        place = await self._places.changeable(principal, request.path_params["artifact_path"])
        await self._artifacts.remove(principal, **place.owner, path=place.path)
        return json_response({})

    async def _children_of_version(self, request: Request, place: Place) -> list[dict[str, Any]]:
        files = await self._version_files().of(_caller(request), place.registered, place.version)
        prefix = f"{place.path}/" if place.path else ""
        found: dict[str, Artifact] = {}
        for one in files:
            if one.path.startswith(prefix):
                name, _, below = one.path.removeprefix(prefix).partition("/")
                found.setdefault(name, Artifact(name, is_directory=True) if below else one)
        return [file_fields(found[name], name) for name in sorted(found)]

    def _version_files(self) -> VersionFiles:
        if self._registry is None:
            raise ArtifactNotFound("this server has no registry")
        return self._registry.files

    async def _children(self, principal: Principal, path: str, **owner: str) -> list[Artifact]:
        found: list[Artifact] = []
        token = ""
        while True:
            page = await self._artifacts.children(
                principal, **owner, path=path, limit=_PAGE, token=token
            )
            found += page.artifacts
            token = page.next_token
            if not token or len(found) >= _MOST_FILES:
                return found


def model_artifact_uri(experiment_id: str, model_id: str) -> str:
    """Return the root of a logged model's artifacts."""
    return artifact_uri(f"{experiment_id}/models/{model_id}/artifacts")


def _caller(request: Request) -> Caller:
    return Caller(current_principal(), request_token(request.headers.get("authorization")))


def _media_type(path: str) -> str:
    guessed, encoding = mimetypes.guess_type(path)
    # Pages and pictures with scripts must not run in this server's name.
    if guessed is None or encoding is not None or guessed in {"text/html", "image/svg+xml"}:
        return "application/octet-stream"
    return guessed


def _headers(path: str) -> dict[str, str]:
    name = quote(path.rpartition("/")[2], safe="")
    return {
        "content-disposition": f"attachment; filename*=UTF-8''{name}",
        "x-content-type-options": "nosniff",
    }


async def _sent(path: str, chunks: AsyncIterator[bytes], part: Range | None = None) -> Response:
    """Return a file's bytes as they come; the part of it, where the size is known."""
    # The first piece comes before the status: what is not there must be a 404.
    first = await anext(chunks, b"")
    return StreamingResponse(
        _joined(first, chunks),
        status_code=200 if part is None else part.status,
        media_type=_media_type(path),
        headers={**_headers(path), **({} if part is None else part.headers)},
    )


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
