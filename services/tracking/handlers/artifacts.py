"""Use cases of artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.tracking.domain.artifacts import Artifact, check_artifact_path, check_sha256
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.domain.run import RunInfo
from services.tracking.errors import ChecksumMismatch, RunNotActive, RunNotFound
from services.tracking.handlers.access import Access
from services.tracking.ports import ArtifactPage, ArtifactStore, Store
from tessera_kit.rpc.identity import Principal

__all__ = ["Artifacts", "StoredArtifact"]


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What an upload stored."""

    artifact: Artifact
    sha256: str
    """SHA-256 of its content, lower-case hexadecimal."""


class Artifacts:
    """Writes, reads and lists the files of runs; memory stays bounded whatever their size.

    Args:
        store: Where runs are kept.
        files: Where their files are kept.
        access: Who may do what.
    """

    def __init__(self, store: Store, files: ArtifactStore, access: Access) -> None:
        self._store = store
        self._files = files
        self._access = access

    async def upload(
        self,
        principal: Principal,
        *,
        run_id: str,
        path: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
    ) -> StoredArtifact:
        """Store a file, in place of one of that path; nothing is stored when anything fails.

        Raises:
            InvalidArtifactPath: The path leaves the run's artifacts.
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not write it.
            RunNotActive: It was deleted.
            ChecksumMismatch: The content is not what was announced.
            ArtifactIsDirectory: The path is a folder, or lies below a file.
        """
        check_artifact_path(path)
        check_sha256(sha256)
        await self._access.write_run(principal, run_id)
        run = await self._run(run_id)
        if run.stage is not LifecycleStage.ACTIVE:
            raise RunNotActive(run_id)
        content = _Content(chunks, expected=sha256)
        size = await self._files.write(run, path, content.checked())
        return StoredArtifact(Artifact(path, is_directory=False, size=size), content.sha256())

    async def download(
        self, principal: Principal, *, run_id: str, path: str
    ) -> AsyncIterator[bytes]:
        """Return a file's bytes in pieces.

        Raises:
            InvalidArtifactPath: The path leaves the run's artifacts.
            RunNotFound, ArtifactNotFound: There is no such thing.
            PermissionDenied: The caller may not read it.
        """
        check_artifact_path(path)
        await self._access.read_run(principal, run_id)
        return self._files.read(await self._run(run_id), path)

    async def children(
        self, principal: Principal, *, run_id: str, path: str, limit: int, token: str
    ) -> ArtifactPage:
        """Return a page of the files and folders directly below a path.

        Raises:
            InvalidArtifactPath: The path leaves the run's artifacts.
            InvalidArgument: The token was not made by this listing.
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not read it.
        """
        check_artifact_path(path, allow_root=True)
        await self._access.read_run(principal, run_id)
        run = await self._run(run_id)
        return await self._files.children(run, path, limit=limit, token=token)

    async def _run(self, run_id: str) -> RunInfo:
        async with self._store.read() as view:
            run = await view.runs.info(run_id)
        if run is None:
            raise RunNotFound(run_id)
        return run


class _Content:
    """Bytes that are hashed as they pass."""

    def __init__(self, chunks: AsyncIterator[bytes], *, expected: str) -> None:
        self._chunks = chunks
        self._expected = expected
        self._hash = hashlib.sha256()

    async def checked(self) -> AsyncIterator[bytes]:
        """Yield the bytes; raise at their end when they are not the expected ones."""
        async for chunk in self._chunks:
            self._hash.update(chunk)
            yield chunk
        if self._expected and self.sha256() != self._expected:
            raise ChecksumMismatch(
                f"the content's SHA-256 is {self.sha256()}, not the announced {self._expected}"
            )

    def sha256(self) -> str:
        return self._hash.hexdigest()
