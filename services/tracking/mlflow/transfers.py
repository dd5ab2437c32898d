"""Files that clients send to and take from the object store by themselves: in parts, by signed URL.

MLflow's clients do so for files from `MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE` on where the
server says that it may be, or `MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD` and `_DOWNLOAD` do.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from typing import Any, Final

from services.tracking.handlers.cases import UseCases
from services.tracking.mlflow.calls import Answer, Call, Method
from services.tracking.mlflow.errors import InvalidParameter, NotOffered
from services.tracking.mlflow.places import Place, Places, safe_path
from services.tracking.ports.artifacts import SentPart

__all__ = ["TransferMethods"]

_UPLOAD_SECONDS: Final = 900
_DOWNLOAD_SECONDS: Final = 300
# Callers tell paths of their own machines, which may have Windows.
_SEPARATOR: Final = re.compile(r"[/\\]")


class TransferMethods:
    """Answers the rpcs of uploads in parts and of signed URLs.

    Args:
        cases: Who does the work.
    """

    def __init__(self, cases: UseCases) -> None:
        self._transfers = cases.transfers
        self._places = Places(cases)

    def methods(self) -> Mapping[str, Method]:
        """Return who answers which rpc."""
        return {
            "MlflowArtifactsService/createMultipartUpload": Method(self._create, ("path",)),
            "MlflowArtifactsService/completeMultipartUpload": Method(
                self._complete, ("path", "upload_id", "parts")
            ),
            "MlflowArtifactsService/abortMultipartUpload": Method(
                self._abort, ("path", "upload_id")
            ),
            "MlflowArtifactsService/getPresignedDownloadUrl": Method(self._download_url),
            "MlflowService/createPresignedUploadUrl": Method(self._upload_url_of, ("path",)),
            "MlflowService/createPresignedDownloadUrl": Method(
                self._download_url_of_run, ("run_id", "path")
            ),
        }

    async def _create(self, call: Call) -> Answer:
        place, path = await self._target(call)
        count = call.message.num_parts
        upload = await self._transfers.begin(call.principal, path, count, **place.owner)
        return {
            "upload_id": upload.upload_id,
            "credentials": [
                {"url": url, "part_number": number, "headers": {}}
                for number, url in enumerate(upload.part_urls, 1)
            ],
        }

    async def _complete(self, call: Call) -> Answer:
        place, path = await self._target(call)
        parts = [SentPart(part.part_number, part.etag.strip('"')) for part in call.message.parts]
        await self._transfers.complete(
            call.principal, path, call.message.upload_id, parts, **place.owner
        )
        return None

    async def _abort(self, call: Call) -> Answer:
        place, path = await self._target(call)
        await self._transfers.abort(call.principal, path, call.message.upload_id, **place.owner)
        return None

    async def _download_url(self, call: Call) -> Answer:
        path = call.request.path_params["artifact_path"]
        place = await self._places.find(call.principal, path)
        if place.registered:
            raise NotOffered(
                "getPresignedDownloadUrl (the catalog keeps files of registered models and "
                "serves them by its grants; download them from /mlflow-artifacts/artifacts)"
            )
        url, file = await self._transfers.download_url(
            call.principal, place.path, seconds=_DOWNLOAD_SECONDS, **place.owner
        )
        return {"url": url, "headers": {}, "file_size": file.size}

    async def _upload_url_of(self, call: Call) -> Answer:
        message = call.message
        if bool(message.run_id) == bool(message.model_id):
            raise InvalidParameter("Exactly one of run_id and model_id must be provided.")
        path = safe_path(message.path)
        media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        url = await self._transfers.upload_url(
            call.principal,
            path,
            seconds=message.expiration if message.HasField("expiration") else _UPLOAD_SECONDS,
            media_type=media_type,
            run_id=message.run_id,
            model_id=message.model_id,
        )
        return {"presigned_url": url, "headers": {"Content-Type": media_type}}

    async def _download_url_of_run(self, call: Call) -> Answer:
        message = call.message
        url, file = await self._transfers.download_url(
            call.principal,
            safe_path(message.path),
            seconds=message.expiration if message.HasField("expiration") else _DOWNLOAD_SECONDS,
            run_id=message.run_id,
        )
        answer: dict[str, Any] = {"presigned_url": url, "headers": {}, "file_size": file.size}
        return answer

    async def _target(self, call: Call) -> tuple[Place, str]:
        """Return the place that the path in the URL names, and the file below its owner.

        The URL names a folder, the message a path of the caller's machine, whose last name counts.
        """
        folder = call.request.path_params["artifact_path"].removesuffix("/")
        name = _SEPARATOR.split(call.message.path)[-1]
        place = await self._places.changeable(call.principal, f"{folder}/{name}")
        return place, place.path
