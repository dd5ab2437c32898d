"""Which files the checkpoints have, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from services.training.adapters.sql.tables import CHECKPOINT_FILE as FILE
from services.training.ports import CheckpointFile
from tessera_kit.store.sql import Database

__all__ = ["SqlCheckpointFiles"]


class SqlCheckpointFiles:
    """`ports.CheckpointFiles` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, job_id: str, attempt: int, step: int, file: CheckpointFile) -> None:
        """Note a stored file; one of the same path is replaced."""
        place = (_of(job_id, attempt, step), FILE.c.path == file.path)
        async with self._database.writers.begin() as session:
            await session.execute(sa.delete(FILE).where(*place))
            await session.execute(
                sa.insert(FILE).values(
                    job_id=job_id,
                    attempt=attempt,
                    step=step,
                    path=file.path,
                    size_bytes=file.size_bytes,
                    sha256=file.sha256,
                )
            )

    async def list(self, job_id: str, attempt: int, step: int) -> Sequence[CheckpointFile]:
        """The files of one checkpoint, by path."""
        query = (
            sa.select(FILE.c.path, FILE.c.size_bytes, FILE.c.sha256)
            .where(_of(job_id, attempt, step))
            .order_by(FILE.c.path)
        )
        async with self._database.sessions() as session:
            return [CheckpointFile(*row) for row in (await session.execute(query)).all()]

    async def steps(self, job_id: str) -> Sequence[tuple[int, int]]:
        """(attempt, step) of every checkpoint with files, in order."""
        query = (
            sa.select(FILE.c.attempt, FILE.c.step)
            .where(FILE.c.job_id == job_id)
            .distinct()
            .order_by(FILE.c.attempt, FILE.c.step)
        )
        async with self._database.sessions() as session:
            return [(attempt, step) for attempt, step in (await session.execute(query)).all()]

    async def drop(self, job_id: str, attempt: int, step: int) -> None:
        """Forget the files of one checkpoint."""
        async with self._database.writers.begin() as session:
            await session.execute(sa.delete(FILE).where(_of(job_id, attempt, step)))


def _of(job_id: str, attempt: int, step: int) -> sa.ColumnElement[bool]:
    return sa.and_(FILE.c.job_id == job_id, FILE.c.attempt == attempt, FILE.c.step == step)
