"""Use cases of files that clients send to and take from the object store by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.tracking.domain.artifacts import Artifact, check_artifact_path
from services.tracking.handlers.artifacts import Artifacts
from services.tracking.ports.artifacts import ArtifactStore, ArtifactUpload, SentPart
from tessera_kit.rpc.identity import Principal

__all__ = ["Transfers"]

_UPLOAD_SECONDS: Final = 12 * 3600
"""Life of the URLs of an upload's parts: a large file may take hours on a slow line."""


class Transfers:
    """Hands out URLs of the object store that are signed for one file; no byte passes here.

    A URL works until its time is over, also when a grant is taken back meanwhile. Owners are named
    as in `Artifacts`; all methods raise what those of `Artifacts` raise for them.

    Args:
        artifacts: Who knows whose files are meant, and who may use them.
        files: Where they are kept.
    """

    def __init__(self, artifacts: Artifacts, files: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._files = files

    async def begin(
        self, principal: Principal, path: str, parts: int, **owner: str
    ) -> ArtifactUpload:
        """Begin an upload in parts; the file is there when it is completed.

        Raises:
            ArtifactIsDirectory: The path is a folder, or lies below a file.
            InvalidArgument: `parts` is not 1 to 10,000.
        """
        check_artifact_path(path)
        root = await self._artifacts.root(principal, **owner, writing=True)
        return await self._files.begin_upload(root, path, parts, seconds=_UPLOAD_SECONDS)

    async def complete(
        self,
        principal: Principal,
        path: str,
        upload_id: str,
        parts: Sequence[SentPart],
        **owner: str,
    ) -> None:
        """Join the parts of an upload, whose checksums the store compares.

        Raises:
            UploadNotFound: It has ended, or is another file's.
            InvalidArgument: A part is missing, too small, or not what was sent.
            ArtifactIsDirectory: The path became a folder, or lies below a file.
        """
        check_artifact_path(path)
        root = await self._artifacts.root(principal, **owner, writing=True)
        await self._files.complete_upload(root, path, upload_id, parts)

    async def abort(self, principal: Principal, path: str, upload_id: str, **owner: str) -> None:
        """Drop an upload and its parts; does nothing when it has ended."""
        check_artifact_path(path)
        root = await self._artifacts.root(principal, **owner, writing=True)
        await self._files.abort_upload(root, path, upload_id)

    async def upload_url(
        self, principal: Principal, path: str, *, seconds: int, media_type: str, **owner: str
    ) -> str:
        """Return a URL that stores a file by one PUT with this `Content-Type`.

        Raises:
            ArtifactIsDirectory: The path is a folder, or lies below a file.
            InvalidArgument: `seconds` is not 1 to 604,800.
        """
        check_artifact_path(path)
        root = await self._artifacts.root(principal, **owner, writing=True)
        return await self._files.upload_url(root, path, seconds=seconds, media_type=media_type)

    async def download_url(
        self, principal: Principal, path: str, *, seconds: int, **owner: str
    ) -> tuple[str, Artifact]:
        """Return a URL that reads a file, whole or in ranges, and the file.

        Raises:
            ArtifactNotFound: There is no such file.
            InvalidArgument: `seconds` is not 1 to 604,800.
        """
        check_artifact_path(path)
        root = await self._artifacts.root(principal, **owner, writing=False)
        found = await self._files.find(root, path)
        return await self._files.download_url(root, path, seconds=seconds), found
