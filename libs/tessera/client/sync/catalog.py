"""Catalogs, schemas, tables and volumes; tags and search."""

# Made from tessera.client.aio.catalog by infra/tasks/sync_client.py.
from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from tessera.catalog.v1 import (
    catalog_pb2,
    securable_pb2,
)
from tessera.client.aio.catalog import AsyncCatalog
from tessera.client.portal import Portal


class Catalog:
    """The tree of catalogs, schemas, tables and volumes."""

    def __init__(self, portal: Portal, wrapped: AsyncCatalog) -> None:
        self._portal = portal
        self._wrapped = wrapped

    def create_catalog(
        self, name: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Catalog:
        """Creates a catalog; with `exist_ok` returns the one that is there.

        Raises:
            AlreadyExists: The name is taken and `exist_ok` is not set.
            PermissionDenied: The caller lacks CREATE CATALOG.
        """
        return self._portal.run(
            self._wrapped.create_catalog(name, comment=comment, exist_ok=exist_ok)
        )

    def list_catalogs(self) -> list[catalog_pb2.Catalog]:
        """The catalogs that the caller may see, by name."""
        return self._portal.run(self._wrapped.list_catalogs())

    def delete_catalog(self, name: str, *, force: bool = False) -> None:
        """Deletes a catalog; `force` deletes what it holds as well.

        Raises:
            FailedPrecondition: It is not empty and `force` is not set.
        """
        return self._portal.run(self._wrapped.delete_catalog(name, force=force))

    def create_schema(
        self, full_name: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Schema:
        """Creates the schema "catalog.schema"; with `exist_ok` returns the one that is there."""
        return self._portal.run(
            self._wrapped.create_schema(full_name, comment=comment, exist_ok=exist_ok)
        )

    def list_schemas(self, catalog_name: str) -> list[catalog_pb2.Schema]:
        """The schemas of a catalog that the caller may see, by name."""
        return self._portal.run(self._wrapped.list_schemas(catalog_name))

    def delete_schema(self, full_name: str, *, force: bool = False) -> None:
        """Deletes a schema; `force` deletes what it holds as well."""
        return self._portal.run(self._wrapped.delete_schema(full_name, force=force))

    def create_table(
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
        return self._portal.run(
            self._wrapped.create_table(
                full_name,
                columns,
                comment=comment,
                order_by=order_by,
                partition_by_month_of=partition_by_month_of,
                exist_ok=exist_ok,
            )
        )

    def create_external_table(
        self, full_name: str, storage_location: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Table:
        """Names Parquet files of the object store as a table, read in place.

        Args:
            full_name: The table's three-part name.
            storage_location: Key or glob of the files, such as "volumes/raw/trips/*.parquet".
            comment: What the table holds.
            exist_ok: Return the table that is there in place of raising AlreadyExists.
        """
        return self._portal.run(
            self._wrapped.create_external_table(
                full_name, storage_location, comment=comment, exist_ok=exist_ok
            )
        )

    def get_table(self, full_name: str) -> catalog_pb2.Table:
        """Reads a table's definition.

        Raises:
            NotFound: There is no such table, or the caller may not see it.
        """
        return self._portal.run(self._wrapped.get_table(full_name))

    def list_tables(self, schema_full_name: str) -> list[catalog_pb2.Table]:
        """The tables of a schema that the caller may see, by name."""
        return self._portal.run(self._wrapped.list_tables(schema_full_name))

    def delete_table(self, full_name: str) -> None:
        """Deletes a table and, when it is managed, its rows."""
        return self._portal.run(self._wrapped.delete_table(full_name))

    def create_volume(
        self, full_name: str, *, comment: str = "", exist_ok: bool = False
    ) -> catalog_pb2.Volume:
        """Creates a volume: governed files under one prefix of the object store."""
        return self._portal.run(
            self._wrapped.create_volume(full_name, comment=comment, exist_ok=exist_ok)
        )

    def set_tags(
        self,
        type: securable_pb2.SecurableType.ValueType,
        full_name: str,
        tags: Mapping[str, str],
        *,
        remove: Sequence[str] = (),
        model_version: int = 0,
    ) -> dict[str, str]:
        """Sets and removes tags of a governed object; returns all of its tags after that."""
        return self._portal.run(
            self._wrapped.set_tags(
                type, full_name, tags, remove=remove, model_version=model_version
            )
        )

    def search(
        self,
        query: str = "",
        *,
        types: Sequence[securable_pb2.SecurableType.ValueType] = (),
        limit: int = 1000,
    ) -> list[securable_pb2.Securable]:
        """Finds governed objects by words in their name, comment or tags, at most `limit`."""
        return self._portal.run(self._wrapped.search(query, types=types, limit=limit))
