"""`tessera.catalog.v1.CatalogService`: the tree."""

from __future__ import annotations

from typing import Any

from services.catalog.convert.requests import page_token, place_of, request_key, text_of
from services.catalog.convert.securables import (
    catalog_to_proto,
    changes_of,
    key_from_proto,
    schema_to_proto,
    securable_to_proto,
    table_details_from_proto,
    table_to_proto,
    volume_to_proto,
)
from services.catalog.domain.changes import Draft
from services.catalog.domain.securables import METASTORE, Entity, SecurableKey, SecurableType
from services.catalog.errors import InvalidSecurable, of_field
from services.catalog.handlers.removal import Removal
from services.catalog.handlers.tables import Tables
from services.catalog.handlers.tree import Tree
from services.catalog.handlers.versions import Versions
from tessera.catalog.v1 import catalog_service_pb2 as pb
from tessera.catalog.v1 import catalog_service_pb2_grpc as rpc
from tessera_kit.rpc.identity import current_principal
from tessera_kit.rpc.pages import page_size

__all__ = ["CatalogServicer"]

_T = SecurableType


def _key(kind: SecurableType, full_name: str, field: str) -> SecurableKey:
    return SecurableKey.parse(kind, full_name, field)


def _draft(resource: Any) -> Draft:
    return Draft(resource.comment, dict(resource.tags), resource.owner)


