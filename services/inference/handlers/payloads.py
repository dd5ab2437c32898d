"""The bodies of requests and responses, wherever they are kept, for whoever may read the table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from services.inference.domain.bodies import Side, StoredBody, body_key
from services.inference.errors import BodyNotFound
from services.inference.ports import TableReader, Tables
from tessera.catalog.v1 import securable_pb2
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal
from tessera_kit.store.objects import ObjectNotFound, ObjectStore

__all__ = ["Body", "Payloads"]

_CHUNK_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Body:
    """A body that can be read."""

    size: int
    """Bytes of the whole."""
    is_json: bool
    """Whether it is JSON of the protocol, as the row has it; else the message's own bytes."""
    chunks: AsyncIterator[bytes]
    """The bytes, in pieces of at most 256 KiB."""


class Payloads:
    """Reads bodies of inference tables.

    Args:
        tables: Tells which endpoint's a table is.
        reader: Reads its rows.
        objects: Holds the bodies that are too large for a row.
        authority: What principals may do.
    """

    def __init__(
        self, *, tables: Tables, reader: TableReader, objects: ObjectStore, authority: Authority
    ) -> None:
        self._tables = tables
        self._reader = reader
        self._objects = objects
        self._authority = authority

    async def body(self, caller: Principal, table: str, request_id: str, side: Side) -> Body:
        """The body of a request or of its response; needs SELECT on the table.

        Args:
            caller: Who asks.
            table: The inference table's full name, of a deleted endpoint too.
            request_id: The row's `tessera_request_id`.
            side: Which of the two.

        Raises:
            AccessDenied: The caller may not read the table, or there is none of that name.
            BodyNotFound: The table is no inference table, or has no such row or body.
        """
        await self._authority.require(
            caller, securable_pb2.PRIVILEGE_SELECT, securable_pb2.SECURABLE_TYPE_TABLE, table
        )
        place = await self._tables.table_named(table)
        if place is None:
            raise BodyNotFound(f"{table} is no inference table")
        stored = await self._reader.body(place.table, request_id, side)
        if stored is None:
            raise BodyNotFound(f"{table} has no row of the request {request_id!r}")
        if stored.text:
            data = stored.text.encode()
            return Body(len(data), True, _pieces(data))
        # A stranger's row may name any key; only its own body is read for it.
        key = body_key(place.endpoint_id, stored.day, request_id, side)
        if stored.key != key:
            raise BodyNotFound(_why_missing(stored, table, request_id, side))
        try:
            info = await self._objects.head(key)
        except ObjectNotFound:
            raise BodyNotFound(
                f"the {side.value} of {request_id!r} has left the object store: rows of {table} "
                f"are kept for {place.retention_days} days"
            ) from None
        return Body(info.size, False, self._objects.stream(key))


def _why_missing(stored: StoredBody, table: str, request_id: str, side: Side) -> str:
    codes = f": {', '.join(stored.lacking)}" if stored.lacking else ""
    return f"{table} has no {side.value} of the request {request_id!r}{codes}"


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]
