"""One process at a time: a database held for a purpose, and released however its holder ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tessera_kit.store.sql import Database

__all__ = ["SoleAccess", "sole_access"]

Connect = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class SoleAccess(NamedTuple):
    """How the holder reads and writes; each call is a transaction."""

    read: Connect
    write: Connect


@asynccontextmanager
async def sole_access(
    database: Database, purpose: str, poll_seconds: float = 1.0
) -> AsyncIterator[SoleAccess]:
    """Wait until nobody else holds a database for a purpose, then keep others out.

    The hold ends with the block, with the process however it ends, and with the connection on
    PostgreSQL: what goes through the access given fails from then on.

    Args:
        database: Whose access.
        purpose: Name of what one process at a time may do.
        poll_seconds: How often to ask while another holds it.
    """
    if database.file is not None:
        with await _locked_file(Path(f"{database.file}.{purpose}"), poll_seconds):
            yield SoleAccess(database.reader.connect, database.engine.begin)
        return
    async with database.engine.connect() as connection:
        # The lock belongs to this connection, and everything goes through it: when it breaks, the
        # lock is gone and so is this relay's access.
        lock = sa.text(
            "SELECT pg_try_advisory_lock(hashtext(current_schema()), hashtext(:purpose))"
        )
        while not await connection.scalar(lock, {"purpose": purpose}):
            await connection.rollback()
            await asyncio.sleep(poll_seconds)
        await connection.commit()

        @asynccontextmanager
        async def transaction() -> AsyncIterator[AsyncConnection]:
            async with connection.begin():
                yield connection

        try:
            yield SoleAccess(transaction, transaction)
        finally:
            # Back in the pool it would keep the lock.
            await connection.invalidate()


async def _locked_file(path: Path, poll_seconds: float) -> BinaryIO:
    """Open a file and lock it until it is closed, waiting while another process has it locked."""
    file = path.open("ab")
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            await asyncio.sleep(poll_seconds)
    except BaseException:
        file.close()
        raise
