"""Rows in and out: grants, idempotence, and bytes that are not what they should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pyarrow as pa
import pytest

from services.catalog.domain.details import PhysicalTable
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.rows import Operator, OrderTerm, Predicate, RowQuery
from services.catalog.errors import (
    InvalidPredicate,
    InvalidUpload,
    LimitReached,
    NotManaged,
    PrivilegeMissing,
    SchemaMismatch,
    SecurableNotFound,
    StorageUnavailable,
)
from tests.catalog_world import World, bytes_of, let_pass, table

NOTES = table("main.default.notes")


def stream(rows: pa.Table, batch_rows: int = 1000) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=batch_rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def notes(count: int, start: int = 0) -> pa.Table:
    ids = list(range(start, start + count))
    return pa.table({"id": pa.array(ids, pa.int64()), "note": [f"n{i}" for i in ids]})


async def split(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def append(world: World, data: bytes, request_id: str = "", size: int = 4096) -> int:
    admin = await world.admin()
    return await world.cases.table_data.append(admin, NOTES, request_id, split(data, size))


async def read(world: World, query: RowQuery) -> list[dict[str, object]]:
    pieces = await world.cases.table_data.read(await world.admin(), NOTES, query)
    data = b"".join([piece async for piece in pieces])
    rows: list[dict[str, object]] = pa.ipc.open_stream(data).read_all().to_pylist()
    return rows


async def count(world: World) -> int:
    return await world.cases.table_data.count(await world.admin(), NOTES, RowQuery())


@pytest.fixture
async def filled(world: World) -> World:
    await world.make(NOTES)
    assert await append(world, stream(notes(10))) == 10
    return world


class TestReading:
    async def test_gives_columns_rows_and_order_asked_for(self, filled: World) -> None:
        query = RowQuery(
            ("note",),
            (Predicate("id", Operator.GREATER, (6.0,)),),
            (OrderTerm("id", descending=True),),
            2,
        )
        assert await read(filled, query) == [{"note": "n9"}, {"note": "n8"}]

    async def test_needs_select(self, filled: World) -> None:
        ada, data = await filled.user("ada"), filled.cases.table_data
        with pytest.raises(SecurableNotFound):
            await data.read(ada, NOTES, RowQuery())
        await let_pass(filled, "ada", [Privilege.BROWSE])
        with pytest.raises(PrivilegeMissing, match="SELECT"):
            await data.count(ada, NOTES, RowQuery())
        await filled.grant("ada", NOTES, Privilege.SELECT)
        assert await data.count(ada, NOTES, RowQuery()) == 10
        with pytest.raises(PrivilegeMissing, match="MODIFY"):
            await data.append(ada, NOTES, "", bytes_of(b""))

    async def test_of_an_unknown_column_is_refused(self, filled: World) -> None:
        with pytest.raises(InvalidPredicate):
            await read(filled, RowQuery(("nope",)))


class TestAppending:
    @pytest.mark.parametrize("size", [1, 7, 1 << 20])
    async def test_takes_bytes_in_pieces_of_any_size(self, world: World, size: int) -> None:
        await world.make(NOTES)
        assert await append(world, stream(notes(25), batch_rows=10), size=size) == 25
        assert [row["id"] for row in await read(world, RowQuery())] == list(range(25))

    async def test_again_under_the_same_id_writes_nothing(self, filled: World) -> None:
        for _ in range(3):
            assert await append(filled, stream(notes(5, 100)), "r1") == 5
        assert await count(filled) == 15
        assert await append(filled, stream(notes(5, 100)), "r2") == 5
        assert await append(filled, stream(notes(5, 100))) == 5
        assert await count(filled) == 25

    async def test_that_failed_midway_writes_what_is_missing(self, world: World) -> None:
        await world.make(NOTES)
        rows = notes(200_000)
        insert, calls = world.engine.insert, 0

        async def fails_once(
            physical: PhysicalTable, columns: Sequence[str], block: bytes, *, token: str
        ) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise StorageUnavailable("gone for a moment")
            await insert(physical, columns, block, token=token)

        world.engine.insert = fails_once  # type: ignore[method-assign]
        with pytest.raises(StorageUnavailable):
            await append(world, stream(rows, 30_000), "r1", 1 << 20)
        assert 0 < await count(world) < 200_000
        assert await append(world, stream(rows, 7_000), "r1", 1 << 20) == 200_000
        found = await read(world, RowQuery(("id",)))
        assert [row["id"] for row in found] == list(range(200_000))

    async def test_of_rows_that_do_not_fit_names_the_columns(self, filled: World) -> None:
        with pytest.raises(SchemaMismatch) as failure:
            await append(filled, stream(pa.table({"id": ["x"], "other": [1]})))
        assert {fault.field for fault in failure.value.violations} == {"id", "other"}
        assert await count(filled) == 10

    async def test_to_files_is_refused(self, world: World) -> None:
        from services.catalog.domain.changes import Draft
        from services.catalog.handlers.requests import NO_REQUEST
        from tests.unit.catalog.test_catalog_tables import TestExternal

        admin = await world.admin()
        await world.cases.tables.create(admin, NOTES, Draft(), TestExternal.DETAILS, NO_REQUEST)
        with pytest.raises(NotManaged):
            await append(world, stream(notes(1)))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"some text that is no Arrow",
            b"\xff\xff\xff\xff\x10\x00\x00\x00" + b"\x00" * 16,
            stream(notes(5))[:-40],
            stream(notes(5))[:100],
        ],
        ids=["nothing", "text", "zeros", "cut in a batch", "cut in the schema"],
    )
    async def test_of_what_is_no_arrow_stream_is_refused(self, filled: World, data: bytes) -> None:
        with pytest.raises((InvalidUpload, LimitReached)):
            await append(filled, data)

    async def test_of_an_announced_monster_is_refused_before_it_is_read(
        self, filled: World
    ) -> None:
        """A batch that says to have gigabytes: the length is read, the bytes never are."""
        data = bytearray(stream(notes(100_000), 100_000))
        body = (800_000).to_bytes(8, "little")
        assert body in data
        monster = bytes(data).replace(body, (1 << 40).to_bytes(8, "little"))
        pulled = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal pulled
            async for piece in split(monster + b"\0" * 1000, 4096):
                pulled += len(piece)
                yield piece

        with pytest.raises((LimitReached, InvalidUpload)):
            await filled.cases.table_data.append(await filled.admin(), NOTES, "", counted())
        assert pulled <= len(monster) + 1000

    async def test_that_is_cancelled_ends_its_thread(self, filled: World) -> None:
        waiting = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield stream(notes(5))[:50]
            waiting.set()
            await asyncio.Event().wait()

        admin = await filled.admin()
        task = asyncio.create_task(filled.cases.table_data.append(admin, NOTES, "", endless()))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
