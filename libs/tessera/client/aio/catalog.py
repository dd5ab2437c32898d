"""Catalogs, schemas, tables and volumes; tags and search."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import grpc
import pyarrow as pa

from tessera.catalog.v1 import (
    catalog_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    securable_pb2,
)
from tessera.client.aio.calls import call
from tessera.client.columns import columns_from_arrow
from tessera_kit.errors import AlreadyExists


class AsyncCatalog:
    """The tree of catalogs, schemas, tables and volumes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = catalog_service_pb2_grpc.CatalogServiceStub(channel)

    async def create_catalog(
        self, name: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Catalog:
        """Creates a catalog; with `exist_ok` returns the one that is there.

        Raises:
            AlreadyExists: The name is taken and `exist_ok` is not set.
            PermissionDenied: The caller lacks CREATE CATALOG.
        """
        request = catalog_service_pb2.CreateCatalogRequest(
            catalog=catalog_pb2.Catalog(name=name, comment=comment)
        )
        try:
            return (await call(self._stub.CreateCatalog, request)).catalog
        except AlreadyExists:
            if not exist_ok:
                raise
            get = catalog_service_pb2.GetCatalogRequest(name=name)
            return (await call(self._stub.GetCatalog, get)).catalog

    async def list_catalogs(self) -> list[catalog_pb2.Catalog]:
        """The catalogs that the caller may see, by name."""
        found: list[catalog_pb2.Catalog] = []
        request = catalog_service_pb2.ListCatalogsRequest(page_size=1000)
        while True:
            page = await call(self._stub.ListCatalogs, request)
            found.extend(page.catalogs)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def delete_catalog(self, name: str, *, force: bool = False) -> None:
        """Deletes a catalog; `force` deletes what it holds as well.

        Raises:
            FailedPrecondition: It is not empty and `force` is not set.
        """
        await call(
            self._stub.DeleteCatalog,
            catalog_service_pb2.DeleteCatalogRequest(name=name, force=force),
        )

    async def create_schema(
        self, full_name: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Schema:
        """Creates the schema "catalog.schema"; with `exist_ok` returns the one that is there."""
        request = catalog_service_pb2.CreateSchemaRequest(
            schema=catalog_pb2.Schema(full_name=full_name, comment=comment)
        )
        try:
            return (await call(self._stub.CreateSchema, request)).schema
        except AlreadyExists:
            if not exist_ok:
                raise
            get = catalog_service_pb2.GetSchemaRequest(full_name=full_name)
            return (await call(self._stub.GetSchema, get)).schema

    async def list_schemas(self, catalog_name: str) -> list[catalog_pb2.Schema]:
        """The schemas of a catalog that the caller may see, by name."""
        found: list[catalog_pb2.Schema] = []
        request = catalog_service_pb2.ListSchemasRequest(catalog_name=catalog_name, page_size=1000)
        while True:
            page = await call(self._stub.ListSchemas, request)
            found.extend(page.schemas)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def delete_schema(self, full_name: str, *, force: bool = False) -> None:
        """Deletes a schema; `force` deletes what it holds as well."""
        request = catalog_service_pb2.DeleteSchemaRequest(full_name=full_name, force=force)
        await call(self._stub.DeleteSchema, request)

    async def create_table(
        self,
        full_name: str,
        columns: pa.Schema | Sequence[catalog_pb2.Column],
        *,
        comment: str = "",
        order_by: Sequence[str] = (),
        partition_by_month_of: str = "",
        exist_ok: bool = False,
    ) -> catalog_pb2.Table:
        """Creates a managed table "catalog.schema.table", kept in ClickHouse.

        Args:
            full_name: The table's three-part name.
            columns: An Arrow schema, or columns with ClickHouse types.
            comment: What the table holds.
            order_by: Columns that rows are ordered by on disk, which hold no nulls; the first ones
                make lookups fast.
            partition_by_month_of: A date or time column that months of data are kept apart by.
            exist_ok: Return the table that is there in place of raising AlreadyExists.
        """
        keys = {*order_by, partition_by_month_of}
        declared = columns_from_arrow(columns, keys) if isinstance(columns, pa.Schema) else columns
        table = catalog_pb2.Table(
            full_name=full_name,
            type=catalog_pb2.TABLE_TYPE_MANAGED,
            columns=declared,
            comment=comment,
            layout=catalog_pb2.TableLayout(
                order_by=order_by, partition_by_month_of=partition_by_month_of
            ),
        )
        return await self._create_table(table, exist_ok)

    async def create_external_table(
        self, full_name: str, storage_location: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Table:
        """Names Parquet files of the object store as a table, read in place.

        Args:
            full_name: The table's three-part name.
            storage_location: Key or glob of the files, such as "volumes/raw/trips/*.parquet".
            comment: What the table holds.
            exist_ok: Return the table that is there in place of raising AlreadyExists.
        """
        table = catalog_pb2.Table(
            full_name=full_name,
            type=catalog_pb2.TABLE_TYPE_EXTERNAL,
            storage_location=storage_location,
            comment=comment,
        )
        return await self._create_table(table, exist_ok)

    async def _create_table(self, table: catalog_pb2.Table, exist_ok: bool) -> catalog_pb2.Table:
        request = catalog_service_pb2.CreateTableRequest(table=table)
        try:
            return (await call(self._stub.CreateTable, request)).table
        except AlreadyExists:
            if not exist_ok:
                raise
            return await self.get_table(table.full_name)

    async def get_table(self, full_name: str) -> catalog_pb2.Table:
        """Reads a table's definition.

        Raises:
            NotFound: There is no such table, or the caller may not see it.
        """
        return (
            await call(
                self._stub.GetTable, catalog_service_pb2.GetTableRequest(full_name=full_name)
            )
        ).table

    async def list_tables(self, schema_full_name: str) -> list[catalog_pb2.Table]:
        """The tables of a schema that the caller may see, by name."""
        found: list[catalog_pb2.Table] = []
        request = catalog_service_pb2.ListTablesRequest(
            schema_full_name=schema_full_name, page_size=1000
        )
        while True:
            page = await call(self._stub.ListTables, request)
            found.extend(page.tables)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def delete_table(self, full_name: str) -> None:
        """Deletes a table and, when it is managed, its rows."""
        await call(
            self._stub.DeleteTable, catalog_service_pb2.DeleteTableRequest(full_name=full_name)
        )

    async def create_volume(
        self, full_name: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Volume:
        """Creates a volume: governed files under one prefix of the object store."""
        request = catalog_service_pb2.CreateVolumeRequest(
            volume=catalog_pb2.Volume(full_name=full_name, comment=comment)
        )
        try:
            return (await call(self._stub.CreateVolume, request)).volume
        except AlreadyExists:
            if not exist_ok:
                raise
            get = catalog_service_pb2.GetVolumeRequest(full_name=full_name)
            return (await call(self._stub.GetVolume, get)).volume

    async def set_tags(
        self,
        type: securable_pb2.SecurableType.ValueType,
        full_name: str,
        tags: Mapping[str, str],
        *,
        remove: Sequence[str] = (),
        model_version: int = 0,
    ) -> dict[str, str]:
        """Sets and removes tags of a governed object; returns all of its tags after that."""
        request = catalog_service_pb2.UpdateTagsRequest(
            securable=securable_pb2.SecurableReference(type=type, full_name=full_name),
            model_version=model_version,
            set=tags,
            remove=remove,
        )
        return dict((await call(self._stub.UpdateTags, request)).tags)

    async def search(
        self,
        query: str = "",
        *,
        types: Sequence[securable_pb2.SecurableType.ValueType] = (),
        limit: int = 1000,
    ) -> list[securable_pb2.Securable]:
        """Finds governed objects by words in their name, comment or tags, at most `limit`."""
        found: list[securable_pb2.Securable] = []
        async for page in self._search_pages(query, types):
            found.extend(page.securables)
            if len(found) >= limit:
                break
        return found[:limit]

    async def _search_pages(
        self, query: str, types: Sequence[securable_pb2.SecurableType.ValueType]
    ) -> AsyncIterator[catalog_service_pb2.SearchSecurablesResponse]:
        request = catalog_service_pb2.SearchSecurablesRequest(
            query=query, types=types, page_size=1000
        )
        while True:
            page = await call(self._stub.SearchSecurables, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