class CatalogServicer(rpc.CatalogServiceServicer):
    """Translates; the use cases are in `handlers`."""

    def __init__(self, tree: Tree, tables: Tables, removal: Removal, versions: Versions) -> None:
        self._tree = tree
        self._tables = tables
        self._removal = removal
        self._versions = versions

    async def CreateCatalog(
        self, request: pb.CreateCatalogRequest, context: Any
    ) -> pb.CreateCatalogResponse:
        """Create a catalog."""
        key = _key(_T.CATALOG, request.catalog.name, "catalog")
        entity = await self._create(key, request.catalog, request)
        return pb.CreateCatalogResponse(catalog=catalog_to_proto(entity))

    async def GetCatalog(
        self, request: pb.GetCatalogRequest, context: Any
    ) -> pb.GetCatalogResponse:
        """Read a catalog."""
        entity = await self._get(_T.CATALOG, request.name)
        return pb.GetCatalogResponse(catalog=catalog_to_proto(entity))

    async def ListCatalogs(
        self, request: pb.ListCatalogsRequest, context: Any
    ) -> pb.ListCatalogsResponse:
        """List catalogs."""
        found, token = await self._children(METASTORE, _T.CATALOG, request)
        return pb.ListCatalogsResponse(
            catalogs=[catalog_to_proto(entity) for entity in found], next_page_token=token
        )

    async def UpdateCatalog(
        self, request: pb.UpdateCatalogRequest, context: Any
    ) -> pb.UpdateCatalogResponse:
        """Change a catalog."""
        key = _key(_T.CATALOG, request.catalog.name, "catalog")
        entity = await self._update(key, request.catalog, request)
        return pb.UpdateCatalogResponse(catalog=catalog_to_proto(entity))

    async def DeleteCatalog(
        self, request: pb.DeleteCatalogRequest, context: Any
    ) -> pb.DeleteCatalogResponse:
        """Delete a catalog."""
        key = _key(_T.CATALOG, request.name, "catalog")
        await self._removal.delete(current_principal(), key, etag=request.etag, force=request.force)
        return pb.DeleteCatalogResponse()

    async def CreateSchema(
        self, request: pb.CreateSchemaRequest, context: Any
    ) -> pb.CreateSchemaResponse:
        """Create a schema."""
        key = _key(_T.SCHEMA, request.schema.full_name, "schema")
        entity = await self._create(key, request.schema, request)
        return pb.CreateSchemaResponse(schema=schema_to_proto(entity))

    async def GetSchema(self, request: pb.GetSchemaRequest, context: Any) -> pb.GetSchemaResponse:
        """Read a schema."""
        entity = await self._get(_T.SCHEMA, request.full_name)
        return pb.GetSchemaResponse(schema=schema_to_proto(entity))

    async def ListSchemas(
        self, request: pb.ListSchemasRequest, context: Any
    ) -> pb.ListSchemasResponse:
        """List a catalog's schemas."""
        parent = _key(_T.CATALOG, request.catalog_name, "catalog")
        found, token = await self._children(parent, _T.SCHEMA, request)
        return pb.ListSchemasResponse(
            schemas=[schema_to_proto(entity) for entity in found], next_page_token=token
        )

    async def UpdateSchema(
        self, request: pb.UpdateSchemaRequest, context: Any
    ) -> pb.UpdateSchemaResponse:
        """Change a schema."""
        key = _key(_T.SCHEMA, request.schema.full_name, "schema")
        entity = await self._update(key, request.schema, request)
        return pb.UpdateSchemaResponse(schema=schema_to_proto(entity))

    async def DeleteSchema(
        self, request: pb.DeleteSchemaRequest, context: Any
    ) -> pb.DeleteSchemaResponse:
        """Delete a schema."""
        key = _key(_T.SCHEMA, request.full_name, "schema")
        await self._removal.delete(current_principal(), key, etag=request.etag, force=request.force)
        return pb.DeleteSchemaResponse()

    async def CreateTable(
        self, request: pb.CreateTableRequest, context: Any
    ) -> pb.CreateTableResponse:
        """Create a table."""
        entity = await self._tables.create(
            current_principal(),
            _key(_T.TABLE, request.table.full_name, "table"),
            _draft(request.table),
            table_details_from_proto(request.table),
            request_key(request),
        )
        return pb.CreateTableResponse(table=table_to_proto(entity))

    async def GetTable(self, request: pb.GetTableRequest, context: Any) -> pb.GetTableResponse:
        """Read a table's definition."""
        entity = await self._get(_T.TABLE, request.full_name)
        return pb.GetTableResponse(table=table_to_proto(entity))

    async def ListTables(
        self, request: pb.ListTablesRequest, context: Any
    ) -> pb.ListTablesResponse:
        """List a schema's tables."""
        parent = _key(_T.SCHEMA, request.schema_full_name, "schema")
        found, token = await self._children(parent, _T.TABLE, request)
        return pb.ListTablesResponse(
            tables=[table_to_proto(entity) for entity in found], next_page_token=token
        )

    async def UpdateTable(
        self, request: pb.UpdateTableRequest, context: Any
    ) -> pb.UpdateTableResponse:
        """Change a table."""
        key = _key(_T.TABLE, request.table.full_name, "table")
        entity = await self._update(key, request.table, request)
        return pb.UpdateTableResponse(table=table_to_proto(entity))

    async def DeleteTable(
        self, request: pb.DeleteTableRequest, context: Any
    ) -> pb.DeleteTableResponse:
        """Delete a table."""
        key = _key(_T.TABLE, request.full_name, "table")
        await self._removal.delete(current_principal(), key, etag=request.etag)
        return pb.DeleteTableResponse()

    async def CreateVolume(
        self, request: pb.CreateVolumeRequest, context: Any
    ) -> pb.CreateVolumeResponse:
        """Create a volume."""
        key = _key(_T.VOLUME, request.volume.full_name, "volume")
        entity = await self._create(key, request.volume, request)
        return pb.CreateVolumeResponse(volume=volume_to_proto(entity))

    async def GetVolume(self, request: pb.GetVolumeRequest, context: Any) -> pb.GetVolumeResponse:
        """Read a volume's definition."""
        entity = await self._get(_T.VOLUME, request.full_name)
        return pb.GetVolumeResponse(volume=volume_to_proto(entity))

    async def ListVolumes(
        self, request: pb.ListVolumesRequest, context: Any
    ) -> pb.ListVolumesResponse:
        """List a schema's volumes."""
        parent = _key(_T.SCHEMA, request.schema_full_name, "schema")
        found, token = await self._children(parent, _T.VOLUME, request)
        return pb.ListVolumesResponse(
            volumes=[volume_to_proto(entity) for entity in found], next_page_token=token
        )

    async def DeleteVolume(
        self, request: pb.DeleteVolumeRequest, context: Any
    ) -> pb.DeleteVolumeResponse:
        """Delete a volume."""
        key = _key(_T.VOLUME, request.full_name, "volume")
        await self._removal.delete(current_principal(), key, etag=request.etag)
        return pb.DeleteVolumeResponse()

    async def UpdateTags(
        self, request: pb.UpdateTagsRequest, context: Any
    ) -> pb.UpdateTagsResponse:
        """Set and remove tags."""
        caller = current_principal()
        key = key_from_proto(request.securable, "securable")
        new, remove = dict(request.set), set(request.remove)
        if not request.model_version:
            entity = await self._tree.update_tags(caller, key, new, remove)
            return pb.UpdateTagsResponse(tags=entity.tags)
        if key.type is not _T.MODEL:
            raise of_field(InvalidSecurable, "model_version", "is for models only")
        view = await self._versions.update_tags(caller, key, request.model_version, new, remove)
        return pb.UpdateTagsResponse(tags=view.version.tags)

    async def SearchSecurables(
        self, request: pb.SearchSecurablesRequest, context: Any
    ) -> pb.SearchSecurablesResponse:
        """Find objects."""
        kinds = {SecurableType(number) for number in request.types if number}
        scope = f"search/{request.query}/{sorted(kinds)}"
        place = place_of(request.page_token, scope)
        after = (text_of(place), int(place[1]) if place else 0)
        page = await self._tree.search(
            current_principal(), request.query, kinds, after, page_size(request.page_size)
        )
        token = ""
        if page.last is not None:
            token = page_token(scope, page.last.key.full_name, int(page.last.key.type))
        return pb.SearchSecurablesResponse(
            securables=[securable_to_proto(entity) for entity in page.items],
            next_page_token=token,
        )

    async def _create(self, key: SecurableKey, resource: Any, request: Any) -> Entity:
        return await self._tree.create(
            current_principal(), key, _draft(resource), request_key(request)
        )

    async def _get(self, kind: SecurableType, full_name: str) -> Entity:
        return await self._tree.get(current_principal(), _key(kind, full_name, kind.label))

    async def _update(self, key: SecurableKey, resource: Any, request: Any) -> Entity:
        changes = changes_of(resource, request.update_mask)
        return await self._tree.update(current_principal(), key, changes)

    async def _children(
        self, parent: SecurableKey, kind: SecurableType, request: Any
    ) -> tuple[tuple[Entity, ...], str]:
        scope = f"{kind.label}/{parent.full_name}"
        after = text_of(place_of(request.page_token, scope))
        page = await self._tree.children(
            current_principal(), parent, kind, after, page_size(request.page_size)
        )
        last = page.last
        return page.items, "" if last is None else page_token(scope, last.key.full_name)
