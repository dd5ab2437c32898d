"""Model versions, files and aliases in SQL."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog.adapters.sql.rows import micros, moment, version_of, version_row
from services.catalog.adapters.sql.tables import ALIASES, FILES, UPLOADS, VERSIONS
from services.catalog.adapters.sql.upsert import upsert
from services.catalog.domain.models import ModelFile, ModelVersion, Upload
from services.catalog.domain.securables import EntityState
from services.catalog.errors import Busy

__all__ = ["SqlVersions"]

_V = VERSIONS.c


class SqlVersions:
    """The `Versions` port."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, model_id: str, version: int, *, lock: bool = False) -> ModelVersion | None:
        """A version in whatever state."""
        query = sa.select(VERSIONS).where(_V.model_id == model_id, _V.version == version)
        found = await self._versions(query.with_for_update() if lock else query)
        return found[0] if found else None

    async def by_id(self, version_id: str, *, lock: bool = False) -> ModelVersion | None:
        """A version by its id."""
        query = sa.select(VERSIONS).where(_V.id == version_id)
        found = await self._versions(query.with_for_update() if lock else query)
        return found[0] if found else None

    async def add(self, version: ModelVersion) -> None:
        """Store a new version."""
        try:
            await self._session.execute(sa.insert(VERSIONS), version_row(version))
        except IntegrityError:
            raise Busy("another version was created at the same time") from None

    async def replace(self, version: ModelVersion) -> None:
        """Store a new state of a version."""
        await self._session.execute(
            sa.update(VERSIONS).where(_V.id == version.id).values(version_row(version))
        )

    async def rename(self, model_id: str, model_name: str) -> None:
        """Give all versions of a model its new name."""
        await self._session.execute(
            sa.update(VERSIONS).where(_V.model_id == model_id).values(model_name=model_name)
        )

    async def remove(self, version_id: str) -> None:
        """Remove a version; files and uploads go by cascade."""
        version = await self.by_id(version_id, lock=True)
        if version is None:
            return
        await self._session.execute(
            sa.delete(ALIASES).where(
                ALIASES.c.model_id == version.model_id, ALIASES.c.version == version.version
            )
        )
        await self._session.execute(sa.delete(VERSIONS).where(_V.id == version_id))

    async def page(self, model_id: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        """Active versions, the newest first."""
        query = sa.select(VERSIONS).where(
            _V.model_id == model_id, _V.state == int(EntityState.ACTIVE)
        )
        if below is not None:
            query = query.where(_V.version < below)
        return await self._versions(query.order_by(_V.version.desc()).limit(limit))

    async def all(self, model_id: str) -> list[ModelVersion]:
        """Every version of a model."""
        return await self._versions(sa.select(VERSIONS).where(_V.model_id == model_id))

    async def deleting(self) -> list[ModelVersion]:
        """Versions being deleted."""
        return await self._versions(
            sa.select(VERSIONS).where(_V.state == int(EntityState.DELETING))
        )

    async def aliases(self, model_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """Aliases by model id."""
        query = sa.select(ALIASES).where(ALIASES.c.model_id.in_(list(model_ids)))
        found: dict[str, dict[str, int]] = {}
        for row in (await self._session.execute(query.order_by(ALIASES.c.alias))).all():
            found.setdefault(row.model_id, {})[row.alias] = row.version
        return found

    async def set_alias(self, model_id: str, alias: str, version: int) -> None:
        """Point an alias at a version."""
        row = {"model_id": model_id, "alias": alias, "version": version}
        await self._session.execute(upsert(self._session, ALIASES, row))

    async def remove_alias(self, model_id: str, alias: str) -> bool:
        """Remove an alias."""
        result = await self._session.execute(
            sa.delete(ALIASES).where(ALIASES.c.model_id == model_id, ALIASES.c.alias == alias)
        )
        return cast("sa.CursorResult[Any]", result).rowcount > 0

    async def files(
        self, version_id: str, *, after: str = "", limit: int | None = None
    ) -> list[ModelFile]:
        """Files with paths above `after`, in order."""
        query = (
            sa.select(FILES)
            .where(FILES.c.version_id == version_id, FILES.c.path > after)
            .order_by(FILES.c.path)
            .limit(limit)
        )
        return [_file(row) for row in (await self._session.execute(query)).all()]

    async def file(self, version_id: str, path: str) -> ModelFile | None:
        """One file."""
        query = sa.select(FILES).where(FILES.c.version_id == version_id, FILES.c.path == path)
        row = (await self._session.execute(query)).one_or_none()
        return None if row is None else _file(row)

    async def put_file(self, version_id: str, file: ModelFile) -> None:
        """Store a file's data."""
        row = {
            "version_id": version_id,
            "path": file.path,
            "size_bytes": file.size_bytes,
            "sha256": file.sha256,
            "modified_at": micros(file.modified_at),
        }
        await self._session.execute(upsert(self._session, FILES, row))

    async def remove_file(self, version_id: str, path: str) -> None:
        """Forget a file."""
        await self._session.execute(
            sa.delete(FILES).where(FILES.c.version_id == version_id, FILES.c.path == path)
        )

    async def uploads(self, version_id: str) -> list[Upload]:
        """Uploads that run."""
        query = sa.select(UPLOADS).where(UPLOADS.c.version_id == version_id)
        return [
            Upload(row.id, row.version_id, row.path, moment(row.started_at))
            for row in (await self._session.execute(query)).all()
        ]

    async def add_upload(self, upload: Upload) -> None:
        """Note an upload that begins."""
        row = {
            "id": upload.id,
            "version_id": upload.version_id,
            "path": upload.path,
            "started_at": micros(upload.started_at),
        }
        await self._session.execute(sa.insert(UPLOADS), row)

    async def remove_upload(self, upload_id: str) -> None:
        """Forget an upload."""
        await self._session.execute(sa.delete(UPLOADS).where(UPLOADS.c.id == upload_id))

    async def forget_uploads(self, before: datetime) -> None:
        """Forget old uploads."""
        await self._session.execute(sa.delete(UPLOADS).where(UPLOADS.c.started_at < micros(before)))

    async def _versions(self, query: sa.Select[tuple[object, ...]]) -> list[ModelVersion]:
        rows = (await self._session.execute(query)).mappings()
        return [version_of(dict(row)) for row in rows]


def _file(row: sa.Row[Any]) -> ModelFile:
    return ModelFile(row.path, row.size_bytes, row.sha256, moment(row.modified_at))
