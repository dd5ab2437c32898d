"""The catalog's five gRPC services, bound to their use cases."""

from __future__ import annotations

from services.catalog.handlers.decisions import Decisions
from services.catalog.handlers.files import Files
from services.catalog.handlers.grants import Grants
from services.catalog.handlers.lineage import Lineage
from services.catalog.handlers.models import Aliases
from services.catalog.handlers.principals import Principals
from services.catalog.handlers.removal import Removal
from services.catalog.handlers.table_data import TableData
from services.catalog.handlers.tables import Tables
from services.catalog.handlers.tokens import Tokens
from services.catalog.handlers.tree import Tree
from services.catalog.handlers.versions import Versions
from services.catalog.servicers.authorization import AuthorizationServicer
from services.catalog.servicers.catalog import CatalogServicer
from services.catalog.servicers.lineage import LineageServicer
from services.catalog.servicers.model import ModelServicer
from services.catalog.servicers.table_data import TableDataServicer
from tessera.catalog.v1 import (
    authorization_service_pb2_grpc,
    catalog_service_pb2_grpc,
    lineage_service_pb2_grpc,
    model_service_pb2_grpc,
    table_data_service_pb2_grpc,
)
from tessera_kit.rpc.server import Binding

__all__ = ["bindings"]


def bindings(
    *,
    tree: Tree,
    tables: Tables,
    removal: Removal,
    versions: Versions,
    aliases: Aliases,
    files: Files,
    principals: Principals,
    tokens: Tokens,
    grants: Grants,
    decisions: Decisions,
    lineage: Lineage,
    table_data: TableData,
) -> tuple[Binding, ...]:
    """The services, each with its servicer."""
    return (
        Binding(
            catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server,
            CatalogServicer(tree, tables, removal, versions),
            "tessera.catalog.v1.CatalogService",
        ),
        Binding(
            model_service_pb2_grpc.add_ModelServiceServicer_to_server,
            ModelServicer(tree, aliases, versions, files, removal),
            "tessera.catalog.v1.ModelService",
        ),
        Binding(
            authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server,
            AuthorizationServicer(principals, tokens, grants, decisions),
            "tessera.catalog.v1.AuthorizationService",
        ),
        Binding(
            lineage_service_pb2_grpc.add_LineageServiceServicer_to_server,
            LineageServicer(lineage),
            "tessera.catalog.v1.LineageService",
        ),
        Binding(
            table_data_service_pb2_grpc.add_TableDataServiceServicer_to_server,
            TableDataServicer(table_data),
            "tessera.catalog.v1.TableDataService",
        ),
    )
