"""Tables: the catalog's row and the engine's storage stay in step, whatever fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from services.catalog.domain.arrow_rows import block_bytes
from services.catalog.domain.changes import Draft
from services.catalog.domain.details import (
    Column,
    PhysicalTable,
    TableDetails,
    TableLayout,
    TableType,
)
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import EntityState
from services.catalog.domain.tables import TableDefinition
from services.catalog.errors import (
    FilesUnreadable,
    InvalidColumn,
    InvalidLayout,
    InvalidLocation,
    PrivilegeMissing,
    SecurableExists,
    SecurableNotFound,
    StorageUnavailable,
)
from services.catalog.handlers.requests import NO_REQUEST, RequestKey
from tests.catalog_world import COLUMNS, World, catalog, schema, table, volume
from tests.helpers import eventually

FLIGHTS = table("main.default.flights")
ROWS = pa.table({"id": [1, 2], "note": ["a", None]})
PHYSICAL = PhysicalTable("tessera_main__default", "flights")


async def test_a_managed_table_has_its_place_in_clickhouse(world: World) -> None:
    made = await world.make(FLIGHTS)
    assert isinstance(made.details, TableDetails)
    assert made.details.physical == PHYSICAL
    assert made.details.layout.order_by == ("id",)
    assert PHYSICAL in world.engine.tables


@pytest.mark.parametrize(
    ("details", "error"),
    [
        (TableDetails(TableType.MANAGED, ()), InvalidColumn),
        (TableDetails(TableType.MANAGED, (Column("a", "Int8) x"),)), InvalidColumn),
        (TableDetails(TableType.MANAGED, COLUMNS, TableLayout(("no",))), InvalidLayout),
        (TableDetails(TableType.MANAGED, COLUMNS, storage_location="x"), InvalidLocation),
    ],
)
async def test_a_definition_that_is_not_accepted_leaves_nothing(
    world: World, details: TableDetails, error: type[Exception]
) -> None:
    admin = await world.admin()
    with pytest.raises(error):
        await world.cases.tables.create(admin, FLIGHTS, Draft(), details, NO_REQUEST)
    assert FLIGHTS not in world.store.state.entities
    assert world.engine.tables == {}


async def test_an_engine_that_does_not_answer_leaves_the_name_free(world: World) -> None:
    world.engine.available = False
    with pytest.raises(StorageUnavailable):
        await world.make(FLIGHTS, request=RequestKey("CreateTable", "r", b"1"))
    with pytest.raises(SecurableNotFound):
        await world.cases.tree.get(await world.admin(), FLIGHTS)
    assert world.told().count("SecurableCreated") == 3  # those of the first start
    world.engine.available = True
    made = await world.make(FLIGHTS, request=RequestKey("CreateTable", "r", b"1"))
    assert made.active


class Crash(BaseException):
    """The process ends here: no handler of ours runs after it."""


async def crashed(world: World, before: bool) -> None:
    """Create a table in a process that dies before or after the engine made it."""
    create = world.engine.create

    async def die(physical: PhysicalTable, definition: TableDefinition) -> None:
        if not before:
            await create(physical, definition)
        # What was committed by now is all that a crash leaves.
        left = world.store.state.copy()
        world.store.write = None  # type: ignore[assignment]
        world.store.state = left
        raise Crash

    world.engine.create = die  # type: ignore[method-assign]
    with pytest.raises(Crash):
        await world.make(FLIGHTS, request=RequestKey("CreateTable", "r", b"1"))
    world.engine.create = create  # type: ignore[method-assign]
    del world.store.write
    world.restart()


@pytest.mark.parametrize("before", [True, False])
class TestCrashes:
    async def test_a_half_made_table_is_seen_by_nobody(self, world: World, before: bool) -> None:
        await crashed(world, before)
        assert world.store.state.entities[FLIGHTS].state is EntityState.CREATING
        with pytest.raises(SecurableNotFound):
            await world.cases.tree.get(await world.admin(), FLIGHTS)

    async def test_the_next_start_gives_it_up(self, world: World, before: bool) -> None:
        await crashed(world, before)
        await world.cases.reconciler.at_start()
        assert FLIGHTS not in world.store.state.entities
        assert world.engine.tables == {}

    async def test_the_same_request_makes_it(self, world: World, before: bool) -> None:
        await crashed(world, before)
        made = await world.make(FLIGHTS, request=RequestKey("CreateTable", "r", b"1"))
        assert made.active
        assert list(world.engine.tables) == [PHYSICAL]
        await world.cases.reconciler.at_start()
        assert list(world.engine.tables) == [PHYSICAL]


async def test_a_deletion_is_finished_when_the_engine_is_back(world: World) -> None:
    await world.make(FLIGHTS)
    world.engine.available = False
    await world.cases.removal.delete(await world.admin(), FLIGHTS)
    with pytest.raises(SecurableNotFound):
        await world.cases.tree.get(await world.admin(), FLIGHTS)
    assert PHYSICAL in world.engine.tables
    await world.cases.reconciler.at_start()  # still away: nothing is lost
    world.engine.available = True
    await world.cases.reconciler.at_start()
    assert world.engine.tables == {}
    assert FLIGHTS not in world.store.state.entities


async def test_a_name_being_given_up_is_taken_over_with_an_empty_table(world: World) -> None:
    await world.make(FLIGHTS)
    await world.engine.insert(PHYSICAL, ["id"], block_bytes(pa.table({"id": [1]})), token="t")
    world.engine.available = False
    await world.cases.removal.delete(await world.admin(), FLIGHTS)
    world.engine.available = True
    made = await world.make(FLIGHTS)
    assert made.active
    assert world.engine.tables[PHYSICAL] is None
    await world.cases.reconciler.at_start()
    assert PHYSICAL in world.engine.tables


async def test_a_creation_that_runs_is_not_given_up(world: World) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    create = world.engine.create

    async def slow(physical: PhysicalTable, definition: TableDefinition) -> None:
        begun.set()
        await go_on.wait()
        await create(physical, definition)

    world.engine.create = slow  # type: ignore[method-assign]
    making = asyncio.create_task(world.make(FLIGHTS))
    await begun.wait()
    await world.cases.reconciler.settle(timedelta(minutes=3))
    go_on.set()
    assert (await making).active
    assert PHYSICAL in world.engine.tables


async def test_of_two_creations_of_one_name_one_wins(world: World) -> None:
    results = await asyncio.gather(*(world.make(FLIGHTS) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, SecurableExists) for result in results) == 3
    assert PHYSICAL in world.engine.tables


async def test_a_schema_deleted_under_a_creation_leaves_no_storage(world: World) -> None:
    await world.make(schema("main.a"))
    begun, go_on = asyncio.Event(), asyncio.Event()
    create = world.engine.create

    async def slow(physical: PhysicalTable, definition: TableDefinition) -> None:
        begun.set()
        await go_on.wait()
        await create(physical, definition)

    world.engine.create = slow  # type: ignore[method-assign]
    making = asyncio.create_task(world.make(table("main.a.t")))
    await begun.wait()
    admin = await world.admin()
    deleting = asyncio.create_task(world.cases.removal.delete(admin, schema("main.a"), force=True))
    await eventually(lambda: not world.store.state.entities[schema("main.a")].active)
    go_on.set()
    with pytest.raises(Exception, match="being created or deleted"):
        await making
    await deleting
    assert world.engine.tables == {}
    assert schema("main.a") not in world.store.state.entities


class TestExternal:
    DETAILS = TableDetails(TableType.EXTERNAL, COLUMNS, storage_location="external/a/*.parquet")

    async def test_lies_below_an_allowed_prefix_or_in_a_readable_volume(self, world: World) -> None:
        admin, tables = await world.admin(), world.cases.tables
        made = await tables.create(admin, FLIGHTS, Draft(), self.DETAILS, NO_REQUEST)
        assert isinstance(made.details, TableDetails)
        assert made.details.physical is None
        for location in ("models/main/default/m/1/x.parquet", "volumes/main/default/raw/x.parquet"):
            details = replace(self.DETAILS, storage_location=location)
            with pytest.raises(InvalidLocation):
                await tables.create(admin, table("main.default.x"), Draft(), details, NO_REQUEST)

    async def test_a_volume_must_be_readable_by_the_creator(self, world: World) -> None:
        ada, tables = await world.user("ada"), world.cases.tables
        await world.make(volume("main.default.raw"))
        await world.grant(
            "ada", catalog("main"), Privilege.USE_CATALOG, Privilege.USE_SCHEMA,
            Privilege.CREATE_TABLE, Privilege.CREATE_EXTERNAL_TABLE,
        )  # fmt: skip
        inside = replace(self.DETAILS, storage_location="volumes/main/default/raw/*.parquet")
        with pytest.raises(InvalidLocation, match="volume that you may read"):
            await tables.create(ada, FLIGHTS, Draft(), inside, NO_REQUEST)
        await world.grant("ada", volume("main.default.raw"), Privilege.READ_VOLUME)
        for outside in ("volumes/main/default/r*/x", "volumes/main/default/raw*", "volumes/*/x"):
            details = replace(self.DETAILS, storage_location=outside)
            with pytest.raises(InvalidLocation):
                await tables.create(ada, FLIGHTS, Draft(), details, NO_REQUEST)
        await tables.create(ada, FLIGHTS, Draft(), inside, NO_REQUEST)
        edge = world.store.events[-1].data.edges[0]  # type: ignore[attr-defined]
        assert (edge.source.name, edge.target.name) == ("main.default.raw", FLIGHTS.full_name)

    async def test_needs_its_own_privilege(self, world: World) -> None:
        ada = await world.user("ada")
        await world.grant(
            "ada", catalog("main"),
            Privilege.USE_CATALOG, Privilege.USE_SCHEMA, Privilege.CREATE_TABLE,
        )  # fmt: skip
        with pytest.raises(PrivilegeMissing, match="CREATE EXTERNAL TABLE"):
            await world.cases.tables.create(ada, FLIGHTS, Draft(), self.DETAILS, NO_REQUEST)

    async def test_files_tell_the_columns_that_are_not_given(self, world: World) -> None:
        admin, tables = await world.admin(), world.cases.tables
        untold = replace(self.DETAILS, columns=())
        with pytest.raises(FilesUnreadable):
            await tables.create(admin, FLIGHTS, Draft(), untold, NO_REQUEST)
        world.engine.files["external/a/*.parquet"] = (COLUMNS, ROWS)
        made = await tables.create(admin, FLIGHTS, Draft(), untold, NO_REQUEST)
        assert isinstance(made.details, TableDetails)
        assert made.details.columns == COLUMNS

    async def test_has_no_layout(self, world: World) -> None:
        details = replace(self.DETAILS, layout=TableLayout(("id",)))
        with pytest.raises(InvalidLayout):
            await world.cases.tables.create(
                await world.admin(), FLIGHTS, Draft(), details, NO_REQUEST
            )
