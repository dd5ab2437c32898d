"""Artifacts through this server: `mlflow-artifacts:` URIs, and the listings of runs and models.

A path is `<experiment>/<run>/artifacts/...`, `<experiment>/models/<model>/artifacts/...`,
`<experiment>/traces/<trace>/artifacts/...`, or, of a version of a registered model,
`registry/<full name>/<version>/...`, which the catalog keeps. What it names must exist and be of
that experiment, and no path leaves it.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from services.tracking.domain.artifacts import Artifact, check_artifact_path
from services.tracking.errors import ArtifactNotFound, InvalidArtifactPath, RegisteredFilesKept
from services.tracking.handlers.cases import UseCases
from services.tracking.handlers.registry import Caller, Registry
from services.tracking.mlflow.calls import Answer, Call, Method, RawMethod
from services.tracking.mlflow.convert import artifact_uri, file_fields, run_artifact_uri
from services.tracking.mlflow.values import run_id_of
from tessera_kit.http.identity import request_token
from tessera_kit.http.status import json_response
from tessera_kit.rpc.identity import Principal, current_principal

__all__ = ["ArtifactMethods", "model_artifact_uri"]

_PAGE: Final = 1000
_MOST_FILES: Final = 100_000
_DRIVE: Final = re.compile(r"(?:^|/)[A-Za-z]:")
_DECODINGS: Final = 3
_MOST_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class _Place:
    """What a path of the artifact store means."""

    experiment_id: str
    path: str
    """Below the artifacts of the run or model; empty for all of them."""
    run_id: str = ""
    model_id: str = ""
    trace_id: str = ""
    registered: str = ""
    """A registered model's full name, for files of a version of it."""
    version: int = 0

    @property
    def owner(self) -> dict[str, str]:
        """Whose artifacts they are, as the use cases take it."""
        return {"run_id": self.run_id, "model_id": self.model_id, "trace_id": self.trace_id}


class ArtifactMethods:
    """Answers the rpcs of artifacts.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._artifacts = cases.artifacts
        self._runs = cases.runs
        self._models = cases.models
        self._traces = cases.traces
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
        path = _safe(call.message.path)
        run = await self._runs.get(call.principal, run_id_of(call.message))
        found = await self._children(call.principal, path, run_id=run.info.run_id)
        return {
            "root_uri": run_artifact_uri(run.info),
            "files": [file_fields(one, one.path) for one in found],
        }

    async def _list_of_model(self, call: Call) -> Answer:
        path = _safe(call.message.artifact_directory_path)
        model = await self._models.get(call.principal, call.message.model_id)
        found = await self._children(call.principal, path, model_id=model.model_id)
        return {
            "root_uri": model_artifact_uri(model.experiment_id, model.model_id),
            "files": [file_fields(one, one.path) for one in found],
        }

    async def _list(self, call: Call) -> Answer:
        place = await self._place(call.principal, call.message.path)
        if place.registered:
            return {"files": await self._children_of_version(call.request, place)}
        found = await self._children(call.principal, place.path, **place.owner)
        # MLflow's server tells names here, its clients put the path before them.
        return {"files": [file_fields(one, one.path.rpartition("/")[2]) for one in found]}

    async def _download(self, request: Request) -> Response:
        principal = current_principal()
        place = await self._place(principal, request.path_params["artifact_path"])
        if place.registered:
            chunks = self._required_registry().download(
                _caller(request), place.registered, place.version, place.path
            )
        else:
            chunks = await self._artifacts.download(principal, **place.owner, path=place.path)
        # The first piece comes before the status: what is not there must be a 404.
        first = await anext(chunks, b"")
        return StreamingResponse(
            _joined(first, chunks), media_type=_media_type(place.path), headers=_headers(place.path)
        )

    async def _upload(self, request: Request) -> Response:
        principal = current_principal()
        place = await self._changeable(principal, request)
        await self._artifacts.upload(
            principal, **place.owner, path=place.path, chunks=request.stream()
        )
        return json_response({})

    async def _delete(self, request: Request) -> Response:
        principal = current_principal()
        place = await self._changeable(principal, request)
        await self._artifacts.remove(principal, **place.owner, path=place.path)
        return json_response({})

    async def _children_of_version(self, request: Request, place: _Place) -> list[dict[str, Any]]:
        files = await self._required_registry().files(
            _caller(request), place.registered, place.version
        )
        prefix = f"{place.path}/" if place.path else ""
        found: dict[str, Artifact] = {}
        for one in files:
            if one.path.startswith(prefix):
                name, _, below = one.path.removeprefix(prefix).partition("/")
                found.setdefault(name, Artifact(name, is_directory=True) if below else one)
        return [file_fields(found[name], name) for name in sorted(found)]

    def _required_registry(self) -> Registry:
        if self._registry is None:
            raise ArtifactNotFound("this server has no registry")
        return self._registry

    async def _changeable(self, principal: Principal, request: Request) -> _Place:
        """Return what a request's path names, when it may be written at all."""
        place = await self._place(principal, request.path_params["artifact_path"])
        if place.registered:
            raise RegisteredFilesKept("files of a registered model's version do not change")
        return place

    async def _place(self, principal: Principal, path: str) -> _Place:
        """Return what a path names, which must be there as it says."""
        place = _place_of(_safe(path))
        if place.registered:
            return place
        if place.run_id:
            owner = (await self._runs.info(principal, place.run_id)).experiment_id
        elif place.trace_id:
            owner = (await self._traces.get(principal, place.trace_id)).experiment_id
        else:
            owner = (await self._models.get(principal, place.model_id)).experiment_id
        if owner != place.experiment_id:
            raise ArtifactNotFound(f"there are no artifacts at '{path}'")
        return place

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


def _safe(path: str) -> str:
    """Return a path that stays where it is, even when it is decoded once more on its way.

    Raises:
        InvalidArtifactPath: It would not.
    """
    path = path.removesuffix("/")
    decoded = path
    for _ in range(_DECODINGS):
        check_artifact_path(decoded, allow_root=True)
        if _DRIVE.search(decoded):
            raise InvalidArtifactPath("the path must not name a drive")
        further = unquote(decoded)
        if further == decoded:
            return path
        decoded = further
    raise InvalidArtifactPath("the path is encoded too many times")


def _place_of(path: str) -> _Place:
    parts = path.split("/")
    if len(parts) >= 3 and parts[0] == "registry" and parts[2].isdecimal():
        name, version = parts[1], int(parts[2][:_MOST_DIGITS])
        return _Place("", "/".join(parts[3:]), registered=name, version=version)
    if len(parts) >= 4 and parts[1] == "models" and parts[3] == "artifacts":
        return _Place(parts[0], "/".join(parts[4:]), model_id=parts[2])
    if len(parts) >= 4 and parts[1] == "traces" and parts[3] == "artifacts":
        return _Place(parts[0], "/".join(parts[4:]), trace_id=parts[2])
    if len(parts) >= 3 and parts[2] == "artifacts":
        return _Place(parts[0], "/".join(parts[3:]), run_id=parts[1])
    raise ArtifactNotFound(
        f"there are no artifacts at '{path}': paths are <experiment>/<run>/artifacts/<path>, "
        "<experiment>/models/<model>/artifacts/<path>, or "
        "<experiment>/traces/<trace>/artifacts/<path>"
    )


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


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
