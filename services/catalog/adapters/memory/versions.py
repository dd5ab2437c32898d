"""Model versions, files and aliases in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from services.catalog.adapters.memory.state import State
from services.catalog.domain.models import ModelFile, ModelVersion, Upload
from services.catalog.domain.securables import EntityState
from services.catalog.errors import Busy

__all__ = ["MemoryVersions"]


class MemoryVersions:
    """The `Versions` port."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def get(self, model_id: str, version: int, *, lock: bool = False) -> ModelVersion | None:
        """A version in whatever state."""
        for found in self._state.versions.values():
            if found.model_id == model_id and found.version == version:
                return found
        return None

    async def by_id(self, version_id: str, *, lock: bool = False) -> ModelVersion | None:
        """A version by its id."""
        return self._state.versions.get(version_id)

    async def add(self, version: ModelVersion) -> None:
        """Store a new version."""
        if await self.get(version.model_id, version.version) is not None:
            raise Busy("another version was created at the same time")
        self._state.versions[version.id] = version

    async def replace(self, version: ModelVersion) -> None:
        """Store a new state of a version."""
        if version.id not in self._state.versions:
            raise KeyError(version.id)
        self._state.versions[version.id] = version

    async def rename(self, model_id: str, model_name: str) -> None:
        """Give all versions of a model its new name."""
        for version in await self.all(model_id):
            self._state.versions[version.id] = replace(version, model_name=model_name)

    async def remove(self, version_id: str) -> None:
        """Remove a version with its files, uploads and aliases."""
        state = self._state
        version = state.versions.pop(version_id, None)
        if version is None:
            return
        for key in [key for key in state.files if key[0] == version_id]:
            del state.files[key]
        for upload in [u for u in state.uploads.values() if u.version_id == version_id]:
            del state.uploads[upload.id]
        for alias, number in list(state.aliases.items()):
            if alias[0] == version.model_id and number == version.version:
                del state.aliases[alias]

    async def page(self, model_id: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        """Active versions, the newest first."""
        found = [
            version
            for version in await self.all(model_id)
            if version.state is EntityState.ACTIVE and (below is None or version.version < below)
        ]
        return sorted(found, key=lambda version: -version.version)[:limit]

    async def all(self, model_id: str) -> list[ModelVersion]:
        """Every version of a model."""
        return [v for v in self._state.versions.values() if v.model_id == model_id]

    async def deleting(self) -> list[ModelVersion]:
        """Versions being deleted."""
        versions = self._state.versions.values()
        return [version for version in versions if version.state is EntityState.DELETING]

    async def aliases(self, model_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """Aliases by model id."""
        found: dict[str, dict[str, int]] = {}
        for (model_id, alias), version in sorted(self._state.aliases.items()):
            if model_id in model_ids:
                found.setdefault(model_id, {})[alias] = version
        return found

    async def set_alias(self, model_id: str, alias: str, version: int) -> None:
        """Point an alias at a version."""
        self._state.aliases[model_id, alias] = version

    async def remove_alias(self, model_id: str, alias: str) -> bool:
        """Remove an alias."""
        return self._state.aliases.pop((model_id, alias), None) is not None

    async def files(
        self, version_id: str, *, after: str = "", limit: int | None = None
    ) -> list[ModelFile]:
        """Files with paths above `after`, in order."""
        found = [
            file
            for (owner, path), file in self._state.files.items()
            if owner == version_id and path > after
        ]
        return sorted(found, key=lambda file: file.path)[:limit]

    async def file(self, version_id: str, path: str) -> ModelFile | None:
        """One file."""
        return self._state.files.get((version_id, path))

    async def put_file(self, version_id: str, file: ModelFile) -> None:
        """Store a file's data."""
        self._state.files[version_id, file.path] = file

    async def remove_file(self, version_id: str, path: str) -> None:
        """Forget a file."""
        self._state.files.pop((version_id, path), None)

    async def uploads(self, version_id: str) -> list[Upload]:
        """Uploads that run."""
        return [u for u in self._state.uploads.values() if u.version_id == version_id]

    async def add_upload(self, upload: Upload) -> None:
        """Note an upload that begins."""
        self._state.uploads[upload.id] = upload

    async def remove_upload(self, upload_id: str) -> None:
        """Forget an upload."""
        self._state.uploads.pop(upload_id, None)

    async def forget_uploads(self, before: datetime) -> None:
        """Forget old uploads."""
        for upload in [u for u in self._state.uploads.values() if u.started_at < before]:
            del self._state.uploads[upload.id]
