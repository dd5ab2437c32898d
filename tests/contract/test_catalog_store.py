"""One body over both stores of the catalog: what the `Store` port promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.catalog.adapters.sql.tables import METADATA
from services.catalog.convert import events
from services.catalog.domain.details import (
    Column,
    ModelDetails,
    PhysicalTable,
    TableDetails,
    TableLayout,
    TableType,
    VolumeDetails,
)
from services.catalog.domain.models import ModelFile, ModelVersion, Upload, VersionStatus
from services.catalog.domain.principals import Grant
from services.catalog.domain.privileges import Privilege
from services.catalog.domain.securables import METASTORE, Entity, EntityState, SecurableKey
from services.catalog.errors import Busy, SecurableExists
from services.catalog.ports import CommittedChange, RequestRecord, Store
from tessera_kit.config import DatabaseConfig
from tessera_kit.ids import new_etag, new_id
from tessera_kit.store.sql import Database
from tests.catalog_store import NOW, STORES, T, entity, opened_store, people, put
from tests.databases import fresh_sqlite


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(request, tmp_path) as store:
        yield store


def version(model: Entity, number: int) -> ModelVersion:
    return ModelVersion(
        id=new_id(),
        model_id=model.id,
        model_name=model.key.full_name,
        version=number,
        status=VersionStatus.PENDING_REGISTRATION,
        storage_location=f"models/{number}/",
        created_by="admin",
        created_at=NOW,
        updated_at=NOW,
        etag=new_etag(),
        tags={"a": "ä"},
    )


class TestTransactions:
    async def test_without_a_commit_nothing_is_stored(self, store: Store) -> None:
        async with store.write() as tx:
            await tx.entities.add(entity(T.CATALOG, "c"))
            tx.publish(events.access_changed("x"))
        async with store.read() as tx:
            assert await tx.entities.get(SecurableKey(T.CATALOG, "c")) is None

    async def test_a_failure_drops_everything(self, store: Store) -> None:
        with pytest.raises(RuntimeError):
            async with store.write() as tx:
                await tx.entities.add(entity(T.CATALOG, "c"))
                raise RuntimeError
        await put(store, entity(T.CATALOG, "c"))

    async def test_writers_take_turns(self, store: Store) -> None:
        await put(store, entity(T.MODEL, "c.s.m", details=ModelDetails()))
        key = SecurableKey(T.MODEL, "c.s.m")

        async def count_up() -> None:
            async with store.write() as tx:
                model = await tx.entities.get(key, lock=True)
                assert model is not None
                assert isinstance(model.details, ModelDetails)
                await asyncio.sleep(0)
                details = ModelDetails(model.details.next_version + 1)
                await tx.entities.replace(replace(model, details=details))
                await tx.commit()

        await asyncio.gather(*(count_up() for _ in range(8)))
        async with store.read() as tx:
            model = await tx.entities.get(key)
        assert model is not None
        assert model.details == ModelDetails(9)

    async def test_commits_that_concern_decisions_are_told_and_counted(self, store: Store) -> None:
        told: list[CommittedChange] = []
        store.on_commit(
            lambda change: told.append(
                CommittedChange(set(change.keys), change.principals, change.tokens)
            )
        )
        before = await store.revision()
        await put(store, entity(T.CATALOG, "c"))
        assert told[-1].keys == {SecurableKey(T.CATALOG, "c")}
        await people(store, "ada")
        assert told[-1].principals
        assert await store.revision() == before + 2
        async with store.write() as tx:
            await tx.requests.put(RequestRecord("a", "M", "r", b"1", "x", NOW))
            await tx.commit()
        assert (len(told), await store.revision()) == (2, before + 2)


class TestEntities:
    @pytest.mark.parametrize(
        "made",
        [
            entity(T.METASTORE, "metastore"),
            entity(T.CATALOG, "c", comment="it's \\ ä\n", tags={"k'": 'v"', "": "x"}),
            entity(T.SCHEMA, "c.s", state=EntityState.DELETING),
            entity(
                T.TABLE,
                "c.s.t",
                details=TableDetails(
                    TableType.MANAGED,
                    (Column("a", "Int8", "x"), Column("b", "Nullable(String)")),
                    TableLayout(("a",), "d", "v", 7),
                    PhysicalTable("db", "t"),
                ),
            ),
            entity(
                T.TABLE,
                "c.s.e",
                details=TableDetails(TableType.EXTERNAL, (), storage_location="external/*"),
            ),
            entity(T.VOLUME, "c.s.v", details=VolumeDetails("volumes/c/s/v/")),
            entity(T.MODEL, "c.s.m", details=ModelDetails(4)),
            entity(T.JOB, "0190a5c6-0000-7000-8000-000000000000"),
        ],
        ids=lambda made: str(made.key),
    )
    async def test_come_back_as_they_were_stored(self, store: Store, made: Entity) -> None:
        await put(store, made)
        async with store.read() as tx:
            assert await tx.entities.get(made.key) == made

    async def test_names_are_unique_per_kind_in_any_state(self, store: Store) -> None:
        await put(store, entity(T.TABLE, "c.s.x", state=EntityState.CREATING, details=TABLE))
        await put(store, entity(T.VOLUME, "c.s.x", details=VolumeDetails("v/")))
        with pytest.raises(SecurableExists):
            await put(store, entity(T.TABLE, "c.s.x", details=TABLE))

    async def test_children_are_active_ordered_and_paged(self, store: Store) -> None:
        names = ["c.a", "c.b", "c.b2", "c.c"]
        await put(
            store,
            entity(T.CATALOG, "c"),
            *(entity(T.SCHEMA, name) for name in reversed(names)),
            entity(T.SCHEMA, "c.gone", state=EntityState.DELETING),
            entity(T.SCHEMA, "c2.a"),
        )
        async with store.read() as tx:
            parent = SecurableKey(T.CATALOG, "c")
            found = await tx.entities.children(parent, T.SCHEMA, after="", limit=9)
            assert [one.key.full_name for one in found] == names
            found = await tx.entities.children(parent, T.SCHEMA, after="c.b", limit=1)
            assert [one.key.full_name for one in found] == ["c.b2"]
            catalogs = await tx.entities.children(METASTORE, T.CATALOG, after="", limit=9)
            assert [one.key.full_name for one in catalogs] == ["c"]

    async def test_a_subtree_is_deepest_first_and_nobody_elses(self, store: Store) -> None:
        await put(
            store,
            entity(T.CATALOG, "c"),
            entity(T.SCHEMA, "c.s"),
            entity(T.TABLE, "c.s.t", details=TABLE),
            entity(T.MODEL, "c.s.m", details=ModelDetails(), state=EntityState.CREATING),
            entity(T.CATALOG, "c-"),
            entity(T.SCHEMA, "c-.s"),
            entity(T.SCHEMA, "cc.s"),
            entity(T.SCHEMA, "c.s2"),
            entity(T.ENDPOINT, "c"),
        )
        async with store.read() as tx:
            below = await tx.entities.subtree(SecurableKey(T.CATALOG, "c"))
            assert [one.key.full_name for one in below] == ["c.s.m", "c.s.t", "c.s", "c.s2"]
            below = await tx.entities.subtree(SecurableKey(T.SCHEMA, "c.s"))
            assert [one.key.full_name for one in below] == ["c.s.m", "c.s.t"]
            assert await tx.entities.subtree(SecurableKey(T.TABLE, "c.s.t")) == []

    async def test_search_folds_case_and_takes_words_literally(self, store: Store) -> None:
        await put(
            store,
            entity(T.METASTORE, "metastore", comment="flights"),
            entity(T.CATALOG, "flights", comment="STRASSE 100%"),
            entity(T.SCHEMA, "a.b", tags={"Team_X": "Flights"}),
            entity(T.SCHEMA, "a.gone", comment="flights", state=EntityState.DELETING),
        )
        async with store.read() as tx:
            for words, kinds, expected in [
                (["flights"], [], ["a.b", "flights"]),
                (["flights"], [T.CATALOG], ["flights"]),
                (["strasse", "100%"], [], ["flights"]),
                (["100_"], [], []),
                (["team_x"], [], ["a.b"]),
                (["teamyx"], [], []),
                ([], [], ["a.b", "flights"]),
            ]:
                found = await tx.entities.search(words, kinds, after=("", 0), limit=9)
                assert [one.key.full_name for one in found] == expected, words
            found = await tx.entities.search([], [], after=("a.b", int(T.SCHEMA)), limit=9)
            assert [one.key.full_name for one in found] == ["flights"]
            found = await tx.entities.search([], [], after=("a.b", int(T.CATALOG)), limit=9)
            assert [one.key.full_name for one in found] == ["a.b", "flights"]

    async def test_unsettled_and_owned_ones_are_found(self, store: Store) -> None:
        await put(
            store,
            entity(T.CATALOG, "a", owner="ada"),
            entity(T.CATALOG, "b", state=EntityState.CREATING),
            entity(T.SCHEMA, "a.x", owner="ada", state=EntityState.DELETING),
        )
        async with store.read() as tx:
            assert {e.key.full_name for e in await tx.entities.unsettled()} == {"b", "a.x"}
            assert [e.key.full_name for e in await tx.entities.owned_by("ada")] == ["a", "a.x"]


TABLE = TableDetails(TableType.MANAGED, (Column("a", "Int8"),), physical=PhysicalTable("d", "t"))


class TestVersions:
    async def test_come_back_page_by_page(self, store: Store) -> None:
        model = entity(T.MODEL, "c.s.m", details=ModelDetails())
        await put(store, model)
        made = [version(model, number) for number in (1, 2, 3)]
        async with store.write() as tx:
            for one in made:
                await tx.versions.add(one)
            with pytest.raises(Busy):
                await tx.versions.add(version(model, 2))
        async with store.write() as tx:  # what failed was not committed
            for one in made:
                await tx.versions.add(one)
            gone = replace(made[1], state=EntityState.DELETING)
            await tx.versions.replace(gone)
            await tx.commit()
        async with store.read() as tx:
            assert await tx.versions.get(model.id, 1) == made[0]
            assert await tx.versions.by_id(made[2].id) == made[2]
            assert await tx.versions.get(model.id, 9) is None
            assert await tx.versions.page(model.id, below=None, limit=9) == [made[2], made[0]]
            assert await tx.versions.page(model.id, below=3, limit=9) == [made[0]]
            assert len(await tx.versions.all(model.id)) == 3
            assert await tx.versions.deleting() == [gone]

    async def test_follow_their_model_to_another_name(self, store: Store) -> None:
        model, other = entity(T.MODEL, "c.s.m", details=ModelDetails()), entity(T.MODEL, "c.s.o")
        await put(store, model, other)
        await people(store, "ada")
        renamed = replace(model, key=SecurableKey(T.MODEL, "c.t.n"))
        async with store.write() as tx:
            await tx.versions.add(version(model, 1))
            await tx.versions.add(version(other, 1))
            await tx.versions.set_alias(model.id, "a", 1)
            held = Grant(model.key, "ada", Privilege.EXECUTE, "admin", NOW)
            await tx.access.add_grant(model, held)
            await tx.commit()
        async with store.write() as tx:
            with pytest.raises(SecurableExists):
                await tx.entities.rename(replace(model, key=other.key), model.key)
        async with store.write() as tx:
            await tx.entities.rename(renamed, model.key)
            await tx.versions.rename(model.id, "c.t.n")
            await tx.commit()
        async with store.read() as tx:
            assert await tx.entities.get(model.key) is None
            assert await tx.entities.get(renamed.key) == renamed
            schema = SecurableKey(T.SCHEMA, "c.t")
            assert await tx.entities.children(schema, T.MODEL, after="", limit=9) == [renamed]
            assert [one.model_name for one in await tx.versions.all(model.id)] == ["c.t.n"]
            assert [one.model_name for one in await tx.versions.all(other.id)] == ["c.s.o"]
            assert await tx.versions.aliases([model.id]) == {model.id: {"a": 1}}
            assert await tx.access.grants(renamed.key) == [replace(held, key=renamed.key)]
            assert set(await tx.access.nodes([model.key, renamed.key])) == {renamed.key}

    async def test_files_uploads_and_aliases_go_with_them(self, store: Store) -> None:
        model = entity(T.MODEL, "c.s.m", details=ModelDetails())
        await put(store, model)
        one, two = version(model, 1), version(model, 2)
        file = ModelFile("a/b", 5, "00", NOW)
        async with store.write() as tx:
            for made in (one, two):
                await tx.versions.add(made)
                await tx.versions.put_file(made.id, file)
                await tx.versions.put_file(made.id, replace(file, size_bytes=6))
                await tx.versions.put_file(made.id, replace(file, path="a/a"))
                await tx.versions.add_upload(Upload(f"u{made.version}", made.id, "x", NOW))
                await tx.versions.set_alias(model.id, f"alias{made.version}", made.version)
            await tx.versions.set_alias(model.id, "both", 2)
            await tx.versions.set_alias(model.id, "both", 1)
            await tx.commit()
        async with store.read() as tx:
            found = await tx.versions.files(one.id)
            assert [(f.path, f.size_bytes) for f in found] == [("a/a", 5), ("a/b", 6)]
            assert await tx.versions.files(one.id, after="a/a", limit=1) == found[1:]
            assert await tx.versions.file(one.id, "a/a") == found[0]
            assert await tx.versions.file(one.id, "none") is None
            aliases = {"alias1": 1, "alias2": 2, "both": 1}
            assert await tx.versions.aliases([model.id, "other"]) == {model.id: aliases}
        async with store.write() as tx:
            await tx.versions.remove(one.id)
            await tx.versions.remove("unknown")
            assert await tx.versions.remove_alias(model.id, "none") is False
            await tx.commit()
        async with store.read() as tx:
            assert await tx.versions.aliases([model.id]) == {model.id: {"alias2": 2}}
            assert await tx.versions.files(one.id) == []
            assert await tx.versions.uploads(one.id) == []
            assert len(await tx.versions.uploads(two.id)) == 1
        async with store.write() as tx:
            await tx.entities.remove(model)
            await tx.commit()
        async with store.read() as tx:
            assert await tx.versions.all(model.id) == []
            assert await tx.versions.files(two.id) == []
            assert await tx.versions.aliases([model.id]) == {}

    async def test_old_uploads_are_forgotten(self, store: Store) -> None:
        model = entity(T.MODEL, "c.s.m", details=ModelDetails())
        await put(store, model)
        made = version(model, 1)
        async with store.write() as tx:
            await tx.versions.add(made)
            for hours in (0, 2):
                upload = Upload(f"u{hours}", made.id, f"{hours}", NOW + timedelta(hours=hours))
                await tx.versions.add_upload(upload)
            await tx.versions.forget_uploads(NOW + timedelta(hours=1))
            await tx.versions.remove_upload("unknown")
            await tx.commit()
        async with store.read() as tx:
            assert [upload.id for upload in await tx.versions.uploads(made.id)] == ["u2"]


async def test_the_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    declared = DatabaseConfig(f"sqlite+aiosqlite:///{tmp_path / 'declared.db'}")
    migrated = await fresh_sqlite(tmp_path, "catalog")
    async with Database(declared) as database, database.engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    assert await shape(migrated) == await shape(declared)


async def shape(config: DatabaseConfig) -> dict[str, object]:
    def describe(connection: sa.Connection) -> dict[str, object]:
        inspector = sa.inspect(connection)
        return {
            table: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
                inspector.get_pk_constraint(table)["constrained_columns"],
                sorted(
                    (str(i["name"]), i["column_names"], i["unique"])
                    for i in inspector.get_indexes(table)
                ),
                sorted(
                    (f["constrained_columns"], f["referred_table"], f["options"])
                    for f in inspector.get_foreign_keys(table)
                ),
            )
            for table in inspector.get_table_names()
            if table != "alembic_version"
        }

    async with Database(config) as database, database.engine.connect() as connection:
        return await connection.run_sync(describe)
