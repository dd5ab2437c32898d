"""Use cases of artifacts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.tracking.domain.artifacts import (
    Artifact,
    ArtifactRoot,
    check_artifact_path,
    check_sha256,
)
from services.tracking.domain.lifecycle import LifecycleStage
from services.tracking.errors import (
    LoggedModelNotFound,
    RunNotActive,
    RunNotFound,
    TraceNotFound,
)
from services.tracking.handlers.access import Access
from services.tracking.ports.artifacts import ArtifactPage, ArtifactStore
from services.tracking.ports.store import Store
from tessera_kit.rpc.identity import Principal

__all__ = ["Artifacts", "StoredArtifact"]


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What an upload stored."""

    artifact: Artifact
    sha256: str
    """SHA-256 of its content, lower-case hexadecimal."""


class Artifacts:
    """Writes, reads, lists and removes the files of runs, logged models and traces.

    Memory stays bounded whatever their size.

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
        run_id: str = "",
        model_id: str = "",
        trace_id: str = "",
        path: str,
        sha256: str = "",
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
        root = await self.root(principal, run_id, model_id, trace_id, writing=True)
        written = await self._files.write(root, path, chunks, sha256=sha256)
        return StoredArtifact(Artifact(path, is_directory=False, size=written.size), written.sha256)

    async def download(
        self,
        principal: Principal,
        *,
        run_id: str = "",
        model_id: str = "",
        trace_id: str = "",
        path: str,
        offset: int = 0,
        length: int | None = None,
    ) -> AsyncIterator[bytes]:
        """Return a file's bytes in pieces: at most `length` from `offset` on, or all.

        Raises:
            InvalidArtifactPath: The path leaves the run's artifacts.
            RunNotFound, ArtifactNotFound: There is no such thing.
            PermissionDenied: The caller may not read it.
        """
        check_artifact_path(path)
        root = await self.root(principal, run_id, model_id, trace_id)
        return self._files.read(root, path, offset, length)

    async def find(
        self,
        principal: Principal,
        *,
        run_id: str = "",
        model_id: str = "",
        trace_id: str = "",
        path: str,
    ) -> Artifact:
        """Return what is known of a file; raises what `download` does."""
        check_artifact_path(path)
        root = await self.root(principal, run_id, model_id, trace_id)
        return await self._files.find(root, path)

    async def children(
        self,
        principal: Principal,
        *,
        run_id: str = "",
        model_id: str = "",
        trace_id: str = "",
        path: str,
        limit: int,
        token: str,
    ) -> ArtifactPage:
        """Return a page of the files and folders directly below a path.

        Raises:
            InvalidArtifactPath: The path leaves the run's artifacts.
            InvalidArgument: The token was not made by this listing.
            RunNotFound: There is no such run.
            PermissionDenied: The caller may not read it.
        """
        check_artifact_path(path, allow_root=True)
        root = await self.root(principal, run_id, model_id, trace_id)
        return await self._files.children(root, path, limit=limit, token=token)

    async def remove(
        self,
        principal: Principal,
        *,
        run_id: str = "",
        model_id: str = "",
        trace_id: str = "",
        path: str,
    ) -> None:
        """Remove a file, or a folder with all that is in it; what is not there is no error.

        Raises:
            InvalidArtifactPath: The path leaves the artifacts.
            RunNotFound, LoggedModelNotFound: There is no such thing.
            PermissionDenied: The caller may not write it.
        """
        check_artifact_path(path)
        await self._files.remove(
            await self.root(principal, run_id, model_id, trace_id, writing=True), path
        )

    async def root(
        self,
        principal: Principal,
        run_id: str = "",
        model_id: str = "",
        trace_id: str = "",
        *,
        writing: bool = False,
    ) -> ArtifactRoot:
        """Return whose files are meant, when the caller may use them so.

        Raises:
            RunNotFound, LoggedModelNotFound, TraceNotFound: There is no such thing.
            PermissionDenied: The caller may not.
            RunNotActive: It was deleted and would be written.
        """
        if trace_id:
            return await self._root_of_trace(principal, trace_id, writing=writing)
        async with self._store.read() as view:
            run = await view.runs.info(run_id) if run_id else None
            model = await view.models.get(model_id) if model_id else None
        if run is not None:
            owner, stage = f"run {run_id}", run.stage
            prefix = f"{run.experiment_id}/{run_id}/artifacts"
        elif model is not None:
            owner, stage = f"model {model_id}", model.stage
            prefix = f"{model.experiment_id}/models/{model_id}/artifacts"
        else:
            raise RunNotFound(run_id) if run_id else LoggedModelNotFound(model_id)
        experiment_id = prefix.partition("/")[0]
        if not writing:
            await self._access.read(principal, experiment_id)
            return ArtifactRoot(prefix, owner)
        await self._access.write(principal, experiment_id)
        if stage is not LifecycleStage.ACTIVE:
            raise RunNotActive(run_id) if run_id else LoggedModelNotFound(model_id)
        return ArtifactRoot(prefix, owner)

    async def _root_of_trace(
        self, principal: Principal, trace_id: str, *, writing: bool
    ) -> ArtifactRoot:
        async with self._store.read() as view:
            home = (await view.traces.homes([trace_id])).get(trace_id)
        if home is None:
            raise TraceNotFound(trace_id)
        allowed = self._access.write if writing else self._access.read
        await allowed(principal, home)
        return ArtifactRoot(f"{home}/traces/{trace_id}/artifacts", f"trace {trace_id}")
